"""Text cut from its middle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vespid_runtime.loop.cutting import cut_middle, json_chars


@given(st.text(st.characters(), max_size=400) | st.text('\x01\n"x', max_size=400), st.integers(1, 300))
def test_cut_text_is_never_longer_as_json_than_it_may_be(text: str, max_chars: int) -> None:
    assert json_chars(cut_middle(text, max_chars)) <= max_chars


@given(st.text(max_size=200))
def test_text_that_fits_stays_as_it_is(text: str) -> None:
    assert cut_middle(text, 1_300) == text.replace("\x00", "\ufffd")


def test_mark_says_how_much_is_missing() -> None:
    cut = cut_middle("a" * 500 + "b" * 500, 200)
    head, _, rest = cut.partition(" [... ")
    number, _, tail = rest.partition(" characters left out ...] ")
    assert (set(head), set(tail)) == ({"a"}, {"b"})
    assert len(head) + len(tail) + int(number) == 1_000


def test_surrogate_without_its_other_half_is_replaced() -> None:
    assert cut_middle("a\ud800b", 100) == "a\ufffdb"
