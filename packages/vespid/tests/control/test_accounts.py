"""Signing up, in and out; the session cookie and its rotation."""

import asyncio
import statistics
import time

import aiohttp
import asyncpg
import pytest
from tests.support.control import ORIGIN, PASSWORD, Answer, Caller, Control, api_settings

from vespid.control.app import ControlPlane

FROM_PAGES = {"Origin": ORIGIN}


async def log_in(control: Control, email: str, password: str = PASSWORD) -> Answer:
    return await control.anonymous().post("/v1/auth/login", {"email": email, "password": password})


async def refresh(control: Control, cookie: str | None, headers: dict[str, str] = FROM_PAGES) -> Answer:
    return await control.anonymous().post("/v1/auth/refresh", cookie=cookie, headers=headers)


async def age_rotations(superuser: "asyncpg.Connection") -> None:
    await superuser.execute("update refresh_tokens set rotated_at = rotated_at - interval '11 seconds'")


async def test_signup_makes_a_personal_workspace_and_signs_in(control: Control) -> None:
    body = {"email": "Ada@Example.test", "password": PASSWORD, "displayName": "Ada", "unknown": 1}
    answer = await control.anonymous().post("/v1/auth/signup", body)
    assert answer.status == 201
    session, user = answer.body["session"], answer.body["user"]
    assert set(session) == {"token", "userId", "email", "sessionId", "tokenType", "issuedAt", "expiresAt"}
    assert (session["email"], session["tokenType"]) == ("ada@example.test", "access")
    assert session["expiresAt"] - session["issuedAt"] == 900
    assert user["displayName"] == "Ada"
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/", "Secure", "Max-Age=604800"))

    me = await control.with_token(session["token"]).get("/v1/me")
    assert me.status == 200
    assert me.body["account"] == {"isSystemAdmin": False}
    assert [(org["name"], org["roleKey"]) for org in me.body["orgs"]] == [("Personal workspace", "owner")]
    assert me.body["defaultOrgId"] == me.body["orgs"][0]["id"]


async def test_an_address_signs_up_once_however_it_is_typed(control: Control) -> None:
    await control.sign_up("bob@people.test")
    again = await control.anonymous().post("/v1/auth/signup", {"email": "BOB@people.test", "password": PASSWORD})
    assert (again.status, again.code) == (409, "CONFLICT")


async def test_concurrent_signups_of_one_address_leave_one_account(control: Control) -> None:
    body = {"email": "race@people.test", "password": PASSWORD}
    answers = await asyncio.gather(*(control.anonymous().post("/v1/auth/signup", body) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409, 409]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"email", "password"}),
        ({"email": "no", "password": "short"}, {"email", "password"}),
        ({"email": "a@b.test", "password": 12345678}, {"password"}),
        ({"email": "a@b.test", "password": PASSWORD, "displayName": ""}, {"displayName"}),
        ([], {"body"}),
    ],
)
async def test_signup_names_every_field_at_fault(control: Control, body: object, fields: set[str]) -> None:
    answer = await control.anonymous().post("/v1/auth/signup", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert set(answer.body["details"]["fieldErrors"]) == fields


async def test_login_answers_a_session_and_the_address_may_be_typed_in_capitals(control: Control) -> None:
    person = await control.sign_up("carol@people.test")
    answer = await log_in(control, "Carol@People.test")
    assert answer.status == 200
    assert answer.body["user"]["id"] == person.user_id
    assert "vespid_session" in answer.cookies


async def test_unknown_address_and_wrong_password_are_told_the_same_in_the_same_time(control: Control) -> None:
    person = await control.sign_up()
    await log_in(control, "warm@up.test", "wrong password")
    taken: dict[str, list[float]] = {person.email: [], "nobody@people.test": []}
    answers: dict[str, Answer] = {}
    for _ in range(5):
        for email, times in taken.items():
            began = time.perf_counter()
            answers[email] = await log_in(control, email, "wrong password")
            times.append(time.perf_counter() - began)
    known, unknown = answers.values()
    assert (known.status, known.code) == (401, "UNAUTHORIZED")
    assert known.body == unknown.body
    slow, fast = sorted(statistics.median(times) for times in taken.values())[::-1]
    # Without the dummy verification an unknown address answers in a hundredth of the time.
    assert slow < 3 * fast


async def test_refresh_rotates_the_cookie_and_the_login_goes_on(control: Control) -> None:
    person = await control.sign_up()
    answer = await refresh(control, person.cookie)
    assert answer.status == 200
    assert answer.cookies["vespid_session"] != person.cookie
    assert answer.body["session"]["userId"] == person.user_id
    assert (await refresh(control, answer.cookies["vespid_session"])).status == 200


async def test_two_tabs_that_refresh_at_once_get_the_same_successor(control: Control) -> None:
    person = await control.sign_up()
    answers = await asyncio.gather(*(refresh(control, person.cookie) for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.cookies["vespid_session"] for answer in answers}) == 1


async def test_reuse_beyond_the_grace_revokes_the_session(control: Control, superuser: "asyncpg.Connection") -> None:
    person = await control.sign_up()
    rotated = await refresh(control, person.cookie)
    await age_rotations(superuser)
    assert (await refresh(control, person.cookie)).code == "UNAUTHORIZED"
    # The thief's and the owner's copies are both worth nothing now, and so is the access token.
    assert (await refresh(control, rotated.cookies["vespid_session"])).status == 401
    assert (await person.get("/v1/me")).status == 401
    kinds = await superuser.fetch("select kind from control_feed where payload->>'userId' = $1", person.user_id)
    assert [row["kind"] for row in kinds] == ["session_revoked"]


async def test_reuse_within_the_grace_does_not_revoke(control: Control) -> None:
    person = await control.sign_up()
    await refresh(control, person.cookie)
    assert (await refresh(control, person.cookie)).status == 200
    assert (await person.get("/v1/me")).status == 200


@pytest.mark.parametrize("cookie", [None, "", "vrt_unknown", "x" * 500])
async def test_refresh_without_a_good_cookie_is_unauthorized(control: Control, cookie: str | None) -> None:
    answer = await refresh(control, cookie)
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("origin", [{}, {"Origin": "http://evil.test"}, {"Origin": "null"}])
async def test_a_write_on_the_cookie_needs_an_allowed_origin(control: Control, origin: dict[str, str]) -> None:
    person = await control.sign_up()
    refused = await refresh(control, person.cookie, origin)
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    write = await person.post("/v1/orgs", {"name": "Sly", "slug": "sly-org"}, cookie=person.cookie, headers=origin)
    assert (write.status, write.code) == (403, "FORBIDDEN")
    assert (await person.get("/v1/me", cookie=person.cookie, headers=origin)).status == 200


async def test_the_cookie_signs_in_with_an_allowed_origin(control: Control) -> None:
    person = await control.sign_up()
    made = await person.post("/v1/orgs", {"name": "Good", "slug": "good-org"}, cookie=person.cookie, headers=FROM_PAGES)
    assert made.status == 201


async def test_logout_ends_the_access_token_and_the_cookie_at_once(control: Control) -> None:
    person = await control.sign_up()
    answer = await person.post("/v1/auth/logout")
    assert (answer.status, answer.body) == (200, {"ok": True})
    assert (await person.get("/v1/me")).status == 401
    assert (await person.get("/v1/me", cookie=person.cookie)).status == 401
    assert (await refresh(control, person.cookie)).status == 401


async def test_logout_all_ends_every_login_of_the_person_and_of_nobody_else(control: Control, stranger: Caller) -> None:
    person = await control.sign_up()
    second = control.with_token((await log_in(control, person.email)).body["session"]["token"])
    answer = await person.post("/v1/auth/logout-all")
    assert answer.body == {"ok": True, "revokedCount": 2}
    assert [(await caller.get("/v1/me")).status for caller in (person, second, stranger)] == [401, 401, 200]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "Bearer", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."])
async def test_a_bad_bearer_is_unauthorized(control: Control, token: str) -> None:
    answer = await control.anonymous().get("/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


async def test_failed_logins_are_limited_and_successful_ones_are_not(database_url: str, redis_url: str) -> None:
    plane = ControlPlane(api_settings(database_url, redis_url, rate_limit_failures=3))
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}") as http:
            control = Control(plane, http)
            person = await control.sign_up()
            for _ in range(6):
                assert (await log_in(control, person.email)).status == 200
            for _ in range(3):
                assert (await log_in(control, person.email, "wrong password")).status == 401
            limited = await log_in(control, person.email, "wrong password")
            assert (limited.status, limited.code) == (429, "RATE_LIMITED")
            assert 1 <= int(limited.headers["Retry-After"]) <= 60
            # Somebody else at the same address of the network still gets in.
            other = await control.sign_up()
            assert (await log_in(control, other.email)).status == 200
    finally:
        await plane.stop()
