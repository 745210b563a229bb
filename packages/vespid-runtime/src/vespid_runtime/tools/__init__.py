"""What models may call. `tool.py` is what every tool is, `toolbox.py` a set of them; each kind is a module."""
