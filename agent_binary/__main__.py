"""`python -m agent_binary [dist]`: this machine's archive and the checksums, into `dist/`."""

import argparse
import subprocess
import sys
from pathlib import Path

from agent_binary.archive import write_checksums
from agent_binary.build import build
from agent_binary.freeze import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m agent_binary", description=__doc__)
    parser.add_argument("dist", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / ".state" / "agent-binary")
    asked = parser.parse_args()
    try:
        built = build(asked.work, asked.dist)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"Could not make the agent: {error}", file=sys.stderr)
        return 1
    sums = write_checksums(asked.dist)
    needs = "" if built.glibc is None else f"; it needs glibc {built.glibc[0]}.{built.glibc[1]} or later"
    print(f"{built.archive} ({built.archive.stat().st_size / 1e6:.1f} MB){needs}\n{sums}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
