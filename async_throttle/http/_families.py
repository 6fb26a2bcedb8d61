"""The families of headers: which names there are, and what their values mean.

Each family has one small function, which adds what its headers say to the answer. A name is looked
up once: where it belongs is remembered, as the server writes it, and so is that it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final
from weakref import WeakValueDictionary

from async_throttle.http._answer import Answer, Reading
from async_throttle.http._scan import DAY, MOST, duration, items, members, number

__all__ = ["Family", "Place", "aside", "dull", "known", "place_of", "retry"]

LONGEST_NAME: Final = 64
"""Characters of the longest name of a header, or of a limit."""

MOST_NAMES: Final = 1_000
"""Names of headers that are remembered."""


def aside(parts: dict[str, str], answer: Answer) -> None:
    """Headers that say nothing of limits, and help to read those that do."""


def retry(parts: dict[str, str], answer: Answer) -> None:
    """``Retry-After``, and what stands for it, which count only where a call was refused."""


def _ietf(parts: dict[str, str], answer: Answer) -> None:
    """``RateLimit: "name";r=5;t=30``, and before: ``limit=10, remaining=5, reset=30``."""
    text = parts.get("limits")
    policies, malformed = _policies(parts.get("policies", ""))
    answer.ignored += malformed
    if text is not None and _DRAFT_07.match(text):
        said = members(text)
        if said is None:
            answer.ignored += 1
            return
        limit, remaining = answer.count(said.get("limit")), answer.count(said.get("remaining"))
        window = next((w for q, w, _ in policies.values() if q == limit), None)
        reset, _ = answer.reset(said.get("reset"))
        answer.add("requests", Reading(limit, remaining, None, reset, window))
        return
    told = [] if text is None else items(text)
    if told is None:
        answer.ignored += 1
        return
    names = set()
    for name, said in told:
        remaining, reset = answer.count(said.get("r")), answer.count(said.get("t"))
        if remaining is not None:
            name = name[:LONGEST_NAME]
            names.add(name)
            limit, window, unit = policies.get(name, NO_POLICY)
            answer.add(name, Reading(limit, remaining, None, reset, window, unit))
    for name, (limit, window, unit) in policies.items():
        if name not in names:
            if len(policies) == 1 and number(name) == limit:  # of draft 06, beside RateLimit-Limit
                name = "requests"
            answer.add(name, Reading(limit, None, None, None, window, unit))


_DRAFT_07: Final = re.compile(r"(?:limit|remaining|reset)=")

_Policy = tuple[float | None, float | None, str]

NO_POLICY: Final[_Policy] = (None, None, "requests")


def _policies(text: str) -> tuple[Mapping[str, _Policy], int]:
    """``RateLimit-Policy: "name";q=10;w=60;qu="requests"``: limit, window and unit, by name.

    And how much of it is malformed. Before draft 08 the limit stood where the name is: ``10;w=60``;
    ``l`` was ``q`` for a while.
    """
    return _usual_policies(text) if len(text) <= USUAL else _read_policies(text)


USUAL: Final = 512
"""Characters of the longest list of policies that is remembered."""


def _read_policies(text: str) -> tuple[Mapping[str, _Policy], int]:
    """The same, whether that is remembered or not."""
    found: dict[str, _Policy] = {}
    listed = items(text)
    if listed is None:  # Hugging Face has the kind before the name: "fixed window";"api";q=500
        listed = items(_KIND.sub("", text))
    if listed is None:
        return found, 1
    malformed = 0
    for name, said in listed:
        nameless = number(name) is not None and "q" not in said and "l" not in said
        limit = number(name if nameless else said.get("q", said.get("l", "")))
        window = number(said.get("w", "0"))
        if limit is None or window is None:
            malformed += 1
        else:
            unit = said.get("qu", "requests")[:LONGEST_NAME]
            found[name[:LONGEST_NAME]] = limit, window or None, unit
    return found, malformed


_KIND: Final = re.compile(r'"[^"\\]*"; *(?=")')
"""A string before another one, as no list of RFC 9651 has it."""

_usual_policies = lru_cache(maxsize=64)(_read_policies)  # a server says the same each time


def _points(parts: dict[str, str], answer: Answer) -> None:
    """Jira's points per hour: ``Beta-RateLimit``, ``X-Beta-RateLimit-Remaining``."""
    apart = Answer(answer.now, answer.date)
    _ietf(parts, apart)
    plain = {name: text for name, text in parts.items() if name not in ("limits", "policies")}
    _plain(plain, apart)
    answer.ignored += apart.ignored
    for reading in apart.limits.values():
        limit, remaining, used = reading.limit, reading.remaining, reading.used
        reset, window = reading.reset, reading.window
        answer.add("points", Reading(limit, remaining, used, reset, window, "points"))


def _plain(parts: dict[str, str], answer: Answer) -> None:
    """``-Limit``, ``-Remaining``, ``-Used``, ``-Reset``, and what GitHub and Discord add."""
    get = parts.get
    limit, window = _limit_and_window(get("limit"), answer)
    remaining, used = answer.count(get("remaining")), answer.count(get("used"))
    if "after" in parts:  # Discord: needs no clock, and is what Reset says
        reset, coarse = answer.count(parts["after"]), "." not in parts["after"]
    else:
        reset, coarse = answer.reset(get("reset"))
    if limit is None and remaining is not None and used is not None:
        limit = remaining + used
    scope = get("scope")
    if scope in ("user", "shared", "global"):
        answer.scope = scope
    if "global" in parts and parts["global"].lower() == "true":
        answer.scope = "global"
    name = get("bucket") or get("resource") or "requests"
    answer.add(name[:LONGEST_NAME], Reading(limit, remaining, used, reset, window), coarse)


def _limit_and_window(text: str | None, answer: Answer) -> tuple[float | None, float | None]:
    """``100``; ``100, 100;w=60`` of the drafts; ``1000: 1000``."""
    if text is None or text.isdigit():
        return answer.count(text), None
    listed = items(text)
    if not listed or len(listed) == 1:
        return answer.count(text.partition(":")[0].partition(";")[0]), None
    limit = answer.count(listed[0][0])
    windows = [each.get("w") for value, each in listed[1:] if value == listed[0][0]]
    return limit, answer.count(windows[0]) if len(windows) == 1 else None


def _named(name: str, parts: dict[str, str], answer: Answer) -> None:
    """OpenAI, Groq, Azure: ``X-RateLimit-Remaining-Tokens: 159976``, ``-Reset-Tokens: 12ms``.

    And @nestjs/throttler, ``X-RateLimit-Remaining-short``, where limits have names of their own:
    these count requests, in windows. Cerebras has ``-Tokens-Minute``, of tokens.
    """
    limit, remaining = answer.count(parts.get("limit")), answer.count(parts.get("remaining"))
    text, window = parts.get("reset"), None
    reset = None if text is None else duration(text)
    exact = reset is not None
    if reset is None:
        reset, _ = answer.reset(text)
    elif reset and limit and remaining is not None and remaining < limit:
        window = min(reset * limit / (limit - remaining), MOST)
    refills = exact or reset is None or name in ("requests", "tokens")  # Azure: bare seconds
    unit = name if refills else "tokens" if "tokens" in _WORD.findall(name) else "requests"
    answer.add(name, Reading(limit, remaining, None, reset, window, unit, refills), not exact)


_WORD: Final = re.compile(r"[a-z0-9]+")


def _anthropic(name: str, parts: dict[str, str], answer: Answer) -> None:
    """``Anthropic-RateLimit-Input-Tokens-Remaining``; resets are dates, in whole seconds."""
    limit, remaining = answer.count(parts.get("limit")), answer.count(parts.get("remaining"))
    reset, coarse = answer.reset(parts.get("reset"))
    answer.add(name, Reading(limit, remaining, None, reset, None, name, True), coarse)


def _shopify(parts: dict[str, str], answer: Answer) -> None:
    """``X-Shopify-Shop-Api-Call-Limit: 32/40``: of a bucket that leaks."""
    text, _, most = parts["used"].partition("/")
    used, limit = answer.count(text), answer.count(most)
    if used is not None and limit is not None:
        answer.add("requests", Reading(limit, max(0, limit - used), used, refills=True))


def _binance(name: str, parts: dict[str, str], answer: Answer) -> None:
    """``X-MBX-USED-WEIGHT-1M: 1180``: what was used, in a window of the wall clock."""
    unit, _, interval = name.partition("-")
    window = float(int(interval[:-1]) * _WINDOWS[interval[-1]]) or None
    answer.add(name, Reading(None, None, answer.count(parts["used"]), None, window, unit))


_WINDOWS: Final = {"s": 1, "m": 60, "h": 3_600, "d": DAY}


def _bybit(parts: dict[str, str], answer: Answer) -> None:
    """``X-Bapi-Limit-Status``, what remains, and a timestamp in milliseconds."""
    limit, remaining = answer.count(parts.get("limit")), answer.count(parts.get("remaining"))
    reset, coarse = answer.reset(parts.get("reset"))
    answer.add("requests", Reading(limit, remaining, reset=reset), coarse)


def _zendesk(name: str, parts: dict[str, str], answer: Answer) -> None:
    """``Zendesk-RateLimit-Tickets: total=100; remaining=99; resets=41``, by endpoint."""
    pairs = [each.partition("=") for each in parts["zendesk-ratelimit"].split(";")]
    said = {key.strip(): value.strip() for key, _, value in pairs}
    limit, remaining = answer.count(said.get("total")), answer.count(said.get("remaining"))
    reset, coarse = answer.reset(said.get("resets"))
    answer.add(name, Reading(limit, remaining, None, reset, None, name), coarse)


def _hubspot(parts: dict[str, str], answer: Answer) -> None:
    """``X-HubSpot-RateLimit-Max`` in an interval, and ``-Daily``."""
    limit, remaining = answer.count(parts.get("max")), answer.count(parts.get("remaining"))
    interval = answer.count(parts.get("interval-milliseconds"))
    answer.add("requests", Reading(limit, remaining, window=(interval or 0) / 1000 or None))
    limit = answer.count(parts.get("daily"))
    remaining = answer.count(parts.get("daily-remaining"))
    answer.add("daily", Reading(limit, remaining, window=float(DAY), unit="daily"))


# -- which header belongs to which family ----------------------------------------------------------

Family = Callable[[dict[str, str], Answer], None]
Place = tuple[Family, str]


def _names() -> dict[str, Place]:
    """The headers that are known by their whole names."""
    found: dict[str, Place] = {
        "date": (aside, "date"),
        "age": (aside, "age"),
        "x-github-request-id": (aside, "github"),
        "retry-after": (retry, "seconds"),
        "retry-after-ms": (retry, "ms"),
        "x-retry-after": (retry, "seconds"),
        "ratelimit": (_ietf, "limits"),
        "ratelimit-policy": (_ietf, "policies"),
        "beta-ratelimit": (_points, "limits"),
        "beta-ratelimit-policy": (_points, "policies"),
        "x-rate-limit": (_twitter, "limit"),
        "x-ratelimit-reset-after": (_x, "after"),
        "x-shopify-shop-api-call-limit": (_shopify, "used"),
        "x-bapi-limit": (_bybit, "limit"),
        "x-bapi-limit-status": (_bybit, "remaining"),
        "x-bapi-limit-reset-timestamp": (_bybit, "reset"),
    }
    for part in ("limit", "remaining", "used", "reset"):
        found[f"ratelimit-{part}"] = (_plain, part)
        found[f"x-rate-limit-{part}"] = (_twitter, part)
        found[f"x-beta-ratelimit-{part}"] = (_points, part)
    for part in ("limit", "remaining", "used", "reset", "bucket", "scope", "global", "resource"):
        found[f"x-ratelimit-{part}"] = (_x, part)
    for part in ("max", "remaining", "interval-milliseconds", "daily", "daily-remaining"):
        found[f"x-hubspot-ratelimit-{part}"] = (_hubspot, part)
    return found


def _x(parts: dict[str, str], answer: Answer) -> None:
    """``X-RateLimit-...``: beside other families in one answer, so a family of its own."""
    _plain(parts, answer)


def _twitter(parts: dict[str, str], answer: Answer) -> None:
    """``X-Rate-Limit-...``, of X and Zendesk."""
    _plain(parts, answer)


_NAMES: Final = _names()

NamedFamily = Callable[[str, dict[str, str], Answer], None]

_PATTERNS: Final[list[tuple[NamedFamily, re.Pattern[str]]]] = [
    (_named, re.compile(r"x-ratelimit-(?P<part>limit|remaining|reset)-(?P<name>[a-z0-9_\-]+)")),
    (
        _anthropic,
        re.compile(r"anthropic-ratelimit-(?P<name>[a-z0-9\-]+)-(?P<part>limit|remaining|reset)"),
    ),
    (
        _binance,
        re.compile(r"x-(?:mbx|sapi)-(?P<part>used)-(?:ip-|uid-)?(?P<name>weight-[0-9]{1,6}[smhd])"),
    ),
    (_binance, re.compile(r"x-mbx-(?P<part>order-count)-(?P<name>[0-9]{1,6}[smhd])")),
    (_zendesk, re.compile(r"(?P<part>zendesk-ratelimit)-(?P<name>[a-z0-9\-]+)")),
]
"""The headers that have the name of a limit in theirs."""

_NAMED_RETRY: Final = re.compile(r"retry-after-(?!limit|remaining|reset|date)[a-z0-9_\-]+")
"""``Retry-After-short``, of @nestjs/throttler: the name is that of the limit that is used up."""

_groups: WeakValueDictionary[tuple[NamedFamily, str], Family] = WeakValueDictionary()
"""By family and limit, what reads the headers of that limit: one, as long as an answer has it."""

known: dict[str | bytes, Place] = {}
"""Where the names belong that were met, as they were written."""

dull: set[str | bytes] = set()
"""Names that were met: an answer with no others says nothing of limits."""


def place_of(name: Any) -> Place | None:
    """Where a name belongs that was not met before, which is remembered; None is nowhere."""
    if not isinstance(name, (str, bytes)) or len(name) > LONGEST_NAME:
        return None
    lower = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
    if len(dull) + len(known) >= MOST_NAMES:
        dull.clear()
        known.clear()
    place = _NAMES.get(lower)
    if place is None:
        place = _place_by_pattern(lower)
    kept = bytes(name) if isinstance(name, bytes) else str(name)  # some are of subclasses
    if place is not None:
        known[kept] = place
    if place is None or place[0] is aside:
        dull.add(kept)
    return place


def _place_by_pattern(lower: str) -> Place | None:
    """Where a name belongs that has the name of a limit in it."""
    for family, pattern in _PATTERNS:
        found = pattern.fullmatch(lower)
        if found:
            part, name = found["part"], found["name"]
            if part == "order-count":
                part, name = "used", f"orders-{name}"
            group = _groups.setdefault((family, name), partial(family, name))
            return group, part
    return (retry, "seconds") if _NAMED_RETRY.fullmatch(lower) else None
