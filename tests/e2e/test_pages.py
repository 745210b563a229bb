"""The pages as a new user walks through them, in a real browser, with real processes and real agents behind them."""

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from tests.support.browser import Person
from tests.support.organization import Organization, shell
from tests.support.processes import Processes, RunningProcess

pytestmark = pytest.mark.timeout(300)

EMAIL, PASSWORD = "ann@example.com", "correct horse battery"


@pytest_asyncio.fixture
async def ann(installation: Processes, browser: Browser) -> AsyncIterator[Person]:
    """A new user, who has signed up."""
    context = await browser.new_context(locale="en-GB")
    person = Person(await context.new_page(), installation.api_url)
    await person.open("/")
    await person.look("sign-in")
    await person.page.get_by_role("link", name="Sign up").click()
    await person.page.get_by_label("Your name").fill("Ann")
    await person.page.get_by_label("E-mail address").fill(EMAIL)
    await person.page.get_by_label("Password").fill(PASSWORD)
    await person.look("sign-up")
    await person.page.get_by_role("button", name="Make the account").click()
    await person.page.wait_for_url(installation.api_url + "/")
    yield person
    assert person.complaints == []


@pytest_asyncio.fixture
async def organization(ann: Person, installation: Processes) -> AsyncIterator[Organization]:
    """Ann's organization, by the API and with her own login."""
    cookies = {one["name"]: one["value"] for one in await ann.page.context.cookies()}
    async with aiohttp.ClientSession(cookies=cookies) as http:
        mine = Organization(installation, http)
        mine.headers = {"Origin": installation.api_url}
        mine.id = (await mine.call("GET", "/v1/me", status=200)).body["defaultOrgId"]
        mine.headers["X-Org-Id"] = mine.id
        yield mine


async def test_the_first_page_is_light(ann: Person) -> None:
    ann.bytes_of.clear()
    context = await ann.page.context.browser.new_context()  # type: ignore[union-attr]
    first = Person(await context.new_page(), ann.url)
    await first.open("/signin")
    assert 0 < sum(first.bytes_of.values()) < 100_000


async def test_the_organizations_own_pages(ann: Person) -> None:
    page = ann.page
    await ann.open("/secrets")
    await page.get_by_label("Connector").first.fill("github")
    await page.get_by_label("Name", exact=True).fill("bot")
    await page.get_by_label("Value", exact=True).first.fill("ghp_canary")
    await page.get_by_role("button", name="Keep it").click()
    await expect(page.get_by_role("cell", name="bot")).to_be_visible()
    await expect(page.get_by_text("bot is kept.")).to_be_visible()
    assert "ghp_canary" not in await page.content()
    await ann.look("secrets")

    await ann.open("/members")
    await page.get_by_text("Invite somebody").click()
    await page.get_by_label("E-mail address").fill("bob@example.com")
    await page.get_by_role("button", name="Make the invitation").click()
    link = await page.locator(".copyable code").inner_text()
    await ann.look("members")
    context = await page.context.browser.new_context()  # type: ignore[union-attr]
    bob = Person(await context.new_page(), ann.url)
    await bob.page.goto(link)
    await bob.page.get_by_role("link", name="Sign up").click()
    await bob.page.get_by_label("E-mail address").fill("bob@example.com")
    await bob.page.get_by_label("Password").fill(PASSWORD)
    await bob.page.get_by_role("button", name="Make the account").click()
    await bob.look("invitation")
    await bob.page.get_by_role("button", name="Join").click()
    await bob.open("/members")
    await bob.reads("ann@example.com")

    await ann.open("/api-keys")
    await page.get_by_text("New API key").click()
    await page.locator("#field-name").fill("ci")
    await page.get_by_role("button", name="Make the key").click()
    await ann.reads("The key ci.")
    await ann.look("api-keys")

    await ann.open("/settings")
    await page.get_by_label("Models may run shell commands").check()
    await page.get_by_role("button", name="Save").click()
    await ann.reads("The settings are saved.")
    await page.reload()
    await expect(page.get_by_label("Models may run shell commands")).to_be_checked()
    await ann.look("settings")

    await ann.open("/audit-log?objectType=secret")
    await ann.reads("secret.created")
    await ann.look("audit-log")
    await ann.open("/usage")
    await ann.look("usage")
    # The menu is left by the keyboard as it was entered.
    await page.get_by_text("Display").focus()
    await page.keyboard.press("Enter")
    await page.get_by_label("Language").select_option("zh-CN")
    await page.get_by_role("button", name="Apply").click()
    await ann.reads("用量")
    await ann.look("usage-zh")


async def test_a_conversation_goes_on_when_its_machine_dies(ann: Person, organization: Organization) -> None:
    hosts: dict[str, RunningProcess] = {}
    for name in ("first", "second"):
        process, agent_id = await organization.pair(name)
        hosts[agent_id] = process
    page = ann.page
    await ann.open("/sessions")
    await ann.look("sessions-none")
    await page.get_by_role("link", name="New session").first.click()
    await page.get_by_label("Title").fill("Plan the week")
    await page.get_by_label("Engine").select_option("vespid.echo.v1")
    await ann.look("session-new")
    await page.get_by_role("button", name="Begin").click()
    box = page.get_by_label("Message")
    await box.fill("hello there")
    await box.press("Enter")
    answers = page.locator(".bubble-agent:not(.bubble-draft)")
    await expect(answers).to_have_count(1)

    session_id = page.url.rsplit("/", 1)[1]
    pinned = (await organization.call("GET", f"/v1/orgs/{{org}}/sessions/{session_id}", status=200)).body["session"]
    await hosts[pinned["pinnedExecutorId"]].kill()
    await box.fill("still there?")
    await page.get_by_role("button", name="Send").click()
    await expect(answers).to_have_count(2)
    await expect(page.get_by_text(re.compile("was lost; the conversation goes on at"))).to_be_visible()
    await ann.look("session")


async def test_what_is_typed_while_the_gateway_is_away_is_said_once_it_is_back(
    ann: Person, organization: Organization, installation: Processes
) -> None:
    await organization.pair()
    page = ann.page
    made = await organization.call("POST", "/v1/orgs/{org}/sessions", {"engineId": "vespid.echo.v1"}, status=201)
    await ann.open(f"/sessions/{made.body['session']['id']}")
    box = page.get_by_label("Message")
    await box.fill("before")
    await box.press("Enter")
    answers = page.locator(".bubble-agent:not(.bubble-draft)")
    await expect(answers).to_have_count(1)
    (gateway,) = installation.running("gateway")
    await gateway.kill()
    await ann.reads("The connection to the gateway is lost")
    await box.fill("meanwhile")
    await box.press("Enter")
    await installation.start("gateway")
    await expect(answers).to_have_count(2)
    await expect(page.locator("[data-chat-lost]")).to_be_hidden()
    events = (await organization.call("GET", page.url.replace(ann.url, "/v1/orgs/{org}") + "/events")).body["events"]
    said = [event["payload"]["message"] for event in events if event["eventType"] == "user_message"]
    assert said == ["before", "meanwhile"]
    # The browser's own word about a socket that could not be opened.
    ann.complaints[:] = [one for one in ann.complaints if "WebSocket connection to" not in one]


async def test_a_message_takes_files_along_and_its_turn_is_stopped_and_begun_anew(
    ann: Person, organization: Organization
) -> None:
    machine, _ = await organization.pair()
    page = ann.page
    made = await organization.call("POST", "/v1/orgs/{org}/sessions", {"engineId": "vespid.echo.v1"}, status=201)
    await ann.open(f"/sessions/{made.body['session']['id']}")

    async def told(kind: str) -> list[Any]:
        path = page.url.replace(ann.url, "/v1/orgs/{org}") + "/events"
        events = (await organization.call("GET", path, status=200)).body["events"]
        return [event["payload"] for event in events if event["eventType"] == kind]

    await page.locator("[data-chat-attach]").set_input_files(
        [
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"buy milk"},
            {"name": "photo.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x00\xff"},
        ]
    )
    await ann.reads("photo.png was not attached")
    box = page.get_by_label("Message")
    await box.fill("what do I need?")
    await box.press("Enter")
    await expect(page.locator(".bubble-you .tag")).to_have_text("notes.txt")
    answers = page.locator(".bubble-agent:not(.bubble-draft)")
    await expect(answers).to_have_count(1)
    (said,) = await told("user_message")
    assert said["attachments"] == [{"name": "notes.txt", "mimeType": "text/plain", "contentText": "buy milk"}]

    # A machine that hangs: it has the turn and says nothing of it.
    machine.signal(signal.SIGSTOP)
    try:
        await box.fill("never mind")
        await box.press("Enter")
        await page.get_by_role("button", name="Stop").click()
        await ann.reads("TURN_CANCELLED")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    finally:
        machine.signal(signal.SIGCONT)
    await box.fill("and now?")
    await box.press("Enter")
    await expect(answers).to_have_count(2)

    await page.get_by_role("button", name="Reset").click()
    await page.get_by_role("button", name="Forget what was said").click()
    await ann.reads("forgot what was said")
    assert [payload["mode"] for payload in await told("system") if payload["action"] == "session_reset"] == [
        "clear_history"
    ]


async def test_the_way_from_nothing_to_a_decision_about_what_runs(ann: Person, installation: Processes) -> None:
    page = ann.page
    await ann.look("overview-new")
    await ann.open("/agents")
    await ann.look("agents-none")
    await page.get_by_role("button", name="Pair an agent").first.click()
    dialog = page.locator("#pair-dialog")
    await expect(dialog).to_be_visible()
    await ann.look("pairing")
    shown = await dialog.locator("code:visible").first.inner_text()
    (token,) = re.findall(r"--pairing-token \"?([^\s\"]+)", shown)
    await installation.start_agent(
        *("connect", "--pairing-token", token, "--api-base", ann.url, "--name", "build-1"), name="build-1"
    )
    # It appears by itself.
    await expect(dialog.locator("[data-connected]")).to_contain_text("build-1")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("link", name="build-1")).to_be_visible()
    await ann.look("agents")
    await page.get_by_role("link", name="build-1").click()
    await ann.look("agent")

    await ann.open("/workflows/new")
    await page.get_by_label("Name").fill("ask first")
    await page.get_by_label(re.compile("An agent, with approval")).check()
    await page.get_by_role("button", name="Begin").click()
    await page.get_by_role("button", name="Publish").click()
    await page.get_by_role("button", name="Start a run").click()
    await page.wait_for_url(re.compile("/runs/"))
    run = page.url
    await ann.look("run-waiting")
    await ann.open("/approvals")
    await page.locator("#approvals table a.button").click()
    await expect(page.locator("#what")).to_be_visible()
    await ann.look("approval")
    await page.get_by_role("button", name="Approve").click()
    await expect(page.locator("#approval .badge-approved")).to_be_visible()
    await page.goto(run)
    await expect(page.locator(".badge-succeeded").first).to_be_visible()
    await ann.open("/")
    await ann.look("overview")


async def test_a_workflow_is_drawn_up_published_and_watched_as_it_runs(ann: Person, organization: Organization) -> None:
    await organization.pair("here")
    page = ann.page
    await ann.open("/workflows")
    await ann.look("workflows-none")
    await ann.open("/workflows/new")
    await ann.look("workflow-new")
    await page.get_by_label("Name").fill("look around")
    await page.get_by_role("button", name="Begin").click()
    script = page.get_by_label("Script")
    await script.fill('printf "\\033[32mgreen\\033[0m "; sleep 2; echo "$NAME"; exit "$1"')
    json = page.locator("textarea.code").last
    await expect(json).to_have_value(re.compile("sleep 2"))
    await json.fill((await json.input_value()).replace('exit \\"$1\\"', "true").replace('"hello"', '"greet"'))
    await expect(page.get_by_label("Id")).to_have_value("greet")
    await expect(page.get_by_text("valid", exact=True)).to_be_visible()
    await ann.look("workflow-editor")
    await json.fill('{"version": "v2"}')
    await expect(page.get_by_text("valid", exact=True)).to_be_hidden()
    await page.reload()
    await expect(page.get_by_label("Id")).to_have_value("hello")
    await page.get_by_label("Script").fill('printf "\\033[32mgreen\\033[0m "; sleep 2; echo "$NAME"')
    await expect(page.get_by_text("valid", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Save draft").click()
    await ann.reads("saved")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.get_by_text("published").first).to_be_visible()
    await ann.look("workflow")
    await page.get_by_label("Input (JSON)").fill('{"name": "Ann"}')
    await page.get_by_role("button", name="Start a run").click()
    # Before it is over: what was printed so far, in its colour.
    await expect(page.locator("span.fg-2", has_text="green")).to_be_visible()
    await expect(page.get_by_text("running", exact=True).first).to_be_visible()
    await expect(page.locator("#run-facts .badge-succeeded")).to_be_visible()
    await ann.reads("Ann")
    await ann.look("run")
    await ann.open("/runs?status=succeeded")
    await expect(page.get_by_role("link", name="look around")).to_be_visible()
    await ann.look("runs")


async def test_a_run_is_read_whole_over_a_lost_connection_and_tried_again_from_where_it_failed(
    ann: Person, organization: Organization, installation: Processes, tmp_path: Path
) -> None:
    await organization.pair()
    mended, counted = tmp_path / "mended", tmp_path / "counted"
    count = 'for i in $(seq 1 30); do echo "line $i."; sleep 0.1; done'
    published = await organization.publish(
        shell(f"echo once >> {counted}; {count}", "count"),
        shell(f"test -e {mended}", "check"),
    )
    workflow_id = published["workflow"]["id"]
    run_id = await organization.start_run(workflow_id)
    page = ann.page
    await ann.open(f"/runs/{run_id}")
    terminal = page.locator("[data-node=count] .terminal")
    await expect(terminal).to_contain_text("line 3.")
    (api,) = installation.running("api")
    await api.kill()
    await expect(page.locator("[data-live-state]")).to_be_visible()
    await installation.start("api")
    await expect(terminal).to_contain_text("line 30.")
    await expect(page.locator("[data-live-state]")).to_be_hidden()
    assert re.findall(r"line (\d+)\.", await terminal.inner_text()) == [str(i) for i in range(1, 31)]

    await expect(page.locator("#run-facts .badge-failed")).to_be_visible()
    await ann.look("run-failed")
    mended.touch()
    await page.locator("[data-node=check] summary").click()
    await page.locator("[data-node=check]").get_by_role("button", name="Retry from here").click()
    await page.wait_for_url(lambda url: "/runs/" in url and not url.endswith(run_id))
    await expect(page.locator("#run-facts .badge-succeeded")).to_be_visible()
    assert counted.read_text() == "once\n"
    await expect(page.get_by_role("link", name=run_id[-8:])).to_be_visible()
    # What the browser and HTMX say of the control plane that was not there.
    ann.complaints[:] = [one for one in ann.complaints if not re.search("htmx:|ERR_", one)]
