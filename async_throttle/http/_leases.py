"""What the request of a response took: the response knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["EXTENSION", "LEASE", "lease_of"]

EXTENSION: Final = "async_throttle"
"""Where a response of httpx has the lease of its request."""

LEASE: Final = "_async_throttle_lease"
"""The attribute of a response of aiohttp that has the lease of its request."""


def lease_of(response: Any) -> Any:
    """What the throttle granted to the request of *response*: what it took can be settled.

    Args:
        response: of httpx, httpx2 or aiohttp.

    Returns:
        The lease, of a throttle or a set, whose slot comes back by itself; None for an
        answer of another client, or from a cache outside of the transport.

    >>> import httpx
    >>> from async_throttle import threads
    >>> from async_throttle.http.httpx import SyncThrottledTransport
    >>> throttle = threads.Throttle(1_000, period=60)
    >>> server = httpx.MockTransport(lambda request: httpx.Response(200, json={"tokens": 300}))
    >>> transport = SyncThrottledTransport(throttle, server, weight=900)
    >>> with httpx.Client(transport=transport) as client:
    ...     response = client.post("https://example.com/")
    >>> round(throttle.level)
    100
    >>> lease_of(response).settle(response.json()["tokens"])
    >>> round(throttle.level)
    700
    """
    extensions = getattr(response, "extensions", None)
    if isinstance(extensions, Mapping):
        return extensions.get(EXTENSION)
    return getattr(response, LEASE, None)


lease_of.__module__ = "async_throttle.http"
