"""The agent's log: on stderr for people on a terminal and JSON lines everywhere else, and as JSON lines in a file.

Never a payload, an output or a secret.
"""

from __future__ import annotations

import logging
import sys

import structlog

from vespid_agent.log_file import LogFile

Logger = structlog.typing.FilteringBoundLogger
EventDict = structlog.typing.EventDict


def configure(level: str, file: LogFile | None = None, *, to_stderr: bool = True) -> None:
    """Once, at start. `file`: where each line goes as well; without `to_stderr`, there alone."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if file is not None:
        processors.append(_Copy(file))
    if not to_stderr:
        processors.append(_drop)
    is_terminal = sys.stderr.isatty()
    processors.append(structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(duty: str) -> Logger:
    """A logger that names the duty it speaks for."""
    logger: Logger = structlog.get_logger(duty=duty)
    return logger


class _Copy:
    """Each line into the file, and on."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: object, name: str, event: EventDict) -> EventDict:
        line = self._render(logger, name, dict(event))
        self._file.write(line if isinstance(line, str) else line.decode())
        return event


def _drop(logger: object, name: str, event: EventDict) -> EventDict:
    raise structlog.DropEvent
