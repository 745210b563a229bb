"""What must come "at once", on a machine that does other things too."""

import time
from typing import Final

SOON_S: Final = 8.0


def came_soon(what: str, began: float) -> None:
    """`began`: of time.monotonic(). The figure is for people to look at (`pytest -s`)."""
    took_s = time.monotonic() - began
    print(f"{what}: {took_s:.2f} s")
    assert took_s < SOON_S, what
