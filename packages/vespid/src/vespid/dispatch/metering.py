"""What models took, read from results as they are committed, and priced at the price of that moment.

Nothing here can fail a result: what an agent tells amiss is counted and left out.
"""

import structlog
from prometheus_client import Counter

from vespid.domain.model_usage import UsageRefused, read_usage
from vespid.domain.price import Prices
from vespid.store.usage import UsageItem

log = structlog.get_logger("vespid.dispatch.metering")

# Without the names of models: those are an agent's words, and each would be a series of its own.
_TOKENS = Counter("vespid_usage_tokens_total", "Tokens that answers told of, as recorded.", ["direction"])
_COST = Counter("vespid_usage_cost_usd_total", "US dollars of those tokens, where the cost is known.")
_REFUSED = Counter("vespid_usage_refused_total", "What agents told of tokens and was not taken.", ["reason"])


class Meter:
    """Of one process."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    def of_answer(self, answer: bytes) -> UsageItem | None:
        """What an answer, a JSON text, says that a model took; None where it says nothing that can be taken."""
        try:
            usage = read_usage(answer)
        except UsageRefused as refused:
            _REFUSED.labels(str(refused)).inc()
            log.warning("usage_refused", reason=str(refused))
            return None
        if usage is None:
            return None
        price = self._prices.of(usage.provider, usage.model)
        return UsageItem(
            engine_id=usage.engine_id,
            provider=usage.provider,
            model=usage.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            cost_micros=usage.reported_micros
            if price is None
            else price.cost_micros(usage.input_tokens, usage.output_tokens),
        )

    def recorded(self, usage: UsageItem) -> None:
        """It is committed."""
        _TOKENS.labels("input").inc(usage.input_tokens)
        _TOKENS.labels("output").inc(usage.output_tokens)
        _COST.inc((usage.cost_micros or 0) / 1_000_000)
