"""Middlewares of web frameworks, in Python under uvicorn and in Node: ten calls per second each.

They count windows, each in its own way: from a client's first call on, by the wall clock, or by a
log of calls. One throttle suits all of them but those that mix two windows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from async_throttle import LeakyBucket, LimitSet, SlidingWindow, Throttle

from .programs import APPS, node, python
from .server import Server, Shared, Twin

TEN_PER_SECOND = partial(Throttle, 10, algorithm=SlidingWindow)
WINDOW = partial(Throttle, 40, 8, 4, algorithm=SlidingWindow, counts="end")
COUNTER = partial(Throttle, 36, 8, 4, burst=4, counts="end")
"""For counters that mix two windows."""

LOG = "calls come back one by one, and each may be the outsider's before ours is there"
MIXED = "it tells when the window ends, and gives back bit by bit before that"
BLOCKS = "each limit blocks both for its own window, once one of them was refused"


def _uvicorn(app: str, folder: Path, port: int) -> list[str]:
    return [
        *("-m", "uvicorn", "--app-dir", str(APPS), f"{app}:app"),
        *("--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", "60"),
        *("--lifespan", "off", "--no-access-log"),
    ]


def _node(app: str, folder: Path, port: int) -> list[str]:
    return [str(APPS / f"{app}.cjs"), str(port)]


def _in_python(package: str, app: str, *twins: Twin, shared: tuple[Shared, ...] = ()) -> Server:
    program = partial(python, package)
    return Server(package, program, partial(_uvicorn, f"with_{app}"), twins, shared)


TEN = (Twin("10 per 1 s", TEN_PER_SECOND, window=True),)


def _in_node(package: str, app: str, *shared: Shared, twins: tuple[Twin, ...] = TEN) -> Server:
    return Server(package, partial(node, package), partial(_node, app), twins, shared)


def _two(forty: str, sixty: str) -> LimitSet[Any]:
    """A limiter for two limits, by the names that the server has for them."""
    longer = Throttle(60, period=8, algorithm=SlidingWindow, counts="end")
    limits: dict[str, Any] = {forty: WINDOW(), sixty: longer}
    return LimitSet(**limits)


def _window(limit: str, path: str) -> Twin:
    return Twin(limit, TEN_PER_SECOND, path, window=True)


SLOWAPI = _in_python(
    "slowapi",
    "slowapi",
    _window("10/second, fixed window", "/fixed"),
    _window("10/second, moving window", "/moving"),
    Twin(
        "10/second;16 per 2 second, moving window",
        partial(Throttle, 16, period=2, algorithm=SlidingWindow),
        "/both",
        also=TEN_PER_SECOND,
        window=True,
    ),
    shared=(
        Shared("fixed window", WINDOW, "/told/fixed/"),
        Shared("fixed window, HTTP-date", WINDOW, "/told/date/"),
        Shared("moving window", WINDOW, "/told/moving/", misses=LOG),
    ),
)
EXPRESS = _in_node(
    "express-rate-limit",
    "express",
    Shared("legacy headers", WINDOW, "/legacy"),
    Shared("draft 6", WINDOW, "/draft-6"),
    Shared("draft 7", WINDOW, "/draft-7"),
    Shared("draft 8", WINDOW, "/draft-8"),
    Shared(
        "two limiters, draft 8",
        partial(_two, "40-in-4sec", "60-in-8sec"),
        "/two",
        most=60,
        period=8,
    ),
)

OTHERS = (
    _in_python(
        "Flask-Limiter",
        "flask_limiter",
        _window("10/second, fixed window", "/fixed"),
        _window("10/second, moving window", "/moving"),
        Twin(
            "10/second, sliding window counter",
            partial(Throttle, 10, algorithm=LeakyBucket),
            "/counter",
        ),
        shared=(
            Shared("fixed window", WINDOW, "/told/fixed/"),
            Shared("fixed window, HTTP-date", WINDOW, "/told/date/"),
            Shared("moving window", WINDOW, "/told/moving/", misses=LOG),
            Shared("sliding window counter", COUNTER, "/told/counter/", misses=MIXED),
        ),
    ),
    _in_python("django-ratelimit", "django", _window("10/s", "/ratelimit")),
    _in_python("djangorestframework", "django", _window("10/s", "/rest")),
    _in_python("litestar", "litestar", _window("10 per second", "/")),
    _in_node(
        "@fastify/rate-limit",
        "fastify",
        Shared("as usual", WINDOW, "/told"),
        Shared("ban: 1", WINDOW, "/ban"),
    ),
    _in_node("koa-ratelimit", "koa", Shared("as usual", WINDOW, "/told")),
    _in_node(
        "hono-rate-limiter",
        "hono",
        Shared("draft 6", WINDOW, "/draft-6"),
        Shared("draft 7", WINDOW, "/draft-7"),
        twins=(),
    ),
    _in_node("rate-limiter-flexible", "flexible"),
    _in_node(
        "@nestjs/throttler",
        "nest",
        Shared("as usual", WINDOW, "/told", blocks=4),
        Shared(
            "two limits, by name",
            partial(_two, "short", "long"),
            "/named",
            most=60,
            period=8,
            misses=BLOCKS,
        ),
    ),
)
