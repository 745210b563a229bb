"""Organizations: making one, entering one, and its settings."""

import asyncio

import pytest
from tests.support.control import Caller, Control
from tests.support.organization import until

from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.organizations import KEPT_S, Organizations
from vespid.service import running
from vespid_protocol.ids import OrgId, new_id


async def test_an_organization_is_made_with_its_maker_as_owner(control: Control, owner: Caller) -> None:
    answer = await owner.post("/v1/orgs", {"name": "Ärzte ohne", "slug": "aerzte"})
    assert answer.status == 201
    assert answer.body["organization"]["slug"] == "aerzte"
    assert answer.body["membership"]["roleKey"] == "owner"
    mine = (await owner.get("/v1/me")).body["orgs"]
    assert [org["slug"] for org in mine][1:] == ["aerzte"]
    again = await control.anonymous().post("/v1/orgs", {"name": "x"})
    assert again.status == 401


async def test_a_slug_is_taken_once_even_by_many_at_once(owner: Caller) -> None:
    body = {"name": "Race", "slug": "race-org"}
    answers = await asyncio.gather(*(owner.post("/v1/orgs", body) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
    assert {answer.code for answer in answers if answer.status == 409} == {"ORG_SLUG_CONFLICT"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "slug": "good-slug"}, "name"),
        ({"name": "x" * 121, "slug": "good-slug"}, "name"),
        ({"name": "Good", "slug": "No"}, "slug"),
        ({"name": "Good", "slug": "Upper-case"}, "slug"),
        ({"name": "Good", "slug": "s" * 51}, "slug"),
        ({"name": "Good", "slug": "with-newline\n"}, "slug"),
    ],
)
async def test_names_and_slugs_have_bounds(owner: Caller, body: dict[str, str], field: str) -> None:
    answer = await owner.post("/v1/orgs", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert field in answer.body["details"]["fieldErrors"]


async def test_the_organization_header_must_be_there_and_be_the_paths(owner: Caller, stranger: Caller) -> None:
    path = f"/v1/orgs/{owner.org_id}/settings"
    cases: list[tuple[Caller, str, str, int, str]] = [
        (owner, path, "", 400, "ORG_CONTEXT_REQUIRED"),
        (owner, path, "not-a-uuid", 400, "INVALID_ORG_CONTEXT"),
        (owner, path, str(stranger.org_id), 400, "INVALID_ORG_CONTEXT"),
        (owner, "/v1/orgs/not-a-uuid/settings", "not-a-uuid", 400, "INVALID_ORG_CONTEXT"),
        (stranger, path, str(owner.org_id), 403, "ORG_ACCESS_DENIED"),
        (owner, f"/v1/orgs/{(other := new_id())}/settings", other, 403, "ORG_ACCESS_DENIED"),
    ]
    for caller, where, header, status, code in cases:
        answer = await caller.get(where, headers={"X-Org-Id": header})
        assert (answer.status, answer.code) == (status, code)


async def test_an_organization_may_be_spelled_in_capitals(owner: Caller) -> None:
    upper = str(owner.org_id).upper()
    answer = await owner.get(f"/v1/orgs/{upper}/settings", headers={"X-Org-Id": upper})
    assert answer.status == 200


async def test_membership_is_checked_before_the_body(owner: Caller, stranger: Caller) -> None:
    headers = {"X-Org-Id": str(owner.org_id)}
    answer = await stranger.put(f"/v1/orgs/{owner.org_id}/settings", data=b"{not json", headers=headers)
    assert (answer.status, answer.code) == (403, "ORG_ACCESS_DENIED")


async def test_settings_have_defaults(owner: Caller) -> None:
    answer = await owner.get("/v1/orgs/{org}/settings")
    assert answer.body == {
        "settings": {
            "tools": {"shellRunEnabled": False, "shellSecretsEnabled": False},
            "execution": {"quotas": {"maxExecutorInFlight": None}},
            "llm": {"defaults": {"primary": {"provider": None, "model": None, "secretId": None}}},
        }
    }


async def test_a_part_is_merged_into_the_settings(owner: Caller) -> None:
    await owner.put("/v1/orgs/{org}/settings", {"tools": {"shellRunEnabled": True}})
    quota = {"execution": {"quotas": {"maxExecutorInFlight": 7}}, "llm": {"defaults": {"primary": {"model": "m"}}}}
    answer = await owner.put("/v1/orgs/{org}/settings", quota)
    assert answer.status == 200
    assert answer.body["settings"]["tools"] == {"shellRunEnabled": True, "shellSecretsEnabled": False}
    assert answer.body["settings"]["execution"]["quotas"]["maxExecutorInFlight"] == 7
    back = await owner.put("/v1/orgs/{org}/settings", {"execution": {"quotas": {"maxExecutorInFlight": None}}})
    assert back.body["settings"]["execution"]["quotas"]["maxExecutorInFlight"] is None
    assert (await owner.get("/v1/orgs/{org}/settings")).body == back.body


async def test_parts_merged_at_once_are_all_kept(owner: Caller) -> None:
    parts: list[dict[str, object]] = [
        {"tools": {"shellRunEnabled": True}},
        {"tools": {"shellSecretsEnabled": True}},
        {"execution": {"quotas": {"maxExecutorInFlight": 3}}},
        {"llm": {"defaults": {"primary": {"provider": "anthropic"}}}},
    ]
    answers = await asyncio.gather(*(owner.put("/v1/orgs/{org}/settings", part) for part in parts))
    assert {answer.status for answer in answers} == {200}
    settings = (await owner.get("/v1/orgs/{org}/settings")).body["settings"]
    assert settings["tools"] == {"shellRunEnabled": True, "shellSecretsEnabled": True}
    assert settings["execution"]["quotas"]["maxExecutorInFlight"] == 3
    assert settings["llm"]["defaults"]["primary"]["provider"] == "anthropic"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"nope": 1}, "nope"),
        ({"tools": {"nope": True}}, "tools.nope"),
        ({"tools": {"shellRunEnabled": "yes"}}, "tools.shellRunEnabled"),
        ({"tools": None}, "tools"),
        ({"execution": {"quotas": {"maxExecutorInFlight": 0}}}, "execution.quotas.maxExecutorInFlight"),
        ({"llm": {"defaults": {"primary": {"secretId": "x"}}}}, "llm.defaults.primary.secretId"),
    ],
)
async def test_what_settings_do_not_know_is_refused(owner: Caller, part: dict[str, object], field: str) -> None:
    answer = await owner.put("/v1/orgs/{org}/settings", part)
    assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, [field])


async def test_members_read_settings_and_do_not_change_them(control: Control, owner: Caller) -> None:
    member = await control.join(owner)
    assert (await member.get("/v1/orgs/{org}/settings")).status == 200
    refused = await member.put("/v1/orgs/{org}/settings", {})
    assert (refused.status, refused.code) == (403, "FORBIDDEN")


async def test_who_keeps_settings_reads_them_again_as_soon_as_they_change(control: Control, owner: Caller) -> None:
    database = control.plane.deps.database
    kept = Organizations(database, default_max_in_flight=50)
    feed = ControlFeed(database, None)
    feed.listen(kept.read)
    org = OrgId(str(owner.org_id))
    async with running(feed):
        assert not (await kept.settings(org)).tools.shell_run_enabled
        await owner.put("/v1/orgs/{org}/settings", {"tools": {"shellRunEnabled": True}})

        async def has_read() -> bool:
            return (await kept.settings(org)).tools.shell_run_enabled

        # Half of the time for which they would be kept without the feed.
        await until(has_read, "the change is read", KEPT_S / 2)
