"""A script that is given a secret: only where the organization allows it, and nowhere else does the secret appear."""

from tests.support.organization import Organization, shell


async def test_a_script_has_its_secret_where_the_organization_allows_it(organization: Organization) -> None:
    await organization.pair()
    new = {"connectorId": "shell", "name": "word", "value": "canary-of-a-script"}
    secret = (await organization.call("POST", "/v1/orgs/{org}/secrets", new, status=201)).body["secret"]
    node = shell('test "$WORD" = canary-of-"a-script" && echo "known: $WORD"')
    node["config"]["task"]["env"] = {"WORD": f"{{{{ secrets.{secret['id']} }}}}"}  # type: ignore[index]
    workflow = (await organization.publish(node))["workflow"]["id"]

    for is_allowed, ends in ((False, "SECRET_NOT_ALLOWED_FOR_SHELL"), (True, None)):
        change = {"tools": {"shellSecretsEnabled": is_allowed}}
        await organization.call("PUT", "/v1/orgs/{org}/settings", change, status=200)
        run = await organization.finished(workflow, await organization.start_run(workflow))
        assert run["error"] == ends
    (step,) = run["output"]["steps"]
    assert step["output"]["stdout"].startswith("known: ")
    assert "canary" not in step["output"]["stdout"]
