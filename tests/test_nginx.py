"""What the throttle promises, counted by a server that was written elsewhere (see ``nginx.py``).

In real time, because nginx cannot be given our clock. The tests are plain functions with a loop of
their own, for the same reason: no loop with a clock that jumps may get in.
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

from async_throttle import Throttle

pytestmark = pytest.mark.real_time

LEAST_SHARE = 0.97  # of the throughput that the limits allow

Report = Callable[[Figures], None]
Attempt = Callable[[], Coroutine[Any, Any, list[Figures]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    try:
        nginx = find_nginx()
    except NginxMissing as missing:
        pytest.skip(str(missing))
    with serve(nginx, tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def report(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Report:
    """Leaves the figures in the output (``-rP``) and in the JUnit report."""

    def report(figures: Figures) -> None:
        print(f"{request.node.name}: {figures}")
        record_property("nginx", str(figures))

    return report


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def first(calls: int, case: Case) -> Case:
    return replace(case, calls=case.calls[:calls])


def assert_kept(server: Server, report: Report, attempt: Attempt) -> None:
    """Nothing is refused, ever; and the throughput is used in one of five attempts.

    A busy machine can only take away from the throughput, so what a throttle has reached once, it
    can do; on a quiet one the first attempt is enough. A refusal has no such excuse: that is what
    the margin of the server is for.
    """
    best = 0.0
    for _ in range(5):
        visits = run(attempt())
        for figures in visits:
            report(figures)
            assert not figures.refused, server.complaints()
        best = max(best, min(figures.share for figures in visits))
        if best >= LEAST_SHARE:
            break
    assert best >= LEAST_SHARE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_refused_and_hardly_any_throughput_is_lost(
    server: Server, case: Case, report: Report
) -> None:
    async def visit_once() -> list[Figures]:
        return [await visit(server, case, case.throttle())]

    assert_kept(server, report, visit_once)


def test_after_an_idle_time_the_burst_is_there_again_and_no_more(
    server: Server, report: Report
) -> None:
    case = first(70, named("token bucket"))

    async def visit_twice() -> list[Figures]:
        throttle = case.throttle()
        async with Client(server) as client:
            before = await measure(client, case, throttle)
            # More than fills the bucket, so that idle time credited twice or without end shows.
            await asyncio.sleep(0.6)
            return [before, await measure(client, case, throttle)]

    assert_kept(server, report, visit_twice)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_the_throttle_each_limit_refuses(
    server: Server, case: Case, report: Report
) -> None:
    figures = run(visit(server, first(60, case), None))
    report(figures)
    expected: set[int] = set()
    if case.zone:
        expected.add(TOO_MANY_REQUESTS)
    if case.slots:
        expected.add(TOO_MANY_CONNECTIONS)
    assert set(figures.refused) == expected


@pytest.mark.parametrize(
    ("case", "throttle", "status"),
    [
        pytest.param(
            first(90, named("token bucket")),
            lambda: Throttle(55, burst=20),
            TOO_MANY_REQUESTS,
            id="ten per cent too fast",
        ),
        pytest.param(
            first(40, named("token bucket")),
            lambda: Throttle(50, burst=24),
            TOO_MANY_REQUESTS,
            id="a burst beyond the margin",
        ),
        pytest.param(
            first(40, named("concurrency")),
            lambda: Throttle(float("inf"), 9),
            TOO_MANY_CONNECTIONS,
            id="one slot too many",
        ),
    ],
)
def test_a_throttle_that_allows_a_little_too_much_is_refused(
    server: Server,
    case: Case,
    throttle: Callable[[], Throttle],
    status: int,
    report: Report,
) -> None:
    figures = run(visit(server, case, throttle()))
    report(figures)
    assert set(figures.refused) == {status}


def test_a_throttle_four_per_cent_too_slow_loses_too_much(server: Server, report: Report) -> None:
    figures = run(visit(server, first(70, named("token bucket")), Throttle(48, burst=20)))
    report(figures)
    assert not figures.refused
    assert figures.share < LEAST_SHARE
