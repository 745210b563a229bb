"""The client side of the gateway: sockets of people's programs, and the sessions that they have joined.

socket        the upgrade, and the loop that reads
admission     who may open a socket, and who may keep it
member        one socket: does what its frames ask for
views         the sessions that somebody here has joined
session_view  one of them: what is heard and read of it, given to all who follow
follower      one client's place in a session: what it is told next (pure)
told          an event as frames (pure)
turn_text     the running turn's text from its pieces (pure)
"""
