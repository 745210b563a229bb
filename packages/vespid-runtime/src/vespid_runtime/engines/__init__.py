"""What answers the prompts of sessions and of `agent.run`. Each engine is a module; `engine.py` is what they share."""
