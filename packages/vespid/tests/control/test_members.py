"""Members, the last owner, and invitations."""

import asyncio

import asyncpg
import pytest
from tests.support.control import Answer, Caller, Control

from vespid_protocol.ids import new_id


async def invite(caller: Caller, email: str, role: str = "member") -> Answer:
    return await caller.post("/v1/orgs/{org}/invitations", {"email": email, "roleKey": role})


async def set_role(caller: Caller, user_id: str, role: str) -> Answer:
    return await caller.post(f"/v1/orgs/{{org}}/members/{user_id}/role", {"roleKey": role})


async def roles(caller: Caller) -> dict[str, str]:
    answer = await caller.get("/v1/orgs/{org}/members")
    return {member["userId"]: member["roleKey"] for member in answer.body["members"]}


async def test_members_are_listed_page_by_page(control: Control, owner: Caller) -> None:
    people = [owner, *[await control.join(owner) for _ in range(4)]]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await owner.get(f"/v1/orgs/{{org}}/members?limit=2{f'&cursor={cursor}' if cursor else ''}")
        seen += [member["userId"] for member in page.body["members"]]
        cursor = page.body["nextCursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(person.user_id for person in people)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=%00", "cursor=MTpub3QtYW4taWQ", "limit=0", "limit=201", "limit=x"]
)
async def test_a_page_that_makes_no_sense_is_400(owner: Caller, query: str) -> None:
    answer = await owner.get(f"/v1/orgs/{{org}}/members?{query}")
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert query.split("=")[0] in answer.body["details"]["fieldErrors"]


async def test_the_last_owner_can_be_neither_demoted_nor_removed(owner: Caller) -> None:
    demoted = await set_role(owner, owner.user_id, "admin")
    removed = await owner.delete(f"/v1/orgs/{{org}}/members/{owner.user_id}")
    assert [(demoted.status, demoted.code), (removed.status, removed.code)] == [(409, "CONFLICT")] * 2


@pytest.mark.parametrize("how", ["demote", "remove", "mixed"])
async def test_owners_who_leave_at_the_same_moment_leave_one(control: Control, owner: Caller, how: str) -> None:
    owners = [owner, *[await control.join(owner, "owner") for _ in range(3)]]

    async def leave(number: int, person: Caller) -> Answer:
        if how == "demote" or (how == "mixed" and number % 2):
            return await set_role(person, person.user_id, "member")
        return await person.delete(f"/v1/orgs/{{org}}/members/{person.user_id}")

    answers = await asyncio.gather(*(leave(number, person) for number, person in enumerate(owners)))
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 409]


async def test_roles_limit_what_may_be_done_about_members(control: Control, owner: Caller) -> None:
    admin, member = await control.join(owner, "admin"), await control.join(owner)
    assert (await set_role(member, member.user_id, "admin")).code == "FORBIDDEN"
    assert (await set_role(admin, member.user_id, "owner")).code == "FORBIDDEN"
    assert (await set_role(admin, owner.user_id, "member")).code == "FORBIDDEN"
    assert (await admin.delete(f"/v1/orgs/{{org}}/members/{owner.user_id}")).code == "FORBIDDEN"
    assert (await member.delete(f"/v1/orgs/{{org}}/members/{admin.user_id}")).code == "FORBIDDEN"
    assert (await set_role(admin, member.user_id, "admin")).body["member"]["roleKey"] == "admin"
    assert (await set_role(owner, admin.user_id, "nothing")).code == "BAD_REQUEST"
    assert (await set_role(owner, new_id(), "member")).code == "NOT_FOUND"
    assert (await roles(owner))[member.user_id] == "admin"


async def test_who_is_removed_is_out_at_once_with_their_keys(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    admin = await control.join(owner, "admin")
    key = (await admin.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "admin"})).body["value"]
    machine = control.with_token(key, owner.org_id)
    assert (await machine.get("/v1/orgs/{org}/members")).status == 200

    assert (await owner.delete(f"/v1/orgs/{{org}}/members/{admin.user_id}")).body == {"ok": True}

    assert (await admin.get("/v1/orgs/{org}/members")).code == "ORG_ACCESS_DENIED"
    assert (await machine.get("/v1/orgs/{org}/members")).status == 401
    told = await superuser.fetchrow(
        "select organization_id, subject_id from control_feed where kind = 'member_removed'"
    )
    assert told is not None
    assert (str(told["organization_id"]), told["subject_id"]) == (owner.org_id, admin.user_id)


async def test_a_key_is_lowered_with_its_maker(control: Control, owner: Caller) -> None:
    admin = await control.join(owner, "admin")
    key = (await admin.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "admin"})).body["value"]
    await set_role(owner, admin.user_id, "member")
    answer = await control.with_token(key, owner.org_id).get("/v1/orgs/{org}/audit-log")
    assert (answer.status, answer.code) == (403, "FORBIDDEN")


async def test_an_invitation_shows_its_token_once_and_is_good_for_its_address(control: Control, owner: Caller) -> None:
    invited, other = await control.sign_up(), await control.sign_up()
    made = (await invite(owner, invited.email.upper(), "admin")).body["invitation"]
    assert made["email"] == invited.email
    listed = (await owner.get("/v1/orgs/{org}/invitations")).body["invitations"]
    assert [("token" in entry, entry["status"]) for entry in listed] == [(False, "pending")]

    refused = await other.post(f"/v1/invitations/{made['token']}/accept")
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    accepted = await invited.post(f"/v1/invitations/{made['token']}/accept")
    assert (accepted.status, accepted.body["membership"]["roleKey"]) == (200, "admin")
    again = await invited.post(f"/v1/invitations/{made['token']}/accept")
    assert (again.status, again.code) == (409, "CONFLICT")
    assert (await roles(owner))[invited.user_id] == "admin"


async def test_an_invitation_accepted_many_times_at_once_makes_one_member(control: Control, owner: Caller) -> None:
    invited = await control.sign_up()
    token = (await invite(owner, invited.email)).body["invitation"]["token"]
    answers = await asyncio.gather(*(invited.post(f"/v1/invitations/{token}/accept") for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]


async def test_an_invitation_that_expired_or_was_taken_back_is_unknown(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    invited = await control.sign_up()
    expired = (await invite(owner, invited.email)).body["invitation"]
    await superuser.execute("update invitations set expires_at = now() - interval '1 second'")
    taken_back = (await invite(owner, invited.email)).body["invitation"]
    assert (await owner.delete(f"/v1/orgs/{{org}}/invitations/{taken_back['id']}")).body == {"ok": True}
    assert (await owner.delete(f"/v1/orgs/{{org}}/invitations/{taken_back['id']}")).status == 404
    for token in (expired["token"], taken_back["token"], "nonsense", f"{owner.org_id}.vin_nothing"):
        answer = await invited.post(f"/v1/invitations/{token}/accept")
        assert (answer.status, answer.code) == (404, "INVITATION_NOT_FOUND")


async def test_an_invitation_token_does_not_work_under_another_organization(
    control: Control, owner: Caller, stranger: Caller
) -> None:
    invited = await control.sign_up()
    token = (await invite(owner, invited.email)).body["invitation"]["token"]
    moved = f"{stranger.org_id}.{token.split('.')[1]}"
    assert (await invited.post(f"/v1/invitations/{moved}/accept")).code == "INVITATION_NOT_FOUND"


async def test_only_an_owner_invites_an_owner_and_members_invite_nobody(control: Control, owner: Caller) -> None:
    admin, member = await control.join(owner, "admin"), await control.join(owner)
    assert (await invite(admin, "a@people.test", "owner")).code == "FORBIDDEN"
    assert (await invite(member, "a@people.test")).code == "FORBIDDEN"
    assert (await invite(admin, "a@people.test", "admin")).status == 201
    assert (await invite(owner, "not an address")).code == "BAD_REQUEST"
