"""Scanners for what servers write in headers: numbers, durations, dates, structured fields.

Servers may write anything, and Python reads more than servers mean: ``int`` takes "1_0", "+5" and
Arabic digits, ``email.utils`` reads a date with ``-0000`` as local time. So each form has its own
strict pattern here, over ASCII alone. What does not have that form is None: nothing raises.

Sources: RFC 9110 section 5.6.7 (dates), RFC 9651 (structured fields), Go's ``time.Duration``.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

__all__ = ["DAY", "LONGEST", "MOST", "Item", "duration", "instant", "items", "members", "number"]

LONGEST: Final = 8192
"""Characters of the longest value that is looked at: servers and clients refuse longer ones."""

MOST: Final = 1e15
"""No server means more than this, of whatever it counts."""

DAY: Final = 86_400
"""Seconds."""

DIGITS: Final = 18
"""Most digits on either side of a decimal point."""

Item = tuple[str, dict[str, str]]
"""A member of a list: its value, and its parameters."""


def number(text: str) -> float | None:
    """A number of at least 0, without sign and exponent, at most 1e15.

    >>> number("12"), number("2.50"), number("-1"), number("1e3"), number("1_0"), number("٣")
    (12, 2.5, None, None, None, None)
    """
    if not text.isascii():
        return None
    found: float
    if text.isdigit() and len(text) <= DIGITS:
        found = int(text)
    else:
        whole, _, fraction = text.partition(".")
        if not (whole.isdigit() and fraction.isdigit() and len(text) <= 2 * DIGITS):
            return None
        found = float(text)
    return found if found <= MOST else None


_PART: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(d|h|ms|m|s|us|\u00b5s|\u03bcs|ns)")
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 1e-3, "ns": 1e-9}
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


def duration(text: str) -> float | None:
    """Seconds of a duration in the manner of Go.

    >>> duration("6m0s"), duration("12ms"), duration("2m59.56s"), duration("6")
    (360.0, 0.012, 179.56, None)
    """
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    total = 0.0
    for amount, unit in _PART.findall(text):
        total += float(amount) * _UNITS.get(unit, 1e-6)
    return total if total <= MOST else None


_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun"]
_MONTHS += ["Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_DAY: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_OFFSET: Final = "(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})"
_ZONE: Final = f"(?: (?:(?:GMT|UTC|Z)|{_OFFSET}))?"
_DATES: Final = [
    # Sun, 29 Nov 2026 17:58:25 GMT; also -0000, another offset, no zone at all
    rf"{_DAY}, (?P<day>[0-9]{{1,2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME}{_ZONE}",
    # Sunday, 29-Nov-26 17:58:25 GMT
    rf"{_DAY}[a-z]*, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME}{_ZONE}",
    # Sun Nov 29 17:58:25 2026
    rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    # Sun Nov 29 2026 18:58:42 GMT+0100 (Central European Standard Time), as JavaScript writes it
    rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}) (?P<year>[0-9]{{4}}) {_TIME}"
    rf" (?:GMT|UTC)(?:{_OFFSET})?(?: \([ -'*-~]*\))?",
    # 2026-11-29T17:58:13Z; also without seconds, with a fraction, an offset, no zone at all
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[Tt ]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,18})?)?"
    rf"(?:[Zz]|{_OFFSET})?",
]
_FORMS: Final = [re.compile(form) for form in _DATES]
_1970: Final = date(1970, 1, 1).toordinal()


def instant(text: str) -> float | None:
    """Seconds since 1970 of a date, in the forms of HTTP, ISO 8601 and JavaScript.

    A date without a zone, and one with ``-0000``, is in UTC. Years of two digits are 1970 to 2069.

    >>> instant("Sun, 29 Nov 2026 17:58:14 GMT"), instant("2026-11-29T17:58Z")
    (1795975094, 1795975080)
    """
    return parsed(text) if len(text) <= 128 else None


@lru_cache(maxsize=128)  # answers of the same second carry the same date
def parsed(text: str) -> float | None:
    """The same, of a text that is short enough to be remembered."""
    for form in _FORMS:
        found = form.fullmatch(text)
        if found:
            return _seconds(found.groupdict())
    return None


def _seconds(said: dict[str, str | None]) -> float | None:
    """Seconds since 1970 of a date, by its parts."""
    parts = {name: text for name, text in said.items() if text}
    year, month = int(parts["year"]), parts["month"]
    if len(parts["year"]) == 2:
        year += 2000 if year < 70 else 1900
    hour, minute, second = int(parts["hour"]), int(parts["minute"]), int(parts.get("second", 0))
    if hour > 23 or minute > 59 or second > 60:  # 60 is a leap second
        return None
    try:
        day = date(year, _month(month), int(parts["day"])).toordinal() - _1970
    except ValueError:
        return None
    total: float = day * 86_400 + hour * 3_600 + minute * 60 + second
    if "sign" in parts:
        offset = int(parts["hours"]) * 3_600 + int(parts["minutes"]) * 60
        total += offset if parts["sign"] == "-" else -offset
    if "fraction" in parts:
        total += float(parts["fraction"])
    return total


def _month(text: str) -> int:
    return int(text) if text.isdigit() else _MONTHS.index(text) + 1


_BARE: Final = (
    r'"(?:[ !#-\[\]-~]|\\["\\])*"'  # a string
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~:/0-9A-Za-z]*"  # a token
    r"|-?[0-9]{1,15}(?:\.[0-9]{1,3})?"  # a number
    r"|:[A-Za-z0-9+/=]*:|\?[01]"  # bytes; a boolean
)
_KEY: Final = r"[a-z*][a-z0-9_\-.*]*"
_PARAMETER: Final = re.compile(rf";[ ]*({_KEY})(?:=({_BARE}))?")
_PARAMETERS: Final = rf"((?:;[ ]*{_KEY}(?:=(?:{_BARE}))?)*)"
_ITEM: Final = re.compile(rf"({_BARE}){_PARAMETERS}(?:[ \t]*,[ \t]*(?=[^ \t])|$)")
_MEMBER: Final = re.compile(rf"({_KEY})(?:=({_BARE}))?{_PARAMETERS}(?:[ \t]*,[ \t]*(?=[^ \t])|$)")


def items(text: str) -> list[Item] | None:
    r"""The members of a list of RFC 9651, without inner lists; strings without their quotes.

    >>> items('"2-in-10sec"; r=0;t=10, default;r=50')
    [('2-in-10sec', {'r': '0', 't': '10'}), ('default', {'r': '50'})]
    >>> items("problemPolicy;r=0, t=10")  # an example of a draft, which is no list
    """
    found: list[Item] = []
    at, text = 0, text.strip(" ")
    while at < len(text):
        item = _ITEM.match(text, at)
        if item is None:
            return None
        value, parameters = item.groups()
        said = {key: _plain(bare) for key, bare in _PARAMETER.findall(parameters)}
        found.append((_plain(value), said))
        at = item.end()
    return found


def members(text: str) -> dict[str, str] | None:
    """The members of a dictionary of RFC 9651, without their parameters and without inner lists.

    >>> members("limit=2, remaining=1, reset=11")
    {'limit': '2', 'remaining': '1', 'reset': '11'}
    """
    found: dict[str, str] = {}
    at, text = 0, text.strip(" ")
    while at < len(text):
        member = _MEMBER.match(text, at)
        if member is None:
            return None
        found[member[1]] = _plain(member[2] or "")
        at = member.end()
    return found


def _plain(bare: str) -> str:
    """What a bare item says: a string without its quotes, anything else as it is written.

    What is not said at all is true.
    """
    if bare[:1] != '"':
        return bare or "?1"
    return _ESCAPED.sub(r"\1", bare[1:-1]) if "\\" in bare else bare[1:-1]


_ESCAPED: Final = re.compile(r"\\(.)")
