"""Full-text search over markdown documents, in memory, for any language.

SQLite's FTS5 holds our own tokens and ranks by BM25, with headings and paths weighing more than text. Only documents
whose sha256 changed are read again. What is found are passages, as lines that can be shown.
"""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vespid_protocol.text import clean_text
from vespid_runtime.memory.passages import Passage, passages
from vespid_runtime.memory.query import Query, Term, parse_query
from vespid_runtime.memory.tokens import identifier_parts, tokenize

RESULTS_MAX = 50

# Weights of a match in path and headings, in the text, and inside of identifiers.
_RANK = "bm25(passages, 4.0, 1.0, 0.5)"
_SNIPPET_LINES = 4
_SNIPPET_LINE_CHARS = 240

_SCHEMA = """
CREATE VIRTUAL TABLE passages USING fts5(title, words, parts, tokenize="ascii tokenchars '_'");
CREATE TABLE shown (id INTEGER PRIMARY KEY, path TEXT NOT NULL, line_start INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX shown_by_path ON shown (path);
"""


@dataclass(frozen=True)
class SearchResult:
    """Some lines of a document, numbered from 1, both ends included."""

    path: str
    # 1 for the best of this search; above 0.5 where all that was asked for is in the passage.
    score: float
    snippet: str
    line_start: int
    line_end: int


@dataclass(frozen=True)
class _Hit:
    id: int
    path: str
    line_start: int
    text: str
    rank: float


class MemoryIndex:
    """Threads may share one."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._hashes: dict[str, str] = {}
        self._lock = threading.Lock()

    def refresh(self, documents: Iterable[tuple[str, str, str]]) -> None:
        """Hold these documents (path, sha256, content) and no others."""
        with self._lock:
            gone = set(self._hashes)
            self._database.execute("BEGIN")
            try:
                for path, sha256, content in documents:
                    gone.discard(path)
                    if self._hashes.get(path) != sha256:
                        self._forget(path)
                        self._add(path, content)
                        self._hashes[path] = sha256
                for path in gone:
                    self._forget(path)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                self._hashes.clear()
                self._database.executescript("DELETE FROM passages; DELETE FROM shown;")
                raise

    def search(self, query: str, limit: int = 10) -> list[SearchResult]:
        """The best passages, the best first; any text is a query, one with nothing to look for finds nothing."""
        asked = parse_query(query)
        if not asked.terms or limit < 1:
            return []
        limit = min(limit, RESULTS_MAX)
        with self._lock:
            whole = self._hits(asked.all_terms(), limit)
            seen = {hit.id for hit in whole}
            partly: list[_Hit] = []
            if len(whole) < limit:
                more = self._hits(asked.some_crumbs(), limit + len(seen))
                partly = [hit for hit in more if hit.id not in seen][: limit - len(whole)]
        return [
            _result(hit, asked, score)
            for hits, least in ((whole, 0.5), (partly, 0.0))
            for hit, score in zip(hits, _scores(hits, least), strict=True)
        ]

    def _hits(self, expression: str, limit: int) -> list[_Hit]:
        rows = self._database.execute(
            f"SELECT id, path, line_start, text, {_RANK} AS rank_of FROM passages JOIN shown ON id = passages.rowid"  # noqa: S608
            " WHERE passages MATCH ? ORDER BY rank_of, path, line_start LIMIT ?",
            (expression, limit),
        )
        return [_Hit(*row) for row in rows]

    def _add(self, path: str, content: str) -> None:
        for passage in passages(clean_text(content)[0]):
            text = "\n".join(passage.lines)
            cursor = self._database.execute(
                "INSERT INTO shown (path, line_start, text) VALUES (?, ?, ?)", (path, passage.line_start, text)
            )
            self._database.execute(
                "INSERT INTO passages (rowid, title, words, parts) VALUES (?, ?, ?, ?)",
                (cursor.lastrowid, *(" ".join(tokens) for tokens in _columns(path, passage, text))),
            )

    def _forget(self, path: str) -> None:
        if self._hashes.pop(path, None) is None:
            return
        self._database.execute("DELETE FROM passages WHERE rowid IN (SELECT id FROM shown WHERE path = ?)", (path,))
        self._database.execute("DELETE FROM shown WHERE path = ?", (path,))


def _columns(path: str, passage: Passage, text: str) -> tuple[list[str], list[str], list[str]]:
    title = " ".join([path.removesuffix(".md"), "md", *passage.headings])
    return tokenize(title), tokenize(text), identifier_parts(f"{title} {text}")


def _scores(hits: Sequence[_Hit], least: float) -> list[float]:
    """Above `least` and up to half above it, in proportion to BM25 (which is negative, and better when smaller)."""
    best = -hits[0].rank if hits else 0.0
    return [round(least + 0.5 * (max(-hit.rank / best, 0.001) if best > 0 else 1.0), 4) for hit in hits]


def _result(hit: _Hit, asked: Query, score: float) -> SearchResult:
    lines = hit.text.split("\n")
    first, last = _window(lines, asked)
    shown = [_cut(line, asked) for line in lines[first : last + 1]]
    return SearchResult(hit.path, score, "\n".join(shown), hit.line_start + first, hit.line_start + last)


def _window(lines: Sequence[str], asked: Query) -> tuple[int, int]:
    """The lines to show, those with the most of what was asked for; the passage's first where only a title has it."""
    found = [_found_in(line, asked) for line in lines]
    spans = [(at, min(at + _SNIPPET_LINES, len(lines))) for at in range(len(lines))]

    def worth(span: tuple[int, int]) -> tuple[int, int, int]:
        inside = found[span[0] : span[1]]
        return len(set().union(*inside)), sum(map(len, inside)), -span[0]

    first, end = max((span for span in spans if found[span[0]]), key=worth, default=spans[0])
    last = max((at for at in range(first, end) if found[at]), default=end - 1)
    while first < last and not lines[first].strip():
        first += 1
    while last > first and not lines[last].strip():
        last -= 1
    return first, last


def _found_in(line: str, asked: Query) -> set[Term]:
    tokens, parts = tokenize(line), identifier_parts(line)
    return {term for term in (*asked.terms, *asked.crumbs) if term.occurs_in(tokens, parts)}


def _cut(line: str, asked: Query) -> str:
    """The line, or of a long one the part around what was asked for."""
    if len(line) <= _SNIPPET_LINE_CHARS:
        return line
    half = _SNIPPET_LINE_CHARS // 2
    windows = range(0, len(line) - half, half)
    start = max(windows, key=lambda at: (len(_found_in(line[at : at + _SNIPPET_LINE_CHARS], asked)), -at))
    end = start + _SNIPPET_LINE_CHARS
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")
