"""A local stand-in for the API of a language model: it enforces three limits at once, and counts.

Requests per period, tokens per period, and requests at a time. It counts as the real ones do::

    on arrival      one request, and the tokens that the call is reckoned to use; status 429 if
                    a budget has less than that left, or too many calls run already
    with the reply  the tokens that the call did use take the place of those reckoned: fewer are
                    a refund, more a debt, which later calls have to wait out
    on a failure    status 500, and what was counted on arrival stays counted

A call that is refused costs nothing.

The referee is not the player. Its books are kept in exact fractions, filled up at each event, and
share no code with the limits that they judge. It forgives nothing: a call that comes a nanosecond
too early is refused.

Units: seconds, and tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Protocol

from async_throttle._demo.api import headers


@dataclass(frozen=True, slots=True)
class Prompt:
    """A call, and what will become of it."""

    tokens: int  # that both sides reckon it will use
    usage: int  # that it will have used; nobody is told before the reply
    seconds: float  # until the reply
    fails: bool = False  # there will be no reply


@dataclass(frozen=True, slots=True)
class Usage:
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    usage: Usage


class Refused(Exception):
    """Status 429: *limits* were reached."""

    def __init__(self, *limits: str) -> None:
        super().__init__(*limits)
        self.limits = limits


class Failed(Exception):
    """Status 500."""


class Client(Protocol):
    """Whatever takes a call to the server: the server itself can."""

    async def chat(self, prompt: Prompt) -> Reply:
        """The reply; or `Refused`, or `Failed`."""
        ...


def instant() -> Fraction:
    """The event loop's time, to the nanosecond."""
    return Fraction(round(asyncio.get_running_loop().time() * 1_000_000_000), 1_000_000_000)


class Budget:
    """So much per period: full at first, filled at the rate, and below zero when in debt."""

    def __init__(self, size: int, period: float) -> None:
        self.size = size
        self.rate = size / Fraction(period)
        self.level = self.possible = Fraction(size)  # possible: what could have been used so far

    def fill(self, seconds: Fraction) -> None:
        """Let time pass. What has been given back is cut off here as well, if it is too much."""
        self.possible += self.rate * seconds
        self.level = min(Fraction(self.size), self.level + self.rate * seconds)


class Server:
    """The API.

    Attributes:
        admitted, served, failed: how many calls, each of which was admitted first.
        refused: how many calls each limit was against.
        refunds, debts: how many calls used less than reckoned, and how many more.
        used: tokens of the calls that are over, each at its true usage.
        active, peak: how many calls run, and how many did at most.
        busy: seconds that calls have run, together.
    """

    def __init__(self, requests: int, tokens: int, concurrency: int, period: float = 60.0) -> None:
        self.requests = Budget(requests, period)
        self.tokens = Budget(tokens, period)
        self.concurrency = concurrency
        self.admitted = self.served = self.failed = self.refunds = self.debts = 0
        self.refused = Counter[str]()
        self.used = 0
        self.active = self.peak = 0
        self.busy = Fraction()
        self._opened = self._seen = instant()

    async def chat(self, prompt: Prompt) -> Reply:
        """Reply as *prompt* says, if the limits allow.

        Raises:
            Refused: they do not.
            Failed: as *prompt* says.
        """
        self._admit(prompt.tokens)
        try:
            await asyncio.sleep(prompt.seconds)
        finally:
            self._catch_up()
            self.active -= 1
        if prompt.fails:
            self.failed += 1
            self.used += prompt.tokens
            raise Failed
        self.served += 1
        self.used += prompt.usage
        self.refunds += prompt.usage < prompt.tokens
        self.debts += prompt.usage > prompt.tokens
        self.tokens.level += prompt.tokens - prompt.usage
        # Who awaits this knows the truth in the same step: nobody calls in between.
        return Reply(Usage(prompt.usage))

    def shares(self) -> dict[str, float]:
        """The part of each limit that has been used of what could have been until now."""
        self._catch_up()
        return {
            "requests": float(self.admitted / self.requests.possible),
            "tokens": float(self.used / self.tokens.possible),
            "concurrency": float(self.busy / self.concurrency / (self._seen - self._opened)),
        }

    def _admit(self, tokens: int) -> None:
        self._catch_up()
        against = [
            limit
            for limit, reached in (
                ("requests", self.requests.level < 1),
                ("tokens", self.tokens.level < tokens),
                ("concurrency", self.active >= self.concurrency),
            )
            if reached
        ]
        if against:
            self.refused.update(against)
            raise Refused(*against)
        self.requests.level -= 1
        self.tokens.level -= tokens
        self.admitted += 1
        self.active += 1
        self.peak = max(self.peak, self.active)

    def _catch_up(self) -> None:
        """Enter the time that has passed into all the books."""
        now = instant()
        passed, self._seen = now - self._seen, now
        self.requests.fill(passed)
        self.tokens.fill(passed)
        self.busy += self.active * passed

    # The same as HTTP: one call per connection.

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request, and answer it."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(headers(head)["content-length"]))
        status, answer = await self._answer(Prompt(**json.loads(body)))
        content = json.dumps(answer)
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n{content}".encode()
        )
        writer.close()
        await writer.wait_closed()

    async def _answer(self, prompt: Prompt) -> tuple[str, dict[str, object]]:
        try:
            reply = await self.chat(prompt)
        except Refused as refusal:
            return "429 Too Many Requests", {"limits": refusal.limits}
        except Failed:
            return "500 Internal Server Error", {}
        return "200 OK", asdict(reply)


class HttpClient:
    """Calls a server elsewhere."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port

    async def chat(self, prompt: Prompt) -> Reply:
        """The reply; or `Refused`, or `Failed`."""
        content = json.dumps(asdict(prompt))
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(content)}\r\n\r\n{content}".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        answer = json.loads(body)
        match head.split()[1]:
            case b"200":
                return Reply(Usage(**answer["usage"]))
            case b"429":
                raise Refused(*answer["limits"])
            case b"500":
                raise Failed
        raise AssertionError(head)


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[HttpClient]:
    """*server* on a port of the loopback, for as long as the block lasts."""
    listening = await asyncio.start_server(server.connected, "127.0.0.1", 0, backlog=1024)
    async with listening:
        host, port = listening.sockets[0].getsockname()
        yield HttpClient(host, port)


class Network:
    """A way to the server on which each message takes a time of its own, up to *slowest*."""

    def __init__(self, server: Client, slowest: float) -> None:
        self._server = server
        self._slowest = slowest
        self._random = random.Random(1)

    async def chat(self, prompt: Prompt) -> Reply:
        """The reply; or `Refused`, or `Failed`."""
        await self._message()
        try:
            return await self._server.chat(prompt)
        finally:
            await self._message()

    async def _message(self) -> None:
        await asyncio.sleep(self._random.uniform(0, self._slowest))
