"""What the agent can do: one module per kind of request, each from a payload to an outcome."""
