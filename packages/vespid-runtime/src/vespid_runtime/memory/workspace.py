"""The markdown files in which a session remembers, on the host where it lives.

Anybody with a shell in there can put anything there: what is not a document is passed over, what is too large is left
out and said. Text is what travels, and what is hashed: bytes that are not UTF-8, and NUL, are U+FFFD in it.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vespid_protocol.frames import MemoryDocument
from vespid_protocol.text import clean_text
from vespid_runtime.memory.calls import Calls, read_calls
from vespid_runtime.memory.index import MemoryIndex, SearchResult
from vespid_runtime.memory.limits import (
    DOCUMENT_MAX_BYTES,
    appended,
    check_limits,
    check_names,
    check_size,
    check_written,
    is_full,
    too_many,
)
from vespid_runtime.memory.paths import (
    PATH_MAX_PARTS,
    MemoryRefused,
    document_path,
    folder_names,
    session_folder,
)
from vespid_runtime.memory.tree import TEMPORARY, Tree, open_tree

# Which calls have written; a name that no document has.
_CALLS = (".calls",)
_CALLS_MAX_BYTES = 1024 * 1024

# Of a document that is no more.
DELETED_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Changes:
    """What differs from what somebody else knows."""

    documents: tuple[MemoryDocument, ...]
    # Documents that cannot travel: beyond a limit, or one file with another elsewhere. There they stay as they were.
    left_out: tuple[MemoryRefused, ...] = ()


def content_sha256(content: str) -> str:
    """In hex, of the text in UTF-8; what two sides compare."""
    return hashlib.sha256(content.encode()).hexdigest()


class MemoryWorkspace:
    """One session's documents. Blocks on the disk: call it from a thread. Threads may share one."""

    def __init__(self, root: Path, organization_id: str, session_key: str) -> None:
        """Makes nothing on the disk. Raises MemoryRefused."""
        self.folder = session_folder(root, organization_id, session_key)
        self._tree: Tree = open_tree(root, folder_names(organization_id, session_key))
        self._index = MemoryIndex()
        self._lock = threading.RLock()

    def paths(self) -> list[str]:
        """The documents there are, in order."""
        return list(self._sizes())

    def read(self, path: str) -> str | None:
        """None where there is no such document. Raises MemoryRefused."""
        path = document_path(path)
        data = self._tree.read(path.split("/"), DOCUMENT_MAX_BYTES + 1)
        if data is None:
            return None
        check_size(path, len(data))
        return _text(data)

    def write(self, path: str, content: str) -> str:
        """Put the document there, whole, and answer its sha256. Raises MemoryRefused; then nothing has changed."""
        path, content = document_path(path), clean_text(content)[0]
        with self._lock:
            check_written(self._sizes(), {path: content})
            self._write(path, content)
        return content_sha256(content)

    def append(self, path: str, content: str) -> str:
        """Add to the document, on a line of its own, and answer its sha256. Raises MemoryRefused."""
        with self._lock:
            return self.write(path, appended(self.read(path) or "", content))

    def write_once(self, key: str, path: str, content: str, *, append: bool) -> str:
        """`write` or `append` by the call of this key, which may come again: then it changes nothing any more."""
        path, content = document_path(path), clean_text(content)[0]
        with self._lock:
            calls = read_calls(self._tree.read(_CALLS, _CALLS_MAX_BYTES)).settled(self._sha256)
            written = calls.written_by(key)
            if written is not None:
                return written
            content = appended(self.read(path) or "", content) if append else content
            check_written(self._sizes(), {path: content})
            sha256 = content_sha256(content)
            self._note(calls.begin(key, path, sha256))
            self._write(path, content)
        return sha256

    def remove(self, path: str) -> bool:
        """Whether there was one. Raises MemoryRefused."""
        path = document_path(path)
        with self._lock:
            return self._tree.remove(path.split("/"))

    def apply(self, documents: Iterable[MemoryDocument], *, whole: bool = False) -> None:
        """Bring in what the other side has; with `whole`, nothing else stays.

        Raises MemoryRefused before anything has changed.
        """
        written: dict[str, str] = {}
        removed: set[str] = set()
        for document in documents:
            path = document_path(document.path)
            if document.content is None:
                removed.add(path)
                written.pop(path, None)
            else:
                written[path] = clean_text(document.content)[0]
                removed.discard(path)
        with self._lock:
            if whole:
                removed.update(path for path in self._sizes() if path not in written)
            check_written(self._sizes(), written, removed)
            for path in removed:
                self._tree.remove(path.split("/"))
            if whole:
                self._remove_unfinished()
            for path, content in written.items():
                self._write(path, content)

    def snapshot(self) -> dict[str, str]:
        """The sha256 of each document, for `changes` later. What cannot travel is not in it."""
        return {document.path: document.sha256 for document in self._documents()[0]}

    def changes(self, since: Mapping[str, str]) -> Changes:
        """What differs from `since` (path → sha256), with the text of it; from `{}`: everything."""
        documents, left_out, beyond = self._documents()
        changed = [document for document in documents if since.get(document.path) != document.sha256]
        there = {document.path for document in documents} | beyond
        gone = [MemoryDocument(path=path, sha256=DELETED_SHA256, content=None) for path in sorted(since.keys() - there)]
        return Changes((*changed, *gone), left_out)

    def search(self, query: str, limit: int = 10) -> list[SearchResult]:
        """The passages that answer best, from the files as they are now."""
        with self._lock:
            documents, _left_out, _beyond = self._documents()
            self._index.refresh((document.path, document.sha256, document.content or "") for document in documents)
            return self._index.search(query, limit)

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for parts, size in self._tree.walk(PATH_MAX_PARTS):
            path = "/".join(parts)
            if _is_document(path):
                sizes[path] = size
        return dict(sorted(sizes.items()))

    def _documents(self) -> tuple[list[MemoryDocument], tuple[MemoryRefused, ...], set[str]]:
        """Those that can travel; why others are left out, and their paths."""
        documents: list[MemoryDocument] = []
        left_out: list[MemoryRefused] = []
        beyond: set[str] = set()
        names: dict[str, str] = {}
        total, is_full_told = 0, False
        for path in self._sizes():
            if is_full(len(documents)):  # of the rest, however much it is, the first is told
                if not is_full_told:
                    left_out.append(too_many(path))
                    is_full_told = True
                beyond.add(path)
                continue
            try:
                content = self.read(path)
                if content is None:  # gone since it was listed
                    continue
                size = len(content.encode())
                check_limits(path, len(documents) + 1, size, total + size)
                check_names(path, names)
            except MemoryRefused as refused:
                left_out.append(refused)
                beyond.add(path)
                continue
            total += size
            documents.append(MemoryDocument(path=path, sha256=content_sha256(content), content=content))
        return documents, tuple(left_out), beyond

    def _sha256(self, path: str) -> str | None:
        try:
            content = self.read(path)
        except MemoryRefused:  # nothing that was written from here
            return None
        return None if content is None else content_sha256(content)

    def _note(self, calls: Calls) -> None:
        try:
            self._tree.write(_CALLS, msgspec.json.encode(calls))
        except OSError as error:
            raise MemoryRefused("path", f"nothing can be written: {error.strerror or error}") from error

    def _write(self, path: str, content: str) -> None:
        try:
            self._tree.write(path.split("/"), content.encode())
        except OSError as error:
            raise MemoryRefused("path", f"{path} cannot be written: {error.strerror or error}") from error

    def _remove_unfinished(self) -> None:
        for parts, _size in list(self._tree.walk(PATH_MAX_PARTS)):
            if parts[-1].startswith(TEMPORARY):
                self._tree.remove(parts)


def _text(data: bytes) -> str:
    return clean_text(data.decode("utf-8", "replace"))[0]


def _is_document(path: str) -> bool:
    try:
        return document_path(path) == path
    except (MemoryRefused, UnicodeEncodeError):
        return False
