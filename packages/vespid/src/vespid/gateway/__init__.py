"""The gateway: holds the agents' outbound sockets (edge), takes dispatches and watches over placement (brain)."""
