"""When a request is made again, and how server-sent events are read: without a server."""

from itertools import pairwise

import pytest

from vespid_client import (
    ApiError,
    BadRequest,
    ConnectionFailed,
    RateLimited,
    Retries,
    RunFailed,
    Unavailable,
    VespidError,
)
from vespid_client.errors import error_of
from vespid_client.proxy import proxy_for
from vespid_client.retries import Repeat, pause_before_next
from vespid_client.sse import EventParser, ServerEvent

LOST = ConnectionFailed("lost")
BUSY = Unavailable(503, "QUEUE_UNAVAILABLE", "", retry_after=2.0)


@pytest.mark.parametrize("error", [LOST, BUSY])
def test_what_could_be_done_twice_is_not_tried_again(error: VespidError) -> None:
    assert pause_before_next(error, Repeat.NEVER, 0.1, Retries()) is None
    assert pause_before_next(error, Repeat.SAFE, 0.1, Retries()) is not None
    assert pause_before_next(error, Repeat.KEYED, 0.1, Retries()) is not None


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (LOST, 0.1),
        (BUSY, 2.0),
        (RateLimited(429, "RATE_LIMITED", "", retry_after=5.0), 5.0),
        (RateLimited(429, "RATE_LIMITED", "", retry_after=900.0), None),
        (Unavailable(503, "SECRETS_NOT_CONFIGURED", ""), None),
        (Unavailable(502, "HTTP_502", ""), 0.1),
        (Unavailable(504, "HTTP_504", ""), 0.1),
        (ApiError(500, "INTERNAL_ERROR", ""), None),
        (BadRequest(400, "BAD_REQUEST", ""), None),
    ],
)
def test_only_what_another_try_may_change_is_tried_again(error: VespidError, pause: float | None) -> None:
    assert pause_before_next(error, Repeat.SAFE, 0.1, Retries()) == pause


def test_pauses_are_bounded_and_end() -> None:
    retries = Retries(tries=8, first_s=1.0, cap_s=4.0)
    many = [list(retries.pauses()) for _ in range(200)]
    assert {len(pauses) for pauses in many} == {7}
    highest = [max(pauses) for pauses in zip(*many, strict=True)]
    assert all(high <= bound for high, bound in zip(highest, (1, 2, 4, 4, 4, 4, 4), strict=True))
    assert all(one != other for one, other in pairwise(many))


def test_an_error_of_a_proxy_is_one_of_ours() -> None:
    error = error_of(502, {}, b"<html>Bad gateway</html>")
    assert (type(error), error.code, error.message) == (Unavailable, "HTTP_502", "<html>Bad gateway</html>")
    assert error_of(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"").retry_after is None


def test_a_refusal_tells_field_request_and_pause() -> None:
    body = b'{"code":"BAD_REQUEST","message":"m","details":{"fieldErrors":{"name":["too long"]}}}'
    error = error_of(400, {"x-request-id": "r1", "retry-after": "3"}, body)
    assert isinstance(error, BadRequest)
    assert (error.field_errors, error.request_id, error.retry_after) == ({"name": ["too long"]}, "r1", 3.0)
    assert not issubclass(RunFailed, ApiError)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_read_however_the_bytes_come(size: int) -> None:
    lines = [
        b": connected",
        b"",
        b"id: 4",
        b"event: run_started",
        b'data: {"a":',
        b"data: 1}",
        b"",
        b"data: x",
        b"",
        b"",
    ]
    text = b"\r\n".join(lines)
    parser = EventParser()
    events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
    assert events == [ServerEvent("4", "run_started", '{"a":\n1}'), ServerEvent("4", "message", "x")]


def test_a_line_may_be_longer_than_a_reader_s_buffer() -> None:
    parser = EventParser()
    pieces = [b"data: ", *([b"x" * 65_536] * 64), b"\n\n"]
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert [len(event.data) for event in events] == [64 * 65_536]


def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://ann:secret@proxy.test:8080")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert proxy_for("wss://outside.test/ws/client") == "http://ann:secret@proxy.test:8080"
    assert proxy_for("https://inside.test/v1/me") is None
    assert proxy_for("http://outside.test/v1/me") is None
