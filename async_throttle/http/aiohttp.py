"""Limits for aiohttp: a client middleware in which each request waits.

The total timeout of aiohttp, 300 s unless said otherwise, counts the wait as well: a request that
waits longer for its turn fails with a TimeoutError, unsent. Give the session none, or one for the
socket. Its connector lets 100 requests go at once, and has others wait after they were granted:
give it no limit where a throttle has one::

    import aiohttp
    from async_throttle import Throttle
    from async_throttle.http.aiohttp import throttled

    session = aiohttp.ClientSession(
        middlewares=[throttled(Throttle(10, 5))],
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
        connector=aiohttp.TCPConnector(limit=0),
    )
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import (
    ClientConnectorError,
    ClientHandlerType,
    ClientMiddlewareType,
    ClientRequest,
    ClientResponse,
    ConnectionTimeoutError,
)

from async_throttle.http._calls import Asked, Calls, Key, Priority, Timeout, Weight
from async_throttle.http._leases import LEASE
from async_throttle.http.learner import serials

if TYPE_CHECKING:
    from async_throttle.http.learner import Learner

__all__ = ["throttled"]

UNSENT = (ConnectionTimeoutError, ClientConnectorError)


def throttled(
    throttle: Asked[ClientRequest],
    *,
    weight: Weight[ClientRequest] = 1,
    key: Key[ClientRequest] | None = None,
    timeout: Timeout[ClientRequest] = None,
    priority: Priority[ClientRequest] = 0,
    learn: bool | Learner = True,
    origins: Iterable[str] = (),
) -> ClientMiddlewareType:
    """A middleware in which each request waits for a limit, and holds its slot for the body.

    The total timeout of aiohttp, 300 s unless said otherwise, counts the wait: whoever waits longer
    gets a TimeoutError, and leaves no trace. ``ClientTimeout(total=None, sock_read=60)`` counts
    none of it. Where a request tells its timeout, as from aiohttp 3.15 on, it is refused at once,
    with `ThrottleTimeout`, if it is known to have to wait longer than the total.

    A request is one as servers count them: each redirect is one, and so is the second try that
    aiohttp makes by itself where a server hangs up. The slot comes back when the body was read, or
    the answer is closed, released or left, or collected. Two delays are aiohttp's own:
    ``session.close()`` does not end answers that are open, and where one is dropped unread, aiohttp
    reads the rest first. A websocket holds its slot for its life.

    Middlewares that retry belong before this one in the list, those that answer by themselves, such
    as caches, too. ``middlewares=`` of a request takes the place of the session's.

    Args:
        throttle: a `Throttle`, a `LimitSet` or a `LimitPool`; `Throttles`, one for each *key*; or
            a function of the request that gives a throttle, a set or a pool.
        weight: tokens, or a mapping by limit for sets and pools; or a function of the request.
        key: a function of the request, for `Throttles`; unset, its host.
        timeout: seconds to wait for the limit at most; or a function of the request.
        priority: lower goes first; or a function of the request.
        learn: whether answers are learnt from; or a `Learner`, of `async_throttle.http`, that says
            how.
        origins: where the headers of a pool's accounts may be sent, each as
            ``https://api.example.com``. They replace headers of a request, and add none.

    Raises:
        TypeError: something is of another kind. A refusal of the limit comes out of the request as
            it is: see `async_throttle.exceptions`.
        ValueError: something is out of range, or accounts have headers, and there are no *origins*.
    """
    calls: Calls[ClientRequest] = Calls(
        throttle,
        weight=weight,
        key=key,
        timeout=timeout,
        priority=priority,
        learn=learn,
        origins=origins,
        unsent=UNSENT,
    )
    return partial(send, calls)


async def send(
    calls: Calls[ClientRequest], request: ClientRequest, handler: ClientHandlerType
) -> ClientResponse:
    """Wait for the limit of *calls*, and have *handler* send *request*."""
    learner = calls.learner
    most = total_of(request)
    if most is not None or calls.ready is None or calls.open:
        limiter, lease = calls.begin(request, most)
    else:
        limiter, lease = calls.fixed, calls.ready()
    await lease.__aenter__()
    response = own = None
    try:
        if not calls.alone:
            limiter = calls.granted(limiter, lease)
            if headers := calls.swapped(request, lease):
                own = {name: request.headers[name] for name in headers}
                request.headers.update(headers)
        lease.serial = next(serials)
        response = await handler(request)
        setattr(response, LEASE, lease)
        if calls.ends:
            lease.ended()
        if learner is not None:
            learner.answered(limiter, lease, response.status, response.headers)
        connection = response.connection
        if connection is None:  # all of it is there
            calls.over(lease)
        else:
            calls.keep(lease)
            connection.add_callback(partial(calls.drop, lease))
    except BaseException as error:
        calls.failed(limiter, lease, error)
        if response is not None:
            response.close()
        raise
    finally:
        if own:
            request.headers.update(own)
    return response


def total_of(request: ClientRequest) -> float | None:
    """Seconds that *request* may take in total, if it tells."""
    timeout = getattr(request, "timeout", None)
    total: float | None = getattr(timeout, "total", None)
    return total or None  # aiohttp means by 0 what it means by None
