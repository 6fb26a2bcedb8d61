"""An HTTP API on loopback that enforces both kinds of limit and bans whoever breaks one.

The referee is not the player: its books are naive, kept in floats, and share no code with the
throttle that they judge.

It forgives jitter, for calls that leave on time may arrive bunched: a bucket holds `TOLERANCE`
seconds' worth of tokens more, a sliding window forgets that much early, and near the edge of a
fixed window either side will do. It forgives nothing else, not even one call too many at once.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

TOLERANCE = 0.05  # jitter that the API forgives: a loopback and two event loops on a busy machine
BAN = 1.0  # whole seconds, because Retry-After can say nothing finer
SERVICE_TIME = (0.05, 0.15)  # a request takes a time drawn from between these two
NO_REQUEST_AFTER = 30.0  # then the API hangs up
_ROUNDING = 1e-9  # 0.1 + 0.2 fits into 0.3


@dataclass(frozen=True, slots=True)
class Limits:
    """What the documentation of an API says: so much per period, so many at once."""

    capacity: float
    concurrency: int  # 0: any number
    period: float
    burst: float | None  # None: a window, which has none
    algorithm: str  # "sliding-window", "fixed-window"; any other name is a bucket


# The referee: no clock, no sockets.


class _Ledger(Protocol):
    def take(self, now: float, weight: float) -> bool:
        """Enter *weight* and say True, or change nothing and say False."""
        ...


class _Bucket:
    """Full at first, filled at the rate, emptied by what is served."""

    def __init__(self, limits: Limits) -> None:
        assert limits.burst is not None, "only windows have no burst"
        self._rate = limits.capacity / limits.period
        self._size = self._level = limits.burst + self._rate * TOLERANCE
        self._at = -math.inf

    def take(self, now: float, weight: float) -> bool:
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        if weight > self._level:
            return False
        self._level -= weight
        return True


class _SlidingWindow:
    """A list of all that was served within the last period."""

    def __init__(self, limits: Limits) -> None:
        self._capacity = limits.capacity + _ROUNDING
        self._length = limits.period - min(TOLERANCE, limits.period / 2)
        self._served: list[tuple[float, float]] = []  # (instant, weight)

    def take(self, now: float, weight: float) -> bool:
        self._served = [(at, w) for at, w in self._served if now - at < self._length]
        if weight + sum(w for _, w in self._served) > self._capacity:
            return False
        self._served.append((now, weight))
        return True


class _FixedWindow:
    """A sum per window; the first request opens the first one."""

    def __init__(self, limits: Limits) -> None:
        self._capacity = limits.capacity + _ROUNDING
        self._period = limits.period
        self._tolerance = min(TOLERANCE, limits.period / 4)
        self._first: float | None = None
        self._served: dict[int, float] = {}  # number of the window -> weight

    def take(self, now: float, weight: float) -> bool:
        if self._first is None:
            self._first = now
        # Not before the first one: the window before it would be a gift of all its capacity.
        for at in (max(self._first, now - self._tolerance), now + self._tolerance):
            window = math.floor((at - self._first) / self._period)
            served = self._served.get(window, 0.0)
            if served + weight <= self._capacity:
                self._served[window] = served + weight
                return True
        return False


class Referee:
    """Decides on every request that arrives, and bans the client that breaks a limit.

    >>> referee = Referee(Limits(1, concurrency=0, period=1, burst=1, algorithm="token-bucket"))
    >>> [referee.arrive(at, weight=1) for at in (0.0, 0.5, 1.25, 2.5)]
    [0.0, 1.0, 0.25, 0.0]
    """

    def __init__(self, limits: Limits) -> None:
        ledgers: dict[str, Callable[[Limits], _Ledger]] = {
            "sliding-window": _SlidingWindow,
            "fixed-window": _FixedWindow,
        }
        self._ledger = ledgers.get(limits.algorithm, _Bucket)(limits)
        self._most_at_once = limits.concurrency or math.inf
        self._in_progress = 0
        self._banned_until = -math.inf

    def arrive(self, now: float, weight: float) -> float:
        """0.0 if the request is served (then call `leave`), or the seconds until the ban ends."""
        if now >= self._banned_until:
            if self._in_progress < self._most_at_once and self._ledger.take(now, weight):
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
        banned = self._referee.arrive(time.monotonic(), weight)
        if banned:
            return "429 Too Many Requests", [f"Retry-After: {math.ceil(banned)}"]
        try:
            await asyncio.sleep(self._random.uniform(*SERVICE_TIME))
        finally:
            self._referee.leave()  # before the answer is out: its reader may call again at once
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
