"""Masking the values of known secrets in everything that leaves: text, streams of text, JSON.

All occurrences of all forms are found, overlapping ones too, and their union is masked, so neither a longer value that
contains a shorter one nor two that overlap leave a readable rest. A stream holds back only what may be the beginning of
a value and gives it out with the next chunk or at the end.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

import msgspec

MASK = "***"

# Shorter values (and shorter encoded fragments of them) are not masked: `on` or `true` would blacken every log.
MIN_SECRET_CHARS = 6


# A secret may be a whole header, or a scheme with its token (docs/connectors.md): often the rest alone comes back.
_HEADER_OR_SCHEME = re.compile(r"(?:[A-Za-z0-9_-]{1,128}: +)?(?:(?:Basic|Bearer) +)?(?P<rest>\S.*)", re.IGNORECASE)


class Redactor:
    """Knows the values to mask. Immutable; cheap to ask when it knows none."""

    def __init__(self, values: Iterable[str], *, min_chars: int = MIN_SECRET_CHARS) -> None:
        self._min_chars = min_chars
        forms = {form for value in values for form in _forms(value) if len(form) >= min_chars}
        # A form that contains another is found through the other only in part: both stay, their union is masked.
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    def also(self, values: Iterable[str]) -> "Redactor":
        """One that masks these as well."""
        more = Redactor(values, min_chars=self._min_chars)
        more._forms = tuple(sorted({*self._forms, *more._forms}, key=len, reverse=True))
        return more

    def __bool__(self) -> bool:
        return bool(self._forms)

    def redact(self, text: str) -> str:
        spans = self._spans(text)
        if not spans:
            return text
        pieces, end = [], 0
        for start, stop in spans:
            pieces += [text[end:start], MASK]
            end = stop
        pieces.append(text[end:])
        return "".join(pieces)

    def stream(self) -> "RedactedStream":
        return RedactedStream(self)

    def redact_json(self, value: object) -> object:
        """A copy of a JSON value with every string masked, keys too, and a number that spells a value."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact(str(key)): self.redact_json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.redact_json(item) for item in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            spelled = str(value)
            return MASK if self._spans(spelled) else value
        return value

    def redact_raw(self, document: bytes) -> bytes:
        """The same for an encoded JSON document, decoded only where a value may occur in it.

        Escapes inside the document can spell a value in other ways than ours (`\\u0041`), so one with a backslash
        is always decoded. Raises `msgspec.DecodeError` for what is not JSON.
        """
        if not self._forms:
            return document
        if b"\\" not in document and not self._spans(document.decode("utf-8", "replace")):
            return document
        return msgspec.json.encode(self.redact_json(msgspec.json.decode(document)))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """The union of all occurrences, in order."""
        found: list[tuple[int, int]] = []
        for form in self._forms:
            at = text.find(form)
            while at >= 0:
                found.append((at, at + len(form)))
                at = text.find(form, at + 1)
        found.sort()
        return _union(found)

    def _open_tail(self, text: str) -> int:
        """Where the earliest suffix begins that is the beginning of some form; len(text) if there is none."""
        earliest = len(text)
        for form in self._forms:
            at = text.find(form[0], max(0, len(text) - len(form) + 1))
            while 0 <= at < earliest:
                if form.startswith(text[at:]):
                    earliest = at
                    break
                at = text.find(form[0], at + 1)
        return earliest


class RedactedStream:
    """One stream of text in chunks. What `feed` and at last `finish` answer is, joined, the whole text masked."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        # How many of the held characters lie under a mask that was already given out.
        self._masked = 0

    def feed(self, chunk: str) -> str:
        if not self._redactor:
            return chunk
        text = self._held + chunk
        return self._give(text, self._redactor._open_tail(text))

    def finish(self) -> str:
        """What was held back; the stream is empty and usable again afterwards."""
        return self._give(self._held, len(self._held))

    def _give(self, text: str, until: int) -> str:
        if until == 0:
            self._held = text
            return ""
        spans = self._redactor._spans(text)
        if self._masked:
            spans = _union(sorted([(0, self._masked), *spans]))
        pieces, end, masked = [], 0, 0
        for start, stop in spans:
            if start >= until:
                break
            pieces.append(text[end:start])
            if not (start == 0 and self._masked):
                pieces.append(MASK)
            end = stop
            masked = max(0, stop - until)
        if end < until:
            pieces.append(text[end:until])
        self._held, self._masked = text[until:], masked
        return "".join(pieces)


def _union(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    union: list[tuple[int, int]] = []
    for start, stop in spans:
        if union and start < union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], stop))
        else:
            union.append((start, stop))
    return union


def _forms(value: str) -> set[str]:
    """The ways a value shows up in output: as it is, line by line, in JSON, in a URL, in base64 at each alignment."""
    plain = {value, value.strip(), value.replace("\r\n", "\n"), value.replace("\r\n", "\n").replace("\n", "\r\n")}
    plain |= {line.strip() for line in value.splitlines()}
    plain |= {match["rest"] for line in plain if (match := _HEADER_OR_SCHEME.fullmatch(line))}
    forms = set(plain)
    for text in plain:
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        for encoded in (
            quote(text, safe="", errors="replace"),
            quote(text, errors="replace"),
            quote_plus(text, errors="replace"),
        ):
            forms |= {encoded, _lower_escapes(encoded)}
        forms |= _base64_forms(text.encode("utf-8", "replace"))
    return forms


def _lower_escapes(quoted: str) -> str:
    head, *rest = quoted.split("%")
    return "%".join([head, *(part[:2].lower() + part[2:] for part in rest)])


def _base64_forms(data: bytes) -> set[str]:
    """What base64 of any text around `data` surely contains: at each of the three alignments, the whole sextets."""
    forms: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode()
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        inner = encoded[first:last]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return forms
