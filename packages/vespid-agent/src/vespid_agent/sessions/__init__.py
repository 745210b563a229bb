"""Sessions that live on this agent: copies of their history, their turns, their memory. The truth is the gateway's."""
