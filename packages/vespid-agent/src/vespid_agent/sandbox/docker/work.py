"""What a container has at /work: a folder of this machine, or a volume where the engine is elsewhere.

A volume is filled before the task and read back after it, through the engine's archive API. What comes back was made by
the task and is hostile: only plain files, folders and links that stay within are taken, up to a size.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from vespid_agent.sandbox.docker.container import OWNER_LABEL, TASK_LABEL, WORK, Container
from vespid_agent.sandbox.docker.engine import Engine, EngineError
from vespid_agent.sandbox.task import QuotaExceeded

if TYPE_CHECKING or sys.version_info >= (3, 12):
    import tarfile
else:  # Debian 12 has a Python 3.11 from before the filters of hostile archives
    from backports import tarfile

_CHUNK = 256 * 1024


class Work(Protocol):
    """The folder of one task."""

    async def mount(self) -> Mapping[str, object]:
        """The mount at /work, made where it has to be."""
        ...

    async def fill(self, container: Container) -> None:
        """Before the task: what is in the folder is in the container."""
        ...

    async def read_back(self, container: Container) -> None:
        """After the task: what it left is in the folder. Raises QuotaExceeded."""
        ...

    async def remove(self) -> None:
        """The container is gone; nothing stays at the engine. Harmless to repeat."""
        ...


class BoundWork:
    """The folder itself. Whoever runs inside has to be able to write there."""

    def __init__(self, folder: Path, owner: tuple[int, int] | None) -> None:
        """`owner` is given the folder; None: it is his already."""
        self._folder = folder
        self._owner = owner

    async def mount(self) -> Mapping[str, object]:
        if self._owner is not None and sys.platform != "win32":
            os.chown(self._folder, *self._owner, follow_symlinks=False)
        return {"Type": "bind", "Source": str(self._folder), "Target": WORK, "BindOptions": {"Propagation": "rprivate"}}

    async def fill(self, container: Container) -> None:
        """It is there."""

    async def read_back(self, container: Container) -> None:
        """It is there."""

    async def remove(self) -> None:
        """Nothing was made."""


class VolumeWork:
    """A volume that lives as long as the task."""

    def __init__(self, engine: Engine, folder: Path, owner: str, token: str, user: tuple[int, int], most: int) -> None:
        """`most` bytes are read back; 0: any number."""
        self._engine = engine
        self._folder = folder
        self._owner = owner
        self._token = token
        self._user = user
        self._most = most

    @property
    def name(self) -> str:
        return volume_name(self._token)

    async def mount(self) -> Mapping[str, object]:
        labels = {OWNER_LABEL: self._owner, TASK_LABEL: self._token}
        await self._engine.post("/volumes/create", {"Name": self.name, "Labels": labels})
        # NoCopy: nothing of the image's own /work.
        return {"Type": "volume", "Source": self.name, "Target": WORK, "VolumeOptions": {"NoCopy": True}}

    async def fill(self, container: Container) -> None:
        with tempfile.TemporaryFile(prefix="vespid-work-") as file:
            await asyncio.to_thread(self._pack, file)
            await self._engine.put_archive(container.name, WORK, _chunks(file))

    async def read_back(self, container: Container) -> None:
        with tempfile.TemporaryFile(prefix="vespid-work-") as file:
            size = 0
            async for chunk in self._engine.get_archive(container.name, WORK):
                size += len(chunk)
                if self._most and size > self._most:
                    raise QuotaExceeded(f"the task left more than {self._most} bytes in /work")
                file.write(chunk)
            await asyncio.to_thread(self._unpack, file)

    async def remove(self) -> None:
        with contextlib.suppress(EngineError):
            await self._engine.delete(f"/volumes/{self.name}", force="true")

    def _pack(self, file: IO[bytes]) -> None:
        uid, gid = self._user

        def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.uid, entry.gid, entry.uname, entry.gname = uid, gid, "", ""
            return entry

        with tarfile.open(fileobj=file, mode="w") as tar:
            # The folder itself: an engine passes over an entry called `.`, but not over this one.
            root = tarfile.TarInfo("/")
            root.type, root.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(owned(root))
            for entry in sorted(self._folder.iterdir()):
                tar.add(entry, arcname=entry.name, filter=owned)
        file.seek(0)

    def _unpack(self, file: IO[bytes]) -> None:
        """The folder becomes what the archive holds."""
        file.seek(0)
        for entry in self._folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                taken = self._taken(member)
                if taken is not None:
                    tar.extract(taken, self._folder, set_attrs=True, filter="data")

    def _taken(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """The entry below our folder; None for what is not taken: the folder itself, devices, links that lead out."""
        parts = PurePosixPath(member.name).parts[1:]
        if not parts:
            return None
        inner = member.replace(name=str(PurePosixPath(*parts)), deep=False)
        if member.islnk():
            inner = inner.replace(linkname=str(PurePosixPath(*PurePosixPath(member.linkname).parts[1:])), deep=False)
        try:
            return tarfile.data_filter(inner, str(self._folder))
        except tarfile.FilterError:
            return None


def volume_name(token: str) -> str:
    return f"vespid-{token}"


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK):
        yield chunk
