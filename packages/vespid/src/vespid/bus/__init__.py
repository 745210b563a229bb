"""Redis: who is connected, who has room, who waits, and the notices between processes.

All of it is soft: it may vanish at any moment and is rebuilt from Postgres and from what the edges report.
Nothing here is ever a reason to say that work was accepted, done or refused for good.
"""
