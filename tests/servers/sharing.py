"""A client that learns from answers, an outsider that has the same key, and what both of them get.

The client wants half as much again as the limit allows, and asks through a `ThrottledTransport` of
httpx. The outsider takes three tenths of the limit, at random, and keeps its pace whatever happens:
nothing of it is known to the client but what the server says in its headers, if it says anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, time
from typing import Any, NamedTuple

import httpx

from async_throttle.http import Learner
from async_throttle.http.httpx import ThrottledTransport

from .http import Client
from .jitter import LONGEST
from .saturate import REFUSED, SERVED, Listener, Way, listening
from .server import Running, Server, Shared
from .visits import Tell, started

WANTED = 1.5
"""What the client wants, in terms of the limit."""

TAKEN = 0.3
"""What the outsider wants."""


class Answer(NamedTuple):
    """What the client got; instants in seconds since it started."""

    sent: float
    came: float
    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def refused(self) -> bool:
        return self.status in REFUSED


class Heard(NamedTuple):
    """What the outsider got, and when."""

    came: float
    status: int


class Recorder(httpx.AsyncBaseTransport):
    """A network that takes its time, both ways, and keeps what the servers answer.

    A proxy, as `jitter` is, would cost more than all the rest.
    """

    def __init__(self, trip: Callable[[], float]) -> None:
        """*trip*: how many seconds it takes, one way."""
        self.answers: list[Answer] = []
        self.start = perf_counter()
        self._trip = trip
        unlimited = httpx.Limits(max_connections=None)
        self._inner = httpx.AsyncHTTPTransport(verify=False, limits=unlimited)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = perf_counter() - self.start
        await asyncio.sleep(self._trip())
        response = await self._inner.handle_async_request(request)
        await asyncio.sleep(self._trip())
        came = perf_counter() - self.start
        self.answers.append(Answer(sent, came, response.status_code, tuple(response.headers.raw)))
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True)
class Use:
    """What came of it."""

    shared: Shared
    seconds: float
    late: float  # seconds for which timers that had rung were not heard, all in all
    answers: list[Answer] = field(repr=False)
    outsider: list[Heard] = field(repr=False)

    @property
    def served(self) -> int:
        return sum(not answer.refused for answer in self.answers)

    @property
    def refused(self) -> int:
        return len(self.answers) - self.served

    @property
    def windows(self) -> int:
        return round(self.seconds / self.shared.period)

    @property
    def most_refused(self) -> int:
        """The most refusals in a period: these follow each other from the start on."""
        periods = Counter(int(a.came / self.shared.period) for a in self.answers if a.refused)
        return max(periods.values(), default=0)

    @property
    def outsider_served(self) -> int:
        return sum(heard.status in SERVED for heard in self.outsider)

    @property
    def given(self) -> float:
        """What there was for both of them.

        Of a server that counts refusals, those of the outsider were not to be avoided. One that
        blocks gives nothing meanwhile, whatever a client does: between two blocks it gives its
        limit, or what both ask for if that is less.
        """
        shared = self.shared
        if not shared.blocks:
            given = shared.most * self.seconds / shared.period + shared.burst
            outsider_refused = len(self.outsider) - self.outsider_served
            return given - outsider_refused if shared.counts_refused else given
        wanted = (WANTED + TAKEN) * shared.most / shared.period
        refused = [each.came for each in self.answers if each.refused]
        refused += [each.came for each in self.outsider if each.status in REFUSED]
        given = free_at = 0.0
        for came in [*sorted(refused), self.seconds]:
            if came >= free_at:
                given += min(shared.most, wanted * (came - free_at))
                free_at = came + shared.blocks + LONGEST  # of those that were on their way
        return given

    @property
    def share(self) -> float:
        """The part of what there was that both of them used."""
        return (self.served + self.outsider_served) / self.given

    @property
    def retries(self) -> tuple[int, int]:
        """Of the first calls that were sent after a refusal: how many were served, of how many."""
        told = [answer.came for answer in self.answers if answer.refused]
        first = {
            min(later, key=lambda answer: answer.sent)
            for came in told
            if (later := [answer for answer in self.answers if answer.sent > came])
        }
        return sum(not answer.refused for answer in first), len(first)

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for these figures to say what the throttle does."""
        return self.late > 0.01 * self.seconds

    @property
    def good(self) -> bool:
        """Whether it is what it should be."""
        served, first = self.retries
        few = self.refused <= self.windows and self.most_refused <= self.shared.together
        return few and self.share >= 0.95 and served == first

    def __str__(self) -> str:
        served, first = self.retries
        return (
            f"{self.served} served, {self.refused} refused ({self.most_refused} in a period), "
            f"{self.outsider_served} served to the outsider of {len(self.outsider)}, "
            f"{self.share:.1%} used, first after a refusal {served}/{first}, "
            f"timers {self.late * 1000:.0f} ms late"
        )


async def share(
    running: Running, shared: Shared, way: Way, seconds: float, listener: Listener, *, seed: int = 0
) -> Use:
    """Ask for so many *seconds*, together with the outsider."""
    late = listener.late
    dice = random.Random(seed)
    rate = shared.most / shared.period
    heard: list[Heard] = []

    async with contextlib.AsyncExitStack() as stack:
        port = running.port
        outsider = await stack.enter_async_context(Client(port, opened=4))
        recorder = Recorder((lambda: dice.uniform(0, LONGEST)) if way == "jitter" else lambda: 0)
        transport = ThrottledTransport(shared.limiter(), recorder, learn=Learner(shared=True))
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)
        )
        url = f"http://127.0.0.1:{port}{shared.path}"

        async def call(after: float) -> None:
            await asyncio.sleep(after)
            await client.get(url, headers={"X-Api-Key": outsider.key})

        async def call_from_outside(after: float) -> None:
            await asyncio.sleep(after)
            status, _ = await outsider.get(shared.path)
            heard.append(Heard(perf_counter() - recorder.start, status))

        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for number in range(int(WANTED * rate * seconds)):
                    group.create_task(call(number / (WANTED * rate)))
                after = 0.0
                while (after := after + dice.expovariate(TAKEN * rate)) < seconds:
                    group.create_task(call_from_outside(after))
                recorder.start = perf_counter()
                await asyncio.sleep(seconds)
        except TimeoutError:
            pass
    seen = {answer.status for answer in recorder.answers} | {each.status for each in heard}
    if unknown := seen - SERVED - REFUSED:
        raise RuntimeError(f"{shared.limit}: statuses {unknown}\n{running.last_words()}")
    return Use(shared, seconds, listener.late - late, recorder.answers, heard)


@dataclass(frozen=True)
class Share:
    """A limit of a server that is shared, over a network that takes as long."""

    server: Server
    shared: Shared
    way: Way

    def __str__(self) -> str:
        return f"{self.server.name}: {self.shared.limit}, {self.way}"


@dataclass
class Uses:
    """What came of all of them."""

    uses: dict[Share, Use] = field(default_factory=dict[Share, Use])
    versions: dict[Server, str] = field(default_factory=dict[Server, str])
    missing: dict[Server, str] = field(default_factory=dict[Server, str])

    def bad(self) -> list[Share]:
        """Those of which more was expected."""
        return [each for each, use in self.uses.items() if not (use.good or each.shared.misses)]


async def share_all(
    shares: Sequence[Share],
    folder: Path,
    *,
    seconds: float,
    together: int,
    tell: Tell = lambda _: None,
) -> Uses:
    """Share all limits, so many of them *together*; what is less than expected, a second time.

    Args:
        folder: a new folder, for the files of the servers.
        seconds: for how long each of them is shared.
        tell: is told what happens, as it happens.
    """
    outcome = Uses()
    async with started((each.server for each in shares), folder, tell) as found, listening() as ear:
        outcome.versions, outcome.missing = found.versions, found.missing

        async def go(each: Share, turns: asyncio.Semaphore) -> None:
            async with turns:
                running = found.running[each.server]
                outcome.uses[each] = await share(running, each.shared, each.way, seconds, ear)
            tell(f"{each}: {outcome.uses[each]}")

        async def go_all(shares: Iterable[Share], together: int) -> None:
            turns = asyncio.Semaphore(together)
            async with asyncio.TaskGroup() as group:
                for each in shares:
                    group.create_task(go(each, turns))

        await go_all([each for each in shares if each.server in found.running], together)
        await go_all(outcome.bad(), max(1, together // 2))
    return outcome


async def record(shares: Sequence[Share], folder: Path, tell: Tell) -> list[dict[str, Any]]:
    """What each server says: the first answer and the last that serves, the first two that refuse.

    Whoever reads them needs the instant at which they came, and the version of the server.
    """
    answers: list[dict[str, Any]] = []
    async with started((each.server for each in shares), folder, tell) as found:
        for each in shares:
            if each.server not in found.running:
                continue
            port, shared = found.running[each.server].port, each.shared
            key = Client(port).key
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=5) as client:
                seen: list[dict[str, Any]] = []
                while sum(answer["status"] in REFUSED for answer in seen) < 2:
                    url = f"http://127.0.0.1:{port}{shared.path}"
                    sent = time()
                    response = await client.get(url, headers={"X-Api-Key": key})
                    seen.append(
                        {
                            "server": f"{each.server.name} {found.versions[each.server]}",
                            "limit": shared.limit,
                            "sent": round(sent, 3),
                            "came": round(time(), 3),
                            "status": response.status_code,
                            "headers": [
                                [name.decode(), value.decode()]
                                for name, value in response.headers.raw
                            ],
                        }
                    )
            answers += [seen[0], *seen[-3:]]
            tell(f"{each}: recorded")
    return answers
