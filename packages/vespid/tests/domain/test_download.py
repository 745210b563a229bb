"""What people copy: the runbook's words, with the addresses put in."""

# ruff: noqa: E501 - commands are quoted as they are

import re
from pathlib import Path

import pytest
from agent_binary.names import CHECKSUMS as BUILT_CHECKSUMS
from agent_binary.names import TARGETS

from vespid.domain.download import CHECKSUMS, PLATFORMS, Platform, commands

# As the operator's runbook has them ("Pairing Flow", standalone binary examples).
RUNBOOK = {
    "darwin-arm64": r"""
curl -fsSL "https://github.com/vespid-ai/vespid/releases/latest/download/vespid-agent-darwin-arm64.tar.gz" -o "vespid-agent-darwin-arm64.tar.gz"
tar -xzf "vespid-agent-darwin-arm64.tar.gz"
chmod +x ./vespid-agent
./vespid-agent connect --pairing-token "<token>" --api-base "http://localhost:3001"
""",
    "linux-x64": r"""
curl -fsSL "https://github.com/vespid-ai/vespid/releases/latest/download/vespid-agent-linux-x64.tar.gz" -o "vespid-agent-linux-x64.tar.gz"
tar -xzf "vespid-agent-linux-x64.tar.gz"
chmod +x ./vespid-agent
./vespid-agent connect --pairing-token "<token>" --api-base "http://localhost:3001"
""",
    "windows-x64": r"""
Invoke-WebRequest -Uri "https://github.com/vespid-ai/vespid/releases/latest/download/vespid-agent-windows-x64.zip" -OutFile "vespid-agent-windows-x64.zip"
Expand-Archive -Path "vespid-agent-windows-x64.zip" -DestinationPath . -Force
.\\vespid-agent.exe connect --pairing-token "<token>" --api-base "http://localhost:3001"
""",
}
RELEASE = "https://github.com/vespid-ai/vespid/releases/latest/download"


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.id)
def test_the_commands_are_the_runbooks(platform: Platform) -> None:
    said = commands(platform, f"{RELEASE}/{platform.file_name}", "http://localhost:3001")
    assert said == RUNBOOK[platform.id].strip().splitlines()


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.id)
def test_addresses_and_the_token_are_put_in_and_nothing_else_changes(platform: Platform) -> None:
    url = f"https://vespid.example/downloads/{platform.file_name}"
    said = "\n".join(commands(platform, url, "https://vespid.example", "o.pair_1"))
    expected = RUNBOOK[platform.id].strip().replace(f"{RELEASE}/{platform.file_name}", url)
    assert said == expected.replace("http://localhost:3001", "https://vespid.example").replace("<token>", "o.pair_1")


def test_what_is_built_has_the_names_that_are_offered() -> None:
    offered = {(one.os, one.arch, one.file_name) for one in PLATFORMS}
    assert offered == {(target.os, target.arch, target.archive) for target in TARGETS}
    assert CHECKSUMS == BUILT_CHECKSUMS


def test_the_page_of_downloads_says_the_same() -> None:
    page = (Path(__file__).parents[4] / "docs" / "download.md").read_text()
    blocks = re.findall(r"```(?:bash|powershell)\n(.*?)```", page, re.S)
    for lines in RUNBOOK.values():
        assert lines.lstrip() in blocks
