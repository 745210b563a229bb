"""MCP servers that this agent's operator names: started, asked for their tools, kept alive, and ended with the agent.

Imported only where VESPID_AGENT_MCP_CONFIG names a file, as the SDK is.
"""
