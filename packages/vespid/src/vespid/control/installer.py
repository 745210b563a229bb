"""Where to download the agent: the files of a release, or those of a folder that this control plane serves itself."""

from pathlib import Path
from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.domain.download import CHECKSUMS, PLATFORMS, Platform, Shell, commands
from vespid.errors import ApiError
from vespid.settings import ApiSettings

_FORGE = "https://github.com"


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """The agent for one platform."""

    platform_id: str
    os: str
    arch: str
    file_name: str
    archive_type: Literal["tar.gz", "zip"]
    download_url: str
    shell: Shell
    # Download, unpack and connect, as the runbook says it; `<token>` is where the pairing token belongs.
    commands: list[str]


class Installer(msgspec.Struct, frozen=True, rename="camel"):
    """One release, whose files have the same names in each."""

    provider: Literal["github-releases", "self"]
    repository: str
    channel: str
    docs_url: str
    artifacts: list[Artifact]
    # None: only of a folder that has none.
    checksums_url: str | None
    # Where the agents of this installation connect.
    api_base: str


@get(
    "/v1/meta/agent-installer",
    responses=errors(503),
    operation_id="getAgentInstaller",
    tags=["meta"],
    sync_to_thread=True,
)
def get_installer(deps: NamedDependency[Deps]) -> Installer:
    """Downloads of the agent, where this installation offers them."""
    settings = deps.settings
    if not settings.agent_installer_enabled:
        raise _unavailable()
    folder = settings.agent_installer_artifacts_dir
    if not folder:
        return _of_a_release(settings)
    there = {name for name in (CHECKSUMS, *(one.file_name for one in PLATFORMS)) if (Path(folder) / name).is_file()}
    if not there - {CHECKSUMS}:
        raise _unavailable()
    files = f"{settings.api_base}/downloads"
    return _installer(settings, "self", files, [one for one in PLATFORMS if one.file_name in there], CHECKSUMS in there)


def _of_a_release(settings: ApiSettings) -> Installer:
    channel = settings.agent_installer_channel
    place = f"{_FORGE}/{settings.agent_installer_repository}/releases"
    files = f"{place}/latest/download" if channel == "latest" else f"{place}/download/{channel}"
    return _installer(settings, "github-releases", files, list(PLATFORMS), True)


def _installer(
    settings: ApiSettings,
    provider: Literal["github-releases", "self"],
    files: str,
    platforms: list[Platform],
    has_checksums: bool,
) -> Installer:
    return Installer(
        provider=provider,
        repository=settings.agent_installer_repository,
        channel=settings.agent_installer_channel,
        docs_url=f"{_FORGE}/{settings.agent_installer_repository}#readme",
        artifacts=[_artifact(platform, f"{files}/{platform.file_name}", settings.api_base) for platform in platforms],
        checksums_url=f"{files}/{CHECKSUMS}" if has_checksums else None,
        api_base=settings.api_base,
    )


def _artifact(platform: Platform, url: str, api_base: str) -> Artifact:
    return Artifact(
        platform_id=platform.id,
        os=platform.os,
        arch=platform.arch,
        file_name=platform.file_name,
        archive_type=platform.archive_type,
        download_url=url,
        shell=platform.shell,
        commands=commands(platform, url, api_base),
    )


def _unavailable() -> ApiError:
    return ApiError(503, "AGENT_INSTALLER_UNAVAILABLE", "This installation offers no downloads of the agent.")


routes = [get_installer]
