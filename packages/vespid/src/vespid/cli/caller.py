"""How a command calls the API: as whom, where, and what becomes of what goes wrong.

`@command` makes a command of an async function that is handed a `Caller`: it adds `--json` and `--profile`, opens the
client of the profile, and turns every error that somebody can mend into its cause, its mend and an exit code.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from vespid.cli import exit_codes
from vespid.cli.output import Output
from vespid.cli.problem import Problem

if TYPE_CHECKING:
    from vespid.cli.profiles import Choice, ProfileFile
    from vespid_client import AsyncClient

P = ParamSpec("P")
# A command may answer the status that its process ends with; None is 0.
Outcome = Awaitable[int | None]

Json = Annotated[bool, typer.Option("--json", help="The API's own JSON on stdout, and nothing else there.")]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="The login to use (VESPID_PROFILE, else the current one)."),
]


@dataclass(frozen=True)
class Caller:
    """Who calls, where, and where the answer is written."""

    out: Output
    profiles: "ProfileFile"
    choice: "Choice"
    client: "AsyncClient"

    @property
    def api_base(self) -> str:
        return self.choice.profile.api_base


def command(work: Callable[Concatenate[Caller, P], Outcome]) -> Callable[..., None]:
    """The command that does this work as whom the profile names."""

    @functools.wraps(work)
    def run(*args: Any, as_json: bool = False, profile: str | None = None, **kwargs: Any) -> None:
        async def do(out: Output) -> int | None:
            async with calling(out, profile) as caller:
                return await work(caller, *args, **kwargs)

        operate(as_json, do)

    return _with_options(run, work)


def operate(as_json: bool, work: Callable[[Output], Outcome]) -> None:
    """Do it, and end the process with what came of it."""
    import asyncio

    out = Output.of_process(as_json=as_json)
    try:
        status = asyncio.run(_told(work(out)))
    except Problem as problem:
        out.problem(problem)
        raise typer.Exit(problem.exit_code) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    if status:
        raise typer.Exit(status)


@contextlib.asynccontextmanager
async def calling(out: Output, profile_name: str | None) -> AsyncIterator[Caller]:
    """A client as whom the profile and the environment name, closed at the end. Raises Problem."""
    from vespid.cli.profiles import ProfileFile, choose
    from vespid.cli.sign_in import client_of

    profiles = ProfileFile.of(os.environ, out.warn)
    choice = choose(profiles.read(), os.environ, profile_name)
    async with client_of(profiles, choice, out) as client:
        yield Caller(out, profiles, choice, client)


async def _told(work: Outcome) -> int | None:
    import asyncio
    import signal

    # SIGTERM ends a command in order, as Ctrl-C does.
    doing = asyncio.current_task()
    if doing is not None:
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, doing.cancel)
    with client_errors():
        return await work


@contextlib.contextmanager
def client_errors() -> Iterator[None]:
    """Raise what the client raises as a Problem."""
    from vespid.cli.refusals import problem_of
    from vespid_client import VespidError

    try:
        yield
    except VespidError as error:
        raise problem_of(error) from error


def _with_options(run: Callable[..., None], work: Callable[..., Any]) -> Callable[..., None]:
    """`run` with the parameters of `work` behind the caller, and the options that every command has."""
    _caller, *of_work = inspect.signature(work).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("as_json", keyword, default=False, annotation=Json),
        inspect.Parameter("profile", keyword, default=None, annotation=ProfileName),
    ]
    parameters = [*of_work, *added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
