"""`vespid.echo.v1`: answers what it was told, word by word. For trying a set-up without a model."""

from __future__ import annotations

import asyncio
import re

import msgspec

from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError, TurnAnswer, TurnOutput, TurnRequest
from vespid_runtime.engines.names import ECHO

# A word with the blanks behind it; blanks at the beginning go with the first.
_WORDS = re.compile(r"\s*\S+\s*|\s+")


class EchoEngine:
    """Says each word in a turn of the loop of its own, so that each travels for itself."""

    id = ECHO

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        said = echo(request)
        for word in _WORDS.findall(said.content):
            output.delta(word)
            await asyncio.sleep(0)
        return said


def echo(request: TurnRequest) -> TurnAnswer:
    """What it answers. Raises EngineError."""
    text = request.message[: request.config.limits.max_output_chars]
    return TurnAnswer(text, value=_decoded(text) if request.output.mode == "json" else msgspec.UNSET)


def _decoded(text: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise EngineError(Code.NODE_EXECUTION_FAILED, "the echoed text is not JSON") from None
    return value
