"""`python -m tests.bench [figure…]`: prints the figures beside their floors and writes bench/latest.json."""

import asyncio
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from tests.bench.figures import FIGURES, foreign_load
from tests.bench.floors import Floors
from tests.bench.installation import Installation
from tests.bench.report import Figure

# A figure that takes longer has got stuck.
FIGURE_S = 240
LATEST = Path(__file__).parents[2] / "bench" / "latest.json"


async def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        print(f"no such figure: {', '.join(unknown)}; there are {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    print(f"load average before: {foreign_load():.2f}; medians of three rounds, floors of the same run")
    found: dict[str, Figure] = {}
    async with Installation() as at, Floors(at) as floors:
        for name in names or FIGURES:
            begun = time.monotonic()
            async with asyncio.timeout(FIGURE_S):
                figures = await FIGURES[name](at, floors)
            found |= figures
            for label, figure in figures.items():
                print(_line(label, figure))
            print(f"  ({name} took {time.monotonic() - begun:.0f} s)")
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    print(f"written to {LATEST}")
    return 0


def _line(label: str, figure: Figure) -> str:
    floor = "" if figure.floor is None else f"   floor {figure.floor:>10}   ratio {figure.ratio}"
    return f"{label:<32} {figure.value:>10} {figure.unit}{floor}"


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
