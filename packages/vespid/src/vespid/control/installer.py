"""Where to download the agent: the files of a release, as the pages offer them."""

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.errors import ApiError

_FORGE = "https://github.com"


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """The agent for one platform."""

    platform_id: str
    os: str
    arch: str
    file_name: str
    archive_type: Literal["tar.gz", "zip"]
    download_url: str


class Installer(msgspec.Struct, frozen=True, rename="camel"):
    """One release, whose files have the same names in each."""

    provider: str
    repository: str
    channel: str
    docs_url: str
    artifacts: list[Artifact]
    checksums_url: str


# (os, arch, type of archive)
_PLATFORMS: tuple[tuple[str, str, Literal["tar.gz", "zip"]], ...] = (
    ("darwin", "arm64", "tar.gz"),
    ("linux", "x64", "tar.gz"),
    ("windows", "x64", "zip"),
)


@get(
    "/v1/meta/agent-installer",
    responses=errors(503),
    operation_id="getAgentInstaller",
    tags=["meta"],
)
async def get_installer(deps: NamedDependency[Deps]) -> Installer:
    """Downloads of the agent, where this installation offers them."""
    if not deps.settings.agent_installer_enabled:
        raise ApiError(503, "AGENT_INSTALLER_UNAVAILABLE", "This installation offers no downloads of the agent.")
    repository = deps.settings.agent_installer_repository
    channel = deps.settings.agent_installer_channel
    place = f"{_FORGE}/{repository}/releases"
    files = f"{place}/latest/download" if channel == "latest" else f"{place}/download/{channel}"
    return Installer(
        provider="github-releases",
        repository=repository,
        channel=channel,
        docs_url=f"{_FORGE}/{repository}#readme",
        artifacts=[_artifact(os, arch, archive_type, files) for os, arch, archive_type in _PLATFORMS],
        checksums_url=f"{files}/vespid-agent-checksums.txt",
    )


def _artifact(os: str, arch: str, archive_type: Literal["tar.gz", "zip"], files: str) -> Artifact:
    name = f"vespid-agent-{os}-{arch}.{archive_type}"
    return Artifact(f"{os}-{arch}", os, arch, name, archive_type, f"{files}/{name}")


routes = [get_installer]
