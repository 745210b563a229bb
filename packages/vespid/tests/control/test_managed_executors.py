"""The managed pool over HTTP, and where the agent can be downloaded."""

from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
from tests.support.control import Answer, Caller, Control, api_settings

from vespid.control.app import ControlPlane
from vespid.settings import ApiSettings
from vespid.store.connections import authenticate
from vespid.store.pool import Database
from vespid_protocol.ids import hash_token

M = "/internal/v1/managed-executors"


async def operate(
    control: Control, method: str, path: str = "", body: object = None, header: str = "X-Service-Token"
) -> Answer:
    token = control.plane.deps.settings.internal_service_token
    return await control.anonymous().call(method, f"{M}{path}", body, headers={header: token})


async def issued(control: Control, **spec: Any) -> dict[str, str]:
    answer = await operate(control, "POST", "/issue", spec)
    assert answer.status == 201, answer.body
    executor: dict[str, str] = answer.body
    return executor


async def test_a_managed_executor_is_issued_and_known(control: Control, database: Database) -> None:
    executor = await issued(control, name="m1", maxInFlight=20, labels=["gpu"], runtimeClass="large", region="eu")
    assert set(executor) == {"executorId", "executorToken", "gatewayWsUrl"}
    assert executor["executorToken"].startswith(f"{executor['executorId']}.")
    known = await authenticate(database, hash_token(executor["executorToken"]))
    assert known is not None
    assert (str(known.executor_id), known.organization_id, known.max_in_flight) == (executor["executorId"], None, 20)
    shown = (await operate(control, "GET")).body["executors"][0]
    assert (shown["id"], shown["name"], shown["labels"]) == (executor["executorId"], "m1", ["gpu"])
    assert (shown["runtimeClass"], shown["region"], shown["status"]) == ("large", "eu", "offline")
    assert (shown["drain"], shown["enabled"]) == (False, True)


async def test_everything_about_it_may_be_left_out(control: Control) -> None:
    await issued(control)
    assert (await operate(control, "GET")).body["executors"][0]["maxInFlight"] == 10


@pytest.mark.parametrize("spec", [{"maxInFlight": 0}, {"maxInFlight": 201}, {"labels": [""]}, {"name": ""}])
async def test_a_bad_field_is_named(control: Control, spec: dict[str, Any]) -> None:
    answer = await operate(control, "POST", "/issue", spec)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert [name.partition("[")[0] for name in answer.body["details"]["fieldErrors"]] == list(spec)


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_nobody_without_the_service_token_comes_in(control: Control, owner: Caller, token: str) -> None:
    executor = await issued(control)
    of = f"{M}/{executor['executorId']}"
    for caller in (control.anonymous(), owner):
        for method, path in (("POST", f"{M}/issue"), ("GET", M), ("PATCH", of), ("POST", f"{of}/revoke")):
            for header in ("X-Service-Token", "X-Gateway-Token"):
                answer = await caller.call(method, path, {}, headers={header: token})
                assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


async def test_both_spellings_of_the_header_are_good(control: Control) -> None:
    for header in ("X-Service-Token", "X-Gateway-Token"):
        assert (await operate(control, "GET", header=header)).status == 200


async def test_without_a_configured_token_nobody_comes_in(database_url: str, redis_url: str) -> None:
    settings = msgspec.structs.replace(
        api_settings(database_url, redis_url), internal_api_service_token="", gateway_service_token=""
    )
    plane = ControlPlane(settings)
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            answer = await Control(plane, http).anonymous().get(M, headers={"X-Service-Token": ""})
            assert answer.status == 401
    finally:
        await plane.stop()


async def test_the_gateways_token_serves_where_there_is_no_other(database_url: str, redis_url: str) -> None:
    settings = msgspec.structs.replace(
        api_settings(database_url, redis_url), internal_api_service_token="", gateway_service_token="shared"
    )
    plane = ControlPlane(settings)
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            answer = await Control(plane, http).anonymous().get(M, headers={"X-Service-Token": "shared"})
            assert answer.status == 200
    finally:
        await plane.stop()


@pytest.mark.promise("P6")
async def test_a_revoked_one_is_out_for_good(
    control: Control, database: Database, superuser: "asyncpg.Connection"
) -> None:
    executor = await issued(control)
    of = f"/{executor['executorId']}"
    assert (await operate(control, "POST", f"{of}/revoke")).body == {"ok": True}
    known = await authenticate(database, hash_token(executor["executorToken"]))
    assert known is not None
    assert known.revoked
    assert (await operate(control, "POST", f"{of}/revoke")).status == 200
    assert (await operate(control, "PATCH", of, {"enabled": True})).status == 404
    kinds = [row["kind"] for row in await superuser.fetch("select kind from control_feed")]
    assert kinds.count("executor_revoked") == 1


async def test_draining_and_disabling_are_shown_and_undone(control: Control, database: Database) -> None:
    executor = await issued(control)
    of = f"/{executor['executorId']}"
    assert (await operate(control, "PATCH", of, {"drain": True, "enabled": False})).body == {"ok": True}
    shown = (await operate(control, "GET")).body["executors"][0]
    assert (shown["drain"], shown["enabled"]) == (True, False)
    assert (await operate(control, "PATCH", of, {"enabled": True})).status == 200
    shown = (await operate(control, "GET")).body["executors"][0]
    assert (shown["drain"], shown["enabled"]) == (True, True)


async def test_an_unknown_one_is_not_found(control: Control, owner: Caller) -> None:
    token = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
    byon = await control.anonymous().post("/v1/agents/pair", {"pairingToken": token, "name": "byon"})
    for executor_id in (str(uuid4()), "not-an-id", byon.body["agentId"]):
        assert (await operate(control, "POST", f"/{executor_id}/revoke")).status == 404
        assert (await operate(control, "PATCH", f"/{executor_id}", {"drain": True})).status == 404


@pytest.mark.promise("P5")
async def test_no_organization_sees_a_managed_executor(control: Control, owner: Caller) -> None:
    executor = await issued(control)
    assert (await owner.get("/v1/orgs/{org}/agents")).body["agents"] == []
    answer = await owner.post(f"/v1/orgs/{{org}}/agents/{executor['executorId']}/revoke")
    assert (answer.status, answer.code) == (404, "AGENT_NOT_FOUND")


async def ask_for_downloads(settings: ApiSettings) -> Answer:
    """What a control plane with these settings offers."""
    plane = ControlPlane(settings)
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            return await Control(plane, http).anonymous().get("/v1/meta/agent-installer")
    finally:
        await plane.stop()


async def test_downloads_are_offered_only_where_they_are_enabled(database_url: str, redis_url: str) -> None:
    settings = api_settings(database_url, redis_url)
    off = await ask_for_downloads(msgspec.structs.replace(settings, agent_installer_enabled=False))
    assert (off.status, off.code) == (503, "AGENT_INSTALLER_UNAVAILABLE")
    answer = await ask_for_downloads(msgspec.structs.replace(settings, agent_installer_enabled=True))
    assert answer.status == 200
    assert set(answer.body) == {"provider", "repository", "channel", "docsUrl", "artifacts", "checksumsUrl", "apiBase"}
    artifacts = {artifact["platformId"]: artifact for artifact in answer.body["artifacts"]}
    assert set(artifacts) == {"darwin-arm64", "linux-x64", "windows-x64"}
    assert artifacts["linux-x64"]["downloadUrl"] == (
        "https://github.com/vespid-ai/vespid/releases/latest/download/vespid-agent-linux-x64.tar.gz"
    )
    assert artifacts["windows-x64"]["archiveType"] == "zip"
