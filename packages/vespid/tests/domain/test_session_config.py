"""What a host is told of how to answer: keys and tools depend on whose host it is."""

from typing import Any

import msgspec

from vespid.domain.session_config import SessionConfig, session_config
from vespid.domain.session_options import EngineChoice

KEY = "sk-canary-of-a-key"


def config(**others: Any) -> SessionConfig:
    given: dict[str, Any] = {
        "pool": "managed",
        "system": None,
        "instructions": None,
        "tools_allow": ["memory.get", "shell.run"],
        "limits": msgspec.Raw(b"{}"),
        "managed_tools": ("memory.*",),
        "api_key": KEY,
    }
    return session_config(EngineChoice("e", model="m"), **{**given, **others})


def test_a_managed_host_gets_the_key_and_only_the_tools_its_operator_allows() -> None:
    told = msgspec.json.decode(msgspec.json.encode(config()))
    assert told["engine"] == {
        "id": "e",
        "model": "m",
        "authMode": "inline_api_key",
        "auth": {"kind": "api_key", "apiKey": KEY},
    }
    assert told["toolsAllow"] == ["memory.get"]


def test_an_organizations_own_host_never_gets_a_key() -> None:
    own = config(pool="byon")
    assert KEY.encode() not in msgspec.json.encode(own)
    assert own.engine.auth_mode == "env"
    assert list(own.tools_allow) == ["memory.get", "shell.run"]


def test_the_key_is_not_in_what_is_printed() -> None:
    assert KEY not in repr(config())


def test_the_wire_has_the_contracts_names() -> None:
    told = msgspec.json.decode(msgspec.json.encode(config(system="s", instructions="i")))
    assert told.keys() == {"engine", "prompt", "toolsAllow", "limits", "memoryProvider"}
    assert told["prompt"] == {"system": "s", "instructions": "i"}
    assert told["memoryProvider"] == "builtin"
