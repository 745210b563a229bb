"""The page of secrets."""

from tests.support.control import Caller
from tests.support.pages import Pages

VALUE = "ghp_canary-of-the-page"


async def test_a_secret_is_kept_and_its_value_never_shown(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    form = {"connectorId": "github", "name": "<i>bot</i>", "value": VALUE}
    made = await visit.send("/secrets", form, hx_target="secrets")
    assert (made.status, "<!doctype" in made.html) == (200, False)
    assert "&lt;i&gt;bot&lt;/i&gt;" in made.html
    assert "<i>bot" not in made.html
    assert VALUE not in made.html + (await visit.get("/secrets")).html


async def test_a_name_that_is_taken_is_told_and_the_value_has_to_be_given_again(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    form = {"connectorId": "github", "name": "bot", "value": VALUE}
    await visit.send("/secrets", form, hx_target="secrets")
    again = await visit.send("/secrets", form, hx_target="secrets")
    assert (again.status, "SECRET_ALREADY_EXISTS" in again.text, VALUE in again.html) == (409, True, False)


async def test_secrets_are_filtered_replaced_and_deleted(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    for connector in ("github", "openai"):
        await visit.send("/secrets", {"connectorId": connector, "name": f"of-{connector}", "value": VALUE})
    filtered = await visit.get("/secrets?connectorId=openai", hx_target="secrets")
    assert ("of-openai" in filtered.html, "of-github" in filtered.html) == (True, False)
    (secret,) = (await owner.get("/v1/orgs/{org}/secrets?connectorId=github")).body["secrets"]
    replaced = await visit.send(f"/secrets/{secret['id']}/value", {"value": "another"}, hx_target="secrets")
    assert "notice" in replaced.headers["hx-trigger"]
    await visit.send(f"/secrets/{secret['id']}/delete", hx_target="secrets")
    assert "of-github" not in (await visit.get("/secrets")).html


async def test_a_member_is_refused_with_what_to_do(control: Pages, owner: Caller) -> None:
    member = await control.join(owner)
    visit = control.visit(member, vespid_org=str(owner.org_id))
    page = await visit.get("/secrets")
    assert (page.status, "FORBIDDEN" in page.text) == (403, True)
    assert 'href="/secrets"' not in page.html
    part = await visit.send("/secrets", {"name": "x"}, hx_target="secrets")
    assert (part.status, part.headers["hx-retarget"]) == (403, "#notices")
