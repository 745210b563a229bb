"""The client against the OpenAPI document of the running control plane: every route, and every field of every model."""

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest_asyncio
from tests.support.client_stack import Installed

import vespid_client
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import Route

# Not for this client: what agents, operators, monitors and model hosts speak, and files.
OTHERS = (
    "/v1/agents/pair",
    "/v1/executors/pair",
    "/internal/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/mcp",
    "/downloads/",
)
# The other spelling of `/agents`; and what the client does outside of `Route`.
SPELT_OTHERWISE = ("/v1/orgs/{org_id}/executors", "/v1/auth/refresh")
# Where the document's name is another; None: the document has no schema of it, for it is a frame or ours.
NAMES: dict[str, str | None] = {
    "AccessToken": "accounts_Session",
    "AgentToken": "TokenAnswer",
    "PairingToken": "PairingTokenAnswer",
    "Published": "PublishedAnswer",
    "Session": "session_view_Session",
    "Hint": None,
    "Overview": "OverviewAnswer",
    "Standing": None,
    "Done": None,
}

# The organization's list has these too.
LISTED_OTHERWISE = ("GET", "/v1/orgs/{org_id}/workflows/{workflow_id}/runs")

Document = dict[str, Any]


@pytest_asyncio.fixture
async def document(installed: Installed) -> AsyncIterator[Document]:
    async with aiohttp.ClientSession() as http, http.get(f"{installed.url}/schema/openapi.json") as answer:
        yield await answer.json()


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(vespid_client.__path__, "vespid_client."):
        yield importlib.import_module(found.name)


def routes() -> list[Route[Any]]:
    return [value for module in modules() for value in vars(module).values() if isinstance(value, Route)]


def models() -> dict[str, type[Model]]:
    kinds = [kind for module in modules() for _, kind in inspect.getmembers(module, inspect.isclass)]
    return {kind.__name__: kind for kind in kinds if issubclass(kind, Model) and kind is not Model}


async def test_every_route_of_the_document_is_the_client_s(document: Document) -> None:
    there = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if not path.startswith(OTHERS + SPELT_OTHERWISE)
    }
    assert {(route.method, route.path) for route in routes()} == there - {LISTED_OTHERWISE}


async def test_a_route_answers_what_the_document_says(document: Document) -> None:
    wrong = []
    for route in routes():
        responses = document["paths"][route.path][route.method.lower()]["responses"]
        schema = next(
            content["schema"]
            for status, response in responses.items()
            if status < "300"
            for content in response.get("content", {"": {"schema": {}}}).values()
        )
        if not (isinstance(route.answer, type) and issubclass(route.answer, Model)):
            continue
        found = schema_of(document, schema)
        wrong += [f"{route.method} {route.path}: {problem}" for problem in problems(document, route.answer, found)]
    assert wrong == []


async def test_a_route_that_takes_a_key_is_given_one(document: Document) -> None:
    keyed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "Idempotency-Key"
    }
    # The webhook's key is read from the request as it comes.
    hook = ("POST", "/v1/hooks/{token}")
    own = {(route.method, route.path) for route in routes() if route.repeat is Repeat.KEYED}
    assert own == keyed | {hook}


async def test_every_model_has_the_fields_of_its_schema(document: Document) -> None:
    schemas = document["components"]["schemas"]
    wrong = []
    for name, model in models().items():
        schema_name = NAMES.get(name, name)
        if schema_name is None:
            continue
        if schema_name not in schemas:
            # An answer that is made of others' fields; its route's test compares it.
            assert any(route.answer is model for route in routes()), f"{name} is in no route and in no schema"
            continue
        wrong += [f"{name}: {problem}" for problem in problems(document, model, schemas[schema_name])]
    assert wrong == []


async def test_a_field_of_another_type_or_name_is_found(document: Document) -> None:
    class Member(Model, frozen=True, kw_only=True):
        user_id: int
        email: str | None
        display_name: str
        role: str

    found = problems(document, Member, document["components"]["schemas"]["Member"])
    assert [problem.split(" ")[0] for problem in found] == [
        "createdAt",
        "displayName",
        "email",
        "role",
        "roleKey",
        "userId",
    ]


def problems(document: Document, model: type[Model], schema: Document) -> list[str]:
    """What the model lacks, has too much, or takes for something else."""
    described = {field.encode_name: field for field in msgspec.structs.fields(model)}
    properties = schema.get("properties", {})
    absent = (name for name in properties if name not in described and (model.__name__, name) not in LEFT)
    found = [f"{name} is not in the model" for name in absent]
    surplus = (name for name in described if name not in properties)
    found += [f"{name} is not in the schema" for name in surplus]
    for name in described.keys() & properties.keys():
        expected = kinds_of(document, properties[name])
        own = kinds_of_model(described[name].type)
        if not described[name].required:
            # None here where a server leaves it out, an older one perhaps.
            expected = expected | (own & {"null"})
        if "any" not in own | expected and own != expected:
            found.append(f"{name} is {sorted(expected)} there and {sorted(own)} here")
    return sorted(found)


# What the API spells twice or says by its status, and the client has once.
LEFT = {
    ("AgentPage", "executors"),
    ("AgentAnswer", "executor"),
    ("TagsAnswer", "executor"),
    ("TagsAnswer", "ok"),
    ("AgentToken", "executorToken"),
    ("Accepted", "accepted"),
    ("SessionAnswer", "ok"),
}


CONSTANTS = {str: "string", bool: "boolean", type(None): "null"}


def schema_of(document: Document, schema: Document) -> Document:
    return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema


def kinds_of(document: Document, schema: Document) -> set[str]:
    """JSON's types that a schema allows: `any`, `null`, `object:<name>`, `array:<of what>`, …"""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return {f"object:{name}"}
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return set().union(*(kinds_of(document, each) for each in schema[several]))
    if "const" in schema:
        return {CONSTANTS[type(schema["const"])]}
    if "enum" in schema:
        return {"null" if value is None else "string" for value in schema["enum"]}
    declared = schema.get("type")
    if declared is None:
        return {"any"}
    if isinstance(declared, list):
        return set().union(*(kinds_of(document, {**schema, "type": each}) for each in declared))
    if declared == "array":
        return {f"array:{','.join(sorted(kinds_of(document, schema.get('items', {}))))}"}
    return {declared}


def kinds_of_model(kind: Any) -> set[str]:
    """The same of a field's type."""
    return _kinds(msgspec.inspect.type_info(kind))


def _kinds(info: Any) -> set[str]:
    of = msgspec.inspect
    simple = {of.StrType: "string", of.IntType: "integer", of.FloatType: "number", of.BoolType: "boolean"}
    simple |= {of.NoneType: "null", of.AnyType: "any", of.DictType: "object", of.LiteralType: "string"}
    if isinstance(info, of.UnionType):
        return set().union(*(_kinds(each) for each in info.types))
    if isinstance(info, of.ListType):
        return {f"array:{','.join(sorted(_kinds(info.item_type)))}"}
    if isinstance(info, of.StructType):
        name = info.cls.__name__
        return {f"object:{NAMES.get(name, name)}"}
    return {simple[type(info)]}
