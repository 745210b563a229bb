"""Answers of tools, cut to what an assistant can read at once: what is long in them is shown in part.

The language model on the other side reads every character, and clients refuse answers that are too long. What is cut
says so and how long it was; ids, codes and cursors are short and stay.
"""

from typing import Any

import msgspec

from vespid.domain.payload import cut

RESULT_MAX_CHARS = 50_000
# How much of one value is shown, tried in this order until the whole fits.
_SHOWN_CHARS = (20_000, 5_000, 1_000, 200, 60)


def fit(answer: msgspec.Struct) -> dict[str, Any]:
    """The answer as JSON objects, with long values of its objects cut.

    An answer is an object of values, of objects or of lists of objects; what is deeper is cut as a whole.
    """
    whole: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    shown = whole
    for chars in _SHOWN_CHARS:
        if len(msgspec.json.encode(shown).decode()) <= RESULT_MAX_CHARS:
            break
        shown = {name: _shortened(value, chars) for name, value in whole.items()}
    return shown


def _shortened(value: Any, chars: int) -> Any:
    if isinstance(value, list):
        return [_shortened(item, chars) for item in value]
    if isinstance(value, dict):
        return {name: cut(part, chars) for name, part in value.items()}
    return cut(value, chars)
