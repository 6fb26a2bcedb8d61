"""niquests: each request of a session waits for a limit, and each redirect is one::

    session = niquests.AsyncSession()
    session.mount("https://", ThrottledAdapter(Throttle(10, 5)))

The slot is held until the body is read; with ``stream=True``, until the headers are there. With
``multiplexed=True`` answers are promises: nothing is known of them when the slot comes back. The
limiters that niquests brings along know no slots, and go on after a refusal: leave them out, and
*retries* at 0. For ``niquests.Session`` take ``with_requests.py``, with ``niquests.adapters``.

Installing niquests replaces the package ``urllib3`` for everything else in that environment.
"""

from __future__ import annotations

from typing import Any

from niquests import AsyncResponse, PreparedRequest
from niquests.adapters import AsyncHTTPAdapter

from async_throttle import Throttle
from async_throttle.http import learn


class ThrottledAdapter(AsyncHTTPAdapter):
    def __init__(self, throttle: Throttle, **options: Any) -> None:
        super().__init__(**options)
        self.throttle = throttle

    async def send(
        self, request: PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> AsyncResponse:
        async with self.throttle(1) as lease:
            response = await super().send(request, stream, *args, **options)
            if response.status_code is not None:  # else it is a promise
                learn(self.throttle, response.status_code, response.headers, lease=lease)
                if not (stream or response.is_redirect):
                    await response.content  # read it now, while the slot is held
            return response
