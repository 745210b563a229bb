"""Codex' home: the user's login, and of the user's settings only which model answers and how it is reached."""

import tomllib
from pathlib import Path

import pytest

from vespid_agent.engines import toml
from vespid_agent.engines.codex import Codex, key_variables
from vespid_agent.engines.environment import passed
from vespid_runtime.engines.engine import EngineError

from .conftest import Bench

SETTINGS = """
model = "their-model"
model_provider = "corp"
notify = ["do", "this"]
sandbox_mode = "danger-full-access"
approval_policy = "on-request"
[model_providers.corp]
name = "Corp \\"quoted\\" \\u007f"
base_url = "https://models.corp.example/v1"
env_key = "CORP_KEY"
env_http_headers = { "X-Team" = "CORP_TEAM" }
query_params = { api-version = "2026-01-01" }
stream_idle_timeout_ms = 300000
requires_openai_auth = false
[mcp_servers.theirs]
command = "dangerous"
[features]
shell_tool = true
"""


def home_of(bench: Bench) -> Path:
    folder = Path(bench.environment["HOME"]) / ".codex"
    folder.mkdir()
    return folder


def test_only_what_says_how_the_model_is_reached_is_taken(bench: Bench) -> None:
    (home_of(bench) / "config.toml").write_text(SETTINGS)
    ours, settings = Codex(bench.folders).home(bench.environment)
    theirs = tomllib.loads(SETTINGS)
    written = tomllib.loads((ours / "config.toml").read_text())
    assert written == settings == {name: theirs[name] for name in ("model", "model_provider", "model_providers")}
    assert key_variables(settings) == ("CORP_KEY", "CORP_TEAM")
    assert (ours / "config.toml").stat().st_mode & 0o777 == 0o600


def test_the_login_is_linked_and_follows_the_users(bench: Bench) -> None:
    theirs = home_of(bench)
    codex = Codex(bench.folders)
    ours, _ = codex.home(bench.environment)
    assert not (ours / "auth.json").exists()
    (theirs / "auth.json").write_text("{}")
    for _ in range(2):
        codex.home(bench.environment)
        (ours / "auth.json").write_text('{"renewed":true}')
        assert (theirs / "auth.json").read_text() == '{"renewed":true}'
    (theirs / "auth.json").unlink()
    codex.home(bench.environment)
    assert not (ours / "auth.json").is_symlink()


def test_settings_that_cannot_be_read_are_named(bench: Bench) -> None:
    (home_of(bench) / "config.toml").write_text("model = ")
    with pytest.raises(EngineError, match=r"config\.toml cannot be read"):
        Codex(bench.folders).home(bench.environment)


def test_toml_that_is_written_is_read_as_the_same() -> None:
    document = {"a b": 'text "quoted"\n\x7f\x01 ü', "n": [1, 2.5, True], "t": {"x.y": {"z": False}}, "none": None}
    assert tomllib.loads(toml.dumps(document)) == {name: value for name, value in document.items() if value is not None}


def test_the_environment_is_what_is_listed_and_nothing_else() -> None:
    ours = {"VESPID_X": "1", "DATABASE_URL": "x", "AWS_SECRET_ACCESS_KEY": "x", "OPENAI_API_KEY": "k", "HOME": "/h"}
    env = passed(ours | {"HTTPS_PROXY": "http://p", "NO_PROXY": "corp.example"}, ("OPENAI_*", "VESPID_*"))
    assert env == {
        "HOME": "/h",
        "OPENAI_API_KEY": "k",
        "HTTPS_PROXY": "http://p",
        "NO_PROXY": "corp.example,127.0.0.1,localhost",
        "no_proxy": "corp.example,127.0.0.1,localhost",
    }
