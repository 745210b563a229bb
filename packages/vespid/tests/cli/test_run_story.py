"""A run in words, and drawn."""

import io
from typing import Any

from vespid.cli import run_tree
from vespid.cli.output import Output
from vespid.cli.run_story import RunStory
from vespid_client.models import RunEvent


def happened(event_type: str, node_id: str | None = "build", second: int = 0, **payload: Any) -> RunEvent:
    return RunEvent(
        id="e",
        seq=1,
        organization_id="o",
        workflow_id="w",
        run_id="r",
        attempt_count=2,
        event_type=event_type,
        node_id=node_id,
        node_type=None,
        level="info",
        message=None,
        payload=payload or None,
        created_at=f"2026-01-02T03:04:{second:02}.000Z",
    )


def output(text: str, kind: str = "stdout", node_id: str = "build") -> RunEvent:
    return happened("remote_event", node_id, kind=kind, payload={"text": text})


def told(*events: RunEvent) -> list[str]:
    """What a pipe is told, without the times."""
    pipe = io.StringIO()
    story = RunStory(Output(as_json=False, stdout=pipe, env={}))
    for event in events:
        story.tell(event)
    story.end()
    return [line[14:] for line in pipe.getvalue().splitlines()]


def test_output_is_told_by_whole_lines_however_it_was_cut() -> None:
    pieces = [output("on"), output("e\ntw"), output("other\n", node_id="test"), output("o\n\nthr"), output("ee")]
    assert told(*pieces) == [
        "build     │ one",
        "test      │ other",
        "build     │ two",
        "build     │",
        "build     │ three",
    ]


def test_what_has_no_end_of_line_is_told_before_the_node_ends() -> None:
    assert told(output("asks: "), happened("node_failed", code="X")) == ["build     │ asks:", "build     failed: X"]


def test_each_stream_has_lines_of_its_own() -> None:
    assert told(output("a"), output("b\n", "stderr"), output("c\n")) == ["build     ! b", "build     │ ac"]


def test_a_program_cannot_forge_lines_of_ours() -> None:
    forged = told(output("x\r22:00:00.000  run       succeeded\n\x1b[1A\x1b[2Kgone\n"))
    assert forged == ["build     │ x", "build     │ 22:00:00.000  run       succeeded", "build     │ gone"]


def test_a_node_is_told_with_how_long_it_took_and_how_it_ended() -> None:
    events = [happened("node_started", second=1), happened("node_succeeded", second=4, exitCode=0)]
    assert told(*events)[1] == "build     succeeded, exit code 0 (3.0s)"


def test_people_are_told_how_to_allow_what_waits() -> None:
    assert "vespid approve a1" in told(happened("approval_requested", by="admin", approvalId="a1"))[0]


def test_a_failed_try_is_told_from_the_failed_run() -> None:
    events = [
        happened("run_retried", None, error="X", maxAttempts=3),
        happened("run_failed", None, code="X", message="no", failedNodeId="build"),
    ]
    assert told(*events) == ["run       try 2 of 3 failed, will be tried again: X", "run       failed at build: X, no"]


def test_an_event_of_a_newer_server_is_told_by_its_name() -> None:
    assert told(happened("node_paused")) == ["build     node paused"]


def test_a_list_is_drawn_below_the_run() -> None:
    nodes = run_tree.nodes_of({"nodes": [{"id": "a", "type": "t"}, {"id": "b", "type": "t"}]})
    assert [lead + node.id for lead, node in run_tree.drawn(nodes)] == ["├─ a", "└─ b"]


def test_a_graph_is_drawn_as_it_branches_and_meets_again() -> None:
    edges = [("start", "left"), ("start", "right"), ("left", "deep"), ("deep", "both"), ("right", "both")]
    graph = {
        "nodes": {name: {"type": "t"} for name in ("both", "start", "left", "right", "deep")},
        "edges": [{"from": before, "to": after} for before, after in edges],
    }
    drawn = [lead + node.id for lead, node in run_tree.drawn(run_tree.nodes_of({"graph": graph}))]
    assert drawn == ["├─ start", "│  ├─ left", "│  │  └─ deep", "│  └─ right", "└─ both"]


def test_a_node_that_was_tried_again_took_from_its_first_start_to_its_last_end() -> None:
    events = [
        happened("node_started", second=1),
        happened("node_failed", second=2),
        happened("node_started", second=5),
        happened("node_succeeded", second=9),
    ]
    assert run_tree.durations(events) == {"build": "8.0s"}
