"""The HTTP API on 3001: one module per noun, each with its `routes`; `app` puts them together."""
