"""The shortcuts of `_shell/fast.py` do what the long way does, and are not torn apart.

The same life is lived twice in virtual time: once with the shortcuts, and once with the flag that
switches them off. What can be seen, and the state of the buckets, must be equal at every step. The
tests would be worthless if no shortcut were ever taken, so that is counted too. The flattened
entries are disassembled: between the reading of the clock and the last store nothing may come in.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import check, examples, others_run, queued

from async_throttle import (
    AIMD,
    GCRA,
    FixedWindow,
    LeakyBucket,
    Lease,
    LimitSet,
    LimitSetAcquisition,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    TokenBucket,
    WeightTooLarge,
    limits,
    testing,
    threads,
)
from async_throttle._base import core_of
from async_throttle._shell import fast
from async_throttle._shell.clock import Clock
from async_throttle._shell.core import Core
from async_throttle._shell.flights import Flights
from async_throttle._shell.loop import LoopScheduler
from async_throttle._shell.quick import QuickBlocks
from async_throttle._shell.scheduler import Scheduler
from async_throttle.adaptive import Outcome
from async_throttle.rules.ends import CountedToEnd, InFlight
from async_throttle.rules.slots import Slots
from async_throttle.testing import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

SECOND = 10**9
Step = tuple[Any, ...]


class Layered(TokenBucket):
    """The same rule; but for all the throttle knows it might be another."""

    __slots__ = ()

    def take(self, now: int, weight: int) -> int | None:
        return super().take(now, weight)


class Moody(TokenBucket):
    """A bucket whose settlements may fail."""

    __slots__ = ()

    fails = False

    def take(self, now: int, weight: int) -> int | None:
        if self.fails:
            raise ArithmeticError
        return super().take(now, weight)

    def refund(self, now: int, receipt: int | None, weight: int) -> None:
        if self.fails:
            raise ArithmeticError
        super().refund(now, receipt, weight)


class Attentive(AIMD):
    """The same law, which keeps what it is told."""

    def begin(self, limit: float, now: int) -> None:
        super().begin(limit, now)
        self.told: list[Any] = []

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        self.told.append((now, began, in_flight, weight, outcome))
        super().sample(now, began, in_flight, weight, outcome)


def both_ways(life: Callable[[], Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    """What is seen of *life*, which must be the same with the shortcuts and without them."""
    short = testing.run(life())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "ENABLED", False)
        long = testing.run(life())
    assert short == long
    return short


# --- two lives ---

PARAMETERS = st.fixed_dictionaries(
    {
        "capacity": st.sampled_from([1, 3, 7, 10, 2.5, 1_000, 999_983]),
        "concurrency": st.sampled_from([0, 1, 2, 5]),
        "period": st.sampled_from([1.0, 0.7]),
        "burst": st.sampled_from([None, 1, 5, 20, 20, 0.5]),
        "algorithm": st.sampled_from([TokenBucket] * 4 + [SlidingWindow, FixedWindow]),
        "adapt": st.sampled_from([None, None, Attentive(maximum=4, timeout=0.05)]),
    }
)
STEPS: list[Step] = [
    # None is a block of the throttle itself; the others are blocks of a call.
    *[("enter", None), ("enter", 1), ("enter", 2)] * 5,
    *(("enter", weight) for weight in (3, 5, 0, 0.5, 1.5, 2.0, True)),
    *[("leave", 0), ("leave", 1)] * 4,
    *(("settle", n, actual) for n in (0, 0, 1, 3) for actual in (0, 1, 5)),
    *[("settle", 0, 0.5), ("settle", 0, -1), ("settle", 1, 2.5)],
    *[("kept",), ("kept",)],
    *(("sleep", seconds) for seconds in (1e-9, 1e-3, 0.1, 0.1, 1 / 3, 333_333_334e-9, 1.0, 1.0)),
    *[("sleep", 7.0), ("sleep", 7.0)],
    *(("busy", nanoseconds) for nanoseconds in (1, 3_000_000, 8_000_000)),
    *(("back", weight) for weight in (None, None, 1)),
    *[("cancel", 0), ("cancel", 1), ("look",), ("look",)],
    *(("do", what) for what in ("acquire", "release", "charge", "consume", "pause", "empty")),
    *[("do", "resume"), ("capacity", 3), ("capacity", 10), ("slots", 1), ("slots", 3)],
]
"""Drawn with equal chances; what is there more than once comes more often."""


async def live(parameters: dict[str, Any], steps: list[Step]) -> list[Any]:
    """What there was to be seen of a throttle that lived through *steps*."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    if parameters["algorithm"] is not TokenBucket:  # a window has its capacity at once
        parameters = {**parameters, "burst": None}
    throttle = Throttle(**parameters)
    rule: Any = throttle._core.rule
    log: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    exits: list[asyncio.Event] = []
    leases: list[Lease] = []

    kept = throttle(1)

    def state() -> object:
        if isinstance(rule, TokenBucket):
            return Fraction(rule.state.full_at, rule.state.ticks.scale)
        return rule.dump()

    async def block(weight: float | Lease | None, leave: asyncio.Event) -> None:
        call = weight if isinstance(weight, Lease) else throttle(weight or 0)
        async with throttle if weight is None else call as lease:
            log.append(("entered", loop.time()))
            if lease is not None:
                leases.append(lease)
                log.append((lease.weight, lease.waited, lease is kept))
            await leave.wait()

    def enter(weight: float | Lease | None) -> None:
        exits.append(asyncio.Event())
        tasks.append(asyncio.create_task(block(weight, exits[-1])))

    async def perform(what: str) -> None:
        match what:
            case "acquire":
                log.append(throttle.try_acquire())
            case "release":
                throttle.release()
            case "charge":
                throttle.charge(2)
            case "consume":
                await asyncio.wait_for(throttle.consume(), 0.5)
            case "pause":
                throttle.pause(0.25)
            case "resume":
                throttle.resume()
            case "empty":
                throttle.pause(timedelta(milliseconds=1), empty=True)

    for step in steps:
        match step:
            case "enter", weight:
                enter(weight)
            case ("kept",):
                enter(kept)
            case "leave", n if n < len(exits):
                exits.pop(n).set()
            case "cancel", n if n < len(tasks):
                tasks[n].cancel()
            case "settle", n, actual if n < len(leases):
                with suppress(ValueError):
                    leases[-1 - n].settle(actual)
            case "sleep", seconds:
                await asyncio.sleep(seconds)
            case "busy", nanoseconds:
                loop._now += nanoseconds
            case "back", weight:
                # The clock is set back, when both have just seen it: leaving by the short way
                # reads none, and entering by the short way must not forget what it read.
                enter(weight)
                await others_run()
                loop._now = max(0, loop._now - 50_000_000)
                enter(weight)
            case "do", what:
                try:
                    await perform(what)
                except (ValueError, TimeoutError) as error:
                    log.append((what, type(error)))
            case "capacity", capacity:
                throttle.capacity = capacity
            case "slots", slots:
                throttle.concurrency = slots
            case ("look",):
                log.append((throttle.level, throttle.waiting, throttle.locked()))
        await others_run()
        # Slots and the state of the bucket, without telling the throttle what time it is.
        log.append((step, state(), throttle._core.slots.free))
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        log.append(type(result))
    log.append((throttle.statistics(), loop.time()))
    if isinstance(throttle.adapt, Attentive):
        log.append((throttle.adapt.told, throttle.concurrency))
    for lease in leases:
        lease.settle(0)
        log.append((throttle.level, state()))
    return log


@examples(300)
@given(PARAMETERS, st.lists(st.sampled_from(STEPS), min_size=30, max_size=60))
def test_both_ways_lead_to_the_same_state(parameters: dict[str, Any], steps: list[Step]) -> None:
    both_ways(lambda: live(parameters, steps))


# --- blocks that count to the end ---

WHEN = st.one_of(
    st.integers(0, 3_000).map(lambda ms: ms * 10**6),
    st.builds(lambda n, beside: n * 333_333_333 + beside, st.integers(0, 9), st.integers(0, 9)),
)
"""Nanoseconds: some are those at which a bucket of 3 per second has filled up."""

BLOCKS = st.tuples(
    WHEN,  # until it begins
    st.sampled_from([0, 0, 1, 10**6, 10**8, 333_333_333, 333_333_334, 1_500_000_000]),  # and lasts
    st.sampled_from(["ends", "ends", "ends", "fails", "is cut short", "is settled", "is settled"]),
    st.booleans(),  # whether another block of the task is open meanwhile
)
LOOKS = st.tuples(
    WHEN.map(lambda ns: 2 * ns),
    st.sampled_from(["level", "repr", "charge", "pause", "burst", "lease", "settle", "release"]),
)


async def live_to_the_end(
    parameters: dict[str, Any],
    blocks: list[tuple[int, int, str, bool]],
    looks: list[tuple[int, str]],
) -> list[Any]:
    """Plain blocks of a throttle that counts to the end, at which others look now and then."""
    throttle, loop = Throttle(counts="end", **parameters), asyncio.get_running_loop()
    log: list[Any] = []
    leases: list[Lease] = []

    async def block(start: int, lasts: int, how: str, nested: bool) -> None:
        await asyncio.sleep(start / SECOND)
        async with AsyncExitStack() as stack:
            if nested:
                await stack.enter_async_context(throttle)
            if how == "is settled":
                leases.append(await stack.enter_async_context(throttle(1)))
            else:
                await stack.enter_async_context(throttle)
            log.append(("begins", start, loop.time()))
            await asyncio.sleep(lasts / SECOND)
            if how == "fails":
                raise LookupError
            if how == "is cut short":
                raise TimeoutError

    async def look(at: int, what: str) -> None:
        await asyncio.sleep(at / SECOND)
        match what:
            case "settle" if leases:
                leases[-1].settle(0)
            case "charge":
                throttle.charge(0.5)
            case "pause":
                throttle.pause(0.1)
            case "burst":
                throttle.burst = 3
            case "lease":
                throttle.try_acquire(2)
            case "release":
                with suppress(ValueError):
                    throttle.release()
            case "repr":
                log.append(repr(throttle).split("[")[1])
        told = throttle.statistics()
        log.append((what, loop.time(), throttle.level, told.active, told.in_flight, told.lingering))

    tasks = [asyncio.create_task(block(*each)) for each in blocks]
    tasks += [asyncio.create_task(look(*each)) for each in looks]
    await asyncio.sleep(20)
    log += [task.done() and type(task.exception()) for task in tasks]
    for lease in leases:
        lease.settle(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    core: Any = throttle._core
    log.append((throttle.level, throttle.statistics(), core.flights.lingers_for()))
    log.append((core.flights.ended, len(core.flights.flying), len(core.flights.mine)))
    check(throttle)
    return log


@examples(400)
@given(
    st.fixed_dictionaries(
        {
            "capacity": st.sampled_from([1, 3, 10, 1000, 0.7, math.inf]),
            "concurrency": st.sampled_from([0, 0, 1, 3]),
        },
        optional={"linger": st.sampled_from([0, 0.5, 2])},
    ),
    st.lists(BLOCKS, max_size=12),
    st.lists(LOOKS, max_size=3),
)
@example(  # within the nanosecond in which the bucket gets full
    {"capacity": 3},
    [(0, 0, "ends", False), (333_333_334, 0, "ends", False)],
    [(400_000_000, "level")],
)
@example(  # the same, where two are open
    {"capacity": 3},
    [(0, 333_333_334, "ends", False), (0, 0, "ends", False)],
    [(400_000_000, "level")],
)
@example(  # what an end finds missing is all that is given back of before
    {"capacity": 3},
    [(0, 0, "is settled", False), (300_000_000, 0, "ends", False)],
    [(310_000_000, "settle"), (320_000_000, "level")],
)
def test_blocks_that_count_to_the_end_leave_what_the_long_way_leaves(
    parameters: dict[str, Any],
    blocks: list[tuple[int, int, str, bool]],
    looks: list[tuple[int, str]],
) -> None:
    both_ways(lambda: live_to_the_end(parameters, blocks, looks))


# --- each of them ---


SHORTCUTS = [
    *["take_one", "release_slot", "hand_over", "start", "join_behind", "leave_behind"],
    *["queue_behind", "start_unit", "grab", "quietly", "promptly", "leave_set", "enter_block"],
    *["leave_block", "settle_once", "enter_beside", "leave_beside"],
]


async def some_of_each() -> list[Any]:
    """A life in which each shortcut is taken at least once."""
    throttle = Throttle(10, 3, burst=10)
    log: list[Any] = [throttle.try_acquire(), await throttle.acquire()]
    waiters = [asyncio.create_task(throttle.acquire(weight)) for weight in (1, 1, 2, 1)]
    await others_run()
    await throttle.consume(8)
    waiters.append(asyncio.create_task(throttle.acquire()))
    throttle.release()
    throttle.release()
    await others_run()
    waiters[-1].cancel()
    await others_run()
    log += [throttle.waiting, throttle.active]
    throttle.release()
    log += [throttle.waiting, throttle.active]
    for waiter in waiters[1:-1]:
        log.append(await waiter)
        throttle.release()
    single = Throttle(100, 1)
    await single.acquire()
    waiter = asyncio.create_task(single.acquire())
    await others_run()
    single.release()
    log += [await waiter, single.active]
    api = LimitSet(a=Throttle(10, 3), b=Throttle(5))
    async with api(a=2, b=3) as lease, api(a=0, b=2) as late:
        lease.settle(a=1)
        late.settle(b=4)
        lease.settle(b=1)
    log.append((api["a"].level, api["b"].level))

    async def visit() -> tuple[object, ...]:
        async with api(a=2) as held:
            await asyncio.sleep(0.5)
            held.settle(b=0)
        return held.waited, held.waited_for, held.weights

    log += await asyncio.gather(*(visit() for _ in range(8)))
    async with Throttle(10, adapt=AIMD()) as measured:
        log.append(measured)
    ends = Throttle(10, counts="end")
    await asyncio.gather(*(pass_through(ends) for _ in range(3)))
    log.append(ends.level)
    return log


async def pass_through(throttle: Throttle) -> None:
    async with throttle:
        await asyncio.sleep(0.1)


def test_each_shortcut_is_taken_and_none_while_the_flag_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    for name in SHORTCUTS:
        original = getattr(fast, name)

        def noted(*args: Any, name: str = name, original: Any = original) -> Any:
            answer = original(*args)
            if answer:
                taken.append(name)
            return answer

        monkeypatch.setattr(fast, name, noted)
    long, short = testing.run(some_of_each()), both_ways(some_of_each)
    assert long == short
    assert set(taken) == set(SHORTCUTS)
    taken.clear()
    monkeypatch.setattr(fast, "ENABLED", False)
    testing.run(some_of_each())
    assert taken == []


# --- nothing tears a shortcut apart ---

ENTRIES: dict[str, Callable[..., Any]] = {
    "FastThrottle.__aenter__": fast.FastThrottle.__aenter__,
    "FastThrottle.__aexit__": fast.FastThrottle.__aexit__,
    "FastFlight.__aenter__": fast.FastFlight.__aenter__,
    "FastFlight.__aexit__": fast.FastFlight.__aexit__,
    "FastLease.__aenter__": fast.FastLease.__aenter__,
    "FastLease.__aexit__": fast.FastLease.__aexit__,
    "FastLease.settle": fast.FastLease.settle,
    "take_one": fast.take_one,
    "enter_block": fast.enter_block,
    "FastSet._settle_usage": fast.FastSet._settle_usage,
}
COMES_IN = ("CALL", "BUILD_", "MAKE_", "GET_", "SEND", "YIELD", "RESUME", "FOR_ITER", "IMPORT")
"""Where signal handlers run, or memory is got and so finalizers may run."""


def comes_in(step: dis.Instruction) -> bool:
    back = "JUMP" in step.opname and "BACKWARD" in step.opname
    return step.opname.startswith(COMES_IN) or (back and "NO_INTERRUPT" not in step.opname)


AT_ONCE: dict[Callable[..., Any], str] = {
    fast.enter_beside: "opened",
    fast.leave_beside: "armed",
    QuickBlocks.arm: "ticks",
    QuickBlocks.account: "armed",
}
"""What makes no call, either, from where it looks for the last time at what is named here."""


def stores_after_something_came_in(function: Callable[..., Any]) -> Iterator[str]:
    """The stores of *function* that can follow on what comes in after the clock was read.

    Where it reads no clock, after it was seen that the scheduler is calm: what is read before may
    have changed meanwhile, and no store comes before. All paths are followed, but for those of
    exceptions. Between two stores to `busy` the scheduler is marked, so that what comes in must
    wait.
    """
    steps = [step for step in dis.get_instructions(function) if step.opname != "CACHE"]
    place = {step.offset: n for n, step in enumerate(steps)}
    start = next((n for n, step in enumerate(steps) if step.argval == "monotonic_ns"), -1)
    if function in AT_ONCE:
        looks = [n for n, step in enumerate(steps) if step.argval == AT_ONCE[function]]
        loads = [n for n in looks if steps[n].opname != "STORE_ATTR"]
        start = loads[0] if AT_ONCE[function] != "armed" else loads[-1]
    elif start >= 0:
        start = next(n for n in range(start, len(steps)) if steps[n].opname == "CALL")
    else:  # no clock is read: from where it is seen that the scheduler is calm
        start = next(n for n, step in enumerate(steps) if step.argval == "calm")
        for step in steps[:start]:
            if step.opname == "STORE_ATTR":
                yield f"line {step.positions and step.positions.lineno}: {step.argval}"
    paths = [(start + 1, False, False)]
    seen = set()
    while paths:
        path = paths.pop()
        if path in seen or path[0] >= len(steps):
            continue
        seen.add(path)
        n, torn, busy = path
        step = steps[n]
        if step.opname == "STORE_ATTR":
            if torn:
                yield f"line {step.positions and step.positions.lineno}: {step.argval}"
            busy ^= step.argval == "busy"
        if comes_in(step) and not busy:
            torn = True
        if step.opname.startswith(("RETURN", "RAISE", "RERAISE")):
            continue
        if "JUMP" in step.opname:
            paths.append((place[step.argval], torn, busy))
            if step.opname.startswith(("JUMP_FORWARD", "JUMP_BACKWARD")):
                continue
        paths.append((n + 1, torn, busy))


@pytest.mark.parametrize(
    "entry", [*ENTRIES.values(), fast.queue_behind, *AT_ONCE], ids=lambda f: f.__name__
)
def test_nothing_comes_in_before_the_last_store_of_a_flattened_entry(
    entry: Callable[..., Any],
) -> None:
    assert list(stores_after_something_came_in(entry)) == []


def test_a_store_after_a_call_or_a_loop_is_seen() -> None:
    def calls(core: Any) -> None:
        if core.calm:
            core.a = 1
            len(core)
            core.b = 2

    def loops(core: Any) -> None:
        while core.calm:
            core.a = 1

    def marks(core: Any) -> None:
        if not core.calm:
            return
        core.busy = True
        len(core)
        core.a = 1
        core.busy = False

    def asks_late(core: Any) -> None:
        core.a = 1
        if len(core) and core.calm:
            core.b = 1

    functions = calls, loops, asks_late, marks
    found = [[line[-1] for line in stores_after_something_came_in(f)] for f in functions]
    assert found == [["b"], ["a"], ["a"], []]


@pytest.mark.parametrize("name", ENTRIES)
def test_what_a_flattened_entry_reads_is_no_property(name: str) -> None:
    read = {step.argval for step in dis.get_instructions(ENTRIES[name]) if "ATTR" in step.opname}
    throttle = Throttle(10, 2)
    bucket: Any = throttle._core.rule
    owners = [Throttle, Lease, Core, LoopScheduler, Clock, Slots, TokenBucket]
    if name.startswith("FastFlight"):
        owners += [Flights, CountedToEnd, InFlight, QuickBlocks]
    for owner in [*owners, type(bucket.state), type(bucket.state.ticks)]:
        for attribute in read:
            found = inspect.getattr_static(owner, attribute, None)
            assert not isinstance(found, property), f"{owner.__name__}.{attribute}"


@pytest.mark.parametrize("use", ["throttle", "lease", "set", "set of others"])
async def test_what_comes_in_while_a_shortcut_calls_a_rule_takes_none(
    use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = Throttle(10, 5, burst=10)
    api = LimitSet(a=throttle)
    others = LimitSet(throttle, Throttle(10, algorithm=SlidingWindow))
    await throttle.lease(5)  # so that what is missing has to be noted
    await asyncio.sleep(0.3)
    before = throttle.level
    answers: list[object] = []
    method = "ready_at" if use == "set of others" else "note"
    original = getattr(TokenBucket, method)

    def interrupted(*args: Any) -> Any:
        monkeypatch.setattr(TokenBucket, method, original)
        answer = original(*args)
        answers.append(throttle.try_acquire())
        answers.append(throttle.locked())
        throttle.release()
        return answer

    monkeypatch.setattr(TokenBucket, method, interrupted)
    calls: dict[str, Any] = {
        "throttle": throttle,
        "lease": throttle(1),
        "set": api(a=1),
        "set of others": others(),
    }
    async with calls[use]:
        assert answers == [False, True]
        assert throttle.level == before - 1
    assert throttle.active == 0


# --- which way was taken ---


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the layered methods that were called, in order."""
    called: list[str] = []
    for cls, name in [
        (Throttle, "_enter_slowly"),
        (Throttle, "_exit_slowly"),
        (Lease, "_enter_async"),
        (Lease, "_exit_slowly"),
        (Lease, "_settle_slowly"),
    ]:
        original = getattr(cls, name)

        def noted(
            *args: Any, name: str = f"{cls.__name__}.{name}", original: Any = original
        ) -> Any:
            called.append(name)
            return original(*args)

        monkeypatch.setattr(cls, name, noted)
    return called


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
@pytest.mark.parametrize("use", ["lease", "set"])
async def test_no_weight_above_the_burst_goes_while_the_bucket_gets_full(
    kind: type[Any], use: str
) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    throttle = kind(10**12, burst=5)  # more than a token per nanosecond
    call = throttle(6) if use == "lease" else LimitSet(throttle)({0: 6})
    async with throttle(5):
        loop._now += 1
        with pytest.raises(WeightTooLarge):
            async with call:
                pass


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
@pytest.mark.parametrize("period", [1.0, 0.7])
@pytest.mark.parametrize("form", ["settle", "update"])
async def test_a_set_settles_by_the_short_way_right_after_the_grant(
    kind: type[Any], period: float, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: list[Any] = []
    slowly = LimitSetAcquisition._settle_slowly

    def noted(lease: LimitSetAcquisition, usage: Any) -> None:
        slow.append(usage)
        slowly(lease, usage)

    monkeypatch.setattr(LimitSetAcquisition, "_settle_slowly", noted)
    api = limits.LimitSet(
        a=kind(10, 2, period, burst=20), b=kind(math.inf, 3), c=kind(10, burst=20)
    )

    def settle(lease: limits.LimitSetAcquisition, **actual: float) -> None:
        lease.update(usage=actual) if form == "update" else lease.settle(**actual)

    async with api(c=7) as one, api(a=2.5) as two:
        assert slow == []
        settle(two, c=0)
        assert slow == []
        assert (api["a"].level, api["c"].level) == (16.5, 13)
        settle(two, a=2)  # for the second time
        settle(one, c=0)  # there is a later grant
        assert (api["a"].level, api["c"].level) == (17, 20)
        settle(one, c=1)
        settle(two, b=0)  # which has no rate
        settle(one, a=1)  # as asked for
        assert (api["a"].level, api["c"].level) == (17, 19)
    async with api() as three:
        settle(three, a=4)  # debt
        assert api["a"].level == 13
    settle(three, a=0)
    assert (api["a"].level, api["c"].level) == (17, 18)
    assert slow == [{"a": 2}, {"c": 1}, {"b": 0}, {"a": 1}, {"a": 0}]


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
@pytest.mark.parametrize("grants", [1, 2])
@pytest.mark.parametrize("actual", [0, 7])
async def test_a_settlement_of_a_set_by_the_short_way_that_fails_has_changed_nothing(
    kind: type[Any], grants: int, actual: int
) -> None:
    api = LimitSet(a=kind(10, algorithm=Moody), b=kind(10))
    leases = [await api(a=2) for _ in range(grants)]
    Moody.fails = True
    with pytest.raises(ArithmeticError):
        leases[0].settle(a=actual)
    Moody.fails = False
    assert api["a"].level == 10 - 2 * grants
    leases[0].settle(a=actual)
    assert api["a"].level == 10 - 2 * (grants - 1) - actual


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_what_comes_in_while_a_set_settles_by_the_short_way_is_done_after_it(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = LimitSet(a=kind(10, 5), b=kind(10))
    first, _ = await api(a=3), await api(a=2)
    refund = TokenBucket.refund
    seen: list[object] = []

    def interrupted(*args: Any) -> None:
        monkeypatch.undo()
        first.settle(a=1)
        api["a"].release()
        seen.append((api["a"].try_acquire(), api["a"].level, api["a"].active))
        refund(*args)

    monkeypatch.setattr(TokenBucket, "refund", interrupted)
    first.settle(a=2)
    assert seen == [(False, 5, 2)]
    assert (api["a"].level, api["a"].active) == (7, 1)
    assert core_of(api["a"]).scheduler.notes == []


@pytest.mark.parametrize("algorithm", [TokenBucket, GCRA, LeakyBucket])
@pytest.mark.parametrize("concurrency", [0, 3])
async def test_the_short_way_is_taken_where_nobody_waits(
    algorithm: type[Rule], concurrency: int, long_ways: list[str]
) -> None:
    throttle = Throttle(10, concurrency, burst=10, algorithm=algorithm)
    async with throttle:
        assert throttle._core.slots.used == 1
    async with throttle(5) as lease:
        lease.settle(3)
        lease.settle(2)
    async with throttle, throttle(1):
        pass
    async with throttle() as usual:
        usual.settle(0)
    await asyncio.sleep(1)
    kept = throttle(3)
    async with kept, AsyncExitStack() as stack:
        await stack.enter_async_context(throttle)
    async with throttle(4), throttle, throttle(timeout=1):  # down to the last token
        pass
    assert long_ways == []
    assert (throttle.active, throttle.level) == (0, 0.0)


async def test_awaiting_the_short_way_does_not_yield_to_the_loop() -> None:
    throttle = Throttle(100, 5)
    ran = False

    def other() -> None:
        nonlocal ran
        ran = True

    asyncio.get_running_loop().call_soon(other)
    async with throttle, throttle(2), throttle():
        pass
    assert not ran  # as a semaphore that is not locked
    await asyncio.sleep(0)
    assert ran


async def _use(throttle: Throttle) -> None:
    async with throttle:
        pass


async def _use_call(throttle: Throttle, weight: float = 1) -> None:
    async with throttle(weight):
        pass


UNKNOWN: dict[str, Callable[[], Throttle]] = {
    "a subclass": lambda: Throttle(10, algorithm=Layered),
    "sliding": lambda: Throttle(10, algorithm=SlidingWindow),
    "fixed": lambda: Throttle(10, algorithm=FixedWindow),
    "a timer": lambda: Throttle(10, timer=lambda: 5.0),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
async def test_the_long_way_is_taken_by_what_the_short_one_does_not_know(
    make: Callable[[], Throttle], long_ways: list[str]
) -> None:
    throttle = make()
    await _use(throttle)
    assert "Throttle._enter_slowly" in long_ways
    async with throttle(2) as lease:
        lease.settle(4)
    assert {"Lease._enter_async", "Lease._settle_slowly"} <= set(long_ways)
    assert throttle.level == 5.0


async def test_the_long_way_is_taken_by_who_has_to_wait(long_ways: list[str]) -> None:
    await _use(Throttle(10, initial=0))
    await _use_call(Throttle(10, initial=0))
    assert {"Throttle._enter_slowly", "Lease._enter_async"} <= set(long_ways)


@pytest.mark.parametrize("weight", [0, 0.5, 1.5, 2.0])
async def test_the_long_way_is_taken_by_weights_that_are_no_whole_number_of_tokens(
    weight: float, long_ways: list[str]
) -> None:
    throttle = Throttle(10)
    await _use_call(throttle, weight)
    assert throttle.level == 10.0 - weight
    assert "Lease._enter_async" in long_ways


async def test_a_weight_above_the_burst_does_not_slip_through_the_short_way() -> None:
    throttle = Throttle(10, 1)
    with pytest.raises(ValueError, match="11"):
        async with throttle(11):
            pass
    for capacity in (1, 10):
        throttle = Throttle(capacity, 1, burst=0.5)
        with pytest.raises(ValueError, match=r"0\.5"):
            async with throttle:
                pass
        with pytest.raises(ValueError, match=r"0\.5"):
            async with throttle(1):
                pass
        assert (throttle.active, throttle.level) == (0, 0.5)


async def cancelled(throttle: Throttle, held: float, asks: float, *, granted: bool) -> None:
    """A waiter is cancelled, before it is granted or after."""
    await throttle.acquire(held)
    await throttle.acquire()
    waiter = await queued(throttle.acquire(asks))
    if granted:
        throttle.release()
    waiter.cancel()
    await others_run()
    for _ in range(throttle.active):
        throttle.release()


async def too_late(throttle: Throttle, held: float, timeout: float) -> None:
    """A timeout passes, or is refused at once."""
    await throttle.acquire(held)
    await throttle.acquire()
    with pytest.raises(TimeoutError):
        await throttle.acquire(5, timeout=timeout)
    throttle.release()
    throttle.release()


async def drained(throttle: Throttle, *, gives_up: bool) -> None:
    await throttle.acquire()
    drain = await queued(throttle.drain())
    if gives_up:
        drain.cancel()
        await others_run()
    throttle.release()
    await asyncio.wait([drain])


async def changed(throttle: Throttle) -> None:
    throttle.capacity = 20
    throttle.burst = 10
    throttle.concurrency = 3
    throttle.period = 2


async def resumed(throttle: Throttle) -> None:
    throttle.pause(1)
    throttle.resume()


async def in_debt(throttle: Throttle) -> None:
    throttle.charge(50)
    await throttle.consume(1)


async def many(calls: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*calls)


DISTURBANCES: dict[str, Callable[[Throttle], Awaitable[object]]] = {
    "a pause that ended": lambda throttle: throttle.pause(1),
    "a pause that was ended": resumed,
    "a pause that emptied": lambda throttle: throttle.pause(1, empty=True),
    "contention for a slot": lambda throttle: many(_use(throttle) for _ in range(10)),
    "contention for tokens": lambda throttle: many(throttle.consume(3) for _ in range(10)),
    "a waiter that was cancelled": lambda throttle: cancelled(throttle, 8, 10, granted=False),
    "a granted one that was cancelled": lambda throttle: cancelled(throttle, 1, 1, granted=True),
    "a timeout that passed": lambda throttle: too_late(throttle, 1, 1),
    "a timeout that was refused": lambda throttle: too_late(throttle, 9, 0.1),
    "somebody who drained": lambda throttle: drained(throttle, gives_up=False),
    "somebody who stopped draining": lambda throttle: drained(throttle, gives_up=True),
    "a live change": changed,
    "a debt that was paid": in_debt,
    "a weight of a fraction": lambda throttle: _use_call(throttle, 0.1),
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
async def test_the_short_way_is_open_again_after(
    disturb: Callable[[Throttle], Awaitable[object]], long_ways: list[str]
) -> None:
    throttle = Throttle(10, 2)
    await disturb(throttle)
    await asyncio.sleep(100)  # all is full again
    async with throttle(1):  # the first who comes may have to open it
        pass
    assert (throttle.active, throttle.waiting) == (0, 0)
    long_ways.clear()
    async with throttle, throttle(1) as lease:
        lease.settle(0)
    assert long_ways == []


async def test_the_short_way_is_open_again_after_a_release_that_finds_a_cancelled_waiter_only() -> (
    None
):
    api = LimitSet(Throttle(100, 1), Throttle(1_000))
    async with api():
        waiter = await queued(api.lease())
        waiter.cancel()
    await others_run()
    core_of(api[0]).scheduler.here().check()
    assert core_of(api[0]).scheduler.here().calm


async def test_a_newcomer_of_a_better_class_puts_off_the_head_that_it_ranks_before() -> None:
    """Behind the head of its own lane, too, it is owed a token that a head of others would take."""
    rate = Throttle(1, burst=2, initial=0)
    urgent, usual = LimitSet(rate, Throttle(100)), LimitSet(rate)
    urgent.pause(2)
    went = []

    async def call(api: LimitSet, priority: int) -> None:
        await api.lease(priority=priority)
        went.append((priority, asyncio.get_running_loop().time()))

    tasks = []
    for api, priority in ((urgent, -1), (usual, 0), (urgent, -1)):
        tasks.append(await queued(call(api, priority)))
        core_of(rate).scheduler.here().check()
    await asyncio.gather(*tasks)
    assert went == [(-1, 2), (-1, 2), (0, 3)]


@pytest.mark.parametrize("use", [_use, _use_call])
async def test_the_short_way_is_closed_by_a_pause_by_those_who_wait_and_by_close(
    use: Callable[[Throttle], Awaitable[None]],
) -> None:
    loop = asyncio.get_running_loop()
    throttle = Throttle(10, 3)
    throttle.pause(1)
    await use(throttle)
    assert loop.time() == 1.0

    await throttle.acquire(9)
    heavy = asyncio.create_task(throttle.acquire(10))
    await asyncio.sleep(0.5)
    assert throttle.level == 5.0
    await use(throttle)  # behind the heavy one, though there is enough for this one
    assert heavy.done()
    assert loop.time() == 2.1

    await asyncio.sleep(1)
    throttle.close()
    with pytest.raises(ThrottleClosed):
        await use(throttle)
    throttle.release()
    throttle.release()
    assert throttle.active == 0


@pytest.mark.parametrize(
    "event",
    [
        lambda throttle: throttle.release(),
        lambda throttle: setattr(throttle, "capacity", 20),
        lambda throttle: setattr(throttle, "concurrency", 9),
        lambda throttle: (throttle.pause(1), throttle.resume()),
        lambda throttle: throttle.charge(1),
        lambda throttle: throttle.level,
        lambda throttle: throttle.try_acquire(),
    ],
    ids=["release", "capacity", "concurrency", "pause", "charge", "level", "try"],
)
@pytest.mark.parametrize("use", [_use, _use_call])
async def test_nothing_opens_the_short_way_between_a_grant_and_the_first_step(
    event: Callable[[Throttle], object], use: Callable[[Throttle], Awaitable[None]]
) -> None:
    throttle = Throttle(10, 3)
    order = []

    async def call(name: str) -> None:
        await use(throttle)
        order.append(name)

    for _ in range(3):
        await throttle.acquire()
    early = asyncio.create_task(call("early"))
    await others_run()
    throttle.release()
    event(throttle)
    await call("newcomer")
    await early
    assert order == ["early", "newcomer"]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_newcomer_that_is_granted_starts_before_those_granted_later(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts after those that were granted before it, one step of the loop later, not two."""
    monkeypatch.setattr(fast, "ENABLED", enabled)
    order = []

    async def main() -> None:
        throttle = Throttle(1_000, 3)

        async def call(name: str) -> None:
            await throttle.acquire()
            order.append(name)

        for _ in range(3):
            await throttle.acquire()
        calls = [asyncio.create_task(call("early"))]
        await others_run()
        calls += [asyncio.create_task(call(name)) for name in ("newcomer", "later")]
        throttle.release()  # for the early one
        throttle.release()  # for the newcomer, which comes while that does not run yet
        asyncio.get_running_loop().call_soon(throttle.release)
        await asyncio.gather(*calls)

    testing.run(main())
    assert order == ["early", "newcomer", "later"]


async def test_who_stops_draining_does_not_open_the_short_way_before_those_who_wait() -> None:
    loop = asyncio.get_running_loop()
    throttle = Throttle(10, 3)
    await throttle.acquire(5)
    heavy = asyncio.create_task(throttle.acquire(10))
    drain = asyncio.create_task(throttle.drain())
    await others_run()
    drain.cancel()
    await others_run()
    await _use(throttle)
    assert heavy.done()
    assert loop.time() == 0.6


async def test_one_release_too_many_is_told_on_the_short_way_too() -> None:
    throttle = Throttle(100, 2)
    async with throttle:
        throttle.release()
        with pytest.raises(ValueError, match="release"):
            throttle.release()
        assert throttle.active == 0
        throttle.concurrency = 2
        assert throttle.try_acquire()
    assert throttle.active == 0
    with pytest.raises(ValueError, match="release"):
        async with throttle:
            throttle.release()


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
def test_a_grant_after_which_the_notes_are_interrupted_is_given_back(kind: type[Any]) -> None:
    def interrupted(scheduler: Scheduler) -> None:
        raise KeyboardInterrupt

    throttle = kind(10, 2)
    core = core_of(throttle)
    core.scheduler.notes.append(lambda now: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(core.scheduler), "catch_up", interrupted)
        with pytest.raises(KeyboardInterrupt):
            core.scheduler.grab(core.lane, fast.UNIT)
    assert (throttle.active, throttle.level) == (0, 10)


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
@pytest.mark.parametrize("capacity", [10, 3])
@pytest.mark.parametrize("before", ["", "plain", "lease", "lease plain", "plain lease"])
@pytest.mark.parametrize("form", ["plain", "lease", "try"])
async def test_an_entry_by_the_short_way_keeps_the_instant_that_it_has_read(
    kind: type[Any], capacity: float, before: str, form: str
) -> None:
    throttle = kind(capacity, 5, burst=10)
    core = core_of(throttle)
    for entry in [*before.split(), form]:
        await asyncio.sleep(0.01)
        if entry == "try":
            assert throttle.try_acquire()
        else:
            await (throttle if entry == "plain" else throttle(1)).__aenter__()
        assert core.scheduler.clock.seen == core.scheduler.clock.read()
    assert throttle.active == len(before.split()) + 1


async def test_a_release_while_the_throttle_is_at_work_leaves_the_door_shut() -> None:
    throttle = Throttle(2, 3)
    assert throttle.try_acquire()
    assert throttle.try_acquire()
    await queued(throttle.acquire())  # for time, not for a slot
    scheduler = core_of(throttle).scheduler
    scheduler.busy = True
    throttle.release()
    assert scheduler.busy
    scheduler.busy = False
    scheduler.catch_up()
    assert throttle.active == 1


async def test_an_interrupt_while_a_slot_is_handed_over_loses_neither_slot_nor_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle = Throttle(1_000, 1)
    await throttle.acquire()
    waiters = [await queued(throttle.acquire()) for _ in range(3)]
    hand_over = LoopScheduler.hand_over

    def interrupted(scheduler: LoopScheduler, waiter: Any) -> None:
        monkeypatch.undo()
        assert sys._getframe(1).f_code.co_name == "_hand_unit"
        hand_over(scheduler, waiter)
        raise KeyboardInterrupt

    monkeypatch.setattr(LoopScheduler, "hand_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        throttle.release()
    for waiter in waiters:
        await waiter
        throttle.release()
    assert (throttle.active, throttle.waiting, throttle.level) == (0, 0, 996)
