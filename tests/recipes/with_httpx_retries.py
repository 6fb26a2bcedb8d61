"""httpx-retries: the retry outside, the throttle inside, so that each try waits for its turn::

    async with client(Throttle(10, 5)) as http:
        response = await http.get("https://example.com/")

The other way round, the tries pass the throttle unseen, and one slot is held while they sleep. Say
how often: *total* is 10 unless you do, and without *backoff_factor* they follow at once. The pause
after a refusal is the throttle's, for all calls; Retry-After is waited for once, not twice.
"""

from __future__ import annotations

import httpx
from httpx_retries import Retry, RetryTransport

from async_throttle import Throttle
from async_throttle.http.httpx import ThrottledTransport


def client(
    throttle: Throttle, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """A client that tries four times, and waits for *throttle* each time."""
    throttled = ThrottledTransport(throttle, transport)
    return httpx.AsyncClient(
        transport=RetryTransport(throttled, retry=Retry(total=3, backoff_factor=0.5))
    )
