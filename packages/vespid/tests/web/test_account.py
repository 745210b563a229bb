"""Signing up, in and out by the pages, and what all pages have in common."""

from tests.support.control import PASSWORD, Caller
from tests.support.pages import Pages


async def test_a_visitor_is_sent_to_the_sign_in_and_comes_back(control: Pages, owner: Caller) -> None:
    nobody = control.visit()
    sent = await nobody.get("/organizations/new?a=1")
    assert (sent.status, sent.headers["location"]) == (303, "/signin?next=/organizations/new%3Fa%3D1")
    form = {"email": owner.email, "password": PASSWORD, "next": "/organizations/new?a=1"}
    entered = await nobody.send("/signin", form)
    assert (entered.status, entered.headers["location"]) == (303, "/organizations/new?a=1")
    assert (await nobody.get("/organizations/new")).status == 200


async def test_no_sign_in_leads_to_another_host(control: Pages, owner: Caller) -> None:
    for path in ("https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)"):
        entered = await control.visit().send("/signin", {"email": owner.email, "password": PASSWORD, "next": path})
        assert entered.headers["location"] == "/"


async def test_a_wrong_password_is_told_with_the_mend_and_is_not_repeated(control: Pages, owner: Caller) -> None:
    refused = await control.visit().send("/signin", {"email": owner.email, "password": "not-this-one"})
    assert refused.status == 401
    assert "UNAUTHORIZED" in refused.text
    assert owner.email in refused.html
    assert "not-this-one" not in refused.html


async def test_what_is_wrong_with_a_sign_up_stands_at_its_field(control: Pages) -> None:
    refused = await control.visit().send("/signup", {"email": "new@people.test", "password": "short"})
    assert refused.status == 400
    assert refused.html.count('aria-invalid="true"') == 1
    assert "length >= 8" in refused.text


async def test_the_form_of_another_site_signs_nobody_in(control: Pages, owner: Caller) -> None:
    form = {"email": owner.email, "password": PASSWORD}
    visit = control.visit()
    assert (await visit.send("/signin", form, sec_fetch_site="cross-site")).status == 403
    assert "vespid_session" not in visit.cookies


async def test_a_write_from_another_origin_is_refused(control: Pages, owner: Caller) -> None:
    form = {"name": "Another", "slug": "another-one"}
    refused = await control.visit(owner).send("/organizations/new", form, origin="https://evil.test")
    assert (refused.status, "FORBIDDEN" in refused.text) == (403, True)


async def test_signing_out_ends_the_login(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    assert (await visit.send("/signout")).headers["location"] == "/signin"
    assert (await control.visit(owner).get("/")).headers["location"] == "/signin"


async def test_pages_speak_the_browsers_language_and_the_chosen_one(control: Pages) -> None:
    visit = control.visit()
    assert "登录" in (await visit.get("/signin", accept_language="fr, zh-Hans;q=0.8, en;q=0.5")).text
    await visit.send("/preferences", {"language": "en", "next": "/signin"})
    page = await visit.get("/signin", accept_language="zh-CN")
    assert '<html lang="en"' in page.html


async def test_no_page_may_run_or_load_what_is_not_ours(control: Pages, owner: Caller) -> None:
    for path in ("/signin", "/organizations/new"):
        page = await control.visit(owner if path != "/signin" else None).get(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert "<style" not in page.html
        assert " style=" not in page.html
        assert "<script>" not in page.html


async def test_an_organization_is_chosen_and_only_one_of_mine(control: Pages, owner: Caller, stranger: Caller) -> None:
    visit = control.visit(owner)
    await visit.send("/organizations/new", {"name": "Second <b>one</b>", "slug": "second-of-mine"})
    page = await visit.get("/organizations/new")
    assert "<summary>Second &lt;b&gt;one&lt;/b&gt;</summary>" in page.html
    await visit.get(f"/preferences/organization?to={stranger.org_id}")
    assert stranger.org_id not in (await visit.get("/organizations/new")).html


async def test_an_invitation_is_accepted_after_signing_in(control: Pages, owner: Caller, stranger: Caller) -> None:
    invited = await owner.post("/v1/orgs/{org}/invitations", {"email": stranger.email, "roleKey": "member"})
    path = f"/invitations/{invited.body['invitation']['token']}"
    assert f"/signin?next={path}" in (await control.visit().get(path)).html
    accepted = await control.visit(stranger).send(path)
    assert accepted.headers["location"] == f"/preferences/organization?to={owner.org_id}"


async def test_assets_are_kept_for_ever_by_the_name_of_their_content(control: Pages) -> None:
    page = await control.visit().get("/signin")
    path = page.html.split('<link rel="stylesheet" href="')[1].split('"')[0]
    sheet = await control.visit().get(path)
    assert (sheet.status, "immutable" in sheet.headers["cache-control"]) == (200, True)
    older = await control.visit().get("/assets/0000000000000000/vespid.css")
    assert (older.html, older.headers["cache-control"]) == (sheet.html, "no-store")
    assert (await control.visit().get("/assets/0000000000000000/..%2fvespid.css")).status == 404
