"""`vespid worker`: the worker alone."""

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "worker", worker, "vespid worker", rich_help_panel=PROCESSES)


def worker() -> None:
    """The worker: durable runs, deadlines, schedules."""
    from vespid.cli.process import read_settings, run_service
    from vespid.settings import WorkerSettings
    from vespid.worker.service import WorkerService

    settings = read_settings(WorkerSettings)
    run_service("worker", lambda: WorkerService(settings))
