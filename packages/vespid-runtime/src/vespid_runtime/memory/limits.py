"""How much a memory holds, and which names it cannot hold side by side: the same wherever it is kept."""

import contextlib
from collections.abc import Iterable, Mapping

from vespid_runtime.memory.paths import MemoryRefused, same_file_key

DOCUMENTS_MAX = 500
DOCUMENT_MAX_BYTES = 256 * 1024
TOTAL_MAX_BYTES = 8 * 1024 * 1024


def check_size(path: str, size: int) -> None:
    """Raises MemoryRefused where a document of that many bytes is too large."""
    if size > DOCUMENT_MAX_BYTES:
        raise MemoryRefused("content", f"{path} is larger than {DOCUMENT_MAX_BYTES} bytes")


def check_limits(path: str, count: int, size: int, total: int) -> None:
    """`path` of `size` bytes makes `count` documents of `total` bytes. Raises MemoryRefused."""
    check_size(path, size)
    if count > DOCUMENTS_MAX:
        raise too_many(path)
    if total > TOTAL_MAX_BYTES:
        raise MemoryRefused("content", f"with {path} the memory would be larger than {TOTAL_MAX_BYTES} bytes")


def is_full(count: int) -> bool:
    return count >= DOCUMENTS_MAX


def too_many(path: str) -> MemoryRefused:
    return MemoryRefused("path", f"{path} is one too many: a memory has at most {DOCUMENTS_MAX} documents")


def check_names(path: str, names: dict[str, str]) -> None:
    """Raises MemoryRefused where a part differs only in case from one in `names`, or a file is also a folder."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
        seen = names.setdefault(same_file_key(name.rstrip("/")), name)
        if seen != name:
            raise MemoryRefused("path", f"{path} and {seen} would be one file on some systems")


def check_written(sizes: Mapping[str, int], written: Mapping[str, str], removed: Iterable[str] = ()) -> None:
    """`sizes` (path → bytes) with those written and without those removed. Raises MemoryRefused beyond a limit, and
    where two names would be one file somewhere."""
    gone = set(removed)
    sizes = {path: size for path, size in sizes.items() if path not in gone}
    names: dict[str, str] = {}
    for path in sizes:
        with contextlib.suppress(MemoryRefused):  # it stands already; that is said when it is to travel
            check_names(path, names)
    for path in written:
        check_names(path, names)
    # One that is too large by itself does not travel, and takes no other's room.
    total = sum(size for path, size in sizes.items() if path not in written and size <= DOCUMENT_MAX_BYTES)
    count = len(sizes.keys() | written.keys())
    for path, content in written.items():
        size = len(content.encode())
        total += size
        check_limits(path, count, size, total)


def appended(before: str, content: str) -> str:
    """What is added begins on a line of its own."""
    between = "\n" if before and not before.endswith("\n") else ""
    return before + between + content
