"""`shell.run` as models see it, wherever the loop that calls it runs. What runs it is an agent's sandbox."""

from __future__ import annotations

SHELL = "shell.run"
DESCRIPTION = (
    "Run a shell script in the sandbox, in the working folder of this task. Answers exit code, stdout and stderr."
)
INPUT_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "script": {"type": "string", "minLength": 1, "description": "What the shell runs."},
        "shell": {"enum": ["sh", "bash"], "description": "sh, unless said."},
        "timeoutMs": {"type": "integer", "minimum": 1, "description": "When to end it."},
        "env": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Further variables."},
    },
    "required": ["script"],
    "additionalProperties": False,
}
