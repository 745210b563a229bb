"""Each noun of the API, through its methods: what is written can be read again."""

import pytest
from tests.support.client_stack import PASSWORD, Installed, new_email

from vespid_client import AsyncClient, BadRequest, Conflict, Forbidden, NotFound, Unavailable

MANUAL = {"version": "v2", "trigger": {"type": "trigger.manual"}}
DSL = {**MANUAL, "nodes": [{"id": "hello", "type": "agent.execute"}]}


async def test_a_person_has_an_organization_and_makes_another(newcomer: AsyncClient) -> None:
    me = await newcomer.me()
    assert [org.role_key for org in me.orgs] == ["owner"]
    slug = f"second-{me.user.id[-8:]}"
    made = await newcomer.orgs.create("Second", slug)
    assert made.membership.user_id == me.user.id
    assert [org.slug for org in await newcomer.orgs.list()] == [me.orgs[0].slug, slug]
    with pytest.raises(Conflict) as taken:
        await newcomer.orgs.create("Third", slug)
    assert (taken.value.code, taken.value.status) == ("ORG_SLUG_CONFLICT", 409)


async def test_an_organization_is_named_by_id_or_slug(newcomer: AsyncClient, installed: Installed) -> None:
    token = await newcomer.auth.access_token()
    org = (await newcomer.me()).orgs[0]
    for name in (org.id, org.id.upper(), org.slug, None):
        async with AsyncClient(installed.url, access_token=token, org=name) as client:
            assert await client.org_id() == org.id
            assert (await client.settings.get()).tools.shell_run_enabled is False
    async with AsyncClient(installed.url, access_token=token, org="nobodys") as client:
        with pytest.raises(NotFound, match="nobodys"):
            await client.settings.get()


async def test_people_are_invited_promoted_and_removed(newcomer: AsyncClient, installed: Installed) -> None:
    email = new_email()
    invited = await newcomer.invitations.create(email, "member")
    assert [each.email for each in await newcomer.invitations.list().all()] == [email]
    async with AsyncClient(installed.url, org=invited.organization_id) as guest:
        user = await guest.auth.signup(email, PASSWORD, "Guest")
        assert (await guest.invitations.accept(invited.token)).role_key == "member"
        with pytest.raises(Forbidden):
            await guest.secrets.list().page()
        assert (await newcomer.members.set_role(user.id, "admin")).role_key == "admin"
        assert await guest.secrets.list().all() == []
    assert [member.user_id async for member in newcomer.members.list(search=email)] == [user.id]
    await newcomer.members.remove(user.id)
    assert user.id not in [member.user_id async for member in newcomer.members.list()]
    with pytest.raises(NotFound):
        await newcomer.members.remove(user.id)


async def test_an_invitation_is_taken_back(newcomer: AsyncClient) -> None:
    invited = await newcomer.invitations.create(new_email(), "member")
    await newcomer.invitations.revoke(invited.id)
    assert [each.status for each in await newcomer.invitations.list().all()] == ["revoked"]


async def test_a_key_names_its_organization(newcomer: AsyncClient, installed: Installed) -> None:
    made = await newcomer.api_keys.create("ci", "admin")
    async with AsyncClient(installed.url, api_key=made.value) as program:
        assert await program.org_id() == await newcomer.org_id()
        assert await program.secrets.list().all() == []
    assert [key.id async for key in newcomer.api_keys.list(search="c")] == [made.api_key.id]
    assert await newcomer.api_keys.list(search="cd").all() == []
    await newcomer.api_keys.revoke(made.api_key.id)
    assert [key async for key in newcomer.api_keys.list()] == []


async def test_settings_are_merged(newcomer: AsyncClient) -> None:
    await newcomer.settings.update({"tools": {"shellRunEnabled": True}})
    settings = await newcomer.settings.update({"execution": {"quotas": {"maxExecutorInFlight": 3}}})
    assert settings == await newcomer.settings.get()
    assert (settings.tools.shell_run_enabled, settings.execution.quotas.max_executor_in_flight) == (True, 3)


async def test_what_was_done_is_in_the_audit_log(newcomer: AsyncClient) -> None:
    await newcomer.settings.update({"tools": {"shellRunEnabled": True}})
    entry = (await newcomer.audit.list(object_type="settings").page(limit=1)).items[0]
    assert entry.actor.user_id == (await newcomer.me()).user.id
    assert entry.details == {"tools": {"shellRunEnabled": True}}


async def test_a_list_is_gone_through_over_its_pages(newcomer: AsyncClient) -> None:
    for number in range(5):
        await newcomer.secrets.create("github", f"s{number}", "value")
    first = await newcomer.secrets.list().page(limit=2)
    second = await newcomer.secrets.list().page(limit=2, cursor=first.next_cursor)
    names = [secret.name for secret in (*first.items, *second.items)]
    assert names == ["s4", "s3", "s2", "s1"]
    listing = newcomer.secrets.list()
    assert [secret.name async for secret in listing] == [*names, "s0"] == [each.name for each in await listing.all()]


async def test_a_secret_is_replaced_and_deleted(newcomer: AsyncClient) -> None:
    secret = await newcomer.secrets.create("github", "token", "one")
    with pytest.raises(Conflict):
        await newcomer.secrets.create("github", "token", "two")
    assert (await newcomer.secrets.replace(secret.id, "two")).id == secret.id
    assert await newcomer.secrets.list(connector_id="slack").all() == []
    await newcomer.secrets.delete(secret.id)
    with pytest.raises(NotFound):
        await newcomer.secrets.delete(secret.id)


async def test_an_agent_is_tagged_and_cordoned(client: AsyncClient, installed: Installed) -> None:
    assert await client.agents.set_tags(installed.agent_id, ["gpu"]) == ["gpu"]
    await client.agents.cordon(installed.agent_id)
    assert (await client.agents.get(installed.agent_id)).cordoned
    await client.agents.uncordon(installed.agent_id)
    assert not (await client.agents.get(installed.agent_id)).cordoned
    with pytest.raises(NotFound):
        await client.agents.get("00000000-0000-4000-8000-000000000000")


async def test_a_workflow_is_drafted_published_and_drafted_again(newcomer: AsyncClient) -> None:
    draft = await newcomer.workflows.create("Hello", DSL, editor_state={"zoom": 1})
    changed = await newcomer.workflows.update(draft.id, name="Hello!", editor_state=None)
    assert (changed.name, changed.editor_state, changed.dsl) == ("Hello!", None, draft.dsl)
    with pytest.raises(Conflict):
        await newcomer.workflows.update(draft.id, name="Of old", version=draft.version)
    published = await newcomer.workflows.publish(draft.id)
    assert (published.workflow.status, published.webhook) == ("published", None)
    with pytest.raises(Conflict):
        await newcomer.workflows.update(draft.id, name="Too late")
    second = await newcomer.workflows.new_draft(draft.id)
    assert [each.revision async for each in newcomer.workflows.revisions(draft.id)] == [2, 1]
    assert [each.id async for each in newcomer.workflows.list(status="draft")] == [second.id]
    assert [each.id async for each in newcomer.workflows.list(newest=True, name="ello")] == [second.id]
    assert await newcomer.workflows.get(second.id) == second


async def test_what_is_wrong_with_a_workflow_is_told_by_field(newcomer: AsyncClient) -> None:
    with pytest.raises(BadRequest) as refused:
        await newcomer.workflows.create("Wrong", {**DSL, "nodes": [{"id": "a", "type": "no.such"}]})
    assert refused.value.code == "BAD_REQUEST"
    assert refused.value.request_id
    assert any("nodes" in field for field in refused.value.field_errors)


async def test_a_webhook_starts_one_run_per_delivery(newcomer: AsyncClient) -> None:
    draft = await newcomer.workflows.create("Hook", {**DSL, "trigger": {"type": "trigger.webhook"}})
    webhook = (await newcomer.workflows.publish(draft.id)).webhook
    assert webhook is not None
    run = await newcomer.hooks.deliver(webhook.token, {"ref": "main"}, delivery_id="d1")
    assert run.input["body"] == {"ref": "main"}
    assert (await newcomer.hooks.deliver(webhook.token, {"ref": "main"}, delivery_id="d1")).id == run.id
    rotated = await newcomer.workflows.rotate_webhook(draft.id)
    with pytest.raises(NotFound):
        await newcomer.hooks.deliver(webhook.token)
    assert (await newcomer.hooks.deliver(rotated.token)).id != run.id


async def test_agents_of_others_are_bound_to_people(newcomer: AsyncClient) -> None:
    bound = await newcomer.bindings.create("helper", "peer", {"peer": "ann"}, priority=5)
    changed = await newcomer.bindings.update(bound.id, {"priority": 6})
    assert [each async for each in newcomer.bindings.list()] == [changed]
    await newcomer.bindings.delete(bound.id)
    assert await newcomer.bindings.list().all() == []


async def test_usage_and_approvals_of_an_organization_that_did_nothing_are_empty(newcomer: AsyncClient) -> None:
    report = await newcomer.usage.report(group_by="model")
    assert (report.total.total_tokens, report.usage, report.group_by) == (0, [], "model")
    assert await newcomer.usage.list().all() == []
    assert await newcomer.approvals.list(status="pending").all() == []
    with pytest.raises(NotFound):
        await newcomer.approvals.approve("00000000-0000-4000-8000-000000000000", "0" * 64)


async def test_an_installation_says_what_it_is(installed: Installed) -> None:
    async with AsyncClient(installed.url) as nobody:
        capabilities = await nobody.meta.capabilities()
        assert capabilities.client_ws_url == f"ws://127.0.0.1:{installed.gateway_port}/ws/client"
        assert capabilities.web_base_url == installed.url
        assert "github" in [connector.id for connector in await nobody.meta.connectors()]
        assert "vespid.echo.v1" in [engine.id for engine in await nobody.meta.engines()]
        with pytest.raises(Unavailable):
            await nobody.agents.installer()


async def test_any_route_can_be_called_untyped(newcomer: AsyncClient) -> None:
    body = {"connectorId": "github", "name": "raw", "value": "v"}
    made = await newcomer.call("POST", "/v1/orgs/{org_id}/secrets", body=body)
    listed = await newcomer.call("GET", "/v1/orgs/{org_id}/secrets", query={"limit": 1})
    assert listed == {"secrets": [made["secret"]], "nextCursor": None}
