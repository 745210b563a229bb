from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vespid_agent import config
from vespid_agent.config import AgentConfig, ConfigError

IDENTITY = AgentConfig(
    executor_id="e", executor_token="o.secret", gateway_ws_url="ws://g/ws/executor", api_base_url="http://a"
)


def test_saved_config_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "agent.json"
    config.save(path, IDENTITY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config.load(path, pytest.fail) == IDENTITY
    assert [p.name for p in path.parent.iterdir()] == ["agent.json"]


def test_config_that_others_can_read_is_closed_and_told(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    config.save(path, IDENTITY)
    path.chmod(0o644)
    told: list[str] = []
    assert config.load(path, told.append) == IDENTITY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "0644" in told[0]


def test_missing_config_says_how_to_pair(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="connect --pairing-token"):
        config.load(tmp_path / "agent.json", pytest.fail)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"executorId":1}'])
def test_damaged_config_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="Pair again"):
        config.load(path, pytest.fail)


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.mkdir()  # replacing a folder by a file fails
    with pytest.raises(ConfigError, match="cannot be written"):
        config.save(path, IDENTITY)
    assert [p.name for p in tmp_path.iterdir()] == ["agent.json"]


def test_repr_shows_no_token() -> None:
    assert "secret" not in repr(IDENTITY)
