"""Skills: folders on this machine that become tools of models. The rest of the agent meets them in `library.py`."""
