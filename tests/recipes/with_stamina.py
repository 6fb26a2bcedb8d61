"""stamina: the retry outside, the throttle inside, so that each try waits for its turn::

    async with httpx.AsyncClient(transport=ThrottledTransport(Throttle(10, 5))) as client:
        response = await get(client, "https://example.com/")

The pause after a refusal is the wait, for this call and for all others: stamina adds none of its
own, and no *timeout*, which would count the time in the queue.
"""

from __future__ import annotations

import httpx
import stamina

REFUSALS = (429, 503)


def refused(error: Exception) -> bool:
    """Whether trying again makes sense, since the throttle waits as long as the server says."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSALS


@stamina.retry(on=refused, attempts=4, timeout=None, wait_initial=0, wait_max=0, wait_jitter=0)
async def get(client: httpx.AsyncClient, url: str) -> httpx.Response:
    response = await client.get(url)
    return response.raise_for_status()
