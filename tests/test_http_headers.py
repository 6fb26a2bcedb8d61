"""What an answer says of the server's limits: vectors, recorded answers, and whatever there may be.

The vectors were worked out by hand. The recorded headers are those of real servers, as they were
seen, or as their documentation shows them; only dates were moved, to `NOW`. Two libraries that read
a part of this are the oracles of the scanners.
"""

from __future__ import annotations

import base64
import email.message
import json
import math
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from support import calls_of, examples

from async_throttle.http import Reading, Report, read
from async_throttle.http import _families as families
from async_throttle.http._scan import (
    LONGEST,
    MOST,
    duration,
    instant,
    items,
    members,
    number,
    parsed,
)

NOW = 1795975094
"""Sunday, 29 November 2026, 17:58:14 UTC."""

Pairs = list[tuple[str, str]]

# -- what headers come in --------------------------------------------------------------------------


def library(module: str) -> Any:
    """A library that is there for tests alone."""
    return pytest.importorskip(module, reason=f"{module} is not installed: pip install .[test]")


def as_dict(pairs: Pairs) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def as_bytes(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs]


def as_message(pairs: Pairs) -> Any:
    message = email.message.Message()  # of http.client and urllib
    for name, value in pairs:
        message[name] = value
    return message


def as_raw(pairs: Pairs) -> Any:
    return library("httpx").Headers(as_bytes(pairs))


def as_multidict(pairs: Pairs) -> Any:
    multidict = library("multidict")
    return multidict.CIMultiDictProxy(multidict.CIMultiDict(pairs))


def as_requests(pairs: Pairs) -> Any:
    return library("requests.structures").CaseInsensitiveDict(as_dict(pairs))


FORMS: dict[str, Callable[[Pairs], Any]] = {
    "dict": as_dict,
    "pairs": lambda pairs: pairs,
    "an iterator": iter,
    "bytes": as_bytes,
    "lower": lambda pairs: [(name.lower(), value) for name, value in pairs],
    "upper": lambda pairs: [(name.upper(), value) for name, value in pairs],
    "http.client": as_message,
    "httpx": as_raw,
    "aiohttp": as_multidict,
    "requests": as_requests,
}

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

# -- the vectors -----------------------------------------------------------------------------------


def x(*values: str) -> Pairs:
    """Headers of the X-RateLimit family, by position."""
    names = ("Limit", "Remaining", "Reset")
    return [(f"X-RateLimit-{n}", text) for n, text in zip(names, values, strict=True) if text]


def openai(name: str, *values: str) -> Pairs:
    parts = ("limit", "remaining", "reset")
    return [(f"x-ratelimit-{n}-{name}", text) for n, text in zip(parts, values, strict=True)]


def anthropic(name: str, *values: str) -> Pairs:
    parts = ("limit", "remaining", "reset")
    return [
        (f"anthropic-ratelimit-{name}-{n}", text) for n, text in zip(parts, values, strict=True)
    ]


def after(*lines: str) -> Pairs:
    return [("Retry-After", line) for line in lines]


IETF = [
    ("RateLimit", '"20-in-1min"; r=19; t=60'),
    ("RateLimit", '"2-in-10sec"; r=0; t=10'),
    ("RateLimit-Policy", '"20-in-1min"; q=20; w=60; pk=:ZGVhZA==:'),
    ("RateLimit-Policy", '"2-in-10sec"; q=2; w=10; pk=:ZGVhZA==:'),
]
JAVASCRIPT = "Sun Nov 29 2026 18:58:42 GMT+0100 (Central European Standard Time)"

Told = tuple[float | None, float | None, float | None]
"""Limit, remaining and reset."""

NOTHING: Told = (None, None, None)

Vector = tuple[int, Pairs, bool, float | None, dict[str, Told], int]

VECTORS: dict[str, Vector] = {
    # status, headers; refused, wait, limits, how many headers are malformed
    "served with Retry-After": (
        200,
        [*after("10"), *x("3", "2", "1795975105.498755")],
        False,
        None,
        {"requests": (3, 2, 11.499)},
        0,
    ),
    "a finer reset": (
        429,
        [*after("10"), *x("2", "0", "1795975104.37")],
        True,
        10.37,
        {"requests": (2, 0, 10.37)},
        0,
    ),
    "a reset of another window": (
        429,
        [*after("10"), *x("2", "0", "1795975204.37")],
        True,
        11,
        {"requests": (2, 0, 110.37)},
        0,
    ),
    "a date": (429, after("Sun, 29 Nov 2026 17:58:25 GMT"), True, 12, {}, 0),
    "a date with -0000": (429, after("Sun, 29 Nov 2026 17:58:25 -0000"), True, 12, {}, 0),
    "a date of RFC 850": (429, after("Sunday, 29-Nov-26 17:58:25 GMT"), True, 12, {}, 0),
    "a date of asctime": (429, after("Sun Nov 29 17:58:25 2026"), True, 12, {}, 0),
    "a date that has passed": (429, after("Sun, 29 Nov 2026 17:58:04 GMT"), True, 1, {}, 0),
    "a date of 1970": (429, after("Thu, 01 Jan 1970 00:00:00 GMT"), True, 1, {}, 0),
    "a day that is none": (429, after("Sun, 31 Nov 2026 17:58:25 GMT"), True, None, {}, 2),
    "decimals": (429, after("2.0"), True, 2.0, {}, 0),
    "zero": (429, after("0"), True, 1, {}, 0),
    "two lines": (429, after("5", "7"), True, 8, {}, 0),
    "negative": (429, after("-1"), True, None, {}, 1),
    "an exponent": (429, after("1e3"), True, None, {}, 1),
    "a digit of Arabic": (429, after("\u0665"), True, None, {}, 1),
    "infinity": (429, after("inf"), True, None, {}, 1),
    "an underscore": (429, after("1_0"), True, None, {}, 1),
    "a thousand years": (429, after("34359738368"), True, 34359738369, {}, 0),
    "more than there is": (429, after("9" * 18), True, None, {}, 1),
    "nothing": (429, after(""), True, None, {}, 1),
    "milliseconds": (429, [("retry-after-ms", "1500"), *after("30")], True, 1.5, {}, 0),
    "better-auth": (429, [("X-Retry-After", "1")], True, 2, {}, 0),
    "a limit by name, refused": (429, [("Retry-After-short", "1")], True, 2, {}, 0),
    "two limits by name, refused": (
        429,
        [("Retry-After-short", "1"), ("Retry-After-long", "42")],
        True,
        43,
        {},
        0,
    ),
    "no milliseconds": (429, [("retry-after-ms", "soon"), *after("30")], True, 31, {}, 1),
    "429": (429, [], True, None, {}, 0),
    "503": (503, [], True, None, {}, 0),
    "529": (529, [], True, None, {}, 0),
    "500": (500, after("5"), False, None, {}, 0),
    "302": (302, after("5"), False, None, {}, 0),
    "403": (403, [], False, None, {}, 0),
    "403 of a lack of rights": (
        403,
        x("60", "59", "60"),
        False,
        None,
        {"requests": (60, 59, 60)},
        0,
    ),
    "403 with Retry-After": (403, after("11"), True, 12, {}, 0),
    "413 with Retry-After": (413, after("11"), True, 12, {}, 0),
    "403 of GitHub": (
        403,
        [*x("60", "0", "1795975154"), ("X-RateLimit-Resource", "core")],
        True,
        61,
        {"core": (60, 0, 60)},
        0,
    ),
    "403 without a reset": (403, x("60", "0", ""), True, None, {"requests": (60, 0, None)}, 0),
    "two policies on two lines": (
        200,
        IETF,
        False,
        None,
        {"20-in-1min": (20, 19, 60), "2-in-10sec": (2, 0, 10)},
        0,
    ),
    "the same, refused": (
        429,
        IETF,
        True,
        11,
        {"20-in-1min": (20, 19, 60), "2-in-10sec": (2, 0, 10)},
        0,
    ),
    "a token as a name": (
        200,
        [("RateLimit", "default;r=50;t=30")],
        False,
        None,
        {"default": (None, 50, 30)},
        0,
    ),
    "draft 07": (
        200,
        [("RateLimit", "limit=2, remaining=1, reset=11"), ("RateLimit-Policy", "2;w=11")],
        False,
        None,
        {"requests": (2, 1, 11)},
        0,
    ),
    "a list that is none": (200, [("RateLimit", "problemPolicy;r=0, t=10")], False, None, {}, 1),
    "less than nothing is left": (200, [("RateLimit", '"a";r=-1;t=0')], False, None, {}, 1),
    "GitLab": (
        200,
        [
            ("RateLimit-Limit", "100, 100;w=60"),
            ("RateLimit-Remaining", "50"),
            ("RateLimit-Reset", "1795975124"),
        ],
        False,
        None,
        {"requests": (100, 50, 30)},
        0,
    ),
    "agent.ai": (
        200,
        [("RateLimit-Limit", "1000: 1000"), ("RateLimit-Remaining", "5")],
        False,
        None,
        {"requests": (1000, 5, None)},
        0,
    ),
    "fastify": (200, x("2", "1", "11"), False, None, {"requests": (2, 1, 11)}, 0),
    "Reddit": (
        200,
        [
            ("X-Ratelimit-Remaining", "598.0"),
            ("X-Ratelimit-Used", "2"),
            ("X-Ratelimit-Reset", "502"),
        ],
        False,
        None,
        {"requests": (600, 598, 502)},
        0,
    ),
    "lemlist": (200, x("20", "7", JAVASCRIPT), False, None, {"requests": (20, 7, 28)}, 0),
    "Atlassian": (
        200,
        x("350", "0", "2026-11-29T18:00Z"),
        False,
        None,
        {"requests": (350, 0, 106)},
        0,
    ),
    "milliseconds since 1970": (
        200,
        x("9", "8", "1795975104500"),
        False,
        None,
        {"requests": (9, 8, 10.5)},
        0,
    ),
    "Discord": (
        200,
        [
            *x("5", "4", "1795975096.123"),
            ("X-RateLimit-Reset-After", "0.65"),
            ("X-RateLimit-Bucket", "abcd"),
        ],
        False,
        None,
        {"abcd": (5, 4, 0.65)},
        0,
    ),
    "OpenAI": (
        200,
        [
            *openai("requests", "5000", "4999", "12ms"),
            *openai("tokens", "160000", "159976", "6m0s"),
        ],
        False,
        None,
        {"requests": (5000, 4999, 0.012), "tokens": (160000, 159976, 360)},
        0,
    ),
    "Groq": (
        200,
        openai("requests", "14400", "14370", "2m59.56s"),
        False,
        None,
        {"requests": (14400, 14370, 179.56)},
        0,
    ),
    "Azure does not know": (200, openai("tokens", "-1", "-1", "0"), False, None, {}, 2),
    "two limits by name": (
        200,
        [*openai("long", "20", "18", "60"), *openai("short", "3", "1", "1")],
        False,
        None,
        {"long": (20, 18, 60), "short": (3, 1, 1)},
        0,
    ),
    "Hugging Face": (
        429,
        [("RateLimit", '"api";r=0;t=55'), ("RateLimit-Policy", '"fixed window";"api";q=500;w=300')],
        True,
        56,
        {"api": (500, 0, 55)},
        0,
    ),
    "Anthropic": (
        200,
        [
            ("Date", "Sun, 29 Nov 2026 17:58:14 GMT"),
            *anthropic("requests", "1000", "999", "2026-11-29T17:58:13Z"),
        ],
        False,
        None,
        {"requests": (1000, 999, 0)},
        0,
    ),
    "Shopify": (
        200,
        [("X-Shopify-Shop-Api-Call-Limit", "32/40")],
        False,
        None,
        {"requests": (40, 8, None)},
        0,
    ),
    "Bybit": (
        200,
        [
            ("X-Bapi-Limit", "120"),
            ("X-Bapi-Limit-Status", "118"),
            ("X-Bapi-Limit-Reset-Timestamp", "1795975095500"),
        ],
        False,
        None,
        {"requests": (120, 118, 1.5)},
        0,
    ),
    "a server a minute ahead": (
        429,
        [("Date", "Sun, 29 Nov 2026 17:59:14 GMT"), *x("9", "0", "1795975160")],
        True,
        7,
        {"requests": (9, 0, 6)},
        0,
    ),
    "a server a year ahead": (
        429,
        [("Date", "Mon, 29 Nov 2027 17:58:14 GMT"), *x("9", "0", "1795975160")],
        True,
        67,
        {"requests": (9, 0, 66)},
        0,
    ),
    "Binance": (200, [("X-MBX-USED-WEIGHT-1M", "5")], False, None, {"weight-1m": NOTHING}, 0),
    "Zendesk": (
        200,
        [
            ("X-Rate-Limit", "700"),
            ("X-Rate-Limit-Remaining", "699"),
            ("ratelimit-limit", "700"),
            ("ratelimit-remaining", "699"),
            ("ratelimit-reset", "41"),
            ("Zendesk-RateLimit-Tickets-Index", "total=100; remaining=99; resets=41"),
        ],
        False,
        None,
        {"requests": (700, 699, 41), "tickets-index": (100, 99, 41)},
        0,
    ),
    "HubSpot": (
        200,
        [
            ("X-HubSpot-RateLimit-Max", "100"),
            ("X-HubSpot-RateLimit-Remaining", "98"),
            ("X-HubSpot-RateLimit-Interval-Milliseconds", "10000"),
            ("X-HubSpot-RateLimit-Daily", "250000"),
            ("X-HubSpot-RateLimit-Daily-Remaining", "249998"),
        ],
        False,
        None,
        {"requests": (100, 98, None), "daily": (250000, 249998, None)},
        0,
    ),
    "Jira": (
        200,
        [
            ("Beta-RateLimit-Policy", '"tenant-app-quota";q=65000;w=3600'),
            ("Beta-RateLimit", '"tenant-app-quota";r=17842;t=2107'),
            ("X-Beta-RateLimit-Reset", "2026-11-29T18:30Z"),
            *x("350", "349", "2026-11-29T17:58Z"),
        ],
        False,
        None,
        {"points": (65000, 17842, 2107), "requests": (350, 349, 0)},
        0,
    ),
    "Twitter": (
        200,
        [
            ("x-rate-limit-limit", "900"),
            ("x-rate-limit-remaining", "899"),
            ("x-rate-limit-reset", "1795975994"),
        ],
        False,
        None,
        {"requests": (900, 899, 900)},
        0,
    ),
    "Mastodon": (
        200,
        x("300", "299", "2026-11-29T18:00:00.123456Z"),
        False,
        None,
        {"requests": (300, 299, 106.123)},
        0,
    ),
    "two families, the tighter one counts": (
        200,
        [*x("100", "3", "60"), ("RateLimit-Limit", "10"), ("RateLimit-Remaining", "7")],
        False,
        None,
        {"requests": (100, 3, 60)},
        0,
    ),
}

each_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)


def told(report: Report) -> dict[str, Told]:
    """The limits of a report, to the millisecond."""
    return {
        name: (each.limit, each.remaining, None if each.reset is None else round(each.reset, 3))
        for name, each in report.limits.items()
    }


@each_form
@each_vector
def test_a_vector(vector: Vector, form: Callable[[Pairs], Any]) -> None:
    status, pairs, refused, wait, limits, ignored = vector
    if form in (as_raw, as_bytes, as_message) and not str(pairs).isascii():
        pytest.skip("headers of this kind hold no such letter")
    noise = [("Content-Type", "text/plain"), ("Server", "example")]
    report = read(status, form([*noise, *pairs]), NOW)
    assert report.refused == refused
    assert report.retry_after == (None if wait is None else pytest.approx(wait, abs=1e-3))
    assert told(report) == limits
    assert report.ignored == ignored


@pytest.mark.parametrize("status", range(100, 600))
def test_which_statuses_are_refusals(status: int) -> None:
    assert read(status, {}).refused is (status in (418, 420, 429, 503, 529))
    assert read(status, after("5")).refused is (status in (403, 413, 418, 420, 429, 503, 529))


RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "recorded" / "servers.json").read_text(encoding="utf-8")
)
"""Answers of servers that run here, see `servers/`: 40 calls per 4 s, as fast as they go.

Of each limit: the first answer, the last that was served, and two that were refused. ``sent`` and
``came`` are read from the clock that the server has as well.
"""

FIRST = {(each["server"], each["limit"]): each for each in reversed(RECORDED)}
"""By server and limit, the first answer, of the call that opened the window."""

MUTE = ("nginx", "HAProxy")
"""Servers that say nothing."""

LATE = {"slowapi": 1.0, "Flask-Limiter": 1.0}
"""Seconds by which some say more than is left, before it is rounded."""


@pytest.mark.parametrize("form", ["pairs", "bytes", "httpx", "aiohttp"])
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda r: f"{r['server']}: {r['limit']}")
def test_what_a_server_said_is_true(recorded: dict[str, Any], form: str) -> None:
    server, limit, status = recorded["server"], recorded["limit"], recorded["status"]
    pairs = [(name, value) for name, value in recorded["headers"]]
    report = read(status, FORMS[form](pairs), recorded["came"])
    assert (report.refused, report.ignored) == (status in (429, 403), 0)
    name, _, _ = server.partition(" ")
    if name in MUTE:
        assert (report.limits, report.retry_after) == ({}, None)
        return
    first = FIRST[server, limit]
    least = first["sent"] + 4 - recorded["came"] - 0.001
    most = first["came"] + 4 - recorded["sent"] + LATE.get(name, 0) + 1.001
    if limit == "sliding window counter":
        least = 0  # its windows are those of the clock
    if report.refused:
        assert report.retry_after is not None
        assert least <= report.retry_after <= most + 1
    else:
        assert report.retry_after is None
    if name == "@nestjs/throttler" and report.refused:
        assert not report.limits  # but Retry-After
        return
    names = [*report.limits]
    reading = report.limits[names[0]]
    assert (reading.limit, reading.remaining) == (40, 39 if recorded is first else 0)
    assert reading.reset is not None
    assert least <= reading.reset <= most
    if limit == "two limits, by name":
        assert names == ["short", "long"]
        assert report.limits["long"][:2] == (60, 59 if recorded is first else 20)
    elif "draft 8" not in limit:
        assert names == ["requests"]
    elif limit.startswith("two") and not report.refused:
        assert names == ["40-in-4sec", "60-in-8sec"]
        assert report.limits["60-in-8sec"][:2] == (60, 59 if recorded is first else 20)
    else:
        assert names == ["40-in-4sec"]
    assert reading.window == (4 if "draft" in limit else None)


def test_each_family_has_a_vector() -> None:
    every: set[Any] = {family for family, _ in families._NAMES.values()}
    every |= {family for family, _ in families._PATTERNS}
    reached: set[Any] = set()
    for _, pairs, *_ in VECTORS.values():
        for place in (families.place_of(name) for name, _ in pairs):
            if place is not None:
                reached.add(getattr(place[0], "func", place[0]))
    assert every <= reached


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_a_date_is_not_read_in_the_zone_of_this_machine(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    if hasattr(time, "tzset"):
        time.tzset()
    try:
        parsed.cache_clear()
        for text in ("Sun, 29 Nov 2026 17:58:25 -0000", "Sun Nov 29 17:58:25 2026"):
            assert read(429, {"Retry-After": text}, NOW).retry_after == 12
    finally:
        monkeypatch.undo()
        if hasattr(time, "tzset"):
            time.tzset()


# -- what the numbers do not tell ------------------------------------------------------------------


def test_the_window_of_a_bucket_is_inferred() -> None:
    found = read(200, openai("requests", "5000", "4999", "12ms"), NOW).limits["requests"]
    assert found.window == pytest.approx(60)
    assert found.refills
    groq = read(200, openai("requests", "14400", "14370", "2m59.56s"), NOW).limits["requests"]
    assert groq.window == pytest.approx(86_188.8)
    full = read(200, openai("requests", "5000", "5000", "0s"), NOW).limits["requests"]
    assert full.window is None


def test_policies_tell_the_window_and_what_is_counted() -> None:
    policies = '"a";q=10;w=60, "b";q=1e3, "c";l=5;w=1;qu="content-bytes", "d";q=7'
    assert read(200, {"RateLimit-Policy": policies}).ignored == 1  # 1e3 makes all of it void
    limits = read(200, {"RateLimit-Policy": policies.replace('"b";q=1e3, ', "")}).limits
    assert {name: (each.limit, each.window, each.unit) for name, each in limits.items()} == {
        "a": (10, 60, "requests"),
        "c": (5, 1, "content-bytes"),
        "d": (7, None, "requests"),
    }
    draft = [("RateLimit", "limit=2, remaining=1, reset=3"), ("RateLimit-Policy", "2;w=11, 9;w=60")]
    assert read(200, draft).limits["requests"].window == 11
    gitlab = {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "5"}
    assert read(200, gitlab).limits["requests"].window == 60
    sixth = [("RateLimit-Policy", "100;w=60"), *gitlab.items()]
    sixth[1] = ("RateLimit-Limit", "100")
    for each in (sixth, sixth[::-1]):
        assert read(200, each).limits == {"requests": Reading(100, 5, window=60)}
    other = {**dict(sixth), "RateLimit-Limit": "10"}
    assert read(200, other).limits["requests"].window is None
    several = {"RateLimit-Limit": "100, 100;w=60, 100;w=1", "RateLimit-Remaining": "5"}
    assert read(200, several).limits["requests"].window is None


@pytest.mark.parametrize(
    "policy", ['"a"', '"a";q', '"a";q=-5', '"a";q=5;w=-1', '"a";q="5"x', "1;q=a"]
)
def test_a_policy_that_is_none_is_ignored(policy: str) -> None:
    report = read(200, {"RateLimit-Policy": policy})
    assert (report.limits, report.ignored) == ({}, 1)


def test_hugging_face_tells_its_window_behind_the_kind_of_its_policy() -> None:
    policy = '"fixed window";"api";q=500;w=300, "fixed window"; "pages";q=100;w=300'
    limits = read(200, {"RateLimit-Policy": policy}, NOW).limits
    assert limits == {name: Reading(q, window=300) for name, q in (("api", 500), ("pages", 100))}
    assert read(200, {"RateLimit-Policy": '"api";500;w=300'}, NOW).ignored == 1


def test_limits_with_names_of_their_own_count_requests_in_windows() -> None:
    (found,) = read(200, openai("short", "3", "1", "1"), NOW).limits.values()
    assert found == Reading(3, 1, None, 1, None, "requests", refills=False)
    for name, reset in ("requests", "1"), ("input-images", "1s"), ("tokens", "1"):  # of no window
        (found,) = read(200, openai(name, "3", "1", reset), NOW).limits.values()
        assert (found.unit, found.refills) == (name, True)
    for name, unit in ("tokens-minute", "tokens"), ("requests-day", "requests"):  # of Cerebras
        (found,) = read(200, openai(name, "60000", "3", "11.38"), NOW).limits.values()
        assert (found.unit, found.refills, found.reset) == (unit, False, 11.38)


@pytest.mark.parametrize("name", ["Retry-After-Limit", "Retry-After-Reset", "Retry-After-Date"])
def test_what_only_begins_like_retry_after_is_no_delay(name: str) -> None:
    assert read(429, {name: "100"}).retry_after is None


def test_hubspot_tells_its_windows() -> None:
    limits = read(200, VECTORS["HubSpot"][1]).limits
    assert {name: each.window for name, each in limits.items()} == {"requests": 10, "daily": 86_400}
    assert read(200, {"X-HubSpot-RateLimit-Max": "5"}).limits["requests"].window is None


def test_binance_says_what_was_used() -> None:
    names = ["X-MBX-USED-WEIGHT-1M", "x-mbx-order-count-10s", "X-SAPI-USED-UID-WEIGHT-2H"]
    limits = read(200, dict.fromkeys(names, "1180")).limits
    assert {name: (each.used, each.window, each.unit) for name, each in limits.items()} == {
        "weight-1m": (1180, 60, "weight"),
        "orders-10s": (1180, 10, "orders"),
        "weight-2h": (1180, 7_200, "weight"),
    }


@pytest.mark.parametrize(
    ("headers", "scope"),
    [
        ({"X-RateLimit-Scope": "shared"}, "shared"),
        ({"X-RateLimit-Scope": "user"}, "user"),
        ({"X-RateLimit-Scope": "global"}, "global"),
        ({"X-RateLimit-Global": "true"}, "global"),
        ({"X-RateLimit-Global": "false"}, None),
        ({"X-RateLimit-Scope": "everything"}, None),
    ],
)
def test_discord_says_what_a_refusal_is_about(headers: dict[str, str], scope: str | None) -> None:
    assert read(429, headers).scope == scope


def test_github_wants_a_minute_where_it_says_nothing() -> None:
    assert read(429, {"X-GitHub-Request-Id": "1"}).backoff == 60
    assert read(429, {"X-GitHub-Request-Id": "1", "X-RateLimit-Remaining": "5"}).backoff == 60
    assert read(429, {"X-Request-Id": "1"}).backoff == 1


@pytest.mark.parametrize(
    ("age", "cached"), [("5", True), ("0", False), ("-5", False), ("old", False)]
)
def test_an_answer_of_a_cache_is_known_by_its_age(age: str, cached: bool) -> None:
    assert read(200, {"Age": age, **dict(x("9", "8", "5"))}).cached is cached


def test_whoever_knows_better_says_whether_it_was_refused() -> None:
    assert read(200, after("5"), refused=True).retry_after == 6
    assert read(200, {}, refused=True).refused
    assert not read(429, after("5"), refused=False).refused


def test_now_is_the_wall_clock_unless_it_is_said() -> None:
    headers = dict(x("9", "8", "1795975104"))
    with freeze_time("2026-11-29 17:58:14"):
        assert read(200, headers).limits["requests"].reset == 10
    assert read(200, headers, NOW + 4).limits["requests"].reset == 6


@pytest.mark.parametrize("date", ["yesterday", "", "Sun, 31 Nov 2026 17:58:14 GMT"])
def test_a_date_that_is_none_is_not_the_clock(date: str) -> None:
    report = read(200, [("Date", date), *x("9", "8", "1795975104")], NOW)
    assert report.limits["requests"].reset == 10


def test_of_two_readings_the_tighter_one_counts_in_whatever_order_they_come() -> None:
    names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
    for other in (("10", "3", "50"), ("10", "4", "70"), ("10", "3", ""), ("10", "", "")):
        pairs = [*x("100", "3", "60"), *zip(names, other, strict=True)]
        pairs = [(name, value) for name, value in pairs if value]
        for each in (pairs, pairs[::-1]):
            assert told(read(200, each, NOW)) == {"requests": (100, 3, 60)}


def test_a_report_is_a_value() -> None:
    report = read(429, [*after("5"), *x("9", "8", "5")], NOW)
    assert report == read(429, [*after("5"), *x("9", "8", "5")], NOW)
    assert pickle.loads(pickle.dumps(report)) == report
    assert Reading().unit == "requests"
    assert read(200, {}) == Report()
    assert Report(True) == read(503, {})
    assert not cast("dict[str, Reading]", read(200, {}).limits)
    with pytest.raises(AttributeError):
        report.refused = False  # type: ignore[misc]


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [None, 5, "Retry-After: 5", b"x", [1], [("a",)], [("a", "b", 1)], [([], "1")]]
)
def test_headers_that_are_none_are_refused(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers must be a mapping or pairs, got "):
        read(429, headers)


@pytest.mark.parametrize("status", ["429", None, 429.0])
def test_a_status_that_is_none_is_refused(status: Any) -> None:
    with pytest.raises(TypeError, match="status must be a whole number, got "):
        read(status, {})


def test_a_megabyte_is_not_looked_at() -> None:
    report = read(429, {"Retry-After": "1" * 2**20, "RateLimit": '"a";r=1,' * 2**17})
    assert (report.refused, report.retry_after, report.limits, report.ignored) == (
        True,
        None,
        {},
        2,
    )
    lines = [("RateLimit", f'"{n}";r={n};t=5') for n in range(10_000)]
    report = read(200, lines)
    assert 0 < len(report.limits) < LONGEST
    assert report.ignored > 9_000
    assert (
        read(200, {"x" * 2**20: "1", "RateLimit-Remaining": "5"}).limits["requests"].remaining == 5
    )


SAID = [name for name, (family, _) in families._NAMES.items() if family is not families.aside]
SAID += ["x-mbx-used-weight-1m", "x-mbx-order-count-1d", "zendesk-ratelimit-a"]


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("value", ["5" * 9_000, None])
def test_a_value_that_cannot_be_read_says_nothing(name: str, value: Any) -> None:
    report = read(200, {name: value})
    assert (dict(report.limits), report.ignored) == ({}, 1)


@pytest.mark.parametrize("value", [None, 5, 2.5, ["5"], bytearray(b"5")])
def test_a_value_that_is_no_text_is_ignored(value: Any) -> None:
    report = read(429, {"Retry-After": value})
    assert (report.refused, report.retry_after, report.ignored) == (True, None, 1)
    assert not read(200, [(5, "5")]).limits


def test_names_are_remembered_within_bounds() -> None:
    most = 0
    for n in range(3 * families.MOST_NAMES):
        read(200, {f"X-Trace-{n}": "1", f"x-ratelimit-limit-{n}": "5"})
        read(200, {f"X-{n}-{'a' * families.LONGEST_NAME}": "1"})
        assert not read(200, {f"x-ratelimit-limit-{n}-{'a' * families.LONGEST_NAME}": "5"}).limits
        most = max(most, len(families.dull) + len(families.known))
    assert families.MOST_NAMES // 2 < most <= families.MOST_NAMES + 1
    assert len(families._groups) <= families.MOST_NAMES + 1
    assert max(map(len, families.dull)) <= families.LONGEST_NAME
    assert read(200, {"x-ratelimit-limit-2999": "5"}).limits["2999"].limit == 5


def test_an_answer_is_read_as_a_whole_where_names_are_forgotten_in_the_middle_of_it() -> None:
    limit = [f"x-ratelimit-{part}-requests" for part in ("limit", "remaining", "reset")]
    headers = dict(zip(limit, ("14400", "14370", "2m59.56s"), strict=True))
    said = read(200, headers)
    for missing in range(5):
        families.dull.clear()
        families.known.clear()
        read(200, {limit[0]: "14400"})
        while len(families.dull) + len(families.known) < families.MOST_NAMES - missing:
            read(200, {f"x-other-{len(families.dull)}": "1"})
        assert read(200, headers) == said
    families.dull.clear()
    families.known.clear()


def test_an_answer_without_limits_costs_a_look_at_its_names() -> None:
    headers = {f"X-Header-{n}": "value" for n in range(20)}
    read(200, headers)
    assert calls_of(lambda: read(200, headers)) <= 8
    assert calls_of(lambda: read(200, [*headers.items()])) <= 10
    assert calls_of(lambda: read(200, [(name, "Server") for name in headers])) <= 10
    assert read(200, [("RateLimit-Remaining", "Server")]).ignored == 1
    assert read(200, headers) is read(204, headers)


@pytest.mark.parametrize(
    ("behind", "reset"),
    [(-0.001, 10), (0, 10), (0.9, 9.1), (1.9, 8.1), (2, 10), (60, 10), (-60, 10)],
)
def test_date_is_the_clock_where_ours_is_another(behind: float, reset: float) -> None:
    # Of a server that has our clock, it is in whole seconds, and up to a second old at that.
    headers = {"Date": "Sun, 29 Nov 2026 17:58:14 GMT", **dict(x("9", "8", "1795975104.0"))}
    assert read(200, headers, NOW + behind).limits["requests"].reset == pytest.approx(reset)


def test_a_date_is_parsed_for_instants_alone() -> None:
    date = ("Date", "Sun, 29 Nov 2026 17:58:14 GMT")
    parsed.cache_clear()
    read(200, [date, *x("9", "8", "60")], NOW)
    assert parsed.cache_info().misses == 0
    read(200, [date, *x("9", "8", "1795975160")], NOW)
    assert parsed.cache_info().misses == 1


# -- whatever there may be -------------------------------------------------------------------------

NAMES = [
    *families._NAMES,
    *("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    *(
        "anthropic-ratelimit-a-limit",
        "anthropic-ratelimit-a-remaining",
        "anthropic-ratelimit-a-reset",
    ),
    *("x-mbx-used-weight-1m", "x-mbx-order-count-0s", "zendesk-ratelimit-a"),
]
PIECES = [
    *("5", "0", "-1", "1e9", "nan", "inf", "1795975104", "1795975104500", "9" * 18, "9" * 40, ".5"),
    *('"a"', "a", ";", "; ", "r=1", "t=5", "q=5", "w=60", "=", ",", ", ", " ", ":", "/", ":YQ==:"),
    *("limit=2", "remaining=1", "reset=3", "6m0s", "12ms", "?1", "\u0665", "\u00b2", "\n", "\x00"),
    *("Sun, 29 Nov 2026 17:58:25 GMT", "2026-11-29T18:00Z", "9999-12-31T23:59:59Z", JAVASCRIPT),
    *("0001-01-01T00:00:00+23:59", "total=100; remaining=99; resets=41", "32/40", "true"),
]
values = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.floats().map(repr),
    st.integers().map(str),
)
names = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(NAMES).map(str.encode), st.text(), st.binary()
)


def numbers(report: Report) -> Iterator[float]:
    for reading in report.limits.values():
        yield from (each for each in reading[:5] if each is not None)
    if report.retry_after is not None:
        yield report.retry_after
    yield report.backoff


@examples(2_000)
@given(st.sampled_from([200, 403, 429]), st.lists(st.tuples(names, values), max_size=8))
def test_no_number_is_negative_or_infinite_whatever_comes(
    status: int, pairs: list[tuple[Any, Any]]
) -> None:
    report = read(status, pairs, NOW)
    for found in numbers(report):
        assert isinstance(found, int | float)
        assert 0 <= found < math.inf
        assert found <= MOST + 1
    assert report.ignored >= 0
    assert status != 429 or report.refused


@examples(500)
@given(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=8))
def test_in_whatever_headers_come_they_say_the_same(pairs: list[tuple[str, Any]]) -> None:
    if not all(isinstance(value, str) for _, value in pairs):
        return
    if not all(value.isascii() for _, value in pairs):
        return
    first = read(429, pairs, NOW)
    assert read(429, [(name.encode(), value.encode()) for name, value in pairs], NOW) == first
    assert read(429, [(name.title(), value) for name, value in pairs], NOW) == first
    if len({name for name, _ in pairs}) == len(pairs):
        assert read(429, dict(pairs), NOW) == first
        assert read(429, dict(reversed(pairs)), NOW).retry_after == first.retry_after


# -- the scanners, against other libraries ---------------------------------------------------------

dates = st.datetimes(datetime(1971, 1, 1), datetime(2068, 12, 31), timezones=st.just(UTC))


@examples(500)
@given(dates)
def test_a_date_is_what_the_calendar_says_in_each_form(date: datetime) -> None:
    date = date.replace(microsecond=0)
    expected = date.timestamp()
    assert instant(format_datetime(date, usegmt=True)) == expected
    assert instant(format_datetime(date)) == expected
    assert instant(f"{date:%A, %d-%b-%y %H:%M:%S} GMT") == expected
    assert instant(date.ctime()) == expected
    assert instant(date.isoformat()) == expected
    assert instant(date.isoformat().replace("+00:00", "Z")) == expected
    assert instant(date.isoformat().replace("+00:00", ".25Z")) == expected + 0.25
    away = date.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    assert instant(away.isoformat()) == expected
    assert instant(f"{away:%a %b %d %Y %H:%M:%S GMT%z} (Marquesas Time)") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "Sun", "2026", "2026-11-29", "2026-13-01T00:00Z", "2026-02-30T00:00Z"),
        *(
            "Sun, 29 Nov 2026 24:00:00 GMT",
            "Sun, 29 Nov 2026 17:60:25 GMT",
            "Sun, 29 Nov 2026 17:58:61 GMT",
            "0000-01-01T00:00Z",
        ),
        *("Sun, 29 Nov 2026 17:58:25 PST", "29 Nov 2026 17:58:25 GMT", "Sun, 29 Nov 2026 17:58"),
        *("sun, 29 nov 2026 17:58:25 gmt", " Sun, 29 Nov 2026 17:58:25 GMT", "Sun Nov 29 2026"),
        "2026-11-29T17:58:25\u0665Z",
        "Sun, 29 Nov 2026 17:58:25 GMT" + " " * 200,
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert instant(text) is None


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5x", "-5s", "5s ", "1h 2m", "\u0665s", "1" * 100 + "s", "9e9s"]
)
def test_what_is_no_duration(text: str) -> None:
    assert duration(text) is None


def test_a_leap_second_is_the_one_after() -> None:
    assert instant("Sat, 31 Dec 2016 23:59:60 GMT") == instant("Sun, 01 Jan 2017 00:00:00 GMT")


def test_zeros_in_front_do_not_count_within_bounds() -> None:
    assert number("0" * 17 + "5") == 5
    assert number("0" * 18 + "5") is None
    assert number("0" * 17 + ".5") == 0.5
    assert number("0" * 50 + ".5") is None


def test_every_unit_of_a_duration() -> None:
    assert duration("1d2h3m4.5s") == 93_784.5
    assert duration("7us") == duration("7\u00b5s") == duration("7\u03bcs") == pytest.approx(7e-6)
    assert duration("8ns") == pytest.approx(8e-9)
    assert duration("999999999999d999999999999d") is None


@examples(500)
@given(st.one_of(st.floats(0, 1e15), st.integers(0, 10**15)))
def test_a_number_is_the_one_that_python_reads(value: float) -> None:
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    assert number(text) == (float(text) if "." in text else int(text))
    assert number(f"-{text}") is number(f"+{text}") is number(f" {text}") is None


keys = st.from_regex(r"[a-z*][a-z0-9_\-.*]{0,8}", fullmatch=True)
tokens = st.from_regex(r"[A-Za-z*][!#$%&'*+\-.^_`|~:/0-9A-Za-z]{0,8}", fullmatch=True)
strings = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
bare = st.one_of(
    tokens,
    strings,
    st.integers(-(10**15) + 1, 10**15 - 1).map(str),
    st.sampled_from(["?0", "?1", ":aGk=:", "2.5", "-0.125"]),
)
spaced = st.sampled_from([";", "; ", ";  "])
parameters = st.lists(
    st.tuples(spaced, keys, st.none() | bare).map(
        lambda each: each[0] + each[1] + (f"={each[2]}" if each[2] else "")
    ),
    max_size=4,
).map("".join)
listed = st.lists(st.tuples(bare, parameters).map("".join), max_size=5).flatmap(
    lambda each: st.sampled_from([",", ", ", " ,\t"]).map(lambda comma: comma.join(each))
)


def plain(value: Any) -> str:
    """A bare item of http-sf as it is written, without quotes."""
    if isinstance(value, bool):
        return f"?{value:d}"
    if isinstance(value, bytes):
        return f":{base64.b64encode(value).decode()}:"
    return str(value)


@examples(1_000)
@given(listed)
def test_a_list_is_read_as_http_sf_reads_it(text: str) -> None:
    http_sf = library("http_sf")
    found = items(text)
    expected = http_sf.parse(text.encode(), tltype="list")
    assert found is not None
    assert [name for name, _ in found] == [plain(value) for value, _ in expected]
    assert [{key: plain(value) for key, value in said.items()} for _, said in expected] == [
        said for _, said in found
    ]


@examples(1_000)
@given(st.one_of(st.text(' "\\;,=abr1:?.*-\t', max_size=12), listed.map(lambda text: text + ",")))
def test_what_http_sf_refuses_is_no_list(text: str) -> None:
    http_sf = library("http_sf")
    try:
        expected = http_sf.parse(text.encode(), tltype="list")
    except http_sf.StructuredFieldError:
        assert items(text) is None
    else:
        found = items(text)
        assert found is not None
        assert len(found) == len(expected)


@examples(500)
@given(st.lists(st.tuples(keys, st.none() | bare, parameters), max_size=5))
def test_a_dictionary_is_read_as_http_sf_reads_it(said: list[tuple[str, str | None, str]]) -> None:
    http_sf = library("http_sf")
    text = ", ".join(key + (f"={value}" if value else "") + rest for key, value, rest in said)
    expected = http_sf.parse(text.encode(), tltype="dictionary")
    assert members(text) == {key: plain(value) for key, (value, _) in expected.items()}


@examples(500)
@given(
    st.lists(
        st.tuples(tokens, st.integers(0, 10**14), st.none() | st.integers(0, 10**14)),
        min_size=1,
        max_size=4,
        unique_by=lambda each: each[0],
    )
)
def test_limits_are_read_as_retryheader_writes_them(
    said: list[tuple[str, int, int | None]],
) -> None:
    retryheader = library("retryheader")
    text = retryheader.build_ratelimit([retryheader.ServiceLimit(*each) for each in said])
    assert told(read(200, {"RateLimit": text})) == {
        name: (None, left, reset) for name, left, reset in said
    }


@examples(500)
@given(st.one_of(st.integers(0, 10**9).map(str), dates.map(lambda date: date.ctime())))
def test_a_wait_is_that_of_retryheader_and_the_second_that_may_be_missing(text: str) -> None:
    retryheader = library("retryheader")
    now = datetime.fromtimestamp(NOW, UTC)
    expected = retryheader.parse_retry_after(text, now=now)
    assert read(429, {"Retry-After": text}, NOW).retry_after == expected + 1


def test_nothing_of_a_client_is_imported() -> None:
    script = "import sys, async_throttle.http; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"httpx", "httpx2", "aiohttp", "requests", "multidict"} & {*run.stdout.split()}
