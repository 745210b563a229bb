"""An agent reads a ticket, runs a skill, asks a person, and writes back; what holds its loop is killed at each step.

Every process is a real one. The model is the stand-in, which answers by what it has been told so far, so that it says
the same to the same question: what is asked twice shows in `model.asked`.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.support.approvals import decide, waiting
from tests.support.dump import Dump
from tests.support.installed import QUICK
from tests.support.model_server import Asked, ModelServer, Say, Step, Tool, Wait, call_tools
from tests.support.organization import Organization, until
from tests.support.processes import Processes, RunningProcess
from tests.support.ticket_desk import NUMBER, PATH, REPO, TicketDesk

GITHUB_TOKEN = "ghp_canary_of_the_ticket_desk_0001"
MODEL_KEY = "sk-canary-of-the-model-0001"
COMMENT = "Fixed in the next release."
ANSWER = "The ticket is answered."

READ, TRIAGE, WRITE = "connector.github.issue.get", "skill.triage", "connector.github.issue.comment"


@dataclass
class Clerk:
    """What the model does, by how many results it has been given."""

    asked: Counter[int] = field(default_factory=Counter)
    # Questions that are not answered the first time they come.
    _silent_at: set[int] = field(default_factory=set)

    def be_silent_at(self, results: int) -> None:
        self._silent_at.add(results)

    def __call__(self, asked: Asked) -> Step:
        results = sum(message["role"] == "tool" for message in asked.body["messages"])
        self.asked[results] += 1
        ticket = {"repo": REPO, "issueNumber": NUMBER}
        step = (
            call_tools(Tool("connector_github_issue_get", ticket)),
            call_tools(Tool("skill_triage", {"title": "The cart is empty after login"})),
            call_tools(Tool("connector_github_issue_comment", ticket | {"body": COMMENT})),
            Say(ANSWER),
        )[results]
        if results in self._silent_at:
            self._silent_at.discard(results)
            return Wait(step)
        return step


@dataclass
class Skill:
    """`skill.triage` of an agent: it leaves a line for each time it runs, and can be held."""

    folder: Path

    def __post_init__(self) -> None:
        place = self.folder / "skills" / "triage"
        (place / "scripts").mkdir(parents=True)
        about = {
            "id": "triage",
            "version": "1.0.0",
            "description": "How urgent a ticket is",
            "entrypoint": "scripts/run.sh",
            "runtime": "shell",
            "inputSchema": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
            "outputMode": "json",
        }
        (place / "skill.json").write_text(json.dumps(about))
        (place / "scripts" / "run.sh").write_text(
            f"echo run >> {self._runs}\n"
            f"while [ -e {self._held} ]; do sleep 0.05; done\n"
            f"""echo '{{"urgency":"high"}}'\n"""
        )

    @property
    def skills_dir(self) -> str:
        return str(self.folder / "skills")

    @property
    def _runs(self) -> Path:
        return self.folder / "runs"

    @property
    def _held(self) -> Path:
        return self.folder / "held"

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines()) if self._runs.exists() else 0

    def hold(self) -> None:
        self._held.touch()

    def release(self) -> None:
        self._held.unlink()


@dataclass
class House:
    """A whole installation, its ticket desk, its model, and an agent with the skill."""

    organization: Organization
    desk: TicketDesk
    model: ModelServer
    clerk: Clerk
    skill: Skill
    agent: RunningProcess
    agent_env: dict[str, str]
    workflow_id: str = ""
    run_id: str = ""

    async def start(self, mode: str) -> None:
        secrets = {}
        for connector, value in (("github", GITHUB_TOKEN), ("openai", MODEL_KEY)):
            made = await self.organization.call(
                "POST",
                "/v1/orgs/{org}/secrets",
                {"connectorId": connector, "name": connector, "value": value},
                status=201,
            )
            secrets[connector] = made.body["secret"]["id"]
        node = {
            "id": "clerk",
            "type": "agent.run",
            "timeoutMs": 120_000,
            "retry": {"maxAttempts": 30, "backoffMs": 50},
            "config": {
                "engine": {
                    "id": "vespid.loop.v1",
                    "provider": "openai",
                    "model": "gpt-stand-in",
                    "auth": {"secretId": secrets["openai"]},
                },
                "prompt": {"instructions": "Answer ticket {{ input.number }}."},
                "tools": {
                    "allow": [READ, TRIAGE, WRITE],
                    "auth": {"github": {"secretId": secrets["github"]}},
                    "approval": {WRITE: {"by": "admin", "timeoutMs": 600_000}},
                },
                "execution": {"mode": mode},
            },
        }
        self.workflow_id = (await self.organization.publish(node))["workflow"]["id"]
        self.run_id = await self.organization.start_run(self.workflow_id, {"number": NUMBER})


@pytest_asyncio.fixture
async def house(processes: Processes, tmp_path: Path) -> AsyncIterator[House]:
    async with (
        TicketDesk(body=f"Since yesterday. My token is {GITHUB_TOKEN}.") as desk,
        ModelServer(key=MODEL_KEY) as model,
    ):
        clerk = Clerk()
        model.decides(clerk)
        processes.env |= QUICK | {"GITHUB_API_BASE_URL": desk.url, "OPENAI_BASE_URL": model.openai_url}
        for command in ("api", "gateway", "engine-runner", "worker"):
            await processes.start(command)
        skill = Skill(tmp_path)
        agent_env = {
            "VESPID_AGENT_SKILLS_DIR": skill.skills_dir,
            "GITHUB_API_BASE_URL": desk.url,
            "OPENAI_BASE_URL": model.openai_url,
        }
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            organization = await Organization.sign_up(processes, http)
            agent, _ = await organization.pair("clerk", **agent_env)
            yield House(organization, desk, model, clerk, skill, agent, agent_env)


async def kill_holder(house: House, mode: str) -> None:
    """kill -9 of whoever has the loop, and another one in its place."""
    processes = house.organization.processes
    if mode == "gateway":
        (worker,) = processes.running("worker")
        await worker.kill()
        await processes.start("worker")
    else:
        await house.agent.kill()
        house.agent = await house.organization.restart_agent("clerk", **house.agent_env)
        await house.agent.has_printed("welcomed")


@pytest.mark.promise("P1", "P2", "P3", "P7")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["gateway", "executor"])
async def test_killed_at_each_step_it_repeats_no_call_that_had_finished(house: House, mode: str, dump: Dump) -> None:
    clerk, desk, skill = house.clerk, house.desk, house.skill

    async def is_asked(results: int) -> None:
        await until(lambda: clerk.asked[results], f"the model is asked with {results} results")

    async def killed(reached: Callable[[], Awaitable[None]]) -> None:
        await reached()
        await kill_holder(house, mode)

    # The model thinks about its first question.
    clerk.be_silent_at(0)
    desk.hold("GET")
    await house.start(mode)
    await killed(lambda: is_asked(0))
    # The ticket is being read.
    await until(lambda: desk.count("GET", PATH), "the ticket is read")
    clerk.be_silent_at(1)
    await kill_holder(house, mode)
    desk.release()
    # The model thinks about what it read.
    await killed(lambda: is_asked(1))
    # The skill runs.
    skill.hold()
    clerk.be_silent_at(2)
    await until(lambda: skill.runs, "the skill runs")
    await kill_holder(house, mode)
    skill.release()
    # The model thinks about how urgent it is.
    await killed(lambda: is_asked(2))
    # A person is asked.
    asked = await waiting(house.organization, house.run_id)
    await kill_holder(house, mode)
    assert await waiting(house.organization, house.run_id) == asked
    assert asked["what"]["tool"] == WRITE
    assert asked["what"]["arguments"] == {"repo": REPO, "issueNumber": NUMBER, "body": COMMENT}
    assert desk.comments == []
    # The comment has been written, and nobody knows.
    desk.hold("POST")
    await decide(house.organization, asked, "approve")
    await until(lambda: desk.comments, "the comment is written")
    clerk.be_silent_at(3)
    await kill_holder(house, mode)
    desk.release()
    # The model thinks about its last words.
    await killed(lambda: is_asked(3))

    run = await house.organization.finished(house.workflow_id, house.run_id, within_s=120)
    assert run["status"] == "succeeded", run
    (step,) = run["output"]["steps"]
    assert step["output"]["text"] == ANSWER
    # A question was asked again only where its answer had not come, a call made again only where it had not ended.
    assert clerk.asked == {0: 2, 1: 2, 2: 2, 3: 2}
    assert desk.count("GET", PATH) == 2
    assert skill.runs <= 2
    # Begun again, the comment was found by its mark.
    assert len(desk.comments) == 1
    assert COMMENT in desk.comments[0]["body"]
    assert desk.tokens == {GITHUB_TOKEN}

    events = await house.organization.events(house.workflow_id, house.run_id)
    results = [event["payload"]["payload"]["tool"] for event in events if event["message"] == "tool_result"]
    assert sorted(results) == sorted((READ, TRIAGE, WRITE))

    # The secrets are nowhere, though the desk says one of them; what is no secret shows that it would be found.
    asked_of_models = b"".join(json.dumps(request.body).encode() for request in house.model.requests)
    kept = [await dump(), json.dumps(events).encode(), asked_of_models]
    kept += [file.read_bytes() for file in house.organization.processes.folder.rglob("*") if file.is_file()]
    everything = b"\n".join(kept)
    assert COMMENT.encode() in everything
    assert GITHUB_TOKEN.encode() not in everything
    assert MODEL_KEY.encode() not in everything
