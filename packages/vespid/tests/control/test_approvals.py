"""Approvals over HTTP: shown as they would run, decided once, by who may, and told to whoever follows the run."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from tests.support.control import Answer, Caller, Control
from tests.support.run_steps import published, start
from tests.support.run_stream import Opened

from vespid.bus.channels import run_item
from vespid.control import stream
from vespid.dispatch.house import House
from vespid.settings import RunSettings
from vespid_protocol.ids import OrgId, RunId

A = "/v1/orgs/{org}/approvals"
OTHER = "00" * 32


def dsl(by: str = "admin", **more: Any) -> dict[str, Any]:
    task = {"type": "shell", "script": "deploy {{ input.what }}"}
    node = {"id": "n1", "type": "agent.execute", "approval": {"by": by, **more}, "config": {"task": task}}
    return {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [node]}


class Scene:
    """Runs that ask, and the worker's part in them, one step at a time."""

    def __init__(self, control: Control, house: House, owner: Caller) -> None:
        self.control = control
        self.house = house
        self.owner = owner
        self.path = ""
        self.run: dict[str, Any] = {}

    async def ask(self, by: str = "admin", what: str = "all", **more: Any) -> dict[str, Any]:
        """A run that asks; answers the approval in full."""
        self.path = await published(self.owner, dsl(by, **more))
        self.run = await start(self.owner, self.path, input={"what": what})
        await self.step()
        (asked,) = (await self.owner.get(f"{A}?runId={self.run['id']}")).body["approvals"]
        return dict((await self.owner.get(f"{A}/{asked['id']}")).body["approval"])

    async def step(self) -> None:
        await self.house.stepper.step(OrgId(self.run["organizationId"]), RunId(self.run["id"]))

    async def shown(self) -> dict[str, Any]:
        return dict((await self.owner.get(f"{self.path}/runs/{self.run['id']}")).body["run"])

    async def events(self) -> list[dict[str, Any]]:
        return list((await self.owner.get(f"{self.path}/runs/{self.run['id']}/events")).body["events"])


@pytest_asyncio.fixture
async def scene(database_url: str, redis_url: str, control: Control, owner: Caller) -> AsyncIterator[Scene]:
    settings = RunSettings(env="test", database_url=database_url, redis_url=redis_url, database_pool_size=4)
    house = House(settings, "worker")
    await house.start()
    yield Scene(control, house, owner)
    await house.stop()


async def decide(caller: Caller, asked: dict[str, Any], verdict: str = "approve", **more: Any) -> Answer:
    return await caller.post(f"{A}/{asked['id']}/{verdict}", {"hash": asked["hash"], **more})


# --- what is shown ---------------------------------------------------------------------------------------------------


async def test_an_approval_shows_exactly_what_will_run_and_its_hash_is_of_that(
    scene: Scene, superuser: "asyncpg.Connection"
) -> None:
    asked = await scene.ask(what="the lot")
    assert (asked["kind"], asked["by"], asked["status"], asked["mayDecide"]) == ("node", "admin", "pending", True)
    assert asked["what"]["execution"]["payload"]["node"]["config"]["task"]["script"] == "deploy the lot"
    canonical = msgspec.json.Encoder(order="sorted").encode(asked["what"])
    assert hashlib.sha256(canonical).hexdigest() == asked["hash"]
    assert (asked["decidedBy"], asked["decidedAt"], asked["comment"]) == (None, None, None)
    assert asked["expiresAt"] > asked["requestedAt"]
    await decide(scene.owner, asked)
    await scene.step()
    stored = await superuser.fetchval("select payload from executions where kind = 'agent.execute'")
    dispatched = msgspec.json.decode(stored)
    assert dispatched.pop("attemptCount") == 2
    assert dispatched == asked["what"]["execution"]["payload"]


async def test_a_run_says_which_approval_it_waits_for(scene: Scene) -> None:
    asked = await scene.ask()
    blocked = (await scene.shown())["blocked"]
    assert (blocked["kind"], blocked["approvalId"], blocked["approvalIds"]) == ("approval", asked["id"], [asked["id"]])
    assert blocked["timeoutAt"] == asked["expiresAt"]
    assert (await scene.shown())["output"]["steps"][0]["status"] == "waiting"


async def test_lists_go_page_by_page_and_by_status_and_run(scene: Scene) -> None:
    asked = [await scene.ask() for _ in range(3)]
    await decide(scene.owner, asked[0])
    newest_first = [each["id"] for each in reversed(asked)]
    page = (await scene.owner.get(f"{A}?limit=2")).body
    assert [each["id"] for each in page["approvals"]] == newest_first[:2]
    assert "what" not in page["approvals"][0]
    rest = (await scene.owner.get(f"{A}?limit=2&cursor={page['nextCursor']}")).body
    assert ([each["id"] for each in rest["approvals"]], rest["nextCursor"]) == (newest_first[2:], None)
    for query, ids in (
        ("status=pending", newest_first[:2]),
        ("status=decided", newest_first[2:]),
        (f"runId={asked[1]['runId']}", [asked[1]["id"]]),
        (f"runId={uuid4()}", []),
    ):
        assert [each["id"] for each in (await scene.owner.get(f"{A}?{query}")).body["approvals"]] == ids
    for bad in ("status=open", "runId=x", "cursor=zz", "limit=0"):
        answer = await scene.owner.get(f"{A}?{bad}")
        assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, [bad.partition("=")[0]])


# --- deciding --------------------------------------------------------------------------------------------------------


async def test_what_was_approved_runs_and_both_are_told(scene: Scene) -> None:
    asked = await scene.ask()
    answer = await decide(scene.owner, asked, comment="go on")
    assert answer.status == 200
    decided = answer.body["approval"]
    assert (decided["status"], decided["comment"], decided["mayDecide"]) == ("approved", "go on", False)
    assert decided["decidedBy"] == {"userId": scene.owner.user_id, "apiKeyId": None}
    await scene.step()
    told = {event["eventType"]: event for event in await scene.events()}
    assert list(told) == [
        "run_started",
        "node_started",
        "node_waiting",
        "approval_requested",
        "approval_decided",
        "node_dispatched",
    ]
    assert told["node_waiting"]["payload"]["reason"] == "APPROVAL"
    assert told["approval_requested"]["payload"]["approvalId"] == asked["id"]
    payload = told["approval_decided"]["payload"]
    assert (payload["decision"], payload["hash"], payload["userId"]) == ("approved", asked["hash"], scene.owner.user_id)
    assert (await scene.shown())["blocked"]["kind"] == "agent.execute"


async def test_what_was_denied_fails_with_the_comment(scene: Scene) -> None:
    asked = await scene.ask()
    answer = await decide(scene.owner, asked, "deny", comment="not today")
    assert answer.body["approval"]["status"] == "denied"
    await scene.step()
    run = await scene.shown()
    assert (run["status"], run["error"], run["errorMessage"]) == ("failed", "APPROVAL_DENIED", "not today")
    # What people decided is not what the node answered.
    assert "output" not in run["output"]["steps"][0]
    assert (await scene.owner.get(f"{scene.path}/runs/{run['id']}/nodes/n1/output")).status == 404


async def test_every_decision_is_in_the_audit_log_with_its_hash(scene: Scene) -> None:
    approved, denied = await scene.ask(), await scene.ask()
    await decide(scene.owner, approved)
    await decide(scene.owner, denied, "deny", comment="no")
    await decide(scene.owner, denied, "deny")
    entries = (await scene.owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    told = [entry for entry in entries if entry["objectType"] == "approval"]
    assert [(entry["action"], entry["objectId"]) for entry in told] == [
        ("approval.denied", denied["id"]),
        ("approval.approved", approved["id"]),
    ]
    assert (told[0]["details"]["hash"], told[0]["details"]["comment"]) == (denied["hash"], "no")
    assert told[0]["actor"] == {"userId": scene.owner.user_id, "apiKeyId": None}


async def test_a_decision_about_something_else_is_a_conflict(scene: Scene) -> None:
    asked = await scene.ask()
    answer = await decide(scene.owner, asked | {"hash": OTHER})
    assert (answer.status, answer.code) == (409, "CONFLICT")
    assert answer.body["details"] == {"hash": asked["hash"], "status": "pending"}
    assert (await scene.owner.get(f"{A}/{asked['id']}")).body["approval"]["status"] == "pending"


async def test_what_is_decided_stays_decided(scene: Scene) -> None:
    asked = await scene.ask()
    await decide(scene.owner, asked)
    again = await decide(scene.owner, asked, "deny")
    assert (again.status, again.code) == (409, "CONFLICT")
    details = again.body["details"]
    assert (details["status"], details["decidedBy"]["userId"]) == ("approved", scene.owner.user_id)


@pytest.mark.promise("P2")
async def test_of_people_who_decide_at_once_one_does_and_one_is_in_the_audit_log(
    control: Control, scene: Scene
) -> None:
    asked = await scene.ask()
    people = [scene.owner, *[await control.join(scene.owner, "admin") for _ in range(3)]]
    answers = await asyncio.gather(
        *(decide(person, asked, "approve" if at % 2 else "deny") for at, person in enumerate(people))
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    entries = (await scene.owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    assert len([entry for entry in entries if entry["objectType"] == "approval"]) == 1


@pytest.mark.parametrize(
    ("by", "role", "status"),
    [("member", "member", 200), ("admin", "member", 403), ("owner", "admin", 403), ("admin", "admin", 200)],
)
async def test_a_role_that_is_too_low_is_403_and_says_which_it_takes(
    control: Control, scene: Scene, by: str, role: str, status: int
) -> None:
    asked = await scene.ask(by)
    person = await control.join(scene.owner, role)
    seen = (await person.get(f"{A}/{asked['id']}")).body["approval"]
    assert seen["mayDecide"] == (status == 200)
    answer = await decide(person, asked)
    assert answer.status == status
    if status == 403:
        assert (answer.code, by in answer.body["message"]) == ("FORBIDDEN", True)


async def test_a_key_decides_by_its_own_role_and_is_named(control: Control, scene: Scene) -> None:
    asked = await scene.ask()
    for role, status in (("member", 403), ("admin", 200)):
        made = (await scene.owner.post("/v1/orgs/{org}/api-keys", {"name": role, "role": role})).body
        answer = await decide(control.with_token(made["value"], scene.owner.org_id), asked)
        assert answer.status == status
    assert answer.body["approval"]["decidedBy"] == {"userId": scene.owner.user_id, "apiKeyId": made["apiKey"]["id"]}
    (entry, *_) = (await scene.owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    assert (entry["action"], entry["actor"]["apiKeyId"]) == ("approval.approved", made["apiKey"]["id"])


async def test_a_removed_member_decides_nothing(control: Control, scene: Scene) -> None:
    asked = await scene.ask()
    person = await control.join(scene.owner, "admin")
    await scene.owner.delete(f"/v1/orgs/{{org}}/members/{person.user_id}")
    assert (await decide(person, asked)).status == 403
    assert (await scene.owner.get(f"{A}/{asked['id']}")).body["approval"]["status"] == "pending"


@pytest.mark.promise("P5")
async def test_an_approval_of_another_organization_is_not_there(scene: Scene, stranger: Caller) -> None:
    asked = await scene.ask()
    answers = [
        await stranger.get(f"{A}/{asked['id']}"),
        await decide(stranger, asked),
        await decide(stranger, asked, "deny"),
        await stranger.get(f"{A}/{uuid4()}"),
        await stranger.get(f"{A}/x"),
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "NOT_FOUND")}
    assert (await stranger.get(f"{A}?runId={asked['runId']}")).body["approvals"] == []


async def test_bad_bodies_are_named_by_field(scene: Scene) -> None:
    asked = await scene.ask()
    for body, field in (
        ({}, "hash"),
        ({"hash": "short"}, "hash"),
        ({"hash": asked["hash"], "comment": "x" * 2_001}, "comment"),
        ({"hash": asked["hash"], "comment": 1}, "comment"),
    ):
        answer = await scene.owner.post(f"{A}/{asked['id']}/approve", body)
        assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, [field])


async def test_time_that_is_over_is_a_conflict_that_says_so(scene: Scene, superuser: "asyncpg.Connection") -> None:
    asked = await scene.ask()
    await superuser.execute("update approvals set expires_at = now() where id = $1", UUID(asked["id"]))
    answer = await decide(scene.owner, asked)
    assert (answer.status, answer.body["details"]["status"]) == (409, "expired")


async def test_a_cancel_of_the_run_withdraws_the_question(scene: Scene) -> None:
    asked = await scene.ask()
    await scene.owner.post(f"{scene.path}/runs/{scene.run['id']}/cancel")
    await scene.step()
    await scene.step()
    assert (await scene.shown())["status"] == "cancelled"
    assert (await scene.owner.get(f"{A}/{asked['id']}")).body["approval"]["status"] == "cancelled"
    assert (await decide(scene.owner, asked)).status == 409


async def test_a_parked_loop_is_no_output_of_its_node(scene: Scene, superuser: "asyncpg.Connection") -> None:
    await scene.ask()
    await superuser.execute(
        """update executions set placement = 'executor', state = 'failed', error = 'APPROVAL_REQUIRED',
               output = '{"loop": {}}', finished_at = now()"""
    )
    assert "output" not in (await scene.shown())["output"]["steps"][0]
    path = f"{scene.path}/runs/{scene.run['id']}/nodes/n1/output"
    assert (await scene.owner.get(path)).status == 404


async def test_a_worker_is_woken_by_the_decision(scene: Scene) -> None:
    asked = await scene.ask()
    item = run_item(OrgId(asked["organizationId"]), RunId(asked["runId"]))
    queue = scene.control.plane.deps.settings.continuation_queue_name
    async with asyncio.timeout(20), contextlib.aclosing(scene.house.mail.wakes(queue)) as wakes:
        # That the run was started was told, too.
        while item not in await anext(wakes):
            pass
        await decide(scene.owner, asked)
        while item not in await anext(wakes):
            pass


async def test_who_follows_the_run_hears_of_it_at_once(
    control: Control, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REREAD_S", 3600)
    asked = await scene.ask()
    async with Opened(control, scene.owner, f"{scene.path}/runs/{scene.run['id']}/stream") as frames:
        while (await frames.next())["event"] != "approval_requested":
            pass
        await decide(scene.owner, asked)
        frame = await frames.next()
        assert (frame["event"], msgspec.json.decode(frame["data"])["payload"]["approvalId"]) == (
            "approval_decided",
            asked["id"],
        )
