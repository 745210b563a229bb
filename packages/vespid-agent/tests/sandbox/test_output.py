"""Head, tail and offsets of a captured stream."""

from hypothesis import given
from hypothesis import strategies as st

from vespid_agent.sandbox.output import OutputCapture
from vespid_runtime.redaction import Redactor


def captured(
    data: bytes, cap: int, chunks: int = 1, redactor: Redactor | None = None
) -> tuple[str, bool, list[tuple[str, int]]]:
    emitted: list[tuple[str, int]] = []
    capture = OutputCapture(cap, redactor, lambda text, offset: emitted.append((text, offset)))
    size = max(1, -(-len(data) // chunks))
    for at in range(0, len(data), size):
        capture.feed(data[at : at + size])
    text, cut = capture.finish()
    return text, cut, emitted


@given(st.text(max_size=300), st.integers(0, 200), st.integers(1, 40))
def test_any_text_within_the_cap_is_whole_and_a_longer_one_keeps_head_and_tail(
    text: str, cap: int, chunks: int
) -> None:
    expected = text.encode("utf-8", "replace").decode().replace("\0", "�")
    kept, cut, emitted = captured(text.encode("utf-8", "replace"), cap, chunks)
    assert cut == (len(expected) > cap)
    assert len(kept) <= cap
    if not cut:
        assert kept == expected
        assert "".join(chunk for chunk, _ in emitted) == expected
    else:
        assert kept.startswith(expected[: cap // 2])
        assert kept.endswith(expected[len(expected) - cap // 4 :] if cap // 4 else "")
    for chunk, offset in emitted:
        assert expected[offset : offset + len(chunk)] == chunk
    offsets = [offset for _, offset in emitted]
    assert offsets == sorted(offsets)


def test_the_last_words_are_emitted_even_when_the_middle_is_not() -> None:
    _, cut, emitted = captured(b"a" * 500 + b"the end", 100, chunks=20)
    assert cut
    assert emitted[-1][0].endswith("the end")
    assert emitted[-1][1] + len(emitted[-1][0]) == 507


def test_the_mark_counts_what_is_missing() -> None:
    text, _, _ = captured(b"x" * 10_000, 1000)
    missing = int(text.partition("[")[2].partition(" ")[0])
    assert text.count("x") + missing == 10_000


def test_a_character_split_between_reads_is_whole() -> None:
    emitted: list[tuple[str, int]] = []
    capture = OutputCapture(100, None, lambda text, offset: emitted.append((text, offset)))
    for byte in "é€😀".encode():
        capture.feed(bytes([byte]))
    assert capture.finish() == ("é€😀", False)
    assert "".join(text for text, _ in emitted) == "é€😀"


def test_masked_output_counts_offsets_after_the_mask() -> None:
    text, _, emitted = captured(b"key=opensesame rest", 100, chunks=7, redactor=Redactor(["opensesame"]))
    assert text == "key=*** rest"
    assert "".join(chunk for chunk, _ in emitted) == text
