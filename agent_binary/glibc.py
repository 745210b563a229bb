"""Which glibc the frozen files need at least: the highest version that any of them names."""

import re
from pathlib import Path

_NAMED = re.compile(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0")


def needed(folder: Path) -> tuple[int, int]:
    """(2, 36): as it stands in their tables of strings."""
    found = {(2, 0)}
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if content.startswith(b"\x7fELF"):
                found |= {(int(major), int(minor)) for major, minor in _NAMED.findall(content)}
    return max(found)
