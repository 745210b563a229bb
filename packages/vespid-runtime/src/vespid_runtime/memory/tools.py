"""What a model may do with the memory of its session or workflow: search it, read from it, write to it.

The one thing to know: where the documents are is not known here. What is asked is read by one function, and what is
answered made by another, so that a memory on a disk and one in a database say the same. What is wrong with a call is
said in words that the model can act on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vespid_runtime.memory.index import RESULTS_MAX, SearchResult
from vespid_runtime.memory.limits import DOCUMENT_MAX_BYTES
from vespid_runtime.memory.passages import lines_of
from vespid_runtime.memory.paths import PATH_MAX_BYTES, MemoryRefused, document_path
from vespid_runtime.memory.workspace import MemoryWorkspace

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


MemoryInput: TypeAlias = SearchInput | GetInput | WriteInput


@dataclass(frozen=True)
class MemoryTool:
    """One tool, of any memory."""

    id: str
    # For the model.
    description: str
    _input: type[SearchInput] | type[GetInput] | type[WriteInput]

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of what it takes, without references."""
        (_reference,), components = msgspec.json.schema_components([self._input])
        return {key: value for key, value in components[self._input.__name__].items() if key != "title"}

    def read(self, given: object) -> MemoryInput:
        """What is asked, of a decoded JSON value. Raises MemoryRefused."""
        try:
            return msgspec.convert(given, self._input)
        except msgspec.ValidationError as error:
            problem, _, path = str(error).partition(" - at `$")
            named = _FIELD_IN_QUESTION.search(problem)
            raise MemoryRefused(path.strip("`.") or (named[1] if named else "input"), problem) from error


MEMORY_TOOLS: Mapping[str, MemoryTool] = {
    tool.id: tool
    for tool in (
        MemoryTool(
            "memory.search",
            "Search what is remembered. Answers the best passages with their paths and line numbers.",
            SearchInput,
        ),
        MemoryTool("memory.get", "Read a document of the memory, or some of its lines.", GetInput),
        MemoryTool(
            "memory.write", "Remember something: write it to MEMORY.md or to a document below memory/.", WriteInput
        ),
    )
}


def carry_out(workspace: MemoryWorkspace, given: MemoryInput, *, once: str | None = None) -> dict[str, object]:
    """Over documents on a disk, on which it blocks. `once`: the key of a call that may come again after a crash, and
    then writes nothing. Raises MemoryRefused."""
    match given:
        case SearchInput():
            return found(workspace.search(given.query, given.limit))
        case GetInput():
            return got(given, workspace.read(given.path))
        case WriteInput():
            is_append = given.mode == "append"
            if once is not None:
                return wrote(given, workspace.write_once(once, given.path, given.content, append=is_append))
            write = workspace.append if is_append else workspace.write
            return wrote(given, write(given.path, given.content))


def found(results: Iterable[SearchResult]) -> dict[str, object]:
    """The answer to a search."""
    return {"results": [{_camel(name): value for name, value in asdict(result).items()} for result in results]}


def got(given: GetInput, content: str | None) -> dict[str, object]:
    """The answer to who reads; None: there is no such document. Raises MemoryRefused."""
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


def wrote(given: WriteInput, sha256: str) -> dict[str, object]:
    """The answer to who wrote."""
    return {"path": document_path(given.path), "sha256": sha256}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
