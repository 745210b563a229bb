"""traceparent headers."""

import pytest

from vespid.observe.trace import new_trace, parse_traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_valid_header_is_read_and_written_back() -> None:
    context = parse_traceparent(VALID)
    assert context is not None
    assert str(context) == VALID
    assert context.is_sampled


def test_a_child_stays_in_the_trace_with_a_span_of_its_own() -> None:
    parent = new_trace()
    child = parent.child()
    assert child.trace_id == parent.trace_id
    assert child.span_id != parent.span_id


def test_a_later_version_with_more_fields_is_still_understood() -> None:
    assert parse_traceparent("01" + VALID[2:] + "-more") is not None


@pytest.mark.parametrize(
    "header",
    [None, "", "nonsense", "ff" + VALID[2:], VALID + "-more", VALID.upper(), "00-" + "0" * 32 + VALID[35:],
     VALID[:36] + "0" * 16 + "-01"],
)  # fmt: skip
def test_what_is_not_valid_is_ignored(header: str | None) -> None:
    assert parse_traceparent(header) is None
