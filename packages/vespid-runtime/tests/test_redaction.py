"""Masking: no form of a known value gets out, whatever the chunks."""

import base64
import json
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_runtime.redaction import MASK, Redactor

_ALPHABET = st.text("abc\n", max_size=60)
_VALUES = st.lists(st.text("abc\n", min_size=1, max_size=8), min_size=1, max_size=4)


@given(_ALPHABET, _VALUES, st.lists(st.integers(0, 60), max_size=8))
def test_stream_says_the_same_as_the_whole_text(text: str, values: list[str], cuts: list[int]) -> None:
    redactor = Redactor(values, min_chars=2)
    stream = redactor.stream()
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [stream.feed(text[start:stop]) for start, stop in pairwise(edges)]
    assert "".join([*pieces, stream.finish()]) == redactor.redact(text)


@pytest.mark.promise("P7")
@pytest.mark.parametrize("secret", ["X-Api-Key: tok-123456", "Bearer tok-123456", "Authorization: Bearer  tok-123456"])
def test_token_within_a_header_is_masked_alone_too(secret: str) -> None:
    redactor = Redactor([secret])
    assert redactor.redact(f"you sent {secret}") == f"you sent {MASK}"
    assert redactor.redact('{"received":"tok-123456"}') == f'{{"received":"{MASK}"}}'


@given(_ALPHABET, _VALUES)
def test_no_value_is_left_in_what_comes_out(text: str, values: list[str]) -> None:
    redactor = Redactor(values, min_chars=2)
    left = redactor.redact(text)
    assert not any(value in left for value in values if len(value) >= 2)


@pytest.mark.promise("P7")
@given(st.text(min_size=6, max_size=40), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_of_anything_around_a_value_shows_no_part_of_it_that_was_whole(
    secret: str, before: bytes, after: bytes
) -> None:
    data = secret.encode("utf-8", "replace")
    redactor = Redactor([secret])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + data + after).decode()
        assert MASK in redactor.redact(encoded)


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    "shown",
    [
        "pa ss/wörd&=+\n2nd line!",
        "2nd line!",
        "pa ss/wörd&=+\r\n2nd line!",
        quote("pa ss/wörd&=+\n2nd line!", safe=""),
        quote("pa ss/wörd&=+\n2nd line!", safe="").lower(),
        quote_plus("pa ss/wörd&=+\n2nd line!"),
        json.dumps("pa ss/wörd&=+\n2nd line!"),
        json.dumps("pa ss/wörd&=+\n2nd line!", ensure_ascii=False),
    ],
)
def test_encoded_forms_are_masked(shown: str) -> None:
    redacted = Redactor(["pa ss/wörd&=+\n2nd line!"]).redact(f"before {shown} after")
    assert MASK in redacted
    assert "2nd" not in redacted
    assert "ss" not in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")


def test_longer_value_that_contains_a_shorter_one_leaves_no_rest() -> None:
    redactor = Redactor(["opensesame", "opensesame-for-all"])
    assert redactor.redact("x opensesame-for-all y") == f"x {MASK} y"
    stream = redactor.stream()
    assert stream.feed("x opensesame") + stream.feed("-for-all y") + stream.finish() == f"x {MASK} y"


def test_overlapping_values_are_masked_together() -> None:
    assert Redactor(["abcdefgh", "efghijkl"]).redact("1abcdefghijkl2") == f"1{MASK}2"


def test_short_values_are_not_masked() -> None:
    assert Redactor(["true", ""]).redact("true story") == "true story"
    assert not Redactor(["true"])


def test_json_is_masked_in_strings_keys_and_numbers_and_keeps_its_shape() -> None:
    redactor = Redactor(["12345678", "opensesame"])
    value = {"a": ["opensesame!", 1, None, True], "opensesame": 12345678, "n": 1.5}
    assert redactor.redact_json(value) == {"a": [f"{MASK}!", 1, None, True], MASK: MASK, "n": 1.5}
    assert json.loads(redactor.redact_raw(json.dumps(value).encode())) == redactor.redact_json(value)


@pytest.mark.promise("P7")
def test_raw_json_with_unusual_escapes_is_masked() -> None:
    assert b"***" in Redactor(["opensesame"]).redact_raw(rb'{"a":"\u006fpensesame"}')


def test_raw_json_without_a_value_is_passed_through_unchanged() -> None:
    document = b'{"a" :  1}'
    assert Redactor(["opensesame"]).redact_raw(document) is document
