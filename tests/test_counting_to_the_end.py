"""Calls that count to the end: no server refuses them, whatever the network does.

`twins.py` has the servers. Hypothesis draws how long calls travel, out and back, what their bodies
do, and what comes in between. The same worlds with calls that count from the start are refused.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import check, examples
from twins import KINDS, SECOND, TICKS, Server

from async_throttle import (
    LimitPool,
    LimitSet,
    SlidingWindow,
    Throttle,
    WeightTooLarge,
    testing,
    threads,
)

MS = 0.001

WAYS = "lease", "set", "two", "three", "pool", "block", "acquire"


@dataclass(frozen=True)
class Call:
    """A call, in milliseconds.

    Attributes:
        start: when its caller comes.
        weight: what it asks for.
        out, back: how long it travels to the server, and the answer back.
        rest: for how long the body goes on once the answer is there.
        way: how it is made.
        cut: after how long its body is cut short; None, if it is not.
        actual: what it takes really; None: as asked for.
        late: whether that is said after the block.
        priority: of the call.
        until: a proxy holds the call up until then.
    """

    start: int
    weight: int
    out: int
    back: int
    rest: int = 0
    way: str = "lease"
    cut: int | None = None
    actual: int | None = None
    late: bool = False
    priority: int = 0
    until: int = 0


@dataclass(frozen=True)
class World:
    """A server, the calls to it, and what is done to the throttle meanwhile: (ms, what, how)."""

    server: Callable[[], Server]
    calls: tuple[Call, ...]
    events: tuple[tuple[int, str, float], ...] = ()
    concurrency: int = 0


async def live(
    world: World, counts: str, made: Any = Throttle
) -> tuple[Server, float, list[float]]:
    """Play *world*: the server, how long it took, and when calls were granted."""
    loop, server = asyncio.get_running_loop(), world.server()
    twin = server.twin()
    throttle = made(concurrency=world.concurrency, counts=counts, **twin)
    others = made(20, burst=12, period=0.5, counts=counts), made(30, burst=12)
    api: dict[str, Any] = {
        "set": LimitSet(made(math.inf), x=throttle),
        "two": LimitSet(x=throttle, y=others[0]),
        "three": LimitSet(x=throttle, y=others[0], z=others[1], concurrency=5),
    }
    api["pool"] = LimitPool([api["set"], api["three"]])
    granted: list[float] = []
    for ms, what, how in world.events:
        loop.call_at(ms * MS, happen, throttle, twin["capacity"], what, how)
    await asyncio.gather(*(make(throttle, api, server, call, granted) for call in world.calls))
    check(throttle)
    flying = throttle.statistics()
    if not flying.lingering and not throttle.paused_for:
        assert (flying.in_flight, throttle.active, throttle.waiting) == (0, 0, 0)
    return server, loop.time(), granted


def happen(throttle: Any, capacity: float, what: str, how: float) -> None:
    """A pause, or a change of a limit to *how* much of what it was."""
    if what == "pause":
        throttle.pause(how)
    elif what == "empty":
        throttle.pause(how, empty=True)
    elif what == "resume":
        throttle.resume()
    elif what == "charge":
        throttle.charge(how)
    else:
        throttle.capacity = max(1.0, capacity * how)


async def make(throttle: Any, api: Any, server: Server, call: Call, granted: list[float]) -> None:
    """Make *call*. Its journey goes on if the body is cut short."""
    await asyncio.sleep(call.start * MS)
    try:
        if call.way == "acquire":
            await getattr(throttle, "acquire_async", throttle.acquire)(call.weight)
            granted.append(asyncio.get_running_loop().time())
            await travel(server, call)
            throttle.release()
            return
        if call.way == "block":
            async with throttle:
                granted.append(asyncio.get_running_loop().time())
                await travel(server, call)
            return
        if call.way == "lease":
            lease = throttle(call.weight, priority=call.priority)
        else:
            lease = api[call.way](x=call.weight, priority=call.priority)
        async with lease:
            granted.append(asyncio.get_running_loop().time())
            check(throttle)
            await travel(server, call)
            if call.rest:
                lease.ended()
                await asyncio.sleep(call.rest * MS)
            if not call.late:
                settle(lease, call)
        if call.late:
            await asyncio.sleep(call.rest * MS)
            settle(lease, call)
    except (asyncio.CancelledError, TimeoutError, WeightTooLarge):
        return


def settle(lease: Any, call: Call) -> None:
    if call.actual is not None:
        lease.settle(call.actual if call.way == "lease" else {"x": call.actual})


async def travel(server: Server, call: Call) -> None:
    """To the server and back, or until the body is cut short."""
    loop = asyncio.get_running_loop()
    weight = call.weight if call.actual is None else call.actual

    def arrive() -> None:
        server.arrives(round(loop.time() * SECOND), weight)

    out = max(call.out * MS, call.until * MS - loop.time())
    loop.call_later(out, arrive)
    if call.cut is None:
        await asyncio.sleep(out + call.back * MS)
    else:
        await asyncio.sleep(call.cut * MS)
        raise (asyncio.CancelledError, TimeoutError)[call.cut % 2]


# ---------------------------------------------------------------------------------- what is drawn


def times(most: int) -> st.SearchStrategy[int]:
    """Milliseconds, many of them short, some as long as *most*."""
    return st.one_of(st.integers(0, 30), st.integers(0, most))


@st.composite
def servers(draw: st.DrawFn, kind: str) -> Callable[[], Server]:
    tick = draw(st.sampled_from(TICKS))
    period = draw(st.sampled_from((1, 2, 5)))
    most = draw(st.integers(1, 12))
    burst = most
    ahead = draw(st.integers(0, 2 * SECOND))
    if kind == "clock window":
        period, ahead = 10, draw(st.integers(-SECOND // 2, SECOND // 2))
    elif kind == "bucket":
        burst = draw(st.integers(1, 12)) + -(-most * tick // (period * SECOND))
    elif kind.startswith("two windows"):
        most = draw(st.integers(6, 30))
        tick = draw(st.sampled_from(TICKS[:2]))
        burst = draw(st.integers(1, most // 3))
    return lambda: KINDS[kind](most=most, period=period, burst=burst, tick=tick, ahead=ahead)


@st.composite
def calls_of(draw: st.DrawFn, server: Server, kind: str, ways: tuple[str, ...]) -> Call:
    twin = server.twin()
    heaviest = int(twin.get("burst", twin["capacity"]))
    single = kind == "without burst"
    way = draw(st.sampled_from(ways))
    weight = 1 if single or way == "block" else draw(st.integers(1, max(1, heaviest)))
    period = math.ceil(twin["period"] * 1000)
    out, back = draw(times(2 * period)), draw(times(period))
    cut = actual = None
    if way != "acquire" and draw(st.integers(0, 4)) == 0:
        cut = draw(st.integers(max(0, out - min(period, 1000)), out + back))
    if way in WAYS[:-2] and not single and draw(st.booleans()):
        actual = draw(st.integers(0, weight))
    return Call(
        start=draw(times(3 * period)),
        weight=weight,
        out=out,
        back=back,
        rest=draw(st.sampled_from((0, 0, 7, period))),
        way=way,
        cut=cut,
        actual=actual,
        late=draw(st.booleans()),
        priority=draw(st.sampled_from((0, 0, 0, 1))),
    )


def events() -> st.SearchStrategy[tuple[int, str, float]]:
    how = {
        "pause": (0.0, 0.3, 2.0),
        "empty": (0.0, 0.3),
        "resume": (0.0,),
        "charge": (0.5, 2.0),
        "capacity": (0.5, 0.8, 1.0),
    }
    kinds: list[st.SearchStrategy[tuple[int, str, float]]] = [
        st.tuples(st.integers(0, 8_000), st.just(what), st.sampled_from(values))
        for what, values in how.items()
    ]
    return st.one_of(kinds)


@st.composite
def worlds(draw: st.DrawFn, kind: str, ways: tuple[str, ...] = WAYS) -> World:
    make_server = draw(servers(kind))
    if draw(st.booleans()):
        ways = tuple(way for way in ways if way != "acquire") or ways
    calls = draw(st.lists(calls_of(make_server(), kind, ways), min_size=4, max_size=40))
    happens = draw(st.lists(events(), max_size=3))
    return World(make_server, tuple(calls), tuple(happens), draw(st.sampled_from((0, 0, 3))))


# ------------------------------------------------------------------------------ nobody is refused


@pytest.mark.parametrize("kind", KINDS)
def test_no_server_refuses_a_call_that_counts_to_the_end(kind: str) -> None:
    @examples(200)
    @given(worlds(kind))
    def is_never_refused(world: World) -> None:
        server, _, _ = testing.run(live(world, "end"))
        assert server.refused == 0

    is_never_refused()


@examples(150)
@given(st.data())
def test_a_throttle_for_threads_is_not_refused_either(data: st.DataObject) -> None:
    world = data.draw(worlds(data.draw(st.sampled_from(sorted(KINDS)))))
    server, _, _ = testing.run(live(world, "end", threads.Throttle))
    assert server.refused == 0


@examples(200)
@given(
    kind=st.sampled_from(("sliding log", "bucket")),
    calls=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 900)), min_size=20, max_size=60),
)
def test_release_says_of_no_call_that_it_has_ended_which_has_not(
    kind: str, calls: list[tuple[int, int]]
) -> None:
    """All come at once, and nobody says whose end it is: of what weighs least."""
    made = tuple(Call(0, weight, out, 5, way="acquire") for weight, out in calls)
    world = World(lambda: KINDS[kind](most=10, period=1, burst=10), made)
    assert testing.run(live(world, "end"))[0].refused == 0


def test_what_ends_as_a_clock_window_closes_may_have_been_counted_in_the_next_one() -> None:
    """The clock of the server is ahead: what ends before the edge here arrives after it there."""
    late = [Call(9_450, 1, out=200, back=100) for _ in range(10)]
    soon = [Call(10_000, 1, out=1, back=1) for _ in range(10)]
    for way in ("lease", "block", "set"):
        calls = tuple(replace(call, way=way) for call in (*late, *soon))
        world = World(lambda: KINDS["clock window"](most=10, period=10, ahead=450_000_000), calls)
        server, _, granted = testing.run(live(world, "end"))
        assert server.refused == 0
        assert sorted(granted) == [9.45] * 10 + [20.5] * 10


@pytest.mark.parametrize("kind", KINDS)
def test_callers_that_are_held_up_together_are_refused_where_calls_count_from_the_start(
    kind: str,
) -> None:
    period = 10 if kind == "clock window" else 1
    calls = tuple(Call(0, 1, out=1, back=1, until=period * 2_200) for _ in range(60))
    world = World(lambda: KINDS[kind](most=10, period=period, burst=3), calls)
    assert testing.run(live(world, "start"))[0].refused > 0
    assert testing.run(live(world, "end"))[0].refused == 0


async def the_program_of_the_report(counts: Any) -> str:
    """A server lets 10 through from the first call on; the first ten calls travel for long."""
    loop, throttle = (
        asyncio.get_running_loop(),
        Throttle(10, algorithm=SlidingWindow, counts=counts),
    )
    opened, inside, served, refused = -1.0, 0, 0, 0

    async def call(n: int) -> None:
        nonlocal opened, inside, served, refused
        async with throttle:
            await asyncio.sleep(0.040 if n < 10 else 0.001)  # to the server
            if loop.time() >= opened + 1:
                opened, inside = loop.time(), 0
            inside += 1
            served += inside <= 10
            refused += inside > 10
            await asyncio.sleep(0.001)  # and back

    await asyncio.gather(*(call(n) for n in range(100)))
    return f"served {served} refused {refused} in {loop.time():.2f} s"


def test_the_twin_of_a_server_is_not_refused_by_it() -> None:
    assert testing.run(the_program_of_the_report("start")) == "served 80 refused 20 in 9.00 s"
    assert testing.run(the_program_of_the_report("end")) == "served 100 refused 0 in 9.06 s"


# ----------------------------------------------------------------------------------- what it costs


@examples(100)
@given(
    kind=st.sampled_from(("sliding log", "bucket", "without burst")),
    most=st.integers(1, 12),
    burst=st.integers(1, 12),
    weights=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    journeys=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=5, max_size=40),
)
def test_no_more_is_lost_than_the_longest_call_each_time(
    kind: str,
    most: int,
    burst: int,
    weights: list[int],
    journeys: list[tuple[int, int]],
) -> None:
    """What goes at once goes again within its period and the longest call, as long as all wait."""
    server = KINDS[kind](most=most, period=1, burst=burst)
    twin = server.twin()
    capacity, period = twin["capacity"], twin["period"]
    at_once = twin.get("burst", 1 if kind == "without burst" else capacity)
    weights = [1] if kind == "without burst" else [min(weight, int(at_once)) for weight in weights]
    calls = [
        Call(0, weights[n % len(weights)], out=out, back=back)
        for n, (out, back) in enumerate(journeys)
    ]
    served, _, granted = testing.run(live(World(lambda: server, tuple(calls)), "end"))
    assert served.refused == 0
    assert len(granted) == len(calls)
    sure = at_once if len({*weights}) == 1 else at_once - max(weights)
    if sure > 0:
        turn = at_once * period / capacity + max(out + back for out, back in journeys) * MS
        before = 0
        for call, instant in zip(calls, granted, strict=True):
            assert instant <= math.ceil((before + call.weight) / sure) * turn + 1e-6
            before += call.weight
