"""How a command runs a service: settings, logs, event loop, signals, and what to say when it cannot start."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import typer
from rich.console import Console

from vespid.observe.log import set_up_logging
from vespid.service import Service, StartRefused, serve_until_signalled
from vespid.settings import ProcessSettings, SettingsRefused
from vespid.store.pool import DatabaseUnavailable

EXIT_FAILED = 1
EXIT_USAGE = 2

Answer = TypeVar("Answer")
ReadSettings = TypeVar("ReadSettings", bound=ProcessSettings)


def read_settings(settings: type[ReadSettings]) -> ReadSettings:
    """Read the environment and set up the logs; what is wrong with it ends the process."""
    set_up_logging()
    try:
        read = settings.from_env(os.environ)
    except SettingsRefused as refused:
        fail("cannot start with these settings:\n" + "\n".join(f"  {line}" for line in refused.problems), EXIT_USAGE)
    set_up_logging(read.log_level)
    return read


def run_service(name: str, make: Callable[[], Service]) -> NoReturn:
    """Run a service until it is signalled, and end the process with its status."""

    async def serve() -> int:
        return await serve_until_signalled(make(), on_ready=f"{name}_ready")

    sys.exit(run(name, serve))


def run(name: str, main: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run to the end on the fast event loop; an error that somebody can mend is told in one line."""
    import uvloop
    from redis.exceptions import RedisError

    from vespid.store.migrate import MigrationFailed

    async def answer() -> Answer:
        return await main()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(answer())
    except (StartRefused, DatabaseUnavailable, MigrationFailed) as error:
        fail(f"{name}: {error}")
    except SettingsRefused as error:
        fail(f"{name}: cannot start with these settings:\n{error}", EXIT_USAGE)
    except RedisError as error:
        fail(f"{name}: Redis cannot be reached: {error}")
    except OSError as error:
        fail(f"{name}: {error}")


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """End the process with a message for people."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"vespid: {message}", markup=False)
    raise typer.Exit(status)
