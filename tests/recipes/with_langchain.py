"""LangChain: a limit for its chat models, from threads and event loops alike::

    limiter = RateLimiter(threads.Throttle(50, burst=5))
    model = ChatOpenAI(model="...", rate_limiter=limiter, max_retries=0).with_retry()

LangChain asks once for each call of the model. What retries inside of that, as the SDKs do, sends
more than was asked for: so *max_retries* is 0, and ``with_retry()``, which is outside, asks again.
It knows nothing of tokens, nor of slots: for those put a throttle into the client of the SDK, and
leave this one out. InMemoryRateLimiter looks every 0.1 s, and so admits 10 per second at most.
"""

from __future__ import annotations

from langchain_core.rate_limiters import BaseRateLimiter

from async_throttle import threads


class RateLimiter(BaseRateLimiter):
    def __init__(self, throttle: threads.Throttle) -> None:
        if not isinstance(throttle, threads.Throttle):
            raise TypeError(f"throttle must be a threads.Throttle, got {throttle!r}")
        self.throttle = throttle

    def acquire(self, *, blocking: bool = True) -> bool:
        if not blocking:
            return self.throttle.try_consume()
        self.throttle.consume()
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        if not blocking:
            return self.throttle.try_consume()
        await self.throttle.consume_async()
        return True
