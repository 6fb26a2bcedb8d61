"""What an answer says of the server's limits: headers in, numbers out.

Some thirty spellings of the same three numbers are in use, and one name means different things at
different servers: ``X-RateLimit-Reset`` is seconds from now, seconds or milliseconds since 1970, or
a date. Each family of names has one small function here, which tells its members apart by what they
look like. The families, with the servers that were looked at:

===============================================  =============================================
``Retry-After``, ``Retry-After-Ms``              RFC 9110; OpenAI, Azure
``X-Retry-After``, ``Retry-After-short``         better-auth; NestJS, by the name of a limit
``RateLimit``, ``RateLimit-Policy``              the IETF's drafts 07 to 10; Hugging Face
``RateLimit-Limit``, ``-Remaining``, ``-Reset``  the drafts before; GitLab
``Beta-RateLimit``, ``X-Beta-RateLimit-...``     Jira, points per hour
``X-RateLimit-...``, ``X-Rate-Limit-...``        GitHub, Reddit, Discord, X, Mastodon, Zendesk,
                                                 Atlassian; slowapi, Flask-Limiter, koa, fastify,
                                                 express
``X-RateLimit-Remaining-Tokens`` and the like    OpenAI, Groq, Azure; NestJS
``Anthropic-RateLimit-...``                      Anthropic
``X-Shopify-Shop-Api-Call-Limit``                Shopify
``X-MBX-USED-WEIGHT-1M`` and the like            Binance
``X-Bapi-Limit-...``                             Bybit
``Zendesk-RateLimit-...``                        Zendesk
``X-HubSpot-RateLimit-...``                      HubSpot
===============================================  =============================================

An answer without any of these costs one look at each of its names, which are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from async_throttle.http._answer import NO_LIMITS, Answer, Reading
from async_throttle.http._families import Family, aside, dull, known, place_of, retry
from async_throttle.http._scan import LONGEST, number

__all__ = ["Headers", "Reading", "Report", "read"]

Headers = Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[Any, Any]]
"""Names and values, as str or bytes: a mapping, or pairs."""


class Report(NamedTuple):
    """What an answer says.

    Attributes:
        refused: whether the server refused the call because there were too many.
        retry_after: seconds until the next call makes sense; None if the server does not say, or
            did not refuse. Where it speaks in whole seconds it may have rounded down: one more.
        limits: readings, by the name that the server has for the limit; "requests" if it has none.
        ignored: how many headers were malformed or absurd, and so ignored.
        scope: of a refusal by Discord: "user", "shared", or "global", which is everything.
        backoff: seconds to begin with where *retry_after* is None.
        cached: whether a cache on the way has answered: the limits are of another time then.
    """

    refused: bool = False
    retry_after: float | None = None
    limits: Mapping[str, Reading] = NO_LIMITS
    ignored: int = 0
    scope: str | None = None
    backoff: float = 1.0
    cached: bool = False


Report.__module__ = "async_throttle.http"

SERVED: Final = Report()
REFUSED: Final = Report(refused=True)

REFUSALS: Final = frozenset({418, 420, 429, 503, 529})
"""Statuses that say that there were too many calls, with headers or without."""

REFUSALS_IF_SAID: Final = frozenset({403, 413})
"""Statuses that say so only where a header does: else it is a lack of rights, or too large."""

GITHUB: Final = 60.0
"""Seconds that GitHub wants to be left alone at least, where it says nothing."""


def read(
    status: int, headers: Headers, now: float | None = None, *, refused: bool | None = None
) -> Report:
    """The numbers in an answer.

    Whatever a server sends, this does not raise, and has no negative and no infinite number: what
    is malformed is ignored, and counted. Several lines of one name count as one, joined by commas.

    Args:
        status: of the answer.
        headers: its headers: ``response.headers`` of httpx, aiohttp, requests and the like, or any
            mapping, or pairs; names and values are str or bytes.
        now: seconds since 1970; unset, ``time.time()``. Instants are compared with the ``Date`` of
            the answer, if that is within a day of this, and not as it would be by the same clock.
        refused: whether the call was refused, if it is known better than *status* tells.

    Raises:
        TypeError: *status* or *headers* is of another kind.

    >>> read(429, {"Retry-After": "2.0"}).retry_after
    2.0
    >>> reading = read(200, [(b"ratelimit", b'"minute";r=19;t=60')]).limits["minute"]
    >>> reading.remaining, reading.reset
    (19, 60)
    """
    if not isinstance(status, int):
        raise TypeError(f"status must be a whole number, got {status!r}")
    if refused is None:
        refused = status in REFUSALS
    given: Any = headers
    try:
        pairs = getattr(given, "raw", None)  # of httpx: it decodes what it is asked for each time
        if pairs.__class__ is not list:
            pairs = None if hasattr(given, "items") else [*given]
        if dull.issuperset(given if pairs is None else map(_first, pairs)) and not refused:
            return SERVED
        families, ignored = _by_family(given.items() if pairs is None else pairs)
    except (TypeError, ValueError, IndexError) as error:
        raise TypeError(f"headers must be a mapping or pairs, got {headers!r:.200}") from error
    if not families and not ignored:
        return REFUSED if refused else SERVED
    return _read(status, families, ignored, now, refused)


read.__module__ = "async_throttle.http"

_first: Final = itemgetter(0)


def _by_family(pairs: Iterable[tuple[Any, Any]]) -> tuple[dict[Family, dict[str, str]], int]:
    """The values of the headers that are of some family, by family and part; how many are void."""
    families: dict[Family, dict[str, str]] = {}
    ignored = 0
    for name, value in pairs:
        place = known.get(name)
        if place is None:
            if name in dull:
                continue
            place = place_of(name)
            if place is None:
                continue
        family, part = place
        if value.__class__ is bytes:
            value = value[: LONGEST + 1].decode("latin-1")
        if not isinstance(value, str) or len(value) > LONGEST:
            ignored += 1
            continue
        text = value.strip(" \t")
        parts = families.get(family)
        if parts is None:
            families[family] = {part: text}
        elif part not in parts:
            parts[part] = text
        elif len(parts[part]) + len(text) < LONGEST:
            parts[part] = f"{parts[part]}, {text}"
        else:
            ignored += 1
    return families, ignored


def _read(
    status: int,
    families: dict[Family, dict[str, str]],
    ignored: int,
    now: float | None,
    refused: bool,
) -> Report:
    """The report of an answer that has headers of interest."""
    beside, told = families.pop(aside, NOTHING), families.pop(retry, NOTHING)
    answer = Answer(now, beside.get("date"))
    for family, parts in families.items():
        family(parts, answer)
    said = answer.retry_after(told)
    if not refused and status in REFUSALS_IF_SAID:
        refused = said is not None or 0 in [each.remaining for each in answer.limits.values()]
    return Report(
        refused,
        answer.wait(said) if refused else None,
        answer.limits,
        answer.ignored + ignored,
        answer.scope,
        GITHUB if "github" in beside else 1.0,
        bool(number(beside.get("age", "0"))),
    )


NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
