"""tenacity: the retry outside, the throttle inside, so that each try waits for its turn::

    async with httpx.AsyncClient(transport=ThrottledTransport(Throttle(10, 5))) as client:
        response = await get(client, "https://example.com/")

The pause after a refusal is the wait, for this call and for all others. Without *wait*, tenacity
adds none of its own.
"""

from __future__ import annotations

import httpx
from tenacity import retry, retry_if_exception, stop_after_attempt

REFUSALS = (429, 503)


def refused(error: BaseException) -> bool:
    """Whether trying again makes sense, since the throttle waits as long as the server says."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSALS


@retry(retry=retry_if_exception(refused), stop=stop_after_attempt(4), reraise=True)
async def get(client: httpx.AsyncClient, url: str) -> httpx.Response:
    response = await client.get(url)
    return response.raise_for_status()
