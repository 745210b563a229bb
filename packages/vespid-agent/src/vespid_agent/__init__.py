"""The Vespid node-agent: runs work of an organization on a machine it controls, over one outbound WebSocket."""

__version__ = "0.1.0"
