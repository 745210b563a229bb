"""What a session remembers, with the real agent: written by a turn, synced, searched over HTTP, and carried to the
next host when the first is killed."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from tests.support.control import Caller, Control, api_settings
from tests.support.gateways import TOKEN, Fleet, Gateway, fleet
from tests.support.organization import until
from tests.support.processes import Processes, RunningProcess
from tests.support.talk import Talk

from vespid.control.app import ControlPlane
from vespid.domain.session_options import EngineChoice
from vespid.store.sessions import MessageSender
from vespid_agent import config
from vespid_agent.config import AgentConfig
from vespid_agent.testing.scripted_engine import SCRIPTED
from vespid_protocol.ids import OrgId

__all__ = ["fleet"]

REQUIREMENT = msgspec.Raw(msgspec.json.encode({"kind": "agent.run", "engine": SCRIPTED}))


class Scene:
    """A session that the scripted engine answers, and the agents that are its hosts."""

    def __init__(self, fleet: Fleet, gateway: Gateway, owner: Caller, talk: Talk, folder: Path) -> None:
        self.fleet, self.gateway, self.owner, self.talk, self.folder = fleet, gateway, owner, talk, folder
        self.key = f"agent:main:org:{talk.org}:scope:main:{talk.id}"
        self.processes = Processes(folder, {})

    async def agent(self, name: str) -> RunningProcess:
        """A process of its own credential, connected."""
        executor = await self.fleet.ground.executor(self.talk.org, name=name)
        home = self.folder / name
        home.mkdir()
        identity = AgentConfig(
            executor_id=executor.id,
            executor_token=executor.token,
            gateway_ws_url=f"{self.gateway.url.replace('http', 'ws')}/ws/executor",
            api_base_url=self.gateway.url,
            name=name,
        )
        config.save(home / "agent.json", identity)
        command = [sys.executable, "-m", "vespid_agent.testing.scripted_agent", "start"]
        environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path), "VESPID_ENV": "test"}
        process = await self.processes.run([*command, "--config", str(home / "agent.json")], name, environment)
        await self.fleet.routed(executor)
        return process

    async def say(self, *steps: dict[str, object]) -> str:
        """A message, and the text of its answer."""
        sent = await self.talk.send(msgspec.json.encode(steps).decode())

        async def answer() -> Any:
            return (await self.talk.answers()).get(sent.seq or 0)

        payload = await until(answer, f"message {sent.seq} is answered", 60.0)
        assert "code" not in payload, payload
        return str(payload["message"])

    async def sync(self) -> list[dict[str, Any]]:
        """What the host had that was not known."""
        answer = await self.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": self.talk.id})
        assert (answer.status, answer.body["leftOut"]) == (200, []), answer.body
        return list(answer.body["changed"])

    async def search(self, words: str) -> list[str]:
        answer = await self.owner.get(f"/v1/orgs/{{org}}/memory/search?q={words}&sessionKey={self.key}")
        assert answer.status == 200, answer.body
        return [found["snippet"] for found in answer.body["results"]]


@pytest_asyncio.fixture
async def scene(fleet: Fleet, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    plane = ControlPlane(api_settings(database_url, redis_url, gateway_service_token=TOKEN))
    await plane.start()
    gateway = await fleet.gateway()
    sender = MessageSender(gateway.service.house.db)
    await sender.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
        owner = await Control(plane, http).sign_up()
        talk = Talk(gateway.service.house.db, sender, OrgId(owner.org_id or ""), gateway.service.house.mail)
        await talk.create(engine=EngineChoice(id=SCRIPTED), requirement=REQUIREMENT)
        scene = Scene(fleet, gateway, owner, talk, tmp_path)
        yield scene
        await scene.processes.stop()
    await sender.stop()
    await plane.stop()


@pytest.mark.promise("P8")
async def test_memory_is_written_synced_searched_and_carried_to_the_host_that_takes_over(scene: Scene) -> None:
    first = await scene.agent("first")
    said = await scene.say({"remember": "memory/birds.md", "content": "The heron nests in May."}, {"say": "noted"})
    assert said == "noted"
    assert await scene.search("heron") == ["The heron nests in May."]
    assert await scene.sync() == []

    # Somebody with a shell on the host writes beside the turns.
    (written,) = (scene.folder / "first").rglob("birds.md")
    (written.parent.parent / "MEMORY.md").write_text("Ask before deploying.")
    assert [(doc["path"], doc["version"]) for doc in await scene.sync()] == [("MEMORY.md", 2)]
    assert await scene.search("deploy") == ["Ask before deploying."]

    await first.kill()
    await scene.agent("second")
    recalled = await scene.say({"recall": "MEMORY.md"}, {"recall": "memory/birds.md"}, {"search": "herons OR heron"})
    assert recalled == "Ask before deploying.The heron nests in May.memory/birds.md"
    heard = msgspec.json.decode(await scene.say({"history": True}))
    assert heard[1][1:] == ["assistant", "noted"]
    assert await scene.say({"remember": "memory/birds.md", "content": None}, {"say": "gone"}) == "gone"
    assert await scene.search("heron") == []
