"""The skills of this agent: what lies in VESPID_AGENT_SKILLS_DIR, and what is wrong with what does not work.

    library.refresh()  →  library.skills, library.problems

The one thing to know: looking is cheap. Each folder is read again only when the stat of what was read of it has
changed, so that every request may look, and each folder is read for itself: a bad one is told of and takes no other
with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vespid_agent.logs import Logger
from vespid_agent.skills.document import Document, read_document
from vespid_agent.skills.manifest import DOCUMENT, MANIFEST, BadSkill, Skill, read_manifest

SKILLS_MAX = 256

_Stat: TypeAlias = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class _Shelved:
    """A folder as it was found."""

    # Of what was read of it, as it was before; None for what was not there.
    signature: tuple[tuple[Path, _Stat], ...]
    skill: Skill | Document | None
    problem: str | None


class Library:
    """`refresh` looks again; the rest is as of the last look. Ids are those of tools: `skill.<folder>`."""

    def __init__(self, root: Path, log: Logger) -> None:
        self._root = root
        self._log = log
        self._shelves: dict[str, _Shelved] = {}
        # Why the folder of skills itself cannot be read.
        self._closed: str | None = None

    @property
    def skills(self) -> tuple[Skill | Document, ...]:
        return tuple(shelved.skill for shelved in self._shelves.values() if shelved.skill is not None)

    @property
    def problems(self) -> Mapping[str, str]:
        """By the id of the tool that there would be, what to mend."""
        bad = {f"skill.{name}": shelved.problem for name, shelved in self._shelves.items() if shelved.problem}
        return bad if self._closed is None else {"skill": self._closed}

    def refresh(self) -> bool:
        """Look again. Whether anything is another than before."""
        before, closed = self._shelves, self._closed
        names = self._names()
        self._shelves = {name: self._look(name, before.get(name)) for name in names[:SKILLS_MAX]}
        if len(names) > SKILLS_MAX:
            self._closed = f"{self._root} holds more than {SKILLS_MAX} skills"
            self._shelves = {}
        if self._closed != closed and self._closed is not None:
            self._log.error("skills_unusable", reason=self._closed)
        return before != self._shelves or closed != self._closed

    def _names(self) -> list[str]:
        self._closed = None
        try:
            with os.scandir(self._root) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._closed = f"{self._root} cannot be read: {error.strerror}"
            return []

    def _look(self, name: str, known: _Shelved | None) -> _Shelved:
        # What is wrong with a bad one may lie anywhere in it: it is read at every look.
        if known is not None and known.skill and all(_stat(path) == seen for path, seen in known.signature):
            return known
        folder = self._root / name
        # Before the reading: what changes meanwhile is seen by the next look.
        signature = [(path, _stat(path)) for path in (folder, folder / MANIFEST, folder / DOCUMENT)]
        skill: Skill | Document | None = None
        problem = None
        try:
            skill = _read(folder)
            if isinstance(skill, Skill):
                entrypoint = folder / skill.entrypoint
                signature.append((entrypoint, _stat(entrypoint)))
            self._log.info("skill", id=name, version=skill.version if isinstance(skill, Skill) else None)
        except BadSkill as bad:
            problem = str(bad)
            if known is None or known.problem != problem:
                self._log.error("skill_broken", id=name, problem=problem)
        return _Shelved(tuple(signature), skill, problem)


def _read(folder: Path) -> Skill | Document:
    """Raises BadSkill."""
    if os.path.lexists(folder / MANIFEST):
        return read_manifest(folder)
    if os.path.lexists(folder / DOCUMENT):
        return read_document(folder)
    raise BadSkill(f"there is neither {MANIFEST} nor {DOCUMENT}")


def _stat(path: Path) -> _Stat:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
