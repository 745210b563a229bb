"""The engine that needs no model, and how engines are found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vespid_runtime.engines.config import SessionConfig, decode_config
from vespid_runtime.engines.echo import EchoEngine
from vespid_runtime.engines.engine import EngineError, TurnRequest
from vespid_runtime.engines.names import canonical_engine
from vespid_runtime.engines.registry import Engines
from vespid_runtime.memory.workspace import MemoryWorkspace


class Heard:
    def __init__(self) -> None:
        self.deltas: list[str] = []

    def delta(self, text: str) -> None:
        self.deltas.append(text)

    def event(self, kind: str, level: str, message: str | None, payload: object) -> None:
        raise AssertionError(kind)


def config(**rest: object) -> SessionConfig:
    return decode_config(msgspec.json.encode({"engine": {"id": "vespid.echo.v1"}, **rest}))


@pytest.mark.parametrize(
    ("limits", "deltas"),
    [({}, [" one  ", "two\n", "three"]), ({"maxOutputChars": 8}, [" one  ", "tw"])],
)
async def test_echo_says_it_word_by_word_within_its_limit(
    tmp_path: Path, limits: dict[str, int], deltas: list[str]
) -> None:
    request = TurnRequest(
        request_id="s:turn:1:1",
        session_id="s",
        organization_id="o",
        user_id="u",
        message=" one  two\nthree",
        attachments=(),
        history=(),
        prior=(),
        config=config(limits=limits),
        idempotency_key="s:turn:1",
        memory=MemoryWorkspace(tmp_path, "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a002", "k"),
    )
    heard = Heard()
    answer = await EchoEngine().turn(request, heard)
    assert heard.deltas == deltas
    assert answer.content == "".join(deltas)


def test_engines_are_found_by_every_accepted_spelling() -> None:
    assert canonical_engine("gateway.loop.v2") == "vespid.loop.v1"
    engines = Engines([EchoEngine()])
    assert engines.ids == ("vespid.echo.v1",)
    assert engines.get("vespid.echo.v1").id == "vespid.echo.v1"
    with pytest.raises(EngineError, match="EXECUTOR_UNSUPPORTED_ENGINE"):
        engines.get("gateway.codex.v2")


def test_engine_answers_to_the_other_spelling_of_its_name() -> None:
    class Loop(EchoEngine):
        id = "vespid.loop.v1"

    assert Engines([Loop()]).get("gateway.loop.v2").id == "vespid.loop.v1"


def test_no_repr_of_a_config_shows_its_key() -> None:
    chosen = {"id": "e", "authMode": "inline_api_key", "auth": {"kind": "api_key", "apiKey": "sk-0123456789"}}
    read = config(engine=chosen)
    assert read.secrets == ("sk-0123456789",)
    assert "sk-0123456789" not in repr(read)
