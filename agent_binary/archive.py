"""The executable as an archive with that one file at its root, and the sums of all archives of a folder."""

import gzip
import hashlib
import tarfile
import zipfile
from pathlib import Path

from agent_binary.names import CHECKSUMS, TARGETS, Target


def pack(executable: Path, target: Target, dist: Path) -> Path:
    """The archive. The same executable gives the same bytes; whoever looks never finds half of it."""
    made = dist / target.archive
    beside = made.with_name(f".{made.name}")
    if target.os == "windows":
        _zip(executable, target.executable, beside)
    else:
        _tar(executable, target.executable, beside)
    beside.replace(made)
    return made


def _zip(executable: Path, name: str, made: Path) -> None:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o755 << 16
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(entry, executable.read_bytes())


def _tar(executable: Path, name: str, made: Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = executable.stat().st_size, 0o755
    with (
        made.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
        executable.open("rb") as content,
    ):
        archive.addfile(entry, content)


def write_checksums(dist: Path) -> Path:
    """As `sha256sum` writes them: a line for each archive that is there."""
    lines = []
    for name in sorted(target.archive for target in TARGETS):
        if (dist / name).exists():
            with (dist / name).open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    made = dist / CHECKSUMS
    made.write_text("".join(lines), newline="\n")
    return made
