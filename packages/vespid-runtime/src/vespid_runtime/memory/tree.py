"""A folder of files that somebody hostile may change at any moment: no link in it is ever followed.

Where the system opens files relative to an open folder, every step is such an opening, so that a link swapped in
between two steps is not followed either. Elsewhere (Windows) each step is looked at by name just before it is used.
"""

import contextlib
import errno
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

# Names beginning so are files that are being written; a document's name never begins with a dot.
TEMPORARY = ".new-"

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW | _CLOEXEC
_READ = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | _CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | getattr(os, "O_BINARY", 0) | _CLOEXEC
_REPARSE_POINT = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: links and junctions of Windows


class Tree(Protocol):
    """Files below one folder, by the parts of their paths. OSError where a part is not what it should be."""

    def walk(self, max_depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
        """Every regular file with its size; what is neither that nor a folder is passed over."""
        ...

    def read(self, parts: Sequence[str], max_bytes: int) -> bytes | None:
        """Its first bytes; None where no regular file is."""
        ...

    def write(self, parts: Sequence[str], data: bytes) -> None:
        """Put it there in one step, mode 0600, and what folders it needs, mode 0700."""
        ...

    def remove(self, parts: Sequence[str]) -> bool:
        """Whether there was one. Folders that it leaves empty go too."""
        ...


def open_tree(root: Path, below: Sequence[str]) -> Tree:
    """The folder `below` the root; the root itself is the operator's and may be reached through links."""
    if os.open in os.supports_dir_fd and os.scandir in os.supports_fd and _NOFOLLOW:
        return TreeByDescriptor(root, below)
    return TreeByName(root, below)


class TreeByDescriptor:
    """Every step is an opening relative to the folder before."""

    def __init__(self, root: Path, below: Sequence[str]) -> None:
        self._root = root
        self._below = tuple(below)

    def walk(self, max_depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
        with contextlib.suppress(FileNotFoundError), self._folder(()) as top:
            yield from self._walk(top, (), max_depth)

    def read(self, parts: Sequence[str], max_bytes: int) -> bytes | None:
        try:
            with self._folder(parts[:-1]) as folder:
                return _read(os.open(parts[-1], _READ, dir_fd=folder), max_bytes)
        except OSError as error:
            if _is_nothing_there(error):
                return None
            raise

    def write(self, parts: Sequence[str], data: bytes) -> None:
        with self._folder(parts[:-1], create=True) as folder:
            temporary = TEMPORARY + secrets.token_hex(8)
            try:
                _write(os.open(temporary, _CREATE, 0o600, dir_fd=folder), data)
                os.replace(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def remove(self, parts: Sequence[str]) -> bool:
        try:
            with self._folder(parts[:-1]) as folder:
                os.unlink(parts[-1], dir_fd=folder)
        except OSError as error:
            if _is_nothing_there(error):
                return False
            raise
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for depth in range(len(parts) - 1, 0, -1):
                with self._folder(parts[: depth - 1]) as folder:
                    os.rmdir(parts[depth - 1], dir_fd=folder)
        return True

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        if create:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(self._root, _FOLDER & ~_NOFOLLOW)
        try:
            for part in (*self._below, *parts):
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=held)
                inner = os.open(part, _FOLDER, dir_fd=held)
                os.close(held)
                held = inner
            yield held
        finally:
            os.close(held)

    def _walk(self, folder: int, above: tuple[str, ...], max_depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            parts = (*above, _as_written(entry.name))
            try:
                status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield parts, status.st_size
                elif stat.S_ISDIR(status.st_mode) and len(parts) < max_depth:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        yield from self._walk(inner, parts, max_depth)
                    finally:
                        os.close(inner)
            except OSError as error:
                if not _is_nothing_there(error):
                    raise


class TreeByName:
    """Every step is looked at just before it is used."""

    def __init__(self, root: Path, below: Sequence[str]) -> None:
        self._root = root
        self._below = tuple(below)

    def walk(self, max_depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
        with contextlib.suppress(FileNotFoundError):
            yield from self._walk(self._folder(()), (), max_depth)

    def read(self, parts: Sequence[str], max_bytes: int) -> bytes | None:
        try:
            path = self._folder(parts[:-1]) / parts[-1]
            if not stat.S_ISREG(os.lstat(path).st_mode) or _is_link(path):
                return None
            return _read(os.open(path, _READ), max_bytes)
        except OSError as error:
            if _is_nothing_there(error):
                return None
            raise

    def write(self, parts: Sequence[str], data: bytes) -> None:
        folder = self._folder(parts[:-1], create=True)
        temporary = folder / (TEMPORARY + secrets.token_hex(8))
        try:
            _write(os.open(temporary, _CREATE, 0o600), data)
            os.replace(temporary, folder / parts[-1])
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, parts: Sequence[str]) -> bool:
        try:
            (self._folder(parts[:-1]) / parts[-1]).unlink()
        except OSError as error:
            if _is_nothing_there(error):
                return False
            raise
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for depth in range(len(parts) - 1, 0, -1):
                self._folder(parts[:depth]).rmdir()
        return True

    def _folder(self, parts: Sequence[str], *, create: bool = False) -> Path:
        if create:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._root
        for part in (*self._below, *parts):
            path = path / part
            if create:
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
            if _is_link(path) or not path.is_dir():
                missing = not os.path.lexists(path)
                raise FileNotFoundError(path) if missing else NotADirectoryError(f"{part} is not a folder")
        return path

    def _walk(self, folder: Path, above: tuple[str, ...], max_depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
        for path in sorted(folder.iterdir()):
            parts = (*above, _as_written(path.name))
            try:
                status = os.lstat(path)
                if _is_link(path):
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield parts, status.st_size
                elif stat.S_ISDIR(status.st_mode) and len(parts) < max_depth:
                    yield from self._walk(path, parts, max_depth)
            except OSError as error:
                if not _is_nothing_there(error):
                    raise


def _read(descriptor: int, max_bytes: int) -> bytes | None:
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _is_link(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_file_attributes", 0) & _REPARSE_POINT)


def _is_nothing_there(error: OSError) -> bool:
    """Whether it says that there is no such file: none at all, a link, or a folder where a file should be."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return True
    return error.errno in (errno.ELOOP, errno.ENXIO)


def _as_written(name: str) -> str:
    """A Mac may list a name in another normal form than it was written in."""
    return unicodedata.normalize("NFC", name) if sys.platform == "darwin" else name
