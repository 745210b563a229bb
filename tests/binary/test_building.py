"""What comes out of the build has the names and the form that people and the installer route rely on."""

import hashlib
import os
import ssl
import sys
import tarfile
import zipfile
from pathlib import Path

import certifi
import pytest
import yaml
from agent_binary import build, entry
from agent_binary.archive import pack, write_checksums
from agent_binary.freeze import ROOT
from agent_binary.names import TARGETS, Target, this_machine

from vespid_agent import __version__


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.os)
def test_each_archive_holds_one_executable_and_the_same_input_gives_the_same_bytes(
    tmp_path: Path, target: Target
) -> None:
    executable = tmp_path / "made"
    executable.write_bytes(b"program" * 1000)
    (tmp_path / "again").mkdir()
    archive = pack(executable, target, tmp_path)
    assert archive.read_bytes() == pack(executable, target, tmp_path / "again").read_bytes()
    assert archive.name == f"vespid-agent-{target.os}-{target.arch}.{'zip' if target.os == 'windows' else 'tar.gz'}"
    if target.os == "windows":
        with zipfile.ZipFile(archive) as zipped:
            found = [(one.filename, one.external_attr >> 16) for one in zipped.infolist()]
    else:
        with tarfile.open(archive) as tarred:
            found = [(one.name, one.mode) for one in tarred.getmembers()]
    assert found == [(target.executable, 0o755)]


def test_the_checksums_are_of_what_is_there(tmp_path: Path) -> None:
    names = [target.archive for target in TARGETS[:2]]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    lines = write_checksums(tmp_path).read_text().splitlines()
    assert lines == [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}" for name in sorted(names)]


def test_the_version_is_the_agents() -> None:
    assert build.version() == __version__


def test_a_machine_without_a_download_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="install from packages"):
        this_machine()


def test_the_environment_is_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.executable", "/cache/vespid-agent")
    monkeypatch.setattr("sys._MEIPASS", "/cache/_internal", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/cache/_internal:/cache/_internal:/theirs")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/cache/_internal:/theirs")
    monkeypatch.setenv("_PYI_ARCHIVE_FILE", "/cache/vespid-agent")
    monkeypatch.setenv("VESPID_AGENT_STARTED_AS", "/usr/local/bin/vespid-agent")
    entry.forget_the_way_in()
    assert os.environ["LD_LIBRARY_PATH"] == "/theirs"
    assert not [name for name in os.environ if name.startswith(("_PYI", "VESPID_AGENT_STARTED_AS", "LD_LIBRARY_PATH_"))]
    assert sys.executable == "/usr/local/bin/vespid-agent"


def test_authorities_are_found_where_the_system_keeps_them_and_else_are_those_that_came_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/no/cert.pem", "SSL_CERT_DIR", "/no/certs")
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: nowhere)
    monkeypatch.setenv("SSL_CERT_FILE", "")
    kept = tmp_path / "bundle.pem"
    monkeypatch.setattr(entry, "_AUTHORITIES", ("/no/such.pem", str(kept)))
    entry.find_authorities()
    assert os.environ["SSL_CERT_FILE"] == certifi.where()
    kept.write_text("")
    entry.find_authorities()
    assert os.environ["SSL_CERT_FILE"] == str(kept)
    found = nowhere._replace(cafile="/theirs.pem")
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: found)
    monkeypatch.setenv("SSL_CERT_FILE", "/theirs.pem")
    entry.find_authorities()
    assert os.environ["SSL_CERT_FILE"] == "/theirs.pem"


def test_the_release_builds_every_platform_by_the_same_command_and_uploads_what_the_runbook_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` so
    jobs = workflow["jobs"]
    built = {row["platform"]: row["archive"] for row in jobs["build"]["strategy"]["matrix"]["include"]}
    assert built == {f"{target.os}-{target.arch}": target.archive for target in TARGETS}
    assert "python -m agent_binary" in str(jobs["build"]["steps"])
    assert jobs["release"]["needs"] == "build"
    assert "vespid-agent-checksums.txt" in str(jobs["release"]["steps"])
    assert jobs["release"]["permissions"] == {"contents": "write"}
    assert workflow["permissions"] == {"contents": "read"}
