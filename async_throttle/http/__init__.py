"""HTTP: what the answers of servers say of their limits, and what follows from that.

===============  ===========================================================================
headers.py       `read`, the numbers in an answer; `Report`, `Reading`: what comes of it
learner.py       `Learner`, what a throttle does with them; `learn`, the same by hand
_families.py     the names of headers, by family, and what their values mean
_answer.py       what is known of an answer while its headers are read
_scan.py         numbers, durations, dates and structured fields, as servers write them
===============  ===========================================================================

With any client, in one line:

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

No client library is imported here.
"""

from async_throttle.http.headers import Reading, Report, read
from async_throttle.http.learner import Learner, learn

__all__ = ["Learner", "Reading", "Report", "learn", "read"]
