"""Every error of every route in one envelope, and the manners of every answer."""

import re

import pytest
from tests.support.control import Caller, Control

from vespid.store.pool import Database

UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def test_an_unknown_route_is_404_in_the_envelope(control: Control) -> None:
    answer = await control.anonymous().get("/v1/nothing/here")
    assert (answer.status, answer.code) == (404, "NOT_FOUND")
    assert set(answer.body) == {"code", "message"}


async def test_a_wrong_method_is_405_and_names_the_right_ones(control: Control) -> None:
    answer = await control.anonymous().delete("/v1/auth/login")
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b'{"email":', b"[" * 100_000, b"nonsense", b'{"a":"\xc3\x28"}'],
    ids=["open", "not utf-8", "cut", "deep", "word", "bad utf-8 inside"],
)
async def test_bad_json_is_400_in_the_envelope(control: Control, body: bytes) -> None:
    answer = await control.anonymous().post("/v1/auth/login", data=body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_a_body_over_one_mebibyte_is_413(control: Control) -> None:
    answer = await control.anonymous().post("/v1/auth/login", data=b'{"email":"' + b"x" * 1_100_000 + b'"}')
    assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")


async def test_nul_and_lone_surrogates_do_not_reach_the_database(control: Control) -> None:
    body = b'{"email":"nul@people.test","password":"long enough","displayName":"a\\u0000b\\ud800c"}'
    answer = await control.anonymous().post("/v1/auth/signup", data=body)
    assert answer.status == 201
    assert answer.body["user"]["displayName"] == "a\ufffdb\ufffdc"


async def test_a_content_type_on_an_empty_body_is_fine(control: Control, owner: Caller) -> None:
    answer = await owner.post("/v1/auth/logout", headers={"Content-Type": "application/json"})
    assert answer.status == 200


async def test_every_answer_carries_a_request_id_and_keeps_a_harmless_one(control: Control) -> None:
    anonymous = control.anonymous()
    for path in ("/healthz", "/v1/nothing", "/v1/me"):
        assert UUID_TEXT.fullmatch((await anonymous.get(path)).headers["x-request-id"])
    kept = await anonymous.get("/healthz", headers={"x-request-id": "my-id.7"})
    assert kept.headers["x-request-id"] == "my-id.7"
    replaced = await anonymous.get("/healthz", headers={"x-request-id": "<script>"})
    assert UUID_TEXT.fullmatch(replaced.headers["x-request-id"])


async def test_traceparent_is_continued_and_a_wrong_one_is_dropped(control: Control) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = await control.anonymous().get("/healthz", headers={"traceparent": given})
    assert answer.headers["traceparent"].split("-")[1] == given.split("-")[1]
    wrong = await control.anonymous().get("/healthz", headers={"traceparent": "00-" + "0" * 32 + "-1-1"})
    assert "traceparent" not in wrong.headers


async def test_the_unforeseen_is_500_with_a_request_id_and_no_inner_detail(
    control: Control, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def burst(*_: object) -> None:
        raise RuntimeError("the inner detail")

    monkeypatch.setattr("vespid.store.members.list_members", burst)
    answer = await owner.get("/v1/orgs/{org}/members", headers={"x-request-id": "find-me"})
    assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
    assert answer.body["details"] == {"requestId": "find-me"}
    assert "inner detail" not in str(answer.body)


async def test_a_database_that_is_away_is_503_and_not_ready(control: Control, owner: Caller) -> None:
    database: Database = control.plane.deps.database
    await database.stop()
    answer = await owner.get("/v1/orgs/{org}/members")
    assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")
    assert (await owner.get("/readyz")).status == 503
    assert (await owner.get("/healthz")).body == {"ok": True}


async def test_pages_of_an_allowed_origin_may_call_and_others_may_not(control: Control) -> None:
    asked = {"Origin": "http://pages.test", "Access-Control-Request-Method": "POST"}
    allowed = await control.anonymous().call("OPTIONS", "/v1/orgs", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "http://pages.test"
    refused = await control.anonymous().call("OPTIONS", "/v1/orgs", headers=asked | {"Origin": "http://evil.test"})
    assert "access-control-allow-origin" not in refused.headers
