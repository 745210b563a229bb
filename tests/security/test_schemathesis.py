"""Bad input gets a clear error: every operation of the published OpenAPI document under generated requests.

The document and the service must agree: no 5xx, no status that is not documented, no answer of another shape. What is
generated follows a fixed seed, so a failure repeats; `VESPID_SCHEMATHESIS_EXAMPLES` asks for more.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.support.control import Caller, Control, control, owner

__all__ = ["control", "owner"]

pytestmark = [pytest.mark.promise("P10"), pytest.mark.timeout(600)]

EXAMPLES = os.environ.get("VESPID_SCHEMATHESIS_EXAMPLES", "8")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
# Answers for as long as the run it follows lives, or ends the login that the requests are made with.
NEVER_ENDING = "/stream$"
ENDS_THE_LOGIN = "^/v1/auth/logout"
OUTSIDE_OF_ORGANIZATIONS = "^/(v1/(?!orgs/)|healthz|readyz)"


async def run_schemathesis(
    folder: Path, control: Control, headers: dict[str, str], *options: str, phases: str = "examples,coverage,fuzzing"
) -> None:
    """Run it over the live document, with the caller's own organization in every path; fail with what it prints."""
    org_id = headers.get("X-Org-Id", "")
    config = folder / "schemathesis.toml"
    # It would make itself an account where it finds how; who calls is for each test to say.
    parameters = f'[parameters]\n"path.org_id" = "{org_id}"\n' if org_id else ""
    config.write_text(f"{parameters}[auth]\nauto-signup = false\n")
    asked = [argument for name, value in headers.items() for argument in ("--header", f"{name}: {value}")]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        *("--config-file", str(config), "run", f"{control.url}/schema/openapi.json"),
        *("--checks", ",".join(CHECKS), "--phases", phases),
        *("--max-examples", EXAMPLES, "--seed", "20261", "--suppress-health-check", "all", "--no-color"),
        *("--exclude-path-regex", NEVER_ENDING),
        *asked,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        pytest.fail(output.decode(errors="replace")[-12_000:])


async def test_organization_routes_keep_to_the_document(control: Control, owner: Caller, tmp_path: Path) -> None:
    # A login and not a key: the requests find keys in the list, and revoke them.
    headers = {"Authorization": f"Bearer {owner.token}", "X-Org-Id": str(owner.org_id)}
    await run_schemathesis(tmp_path, control, headers, "--include-path-regex", "^/v1/orgs/")


async def test_routes_of_people_keep_to_the_document(control: Control, owner: Caller, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {owner.token}"}
    await run_schemathesis(
        tmp_path,
        control,
        headers,
        "--include-path-regex",
        OUTSIDE_OF_ORGANIZATIONS,
        "--exclude-path-regex",
        ENDS_THE_LOGIN,
    )


async def test_internal_routes_keep_to_the_document(control: Control, tmp_path: Path) -> None:
    headers = {"X-Service-Token": control.plane.deps.settings.internal_service_token}
    await run_schemathesis(tmp_path, control, headers, "--include-path-regex", "^/internal/")


async def test_nobody_in_particular_gets_clear_errors_everywhere(control: Control, tmp_path: Path) -> None:
    # Nobody comes far, so what is behind the door is left to the tests above.
    await run_schemathesis(tmp_path, control, {}, phases="examples,fuzzing")
