"""`SKILL.md`: a skill that is instructions, in the form that people have for Claude: front matter, then markdown.

---
name: Release notes
description: How we write them.
---
# …
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vespid_agent.skills.manifest import (
    DESCRIPTION_MAX_CHARS,
    DOCUMENT,
    BadSkill,
    check_id,
    read_file,
    within,
)

FILES_MAX = 500
# Aliases make a small document a large one; front matter has no need of them.
_FRONT_MAX_BYTES = 16 * 1024
_FENCE = "---"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One that is read, not run."""

    id: str
    # As its front matter says; the id, where that says nothing.
    name: str
    description: str
    folder: Path


def read_document(folder: Path) -> Document:
    """Raises BadSkill."""
    name = check_id(folder)
    front, _ = _parts(read_file(folder / DOCUMENT))
    said = _front_matter(front)
    description = said.get("description")
    if not isinstance(description, str) or not description.strip():
        raise BadSkill(f"{DOCUMENT}: its front matter has no description")
    called = said.get("name", name)
    if not isinstance(called, str):
        raise BadSkill(f"{DOCUMENT}: the name in its front matter is not a text")
    return Document(id=name, name=called[:200], description=description[:DESCRIPTION_MAX_CHARS], folder=folder)


def text_of(document: Document) -> str:
    """The instructions, with a list of the files beside them. Raises BadSkill."""
    _, body = _parts(read_file(document.folder / DOCUMENT))
    files = _files(document.folder)
    if not files:
        return body
    beside = "\n".join(f"- {file}" for file in files)
    return f"{body}\n\nFiles beside it, to be read with the argument `file`:\n{beside}"


def file_of(document: Document, path: str) -> str:
    """One of the files beside it. Raises BadSkill."""
    found = within(document.folder, path)
    try:
        return read_file(found).decode()
    except UnicodeDecodeError:
        raise BadSkill(f"{path[:200]!r} is not a text") from None


def _parts(content: bytes) -> tuple[str, str]:
    """Front matter and body. Raises BadSkill."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise BadSkill(f"{DOCUMENT} is not UTF-8") from None
    head, _, rest = text.partition("\n")
    front, fence, body = rest.partition(f"\n{_FENCE}\n")
    if head.rstrip() != _FENCE or not fence:
        raise BadSkill(f"{DOCUMENT} does not begin with front matter between two lines of {_FENCE}")
    if len(front) > _FRONT_MAX_BYTES:
        raise BadSkill(f"{DOCUMENT}: its front matter has more than {_FRONT_MAX_BYTES} characters")
    return front, body.strip()


def _front_matter(text: str) -> dict[object, object]:
    import yaml

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise BadSkill(f"{DOCUMENT}: its front matter has aliases")
        said = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadSkill(f"{DOCUMENT}: its front matter is not YAML: {str(error)[:300]}") from None
    if not isinstance(said, dict):
        raise BadSkill(f"{DOCUMENT}: its front matter is not a list of names and values")
    return said


def _files(folder: Path) -> list[str]:
    """Those beside the document that can be read, some of them where there are many."""
    found: list[str] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if name.startswith(".") or path == folder / DOCUMENT or path.is_symlink():
                continue
            if len(found) == FILES_MAX:
                return found
            found.append(path.relative_to(folder).as_posix())
    return found
