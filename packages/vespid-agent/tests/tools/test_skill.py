"""`skill.<id>`: run in the sandbox with its own files and its input; its folder, and all others, stay as they are."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine

from vespid_agent.logs import get_logger
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.workdir import SLOTS, Workdirs
from vespid_agent.skills import copy as copying
from vespid_agent.skills.library import Library
from vespid_agent.skills.run import SkillRunner
from vespid_agent.tools.skill import SkillTools
from vespid_agent.work.passthrough import Passthrough
from vespid_runtime.tools.tool import Tool, ToolError

from .conftest import USE, Ground, MakeGround

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
GREET = '#!/bin/sh\nread line\necho "$VESPID_SKILL_ID: $line"\ncat "$VESPID_SKILL_DIR/words"\n'

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a skill's folder."""

    def write(name: str, files: Mapping[str, str], **manifest: object) -> Path:
        folder = tmp_path / "skills" / name
        said = {
            "id": name,
            "version": "1.0.0",
            "description": "Greets.",
            "entrypoint": "run.sh",
            "runtime": "shell",
            "inputSchema": SCHEMA,
            "outputMode": "text",
            **manifest,
        }
        for path, text in {"skill.json": json.dumps(said), **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return folder

    return write


class Skills:
    def __init__(self, ground: Ground, root: Path, environment: Mapping[str, str] | None = None) -> None:
        self.ground = ground
        log = get_logger("test")
        runner = SkillRunner(ground.sandboxed, Passthrough(["*"], environment or {}), log)
        self.source = SkillTools(Library(root, log), runner)

    def __getitem__(self, name: str) -> Tool:
        return next(tool for tool in self.source.tools(self.ground.scope()) if tool.id == f"skill.{name}")

    async def call(self, skill: str, **arguments: object) -> object:
        return await self[skill].call(arguments, USE)


@pytest.fixture
def skills(ground: Ground, tmp_path: Path) -> Skills:
    return Skills(ground, tmp_path / "skills")


@pytest.fixture
def on_host(host: Ground, tmp_path: Path) -> Skills:
    return Skills(host, tmp_path / "skills")


@pytest.fixture
def in_walls(walled: Ground, tmp_path: Path) -> Skills:
    return Skills(walled, tmp_path / "skills")


async def test_it_reads_its_input_and_its_own_files(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": GREET, "words": "hello\n"})
    assert await skills.call("greet", name="Ada") == 'greet: {"name":"Ada"}\nhello\n'


async def test_it_finds_its_input_in_a_file_too(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": 'cat "$VESPID_SKILL_INPUT_PATH"'})
    assert await skills.call("greet", name="Ada") == '{"name":"Ada"}'


async def test_no_text_of_the_model_reaches_the_shell(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": "cat"})
    hostile = "$(touch hostile) `touch hostile` '; touch hostile; \" \n\0"
    assert json.loads(str(await skills.call("greet", name=hostile))) == {"name": hostile}
    assert not (skills.ground.scope().workdir / "hostile").exists()


async def test_json_is_read_and_python_is_run(skills: Skills, put: Put) -> None:
    code = "import json, sys, helper\nprint(json.dumps({'got': json.load(sys.stdin)['name'], 'also': helper.X}))\n"
    put(
        "parse",
        {"lib/main.py": code, "lib/helper.py": "X = 7\n"},
        entrypoint="lib/main.py",
        runtime="python",
        outputMode="json",
    )
    assert await skills.call("parse", name="Ada") == {"got": "Ada", "also": 7}


async def test_what_it_leaves_in_the_folder_stays_and_its_copy_goes(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": "echo left > left; pwd -P"})
    workdir = skills.ground.scope().workdir
    printed = str(await skills.call("greet", name="Ada")).strip()
    assert printed in ("/work", str(workdir))
    assert sorted(os.listdir(workdir)) == ["left"]
    assert os.listdir(workdir.parent) == [workdir.name]


async def test_several_calls_at_once_do_not_meet(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": "cat"})
    said = await asyncio.gather(*(skills.call("greet", name=str(n)) for n in range(4)))
    assert said == [json.dumps({"name": str(n)}, separators=(",", ":")) for n in range(4)]


async def test_output_that_is_not_json_is_named(skills: Skills, put: Put) -> None:
    put("parse", {"run.sh": "echo nonsense"}, outputMode="json")
    with pytest.raises(ToolError) as bad:
        await skills.call("parse", name="Ada")
    assert bad.value.code == "SKILL_OUTPUT_INVALID"
    assert "nonsense" in bad.value.message


async def test_output_that_was_cut_is_no_json(on_host: Skills, put: Put) -> None:
    put("parse", {"run.sh": "printf '\"'; head -c 200000 /dev/zero | tr '\\0' x; printf '\"'"}, outputMode="json")
    with pytest.raises(ToolError) as bad:
        await on_host.call("parse", name="Ada")
    assert bad.value.code == "SKILL_OUTPUT_INVALID"
    assert "more than is kept" in bad.value.message


async def test_its_failure_has_the_end_of_stderr(skills: Skills, put: Put) -> None:
    put("greet", {"run.sh": "head -c 5000 /dev/zero | tr '\\0' x >&2; echo no such ticket >&2; exit 4"})
    with pytest.raises(ToolError) as failed:
        await skills.call("greet", name="Ada")
    assert failed.value.code == "HOST_EXIT_CODE:4"
    assert failed.value.message.endswith("no such ticket")
    assert len(failed.value.message) < 2_100


async def test_its_time_is_the_manifests(skills: Skills, put: Put) -> None:
    put("slow", {"run.sh": "echo waiting >&2; sleep 60"}, sandbox={"timeoutMs": 300})
    with pytest.raises(ToolError) as late:
        await skills.call("slow", name="Ada")
    assert late.value.code == "NODE_EXECUTION_TIMEOUT"
    assert "waiting" in late.value.message


async def test_its_sandbox_is_the_manifests(on_host: Skills, put: Put) -> None:
    put("walled", {"run.sh": "true"}, sandbox={"backend": "bubblewrap"})
    put("alone", {"run.sh": "true"}, sandbox={"network": "none"})
    with pytest.raises(ToolError) as missing:
        await on_host.call("walled", name="Ada")
    assert missing.value.code == "SANDBOX_UNAVAILABLE:bubblewrap"
    with pytest.raises(ToolError) as refused:
        await on_host.call("alone", name="Ada")
    assert refused.value.code == "HOST_NETWORK_MODE_UNSUPPORTED"


@pytest.mark.promise("P7")
async def test_it_gets_the_variables_it_asks_for_and_shows_none_that_is_secret(
    ground: Ground, put: Put, tmp_path: Path
) -> None:
    put("greet", {"run.sh": "env"}, sandbox={"envPassthroughAllowlist": ["SOME_TOKEN", "VESPID_AGENT_TAGS"]})
    skills = Skills(ground, tmp_path / "skills", {"SOME_TOKEN": "canary-value", "OTHER": "x", "VESPID_AGENT_TAGS": "t"})
    said = str(await skills.call("greet", name="Ada"))
    assert "SOME_TOKEN=***" in said
    assert "OTHER=" not in said
    assert "canary-value" not in said + repr(ground.told)
    assert ("log", "warn") in [event[:2] for event in ground.told.events]


async def test_input_out_of_its_schema_is_refused_before_anything_runs(on_host: Skills, put: Put) -> None:
    put("greet", {"run.sh": "touch ran"})
    with pytest.raises(ToolError) as wrong:
        await on_host.call("greet", name=7)
    assert wrong.value.code == "INVALID_TOOL_ARGUMENTS"
    assert on_host.ground.told.marks == []


@pytest.mark.promise("P11")
async def test_it_reaches_neither_the_folder_of_skills_nor_others(in_walls: Skills, put: Put, tmp_path: Path) -> None:
    put("other", {"run.sh": "true", "secret": "other-secret"})
    (tmp_path / "outside").write_text("outside-secret")
    places = f"{tmp_path}/outside {tmp_path}/skills/other/secret ../../other/secret /work/../outside"
    script = f"cat {places} 2>&1; ls {tmp_path}; true"
    put("spy", {"run.sh": script})
    said = str(await in_walls.call("spy", name="Ada"))
    assert "secret" not in said.replace("other/secret", "").replace("outside", "")
    assert (tmp_path / "skills" / "spy" / "run.sh").read_text() == script


@pytest.mark.promise("P11")
async def test_it_changes_only_its_copy(skills: Skills, put: Put) -> None:
    put(
        "spoil",
        {
            "run.sh": 'cd "$VESPID_SKILL_DIR"; chmod -R u+w . 2>/dev/null; echo x > words; echo x > run.sh; true',
            "words": "hello",
        },
    )
    await skills.call("spoil", name="Ada")
    folder = skills.source._library.skills[0].folder
    assert (folder / "words").read_text() == "hello"


@pytest.mark.promise("P11")
@pytest.mark.parametrize("target", ["/etc/hostname", "../../outside", "loop"])
async def test_a_link_that_leads_out_is_not_copied(on_host: Skills, put: Put, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_text("outside-secret")
    folder = put("spy", {"run.sh": 'cat "$VESPID_SKILL_DIR/link"'})
    (folder / "link").symlink_to(target)
    if target == "loop":
        (folder / "loop").symlink_to("/")
    with pytest.raises(ToolError) as refused:
        await on_host.call("spy", name="Ada")
    assert refused.value.code == "SKILL_BROKEN"
    assert "leads out" in refused.value.message
    assert os.listdir(on_host.ground.scope().workdir.parent) == ["n1"]


async def test_a_link_within_is_a_link_in_the_copy(skills: Skills, put: Put) -> None:
    folder = put("greet", {"run.sh": 'cat "$VESPID_SKILL_DIR/sub/link"', "words": "hello"})
    (folder / "sub").mkdir()
    (folder / "sub" / "link").symlink_to("../words")
    assert await skills.call("greet", name="Ada") == "hello"


@pytest.mark.promise("P11")
async def test_nothing_is_removed_through_what_a_task_put_in_the_copys_place(
    on_host: Skills, put: Put, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    put("swap", {"run.sh": f'c=$(dirname "$VESPID_SKILL_DIR"); mv "$c" gone; ln -s {precious} "$c"'})
    await on_host.call("swap", name="Ada")
    assert (precious / "file").read_text() == "kept"


async def test_too_many_files_are_not_copied(on_host: Skills, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("many", {"run.sh": "true", **{f"f{n}": "x" for n in range(10)}})
    monkeypatch.setattr(copying, "ENTRIES_MAX", 5)
    with pytest.raises(ToolError) as refused:
        await on_host.call("many", name="Ada")
    assert refused.value.code == "SKILL_BROKEN"


async def test_too_large_ones_are_not_copied(on_host: Skills, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("large", {"run.sh": "true", "data": "x" * 2_000})
    monkeypatch.setattr(copying, "TOTAL_MAX_BYTES", 1_000)
    with pytest.raises(ToolError) as refused:
        await on_host.call("large", name="Ada")
    assert refused.value.code == "SKILL_BROKEN"


async def test_a_document_answers_its_text_and_the_files_beside_it(on_host: Skills, tmp_path: Path) -> None:
    folder = tmp_path / "skills" / "notes"
    (folder / "more").mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: Notes\ndescription: How we write.\n---\n# Do this\n")
    (folder / "more" / "style.md").write_text("Be brief.")
    tool = on_host["notes"]
    assert tool.description == "Instructions to read, Notes: How we write."
    text = str(await tool.call({}, USE))
    assert text.startswith("# Do this\n")
    assert "- more/style.md" in text
    assert await tool.call({"file": "more/style.md"}, USE) == "Be brief."


@pytest.mark.promise("P11")
async def test_a_document_shows_no_file_from_elsewhere(on_host: Skills, tmp_path: Path) -> None:
    folder = tmp_path / "skills" / "notes"
    folder.mkdir(parents=True)
    (tmp_path / "skills" / "secret").write_text("outside-secret")
    (folder / "SKILL.md").write_text("---\ndescription: How we write.\n---\n# Do this\n")
    (folder / "link").symlink_to("../secret")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "large").write_text("x" * 300_000)
    os.mkfifo(folder / "pipe")
    tool = on_host["notes"]
    assert "link" not in str(await tool.call({}, USE))
    for path in ("../secret", "link", "/etc/hostname", "nothing", "", ".", "binary", "large", "pipe", "a\0b"):
        with pytest.raises(ToolError) as refused:
            await tool.call({"file": path}, USE)
        assert refused.value.code in ("INVALID_TOOL_ARGUMENTS", "SKILL_BROKEN")
        assert "outside-secret" not in refused.value.message


@pytest.fixture(params=["bound", "copied"])
async def in_containers(
    request: pytest.FixtureRequest, container_engine: ContainerEngine, make_ground: MakeGround, tmp_path: Path
) -> AsyncIterator[Skills]:
    """With an engine on this machine, and with one on another."""
    copies = request.param == "copied"
    ground = make_ground(None)
    given: dict[str, Any] = {
        "image": IMAGE,
        "owner": f"agent-{uuid.uuid4().hex}",
        "slots": ground.workdirs.root / SLOTS,
        "environment": container_engine.remote_environment if copies else container_engine.environment,
        "limits": Limits(memory_mb=64, cpus=1, pids=48),
    }
    backend = DockerBackend(**given)
    state = await backend.available()
    assert state.ok, state.reason
    ground.shells.backends.found["docker"] = backend
    yield Skills(ground, tmp_path / "skills")
    await backend.close()
    assert await container_engine.containers() == []


@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
async def test_it_runs_in_a_container(in_containers: Skills, put: Put) -> None:
    put("greet", {"run.sh": GREET, "words": "hello\n"})
    put("fail", {"run.sh": "exit 9"})
    assert await in_containers.call("greet", name="Ada") == 'greet: {"name":"Ada"}\nhello\n'
    with pytest.raises(ToolError) as failed:
        await in_containers.call("fail", name="Ada")
    assert failed.value.code == "DOCKER_EXIT_CODE:9"
    assert os.listdir(in_containers.ground.scope().workdir) == []


def test_workdirs_parents_are_the_agents_alone(tmp_path: Path) -> None:
    """What the copy relies on: it is made beside the working folder, where no task reaches."""
    workdir = Workdirs(tmp_path / "work").open("run", "n1")
    assert workdir.parent.stat().st_mode & 0o777 == 0o700
