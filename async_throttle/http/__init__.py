"""HTTP: what the answers of servers say of their limits, and what follows from that.

===============  ===========================================================================
headers.py       `read`, the numbers in an answer; `Report`, `Reading`: what comes of it
learner.py       `Learner`, what a throttle does with them; `learn`, the same by hand
httpx.py         `ThrottledTransport` and `SyncThrottledTransport`, for httpx;
httpx2.py        for httpx2, on which most SDKs of LLMs are built;
aiohttp.py       `throttled`, a middleware for aiohttp
anthropic.py     `plain_refusals`, through the SDK of Anthropic
_known.py        what is known of the server of a limiter, such as refusals in a row
_families.py     the names of headers, by family, and what their values mean
_answer.py       what is known of an answer while its headers are read
_scan.py         numbers, durations, dates and structured fields, as servers write them
_transport.py    the transports of both families: when a slot comes back
_calls.py        what the clients have in common: which limit, how much, until when
_leases.py       `lease_of`, what the request of a response took, to settle it
===============  ===========================================================================

With httpx, httpx2, aiohttp, and the SDKs that are built on them, in one line: see
`async_throttle.http.httpx`, `async_throttle.http.aiohttp`. With any other client:

>>> import asyncio
>>> from async_throttle import Throttle
>>> async def main() -> None:
...     throttle = Throttle(10, 5)
...     async with throttle(1) as lease:
...         status, headers = 429, {"Retry-After": "30"}  # of your client's answer
...         learn(throttle, status, headers, lease=lease)
...     print(f"nobody asks that server for {throttle.paused_for:.0f} s")
>>> asyncio.run(main())
nobody asks that server for 31 s

No client library is imported but by the module of its name.
"""

from async_throttle.http._leases import lease_of
from async_throttle.http.headers import Reading, Report, read
from async_throttle.http.learner import Learner, learn

__all__ = ["Learner", "Reading", "Report", "learn", "lease_of", "read"]
