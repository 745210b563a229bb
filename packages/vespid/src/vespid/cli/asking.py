"""Questions to whoever sits at the terminal."""

import sys

from vespid.cli.plain import plain
from vespid.cli.problem import Problem, wrong_usage


def confirm(question: str, instead: str) -> None:
    """Go on where the answer is yes. Raises Problem: for any other, and where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise wrong_usage("there is no terminal to ask at", f"Say it beforehand: {instead}")
    sys.stderr.write(f"{plain(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Problem("left as it is")
