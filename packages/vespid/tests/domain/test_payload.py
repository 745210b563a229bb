"""Cutting payloads."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vespid.domain.payload import cut


def test_short_value_passes_as_it_is():
    value = {"a": 1}
    assert cut(value, 7) is value
    raw = msgspec.Raw(b'{"a":1}')
    assert cut(raw, 7) is raw


def test_long_value_becomes_a_preview_of_its_compact_json():
    assert cut({"a": "xyz"}, 5) == {"truncated": True, "preview": '{"a":', "originalLength": 11}
    assert cut(msgspec.Raw(b'{ "a" : "xyz" }'), 5) == {"truncated": True, "preview": '{"a":', "originalLength": 11}


def test_white_space_as_received_does_not_count():
    raw = msgspec.Raw(b'{"a"  :     1}')
    assert cut(raw, 7) is raw
    nested = {"output": raw}
    assert cut(nested, 18) is nested


def test_characters_are_counted_and_never_split():
    assert cut("😀" * 4, 6) == "😀" * 4
    assert cut("😀" * 4, 5) == {"truncated": True, "preview": '"' + "😀" * 4, "originalLength": 6}


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53)), st.integers(1, 60))
def test_cut_value_is_never_longer_than_allowed(value, limit):
    text = msgspec.json.encode(value).decode()
    result = cut(value, limit)
    if len(text) <= limit:
        assert result == value
    else:
        assert result == {"truncated": True, "preview": text[:limit], "originalLength": len(text)}
