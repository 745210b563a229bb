"""How the files are called, per platform: people and the installer route rely on these names."""

import platform
import sys
from dataclasses import dataclass
from typing import Literal

CHECKSUMS = "vespid-agent-checksums.txt"


@dataclass(frozen=True, slots=True)
class Target:
    """One platform's file."""

    os: Literal["linux", "darwin", "windows"]
    arch: Literal["x64", "arm64"]

    @property
    def executable(self) -> str:
        """The one file in the archive."""
        return "vespid-agent.exe" if self.os == "windows" else "vespid-agent"

    @property
    def archive(self) -> str:
        return f"vespid-agent-{self.os}-{self.arch}.{'zip' if self.os == 'windows' else 'tar.gz'}"


TARGETS = (Target("linux", "x64"), Target("darwin", "arm64"), Target("windows", "x64"))

_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "windows"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "arm64": "arm64", "aarch64": "arm64"}


def this_machine() -> Target:
    """What is built here: nothing is built for another system. Raises ValueError where no name was agreed."""
    found = _SYSTEMS.get(sys.platform), _MACHINES.get(platform.machine().lower())
    for target in TARGETS:
        if (target.os, target.arch) == found:
            return target
    raise ValueError(f"there is no download for {sys.platform} on {platform.machine()}: install from packages there")
