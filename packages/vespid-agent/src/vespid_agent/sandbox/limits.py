"""What one sandboxed task may take of the machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults are the strict profile of the runbook."""

    memory_mb: int = 256
    cpus: float = 1.0
    pids: int = 256
