"""The gateway: holds the outbound sockets of agents (edge) and those of people's programs (client), takes dispatches
and watches over placement (brain)."""
