"""The last message of a model, as the answer that was asked for."""

from __future__ import annotations

import re

from vespid_runtime.loop.cutting import cut_end
from vespid_runtime.loop.schema import NotJson, problems, read_json
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import ModelReply

# How often the model may mend its JSON, and how often in a row it may say nothing.
REPAIRS_MAX = 2
SILENCES_MAX = 2

# Models like to put JSON into a block of code, whatever they are told.
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(?P<json>.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


class Unusable(Exception):
    """It is not the JSON that is wanted. The message is for the model."""


def read_answer(task: LoopTask, reply: ModelReply) -> tuple[str, object]:
    """The text, and with JSON output its value. Raises Unusable."""
    max_chars = task.limits.max_output_chars
    if task.output.mode == "text":
        return cut_end(reply.content, max_chars), None
    if len(reply.content) > max_chars:
        raise Unusable(f"it has {len(reply.content)} characters, at most {max_chars} may be")
    fenced = _FENCED.fullmatch(reply.content)
    text = cut_end(fenced["json"] if fenced else reply.content.strip(), max_chars)
    try:
        value = read_json(text)
    except NotJson as error:
        cut = "; it was cut because it was too long" if reply.stop_reason == "length" else ""
        raise Unusable(f"{error}{cut}") from error
    wrong = [] if task.output.json_schema is None else problems(value, task.output.json_schema)
    if wrong:
        raise Unusable("; ".join(wrong))
    return text, value
