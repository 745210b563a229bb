"""The agent loop `vespid.loop.v1`: what to ask a model, which tools to call, and when it is over.

Pure: no I/O and no clock. `machine.py` has the story.
"""
