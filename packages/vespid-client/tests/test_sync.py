"""The client without async: every method of the async one, with its signature, and the same answers."""

import asyncio
import inspect
import threading
from pathlib import Path

import pytest
from tests.support.client_stack import Installed
from tests.support.organization import shell

from vespid_client import (
    AsyncClient,
    Chat,
    Client,
    Delta,
    Final,
    Listing,
    NotFound,
    RunFailed,
    RunHandle,
    SyncChat,
    SyncRunHandle,
)
from vespid_client.blocking import SyncListing

DSL = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [{"id": "hello", "type": "agent.execute"}]}


def resources(client: object) -> dict[str, type]:
    """Its nouns, by name, and the client itself."""
    found = {name: type(value) for name, value in vars(client).items() if not name.startswith("_")}
    return {**found, "client": type(client)}


def methods(of: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value).replace(return_annotation=None)
        for name, value in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


async def test_every_async_method_has_a_twin_with_its_signature() -> None:
    twins, own = resources(Client("http://x", api_key="k")), resources(AsyncClient("http://x", api_key="k"))
    assert twins.keys() == own.keys()
    pairs = [(own[name], twins[name]) for name in own]
    for one, other in [*pairs, (RunHandle, SyncRunHandle), (Chat, SyncChat), (Listing, SyncListing)]:
        expected, found = methods(one), methods(other)
        if one is not AsyncClient:
            del expected["__init__"], found["__init__"]
        assert found == expected, one


async def test_no_twin_is_async() -> None:
    for kind in (*resources(Client("http://x", api_key="k")).values(), SyncRunHandle, SyncChat, SyncListing):
        for name, method in vars(kind).items():
            assert not inspect.iscoroutinefunction(method), (kind, name)
            assert not inspect.isasyncgenfunction(method), (kind, name)


async def in_a_thread(installed: Installed, work: object) -> None:
    """As a program without a loop: the tests' own loop serves nobody meanwhile."""
    await asyncio.to_thread(work, installed)  # type: ignore[arg-type]


async def test_a_program_without_async_runs_a_workflow(installed: Installed) -> None:
    def program(installed: Installed) -> None:
        with Client(installed.url, credentials=installed.store) as client:
            draft = client.workflows.create("w", DSL)
            client.workflows.publish(draft.id)
            run = client.runs.start(draft.id, {"name": "Ann"})
            events = list(run.follow())
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert run.result().status == "succeeded"
            assert list(run.events()) == run.events().all() == events
            with pytest.raises(NotFound):
                client.workflows.get("00000000-0000-4000-8000-000000000000")

    await in_a_thread(installed, program)


async def test_a_program_without_async_talks_in_a_session(installed: Installed) -> None:
    def program(installed: Installed) -> None:
        with Client(installed.url, credentials=installed.store) as client:
            session = client.sessions.create(scope="per-peer", peer="sync", engine={"id": "vespid.echo.v1"})
            with client.sessions.chat(session.id) as chat:
                items = list(chat.ask("hello there"))
                final = items[-1]
                assert isinstance(final, Final)
                assert "".join(item.text for item in items if isinstance(item, Delta)) == final.text
                assert chat.say("again").seq > final.seq
                assert chat.standing is not None

    await in_a_thread(installed, program)


async def test_what_is_left_early_is_closed_and_the_thread_ends(installed: Installed, tmp_path: Path) -> None:
    def program(installed: Installed) -> None:
        with Client(installed.url, credentials=installed.store) as client:
            node = shell(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; exit 1", sandbox={"backend": "host"})
            draft = client.workflows.create("w", {**DSL, "nodes": [node]})
            client.workflows.publish(draft.id)
            run = client.runs.start(draft.id)
            for event in run.follow():
                if event.event_type == "node_dispatched":
                    break
            (tmp_path / "go").touch()
            with pytest.raises(RunFailed):
                run.result()
        assert "vespid-client" not in [thread.name for thread in threading.enumerate()]

    await in_a_thread(installed, program)
