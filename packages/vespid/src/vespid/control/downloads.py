"""The files of AGENT_INSTALLER_ARTIFACTS_DIR, for anybody: a closed network's own place to download the agent from.

The one thing to know: a name is looked up among those that are agreed, and never put together with a path that somebody
sent. Reading is done in threads, a piece at a time; the loop never waits for a disk.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream

from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.domain.download import CHECKSUMS, PLATFORMS
from vespid.errors import ApiError, not_found

_NAMES = frozenset({CHECKSUMS, *(platform.file_name for platform in PLATFORMS)})
_PIECE_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as it was when it was asked for."""

    path: Path
    size: int
    modified_ns: int
    inode: int


# Reading 40 MB for their sum is done once.
_sums: dict[_Found, str] = {}


@get(
    "/downloads/{file_name:str}",
    responses={
        200: ResponseSpec(bytes, description="The file.", media_type="application/octet-stream"),
        206: ResponseSpec(bytes, description="A part of it.", media_type="application/octet-stream"),
        304: ResponseSpec(None, description="It has not changed."),
        **errors(404, 416),
    },
    operation_id="downloadAgent",
    tags=["meta"],
)
async def download(
    deps: NamedDependency[Deps], file_name: FromPath[str], request: Request[Any, Any, Any]
) -> Response[Any]:
    """One of the agent's archives, or their checksums. `Range` and `If-None-Match` are honoured."""
    settings = deps.settings
    if not (settings.agent_installer_enabled and settings.agent_installer_artifacts_dir and file_name in _NAMES):
        raise _no_download()
    try:
        found, digest = await asyncio.to_thread(_look_at, Path(settings.agent_installer_artifacts_dir) / file_name)
    except OSError:
        raise _no_download() from None
    tag = f'"{digest}"'
    headers = {
        "ETag": tag,
        "Last-Modified": formatdate(found.modified_ns / 1e9, usegmt=True),
        "Accept-Ranges": "bytes",
        "X-Checksum-Sha256": digest,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{file_name}"',
    }
    if tag in (known.strip() for known in request.headers.get("If-None-Match", "").split(",")):
        return Response(None, status_code=304, headers=headers)
    part = None
    if request.headers.get("If-Range", tag) == tag:
        part = _part(request.headers.get("Range", ""), found.size)
    first, last = part or (0, found.size - 1)
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    headers["Content-Length"] = str(last - first + 1)
    media_type = "text/plain; charset=utf-8" if file_name == CHECKSUMS else "application/octet-stream"
    status = 200 if part is None else 206
    return Stream(_pieces(found, first, last), status_code=status, media_type=media_type, headers=headers)


def _no_download() -> ApiError:
    return not_found(message="There is no such download here.")


def _look_at(path: Path) -> tuple[_Found, str]:
    """The file and its sum. Raises OSError."""
    with path.open("rb") as file:
        found = _found(path, file)
        if found not in _sums:
            _sums[found] = hashlib.file_digest(file, "sha256").hexdigest()
        return found, _sums[found]


def _found(path: Path, file: BinaryIO) -> _Found:
    about = os.fstat(file.fileno())
    return _Found(path, about.st_size, about.st_mtime_ns, about.st_ino)


def _part(asked: str, size: int) -> tuple[int, int] | None:
    """First and last byte; None: all of it, also where several parts or another unit are asked for.

    Raises ApiError where nothing of what is asked for is there.
    """
    named = _RANGE.fullmatch(asked.replace(" ", ""))
    if named is None or named.groups() == ("", ""):
        return None
    if named[1]:
        first, last = int(named[1]), min(int(named[2] or size - 1), size - 1)
    else:
        first, last = max(size - int(named[2]), 0), size - 1
    if named[2] and named[1] and int(named[2]) < int(named[1]):
        return None
    if first > last:
        whole = {"Content-Range": f"bytes */{size}"}
        raise ApiError(416, "BAD_REQUEST", f"The file has {size} bytes.", headers=whole)
    return first, last


async def _pieces(found: _Found, first: int, last: int) -> AsyncIterator[bytes]:
    """Fewer than were promised where another file has come in its place: then the client knows that it has nothing."""
    file = await asyncio.to_thread(found.path.open, "rb")
    try:
        if _found(found.path, file) != found:
            return
        await asyncio.to_thread(file.seek, first)
        left = last - first + 1
        while left > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
    finally:
        file.close()


routes = [download]
