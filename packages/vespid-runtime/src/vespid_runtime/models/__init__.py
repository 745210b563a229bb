"""Language models behind one face. Each provider is a module over its official SDK; `types.py` is what they share."""
