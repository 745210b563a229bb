"""Static files: read and compressed once, named by their content, so that browsers may keep them for ever."""

import gzip
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_IMPORTED = re.compile(rb'from "\./([a-z0-9.-]+\.js)"')
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, both ways."""

    digest: str
    media_type: str
    plain: bytes
    gzipped: bytes


@cache
def assets() -> dict[str, Asset]:
    """Every file of `static/`, by name."""
    return {file.name: _asset(file.name) for file in files("vespid.web").joinpath("static").iterdir()}


@cache
def _asset(name: str) -> Asset:
    content = files("vespid.web").joinpath("static", name).read_bytes()
    # A module that others import is asked for by one path everywhere: a second path would be a second copy of it.
    content = _IMPORTED.sub(lambda found: f'from "{_path(found[1].decode())}"'.encode(), content)
    digest = sha256(content).hexdigest()[:16]
    return Asset(digest, _TYPES[name[name.rfind(".") :]], content, gzip.compress(content, 9, mtime=0))


def _path(name: str) -> str:
    return f"/assets/{_asset(name).digest}/{name}"


def asset_path(name: str) -> str:
    """Where a page finds it. Raises KeyError for a file that there is not."""
    return f"/assets/{assets()[name].digest}/{name}"


@get("/assets/{digest:str}/{name:str}", include_in_schema=False)
async def asset(request: Request[Any, Any, Any], digest: FromPath[str], name: FromPath[str]) -> Response[bytes]:
    """One file. A name of an older release is answered with what there is now, but not kept."""
    found = assets().get(name)
    if found is None:
        return Response(b"", status_code=404, media_type="text/plain")
    headers = {
        "Cache-Control": _FOREVER if digest == found.digest else "no-store",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.gzipped, media_type=found.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(found.plain, media_type=found.media_type, headers=headers)


routes = [asset]
