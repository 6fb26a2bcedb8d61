"""Middlewares of web frameworks, in Python under uvicorn and in Node: ten calls per second each.

They count windows, each in its own way: from a client's first call on, by the wall clock, or by a
log of calls. One throttle suits all of them but those that mix two windows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from async_throttle import LeakyBucket, SlidingWindow, Throttle

from .programs import APPS, node, python
from .server import Server, Twin

TEN_PER_SECOND = partial(Throttle, 10, algorithm=SlidingWindow)


def _uvicorn(app: str, folder: Path, port: int) -> list[str]:
    return [
        *("-m", "uvicorn", "--app-dir", str(APPS), f"{app}:app"),
        *("--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", "60"),
        *("--lifespan", "off", "--no-access-log"),
    ]


def _node(app: str, folder: Path, port: int) -> list[str]:
    return [str(APPS / f"{app}.cjs"), str(port)]


def _in_python(package: str, app: str, *twins: Twin) -> Server:
    return Server(package, partial(python, package), partial(_uvicorn, f"with_{app}"), twins)


def _in_node(package: str, app: str) -> Server:
    twin = Twin("10 per 1 s", TEN_PER_SECOND, window=True)
    return Server(package, partial(node, package), partial(_node, app), (twin,))


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
)
EXPRESS = _in_node("express-rate-limit", "express")

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
    ),
    _in_python("django-ratelimit", "django", _window("10/s", "/ratelimit")),
    _in_python("djangorestframework", "django", _window("10/s", "/rest")),
    _in_python("litestar", "litestar", _window("10 per second", "/")),
    _in_node("@fastify/rate-limit", "fastify"),
    _in_node("koa-ratelimit", "koa"),
    _in_node("rate-limiter-flexible", "flexible"),
    _in_node("@nestjs/throttler", "nest"),
)
