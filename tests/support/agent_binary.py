"""The agent as people download it, made once from these sources and kept outside the checkout.

    python -m tests.support.agent_binary        makes it, if it is missing, and says where it is

`VESPID_BINARY_CACHE` names another folder than `~/.cache/vespid-binary`. One process makes it, the others wait.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_binary.archive import write_checksums
from agent_binary.build import build
from agent_binary.freeze import ROOT, sources
from agent_binary.names import this_machine

# How many past ones are kept: each is 125 MB.
_KEPT = 2


@dataclass(frozen=True)
class AgentBinary:
    """What a person has after the download and `tar -xzf`."""

    # The folder with the archive and the checksums.
    dist: Path
    archive: Path
    executable: Path


def cache() -> Path:
    return Path(os.environ.get("VESPID_BINARY_CACHE") or Path.home() / ".cache" / "vespid-binary")


def made() -> AgentBinary:
    """It, made if it is missing. Raises what `build` raises."""
    cache().mkdir(parents=True, exist_ok=True)
    folder = cache() / _hash()
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make(folder)
        os.utime(folder)
        kept = sorted(cache().glob("made-*"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-_KEPT]:
            shutil.rmtree(old)
    target = this_machine()
    return AgentBinary(folder, folder / target.archive, folder / "unpacked" / target.executable)


def _make(folder: Path) -> None:
    making = cache() / "making"
    shutil.rmtree(making, ignore_errors=True)
    archive = build(cache() / "work", making).archive
    write_checksums(making)
    with tarfile.open(archive) as packed:
        packed.extractall(making / "unpacked", filter="data")
    making.rename(folder)


def _hash() -> str:
    found = hashlib.sha256(f"{sys.version}\0{os.uname().machine}".encode())
    for file in sources():
        found.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return f"made-{found.hexdigest()[:16]}"


@pytest.fixture(scope="session")
def agent_binary() -> AgentBinary:
    return made()


if __name__ == "__main__":
    print(made().archive)
