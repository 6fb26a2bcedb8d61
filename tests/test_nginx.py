"""What the throttle promises, counted by a server that was written elsewhere (see ``nginx.py``).

In real time, because nginx cannot be given our clock. The tests are plain functions with a loop of
their own, for the same reason: no loop with a clock that jumps may get in. How busy the machine is
decides no outcome: a visit that it disturbed is repeated, see `judge`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from nginx import (
    CASES,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_REQUESTS,
    Case,
    Client,
    Figures,
    NginxMissing,
    Server,
    find_nginx,
    measure,
    run,
    serve,
    visit,
)
from support import QUICK

from async_throttle import Throttle

pytestmark = pytest.mark.real_time

LEAST_SHARE = 0.97  # of the throughput that the limits allow

slow = pytest.mark.skipif(QUICK, reason="more than a second of waiting: not in profile quick")

Attempt = Callable[[], Coroutine[Any, Any, list[Figures]]]
Judge = Callable[[Attempt, Callable[[Figures], bool]], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        nginx = find_nginx()
    except NginxMissing as missing:
        pytest.skip(str(missing))
    with serve(nginx, tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def judge(server: Server, record_property: Callable[[str, object], None]) -> Judge:
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
            assert any(figures.disturbed for figures in visits), (wrong, server.complaints())
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
    server: Server, case: Case, quick: int, judge: Judge
) -> None:
    fewer = first(quick, case) if QUICK else case

    async def once() -> list[Figures]:
        return [await visit(server, fewer, case.throttle())]

    judge(once, kept)


@slow
def test_after_an_idle_time_the_burst_is_there_again_and_no_more(
    server: Server, judge: Judge
) -> None:
    case = named("token bucket", 70)

    async def twice() -> list[Figures]:
        throttle = case.throttle()
        async with Client(server) as client:
            before = await measure(client, case, throttle)
            # More than fills the bucket, so that idle time credited twice or without end shows.
            await asyncio.sleep(0.6)
            return [before, await measure(client, case, throttle)]

    judge(twice, kept)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_the_throttle_each_limit_refuses(server: Server, case: Case, judge: Judge) -> None:
    expected = {TOO_MANY_REQUESTS} if case.zone else set[int]()
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
    server: Server, case: Case, throttle: Callable[[], Throttle], status: int, judge: Judge
) -> None:
    async def once() -> list[Figures]:
        return [await visit(server, case, throttle())]

    judge(once, lambda figures: set(figures.refused) == {status})


@slow
def test_a_throttle_four_per_cent_too_slow_loses_too_much(server: Server, judge: Judge) -> None:
    async def once() -> list[Figures]:
        return [await visit(server, named("token bucket", 70), Throttle(48, burst=20))]

    judge(once, lambda figures: not figures.refused and figures.share < LEAST_SHARE)
