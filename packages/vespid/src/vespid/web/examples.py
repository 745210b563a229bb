"""What a new workflow can begin with: nothing much, or one of three that run as they are."""

from collections.abc import Mapping
from typing import Any

_MANUAL = {"type": "trigger.manual"}

# By the key of its texts (`workflow_starts.<key>`).
STARTS: Mapping[str, Mapping[str, Any]] = {
    "blank": {
        "version": "v2",
        "trigger": _MANUAL,
        "nodes": [{"id": "start", "type": "condition", "config": {"path": "$.input", "op": "exists"}}],
    },
    "shell": {
        "version": "v2",
        "trigger": _MANUAL,
        "nodes": [
            {
                "id": "hello",
                "type": "agent.execute",
                "config": {
                    "execution": {"mode": "executor"},
                    "task": {
                        "type": "shell",
                        "script": 'echo "Hello from $(uname -n), $NAME"\nuname -a',
                        # By the environment, so that no input becomes part of the script.
                        "env": {"NAME": '{{ input.name | default("whoever you are") }}'},
                    },
                },
            }
        ],
    },
    "http": {
        "version": "v2",
        "trigger": _MANUAL,
        "nodes": [
            {
                "id": "fetch",
                "type": "connector.action",
                "retry": {"maxAttempts": 3, "backoffMs": 1000},
                "config": {
                    "connectorId": "http",
                    "actionId": "request",
                    "input": {"method": "GET", "url": '{{ input.url | default("https://example.org/") }}'},
                },
            },
            {
                "id": "good",
                "type": "condition",
                "config": {"path": "$.steps.fetch.output.status", "op": "lt", "value": 400},
            },
        ],
    },
    "agent": {
        "version": "v2",
        "trigger": _MANUAL,
        "nodes": [
            {
                "id": "ask",
                "type": "agent.run",
                "approval": {"by": "member"},
                "config": {
                    "engine": {"id": "vespid.echo.v1"},
                    "prompt": {"instructions": 'Say hello to {{ input.name | default("everybody") }}.'},
                },
            }
        ],
    },
}
