"""Prices of models: which one holds, what it comes to, and what is no price."""

import pytest

from vespid.domain.price import MAX_PRICES, Prices

PRICES = """{
    "openai/*": {"inputPerMillion": 1, "outputPerMillion": 2},
    "openai/gpt-*": {"inputPerMillion": 3, "outputPerMillion": 4},
    "openai/gpt-5": {"inputPerMillion": 0.1, "outputPerMillion": 0.2}
}"""


def cost(name: str, given: int = 1_000_000, made: int = 0) -> int | None:
    provider, _, model = name.partition("/")
    price = Prices.parse(PRICES).of(provider, model)
    return None if price is None else price.cost_micros(given, made)


def test_a_written_out_name_goes_before_patterns_and_a_longer_pattern_before_a_shorter() -> None:
    assert cost("openai/gpt-5") == 100_000
    assert cost("openai/gpt-5-mini") == 3_000_000
    assert cost("openai/o9") == 1_000_000
    assert cost("anthropic/o9") is None


def test_a_million_tokens_cost_their_price_to_the_millionth_of_a_dollar() -> None:
    # In binary, 3 × 0.1 is not 0.3.
    assert cost("openai/gpt-5", 3_000_000, 1_000_000) == 500_000
    assert [cost("openai/gpt-5", tokens) for tokens in (0, 4, 5, 14, 15)] == [0, 0, 1, 1, 2]


def test_nothing_is_no_prices() -> None:
    assert Prices.parse("  ").of("openai", "gpt-5") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not the JSON of prices"),
        ("[]", "not the JSON of prices"),
        ('{"a/b": 1}', "not the JSON of prices"),
        ('{"a/b": {"inputPerMillion": 1}}', "outputPerMillion"),
        ('{"a/b": {"inputPerMillion": 1, "outputPerMillion": 1, "currency": "EUR"}}', "currency"),
        ('{"a/b": {"inputPerMillion": -1, "outputPerMillion": 1}}', "a price is a number"),
        ('{"a/b": {"inputPerMillion": 1e99, "outputPerMillion": 1}}', "a price is a number"),
        ('{"a/b": {"inputPerMillion": "NaN", "outputPerMillion": 1}}', "a price is a number"),
        ('{"gpt-5": {"inputPerMillion": 1, "outputPerMillion": 1}}', "<provider>/<model>"),
        ('{"/b": {"inputPerMillion": 1, "outputPerMillion": 1}}', "<provider>/<model>"),
    ],
)
def test_what_is_no_price_is_refused_with_a_word_that_helps(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Prices.parse(text)


def test_there_is_an_end_to_prices() -> None:
    many = ",".join(f'"p/{n}": {{"inputPerMillion": 1, "outputPerMillion": 1}}' for n in range(MAX_PRICES + 1))
    with pytest.raises(ValueError, match="at most"):
        Prices.parse(f"{{{many}}}")
