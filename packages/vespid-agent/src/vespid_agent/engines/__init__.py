"""The engines of this agent. `installed.py` makes the list of them; each kind of its own is a module."""
