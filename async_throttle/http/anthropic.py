"""Refusals of a throttle beneath the SDK of Anthropic.

Whatever a transport raises, that SDK takes for a failed connection. So a call that the throttle
refuses is tried three times, within a second or two, and ends with an ``APIConnectionError``. With
`plain_refusals` among its middlewares the call ends at once, with the refusal itself::

    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
    from async_throttle.http.anthropic import plain_refusals
    from async_throttle.http.httpx2 import ThrottledTransport

    transport = ThrottledTransport(limits, timeout=5)
    api = AsyncAnthropic(
        http_client=DefaultAsyncHttpxClient(transport=transport),
        middleware=[plain_refusals],
    )

The throttle stays in the transport. A middleware of that SDK sees no redirect, and its part is over
at the headers, when an answer in pieces has only begun.

Nothing is imported from the SDK: a middleware is a function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from async_throttle.exceptions import ResourceError

__all__ = ["plain_refusals", "sync_plain_refusals"]

Q = TypeVar("Q")
R = TypeVar("R")


async def plain_refusals(request: Q, call_next: Callable[[Q], Awaitable[R]]) -> R:
    """A middleware for ``AsyncAnthropic``: a refusal of the throttle is raised as it is.

    Args:
        request: of the SDK, passed on.
        call_next: what sends it.

    Raises:
        ResourceError: the one that the transport raised; the SDK does not try that again.

    >>> import asyncio
    >>> from async_throttle import ThrottleFull
    >>> async def send(request):
    ...     raise ConnectionError("as the SDK says") from ThrottleFull("100 wait already")
    >>> asyncio.run(plain_refusals("a request", send))
    Traceback (most recent call last):
        ...
    async_throttle.ThrottleFull: 100 wait already
    """
    try:
        return await call_next(request)
    except Exception as error:
        refusal = error.__cause__
        if not isinstance(refusal, ResourceError):
            raise
    try:
        raise refusal  # here it gets no context: the error that it is the cause of
    finally:
        del refusal  # or it and its traceback would keep each other


def sync_plain_refusals(request: Q, call_next: Callable[[Q], R]) -> R:
    """The same for ``Anthropic``, over a ``SyncThrottledTransport``."""
    try:
        return call_next(request)
    except Exception as error:
        refusal = error.__cause__
        if not isinstance(refusal, ResourceError):
            raise
    try:
        raise refusal  # here it gets no context: the error that it is the cause of
    finally:
        del refusal  # or it and its traceback would keep each other
