"""The registry: built-ins, packages' own, and those that are broken."""

from importlib.metadata import EntryPoint

import msgspec
import pytest

from vespid_runtime.connectors import Action, ActionContext, ActionInput, Connector, ConnectorError, registry

from .conftest import MakeContext


class GreetInput(ActionInput, frozen=True):
    name: str
    polite: bool = False


async def _greet(input: GreetInput, secret: str | None, context: ActionContext) -> object:
    if input.name == "boom":
        raise RuntimeError(f"secret was {secret}")
    return {"greeting": f"hello {input.name}"}


acme = Connector("acme", "Acme", requires_secret=False, actions=(Action("greet", GreetInput, _greet),))
twin = Connector("http", "Not HTTP", requires_secret=False, actions=acme.actions)
empty = Connector("empty", "Empty", requires_secret=False, actions=())
locked = Connector("locked", "Locked", requires_secret=True, actions=acme.actions)
not_a_connector = object()


class _Published(EntryPoint):
    """An entry point of this very module (which pytest imports under a name of its own)."""

    def load(self) -> object:
        if self.value == "missing":
            raise ModuleNotFoundError("No module named 'missing'")
        if self.value == "exits":
            raise SystemExit(3)
        return globals()[self.value]


def published(*names: str) -> list[EntryPoint]:
    return [_Published(name=name, value=name, group="vespid.connectors") for name in names]


def test_built_in_connectors_are_there_with_their_actions() -> None:
    found = {info.id: [action.id for action in info.actions] for info in registry(()).describe()}
    assert found == {
        "http": ["request"],
        "github": ["issue.get", "issue.create", "issue.comment"],
        "slack": ["message.post"],
        "postgres": ["query"],
        "smtp": ["send"],
    }


def test_every_action_publishes_a_schema_of_its_fields() -> None:
    for info in registry(()).describe():
        for action in info.actions:
            assert action.input_schema["type"] == "object"
            assert action.input_schema["properties"]
            msgspec.json.encode(action.input_schema)


async def test_package_connector_runs_beside_the_built_in(make_context: MakeContext) -> None:
    found = registry(published("acme"))
    assert found.broken == ()
    assert await found.run("acme", "greet", {"name": "ada"}, None, make_context()) == {"greeting": "hello ada"}


def test_broken_package_connectors_are_reported_and_take_nothing_down() -> None:
    found = registry(published("missing", "exits", "not_a_connector", "twin", "empty", "acme"))
    assert "acme" in found.connectors
    assert found.connectors["http"].display_name == "HTTP"
    reasons = {broken.name: broken.reason for broken in found.broken}
    assert set(reasons) == {"missing", "exits", "not_a_connector", "twin", "empty"}
    assert "No module named" in reasons["missing"]
    assert "another connector has already" in reasons["twin"]


@pytest.mark.parametrize(("connector", "action"), [("nope", "x"), ("http", "nope"), ("github", "issue.delete")])
async def test_unknown_action_is_named(make_context: MakeContext, connector: str, action: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        await registry(()).run(connector, action, {}, "s", make_context())
    assert refused.value.code == f"ACTION_NOT_SUPPORTED:{connector}:{action}"
    assert not refused.value.retryable


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("input", "field"),
    [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x", "polite": "yes"}, "polite"),
        ("text", "input"),
        (None, "input"),
        ([], "input"),
    ],
)
async def test_bad_input_names_the_field(make_context: MakeContext, input: object, field: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        await registry(published("acme")).run("acme", "greet", input, None, make_context())
    assert (refused.value.code, refused.value.details) == ("INVALID_ACTION_INPUT", {"field": field})


async def test_secret_is_required_where_the_connector_says_so(make_context: MakeContext) -> None:
    with pytest.raises(ConnectorError) as refused:
        await registry(published("locked")).run("locked", "greet", {"name": "x"}, None, make_context())
    assert refused.value.code == "SECRET_REQUIRED"


@pytest.mark.promise("P7")
async def test_unforeseen_error_does_not_quote_what_it_was_given(make_context: MakeContext) -> None:
    with pytest.raises(ConnectorError) as failed:
        await registry(published("acme")).run("acme", "greet", {"name": "boom"}, "hunter2", make_context())
    assert failed.value.code == "NODE_EXECUTION_FAILED"
    assert "hunter2" not in str(failed.value)
