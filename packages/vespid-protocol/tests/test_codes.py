"""The enumeration of codes, and what a retry can help."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_protocol.codes import CLOSE_CODES, CODES, CloseCode, Code, describe, is_retryable

RETRYABLE = [
    "NODE_EXECUTION_FAILED",
    "NODE_EXECUTION_TIMEOUT",
    "AGENT_DISCONNECTED",
    "GATEWAY_UNAVAILABLE",
    "GATEWAY_SHUTDOWN",
    "GATEWAY_OF_THE_FUTURE",
    "DOCKER_FAILED",
    "DOCKER_EXIT_CODE:137",
    "HOST_EXIT_CODE:1",
    "EXECUTOR_CLI_FAILED",
    "LLM_TIMEOUT",
    "ENGINE_UNAVAILABLE",
    "GITHUB_REQUEST_FAILED:429",
    "OPENAI_REQUEST_FAILED:503",
    "SLACK_REQUEST_FAILED",
    "HTTP_REQUEST_FAILED:TIMEOUT",
]
TERMINAL = [
    "NO_AGENT_AVAILABLE",
    "NODE_EXECUTION_CANCELLED",
    "RESULT_TOO_LARGE",
    "SECRET_REQUIRED",
    "SANDBOX_UNAVAILABLE:docker",
    "ACTION_NOT_SUPPORTED:github:issue.close",
    "TOOL_POLICY_DENIED:shell.run",
    "GITHUB_REQUEST_FAILED:404",
    "GITHUB_REQUEST_FAILED:418",
    "SOMETHING_ELSE",
    "",
]


@pytest.mark.parametrize("code", RETRYABLE)
def test_a_retry_can_help(code: str) -> None:
    assert is_retryable(code)


@pytest.mark.parametrize("code", TERMINAL)
def test_a_retry_cannot_help(code: str) -> None:
    assert not is_retryable(code)


def test_every_code_is_described() -> None:
    assert set(CODES) == set(Code)
    assert set(CLOSE_CODES) == set(CloseCode)
    assert all(entry.description.endswith(".") for entry in CODES.values())


def test_detail_does_not_hide_the_code() -> None:
    assert describe("HOST_EXIT_CODE:3") == CODES[Code.HOST_EXIT_CODE]
    assert describe("HOST_EXIT_CODES") is None


@given(st.text())
def test_any_text_has_an_answer(code: str) -> None:
    assert is_retryable(code) in (True, False)
