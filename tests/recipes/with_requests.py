"""requests: each request of a session waits for a limit, and each redirect is one::

    session = requests.Session()
    session.mount("https://", ThrottledAdapter(threads.Throttle(10, 5)))

The slot is held until the body is read; with ``stream=True``, until the headers are there.
*max_retries* of an adapter stays at 0: the throttle would see one request where it sends several.
Retry outside, as in ``with_tenacity.py``.
"""

from __future__ import annotations

from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from async_throttle import threads
from async_throttle.http import learn


class ThrottledAdapter(HTTPAdapter):
    def __init__(self, throttle: threads.Throttle, **options: Any) -> None:
        super().__init__(**options)
        self.throttle = throttle

    def send(
        self, request: PreparedRequest, stream: bool = False, *args: Any, **options: Any
    ) -> Response:
        with self.throttle(1) as lease:
            response = super().send(request, stream, *args, **options)
            learn(self.throttle, response.status_code, response.headers, lease=lease)
            if not (stream or response.is_redirect):
                _ = response.content  # read it now, while the slot is held
            return response
