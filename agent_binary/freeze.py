"""The agent and all it imports as a folder that needs no Python (PyInstaller), from an environment of its own.

That environment holds what `uv.lock` says for the agent and nothing else, so what lies about in a developer's own never
gets in. Tools for models and MCP are within: each is read when it is first needed, so they cost room and no time.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_SOURCES: Final = (
    ROOT / "packages" / "vespid-agent" / "src" / "vespid_agent",
    ROOT / "packages" / "vespid-runtime" / "src" / "vespid_runtime",
    ROOT / "packages" / "vespid-protocol" / "src" / "vespid_protocol",
)
_EXTRAS: Final = ("models", "mcp", "fast")
# Of tests and of builds, or of a second way to do what is never done here.
_UNWANTED: Final = ("vespid_agent.testing", "setuptools", "pkg_resources", "_distutils_hack", "tkinter", "readline")


def freeze(work: Path, *, onefile: bool) -> Path:
    """The executable: with its folder beside it, or (`onefile`) with all in it. `work` is kept for the next time."""
    python = _environment(work / "env")
    modules = [name for source in _SOURCES for name in _modules(source)]
    arguments = [
        *("--noconfirm", "--clean", "--log-level", "WARN", "--name", "vespid-agent"),
        *("--distpath", str(work / "frozen"), "--workpath", str(work / "freezing"), "--specpath", str(work)),
        "--onefile" if onefile else "--onedir",
        *(option for name in (*modules, "certifi") for option in ("--hidden-import", name)),
        *(option for name in _UNWANTED for option in ("--exclude-module", name)),
        *(("--strip",) if sys.platform == "linux" else ()),
        str(ROOT / "agent_binary" / "entry.py"),
    ]
    env = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": "0",
        "PYINSTALLER_CONFIG_DIR": str(work / "pyinstaller"),
    }
    subprocess.run([str(python), "-m", "PyInstaller", *arguments], check=True, cwd=work, env=env)
    name = "vespid-agent.exe" if sys.platform == "win32" else "vespid-agent"
    return work / "frozen" / name if onefile else work / "frozen" / "vespid-agent" / name


def sources() -> list[Path]:
    """Every file of ours that has a say in what comes out."""
    code = [file for source in _SOURCES for file in source.rglob("*.py") if "testing" not in file.parts]
    build = [file for file in (ROOT / "agent_binary").iterdir() if file.suffix in (".py", ".c")]
    return sorted([*code, *build, ROOT / "uv.lock"])


def _environment(place: Path) -> Path:
    """Its Python. The same kind of Python as this one."""
    command = [
        *(_uv(), "sync", "--quiet", "--frozen", "--no-default-groups", "--project", str(ROOT)),
        *("--python", sys.executable, "--package", "vespid-agent", "--group", "binary"),
        *(option for extra in _EXTRAS for option in ("--extra", extra)),
    ]
    subprocess.run(command, check=True, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(place)})
    return place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _uv() -> str:
    beside = Path(sys.executable).parent / ("uv.exe" if sys.platform == "win32" else "uv")
    return str(beside) if beside.exists() else "uv"


def _modules(package: Path) -> list[str]:
    """All of them: some are imported by names that only a running agent knows."""
    found = []
    for file in sorted(package.rglob("*.py")):
        inner = file.relative_to(package.parent).with_suffix("").parts
        name = ".".join(inner[:-1] if inner[-1] == "__init__" else inner)
        if not name.startswith(_UNWANTED) and inner[-1] != "__main__":
            found.append(name)
    return found
