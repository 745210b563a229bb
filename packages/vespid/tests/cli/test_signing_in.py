"""`vespid login`, `whoami`, `org`, `member`, `api-key`: the real program at a real installation, and its exit codes."""

import asyncio
import json
import re
import stat

from tests.support.client_stack import PASSWORD, Installed, new_email
from tests.support.command_line import CommandLine
from tests.support.processes import free_port


async def test_nobody_is_told_to_sign_in(visitor: CommandLine) -> None:
    said = await visitor("whoami", status=3)
    assert said.out == ""
    assert "vespid login" in said.err


async def test_a_login_is_remembered_and_forgotten(newly: CommandLine) -> None:
    me = (await newly("whoami", "--json")).json
    assert me["orgs"][0]["roleKey"] == "owner"
    assert stat.S_IMODE(newly.config.stat().st_mode) == 0o600
    kept = json.loads(newly.config.read_text())["profiles"]["default"]
    await newly("logout")
    assert "refreshToken" not in newly.config.read_text()
    await newly("whoami", status=3)
    # The server has forgotten it too.
    newly.config.write_text(json.dumps({"current": "default", "profiles": {"default": kept}}))
    said = await newly("whoami", status=3)
    assert "UNAUTHORIZED" in said.err


async def test_a_wrong_password_is_refused_and_keeps_the_login_of_before(newly: CommandLine) -> None:
    email = (await newly("whoami", "--json")).json["user"]["email"]
    await newly("login", "--email", email, "--password-stdin", stdin="wrong", status=3)
    await newly("whoami")


async def test_the_password_is_never_shown(newly: CommandLine) -> None:
    email = (await newly("whoami", "--json")).json["user"]["email"]
    async with newly.terminal("login", "--email", email) as terminal:
        await terminal.shows("Password of")
        terminal.type(PASSWORD + "\n")
        assert await terminal.end() == 0
        assert PASSWORD not in terminal.shown
    assert PASSWORD not in newly.config.read_text()


async def test_commands_that_renew_a_login_at_once_all_succeed_and_leave_it_whole(newly: CommandLine) -> None:
    config = json.loads(newly.config.read_text())
    for name in ("accessToken", "accessExpiresAt"):
        del config["profiles"]["default"][name]
    newly.config.write_text(json.dumps(config))
    await asyncio.gather(*(newly("whoami") for _ in range(6)))
    await newly("whoami")


async def test_an_api_key_signs_in_from_stdin_or_the_environment(newly: CommandLine) -> None:
    made = await newly("api-key", "create", "ci", "--role", "admin", "--days", "1")
    key = made.out.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}\.vak_\S+", key)
    me = (await newly("whoami", "--json")).json
    await newly("logout")
    said = await newly("whoami", "--json", env={"VESPID_API_KEY": key})
    assert said.json["apiKey"]["organizationId"] == me["defaultOrgId"]
    await newly("login", "--api-key-stdin", "--profile", "machine", stdin=key)
    assert "ci" in (await newly("api-key", "ls", "--profile", "machine")).out
    await newly("api-key", "delete", "ci")
    await newly("api-key", "ls", status=3)


async def test_a_server_that_is_not_there_is_told_from_a_refusal(newly: CommandLine) -> None:
    said = await newly(
        "whoami", status=5, env={"VESPID_API_BASE": f"http://127.0.0.1:{free_port()}", "VESPID_API_KEY": "o.vak_k"}
    )
    assert "vespid doctor" in said.err


async def test_wrong_usage_is_2(newly: CommandLine) -> None:
    await newly("agent", "ls", "--no-such-option", status=2)
    await newly("whoami", status=2, env={"VESPID_API_BASE": "not an address"})
    await newly("whoami", "--profile", "nowhere", status=4)


async def test_organizations_are_made_and_chosen(newly: CommandLine) -> None:
    slug = new_email().partition("@")[0]
    first = (await newly("org", "ls", "--json")).json["orgs"][0]
    await newly("org", "create", slug, "--name", "Acme [red]Inc[/red]")
    assert "Acme [red]Inc[/red]" in (await newly("whoami")).out
    await newly("org", "use", first["slug"])
    assert first["slug"] in (await newly("whoami")).out
    assert slug in (await newly("whoami", env={"VESPID_ORG": slug})).out
    await newly("org", "use", "no-such-org", status=4)


async def test_members_are_invited_changed_and_removed(newly: CommandLine, installed: Installed) -> None:
    said = await newly("member", "invite", "ann@example.com", "--role", "admin")
    assert re.search(r"token  \S+\.vin_\S+", said.out)
    assert "ann@example.com" in (await newly("member", "ls", "--invited")).out
    me = (await newly("whoami", "--json")).json["user"]["email"]
    said = await newly("member", "role", me, "member", status=1)
    assert "CONFLICT" in said.err
    await newly("member", "remove", "nobody@example.com", status=4)


async def test_settings_are_read_and_set_by_their_path(newly: CommandLine) -> None:
    assert (await newly("settings", "get", "tools.shellRunEnabled")).out == "false\n"
    await newly("settings", "set", "tools.shellRunEnabled", "true")
    assert (await newly("settings", "get", "tools.shellRunEnabled")).out == "true\n"
    assert (await newly("settings", "get", "--json")).json["settings"]["tools"]["shellRunEnabled"] is True
    await newly("settings", "get", "no.such", status=4)
    said = await newly("settings", "set", "tools.shellRunEnabled", "perhaps", status=1)
    assert "tools.shellRunEnabled" in said.err


async def test_what_was_done_is_in_the_audit_log(newly: CommandLine) -> None:
    await newly("settings", "set", "tools.shellRunEnabled", "true")
    said = await newly("audit")
    assert "settings.changed" in said.out
    assert (await newly("audit", "--json", "-n", "1")).json["nextCursor"]
    assert (await newly("usage", "--json")).json["total"]["totalTokens"] == 0


async def test_a_secret_is_read_from_stdin_and_never_shown(newly: CommandLine) -> None:
    value = "sk-very-secret"
    assert "kept" in (await newly("secret", "set", "openai/main", stdin=f"{value}\n")).out
    assert "replaced" in (await newly("secret", "set", "openai/main", stdin=f"{value}-2")).out
    said = await newly("secret", "ls", "--json")
    assert [secret["name"] for secret in said.json["secrets"]] == ["main"]
    assert value not in said.out
    await newly("secret", "set", "openai/main", stdin="", status=2)
    await newly("secret", "set", "nameless", stdin=value, status=2)
    await newly("secret", "delete", "openai/main", status=2)
    await newly("secret", "delete", "openai/main", "--yes")
    await newly("secret", "delete", "openai/main", "--yes", status=4)
