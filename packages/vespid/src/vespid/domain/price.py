"""What model tokens cost, as the operator says it in VESPID_MODEL_PRICES.

    {"openai/gpt-5": {"inputPerMillion": 1.25, "outputPerMillion": 10}, "anthropic/claude-*": {…}}

Prices are US dollars per million tokens, so a number of tokens times its price is millionths of a dollar: costs are
whole numbers of those. A name that is written out goes before a pattern, a longer pattern before a shorter one.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from fnmatch import fnmatchcase

import msgspec

MAX_PRICES = 1_000
MAX_PER_MILLION = 100_000
_PATTERN_CHARS = frozenset("*?[")


class Price(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """US dollars per million tokens."""

    # As they are written: a price in binary would not be the one that is paid.
    input_per_million: Decimal
    output_per_million: Decimal

    def __post_init__(self) -> None:
        for price in (self.input_per_million, self.output_per_million):
            if not price.is_finite() or not 0 <= price <= MAX_PER_MILLION:
                raise ValueError(f"a price is a number from 0 to {MAX_PER_MILLION}")

    def cost_micros(self, input_tokens: int, output_tokens: int) -> int:
        """Millionths of a dollar."""
        cost = input_tokens * self.input_per_million + output_tokens * self.output_per_million
        return int(cost.quantize(Decimal(1), ROUND_HALF_UP))


class Prices:
    """All that are known."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._exact = {name: price for name, price in prices.items() if not _PATTERN_CHARS & set(name)}
        patterns = [(name, price) for name, price in prices.items() if name not in self._exact]
        self._patterns = sorted(patterns, key=lambda entry: (-len(entry[0]), entry[0]))

    @classmethod
    def parse(cls, text: str) -> "Prices":
        """Raises ValueError that says what is wrong. Nothing is no prices."""
        if not text.strip():
            return cls({})
        try:
            prices = msgspec.json.decode(text, type=dict[str, Price])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise ValueError(f"not the JSON of prices: {error}") from None
        for name in prices:
            provider, slash, model = name.partition("/")
            if not (provider and slash and model):
                raise ValueError(f"{name!r} is not `<provider>/<model>`")
        if len(prices) > MAX_PRICES:
            raise ValueError(f"{len(prices)} prices, at most {MAX_PRICES} are read")
        return cls(prices)

    def of(self, provider: str, model: str) -> Price | None:
        """What this model costs; None where nobody has said."""
        name = f"{provider}/{model}"
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((price for pattern, price in self._patterns if fnmatchcase(name, pattern)), None)
