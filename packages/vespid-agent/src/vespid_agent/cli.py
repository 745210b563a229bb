"""`vespid-agent connect | start | status | doctor | logs | service`: words for people, exit codes for scripts.

  0  stopped as asked · done · `status`: it runs · `doctor`: nothing failed
  1  the gateway refused this identity for good · `doctor`: something failed · `service`: the system refused
  2  wrong usage or settings
  3  pairing failed
  4  no usable config or journal, or another process runs as this executor · `status`: it does not run
  5  `status`: its process is there and does not answer
  6  `status`: it runs, and has had no link for ten seconds or more
 70  a fault of the agent itself: starting it again is right
130  interrupted (`status --watch`, `logs -f`)

What a command needs is imported by that command: the others do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from vespid_agent import __version__, config, files
from vespid_agent.config import AgentConfig, ConfigError
from vespid_agent.console import err, fail, out, plain, warn
from vespid_agent.exit_code import ExitCode
from vespid_agent.service.cli import app as service_app
from vespid_agent.settings import AgentSettings, SettingInvalid, split_tags

if TYPE_CHECKING:
    from vespid_runtime.engines.engine import Engine

# As it stands above: \b keeps the lines of a paragraph.
_HELP = (__doc__ or "").replace("\n\n", "\n\n\b\n")

app = typer.Typer(name="vespid-agent", no_args_is_help=True, pretty_exceptions_enable=False, help=_HELP)
app.add_typer(service_app, name="service")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Where the agent's identity is kept (default ~/.vespid/agent.json).")
]


JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The Vespid node-agent: runs an organization's work on this machine."""
    if sys.platform == "linux" and context.invoked_subcommand in ("connect", "start"):
        from vespid_agent.sandbox import nursery

        # Before this process grows and reads its token. If there is no room for it now, the first task tries again.
        with contextlib.suppress(OSError):
            nursery.begin()


@app.command()
def connect(
    context: typer.Context,
    pairing_token: Annotated[str, typer.Option("--pairing-token", help="From the agents page; lives 15 minutes.")],
    api_base: Annotated[str, typer.Option("--api-base", help="Address of the Vespid API, like https://vespid.example")],
    name: Annotated[str | None, typer.Option("--name", help="Shown to people (default: this machine's name).")] = None,
    tags: Annotated[str | None, typer.Option("--tags", help='Reported as a hint: "east,group:alpha".')] = None,
    gateway_ws_url: Annotated[
        str | None, typer.Option("--gateway-ws-url", help="Connect here instead of where the API says.")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Pair this machine with an organization, then start."""
    from vespid_agent.network import NetworkMisconfigured
    from vespid_agent.pairing import PairingFailed

    settings = _settings()
    path = config.config_path(config_file)
    reported = split_tags(tags) if tags is not None else settings.tags
    asked = (name or socket.gethostname() or "vespid-agent")[:120]
    try:
        identity = asyncio.run(_pair(settings, path, api_base, pairing_token, asked, reported, gateway_ws_url))
    except PairingFailed as failed:
        err.print(f"[red]Pairing failed:[/red] {plain(failed)}\n{plain(failed.advice)}")
        raise typer.Exit(ExitCode.PAIRING) from None
    except NetworkMisconfigured as error:
        fail(ExitCode.USAGE, str(error))
    except ConfigError as error:
        fail(ExitCode.IDENTITY, str(error))
    out.print(f"Paired as [bold]{plain(identity.name)}[/bold] ({identity.executor_id}); config in {path}")
    _run(identity, settings, path, context.obj or ())


@app.command()
def start(
    context: typer.Context,
    pool: Annotated[str, typer.Option("--pool", help="byon (from the config) or managed.")] = "byon",
    executor_id: Annotated[str | None, typer.Option("--executor-id")] = None,
    executor_token: Annotated[
        str | None, typer.Option("--executor-token", envvar="VESPID_AGENT_EXECUTOR_TOKEN", show_envvar=True)
    ] = None,
    gateway_ws_url: Annotated[str | None, typer.Option("--gateway-ws-url")] = None,
    api_base: Annotated[str | None, typer.Option("--api-base")] = None,
    name: Annotated[str | None, typer.Option("--name")] = None,
    tags: Annotated[str | None, typer.Option("--tags")] = None,
    env_file: Annotated[
        Path | None, typer.Option("--env-file", help="Variables to add to the environment, one NAME=value per line.")
    ] = None,
    log_to: Annotated[str, typer.Option("--log-to", help="both (stderr and the log file) or file.")] = "both",
    config_file: ConfigOption = None,
) -> None:
    """Connect and work until stopped. SIGTERM lets running work finish; a second one does not."""
    _take_env_file(env_file)
    settings = _settings()
    path = config.config_path(config_file)
    if log_to not in ("both", "file"):
        fail(ExitCode.USAGE, f"--log-to is {log_to!r}; it must be both or file")
    if pool == "managed":
        given = {"--executor-id": executor_id, "--executor-token": executor_token, "--gateway-ws-url": gateway_ws_url}
        missing = [option for option, value in given.items() if not value]
        if missing:
            fail(ExitCode.USAGE, f"--pool managed also needs {', '.join(missing)}")
        identity = AgentConfig(
            executor_id=executor_id or "",
            executor_token=executor_token or "",
            gateway_ws_url=gateway_ws_url or "",
            api_base_url=api_base or "",
            pool="managed",
        )
    elif pool == "byon":
        try:
            identity = config.load(path, warn)
        except ConfigError as error:
            fail(ExitCode.IDENTITY, str(error))
        if gateway_ws_url:
            identity = msgspec.structs.replace(identity, gateway_ws_url=gateway_ws_url)
    else:
        fail(ExitCode.USAGE, f"--pool is {pool!r}; it must be byon or managed")
    if name:
        identity = msgspec.structs.replace(identity, name=name)
    reported = split_tags(tags) if tags is not None else (settings.tags or identity.tags)
    _run(msgspec.structs.replace(identity, tags=reported), settings, path, context.obj or (), log_to)


@app.command()
def status(
    executor_id: Annotated[
        str | None, typer.Option("--executor-id", help="Of an agent without a config, like those of the managed pool.")
    ] = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again whenever it has changed, until Ctrl-C.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Who this agent is, whether it runs, and how each of its duties stands."""
    from vespid_agent.status import command

    path = config.config_path(config_file)
    identity = None if executor_id else _identity(path)
    asked = command.Asked(path, executor_id or "", identity, as_json)
    raise typer.Exit(command.watch(asked) if watch else command.show(asked))


@app.command()
def doctor(
    api_base: Annotated[str | None, typer.Option("--api-base", help="Try this address of the API.")] = None,
    gateway_ws_url: Annotated[str | None, typer.Option("--gateway-ws-url", help="Try this gateway.")] = None,
    env_file: Annotated[
        Path | None, typer.Option("--env-file", help="With the variables of a service (service.env).")
    ] = None,
    as_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Look for what keeps this agent from working: cause and mend of each. Changes nothing, and disturbs no agent."""
    from vespid_agent.doctor import command

    _take_env_file(env_file)
    path = config.config_path(config_file)
    raise typer.Exit(asyncio.run(command.run(path, os.environ, api_base, gateway_ws_url, as_json=as_json)))


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes, until Ctrl-C.")] = False,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    request_id: Annotated[
        str | None, typer.Option("--request", help="Only those of this request, or of all requests of this run.")
    ] = None,
    executor_id: Annotated[str | None, typer.Option("--executor-id", help="Of an agent without a config.")] = None,
    as_json: JsonOption = False,
    config_file: ConfigOption = None,
) -> None:
    """What the agent has logged, also while nobody watched."""
    from vespid_agent import log_reading

    path = config.config_path(config_file)
    newest = files.log_path(path, executor_id or _identity(path).executor_id)
    wants = log_reading.wanted(request_id)
    show = (lambda line: line.decode("utf-8", "replace").rstrip("\n")) if as_json else log_reading.shown
    try:
        for line in log_reading.read(newest, count, wants, follow=follow):
            typer.echo(show(line))
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def main(more_engines: Sequence[Engine] = ()) -> None:
    """The console script. `more_engines`: offered beside those of every agent."""
    app(obj=tuple(more_engines))


async def _pair(
    settings: AgentSettings,
    path: Path,
    api_base: str,
    pairing_token: str,
    name: str,
    tags: tuple[str, ...],
    gateway_ws_url: str | None,
) -> AgentConfig:
    from vespid_agent.capabilities import describe
    from vespid_agent.network import http_session
    from vespid_agent.pairing import pair

    config.check_writable(path)  # before the token is spent
    async with http_session(settings.tls_ca_file) as session:
        identity = await pair(
            session,
            api_base=api_base,
            pairing_token=pairing_token.strip(),
            name=name,
            tags=tags,
            capabilities=msgspec.to_builtins(describe(settings, tags)),
            gateway_ws_url=gateway_ws_url,
        )
    config.save(path, identity)
    return identity


def _run(
    identity: AgentConfig, settings: AgentSettings, path: Path, more_engines: Sequence[Engine], log_to: str = "both"
) -> NoReturn:
    from vespid_agent.backends import ManagedPoolUnsafe
    from vespid_agent.journal import JournalError
    from vespid_agent.link import Refused
    from vespid_agent.lock import IdentityTaken
    from vespid_agent.log_file import LogFile
    from vespid_agent.logs import configure
    from vespid_agent.network import NetworkMisconfigured
    from vespid_agent.process import run_agent

    log_bytes = settings.log_file_mb * 1024 * 1024
    log_file = LogFile(files.log_path(path, identity.executor_id), log_bytes) if log_bytes else None
    configure(settings.log_level, log_file, to_stderr=log_to == "both")
    journal = files.journal_path(path, identity.executor_id)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            lock = files.lock_path(path, identity.executor_id)
            status = files.status_path(path, identity.executor_id)
            reread = partial(config.token_of, path, identity.executor_id, warn)
            run = run_agent(
                identity, settings, journal, lock, status, os.environ, reread_token=reread, more_engines=more_engines
            )
            runner.run(run)
    except Refused as refused:
        _end(ExitCode.REFUSED, str(refused))
    except (NetworkMisconfigured, ManagedPoolUnsafe) as error:
        _end(ExitCode.USAGE, str(error))
    except (JournalError, IdentityTaken) as error:
        _end(ExitCode.IDENTITY, str(error))
    except OSError as error:
        _end(ExitCode.IDENTITY, f"{journal.parent} cannot be used: {error}")
    except Exception as error:  # noqa: BLE001  (told with its trace; what it ends with tells a service to start again)
        _crash(error)
    sys.exit(ExitCode.STOPPED)


def _end(code: ExitCode, reason: str) -> NoReturn:
    """The last words, also for who reads the log of a service."""
    from vespid_agent.logs import get_logger

    get_logger("agent").error("ended", status=int(code), reason=reason)
    fail(code, reason)


def _crash(error: Exception) -> NoReturn:
    import traceback

    from vespid_agent.logs import get_logger

    get_logger("agent").error("crashed", error=type(error).__name__, exc_info=error)
    err.print(plain("".join(traceback.format_exception(error))))
    raise typer.Exit(ExitCode.FAULT)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed (the extra `fast`): small requests cost less CPU with it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _settings() -> AgentSettings:
    try:
        return AgentSettings.from_env(os.environ)
    except SettingInvalid as error:
        fail(ExitCode.USAGE, str(error))


def _identity(path: Path) -> AgentConfig:
    try:
        return config.load(path, warn)
    except ConfigError as error:
        fail(ExitCode.IDENTITY, str(error))


def _take_env_file(path: Path | None) -> None:
    if path is None:
        return
    from vespid_agent.service.env_file import EnvFileInvalid, read

    try:
        os.environ.update(read(path.expanduser()))
    except EnvFileInvalid as error:
        fail(ExitCode.USAGE, str(error))
