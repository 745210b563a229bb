"""The profile file: private, replaced whole, and one truth for all processes that use it."""

import asyncio
import stat
import sys
from pathlib import Path

import pytest

from vespid.cli.problem import Problem
from vespid.cli.profiles import Config, Profile, ProfileFile, choose, with_profile
from vespid.cli.sign_in import ProfileStore
from vespid_client import Login

KEEP = """
import sys
from pathlib import Path
from vespid.cli.profiles import Profile, ProfileFile
file = ProfileFile(Path(sys.argv[1]), print)
for n in range(20):
    file.keep(f"{sys.argv[2]}-{n}", Profile(refresh_token="x" * 2000))
"""


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def file(tmp_path: Path, warnings: list[str]) -> ProfileFile:
    return ProfileFile(tmp_path / "vespid" / "config.json", warnings.append)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_and_its_folder_are_for_nobody_else(file: ProfileFile) -> None:
    file.keep("default", Profile(api_key="secret"))
    assert mode(file.path) == 0o600
    assert mode(file.path.parent) == 0o700
    assert [path.name for path in file.path.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_file_that_others_can_read_is_closed_and_that_is_said(file: ProfileFile, warnings: list[str]) -> None:
    file.keep("default", Profile(api_key="secret"))
    file.path.chmod(0o644)
    assert file.read().profiles["default"].api_key == "secret"
    assert mode(file.path) == 0o600
    assert "could be read by others" in warnings[0]


def test_a_file_that_is_something_else_is_said_to_be_and_left(file: ProfileFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text("not json")
    with pytest.raises(Problem, match="is not a config of vespid"):
        file.read()
    with pytest.raises(Problem):
        file.keep("default", Profile())
    assert file.path.read_text() == "not json"


async def test_processes_that_write_at_the_same_time_lose_nothing(file: ProfileFile) -> None:
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", KEEP, str(file.path), name) for name in "abcd"
    ]
    while any(writer.returncode is None for writer in writers):
        # Whoever reads meanwhile reads a whole file.
        file.read()
        await asyncio.wait([asyncio.create_task(writer.wait()) for writer in writers], timeout=0.01)
    assert len(file.read().profiles) == 4 * 20


def test_a_login_that_came_late_does_not_replace_a_newer_one(file: ProfileFile) -> None:
    file.keep("default", Profile(refresh_token="first"))
    slow, quick = ProfileStore(file, "default"), ProfileStore(file, "default")
    slow.load()
    quick.load()
    quick.save(Login(refresh_token="second"))
    slow.save(Login(refresh_token="also of the first"))
    slow.save(None)
    assert file.read().profiles["default"].refresh_token == "second"
    assert slow.load() == Login(refresh_token="second")


def test_the_environment_goes_before_the_file() -> None:
    config = with_profile(Config(), "default", Profile(org_id="o", refresh_token="r"))
    assert choose(config, {}, None).profile.refresh_token == "r"
    key = choose(config, {"VESPID_API_KEY": "org.vak_x", "VESPID_ORG": "acme"}, None).profile
    assert (key.api_key, key.org_id, key.refresh_token) == ("org.vak_x", "acme", None)


def test_a_login_is_not_shown_to_another_server() -> None:
    config = with_profile(Config(), "default", Profile(api_base="https://ours", refresh_token="r", access_token="a"))
    elsewhere = choose(config, {"VESPID_API_BASE": "https://theirs"}, None).profile
    assert not elsewhere.is_signed_in
    assert elsewhere.access_token is None
    assert choose(config, {"VESPID_API_BASE": "https://ours/"}, None).profile.is_signed_in


def test_a_profile_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    config = with_profile(Config(), "home", Profile())
    with pytest.raises(Problem, match="there are: home"):
        choose(config, {}, "work")
    with pytest.raises(Problem, match="'work'"):
        choose(config, {"VESPID_PROFILE": "work"}, None)


def test_a_profile_does_not_show_its_secrets() -> None:
    assert "s3cret" not in repr(Profile(api_key="s3cret", refresh_token="s3cret", access_token="s3cret"))
