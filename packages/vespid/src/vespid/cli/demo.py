"""`vespid demo`: the whole system at work, from nothing to the result of a run."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "demo", demo, "vespid demo", rich_help_panel=PROCESSES)


def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Data folder; `demo` beside that of `vespid up`.")] = None,
) -> None:
    """Start everything, pair an agent, run a workflow of three nodes on it and print its events."""
    from vespid.cli.process import EXIT_FAILED, fail, run
    from vespid.local.client import CallRefused
    from vespid.local.demo import DemoFailed, run_demo
    from vespid.local.folder import default_folder
    from vespid.observe.log import set_up_logging

    set_up_logging(os.environ.get("VESPID_LOG_LEVEL") or "error")
    began = time.monotonic()

    def tell(line: str) -> None:
        typer.echo(f"[{time.monotonic() - began:6.2f} s] {line}")

    async def show() -> bool:
        # SIGTERM ends the demo in order, as Ctrl-C does.
        showing = asyncio.current_task()
        if showing is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, showing.cancel)
        return await run_demo(data or default_folder().with_name("demo"), os.environ, tell)

    try:
        has_succeeded = run("demo", show)
    except (DemoFailed, CallRefused) as error:
        fail(f"the demo failed: {error}\nSet VESPID_LOG_LEVEL=info to see more.")
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail("the demo was interrupted", 130)
    sys.exit(0 if has_succeeded else EXIT_FAILED)
