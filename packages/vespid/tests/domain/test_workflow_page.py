"""`docs/workflows.md` says what the code does: parts of it are made here, from the machine's tables and the types.

After a change: `.venv/bin/python packages/vespid/tests/domain/test_workflow_page.py` writes them anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from vespid.domain import engine, issue, node_config, workflow
from vespid.domain.policy import BACKOFF_CAP_MS, RunPolicy
from vespid.domain.run_event import EventType
from vespid.domain.run_state import RUN_TERMINAL
from vespid.domain.run_table import FAILURE_TABLE, NODE_TABLE, REFUSALS, RUN_TABLE, NodeMove, RunMove

PAGE = Path(__file__).resolve().parents[4] / "docs" / "workflows.md"
BLOCK = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_diagram() -> str:
    arrows = ["stateDiagram-v2", "    [*] --> queued", "    queued --> running: Start"]
    stops = [phase for phase, row in RUN_TABLE.items() if RunMove.STOP in row.values()]
    arrows += [f"    {phase} --> cancelling: CancelRequested" for phase in stops]
    arrows += [
        "    running --> failing: a node fails for good",
        "    running --> succeeded: every node is over",
        "    failing --> failed: nothing is live",
        "    cancelling --> cancelled: nothing is live",
    ]
    arrows += [f"    {phase} --> [*]" for phase in sorted(RUN_TERMINAL)]
    return "```mermaid\n" + "\n".join(arrows) + "\n```"


def run_table() -> str:
    events = list(RUN_TABLE["queued"])
    rows = []
    for phase, row in RUN_TABLE.items():
        rows.append([phase, *("–" if row[event] is RunMove.IGNORE else row[event].value for event in events)])
    return table(["phase", *(event.__name__ for event in events)], rows)


def node_table() -> str:
    events = list(NODE_TABLE["live"])
    rows = []
    for status, row in NODE_TABLE.items():
        rows.append([status, *("–" if row[event] is NodeMove.IGNORE else row[event].value for event in events)])
    return table(["status", *(event.__name__ for event in events)], rows)


def failure_table() -> str:
    rows = [[str(at), row.when, row.verdict.value] for at, row in enumerate(FAILURE_TABLE, 1)]
    return table(["", "when", "then"], rows)


def limits() -> str:
    policy = RunPolicy()
    rows = [
        ["nodes", str(workflow.NODES_MAX)],
        ["edges", str(workflow.EDGES_MAX)],
        ["nesting", f"{workflow.DEPTH_MAX} levels"],
        ["one string", f"{workflow.STRING_MAX_CHARS} characters"],
        ["attempts of a run", f"{policy.run_retry.max_attempts} (`WORKFLOW_RETRY_ATTEMPTS`)"],
        ["first pause", f"{policy.run_retry.backoff_ms} ms (`WORKFLOW_RETRY_BACKOFF_MS`), doubled each time"],
        ["longest pause", f"{BACKOFF_CAP_MS} ms"],
        ["a node's time", f"{policy.node_timeout_ms} ms (`NODE_EXEC_TIMEOUT_MS`), or its `timeoutMs`"],
        ["an event's payload", f"{policy.event_payload_max_chars} characters (`WORKFLOW_EVENT_PAYLOAD_MAX_CHARS`)"],
    ]
    return table(["what", "at most"], rows)


def configs() -> str:
    rows = []
    for node_type, shape in node_config.CONFIGS.items():
        fields = msgspec.structs.fields(shape)
        names = [f"`{field.encode_name}`" + ("" if field.required else "?") for field in fields]
        rows.append([f"`{node_type}`", ", ".join(names)])
    return table(["node", "config (`?`: may be left out)"], rows)


def listing(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def graph_codes() -> str:
    return listing([value for name, value in vars(issue).items() if name == value and value != issue.BAD_REQUEST])


MADE = {
    "run-diagram": run_diagram,
    "run-table": run_table,
    "node-table": node_table,
    "failure-table": failure_table,
    "limits": limits,
    "configs": configs,
    "events": lambda: listing(get_args(EventType)),
    "engines": lambda: listing(engine.ENGINES),
    "refusals": lambda: listing(sorted(REFUSALS)),
    "codes": graph_codes,
}


def rendered(page: str) -> str:
    return BLOCK.sub(lambda block: f"{block[1]}{MADE[block['name']]()}\n{block[3]}", page)


def test_page_is_what_the_code_says():
    page = PAGE.read_text()
    assert {block["name"] for block in BLOCK.finditer(page)} == MADE.keys()
    assert page == rendered(page), f"run: .venv/bin/python {Path(__file__).name}"


def test_documents_on_the_page_are_workflows():
    documents = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert documents
    for document in documents:
        workflow.parse(document.encode())


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
