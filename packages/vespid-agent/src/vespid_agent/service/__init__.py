"""The agent as a service of the system: what is installed is made by pure functions, and installing it is thin."""
