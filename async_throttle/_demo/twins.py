"""Which throttle for which server: how servers count, and the throttle that each never refuses.

A server counts a call when it arrives, and knows nothing of when it was sent. So its twin counts to
the end of each call: the server has counted it by then. How these servers count was measured at the
versions that are named; tests/servers asks some of them.

A limit is said as its server says it: `Said`. Units: seconds, and tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from async_throttle import LeakyBucket, SlidingWindow, Throttle

__all__ = ["COUNTED", "TWINS", "Said", "Twin", "twin_of"]

COUNTED: Final = {"counts": "end"}
"""What all twins have in common."""


class Said(NamedTuple):
    """A limit, as the configuration of a server says it."""

    capacity: float  # N: so much
    period: float  # P: in so many seconds
    burst: float  # B: what else it is called there; 1 and more


@dataclass(frozen=True, slots=True)
class Twin:
    """A way of counting, the servers that count so, and the throttle that they never refuse.

    Attributes:
        names: of the servers, as the demonstration is told of them; the first stands for all.
        servers: the same, for people, with the versions that were asked.
        counts: how they count.
        ledger: the way of the demonstration's own server to count so.
        bursts: whether their configuration says a burst.
        says: the throttle, for a limit that they say.
        also: what else has to be known.
    """

    names: tuple[str, ...]
    servers: str
    counts: str
    ledger: str
    bursts: bool
    says: Callable[[Said], dict[str, Any]]
    also: str = ""

    def settings(self, said: Said) -> dict[str, Any]:
        """What a `Throttle` is to be told, slots apart."""
        return {**self.says(said), **COUNTED}

    def throttle(self, said: Said, concurrency: int = 0, **more: Any) -> Throttle:
        """A throttle that these servers never refuse; *more* is what else it is told."""
        return Throttle(concurrency=concurrency, **self.settings(said), **more)


def _nginx(said: Said) -> dict[str, Any]:
    rate = said.capacity / said.period
    if said.burst < 1:
        period = math.ceil(1_000 / rate) / 1_000
        return {"capacity": 1, "period": period, "burst": 1}
    return {"capacity": rate, "burst": said.burst + 1 - rate / 1_000}


TWINS: Final = (
    Twin(
        ("bucket", "envoy", "dnsdist", "quart-rate-limiter", "synapse"),
        "Envoy 1.40 `local_ratelimit`, dnsdist 1.7, nftables, iptables, quart-rate-limiter 0.12, "
        "Synapse 1.163",
        "a bucket of B that refills all the time",
        "bucket",
        True,
        lambda said: {"capacity": said.capacity, "period": said.period, "burst": said.burst},
    ),
    Twin(
        ("nginx",),
        "nginx 1.22 `limit_req rate=Nr/s burst=B nodelay`",
        "a bucket of B + 1, in whole milliseconds",
        "milliseconds",
        True,
        _nginx,
        'without `burst`: `Throttle(1, period=ceil(1000 / N) / 1000, burst=1, counts="end")`; '
        '`Nr/m`: `Throttle(int(N * 1000 / 60) / 1000, burst=B, counts="end")`; '
        "`limit_conn N`: `concurrency=N`",
    ),
    Twin(
        (
            *("express", "hono", "fastify", "koa", "rate-limiter-flexible", "nest"),
            *("slowapi", "flask-limiter"),
        ),
        "express-rate-limit 8.7, hono 0.5, @fastify/rate-limit 11.2, koa-ratelimit 6.0, "
        "rate-limiter-flexible 11.4, @nestjs/throttler 6.7, slowapi 0.1, Flask-Limiter 4.1",
        "a window of P from the first call after the last one was over",
        "window",
        False,
        lambda said: {
            "capacity": said.capacity,
            "period": said.period,
            "algorithm": SlidingWindow,
        },
        "@nestjs/throttler blocks for P after one refusal: `pause(P)`",
    ),
    Twin(
        ("log", "drf", "fastapi-limiter", "aiohttp-ratelimiter"),
        "DRF 3.18, fastapi-limiter 0.2, aiohttp-ratelimiter 4.1, moving windows of `limits`",
        "a log of what was served within the last P",
        "log",
        False,
        lambda said: {
            "capacity": said.capacity,
            "period": said.period,
            "algorithm": SlidingWindow,
        },
    ),
    Twin(
        ("clock", "django-ratelimit", "litestar"),
        "django-ratelimit 4.1, litestar 2.25, quotas by the minute or the day",
        "a window of P by the clock",
        "clock",
        False,
        lambda said: {
            "capacity": said.capacity,
            "period": said.period,
            "algorithm": SlidingWindow,
        },
        "more of the quota, if both clocks are right: `ClockWindow`",
    ),
    Twin(
        ("haproxy",),
        "HAProxy 2.6 `http_req_rate(P) gt N`, the sliding counter of `limits`",
        "this window and a share of the last one; calls that are refused too",
        "two windows",
        True,
        lambda said: {
            "capacity": said.capacity + 1 - said.burst,
            "period": said.period,
            "burst": said.burst,
        },
        "never a window; B, which is yours to choose, as small as the rate times the round trip "
        "allows; where fractions are not rounded down, `N - B`",
    ),
    Twin(
        ("vsthrottle",),
        "vsthrottle of varnish-modules 0.20",
        "whole tokens; each grant drops the fraction",
        "whole tokens",
        False,
        lambda said: {
            "capacity": said.capacity,
            "period": said.period,
            "algorithm": LeakyBucket,
        },
    ),
)
"""The ways of counting."""


def twin_of(server: str) -> Twin:
    """The twin of *server*, by any of its names.

    Raises:
        KeyError: there is none of that name.
    """
    for twin in TWINS:
        if server in twin.names:
            return twin
    raise KeyError(server)
