"""The Vespid node-agent: runs workflow nodes on a machine you control, over one outbound WebSocket."""
