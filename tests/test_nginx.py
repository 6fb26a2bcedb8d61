"""What the throttle promises of calls that count from their start (`servers/nginx.py`).

A limiter that is checked by its own arithmetic alone can be wrong together with it. Here nginx does
the counting. Each `Case` is an agreement, kept by a throttle on the client's side and enforced by
nginx on the other; `measure` says how many requests were refused, and how much of the allowed
throughput was used.

In real time, because nginx cannot be given our clock. The tests are plain functions with a loop of
their own, for the same reason: no loop with a clock that jumps may get in. How busy the machine is
decides no outcome: a visit that it disturbed is repeated, see `judge`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from time import perf_counter
from typing import Any, TypeVar

import pytest
from servers.http import Client
from servers.nginx import TOO_MANY_CONNECTIONS, TOO_MANY_REQUESTS, Location, nginx
from servers.programs import Missing
from servers.saturate import listening
from servers.server import Running, serve
from support import QUICK

from async_throttle import LeakyBucket, SlidingWindow, Throttle

pytestmark = pytest.mark.real_time

T = TypeVar("T")

OK = 200

LEAST_SHARE = 0.97  # of the throughput that the limits allow

slow = pytest.mark.skipif(QUICK, reason="more than a second of waiting: not in profile quick")

# The server lets so many more go at once than the client believes. Everybody who throttles for a
# server needs such a margin: it sees the gaps between requests as the network and its own
# scheduling left them. If one request comes late by L and the next one does not, the gap between
# them has narrowed by L, and that takes rate * L requests of burst. One part of L is known: a
# throttle makes up for a late timer, by 5 ms at most. At 50 per second, two requests are 40 ms. On
# a busy machine a process may be kept off its core for longer; see `Figures.disturbed`.
# Connections get no margin: this nginx is one process, and has ended a response before it reads the
# request that follows it. With several worker processes they would need one, too.
SLACK = 2


@dataclass(frozen=True)
class Case:
    """An agreement between client and server: so many per second, at once, and in flight.

    *rate*, *burst* and *slots* are written out beside the throttle that must keep to them, not read
    from it: what the server allows must not follow a mistake of the client.
    """

    name: str
    throttle: Callable[[], Throttle]
    calls: Sequence[int]  # their weights; nginx knows none: weight 5 is five requests at once
    rate: float = math.inf  # requests per second
    burst: int = 1  # requests at once
    slots: int = 0  # calls in flight, each of which then takes 50 ms; 0: no limit and no delay

    @property
    def path(self) -> str:
        return "/" + self.name.replace(" ", "-")

    @property
    def location(self) -> Location:
        """What nginx is to enforce."""
        if math.isinf(self.rate):
            return Location(self.path, connections=self.slots)
        return Location(
            self.path,
            rate=f"{math.ceil(self.rate * 60)}r/m",  # whole numbers only
            burst=f"burst={self.burst - 1 + SLACK} nodelay",  # one more than this go at once
            connections=self.slots,
        )

    @property
    def patience(self) -> float:
        """Seconds for which a request may be on its way to the server, given SLACK.

        Half a request of the slack is for what the throttle makes up for, and for a server that
        counts in milliseconds.
        """
        return (SLACK - 0.5) / self.rate if self.location.rate else math.inf

    def shortest(self, service: float) -> float:
        """Seconds from the first grant to the last, if each goes at the first instant allowed.

        That of a sliding window is that of a bucket, if the calls fill its last period completely.

        Args:
            service: seconds for which a call holds its slot.
        """
        by_rate = (sum(self.calls) - self.burst) / self.rate
        by_slots = (math.ceil(len(self.calls) / self.slots) - 1) * service if self.slots else 0.0
        return max(by_rate, by_slots)


CASES = (
    Case(
        "token bucket",
        lambda: Throttle(50, burst=20),
        rate=50,
        burst=20,
        calls=(1,) * 120,
    ),
    Case(
        "leaky bucket",  # evenly spaced, and counted by the minute
        lambda: Throttle(1500, period=60, algorithm=LeakyBucket),
        rate=25,
        burst=1,
        calls=(1,) * 51,
    ),
    Case(
        "sliding window",  # 25 at once, each half second
        lambda: Throttle(25, period=0.5, algorithm=SlidingWindow),
        rate=50,
        burst=25,
        calls=(1,) * 125,
    ),
    Case(
        "weights",
        lambda: Throttle(50, burst=10),
        rate=50,
        burst=10,
        calls=(1, 4, 2, 10, 3) * 5,
    ),
    Case(
        "concurrency",
        lambda: Throttle(math.inf, 8),
        slots=8,
        calls=(1,) * 320,
    ),
    Case(
        "both limits",  # while the burst lasts, the slots are what holds back: 4 / 50 ms = 80/s
        lambda: Throttle(50, 4, burst=20),
        rate=50,
        burst=20,
        slots=4,
        calls=(1,) * 120,
    ),
)


@dataclass(frozen=True)
class Figures:
    """What one client got."""

    requests: int
    refused: Counter[int]  # by status
    seconds: float  # from the start to the last grant
    shortest: float  # the same, had every call gone at the first instant allowed
    slowest: float  # the longest that a request took to be answered, from its grant on
    late: float  # seconds for which timers that had rung were not heard, all in all
    patience: float  # the most that a request may be late, for the server's margin to make up for

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for these figures to say what the throttle does.

        A refusal says nothing where a request may have met the server later than its margin
        allows; throughput says nothing where timers were late for a part of the time that counts.
        """
        too_late = self.slowest + self.late > self.patience
        return too_late or self.late > 0.01 * self.shortest

    @property
    def share(self) -> float:
        """The part of the allowed throughput that was used.

        The burst is left out on both sides, so this asks for more than served / (burst + rate *
        seconds) would.
        """
        return self.shortest / self.seconds

    def __str__(self) -> str:
        refused = ", ".join(f"{count} x {status}" for status, count in sorted(self.refused.items()))
        return (
            f"{self.requests} requests in {self.seconds:.3f} s, {self.share:.1%} of the allowed "
            f"throughput, refused: {refused or 'none'}; answered within "
            f"{self.slowest * 1000:.1f} ms, timers {self.late * 1000:.1f} ms late"
        )


async def measure(client: Client, case: Case, throttle: Throttle | None) -> Figures:
    """Make all calls of *case* at once, and let *throttle* hold them back; None: nothing does."""
    statuses = Counter[int]()
    services: list[float] = []
    last_grant = slowest = 0.0

    async def requests(weight: int) -> None:
        nonlocal last_grant, slowest
        last_grant = granted = perf_counter()
        answers = await asyncio.gather(*(client.get(case.path) for _ in range(weight)))
        statuses.update(status for status, _ in answers)
        slowest = max(slowest, *(answered - granted for _, answered in answers))
        services.append(perf_counter() - granted)

    async def call(weight: int) -> None:
        if throttle is None:
            await requests(weight)
        elif weight == 1:
            async with throttle:
                await requests(weight)
        else:
            async with throttle(weight):
                await requests(weight)

    async with asyncio.timeout(30), listening() as listener:
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for weight in case.calls:
                group.create_task(call(weight))
    return Figures(
        requests=statuses.total(),
        refused=Counter({status: n for status, n in statuses.items() if status != OK}),
        seconds=last_grant - start,
        shortest=case.shortest(fmean(services)),
        slowest=slowest,
        late=listener.late,
        patience=case.patience,
    )


def customer(server: Running) -> Client:
    """A client that nginx has not seen before; a handshake would add to the jitter of its calls."""
    return Client(server.port, opened=64)


async def visit(server: Running, case: Case, throttle: Throttle | None) -> Figures:
    """The figures of a client that nginx has not seen before."""
    async with customer(server) as client:
        return await measure(client, case, throttle)


def run(visits: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own, and never in debug mode, which takes milliseconds per request.

    That would come between a grant and the request, where the server's margin has to make up for
    it.
    """
    return asyncio.run(visits, debug=False)


Attempt = Callable[[], Coroutine[Any, Any, list[Figures]]]
Judge = Callable[[Attempt, Callable[[Figures], bool]], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    try:
        with serve(
            nginx([case.location for case in CASES]), tmp_path_factory.mktemp("nginx")
        ) as it:
            yield it
    except Missing as missing:
        pytest.skip(f"NO nginx: {missing}")


@pytest.fixture
def judge(server: Running, record_property: Callable[[str, object], None]) -> Judge:
    def judge(attempt: Attempt, right: Callable[[Figures], bool]) -> None:
        """One of five attempts is right, and what is wrong was disturbed by a busy machine.

        If all five were disturbed, nothing can be said about the throttle: the test is skipped.
        The figures are left in the output (``-rP``) and in the JUnit report.
        """
        for _ in range(5):
            visits = run(attempt())
            for figures in visits:
                print(figures)
                record_property("nginx", str(figures))
            if all(map(right, visits)):
                return
            wrong = [figures for figures in visits if not right(figures)]
            assert any(figures.disturbed for figures in visits), (wrong, server.last_words())
        pytest.skip("THE MACHINE IS TOO BUSY to say whether the throttle keeps to its limits")

    return judge


def kept(figures: Figures) -> bool:
    return not figures.refused and figures.share >= LEAST_SHARE


def named(name: str, calls: int) -> Case:
    return first(calls, next(case for case in CASES if case.name == name))


def first(calls: int, case: Case) -> Case:
    return replace(case, calls=case.calls[:calls])


@pytest.mark.parametrize(
    ("case", "quick"),
    list(zip(CASES, (36, 10, 50, 10, 64, 60), strict=True)),
    ids=[case.name for case in CASES],
)
def test_nothing_is_refused_and_hardly_any_throughput_is_lost(
    server: Running, case: Case, quick: int, judge: Judge
) -> None:
    fewer = first(quick, case) if QUICK else case

    async def once() -> list[Figures]:
        return [await visit(server, fewer, case.throttle())]

    judge(once, kept)


@slow
def test_after_an_idle_time_the_burst_is_there_again_and_no_more(
    server: Running, judge: Judge
) -> None:
    case = named("token bucket", 70)

    async def twice() -> list[Figures]:
        throttle = case.throttle()
        async with customer(server) as client:
            before = await measure(client, case, throttle)
            # More than fills the bucket, so that idle time credited twice or without end shows.
            await asyncio.sleep(0.6)
            return [before, await measure(client, case, throttle)]

    judge(twice, kept)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_the_throttle_each_limit_refuses(server: Running, case: Case, judge: Judge) -> None:
    expected = {TOO_MANY_REQUESTS} if case.location.rate else set[int]()
    expected |= {TOO_MANY_CONNECTIONS} if case.slots else set()

    async def once() -> list[Figures]:
        return [await visit(server, first(60, case), None)]

    judge(once, lambda figures: set(figures.refused) == expected)


@pytest.mark.parametrize(
    ("case", "throttle", "status"),
    [
        pytest.param(
            named("token bucket", 90),
            lambda: Throttle(55, burst=20),
            TOO_MANY_REQUESTS,
            id="ten per cent too fast",
            marks=slow,
        ),
        pytest.param(
            named("token bucket", 40),
            lambda: Throttle(50, burst=24),
            TOO_MANY_REQUESTS,
            id="a burst beyond the margin",
        ),
        pytest.param(
            named("concurrency", 40),
            lambda: Throttle(float("inf"), 9),
            TOO_MANY_CONNECTIONS,
            id="one slot too many",
        ),
    ],
)
def test_a_throttle_that_allows_a_little_too_much_is_refused(
    server: Running, case: Case, throttle: Callable[[], Throttle], status: int, judge: Judge
) -> None:
    async def once() -> list[Figures]:
        return [await visit(server, case, throttle())]

    judge(once, lambda figures: set(figures.refused) == {status})


@slow
def test_a_throttle_four_per_cent_too_slow_loses_too_much(server: Running, judge: Judge) -> None:
    async def once() -> list[Figures]:
        return [await visit(server, named("token bucket", 70), Throttle(48, burst=20))]

    judge(once, lambda figures: not figures.refused and figures.share < LEAST_SHARE)
