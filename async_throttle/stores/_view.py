"""How limits stand, as text of so many columns. No clock, no terminal, no store.

Names come from programs: whatever could move a cursor is escaped, and characters that take two
columns, or none, are counted as such.

Units: seconds, and tokens.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from async_throttle.stores._reading import Parameters, Reading, SessionReading

__all__ = ["ASCII", "BLOCKS", "Glyphs", "cut", "frame", "line", "plain", "view"]

LEAST: Final = 40
"""Columns: what is narrower is cut."""
NUMBERS: Final = (9, 7, 11, 9, 12)
"""Columns of the numbers beside a host."""
BESIDE: Final = 26
"""Columns for what stands beside a bar, if there is room."""
WIDEST: Final = 50
"""Columns of a bar."""


class Glyphs(NamedTuple):
    """What bars are drawn with, and what stands for text that was cut off."""

    left: str
    in_flight: str
    taken: str
    cut: str


BLOCKS: Final = Glyphs("█", "▒", "░", "…")
ASCII: Final = Glyphs("#", "+", ".", "~")


# -- text -------------------------------------------------------------------------------------


def plain(text: str, encoding: str = "utf-8") -> str:
    r"""*text* without anything that is not for the eye, or not of the encoding.

    >>> plain("chat\x1b[2J"), plain("größe", "ascii")
    ('chat\\x1b[2J', 'gr\\xf6\\xdfe')
    """
    return "".join(c if _is_plain(c, encoding) else ascii(c)[1:-1] for c in text)


def _is_plain(c: str, encoding: str) -> bool:
    try:
        return c.isprintable() and bool(c.encode(encoding))
    except UnicodeEncodeError:
        return False


def columns_of(text: str) -> int:
    """How many columns *text* takes.

    >>> columns_of("quota"), columns_of("割り当て"), columns_of("e\u0301")
    (5, 8, 1)
    """
    return sum(_columns_of(c) for c in text)


def _columns_of(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me"):  # it stands on the one before
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def cut(text: str, columns: int, glyphs: Glyphs = BLOCKS) -> str:
    """*text*, or the beginning of it, in so many columns at most.

    >>> cut("abcdef", 4), cut("割り当て", 4)
    ('abc…', '割…')
    """
    if columns_of(text) <= columns:
        return text
    shown, room = "", columns - 1
    for c in text:
        room -= _columns_of(c)
        if room < 0:
            break
        shown += c
    return shown + glyphs.cut if columns > 0 else ""


def _padded(text: str, columns: int, glyphs: Glyphs) -> str:
    text = cut(text, columns, glyphs)
    return text + " " * (columns - columns_of(text))


def number(value: float) -> str:
    """A number as it was given.

    >>> number(200_000), number(0.5)
    ('200,000', '0.5')
    """
    return f"{value:,.10g}"


def rough(value: float) -> str:
    """A number that changes all the time.

    >>> rough(67.4381), rough(1234.5), rough(0.0321), rough(100)
    ('67.4', '1,234', '0.032', '100')
    """
    if value == round(value) or abs(value) >= 1_000:
        return f"{math.floor(value):,}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def span(seconds: float) -> str:
    """A span of time as it was given.

    >>> span(1), span(90), span(300), span(86_400), span(0.25)
    ('1 s', '90 s', '5 min', '1 d', '0.25 s')
    """
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % length == 0 and seconds > (length if unit == "min" else 0):
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s"


def rest(seconds: float) -> str:
    """A span of time that gets shorter, or longer.

    >>> rest(29.83), rest(3_000), rest(1_000_000)
    ('29.8 s', '50 min', '278 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6_000:
        return f"{math.ceil(seconds / 60)} min"
    return f"{math.ceil(seconds / 3_600):,} h"


# -- limits -----------------------------------------------------------------------------------


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "limit"), counted(2, "limit")
    ('1 limit', '2 limits')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def terms(parameters: Parameters, algorithm: str | None) -> str:
    """What a limit allows."""
    told = []
    if parameters.capacity is not None and parameters.period is not None:
        told.append(f"{number(parameters.capacity)} per {span(parameters.period)}")
    if parameters.burst is not None and algorithm == "bucket":
        told.append(f"burst {number(parameters.burst)}")
    elif algorithm is not None:
        told.append(algorithm)
    if parameters.concurrency is not None:
        told.append(counted(parameters.concurrency, "slot"))
    return ", ".join(told) or "no limit"


def changes(limit: Reading) -> list[str]:
    """What was set differently from what the programs say."""
    told = []
    for what in ("capacity", "period", "burst", "concurrency"):
        now, code = getattr(limit.now, what), getattr(limit.code, what)
        follows = what == "burst" and now == limit.now.capacity and code == limit.code.capacity
        if now != code and not follows:
            shown = [
                "none" if value is None else span(value) if what == "period" else number(value)
                for value in (now, code)
            ]
            told.append(f"{what} {shown[0]} (code: {shown[1]})")
    return told


def facts(limit: Reading) -> list[str]:
    """How it stands, beside the level."""
    told = []
    if limit.now.concurrency is not None:
        told.append(f"{rough(limit.active)} of {number(limit.now.concurrency)} slots used")
    if limit.counts == "end":
        told.append(f"{rough(limit.in_flight)} in flight")
    told.append(f"{limit.waiting:,} waiting")
    if limit.paused:
        told.append("paused" if limit.paused == math.inf else f"paused for {rest(limit.paused)}")
        if limit.empties:
            told.append("then empty")
    if limit.held_back:
        told.append(f"no slots for {rest(limit.held_back)}: its state was lost")
    return told


def bar(limit: Reading, width: int, glyphs: Glyphs) -> str:
    """What is left and what is in flight, of what may be taken at once."""
    most, level = limit.now.burst or 1.0, limit.level or 0.0
    ends = [
        min(width, max(0, math.floor(weight / most * width)))
        for weight in (level, level + limit.in_flight)
    ]
    if level > 0:
        ends = [max(1, end) for end in ends]
    left, flying = ends[0], max(ends) - ends[0]
    return glyphs.left * left + glyphs.in_flight * flying + glyphs.taken * (width - left - flying)


def level(limit: Reading) -> str:
    """What is left."""
    if limit.level is None or limit.now.burst is None:
        return "no rate"
    return f"{rough(limit.level)} of {number(limit.now.burst)} left"


def line(limit: Reading, encoding: str = "utf-8") -> str:
    """A limit in one line, of whatever width."""
    told = [level(limit), *facts(limit), counted(len(limit.sessions), "session")]
    by_hand = f"; set by hand: {', '.join(changes(limit))}" if limit.by_hand else ""
    return f"{plain(limit.name, encoding)}: {', '.join(told)}{by_hand}"


def view(limit: Reading, columns: int, glyphs: Glyphs, encoding: str = "utf-8") -> list[str]:
    """A limit and its sessions, a list of lines."""
    name, what = plain(limit.name, encoding), terms(limit.now, limit.algorithm)
    room = max(LEAST // 4, columns - columns_of(what) - 2)
    lines = [f"{_padded(name, room, glyphs)}  {what}"]
    if limit.level is not None:
        width = max(8, min(WIDEST, columns - BESIDE - 4))
        lines.append(f"  {bar(limit, width, glyphs)}  {level(limit)}")
    lines += _wrapped(facts(limit), columns)
    if limit.by_hand:
        first, *others = changes(limit) or ["nothing that is shown"]
        lines += _wrapped([f"set by hand: {first}", *others], columns)
    if limit.sessions:
        heads = ("pid", "held", "in flight", "waiting", "seen")
        lines.append(_row("host", heads, columns, glyphs))
        lines += [_session(each, columns, glyphs, encoding) for each in limit.sessions]
    return [cut(text.rstrip(), columns, glyphs) for text in lines]


def _session(session: SessionReading, columns: int, glyphs: Glyphs, encoding: str) -> str:
    numbers = (
        "?" if session.pid is None else str(session.pid),
        rough(session.held),
        rough(session.in_flight),
        f"{session.waiting:,}",
        f"{rest(session.seen)} ago",
    )
    return _row(plain(session.host, encoding), numbers, columns, glyphs)


def _row(host: str, numbers: Iterable[str], columns: int, glyphs: Glyphs) -> str:
    room = max(8, min(WIDEST, columns - 4 - sum(NUMBERS)))
    cells = [f"{text:>{width}}" for text, width in zip(numbers, NUMBERS, strict=True)]
    return f"    {_padded(host, room, glyphs)}{''.join(cells)}"


def _wrapped(told: Sequence[str], columns: int) -> list[str]:
    """What is told, a comma between, in lines that are indented."""
    lines = [""]
    for n, text in enumerate(told):
        text += "," if n < len(told) - 1 else ""
        if lines[-1] and columns_of(lines[-1]) + len(text) + 3 > columns:
            lines.append("")
        lines[-1] += f" {text}" if lines[-1] else text
    return [f"  {text}" for text in lines]


def frame(
    store: str,
    clock: str,
    limits: Sequence[Reading],
    columns: int,
    glyphs: Glyphs,
    encoding: str = "utf-8",
) -> list[str]:
    """All limits of a store, a list of lines of *columns* at most.

    Args:
        store: what it is called, without any password.
        clock: the time.
    """
    sessions = {session.name for limit in limits for session in limit.sessions}
    told = f"{counted(len(limits), 'limit')}, {counted(len(sessions), 'session')}  {clock}"
    room, name = columns - columns_of(told) - 2, plain(store, encoding)
    if columns_of(name) <= room:
        lines = [f"{_padded(name, room, glyphs)}  {told}"]
    else:
        lines = [cut(name, columns, glyphs), cut(told, columns, glyphs)]
    for limit in limits:
        lines += ["", *view(limit, columns, glyphs, encoding)]
    if not limits:
        lines += ["", cut("No limit is in use, and of none is anything missing.", columns, glyphs)]
    return lines
