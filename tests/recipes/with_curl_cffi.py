"""curl_cffi: each call of a session waits for a limit::

    async with ThrottledSession(Throttle(10, 5), impersonate="chrome") as session:
        response = await session.get("https://example.com/")

The slot is held until the body is read; with ``stream=True``, until the headers are there. Curl
follows redirects by itself: what they took is charged when it is known, and later calls wait for
it. *retry* of a session stays at 0: the throttle would see one request where it sends several.
"""

from __future__ import annotations

from typing import Any

from curl_cffi import AsyncSession, Response

from async_throttle import Throttle
from async_throttle.http import learn


class ThrottledSession(AsyncSession[Response]):
    def __init__(self, throttle: Throttle, **options: Any) -> None:
        super().__init__(**options)
        self.throttle = throttle

    async def request(self, *args: Any, **options: Any) -> Response:
        async with self.throttle(1) as lease:
            response = await super().request(*args, **options)
            self.throttle.charge(response.redirect_count)
            headers = response.headers.multi_items()
            learn(self.throttle, response.status_code, headers, lease=lease)
            return response
