"""`skill.json`: what a skill says of itself, read and checked.

The one thing to know: a manifest comes from whoever filled the folder, not from us. It is checked whole when it is
read, and a skill with anything wrong is no tool at all.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import msgspec

from vespid_agent.work.shells import Wishes
from vespid_runtime.loop.schema import BadSchema, check_schema

MANIFEST = "skill.json"
DOCUMENT = "SKILL.md"
# Of a manifest, and of a document.
FILE_MAX_BYTES = 256 * 1024
DESCRIPTION_MAX_CHARS = 4_000

# `docs/skills.md` has the words of the contract for it.
ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Runtime: TypeAlias = Literal["shell", "node", "python"]
OutputMode: TypeAlias = Literal["text", "json"]


class BadSkill(Exception):
    """A folder that is no skill. The message says what to mend, for people."""


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    version: str
    description: str
    entrypoint: str
    runtime: Runtime
    input_schema: dict[str, object]
    output_mode: OutputMode
    sandbox: Wishes = Wishes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One that can be run."""

    id: str
    version: str
    description: str
    folder: Path
    # Below the folder.
    entrypoint: PurePosixPath
    runtime: Runtime
    # What runs an entrypoint of the runtime `shell`.
    shell: Literal["sh", "bash"]
    input_schema: dict[str, object]
    output_mode: OutputMode
    wishes: Wishes


def check_id(folder: Path) -> str:
    """The name of a skill's folder, which is its id. Raises BadSkill."""
    if ID.fullmatch(folder.name) is None:
        raise BadSkill(f"the folder's name must match {ID.pattern}")
    return folder.name


def read_manifest(folder: Path) -> Skill:
    """Raises BadSkill."""
    name = check_id(folder)
    try:
        said = msgspec.json.decode(read_file(folder / MANIFEST), type=_Manifest)
    except msgspec.DecodeError as error:
        raise BadSkill(f"{MANIFEST}: {error}") from None
    if said.id != name:
        raise BadSkill(f"{MANIFEST}: its id is {said.id[:64]!r}, and its folder is {name}")
    if not said.description.strip():
        raise BadSkill(f"{MANIFEST}: the description is empty")
    try:
        check_schema(said.input_schema)
    except BadSchema as error:
        raise BadSkill(f"{MANIFEST}: inputSchema: {error}") from None
    entrypoint = _entrypoint(folder, said.entrypoint)
    return Skill(
        id=name,
        version=said.version,
        description=said.description[:DESCRIPTION_MAX_CHARS],
        folder=folder,
        entrypoint=entrypoint,
        runtime=said.runtime,
        shell=_shell_of(folder / entrypoint),
        input_schema=said.input_schema,
        output_mode=said.output_mode,
        wishes=said.sandbox,
    )


def read_file(path: Path) -> bytes:
    """A plain file of at most FILE_MAX_BYTES. Raises BadSkill."""
    try:
        # A pipe in its place would be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadSkill(f"{path.name} is not a plain file")
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadSkill(f"{path.name} cannot be read: {error.strerror}") from None
    if len(content) > FILE_MAX_BYTES:
        raise BadSkill(f"{path.name} has more than {FILE_MAX_BYTES} bytes")
    return content


def within(folder: Path, path: str) -> Path:
    """The file of that relative path, links resolved. Raises BadSkill where it is not below the folder."""
    parts = PurePosixPath(path).parts
    windows = "\\" in path or ":" in path
    if not parts or path.startswith("/") or ".." in parts or windows or "\0" in path:
        raise BadSkill(f"{path[:200]!r} is not a path below the skill's folder")
    try:
        root = folder.resolve(strict=True)
        found = (root / path).resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadSkill(f"there is no file {path[:200]!r}") from None
    if not found.is_relative_to(root):
        raise BadSkill(f"{path[:200]!r} leads out of the skill's folder")
    return found


def _entrypoint(folder: Path, path: str) -> PurePosixPath:
    try:
        if not within(folder, path).is_file():
            raise BadSkill(f"{path[:200]!r} is not a file")
    except BadSkill as bad:
        raise BadSkill(f"{MANIFEST}: entrypoint: {bad}") from None
    return PurePosixPath(path)


def _shell_of(entrypoint: Path) -> Literal["sh", "bash"]:
    """By its first line; only a runtime `shell` asks."""
    with entrypoint.open("rb") as file:
        first = file.readline(200)
    return "bash" if first.startswith(b"#!") and b"bash" in first else "sh"
