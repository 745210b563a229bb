"""What a model may do with the memory of its session: search it, read from it, write to it.

Each tool checks what it is given against its schema and says what is wrong in words that the model can act on.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from vespid_runtime.memory.index import RESULTS_MAX
from vespid_runtime.memory.passages import lines_of
from vespid_runtime.memory.paths import PATH_MAX_BYTES, MemoryRefused, document_path
from vespid_runtime.memory.workspace import DOCUMENT_MAX_BYTES, MemoryWorkspace

_Path = Annotated[
    str,
    Meta(min_length=1, max_length=PATH_MAX_BYTES, description="MEMORY.md, or a path below memory/ that ends with .md"),
]
_FIELD_IN_QUESTION = re.compile(r"(?:required|unknown) field `(\w+)`")
_Line = Annotated[int, Meta(ge=1)]


class _Input(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a tool is given."""


class SearchInput(_Input, frozen=True):
    """What to look for."""

    query: Annotated[str, Meta(min_length=1, max_length=1000, description="Words, or a phrase in quotes")]
    limit: Annotated[int, Meta(ge=1, le=RESULTS_MAX, description="How many results at most")] = 10


class GetInput(_Input, frozen=True):
    """What to read; lines are numbered from 1."""

    path: _Path
    line_start: Annotated[_Line, Meta(description="First line to read")] | None = None
    line_end: Annotated[_Line, Meta(description="Last line to read")] | None = None


class WriteInput(_Input, frozen=True):
    """What to write, and whether to add it at the end or to put it in the place of all there was."""

    path: _Path
    content: Annotated[str, Meta(max_length=DOCUMENT_MAX_BYTES, description="Markdown")]
    mode: Annotated[Literal["append", "replace"], Meta(description="Add at the end, or replace the document")] = (
        "append"
    )


_InputT = TypeVar("_InputT", bound=_Input)


@dataclass(frozen=True)
class MemoryTool(Generic[_InputT]):
    """One tool of one session."""

    id: str
    # For the model.
    description: str
    _input: type[_InputT]
    _call: Callable[[_InputT], dict[str, object]]

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of what `call` takes, without references."""
        (_reference,), components = msgspec.json.schema_components([self._input])
        return {key: value for key, value in components[self._input.__name__].items() if key != "title"}

    def call(self, given: object) -> dict[str, object]:
        """Carry it out with a decoded JSON value; the answer is one too. Raises MemoryRefused. Blocks on the disk."""
        try:
            checked = msgspec.convert(given, self._input)
        except msgspec.ValidationError as error:
            problem, _, path = str(error).partition(" - at `$")
            named = _FIELD_IN_QUESTION.search(problem)
            raise MemoryRefused(path.strip("`.") or (named[1] if named else "input"), problem) from error
        return self._call(checked)


def memory_tools(workspace: MemoryWorkspace) -> Mapping[str, MemoryTool[Any]]:
    """The tools by their ids."""
    tools: list[MemoryTool[Any]] = [
        MemoryTool(
            "memory.search",
            "Search what is remembered. Answers the best passages with their paths and line numbers.",
            SearchInput,
            lambda given: _search(workspace, given),
        ),
        MemoryTool(
            "memory.get",
            "Read a document of the memory, or some of its lines.",
            GetInput,
            lambda given: _get(workspace, given),
        ),
        MemoryTool(
            "memory.write",
            "Remember something: write it to MEMORY.md or to a document below memory/.",
            WriteInput,
            lambda given: _write(workspace, given),
        ),
    ]
    return {tool.id: tool for tool in tools}


def _search(workspace: MemoryWorkspace, given: SearchInput) -> dict[str, object]:
    found = workspace.search(given.query, given.limit)
    return {"results": [{_camel(name): value for name, value in asdict(result).items()} for result in found]}


def _get(workspace: MemoryWorkspace, given: GetInput) -> dict[str, object]:
    content = workspace.read(given.path)
    if content is None:
        raise MemoryRefused("path", "there is no such document")
    lines = lines_of(content)
    first, last = given.line_start or 1, min(given.line_end or len(lines), len(lines))
    if given.line_end is not None and given.line_end < first:
        raise MemoryRefused("lineEnd", "is before lineStart")
    if first > max(len(lines), 1):
        raise MemoryRefused("lineStart", f"the document has {len(lines)} lines")
    is_whole = first == 1 and last == len(lines)
    return {
        "path": document_path(given.path),
        "content": content if is_whole else "\n".join(lines[first - 1 : last]),
        "lineStart": first,
        "lineEnd": last,
        "lineCount": len(lines),
    }


def _write(workspace: MemoryWorkspace, given: WriteInput) -> dict[str, object]:
    write = workspace.append if given.mode == "append" else workspace.write
    return {"path": document_path(given.path), "sha256": write(given.path, given.content)}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
