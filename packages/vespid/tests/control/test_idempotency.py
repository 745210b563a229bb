"""`Idempotency-Key`: once, whatever is repeated."""

import asyncio

import asyncpg
import pytest
from tests.support.control import Answer, Caller, Control

from vespid.control.housekeeping import Housekeeping


async def make_org(caller: Caller, key: str, slug: str, name: str = "Once") -> Answer:
    return await caller.post("/v1/orgs", {"name": name, "slug": slug}, headers={"Idempotency-Key": key})


async def test_a_repeat_is_given_the_first_answer(owner: Caller) -> None:
    first = await make_org(owner, "k1", "once-org")
    again = await make_org(owner, "k1", "once-org")
    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert len((await owner.get("/v1/me")).body["orgs"]) == 2


async def test_another_body_under_the_same_key_is_409(owner: Caller) -> None:
    await make_org(owner, "k1", "once-org")
    other = await make_org(owner, "k1", "twice-org")
    assert (other.status, other.code) == (409, "CONFLICT")


async def test_the_same_key_at_once_creates_once_and_all_get_the_same_answer(owner: Caller) -> None:
    answers = await asyncio.gather(*(make_org(owner, "k1", "once-org") for _ in range(8)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["organization"]["id"] for answer in answers}) == 1


async def test_keys_of_different_callers_do_not_meet(owner: Caller, stranger: Caller) -> None:
    assert (await make_org(owner, "k1", "first-org")).status == 201
    assert (await make_org(stranger, "k1", "second-org")).status == 201


async def test_a_refusal_is_not_kept(owner: Caller, stranger: Caller) -> None:
    await make_org(stranger, "x", "taken-org")
    assert (await make_org(owner, "k1", "taken-org")).code == "ORG_SLUG_CONFLICT"
    assert (await make_org(owner, "k1", "free-org")).status == 201


@pytest.mark.parametrize("key", ["x" * 256, " "])
async def test_a_key_has_bounds(owner: Caller, key: str) -> None:
    answer = await make_org(owner, key, "bound-org")
    assert answer.status in (201, 400) if key == " " else answer.status == 400


async def test_a_key_may_be_used_again_after_its_day(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    await make_org(owner, "k1", "old-org")
    await superuser.execute("update idempotency_keys set expires_at = now() - interval '1 second'")
    assert (await make_org(owner, "k1", "new-org")).status == 201
    await superuser.execute("update idempotency_keys set expires_at = now() - interval '1 second'")
    await Housekeeping(control.plane.deps.database).prune()
    assert await superuser.fetchval("select count(*) from idempotency_keys") == 0
