"""Three ways to call an API, and the HTTP client that all of them use.

Units: seconds, and tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urlsplit

from async_throttle import Throttle, ThrottleClosed
from async_throttle._demo.api import Limits, headers

TRIES = 3  # how often a call is sent before it is given up
SOCKETS = 100  # that clients without slots open at once: the default of several HTTP clients
PATIENCE = 60.0  # an API that says Retry-After: 3600 is taken at its word, and left
NO_ANSWER_AFTER = 30.0  # then the request has failed


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. A *status* of 0 says that nothing did, and *problem* why."""

    status: int
    retry_after: float = 0.0
    problem: str = ""

    @property
    def served(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """A limit was broken: 429, 503, or 418 from those who ban with it."""
        return self.status in (429, 503, 418)


def parse_response(head: bytes, now: float) -> Answer:
    """Reads the status and, of a refusal, Retry-After: seconds, or a date, *now* being Unix time.

    Raises:
        ValueError: *head* is not HTTP.
    """
    found = re.match(rb"HTTP/1\.\d (\d{3})[ \r]", head)
    if not found:
        raise ValueError(f"not HTTP/1: {head[:40]!r}")
    answer = Answer(int(found[1]), problem=f"HTTP status {int(found[1])}")
    if not answer.refused:
        return answer
    value = headers(head).get("retry-after", "")
    try:
        wait = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        wait = 1.0  # it does not say; some wait there must be
    return replace(answer, retry_after=max(0.0, wait))


async def get(url: str, weight: float) -> Answer:
    """GET *url* on a connection of its own; what goes wrong is part of the answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", f"X-Weight: {weight}"]
    request += ["User-Agent: async-throttle", "Accept: */*", "Connection: close", "", ""]
    writer = None
    try:
        async with asyncio.timeout(NO_ANSWER_AFTER):
            port = parts.port or (443 if tls else 80)
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
            writer.write("\r\n".join(request).encode())
            answer = parse_response(await reader.readuntil(b"\r\n\r\n"), time.time())
            while await reader.read(65536):  # until then the request is still in progress there
                pass
            return answer
    except TimeoutError:
        return Answer(0, problem=f"no answer within {NO_ANSWER_AFTER:g} s")
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        return Answer(0, problem=f"{type(error).__name__}: {error}")
    finally:
        if writer is not None:
            writer.transport.abort()  # all has been read, or nothing more is wanted


@dataclass(frozen=True, slots=True)
class Request:
    """One that was sent, and answered or not; instants in seconds since its run began."""

    weight: float
    sent: float
    done: float
    answer: Answer


class PlainBucket:
    """A token bucket as people write it: what is there goes at once, what is not is slept for."""

    def __init__(self, limits: Limits) -> None:
        self._rate = limits.capacity / limits.period
        self._size = self._level = limits.burst if limits.twin.bursts else limits.capacity
        self._at = -math.inf
        self._turn = asyncio.Lock()

    async def take(self, weight: float) -> None:
        """Wait for *weight* tokens, in turn."""
        async with self._turn:
            self._fill()
            if self._level < weight:
                await asyncio.sleep((weight - self._level) / self._rate)
                self._fill()
            self._level -= weight

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now


@dataclass
class Run:
    """One attempt to get every call served, while it lasts and after."""

    name: str
    url: str
    weights: Sequence[float]  # of each call
    requests: list[Request] = field(default_factory=list)  # a call that is refused sends several
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.begun

    @property
    def last_answer(self) -> float:
        """When that came: processes take their time to end."""
        return max((request.done for request in self.requests), default=0.0)

    def begin(self) -> None:
        """It begins now: what has to be there first has come."""
        self.begun = time.monotonic()

    def note(self, request: Request) -> None:
        """A request was answered, or not."""
        self.requests.append(request)

    async def unthrottled(self) -> None:
        """All calls at once. One that is refused obeys Retry-After, then tries again."""
        sockets = asyncio.Semaphore(SOCKETS)

        async def ask(weight: float) -> Answer:
            async with sockets:
                return await self._send(weight)

        await self._all(partial(self._obey, ask))

    async def plain(self, limits: Limits) -> None:
        """The same with what most programs have: a semaphore, and a token bucket before it."""
        slots = asyncio.Semaphore(limits.concurrency or SOCKETS)
        bucket = PlainBucket(limits)

        async def ask(weight: float) -> Answer:
            await bucket.take(weight)
            async with slots:
                return await self._send(weight)

        await self._all(partial(self._obey, ask))

    async def throttled(self, throttle: Throttle) -> None:
        """The same, by *throttle*. Should one be refused, all pause before it tries again."""

        async def call(weight: float) -> None:
            with contextlib.suppress(ThrottleClosed):
                for _ in range(TRIES):
                    async with throttle(weight):
                        answer = await self._send(weight)
                        if not answer.refused:
                            return
                        throttle.pause(answer.retry_after)
                        if answer.retry_after > PATIENCE:
                            throttle.close()

        await self._all(call)

    async def _obey(
        self, ask: Callable[[float], Coroutine[None, None, Answer]], weight: float
    ) -> None:
        """A call that, when it is refused, obeys Retry-After and tries again."""
        for _ in range(TRIES):
            answer = await ask(weight)
            if not answer.refused or answer.retry_after > PATIENCE:
                return
            await asyncio.sleep(answer.retry_after)

    async def _send(self, weight: float) -> Answer:
        sent = self.seconds
        answer = await get(self.url, weight)
        self.note(Request(weight, sent, self.seconds, answer))
        return answer

    async def _all(self, call: Callable[[float], Coroutine[None, None, None]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for weight in self.weights:
                tasks.create_task(call(weight))
