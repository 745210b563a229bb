"""The docker backend: shell tasks in hardened containers, through the engine's own API."""
