"""A place without Python: a root folder with the C library, a busybox for /bin/sh, certificates, and what is put there.

Programs run there in a mount namespace of their own and keep the process number that they were started with: nothing
stands between them and the test. `/tmp` is there, and nothing may be executed in it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_LIBRARIES = ("libc", "libm", "libdl", "libpthread", "librt", "libutil", "libresolv", "libnss_dns", "libnss_files")
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_APPLETS = "cat echo env grep head id kill ls mkdir ps pwd rm sed sh sleep tail touch true wc".split()  # noqa: SIM905
_ENTER = """
mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t tmpfs -o noexec,mode=1777 tmpfs "$0/tmp" &&
exec chroot "$0" "$@"
"""


class BareRoot:
    """`program(...)` is how a program of it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "proc", "dev", "tmp", "home", "etc/ssl", "lib64"):
            (folder / name).mkdir(parents=True)
        loader = _LOADER.resolve()
        shutil.copy(loader, folder / "lib64" / _LOADER.name)
        libraries = folder / "lib" / "x86_64-linux-gnu"
        libraries.mkdir(parents=True)
        for name in _LIBRARIES:
            for file in loader.parent.glob(f"{name}.so.*"):
                shutil.copy(file, libraries / file.name)
        shutil.copy(_busybox(), folder / "bin" / "busybox")
        for name in _APPLETS:
            (folder / "bin" / name).symlink_to("busybox")
        shutil.copytree("/etc/ssl/certs", folder / "etc" / "ssl" / "certs")

    @property
    def home(self) -> Path:
        """From outside; `/home` within."""
        return self.folder / "home"

    def put(self, file: Path) -> str:
        """The file's path within."""
        shutil.copy(file, self.folder / "bin" / file.name)
        return f"/bin/{file.name}"

    def program(self, path: str) -> tuple[str, ...]:
        own = () if os.geteuid() == 0 else ("--map-root-user",)
        return ("unshare", "--mount", *own, "sh", "-c", _ENTER, str(self.folder), path)

    def run(self, path: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """A program, to its end."""
        return subprocess.run(
            [*self.program(path), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": "/home", **env},
            capture_output=True,
            text=True,
            timeout=60,
        )


def _busybox() -> str:
    found = shutil.which("busybox")
    if found is None or not _LOADER.exists() or shutil.which("unshare") is None:
        pytest.skip("a place without Python needs Linux on x86-64, unshare and busybox-static")
    return found


@pytest.fixture
def bare_root(tmp_path: Path) -> BareRoot:
    return BareRoot(tmp_path / "bare")
