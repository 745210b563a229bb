"""The clocks the agent counts on.

Authority over leased work must end although the machine slept, so it is counted on a clock that goes on while the
machine is suspended. `time.monotonic()` does not, on Linux and macOS.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

MonotonicMs = Callable[[], int]

if sys.platform == "linux":

    def suspend_aware_ms() -> int:
        """Milliseconds since some moment, suspended time included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

elif sys.platform == "darwin":

    def suspend_aware_ms() -> int:
        """Milliseconds since some moment, suspended time included (CLOCK_MONOTONIC does that on macOS)."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000

else:

    def suspend_aware_ms() -> int:
        """Milliseconds since some moment; Windows' monotonic clock counts time asleep."""
        return time.monotonic_ns() // 1_000_000


def epoch_ms() -> int:
    """The time of day, for stamps that people read."""
    return time.time_ns() // 1_000_000
