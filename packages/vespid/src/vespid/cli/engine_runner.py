"""`vespid engine-runner`: the engine-runner alone."""

import typer

from vespid.cli.groups import PROCESSES, add


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "engine-runner", engine_runner, "vespid engine-runner", rich_help_panel=PROCESSES)


def engine_runner() -> None:
    """The engine-runner: calls to model providers on ENGINE_RUNNER_PORT (3003)."""
    from vespid.cli.process import read_settings, run_service
    from vespid.engine_runner.service import EngineRunnerService
    from vespid.settings import EngineRunnerSettings

    settings = read_settings(EngineRunnerSettings)
    run_service("engine-runner", lambda: EngineRunnerService(settings))
