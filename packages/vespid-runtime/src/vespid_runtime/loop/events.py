"""What a loop is told. Each says what time it is, in milliseconds of the host's clock."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vespid_runtime.loop.machine import Event
from vespid_runtime.models.types import ModelReply


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag=True, rename="camel"):
    now_ms: int


class Start(_Told, frozen=True, kw_only=True):
    """Begin. Time counts from here."""


class Resume(_Told, frozen=True, kw_only=True):
    """The loop comes from the disk, and nothing that it asked for is under way."""


class Delta(_Told, frozen=True, kw_only=True):
    """A piece of the reply's text, where the model streams."""

    # Of the `CallModel` that it belongs to.
    turn: int
    text: str


class Replied(_Told, frozen=True, kw_only=True):
    """The model's whole answer, also after deltas."""

    turn: int
    reply: ModelReply


class ModelFailed(_Told, frozen=True, kw_only=True):
    """The model cannot be had: the code and message of its `ModelError`."""

    turn: int
    code: str
    message: str


class ToolAnswered(_Told, frozen=True, kw_only=True):
    """The result of a call: text, of JSON where the tool answers JSON."""

    call_id: str
    content: str
    is_error: bool = False


class Tick(_Told, frozen=True, kw_only=True):
    """Time has passed."""


class Cancel(_Told, frozen=True, kw_only=True):
    """The answer is not wanted any more."""


class GoOn(_Told, frozen=True, kw_only=True):
    """The loop's own: may the model be asked?"""


class AllAnswered(_Told, frozen=True, kw_only=True):
    """The loop's own: no call is without a result."""


Told: TypeAlias = Start | Resume | Delta | Replied | ModelFailed | ToolAnswered | Tick | Cancel
OwnTold: TypeAlias = GoOn | AllAnswered

EVENTS: dict[type[_Told], Event] = {
    Start: Event.START,
    Resume: Event.RESUME,
    Delta: Event.DELTA,
    Replied: Event.REPLY,
    ModelFailed: Event.MODEL_ERROR,
    ToolAnswered: Event.RESULT,
    Tick: Event.TICK,
    Cancel: Event.CANCEL,
    GoOn: Event.GO_ON,
    AllAnswered: Event.ALL_ANSWERED,
}
