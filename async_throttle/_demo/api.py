"""An HTTP API on loopback that enforces both kinds of limit and bans whoever breaks one.

The referee is not the player: its books are naive, kept in fractions, and share no code with the
throttle that they judge. It counts exactly, in the way of a server that the user names, and
forgives nothing: not a call too many at once, and not that calls are on their way for a time that
nobody knows, which a network adds here as well.

Units: seconds, and tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from async_throttle._demo.twins import Said, Twin, twin_of

BAN = 1.0  # whole seconds, because Retry-After can say nothing finer
SERVICE_TIME = (0.05, 0.15)  # a request takes a time drawn from between these two
TRAVEL = (0.0, 0.08)  # and so much on its way to the server, and on its way back
NO_REQUEST_AFTER = 30.0  # then the API hangs up
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Limits:
    """What the documentation of an API says: so much per period, so many at once."""

    capacity: float
    concurrency: int  # 0: any number
    period: float
    burst: float
    server: str  # by whose way of counting: a name in `TWINS`

    @property
    def twin(self) -> Twin:
        """The way of counting."""
        return twin_of(self.server)

    @property
    def said(self) -> Said:
        """The rate, as the server says it."""
        return Said(self.capacity, self.period, self.burst)


# The referee: no clock, no sockets.


def _exact(value: float) -> Fraction:
    """A number that was given in decimals: ten times 0.1 is 1."""
    return Fraction(round(value * 10**9), 10**9)


class _Ledger(ABC):
    """What is counted. Instants are whole nanoseconds."""

    def __init__(self, limits: Limits) -> None:
        self.capacity = _exact(limits.capacity)
        self.period = round(limits.period * _SECOND)
        self.burst = _exact(limits.burst)

    @abstractmethod
    def take(self, now: int, weight: Fraction) -> bool:
        """Enter *weight* and say True, or refuse it and say False."""


class _Bucket(_Ledger):
    """Full at first, filled at the rate, emptied by what is served."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._level, self._at = self.burst, 0

    def take(self, now: int, weight: Fraction) -> bool:
        come = self.capacity * (now - self._at) / self.period
        self._level, self._at = min(self.burst, self._level + come), now
        if weight > self._level:
            return False
        self._level -= weight
        return True


class _Milliseconds(_Ledger):
    """That of nginx: in whole milliseconds and thousandths of a token.

    It is what exceeds the rate that is counted, so the first token after a rest is none.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._excess, self._at = Fraction(0), -(10**12)

    def take(self, now: int, weight: Fraction) -> bool:
        now = now * 1_000 // _SECOND
        gone = self.capacity * _SECOND * (now - self._at) // self.period
        first = min(Fraction(1), weight)
        excess = max(Fraction(0), self._excess - Fraction(gone, 1_000) + first) + weight - first
        if excess > self.burst:
            return False
        self._excess, self._at = excess, now
        return True


class _WholeTokens(_Ledger):
    """A bucket of vsthrottle: whole tokens come, and each grant drops the fraction."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._level, self._at = self.capacity, 0

    def take(self, now: int, weight: Fraction) -> bool:
        come = self.capacity * (now - self._at) // self.period
        level = min(self.capacity, self._level + come)
        if weight > level:
            return False
        self._level, self._at = level - weight, now
        return True


class _Log(_Ledger):
    """A list of all that was served within the last period."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._served: list[tuple[int, Fraction]] = []  # (instant, weight)

    def take(self, now: int, weight: Fraction) -> bool:
        self._served = [(at, taken) for at, taken in self._served if now - at < self.period]
        if weight + sum(taken for _, taken in self._served) > self.capacity:
            return False
        self._served.append((now, weight))
        return True


class _Window(_Ledger):
    """A sum, from the first request after the last window was over."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._over, self._served = 0, Fraction(0)

    def opens(self, now: int) -> int:
        """When the window is over that opens now."""
        return now + self.period

    def take(self, now: int, weight: Fraction) -> bool:
        if now >= self._over:
            self._over, self._served = self.opens(now), Fraction(0)
        if self._served + weight > self.capacity:
            return False
        self._served += weight
        return True


class _Clock(_Window):
    """A sum for each window of the wall clock."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._ahead = time.time_ns() - time.monotonic_ns()

    def opens(self, now: int) -> int:
        """When the window is over in which now is."""
        return now + self.period - (now + self._ahead) % self.period


class _TwoWindows(_Ledger):
    """This window and a share of the last one, rounded down; what is refused counts as well."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._begun, self._now, self._last = 0, Fraction(0), Fraction(0)

    def take(self, now: int, weight: Fraction) -> bool:
        if now - self._begun >= 2 * self.period:
            self._begun, self._now, self._last = now, Fraction(0), Fraction(0)
        elif now - self._begun >= self.period:
            self._begun += self.period
            self._now, self._last = Fraction(0), self._now
        self._now += weight
        left = self.period - (now - self._begun)
        return self._now + self._last * left // self.period <= self.capacity


_LEDGERS: dict[str, type[_Ledger]] = {
    "bucket": _Bucket,
    "milliseconds": _Milliseconds,
    "whole tokens": _WholeTokens,
    "log": _Log,
    "window": _Window,
    "clock": _Clock,
    "two windows": _TwoWindows,
}


class Referee:
    """Decides on every request that arrives, and bans the client that breaks a limit.

    Instants in seconds.

    >>> referee = Referee(Limits(1, concurrency=0, period=1, burst=1, server="bucket"))
    >>> [referee.arrive(at, weight=1) for at in (0.0, 0.5, 1.25, 2.5)]
    [0.0, 1.0, 0.25, 0.0]
    """

    def __init__(self, limits: Limits) -> None:
        self._ledger = _LEDGERS[limits.twin.ledger](limits)
        self._most_at_once = limits.concurrency or math.inf
        self._in_progress = 0
        self._banned_until = -math.inf

    def arrive(self, now: float, weight: float) -> float:
        """0.0 if the request is served (then call `leave`), or the seconds until the ban ends."""
        if now >= self._banned_until:
            at, tokens = round(now * _SECOND), _exact(weight)
            if self._in_progress < self._most_at_once and self._ledger.take(at, tokens):
                self._in_progress += 1
                return 0.0
            self._banned_until = now + BAN
        return min(BAN, self._banned_until - now)  # (now + BAN) - now may be a rounding more

    def leave(self) -> None:
        """A request that was served is over."""
        self._in_progress -= 1


# The API.


def parse_request(head: bytes) -> float:
    """The weight that a GET asks for in its X-Weight header, 1 if it has none.

    Raises:
        ValueError: it is not a GET, or the weight is not a number of at least 0.
    """
    if not re.match(rb"GET \S+ HTTP/1\.\d\r\n", head):
        raise ValueError(f"not a GET: {head[:40]!r}")
    weight = float(headers(head).get("x-weight", "1"))
    if not 0 <= weight < math.inf:
        raise ValueError(f"not a weight: {weight}")
    return weight


def headers(head: bytes) -> dict[str, str]:
    """The header lines of a request or a response, by their names in lower case."""
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


class _Api:
    """Any GET is a call. 200 if it is served, 429 with Retry-After if not, 400 if it is no GET."""

    def __init__(self, limits: Limits, seed: int) -> None:
        self._referee = Referee(limits)
        self._random = random.Random(seed)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One request per connection. Who hangs up, stalls, or sends no end of a head, gets nothing.
        try:
            async with asyncio.timeout(NO_REQUEST_AFTER):
                status, extra = await self._answer(await reader.readuntil(b"\r\n\r\n"))
                head = [f"HTTP/1.1 {status}", *extra, "Content-Length: 0", "Connection: close"]
                writer.write("\r\n".join([*head, "", ""]).encode())
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # cancelled: all is over, and CPython up to 3.12 would log a traceback
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> tuple[str, list[str]]:
        try:
            weight = parse_request(head)
        except ValueError:
            return "400 Bad Request", []
        await asyncio.sleep(self._random.uniform(*TRAVEL))
        banned = self._referee.arrive(time.monotonic(), weight)
        if not banned:
            try:
                await asyncio.sleep(self._random.uniform(*SERVICE_TIME))
            finally:
                self._referee.leave()
        await asyncio.sleep(self._random.uniform(*TRAVEL))
        if banned:
            return "429 Too Many Requests", [f"Retry-After: {math.ceil(banned)}"]
        return "200 OK", []


@contextlib.contextmanager
def serving(limits: Limits, seed: int) -> Iterator[str]:
    """An API with these limits for as long as the block lasts; binds its URL.

    It has a thread and an event loop of its own: a client that blocks its loop does not stop the
    referee's clock.
    """
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(stop.wait())

    thread = threading.Thread(target=run, name="demo API", daemon=True)
    thread.start()
    opening = asyncio.start_server(_Api(limits, seed).connected, "127.0.0.1", 0, backlog=1024)
    server = asyncio.run_coroutine_threadsafe(opening, loop).result()
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(stop.set)
        thread.join()
