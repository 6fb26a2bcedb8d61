"""Limits for httpx: a transport in which each request waits.

::

    import httpx
    from async_throttle import Throttle
    from async_throttle.http.httpx import ThrottledTransport

    client = httpx.AsyncClient(transport=ThrottledTransport(Throttle(10, 5)))

`async_throttle.http.httpx2` has the same for httpx2, which the SDKs of OpenAI, Anthropic, Google
and Mistral are built on. The two do not mix: a transport of one in a client of the other is a
TypeError at the first request, before anything is sent.
"""

from __future__ import annotations

import httpx

from async_throttle.http._transport import Body, Family, SyncBody, SyncTransport, Transport

__all__ = ["SyncThrottledTransport", "ThrottledTransport"]


class _Body(Body, httpx.AsyncByteStream):
    __slots__ = ()


class _SyncBody(SyncBody, httpx.SyncByteStream):
    __slots__ = ()


class ThrottledTransport(
    Transport[httpx.Request, httpx.AsyncBaseTransport], httpx.AsyncBaseTransport
):
    """Each request waits for a limit, and holds its slot until its answer is read or closed.

    What a client is told of connections (*verify*, *cert*, *http2*, *limits*, *trust_env*) it
    ignores beside a transport, as it ignores proxies of the environment, and *proxy* and *mounts*
    lead past it: say them to the inner transport, ``ThrottledTransport(throttle,
    httpx.AsyncHTTPTransport(http2=True, proxy="http://localhost:8080"))``.

    A request is one as servers count them: each redirect and each round of authentication is one.
    Nothing is sent again here: whatever retries belongs outside, so that each try waits its turn,
    ``RetryTransport(transport=ThrottledTransport(...))``. The timeouts of the client begin after
    the wait; *timeout* is for the wait, which ``response.elapsed`` counts. A cache stands outside
    as well: what it knows costs nothing.

    The slot comes back when the body ends or is closed, when the answer is collected or the
    transport is closed, and at once where there is no answer, or one that was made from bytes. An
    answer from ``send(request, stream=True)`` is to be read or closed. A task that asks for another
    slot while it holds the last one by such an answer is warned, once; among more than 100 slots,
    or open answers, it is not.

    Where the throttle ``counts="end"``, the call ends at the headers. A request that is cancelled
    or times out before them may have been counted, and lingers; one that could not connect has
    ended.

    Args:
        throttle: a `Throttle`, a `LimitSet` or a `LimitPool`; `Throttles`, one for each *key*; or
            a function of the request that gives a throttle, a set or a pool.
        transport: the inner one; unset, a new ``AsyncHTTPTransport`` without a limit of its own to
            connections, which would let requests wait after they were granted.
        weight: tokens, or a mapping by limit for sets and pools, as ``{"tokens": 900}``; or a
            function of the request. (``request.content`` is there for JSON, not for uploads.)
        key: a function of the request, for `Throttles`; unset, its host.
        timeout: seconds to wait for the limit at most; or a function of the request.
        priority: lower goes first; or a function of the request.
        learn: whether answers are learnt from: refusals pause, and what is left lowers the level;
            or a `Learner` that says how.
        origins: where the headers of a pool's accounts may be sent, as
            ``["https://api.example.com"]``. Those of ``config["headers"]`` of the set that granted
            a request take the place of those that it has, and add none: give the client any key.

    Raises:
        TypeError: something is of another kind, or *transport* of httpx2.
        ValueError: something is out of range, or accounts have headers, and there are no *origins*.

    A refusal of the limit comes out of the request as it is, and is no ``httpx.HTTPError``: see
    `async_throttle.exceptions`.

    >>> import asyncio
    >>> from async_throttle import Throttle, testing
    >>> async def main():
    ...     loop = asyncio.get_running_loop()
    ...     server = httpx.MockTransport(lambda request: httpx.Response(200, text="hello"))
    ...     transport = ThrottledTransport(Throttle(2, period=1, burst=1), server)
    ...     async with httpx.AsyncClient(transport=transport) as client:
    ...         for _ in range(5):
    ...             await client.get("https://example.com/")
    ...     return loop.time()
    >>> testing.run(main())
    2.0

    Keys of two accounts: each refusal pauses one of them, and the other goes on:

    >>> from async_throttle import LimitPool, LimitSet
    >>> def account(key: str) -> LimitSet:
    ...     config = {"headers": {"authorization": f"Bearer {key}"}}
    ...     return LimitSet(requests=Throttle(500, period=60), config=config)
    >>> pool = LimitPool([account("one"), account("two")])
    >>> transport = ThrottledTransport(pool, origins=["https://api.example.com"])
    """

    __module__ = "async_throttle.http.httpx"

    _family = Family(httpx)
    _body = _Body

    def _new(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))


class SyncThrottledTransport(
    SyncTransport[httpx.Request, httpx.BaseTransport], httpx.BaseTransport
):
    """The same for ``httpx.Client``, over limits for threads.

    Args: as `ThrottledTransport`, with `async_throttle.threads.Throttle`, or sets, pools and
        tables of such.

    >>> from async_throttle import threads
    >>> throttle = threads.Throttle(10, 5)
    >>> server = httpx.MockTransport(lambda request: httpx.Response(200, text="hello"))
    >>> with httpx.Client(transport=SyncThrottledTransport(throttle, server)) as client:
    ...     client.get("https://example.com/").text, throttle.active
    ('hello', 0)
    """

    __module__ = "async_throttle.http.httpx"

    _family = Family(httpx)
    _body = _SyncBody

    def _new(self) -> httpx.BaseTransport:
        return httpx.HTTPTransport(limits=httpx.Limits(max_connections=None))
