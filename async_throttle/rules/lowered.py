"""What a server has counted beyond the calls of a window, and when the window forgets it.

A server that others use as well says what it has left. What its count is ahead by was taken by
nobody here: it has no receipt, and it is forgotten when the server's own window is over, which is
not when those calls expire that went here. So a window keeps it apart from its calls: as pairs of
an instant and an amount, in the order of the instants. From that instant on the amount counts no
more.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import merge
from typing import Final

from async_throttle._units import NEVER

__all__ = ["NOTHING_LOWERED", "Lowered", "last", "left", "lowered", "moved", "ready"]

Lowered = tuple[tuple[int, int], ...]
"""Pairs of an instant and nanotokens, ascending: what was lowered, and when it is forgotten."""

NOTHING_LOWERED: Final[Lowered] = ()

MOST: Final = 100
"""Pairs that are kept apart; of more, neighbours become one, which is forgotten with the later."""


def left(pairs: Lowered, now: int) -> int:
    """Nanotokens of *pairs* that are not forgotten at *now*.

    >>> left(((5, 10), (9, 1)), 5)
    1
    """
    return sum([amount for until, amount in pairs if until > now])


def last(pairs: Lowered, now: int) -> int:
    """The instant from which on nothing of *pairs* counts; *now* if nothing does already."""
    return max(now, pairs[-1][0]) if pairs else now


def lowered(pairs: Lowered, now: int, until: int, amount: int) -> Lowered:
    """*pairs*, and *amount* that is forgotten at *until*, without what is forgotten at *now*.

    >>> lowered(((5, 10), (9, 1)), 5, 7, 3)
    ((7, 3), (9, 1))
    """
    kept = {until: 0} if until > now else {}
    for instant, weight in (*pairs, (until, amount)):
        if instant > now:
            kept[instant] = kept.get(instant, 0) + weight
    found = sorted(kept.items())
    while len(found) > MOST:
        # Invariant: nothing is forgotten before its instant.
        odd = found[: len(found) % 2]
        rest = found[len(odd) :]
        found = odd + [
            (later, one + other)
            for (_, one), (later, other) in zip(rest[::2], rest[1::2], strict=True)
        ]
    return tuple(found)


def moved(pairs: Iterable[Iterable[int]], by: int = 0) -> Lowered:
    """*pairs*, which may have been read from bytes, with all instants later by *by*."""
    return tuple([(until + by, amount) for until, amount in pairs])


def ready(now: int, excess: int, *leaving: Iterable[tuple[int, int]]) -> int:
    """The first instant, not before *now*, at which *excess* has gone of what is *leaving*.

    NEVER, if all of it is less. Each of *leaving* is in the order of its instants; what has left
    by *now* is no longer part of the excess.

    >>> ready(5, 4, [(5, 10), (9, 3)], [(6, 2), (8, 1)])
    9
    """
    if excess <= 0:
        return now
    for instant, amount in merge(*leaving):
        if instant > now:
            excess -= amount
            if excess <= 0:
                return instant
    return NEVER
