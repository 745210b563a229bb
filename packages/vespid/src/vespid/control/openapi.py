"""The OpenAPI document at /schema/openapi.json: made from the same Structs, then told what guards and manners add.

Every status that a route can answer is in it. What follows from a route's guards, parameters and marks is put in here;
a handler names with `responses=errors(…)` only what is its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from litestar import MediaType, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from vespid.control.context import ORG_GUARDS, signed_in
from vespid.control.errors import ErrorBody
from vespid.control.principal import SESSION_COOKIE
from vespid.control.service_token import service_caller

_DESCRIPTIONS = {
    400: "The request is not valid.",
    401: "Nobody is signed in, or the credential is not valid.",
    403: "The caller may not do this.",
    404: "There is no such thing here.",
    409: "The state of things does not allow it.",
    413: "The body is too large.",
    416: "The part that is asked for is not there.",
    429: "Too many failures; wait as long as Retry-After says.",
    500: "Something went wrong on our side.",
    503: "A part of the system is away, or not set up.",
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_ERROR_SCHEMA = {
    "type": "object",
    "title": "Error",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "object"},
    },
}


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """What a handler can answer beside what its guards, parameters and marks already say."""
    return {
        status: ResponseSpec(ErrorBody, description=_DESCRIPTIONS[status], generate_examples=False)
        for status in statuses
    }


def created(answer: type[msgspec.Struct], status: int = 201) -> dict[int, ResponseSpec]:
    """What a handler answers that hands over a ready-made response, as those with `once` do."""
    return {status: ResponseSpec(answer, description="Done.", generate_examples=False)}


class DocumentPlugin(OpenAPIRenderPlugin):
    """Serves the finished document."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json", media_type=MediaType.JSON)
        self._encoded: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document, finished once."""
        if self._encoded is None:
            handlers = {
                (route.path_format, method.lower()): handler
                for route in request.app.routes
                if isinstance(route, HTTPRoute)
                for method, (handler, _) in route.route_handler_map.items()
            }
            finish_document(openapi_schema, handlers)
            self._encoded = msgspec.json.encode(openapi_schema)
        return self._encoded


def openapi_config() -> OpenAPIConfig:
    """Title, version, and how callers show who they are."""
    return OpenAPIConfig(
        title="Vespid",
        version="1",
        path="/schema",
        render_plugins=[DocumentPlugin()],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description="An access token or an API key."),
                "session": SecurityScheme(type="apiKey", name=SESSION_COOKIE, security_scheme_in="cookie"),
                "service": SecurityScheme(type="apiKey", name="X-Service-Token", security_scheme_in="header"),
            }
        ),
    )


def finish_document(document: dict[str, Any], handlers: Mapping[tuple[str, str], HTTPRouteHandler]) -> None:
    """Add to each operation what follows from its guards, parameters and marks."""
    document.setdefault("components", {}).setdefault("schemas", {})["Error"] = _ERROR_SCHEMA
    for path, method, operation in _operations(document):
        handler = handlers[(path, method)]
        _finish_operation(path, operation, handler)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in ("get", "post", "put", "patch", "delete"):
            if method in item:
                yield path, method, item[method]


def _finish_operation(path: str, operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    guards = handler.resolve_guards()
    in_org = any(guard in ORG_GUARDS for guard in guards)
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    known = {(parameter["in"], parameter["name"].lower()) for parameter in parameters}
    for name in _path_names(path):
        if ("path", name) not in known:
            parameters.append(_parameter("path", name, {"type": "string", "minLength": 1}))
    statuses = {500, 503}
    if in_org:
        parameters.append(_parameter("header", "X-Org-Id", {"type": "string", "format": "uuid"}))
        statuses |= {400, 403}
    if in_org or signed_in in guards:
        operation["security"] = [{"bearer": []}, {"session": []}]
        statuses |= {401, 403}
    if service_caller in guards:
        operation["security"] = [{"service": []}]
        statuses.add(401)
    if len(_path_names(path)) > int(in_org):
        statuses.add(404)
    if handler.opt.get("idempotent"):
        parameters.append(_parameter("header", "Idempotency-Key", {"type": "string", "maxLength": 255}, required=False))
        # The body is read, to compare it with that of the first request, even where the route asks for none.
        statuses |= {400, 409, 413}
    if handler.opt.get("failures_limited"):
        statuses.add(429)
    if "requestBody" in operation:
        statuses |= {400, 413}
    if parameters:
        statuses.add(400)
    else:
        del operation["parameters"]
    responses: dict[str, Any] = operation["responses"]
    for status in sorted(statuses | {int(status) for status in responses if int(status) >= 400}):
        responses[str(status)] = {"description": _DESCRIPTIONS[status], "content": _ERROR}


def _path_names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _parameter(place: str, name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"in": place, "name": name, "required": required, "schema": schema}
