"""A folder as one executable: `launcher.c` with the folder's files in it, by the C compiler of the system."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path


def wrap(folder: Path, program: str, version: str, work: Path) -> Path:
    """The executable, which runs `program` of the folder. Raises ValueError where there is no C compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise ValueError("there is no C compiler (cc): on Debian, 'apt-get install gcc libc6-dev' helps")
    work.mkdir(parents=True, exist_ok=True)
    rows, digest, offset = [], hashlib.sha256(), 0
    with (work / "payload.bin").open("wb") as payload:
        for file in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
            name, mode, content = str(file.relative_to(folder)), _mode(file), _content(file)
            rows.append(f"    {{{json.dumps(name)}, 0{mode:o}, {offset}, {len(content)}}},")
            digest.update(f"{name}\0{mode:o}\0{len(content)}\0".encode() + content)
            payload.write(content)
            offset += len(content)
    header = [
        f"#define PAYLOAD_ID {json.dumps(f'{version}-{digest.hexdigest()[:16]}')}",
        f"#define PROGRAM {json.dumps(program)}",
        *("static const struct entry files[] = {", *rows, "};"),
    ]
    (work / "payload.h").write_text("\n".join(header) + "\n")
    made = work / program
    source = Path(__file__).with_name("launcher.c")
    options = ["-O2", "-Wall", "-Wextra", "-Werror", *(("-Wl,-s",) if sys.platform == "linux" else ())]
    subprocess.run([compiler, *options, f"-I{work}", "-o", str(made), str(source)], check=True, cwd=work)
    return made


def _mode(file: Path) -> int:
    if file.is_symlink():
        return stat.S_IFLNK | 0o777
    return stat.S_IFREG | (0o700 if os.access(file, os.X_OK) else 0o600)


def _content(file: Path) -> bytes:
    """A link's content is where it points."""
    return os.fsencode(os.readlink(file)) if file.is_symlink() else file.read_bytes()
