"""A client of an exchange: calls that weigh differently, three limits, and bans.

1,200 of weight a minute for everything, 50 orders in 10 seconds and 160,000 a day. Market data does
not count as an order, so it is a set over the same throttles that leaves the scarce ones out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from async_throttle import LimitSet, SlidingWindow, Throttle


class Response(NamedTuple):
    """What the exchange answers."""

    status: int
    headers: Mapping[str, str]
    body: Any = None


class Http(Protocol):
    """How it is asked."""

    async def request(self, method: str, path: str) -> Response:
        """The answer, whatever its status."""
        ...


class Banned(Exception):
    """Status 418 or 429: nothing goes before *retry_after* seconds are over."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"banned for {retry_after:g} s")
        self.retry_after = retry_after


class Exchange:
    """Waits before each call until all of its limits let it go."""

    def __init__(self, http: Http) -> None:
        self.http = http
        # In any minute a burst and a minute's refill may go: 100 + 1,100. The burst has to be at
        # least the heaviest call.
        self.weight = Throttle(1_100, period=60, burst=100, name="weight")
        self.orders = Throttle(50, period=10, algorithm=SlidingWindow, name="orders")
        self.orders_of_the_day = Throttle(159_000, period=86_400, burst=1_000, name="day")
        self.data = LimitSet(self.weight)
        self.trade = LimitSet(self.weight, self.orders, self.orders_of_the_day)

    async def depth(self, symbol: str) -> Any:
        """The order book, which weighs 50."""
        return await self._call(self.data, 50, "GET", f"/depth?symbol={symbol}")

    async def order(self, symbol: str, quantity: float) -> Any:
        """An order: one of weight, and one order."""
        return await self._call(self.trade, 1, "POST", f"/order?symbol={symbol}&q={quantity}")

    async def _call(self, limits: LimitSet, weight: float, method: str, path: str) -> Any:
        async with limits(weight=weight):
            response = await self.http.request(method, path)
            if response.status in (418, 429):
                seconds = float(response.headers["Retry-After"])
                self.weight.pause(seconds, empty=True)  # which both sets ask for
                raise Banned(seconds)
            self._learn(response)
            return response.body

    def _learn(self, response: Response) -> None:
        """Others may use the account as well: what the server has counted, we count too."""
        left = 1_200 - float(response.headers.get("X-Used-Weight", 0))
        if left < self.weight.level:
            self.weight.charge(self.weight.level - left)
