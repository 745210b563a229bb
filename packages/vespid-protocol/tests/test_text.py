"""Hygiene for text from outside."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from vespid_protocol.text import clean_json, clean_text

# Any code points, lone surrogates and NUL included, and backslashes more often than chance would have them.
HOSTILE = st.text(st.one_of(st.characters(categories=None), st.sampled_from("\\\x00\ud83d\ude00u0d8")), max_size=40)


def test_nothing_to_do_returns_the_same_object() -> None:
    data = b'{"a":"\\u00e9 \\ud83d\\ude00 \\\\u0000"}'
    assert clean_json(data)[0] is data
    assert clean_json(b'"plain"') == (b'"plain"', 0)


def test_escaped_backslash_does_not_start_an_escape() -> None:
    assert clean_json(rb'"\\u0000"') == (rb'"\\u0000"', 0)
    assert clean_json(rb'"\\\u0000"') == (rb'"\\\ufffd"', 1)


@given(HOSTILE)
def test_cleaned_text_can_be_stored_and_keeps_everything_else(text: str) -> None:
    cleaned, count = clean_text(text)
    assert "\x00" not in cleaned
    cleaned.encode()
    assert len(cleaned) == len(text)
    assert count == sum(a != b for a, b in zip(text, cleaned, strict=True))


@given(HOSTILE)
def test_cleaned_json_says_what_cleaned_text_says(text: str) -> None:
    # A high half followed by a low half is one character to JSON, two to Python: let JSON read the text first.
    escaped = json.dumps(text)
    as_json = json.loads(escaped)
    cleaned, _ = clean_json(escaped.encode())
    assert json.loads(cleaned) == clean_text(as_json)[0]


@given(st.binary(max_size=60))
def test_any_bytes_are_taken(data: bytes) -> None:
    clean_json(data)
