"""The whole way from the sources to an archive. POSIX: frozen folder and launcher; Windows: PyInstaller's one file."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from agent_binary import glibc
from agent_binary.archive import pack
from agent_binary.freeze import ROOT, freeze
from agent_binary.launcher import wrap
from agent_binary.names import this_machine


@dataclass(frozen=True, slots=True)
class Built:
    archive: Path
    # None: of another system than Linux.
    glibc: tuple[int, int] | None


def build(work: Path, dist: Path) -> Built:
    """Raises ValueError or CalledProcessError. `work` is kept for the next time."""
    target = this_machine()
    for folder in (work, dist):
        folder.mkdir(parents=True, exist_ok=True)
    frozen = freeze(work, onefile=target.os == "windows")
    if target.os == "windows":
        return Built(pack(frozen, target, dist), None)
    executable = wrap(frozen.parent, frozen.name, version(), work / "wrapped")
    needs = glibc.needed(frozen.parent) if sys.platform == "linux" else None
    return Built(pack(executable, target, dist), needs)


def version() -> str:
    """The agent's, from its source: the lock names none for a package of the workspace."""
    said = (ROOT / "packages" / "vespid-agent" / "src" / "vespid_agent" / "__init__.py").read_text()
    found = re.search(r'__version__ = "([^"]+)"', said)
    if found is None:
        raise ValueError("vespid_agent does not say its version")
    return found[1]
