"""Logs, metrics, traces: what an operator sees of a process."""
