"""The real Claude Code and Codex, of pinned versions, from the npm registry: in a cache outside the checkout.

    python -m tests.support.clis        installs what is missing; `make test` does it first

`VESPID_TEST_CLIS=require` makes a missing one an error (CI), `skip` installs nothing; else what cannot be installed is
said, and the tests that need it are skipped. `VESPID_CLI_CACHE` names another folder than `~/.cache/vespid-clis`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# name → package and version. Their binaries for each platform are optional dependencies of the packages.
PINNED = {"claude": ("@anthropic-ai/claude-code", "2.1.330"), "codex": ("@openai/codex", "0.169.0")}
_NPM_TIMEOUT_S = 900


def cache() -> Path:
    return Path(os.environ.get("VESPID_CLI_CACHE") or Path.home() / ".cache" / "vespid-clis")


def program(name: str) -> Path:
    """Where it is once it is installed."""
    return _folder(name) / "node_modules" / ".bin" / name


def is_required() -> bool:
    return os.environ.get("VESPID_TEST_CLIS") == "require"


def install(name: str) -> str | None:
    """Why it could not be; None: it is there."""
    if program(name).exists():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm"
    package, version = PINNED[name]
    cache().mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    try:
        subprocess.run(
            [npm, "install", "--prefix", str(making), *quiet, f"{package}@{version}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT_S,
        )
        making.rename(_folder(name))
    except subprocess.CalledProcessError as failed:
        return f"npm could not install {package}@{version}: {failed.stderr.strip()[-500:]}"
    except (subprocess.TimeoutExpired, OSError) as failed:
        # Another process may have been quicker.
        return None if program(name).exists() else f"npm could not install {package}@{version}: {failed}"
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return None


def main() -> int:
    if os.environ.get("VESPID_TEST_CLIS") == "skip":
        return 0
    status = 0
    for name in PINNED:
        if not program(name).exists():
            print(f"Installing {name} into {_folder(name)}")
        problem = install(name)
        if problem is not None:
            print(f"No {name}: {problem}. Its tests (marker `clis`) are skipped", file=sys.stderr)
            status = 1 if is_required() else status
    return status


def _folder(name: str) -> Path:
    return cache() / f"{name}-{PINNED[name][1]}"


def _installed(name: str) -> Path:
    if not program(name).exists():
        if is_required():
            pytest.fail(f"VESPID_TEST_CLIS is `require`, and {name} is not installed: run `make clis`")
        pytest.skip(f"{name} is not installed: run `make clis`")
    return program(name)


@pytest.fixture(scope="session")
def claude_program() -> Path:
    return _installed("claude")


@pytest.fixture(scope="session")
def codex_program() -> Path:
    return _installed("codex")


if __name__ == "__main__":
    sys.exit(main())
