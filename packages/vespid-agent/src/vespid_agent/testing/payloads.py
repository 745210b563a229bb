"""Payloads of `execute` as the server would make them, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from vespid_agent.testing.fake_gateway import RUN_ID


def echo(text: str) -> dict[str, object]:
    """`agent.run` with the engine that needs no model."""
    node = {"id": "n", "config": {"engine": {"id": "vespid.echo.v1"}, "prompt": {"instructions": text}}}
    return {"nodeId": "n", "node": node, "runId": RUN_ID}


def shell(script: str, *, secrets_allowed: bool = False, **sandbox: object) -> dict[str, object]:
    """`agent.execute` with a shell task."""
    config = {"task": {"type": "shell", "script": script}, "sandbox": sandbox}
    settings = {"tools": {"shellSecretsEnabled": secrets_allowed}}
    node = {"id": "n", "type": "agent.execute", "config": config}
    return {"nodeId": "n", "node": node, "runId": RUN_ID, "attemptCount": 1, "organizationSettings": settings}


def presence() -> dict[str, object]:
    """`agent.execute` without a task."""
    return {"nodeId": "n", "node": {"id": "n", "type": "agent.execute", "config": {}}, "runId": RUN_ID}


def action(connector_id: str, action_id: str, value: object) -> dict[str, object]:
    """`connector.action`."""
    return {"connectorId": connector_id, "actionId": action_id, "input": value}


def decoded(raw: msgspec.Raw | msgspec.UnsetType) -> dict[str, object]:
    """A JSON object that a frame carried."""
    assert isinstance(raw, msgspec.Raw)
    return msgspec.json.decode(raw, type=dict[str, object])


def prompt(
    instructions: str,
    *,
    allow: Sequence[str] = (),
    model: str = "gpt-5",
    config: Mapping[str, object] | None = None,
    **rest: object,
) -> dict[str, object]:
    """`agent.run` with our own loop. `config`: more of the node's config; `rest`: more of the payload."""
    made = {
        "engine": {"id": "vespid.loop.v1", "provider": "openai", "model": model},
        "prompt": {"instructions": instructions},
        "tools": {"allow": list(allow)},
        **(config or {}),
    }
    node = {"id": "n", "type": "agent.run", "config": made}
    return {"nodeId": "n", "node": node, "runId": RUN_ID, "effectiveToolsAllow": list(allow), **rest}
