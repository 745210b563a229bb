"""The downloads of the agent: how they are called, and the commands that people copy.

The one thing to know: names and commands are the runbook's ("Pairing Flow"), word for word, with the addresses put in.
Page, CLI and API all take them from here.
"""

from dataclasses import dataclass
from typing import Literal

CHECKSUMS = "vespid-agent-checksums.txt"
# Stands in a command where the pairing token belongs.
TOKEN = "<token>"  # noqa: S105 - the place of one

Shell = Literal["sh", "powershell"]


@dataclass(frozen=True, slots=True)
class Platform:
    """One of those that there is a download for."""

    os: Literal["darwin", "linux", "windows"]
    arch: Literal["arm64", "x64"]
    archive_type: Literal["tar.gz", "zip"]

    @property
    def id(self) -> str:
        return f"{self.os}-{self.arch}"

    @property
    def file_name(self) -> str:
        return f"vespid-agent-{self.id}.{self.archive_type}"

    @property
    def shell(self) -> Shell:
        """What the commands are typed into."""
        return "powershell" if self.os == "windows" else "sh"


PLATFORMS = (
    Platform("darwin", "arm64", "tar.gz"),
    Platform("linux", "x64", "tar.gz"),
    Platform("windows", "x64", "zip"),
)


def commands(platform: Platform, download_url: str, api_base: str, token: str = TOKEN) -> list[str]:
    """Fetch, unpack, connect: line by line."""
    name = platform.file_name
    connect = f'connect --pairing-token "{token}" --api-base "{api_base}"'
    if platform.shell == "powershell":
        return [
            f'Invoke-WebRequest -Uri "{download_url}" -OutFile "{name}"',
            f'Expand-Archive -Path "{name}" -DestinationPath . -Force',
            rf".\\vespid-agent.exe {connect}",
        ]
    return [
        f'curl -fsSL "{download_url}" -o "{name}"',
        f'tar -xzf "{name}"',
        "chmod +x ./vespid-agent",
        f"./vespid-agent {connect}",
    ]
