"""`vespid-agent service install | uninstall | status | start | stop`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vespid_agent import config
from vespid_agent.config import ConfigError
from vespid_agent.console import fail, out, plain, warn
from vespid_agent.exit_code import ExitCode
from vespid_agent.settings import AgentSettings, SettingInvalid

if TYPE_CHECKING:
    from vespid_agent.service.plan import Plan, Scope, Service, Verb

app = typer.Typer(no_args_is_help=True, help="Have the system run this agent: systemd, launchd, Task Scheduler.")

NameOption = Annotated[str, typer.Option("--name", help="Of the service; another for each agent of this machine.")]
SystemOption = Annotated[
    bool | None,
    typer.Option("--system/--user", help="Of the whole system, or of this user (default: system as root)."),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Whose agent (default ~/.vespid/agent.json).")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be written and done, and do nothing.")]


@app.command()
def install(
    name: NameOption = "vespid-agent",
    system: SystemOption = None,
    dry_run: DryOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Start the agent now and whenever the machine starts. It keeps the variables that are set now."""
    from vespid_agent.service import env_file
    from vespid_agent.service.install import ServiceFailed
    from vespid_agent.service.install import install as carry_out

    service, plan = _plan(name, system, config_file)
    try:
        config.load(service.config, warn)
    except ConfigError as error:
        if not dry_run:
            fail(ExitCode.IDENTITY, str(error))
    kept = env_file.worth_keeping(os.environ)
    if dry_run:
        _show(service, plan, "install", tuple(kept))
        return
    try:
        for step in carry_out(service, plan, kept):
            out.print(plain(step))
    except ServiceFailed as error:
        fail(ExitCode.FAILED, str(error))


@app.command()
def uninstall(
    name: NameOption = "vespid-agent",
    system: SystemOption = None,
    dry_run: DryOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Stop it and remove what `install` made. Identity, journal and logs stay."""
    from vespid_agent.service.install import ServiceFailed
    from vespid_agent.service.install import uninstall as carry_out

    service, plan = _plan(name, system, config_file)
    if dry_run:
        _show(service, plan, "uninstall")
        return
    try:
        for step in carry_out(service, plan):
            out.print(plain(step))
    except ServiceFailed as error:
        fail(ExitCode.FAILED, str(error))


@app.command()
def status(name: NameOption = "vespid-agent", system: SystemOption = None, config_file: ConfigOption = None) -> None:
    """What the system says of it. `vespid-agent status` says more of the agent. Ends with the system's own status."""
    _tell("status", name, system, config_file)


@app.command()
def start(name: NameOption = "vespid-agent", system: SystemOption = None, config_file: ConfigOption = None) -> None:
    """Start it again after `stop`."""
    _tell("start", name, system, config_file)


@app.command()
def stop(name: NameOption = "vespid-agent", system: SystemOption = None, config_file: ConfigOption = None) -> None:
    """Stop it; running work may finish, within the drain."""
    _tell("stop", name, system, config_file)


def _plan(name: str, system: bool | None, config_file: Path | None) -> tuple[Service, Plan]:
    from vespid_agent.service.install import plan_here, service_here
    from vespid_agent.service.plan import ServiceInvalid

    scope: Scope | None = None if system is None else "system" if system else "user"
    try:
        settings = AgentSettings.from_env(os.environ)
        service = service_here(config.config_path(config_file), settings, os.environ, name, scope)
        return service, plan_here(service, os.environ)
    except (SettingInvalid, ServiceInvalid) as error:
        fail(ExitCode.USAGE, str(error))


def _show(service: Service, plan: Plan, verb: Verb, kept: tuple[str, ...] = ()) -> None:
    """As a script that a person could follow."""
    if verb == "install":
        typer.echo(f"# {service.env_file} (0600) keeps: {', '.join(kept) or 'nothing'}")
    for file in plan.files:
        typer.echo(f"# {'remove' if verb == 'uninstall' else 'write'} {file.path}")
        if verb == "install":
            typer.echo(_text(file.content))
    for command in (*plan.commands[verb], *(plan.after_removal if verb == "uninstall" else ())):
        typer.echo(f"$ {' '.join(command.words)}")


def _text(content: bytes) -> str:
    return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8").rstrip("\n")


def _tell(verb: Verb, name: str, system: bool | None, config_file: Path | None) -> NoReturn:
    from vespid_agent.service.install import ServiceFailed, tell

    _, plan = _plan(name, system, config_file)
    try:
        status = tell(plan, verb)
    except ServiceFailed as error:
        fail(ExitCode.FAILED, str(error))
    raise typer.Exit(status)
