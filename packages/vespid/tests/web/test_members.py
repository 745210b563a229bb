"""The pages of members and invitations, API keys, settings, audit log and usage."""

import re

from tests.support.control import Caller
from tests.support.pages import Pages, Visit


def visit_of(control: Pages, person: Caller) -> Visit:
    """Their browser, in the organization that they act in."""
    return control.visit(person, vespid_org=str(person.org_id))


async def test_an_invitation_is_shown_once_as_a_link_that_works(
    control: Pages, owner: Caller, stranger: Caller
) -> None:
    visit = visit_of(control, owner)
    made = await visit.send("/invitations", {"email": stranger.email, "roleKey": "admin"}, hx_target="members")
    (link,) = re.findall(r"http://pages\.test(/invitations/[^<]+)", made.html)
    assert link not in (await visit.get("/members")).html
    assert (await control.visit(stranger).send(link)).status == 303
    assert stranger.email in (await visit.get("/members")).html


async def test_what_is_wrong_with_an_invitation_stands_at_its_field(control: Pages, owner: Caller) -> None:
    refused = await visit_of(control, owner).send(
        "/invitations", {"email": "nobody", "roleKey": "member"}, hx_target="members"
    )
    assert refused.status == 400
    assert 'value="nobody"' in refused.html
    assert 'aria-invalid="true"' in refused.html


async def test_members_are_found_by_their_address(control: Pages, owner: Caller) -> None:
    member = await control.join(owner)
    found = await visit_of(control, owner).get(f"/members?q={member.email[:8]}", hx_target="members")
    assert (member.email in found.html, owner.email in found.html) == (True, False)


async def test_a_member_sees_people_and_no_way_to_change_them(control: Pages, owner: Caller) -> None:
    member = await control.join(owner)
    page = await visit_of(control, member).get("/members")
    assert owner.email in page.html
    assert "/role" not in page.html
    assert "/invitations" not in page.html


async def test_the_last_owner_who_would_leave_is_told_why_not(control: Pages, owner: Caller) -> None:
    refused = await visit_of(control, owner).send(f"/members/{owner.user_id}/remove", hx_target="members")
    assert (refused.status, "keeps at least one owner" in refused.text) == (409, True)


async def test_an_api_key_is_shown_once_works_and_is_revoked(control: Pages, owner: Caller) -> None:
    visit = visit_of(control, owner)
    form = {"name": "ci", "role": "member", "days": "30"}
    made = await visit.send("/api-keys", form, hx_target="api-keys")
    (value,) = re.findall(r"<code>([^<]+\.vak_[^<]+)</code>", made.html)
    assert value not in (await visit.get("/api-keys")).html
    machine = control.with_token(value, owner.org_id)
    assert (await machine.get("/v1/orgs/{org}/members")).status == 200
    (key,) = (await owner.get("/v1/orgs/{org}/api-keys?q=CI")).body["apiKeys"]
    assert key["expiresAt"] is not None
    await visit.send(f"/api-keys/{key['id']}/revoke", hx_target="api-keys")
    assert (await machine.get("/v1/orgs/{org}/members")).status == 401


async def test_settings_are_saved_whole_and_what_is_wrong_is_told(control: Pages, owner: Caller) -> None:
    visit = visit_of(control, owner)
    form = {"shellRunEnabled": "on", "maxExecutorInFlight": "7", "provider": "openai", "model": "m", "secretId": ""}
    assert (await visit.send("/settings", form, hx_target="settings")).status == 200
    settings = (await owner.get("/v1/orgs/{org}/settings")).body["settings"]
    assert settings["tools"] == {"shellRunEnabled": True, "shellSecretsEnabled": False}
    assert settings["execution"]["quotas"]["maxExecutorInFlight"] == 7
    assert settings["llm"]["defaults"]["primary"] == {"provider": "openai", "model": "m", "secretId": None}
    refused = await visit.send("/settings", {"maxExecutorInFlight": "many"}, hx_target="settings")
    assert (refused.status, "execution.quotas.maxExecutorInFlight" in refused.text) == (400, True)
    assert (await owner.get("/v1/orgs/{org}/settings")).body["settings"] == settings


async def test_the_audit_log_is_filtered_by_object_and_person(control: Pages, owner: Caller) -> None:
    visit = visit_of(control, owner)
    await visit.send("/api-keys", {"name": "ci", "role": "member", "days": "0"}, hx_target="api-keys")
    page = await visit.get("/audit-log?objectType=api_key", hx_target="audit-log")
    assert ("api_key.created" in page.html, "organization.created" in page.html) == (True, False)
    nobody = await visit.get(f"/audit-log?actorUserId={owner.org_id}", hx_target="audit-log")
    assert "api_key.created" not in nobody.html


async def test_usage_shows_what_there_is_in_each_group(control: Pages, owner: Caller) -> None:
    visit = visit_of(control, owner)
    for group in ("day", "model", "workflow", "session"):
        assert (await visit.get(f"/usage?groupBy={group}&days=7&to=x")).status == 200
    refused = await visit.get("/usage?groupBy=nothing")
    assert (refused.status, "BAD_REQUEST" in refused.text) == (400, True)
