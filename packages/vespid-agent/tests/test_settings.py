from __future__ import annotations

from pathlib import Path

import pytest

from vespid_agent.settings import AgentSettings, SettingInvalid, declared, documentation

DOCS = Path(__file__).parents[3] / "docs" / "agent.md"


def test_every_field_has_one_variable_of_its_own() -> None:
    variables = [setting.variable for _, _, setting in declared()]
    assert len(variables) == len(set(variables)) == len(AgentSettings.__struct_fields__)


def test_documentation_page_holds_the_generated_table() -> None:
    assert documentation() in DOCS.read_text()


def test_an_empty_environment_gives_the_runbooks_defaults() -> None:
    settings = AgentSettings.from_env({"HOME": "/home/x"})
    assert settings.exec_backend is None
    assert settings.workdir_root == Path("/home/x/.vespid/workdir")
    assert settings.docker_image == "node:24-alpine"
    assert settings.docker_network_default == "none"
    assert (settings.docker_timeout_ms, settings.docker_memory_mb, settings.docker_pids) == (30_000, 256, 256)
    assert (settings.docker_cpus, settings.docker_output_max_chars) == (1.0, 65_536)
    assert (settings.host_output_max_chars, settings.host_kill_grace_ms) == (65_536, 500)


def test_a_path_may_begin_with_the_home_folder() -> None:
    told = {"HOME": "/home/x", "VESPID_AGENT_WORKDIR_ROOT": "~/elsewhere/work", "VESPID_AGENT_TLS_CA_FILE": "~x/ca.pem"}
    settings = AgentSettings.from_env(told)
    assert settings.workdir_root == Path("/home/x/elsewhere/work")
    assert settings.tls_ca_file == Path.cwd() / "~x" / "ca.pem"  # another user's home is not looked up


@pytest.mark.parametrize(("text", "value"), [("0", 1), ("7", 7), ("100000", 200), (" 12 ", 12), ("", 10)])
def test_numbers_are_clamped(text: str, value: int) -> None:
    assert AgentSettings.from_env({"VESPID_AGENT_MAX_IN_FLIGHT": text}).max_in_flight == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [("VESPID_AGENT_EXEC_BACKEND", "chroot"), ("VESPID_AGENT_MAX_IN_FLIGHT", "many"), ("VESPID_AGENT_DRAIN_MS", "nan")],
)
def test_a_bad_value_is_refused_by_the_variables_name(variable: str, text: str) -> None:
    with pytest.raises(SettingInvalid, match=variable):
        AgentSettings.from_env({variable: text})


def test_tags_are_split_and_kept_once() -> None:
    settings = AgentSettings.from_env({"VESPID_AGENT_TAGS": "east, group:alpha,,east"})
    assert settings.tags == ("east", "group:alpha")
