"""What the log says, and what it never says."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from vespid.observe.log import HIDDEN, bound, get_logger, hide_secrets, set_up_logging


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    written = io.StringIO()
    set_up_logging("debug", stream=written, as_json=True)
    yield written
    structlog.reset_defaults()
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)


def lines(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_carries_its_module_the_bound_ids_and_the_time(output: io.StringIO) -> None:
    with bound(request_id="r1", org_id="o1"):
        get_logger("vespid.x").info("happened", count=3)
    get_logger("vespid.x").info("later")
    first, second = lines(output)
    assert first.items() >= {"event": "happened", "logger": "vespid.x", "request_id": "r1", "org_id": "o1"}.items()
    assert first["level"] == "info"
    assert str(first["timestamp"]).endswith("Z")
    assert "request_id" not in second


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    "key",
    ["secret", "secrets", "password", "agent_token", "agentToken", "apiKey", "api_key", "Authorization", "set-cookie",
     "kek", "secret_value", "payload", "DATABASE_URL"],
)  # fmt: skip
def test_the_value_of_a_key_that_names_a_secret_is_hidden_at_any_depth(output: io.StringIO, key: str) -> None:
    get_logger("x").error("e", **{key: "canary"}, nested={"list": [{key: "canary"}]})
    assert "canary" not in output.getvalue()
    assert HIDDEN in output.getvalue()


def test_words_that_only_sound_like_secrets_are_kept() -> None:
    event = {"token_count": 3, "secretary": "Ann", "has_secret": True, "tokens": None, "key": "row-key"}
    assert hide_secrets(None, "info", dict(event)) == event


@pytest.mark.promise("P7")
def test_a_password_inside_a_url_or_a_bearer_header_is_hidden_in_any_text(output: io.StringIO) -> None:
    get_logger("x").warning("cannot reach postgresql://me:canary@db/x", error="sent Bearer canary")
    (line,) = lines(output)
    assert "canary" not in output.getvalue()
    assert line["event"] == f"cannot reach postgresql://me:{HIDDEN}@db/x"


@pytest.mark.promise("P7")
def test_a_traceback_hides_passwords_and_shows_no_local_variables(output: io.StringIO) -> None:
    password = "canary-local"
    try:
        raise ConnectionError(f"redis://:{password}@cache failed")
    except ConnectionError:
        get_logger("x").exception("failed")
    assert "canary" not in output.getvalue()
    assert "ConnectionError" in output.getvalue()


def test_bytes_are_counted_and_not_shown(output: io.StringIO) -> None:
    get_logger("x").info("e", body=b"canary")
    assert lines(output)[0]["body"] == "[6 bytes]"


def test_lines_of_libraries_have_the_same_form(output: io.StringIO) -> None:
    logging.getLogger("some.library").warning("look at redis://:canary@x")
    (line,) = lines(output)
    assert line["logger"] == "some.library"
    assert line["event"] == f"look at redis://:{HIDDEN}@x"
