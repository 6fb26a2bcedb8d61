"""ccxt: all exchange objects of one key share a limit, and a refusal pauses all of them::

    spot, futures = ccxt.async_support.binance(), ccxt.async_support.binanceusdm()
    limit = Throttle(1000 / spot.rateLimit, burst=50)
    for exchange in (spot, futures):
        throttle_exchange(exchange, limit)

ccxt has a throttle in each object, so that two of them make twice the calls, and one that was idle
has not recovered. This one takes their place. Costs are ccxt's: *rateLimit* is how many
milliseconds a cost of 1 is. Give it a *burst* of the highest cost at least: heavier calls raise
`WeightTooLarge`. Websockets have a throttle of their own, which this does not reach, and
``options["maxRetriesOnFailure"]`` stays at 0: ccxt does not ask again for what it sends again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from async_throttle import Throttle
from async_throttle.http import learn


def throttle_exchange(exchange: Any, limit: Throttle) -> None:
    """Have each request of *exchange* take what it costs from *limit*."""
    heard = exchange.on_rest_response

    async def throttle(cost: float | None = None) -> None:
        await limit.consume(1 if cost is None else cost)

    def on_rest_response(
        code: int, reason: str, url: str, method: str, headers: Mapping[str, str], *rest: Any
    ) -> Any:
        # What the exchange says is left is in its own weights, and costs are in ccxt's.
        told = {name: value for name, value in headers.items() if name.lower() == "retry-after"}
        learn(limit, code, told)
        return heard(code, reason, url, method, headers, *rest)

    exchange.throttle = throttle
    exchange.on_rest_response = on_rest_response
