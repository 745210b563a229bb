"""`vespid login`, `logout`, `whoami`: who calls, and where."""

import sys
from typing import Annotated

import msgspec
import typer

from vespid.cli.caller import Caller, Json, command, operate
from vespid.cli.groups import OPERATOR, add
from vespid.cli.output import Output
from vespid.cli.problem import wrong_usage

ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="Where it is kept; the current one, else `default`.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "login", login, "vespid login --api-base https://vespid.example.com", rich_help_panel=OPERATOR)
    add(app, "logout", logout, "vespid logout --profile staging", rich_help_panel=OPERATOR)
    add(app, "whoami", whoami, "vespid whoami --json", rich_help_panel=OPERATOR)


def login(
    api_base: Annotated[str | None, typer.Option("--api-base", metavar="URL", help="The API's address.")] = None,
    email: Annotated[str | None, typer.Option("--email", help="Whose login; asked for where it is missing.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin, for scripts.")
    ] = False,
    api_key_stdin: Annotated[
        bool, typer.Option("--api-key-stdin", help="Read an API key from stdin, and use that instead.")
    ] = False,
    org: Annotated[str | None, typer.Option("--org", help="The organization to work in, by id or slug.")] = None,
    as_json: Json = False,
    profile: ProfileOption = None,
) -> None:
    """Sign in, and remember it in a profile. The password is asked for without an echo."""

    async def work(out: Output) -> None:
        if password_stdin and api_key_stdin:
            raise wrong_usage("--password-stdin and --api-key-stdin read the same stdin", "Give one of them")
        await _login(out, api_base, email, password_stdin, api_key_stdin, org, profile)

    operate(as_json, work)


async def _login(
    out: Output,
    api_base: str | None,
    email: str | None,
    password_stdin: bool,
    api_key_stdin: bool,
    org: str | None,
    profile_name: str | None,
) -> None:
    import os

    from vespid.cli.profiles import Profile, ProfileFile, checked_base, org_of_key
    from vespid.cli.sign_in import user_agent
    from vespid_client import AsyncClient, MemoryStore

    file = ProfileFile.of(os.environ, out.warn)
    config = file.read()
    name = profile_name or os.environ.get("VESPID_PROFILE", "").strip() or config.current
    before = config.profiles.get(name, Profile())
    base = checked_base(api_base or os.environ.get("VESPID_API_BASE", "").strip() or before.api_base)
    if api_key_stdin:
        key = _line_of_stdin("API key")
        new = Profile(api_base=base, org_id=org_of_key(key), api_key=key)
        # It is tried before it is kept.
        async with AsyncClient(base, api_key=key, org=new.org_id, user_agent=user_agent()) as client:
            await client.settings.get()
        file.keep(name, new, make_current=True)
        out.note(f"Signed in at {base} with an API key of the organization {new.org_id} (profile {name})")
        if out.as_json:
            out.document({"profile": name, "apiBase": base, "orgId": new.org_id})
        return
    email = email or before.email or _asked(out, "E-mail: ")
    password = _line_of_stdin("password") if password_stdin else _asked_unseen(f"Password of {email}: ")
    # What is signed in so far stays until the new login holds.
    held = MemoryStore()
    async with AsyncClient(base, credentials=held, user_agent=user_agent()) as client:
        await client.auth.login(email, password)
        me = await client.me()
        chosen = _chosen_org([(each.id, each.slug) for each in me.orgs], org, before.org_id, me.default_org_id)
    made = held.load()
    if made is None:
        raise RuntimeError("a login left nothing behind")
    file.keep(
        name,
        Profile(
            api_base=base,
            org_id=chosen,
            email=me.user.email,
            refresh_token=made.refresh_token,
            access_token=made.access_token,
            access_expires_at=made.access_expires_at,
        ),
        make_current=True,
    )
    if out.as_json:
        out.document(me.to_json())
    where = next((f"{each.name} as {each.role_key}" for each in me.orgs if each.id == chosen), "no organization")
    out.note(f"Signed in at {base} as {me.user.email}, in {where} (profile {name})")


def logout(as_json: Json = False, profile: ProfileOption = None) -> None:
    """End the login, here and on the server; the profile keeps its address. An API key is only forgotten."""

    async def work(out: Output) -> None:
        await _logout(out, profile)

    operate(as_json, work)


async def _logout(out: Output, profile_name: str | None) -> None:
    import os

    from vespid.cli.profiles import Choice, ProfileFile, choose
    from vespid.cli.sign_in import client_of
    from vespid_client import ConnectionFailed, NotSignedIn

    file = ProfileFile.of(os.environ, out.warn)
    env = {name: value for name, value in os.environ.items() if name != "VESPID_API_KEY"}
    choice: Choice = choose(file.read(), env, profile_name)
    stored = choice.stored
    if not stored.is_signed_in:
        out.note(f"Nobody was signed in (profile {choice.name})")
    elif stored.api_key is None:
        try:
            async with client_of(file, msgspec.structs.replace(choice, profile=stored)) as client:
                await client.auth.logout()
        except NotSignedIn:
            out.note("The login was over already")
        except ConnectionFailed as error:
            out.warn(f"the server could not be told, and holds the login for up to 7 days: {error}")
    file.keep(choice.name, stored.signed_out())
    if out.as_json:
        out.document({"ok": True})
    out.note(f"Signed out of {stored.api_base} (profile {choice.name})")


@command
async def whoami(caller: Caller) -> None:
    """Who calls, in which organization and role, and at which server."""
    out, profile = caller.out, caller.choice.profile
    place = [("profile", caller.choice.name), ("server", profile.api_base)]
    if profile.api_key is not None:
        settings = await caller.client.settings.get()
        if out.as_json:
            out.document({"apiKey": {"organizationId": profile.org_id}, "settings": settings.to_json()})
        else:
            out.fields([("who", "an API key"), ("organization", profile.org_id or ""), *place])
        return
    me = await caller.client.me()
    if out.as_json:
        out.document(me.to_json())
        return
    org = await caller.client.org_id()
    mine = next((each for each in me.orgs if each.id == org), None)
    named = "" if mine is None else f"{mine.name} ({mine.slug})"
    out.fields(
        [
            ("who", me.user.email),
            ("name", me.user.display_name or ""),
            ("organization", named or f"{org}, of which you are no member"),
            ("role", "" if mine is None else mine.role_key),
            *place,
        ]
    )


def _chosen_org(mine: list[tuple[str, str]], asked: str | None, before: str | None, default: str | None) -> str | None:
    """The one that was asked for, else the one of before, else the first. Raises Problem."""
    if asked is not None:
        for org_id, slug in mine:
            if asked in (org_id, slug):
                return org_id
        raise wrong_usage(f"you are in no organization {asked!r}", f"Yours: {', '.join(slug for _, slug in mine)}")
    return before if before in [org_id for org_id, _ in mine] else default


def _asked(out: Output, prompt: str) -> str:
    if not sys.stdin.isatty():
        raise wrong_usage("whose login is it?", "Give --email, or VESPID_API_KEY")
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _asked_unseen(prompt: str) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise wrong_usage("there is no terminal to ask for the password", "Give --password-stdin, or VESPID_API_KEY")
    return getpass.getpass(prompt, stream=sys.stderr)


def _line_of_stdin(what: str) -> str:
    if sys.stdin.isatty():
        return _asked_unseen(f"{what}: ")
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise wrong_usage(f"there is no {what} on stdin")
    return line
