"""The text of a turn from pieces that come twice, late, or not at all."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vespid.gateway.client.turn_text import Heard, Key, TurnText

ONE = Key(2, 1)


def test_what_is_known_of_a_piece_is_cut() -> None:
    text = TurnText()
    assert text.hear(ONE, 0, "Hel") is Heard.ADDED
    assert text.hear(ONE, 2, "llo") is Heard.ADDED
    assert text.hear(ONE, 1, "el") is Heard.NOTHING
    assert text.since(0) == "Hello"
    assert text.pieces(1) == ["el", "lo"]


def test_a_later_try_voids_the_text_and_an_earlier_one_is_not_heard() -> None:
    text = TurnText()
    text.hear(ONE, 0, "Hel")
    assert text.hear(Key(2, 2), 0, "Hi") is Heard.ADDED
    assert text.hear(ONE, 3, "lo") is Heard.NOTHING
    assert (text.key, text.since(0)) == (Key(2, 2), "Hi")


def test_a_host_that_counts_anew_begins_the_text_anew() -> None:
    text = TurnText()
    text.hear(ONE, 0, "Hello")
    version = text.version
    # The whole text once more, with what came meanwhile.
    assert text.hear(ONE, 0, "Hello the") is Heard.ADDED
    assert (text.since(0), text.version) == ("Hello the", version)
    assert text.hear(ONE, 0, "re") is Heard.ADDED
    assert text.since(0) == "re"
    assert text.version > version


def test_what_comes_behind_a_gap_waits_for_the_text_so_far() -> None:
    text = TurnText()
    text.hear(ONE, 0, "He")
    assert text.hear(ONE, 5, " the") is Heard.GAP
    assert text.hear(ONE, 9, "re") is Heard.GAP
    assert (text.since(0), text.is_torn) == ("He", True)
    assert text.so_far(ONE, "Hello")
    assert (text.since(0), text.is_torn) == ("Hello there", False)


TEXT = "".join(chr(97 + n % 26) for n in range(60))


@given(st.data())
def test_whatever_is_lost_late_or_twice_the_text_is_never_wrong_and_ends_whole(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 59), max_size=12)) | {0, 60})
    pieces = [(begin, TEXT[begin:end]) for begin, end in itertools.pairwise(cuts)]
    order = data.draw(st.permutations(pieces * 2))
    lost = data.draw(st.sets(st.sampled_from(order)))
    text = TurnText()
    for offset, piece in order:
        if (offset, piece) in lost:
            continue
        text.hear(ONE, offset, piece)
        assert TEXT.startswith(text.since(0))
        if data.draw(st.booleans()):
            text.so_far(ONE, TEXT[: data.draw(st.integers(0, 60))])
            assert TEXT.startswith(text.since(0))
    text.so_far(ONE, TEXT)
    assert (text.since(0), text.is_torn) == (TEXT, False)
