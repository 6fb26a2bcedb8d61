"""Limits for httpx2: a transport in which each request waits.

::

    import httpx2
    from async_throttle import Throttle
    from async_throttle.http.httpx2 import ThrottledTransport

    client = httpx2.AsyncClient(transport=ThrottledTransport(Throttle(10, 5)))

And for an SDK that is built on httpx2::

    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    api = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(transport=ThrottledTransport(limits)))

All is as in `async_throttle.http.httpx`, where it is told.
"""

from __future__ import annotations

import httpx2

from async_throttle.http._transport import Body, Family, SyncBody, SyncTransport, Transport

__all__ = ["SyncThrottledTransport", "ThrottledTransport"]


class _Body(Body, httpx2.AsyncByteStream):
    __slots__ = ()


class _SyncBody(SyncBody, httpx2.SyncByteStream):
    __slots__ = ()


class ThrottledTransport(
    Transport[httpx2.Request, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport
):
    """Each request waits for a limit, and holds its slot until its answer is read or closed.

    What a client is told of connections (*verify*, *cert*, *http2*, *limits*, *trust_env*) it
    ignores beside a transport, and *proxy* and *mounts* lead past it: say them to the inner
    transport, ``ThrottledTransport(throttle, httpx2.AsyncHTTPTransport(http2=True))``.

    A websocket holds its slot for its life. All else is as in
    `async_throttle.http.httpx.ThrottledTransport`.

    Args:
        throttle: a `Throttle`, a `LimitSet` or a `LimitPool`; `Throttles`, one for each *key*; or
            a function of the request that gives a throttle, a set or a pool.
        transport: the inner one; unset, a new ``AsyncHTTPTransport`` without a limit of its own to
            connections.
        weight: tokens, or a mapping by limit for sets and pools; or a function of the request.
        key: a function of the request, for `Throttles`; unset, its host.
        timeout: seconds to wait for the limit at most; or a function of the request.
        priority: lower goes first; or a function of the request.
        learn: whether answers are learnt from; or a `Learner`, of `async_throttle.http`, that says
            how.
        origins: where the headers of a pool's accounts may be sent, each as
            ``https://api.example.com``. They replace headers of a request, and add none.

    Raises:
        TypeError: something is of another kind, or *transport* of httpx.
        ValueError: something is out of range, or accounts have headers, and there are no *origins*.

    >>> import asyncio
    >>> from async_throttle import Throttle
    >>> throttle = Throttle(10, 5)
    >>> server = httpx2.MockTransport(lambda request: httpx2.Response(200, text="hello"))
    >>> async def main():
    ...     transport = ThrottledTransport(throttle, server)
    ...     async with httpx2.AsyncClient(transport=transport) as client:
    ...         return (await client.get("https://example.com/")).text, throttle.active
    >>> asyncio.run(main())
    ('hello', 0)
    """

    __module__ = "async_throttle.http.httpx2"

    _family = Family(httpx2)
    _body = _Body

    def _new(self) -> httpx2.AsyncBaseTransport:
        return httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))


class SyncThrottledTransport(
    SyncTransport[httpx2.Request, httpx2.BaseTransport], httpx2.BaseTransport
):
    """The same for ``httpx2.Client``, over limits for threads.

    Args: as `ThrottledTransport`, with `async_throttle.threads.Throttle`, or sets, pools and
        tables of such.
    """

    __module__ = "async_throttle.http.httpx2"

    _family = Family(httpx2)
    _body = _SyncBody

    def _new(self) -> httpx2.BaseTransport:
        return httpx2.HTTPTransport(limits=httpx2.Limits(max_connections=None))
