"""One output stream of a task: bytes in; masked text out live, and head and tail of it at the end.

Whatever a task prints, memory stays within the cap: what lies between head and tail is counted and dropped.
"""

import codecs
from collections import deque
from collections.abc import Callable

from vespid_agent.sandbox.task import OnOutput, ShellTask, Stream
from vespid_runtime.redaction import RedactedStream, Redactor

# What neither Postgres nor a terminal takes in a text.
_NUL_REPLACED = {0: "�"}


class OutputCapture:
    """`emit(text, offset)` gets the first `max_chars` characters as they come and at last the tail of a longer text."""

    def __init__(
        self, max_chars: int, redactor: Redactor | None, emit: Callable[[str, int], None], *, keeps: bool = True
    ) -> None:
        """`keeps`: False where nothing of it is wanted at the end."""
        self._max_chars = max(max_chars, 0)
        self._head_chars = self._max_chars // 2 if keeps else 0
        self._tail_chars = self._max_chars - self._head_chars if keeps else 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redacted: RedactedStream | None = redactor.stream() if redactor else None
        self._emit = emit
        # Characters so far, after masking; the offsets of `emit` count the same.
        self._total = 0
        self._emitted = 0
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._tail_size = 0

    @property
    def over_cap(self) -> bool:
        return self._total > self._max_chars

    def feed(self, data: bytes) -> None:
        self._take(self._masked(self._decoder.decode(data)))

    def finish(self) -> tuple[str, bool]:
        """(the text, at most `max_chars` long, whether something was cut from it)."""
        self._take(self._masked(self._decoder.decode(b"", final=True)))
        if self._redacted is not None:
            self._take(self._redacted.finish())
        if not self._tail_chars:
            return "", self.over_cap
        tail = "".join(self._tail)[-self._tail_chars :] if self._tail_chars else ""
        if self._total > self._emitted:
            last = tail[-(self._total - self._emitted) :]
            self._emit(last, self._total - len(last))
            self._emitted = self._total
        if not self.over_cap:
            return "".join(self._head) + tail[len(tail) - (self._total - self._head_size()) :], False
        return self._cut(tail), True

    def _cut(self, tail: str) -> str:
        head = "".join(self._head)
        dropped = self._total - len(head) - len(tail)
        # The mark takes its room from the tail, so its own length is part of what it counts.
        mark = f"\n… [{dropped + 40} characters cut] …\n"
        if len(mark) > len(tail) // 2:
            return head + tail
        mark = f"\n… [{dropped + len(mark)} characters cut] …\n"
        return head + mark + tail[len(mark) :]

    def _head_size(self) -> int:
        return min(self._total, self._head_chars)

    def _masked(self, text: str) -> str:
        text = text.translate(_NUL_REPLACED) if "\0" in text else text
        return self._redacted.feed(text) if self._redacted is not None else text

    def _take(self, text: str) -> None:
        if not text:
            return
        live = text[: self._max_chars - self._emitted] if self._emitted == self._total else ""
        if live:
            self._emit(live, self._emitted)
            self._emitted += len(live)
        missing = self._head_chars - self._head_size()
        self._total += len(text)
        if missing > 0:
            self._head.append(text[:missing])
            text = text[missing:]
        self._keep_tail(text[-self._tail_chars :] if self._tail_chars else "")

    def _keep_tail(self, text: str) -> None:
        if not text:
            return
        self._tail.append(text)
        self._tail_size += len(text)
        while self._tail_size - len(self._tail[0]) >= self._tail_chars:
            self._tail_size -= len(self._tail.popleft())


def capture_of(stream: Stream, task: ShellTask, on_output: OnOutput) -> OutputCapture:
    """What a backend puts behind one of a task's streams."""

    def emit(text: str, offset: int) -> None:
        on_output(stream, text, offset)

    if stream == "stdout" and task.streamed_max_chars is not None:
        return OutputCapture(task.streamed_max_chars, task.redactor, emit, keeps=False)
    return OutputCapture(task.output_max_chars, task.redactor, emit)
