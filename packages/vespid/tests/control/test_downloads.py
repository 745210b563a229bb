"""A control plane that serves the agent's archives itself."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.support.control import Answer, Control, api_settings
from yarl import URL

from vespid.control.app import ControlPlane
from vespid.local.downloads import offered
from vespid.settings import ApiSettings, SettingsRefused

LINUX, MAC = "vespid-agent-linux-x64.tar.gz", "vespid-agent-darwin-arm64.tar.gz"
CONTENT = os.urandom(1_000_000)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / LINUX).write_bytes(CONTENT)
    (folder / "vespid-agent-checksums.txt").write_text(f"{hashlib.sha256(CONTENT).hexdigest()}  {LINUX}\n")
    (folder / "secret.txt").write_text("not for anybody")
    (tmp_path / LINUX).write_text("beside the folder")
    return folder


@pytest.fixture
async def serving(database_url: str, redis_url: str, dist: Path) -> AsyncIterator[Control]:
    settings = msgspec.structs.replace(
        api_settings(database_url, redis_url, agent_installer_artifacts_dir=str(dist)),
        web_base_url=("https://vespid.example/",),
    )
    plane = ControlPlane(settings)
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            yield Control(plane, http)
    finally:
        await plane.stop()


async def installer(control: Control) -> Answer:
    return await control.anonymous().get("/v1/meta/agent-installer")


async def fetch(control: Control, name: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with control.http.get(f"/downloads/{name}", headers=names) as response:
        return response, await response.read()


async def test_what_is_there_is_offered_from_here_with_the_runbooks_commands(serving: Control) -> None:
    body = (await installer(serving)).body
    assert (body["provider"], body["apiBase"]) == ("self", "https://vespid.example")
    (artifact,) = body["artifacts"]
    url = f"https://vespid.example/downloads/{LINUX}"
    assert (artifact["platformId"], artifact["fileName"], artifact["downloadUrl"]) == ("linux-x64", LINUX, url)
    assert artifact["commands"][0] == f'curl -fsSL "{url}" -o "{LINUX}"'
    assert artifact["commands"][-1].endswith('--pairing-token "<token>" --api-base "https://vespid.example"')
    assert body["checksumsUrl"] == "https://vespid.example/downloads/vespid-agent-checksums.txt"


async def test_a_platform_is_offered_as_soon_as_its_file_is_there_and_nothing_is_when_none_is(
    serving: Control, dist: Path
) -> None:
    (dist / MAC).write_bytes(b"mac")
    assert [one["fileName"] for one in (await installer(serving)).body["artifacts"]] == [MAC, LINUX]
    (dist / "vespid-agent-checksums.txt").unlink()
    assert (await installer(serving)).body["checksumsUrl"] is None
    (dist / MAC).unlink()
    (dist / LINUX).unlink()
    answer = await installer(serving)
    assert (answer.status, answer.code) == (503, "AGENT_INSTALLER_UNAVAILABLE")


async def test_anybody_can_download_and_check_a_file(serving: Control) -> None:
    response, content = await fetch(serving, LINUX)
    assert (response.status, content) == (200, CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert (response.headers["X-Checksum-Sha256"], response.headers["ETag"]) == (digest, f'"{digest}"')
    assert "Last-Modified" in response.headers
    _, sums = await fetch(serving, "vespid-agent-checksums.txt")
    assert sums.decode() == f"{digest}  {LINUX}\n"


async def test_a_download_can_be_gone_on_with_and_is_not_made_twice(serving: Control, dist: Path) -> None:
    response, rest = await fetch(serving, LINUX, Range="bytes=400000-")
    assert (response.status, rest) == (206, CONTENT[400_000:])
    assert response.headers["Content-Range"] == "bytes 400000-999999/1000000"
    _, middle = await fetch(serving, LINUX, Range="bytes=10-19")
    _, last = await fetch(serving, LINUX, Range="bytes=-5")
    assert (middle, last) == (CONTENT[10:20], CONTENT[-5:])
    beyond, _ = await fetch(serving, LINUX, Range="bytes=1000000-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */1000000")
    for nonsense in ("bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        whole, _ = await fetch(serving, LINUX, Range=nonsense)
        assert whole.status == 200, nonsense
    tag = response.headers["ETag"]
    unchanged, nothing = await fetch(serving, LINUX, If_None_Match=tag)
    assert (unchanged.status, nothing) == (304, b"")
    # Of another version there is no rest to be had.
    (dist / LINUX).write_bytes(b"a new version")
    changed, new = await fetch(serving, LINUX, Range="bytes=4-", If_Range=tag)
    assert (changed.status, new) == (200, b"a new version")


@pytest.mark.parametrize(
    "name",
    [
        "secret.txt",
        MAC,
        f"..%2F{LINUX}",
        f"%2e%2e/{LINUX}",
        f".%2F{LINUX}",
        f"{LINUX}%00",
        "..%2f..%2fetc%2fpasswd",
        LINUX.upper(),
    ],
)
async def test_nothing_but_the_agreed_names_is_served(serving: Control, name: str) -> None:
    async with serving.http.get(URL(f"{serving.url}/downloads/{name}", encoded=True)) as response:
        assert (response.status, (await response.json())["code"]) == (404, "NOT_FOUND")


async def test_where_downloads_are_not_offered_there_are_none(control: Control) -> None:
    response, _ = await fetch(control, LINUX)
    assert response.status == 404


def test_a_folder_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "postgresql://db/x", "REDIS_URL": "redis://cache", "VESPID_ENV": "test"}
    with pytest.raises(SettingsRefused, match=r"AGENT_INSTALLER_ARTIFACTS_DIR is .*: there is no such folder"):
        ApiSettings.from_env({**env, "AGENT_INSTALLER_ARTIFACTS_DIR": str(tmp_path / "missing")})


def test_vespid_up_offers_what_a_checkout_has_built_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "agent_binary").mkdir()
    assert offered({}, tmp_path) == {}
    (tmp_path / "dist").mkdir()
    assert offered({}, tmp_path) == {}
    (tmp_path / "dist" / LINUX).write_bytes(CONTENT)
    made = {"AGENT_INSTALLER_ENABLED": "1", "AGENT_INSTALLER_ARTIFACTS_DIR": str(tmp_path / "dist")}
    assert offered({}, tmp_path) == made
    assert offered({"AGENT_INSTALLER_ENABLED": "0"}, tmp_path) == {}
