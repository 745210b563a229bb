"""Logs: one line per event, JSON outside of a terminal, with the ids of what is going on and never a secret.

Ids (`request_id`, `org_id`, `run_id`, …) are bound to the context with `bound`; every line written below carries them.
Payloads, headers and bodies are not logged at all. The processor here is the net below that rule, not the rule.
"""

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog

HIDDEN = "[hidden]"

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# Keys whose values are never written: what they are called in our code, on the wire and in headers.
_SECRET_KEY = re.compile(
    r"(?:^|_)(?:secrets?|passwords?|passwd|tokens?|api_?keys?|authorization|cookies?|credentials?|private_?key|kek|dek"
    r"|payload|database_url|redis_url|dsn)(?:_value|_base64|_secret)?$"
)
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A password inside a URL, wherever it turns up: connection errors like to quote the whole of it.
_URL_PASSWORD = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+(?=@)", re.IGNORECASE)
_BEARER = re.compile(r"(?P<before>\bbearer\s+)\S+", re.IGNORECASE)

_tracebacks_as_data = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
)


def set_up_logging(level: str = "info", *, stream: TextIO | None = None, as_json: bool | None = None) -> None:
    """Set up the logs of this process, ours and those of libraries.

    They go to standard error. `as_json` is chosen by whether that is a terminal, unless given.
    """
    output = stream or sys.stderr
    renders_json = not output.isatty() if as_json is None else as_json
    number = _LEVELS[level]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Made into text or data here, before secrets are looked for; local variables are never shown.
        _tracebacks_as_data if renders_json else structlog.processors.format_exc_info,
        hide_secrets,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str) if renders_json else structlog.dev.ConsoleRenderer(colors=True)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _Lines(output, *names),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(number, output, shared, renderer)


class _Lines(structlog.PrintLogger):
    """Where lines go, under the name of the module that writes them."""

    def __init__(self, output: TextIO, name: str = "vespid") -> None:
        super().__init__(output)
        self.name = name


def get_logger(name: str) -> Any:
    """A logger whose lines carry the name of the module that writes them."""
    return structlog.get_logger(name)


def bound(**ids: object) -> AbstractContextManager[None]:
    """Bind ids to every line written inside the block, by this task and those it starts."""
    return structlog.contextvars.bound_contextvars(**ids)


def hide_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the values of keys that name secrets, at any depth, and passwords inside URLs."""
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: str, value: object) -> object:
    if value is not None and not isinstance(value, bool) and _names_a_secret(key):
        return HIDDEN
    return _without_secrets(value)


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return _BEARER.sub(rf"\g<before>{HIDDEN}", _URL_PASSWORD.sub(rf"\g<before>{HIDDEN}", value))
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    return value


def _names_a_secret(key: str) -> bool:
    return _SECRET_KEY.search(_WORD_START.sub("_", key).replace("-", "_").lower()) is not None


def _route_standard_logging(
    level: int, output: TextIO, shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> None:
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
