"""What agents tell of tokens: taken where it can be true, left out where not, and never in the answer's way."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vespid.domain.model_usage import MAX_TOKENS, NAME_MAX_CHARS, ModelUsage, UsageRefused, read_usage


def told(usage: object = None, **others: object) -> ModelUsage | None:
    usage = {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7} if usage is None else usage
    return read_usage(json.dumps({"text": "hi", "usage": usage, **others}).encode())


def test_an_answer_tells_tokens_model_engine_and_cost() -> None:
    used = told(provider="openai", model="gpt-5", engineId="vespid.loop.v1", costUsd=0.0123)
    assert used == ModelUsage(
        engine_id="vespid.loop.v1",
        provider="openai",
        model="gpt-5",
        input_tokens=5,
        output_tokens=2,
        total_tokens=7,
        reported_micros=12_300,
    )


def test_a_total_is_at_least_its_parts_and_may_be_more() -> None:
    assert [
        used.total_tokens
        for total in (0, 7, 90)
        if (used := told({"inputTokens": 5, "outputTokens": 2, "totalTokens": total}))
    ] == [7, 7, 90]


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"text":"usage"}', b'["usage"]', b'"usage"', b"7", b'{"usage":null}', b'{"usage":{}}']
)
def test_an_answer_without_tokens_tells_nothing(answer: bytes) -> None:
    assert read_usage(answer) is None


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({"inputTokens": -1}, "negative"),
        ({"inputTokens": MAX_TOKENS + 1}, "too_big"),
        ({"inputTokens": 10**40}, "too_big"),
        ({"inputTokens": "5"}, "not_numbers"),
        ({"inputTokens": 1.5}, "not_numbers"),
        ({"inputTokens": True}, "not_numbers"),
        ({"outputTokens": [1]}, "not_numbers"),
        ([1, 2], "not_numbers"),
        ("many", "not_numbers"),
        ({"inputTokens": 1, "note": "x" * 5_000}, "too_long"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_a_reason_of_few_words(usage: object, reason: str) -> None:
    with pytest.raises(UsageRefused, match=f"^{reason}$"):
        told(usage)


@pytest.mark.parametrize("name", [None, 7, {}, "", " \n", "\x00\u202e", "x" * 5_000])
def test_a_name_that_is_none_is_unknown(name: object) -> None:
    used = told(provider=name, model=name, engineId=name)
    assert used is not None
    assert (used.provider, used.model, used.engine_id) == ("unknown", "unknown", None)


def test_a_provider_that_is_not_told_is_known_by_its_model() -> None:
    used = told(model="claude-5")
    assert used is not None
    assert (used.provider, used.model) == ("anthropic", "claude-5")


def test_a_name_is_cut_to_what_can_be_shown() -> None:
    used = told(model="\x1b[31mgpt\x00-5\n" + "x" * 300)
    assert used is not None
    assert used.model.startswith("[31mgpt-5xx")
    assert len(used.model) == NAME_MAX_CHARS


@pytest.mark.parametrize("cost", [None, -0.1, 1e9, "1", [], True])
def test_a_cost_that_cannot_be_is_left_out_alone(cost: object) -> None:
    used = told(costUsd=cost)
    assert used is not None
    assert (used.total_tokens, used.reported_micros) == (7, None)


TEXT = st.text("ab 1\x00\u202e\U0001f600", max_size=8)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("usage", "provider", "model", "engineId", "costUsd", "inputTokens", "outputTokens", "totalTokens")


# Other tests may have the processor.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), ANY | st.dictionaries(st.sampled_from(FIELDS), ANY)))
def test_whatever_an_agent_says_is_taken_within_bounds_or_refused(answer: dict[str, object]) -> None:
    try:
        used = read_usage(json.dumps(answer).encode())
    except UsageRefused:
        return
    if used is not None:
        assert 0 < used.total_tokens <= 2 * MAX_TOKENS
        assert min(used.input_tokens, used.output_tokens) >= 0
        assert all(len(name) <= NAME_MAX_CHARS and name.isprintable() for name in (used.provider, used.model))
