"""Templates in configs: `{{ input.x }}`, `{{ steps.<node>.output.y | default("…") }}`, `{{secrets.<id>}}`.

A config is taken apart once, when its workflow is parsed, and filled when its node starts. A string that is exactly one
template keeps the value's type; inside a longer string, strings go in as they are and everything else as compact JSON.
`{{secrets.<id>}}` stays as it is: the agent fills it. Text that arrives as a *value* can never become a template: what
looks like the opening of a secret template is broken (`{ {secrets…`), otherwise a webhook's body could ask for secrets.
Braces before any other word are not ours and are left alone (`docker ps --format '{{.Names}}'`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec

from vespid.domain.path import MISSING, PathInvalid, Segment, parse_segments, resolve

# What one node's templates may add up to once filled; a frame to an agent holds no more.
FILLED_MAX_CHARS = 4_000_000
VALUE_MAX_DEPTH = 200

_LITERAL = r""""(?:[^"\\]|\\.)*"|'[^'\\]*'|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null"""
_HEAD = re.compile(r"\{\{\s*(input|steps|secrets)(?![A-Za-z0-9_-])")
_NEAR_MISS = re.compile(r"\{\{\s*(inputs|step|secret)\s*[.\[]")
_WHOLE = re.compile(
    r"\{\{\s*(?P<root>input|steps|secrets)"
    r"(?P<path>(?:\.[A-Za-z0-9_-]+|\[(?:\d{1,9}|\"(?:[^\"\\]|\\.)*\"|'[^'\\]*')\])*)\s*"
    rf"(?:\|\s*default\(\s*(?P<default>{_LITERAL})\s*\)\s*)?\}}\}}"
)
# What the agent will fill, exactly.
_SECRET = re.compile(r"\{\{\s*secrets\.[A-Za-z0-9_-]{1,64}\s*\}\}")
_SECRET_OPENING = re.compile(r"\{\{(?=\s*secrets)")


class TemplateInvalid(ValueError):
    """A template is not well formed; the message says how it should be written, `path` where it is in the value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: list[str] = []


class TemplateValueMissing(ValueError):
    """A template names a value that is not there and gives no default."""


class FilledTooLarge(ValueError):
    """The filled config would be too large, or a value is nested too deeply."""


class Reference(msgspec.Struct, frozen=True):
    """One `{{ input… }}` or `{{ steps… }}`."""

    source: str
    # None: the run's input; else the node whose output it is.
    node_id: str | None
    segments: tuple[Segment, ...]
    has_default: bool = False
    default: object = None


class SecretReference(msgspec.Struct, frozen=True):
    """One `{{secrets.<id>}}`, kept as written."""

    source: str
    secret_id: str


# A string taken apart, an object, an array. Parts without a template are kept whole in `_Static`.
class _Static(msgspec.Struct, frozen=True):
    value: object


class _Text(msgspec.Struct, frozen=True):
    parts: tuple[str | Reference | SecretReference, ...]


class _Object(msgspec.Struct, frozen=True):
    items: tuple[tuple[str, _Static | Reference | _Text | _Object | _Array], ...]


class _Array(msgspec.Struct, frozen=True):
    items: tuple[_Static | Reference | _Text | _Object | _Array, ...]


_Node = _Static | Reference | _Text | _Object | _Array


class Scope(Protocol):
    """Where values come from."""

    def input(self) -> object:
        """The run's input, decoded."""
        ...

    def output(self, node_id: str) -> object:
        """A node's output, decoded; MISSING where it has none."""
        ...


class Template(msgspec.Struct, frozen=True):
    """A config value taken apart."""

    source: object
    root: _Node
    references: tuple[Reference, ...] = ()
    secrets: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether filling it gives `source` itself."""
        return isinstance(self.root, _Static)

    def fill(self, scope: Scope) -> object:
        """The value with its templates filled. Raises TemplateValueMissing, FilledTooLarge, and what `scope` raises.

        Parts without templates are shared with the plan: treat the answer as immutable.
        """
        root = self.root
        if isinstance(root, _Static):
            return root.value
        return _Filling(scope).fill(root)


# --- taking apart ----------------------------------------------------------------------------------------------------


def compile_template(value: object) -> Template:
    """Takes a config value apart. Raises TemplateInvalid. Its depth must have been bounded before."""
    references: list[Reference] = []
    secrets: dict[str, None] = {}
    root = _compile(value, references, secrets)
    return Template(value, root, tuple(references), tuple(secrets))


def static(value: object) -> Template:
    """A value in which nothing is to be filled."""
    return Template(value, _Static(value))


def _compile(value: object, references: list[Reference], secrets: dict[str, None]) -> _Node:
    if isinstance(value, str):
        return _compile_text(value, references, secrets)
    if isinstance(value, dict):
        items = tuple((str(key), _compile_item(str(key), item, references, secrets)) for key, item in value.items())
        return _Static(value) if all(isinstance(item, _Static) for _, item in items) else _Object(items)
    if isinstance(value, list):
        elements = tuple(_compile_item(str(at), item, references, secrets) for at, item in enumerate(value))
        return _Static(value) if all(isinstance(item, _Static) for item in elements) else _Array(elements)
    return _Static(value)


def _compile_item(key: str, value: object, references: list[Reference], secrets: dict[str, None]) -> _Node:
    try:
        return _compile(value, references, secrets)
    except TemplateInvalid as error:
        error.path.insert(0, key)
        raise


def _compile_text(text: str, references: list[Reference], secrets: dict[str, None]) -> _Node:
    if "{{" not in text:
        return _Static(text)
    parts = list(_parts(text))
    for part in parts:
        if isinstance(part, Reference):
            references.append(part)
        elif isinstance(part, SecretReference):
            secrets[part.secret_id] = None
    if len(parts) == 1 and isinstance(parts[0], Reference):
        return parts[0]
    if not any(isinstance(part, Reference) for part in parts):
        return _Static(text)
    return _Text(tuple(parts))


def _parts(text: str) -> Iterator[str | Reference | SecretReference]:
    if near := _NEAR_MISS.search(text):
        raise TemplateInvalid(f"`{near[0]}…` is not known; write input, steps.<nodeId>.output or secrets.<secretId>")
    position = 0
    while head := _HEAD.search(text, position):
        whole = _WHOLE.match(text, head.start())
        if whole is None:
            raise TemplateInvalid(
                f"`{text[head.start() : head.start() + 40]}` is not a template; write {{{{ input.x }}}}, "
                '{{ steps.<nodeId>.output.y | default("…") }} or {{secrets.<secretId>}}'
            )
        if head.start() > position:
            yield text[position : head.start()]
        yield _reference(whole)
        position = whole.end()
    if position < len(text):
        yield text[position:]


def _reference(whole: re.Match[str]) -> Reference | SecretReference:
    source = whole[0]
    try:
        segments = parse_segments(whole["path"])
    except PathInvalid as error:
        raise TemplateInvalid(f"`{source}`: {error}") from error
    literal = whole["default"]
    if whole["root"] == "secrets":
        if not _SECRET.fullmatch(source):
            raise TemplateInvalid(f"`{source}` must be {{{{secrets.<secretId>}}}}")
        return SecretReference(source, str(segments[0]))
    default = _literal(literal) if literal is not None else None
    if whole["root"] == "input":
        return Reference(source, None, segments, literal is not None, default)
    if len(segments) < 2 or segments[1] != "output":
        raise TemplateInvalid(f"`{source}` must be {{{{ steps.<nodeId>.output… }}}}")
    return Reference(source, str(segments[0]), segments[2:], literal is not None, default)


def _literal(text: str) -> object:
    if text.startswith("'"):
        return text[1:-1]
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise TemplateInvalid(f"default({text}): {error}") from error


# --- filling ---------------------------------------------------------------------------------------------------------


class _Filling:
    """One filling: where values come from, and how much more may go in."""

    __slots__ = ("_room", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._room = FILLED_MAX_CHARS

    def fill(self, node: _Node) -> object:
        if isinstance(node, _Static):
            return node.value
        if isinstance(node, Reference):
            return self._value(node)
        if isinstance(node, _Text):
            return self._text(node)
        if isinstance(node, _Object):
            return {key: self.fill(item) for key, item in node.items}
        return [self.fill(item) for item in node.items]

    def _text(self, node: _Text) -> str:
        written: list[str] = []
        # What lies between two secret templates of the author; nothing in it may open one.
        chunk: list[str] = []
        for part in node.parts:
            if isinstance(part, SecretReference):
                written += (_disarm_text("".join(chunk)), part.source)
                chunk.clear()
            else:
                chunk.append(part if isinstance(part, str) else self._as_text(part))
        written.append(_disarm_text("".join(chunk)))
        return "".join(written)

    def _as_text(self, reference: Reference) -> str:
        value = self._look_up(reference)
        text = value if isinstance(value, str) else _json(value)
        self._spend(len(text))
        return text

    def _value(self, reference: Reference) -> object:
        value = self._look_up(reference)
        if isinstance(value, str):
            self._spend(len(value))
            return _disarm_text(value)
        if isinstance(value, (dict, list)):
            text = _json(value)
            self._spend(len(text))
            return disarm(value) if "secrets" in text else value
        return value

    def _look_up(self, reference: Reference) -> object:
        node_id = reference.node_id
        root = self._scope.input() if node_id is None else self._scope.output(node_id)
        value = resolve(root, reference.segments)
        if value is not MISSING:
            return value
        if reference.has_default:
            return reference.default
        raise TemplateValueMissing(f"{reference.source} has no value")

    def _spend(self, chars: int) -> None:
        self._room -= chars
        if self._room < 0:
            raise FilledTooLarge(f"the filled config would be larger than {FILLED_MAX_CHARS} characters")


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError as error:
        raise FilledTooLarge("a value is nested too deeply") from error


def _disarm_text(text: str) -> str:
    return _SECRET_OPENING.sub("{ {", text) if "{{" in text else text


def disarm(value: object, depth: int = 0) -> object:
    """A value in which no string can be taken for a secret template. Raises FilledTooLarge beyond 200 levels."""
    if isinstance(value, str):
        return _disarm_text(value)
    if depth > VALUE_MAX_DEPTH:
        raise FilledTooLarge("a value is nested too deeply")
    if isinstance(value, dict):
        return {_disarm_text(key): disarm(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [disarm(item, depth + 1) for item in value]
    return value
