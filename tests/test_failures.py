"""A rule, a clock or a judge of the user's that raises.

A failure in the middle undoes itself. The exception goes to the caller for whom the question was
asked, and to no other: a waiter leaves the queue with it, what was taken is given back, and the
next one is looked at. It never hides the exception of a body. What a clock raises goes to whoever
read it; in a timer that is the loop's exception handler, and the timer is set again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from limiters import ROOMY, Kind, Limiter, every_kind, threaded
from support import at, now, others_run, queued
from thread_explorer import Stage, staged

from async_throttle import (
    AIMD,
    LimitPool,
    LimitSet,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
    threads,
)

POISON = 3.25
"""The weight for which a rule fails: no instant of these tests has as many nanoseconds."""

ASKED = ("ready_at", "take", "refund", "charge", "empty", "level", "fork", "configure", "fresh_at")
"""What a rule may be asked, where there is such a question."""

deciding = pytest.mark.parametrize("method", ["ready_at", "take"])
raising = pytest.mark.parametrize("raises", [False, True])


class BodyError(Exception):
    """What the body of a block raises."""


class Breaker:
    """Makes what is asked of a rule fail, for some weight or for all, so many times."""

    def __init__(self) -> None:
        self.raised = 0
        self.disarm()

    def arm(self, *methods: str, weight: float | None = None, times: float = math.inf) -> None:
        """Fail from here on, whichever of these is asked."""
        self._methods, self._times = methods, times
        self._weight = None if weight is None else round(weight * 10**9)

    def disarm(self) -> None:
        self.arm()

    def pass_by(self, method: str, args: tuple[Any, ...]) -> None:
        """Raise if this is what fails."""
        concerns = self._weight is None or self._weight in args
        if method in self._methods and self._times > 0 and concerns:
            self._times -= 1
            self.raised += 1
            raise OSError("out of order")


def fickle(breaker: Breaker, base: type[Rule] = TokenBucket, **members: Any) -> Any:
    """A rule that asks *breaker* before it answers."""

    def question(name: str) -> Callable[..., Any]:
        def ask(rule: Any, *args: Any, **options: Any) -> Any:
            breaker.pass_by(name, (*args, *options.values()))
            return getattr(base, name)(rule, *args, **options)

        return ask

    asked = {name: question(name) for name in ASKED if hasattr(base, name)}
    return type("Fickle", (base,), {"__slots__": (), **asked, **members})


class FickleClock:
    """A clock that fails at times."""

    def __init__(self, time: Callable[[], float] = now) -> None:
        self.time = time
        self.broken: Callable[[], bool] = lambda: False

    def __call__(self) -> float:
        if self.broken():
            raise OSError("out of order")
        return self.time() + 1e6

    def fail(self) -> None:
        self.broken = lambda: True

    def work(self) -> None:
        self.broken = lambda: False


@pytest.fixture
async def problems() -> list[dict[str, Any]]:
    """What the loop is told."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


def out_of_order() -> Any:
    return pytest.raises(OSError, match="out of order")


def untouched(limiter: Limiter, level: float, others: float | None = None) -> None:
    """Assert that nobody waits or holds, and how many tokens there are."""
    throttle = limiter.throttle
    assert (throttle.active, throttle.waiting, throttle.level) == (0, 0, level)
    for other in limiter.others:
        assert (other.active, other.waiting) == (0, 0)
        assert others is None or other.level == others


# -- at the entry -------------------------------------------------------------------------


@every_kind
@deciding
@pytest.mark.parametrize("base", [TokenBucket, SlidingWindow])
async def test_an_entry_that_fails_takes_nothing(kind: Kind, method: str, base: type[Rule]) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 2, algorithm=fickle(breaker, base))
    breaker.arm(method)
    for timeout in (None, None, None, 5):
        with out_of_order():
            await limiter.lease(2, timeout=timeout)
        with out_of_order():
            async with limiter.call():
                pytest.fail("it was not granted")
    with out_of_order():
        limiter.try_acquire(2)
    breaker.disarm()
    untouched(limiter, 10, ROOMY)
    async with limiter.call(2):
        assert limiter.throttle.active == 1
    untouched(limiter, 8)


@pytest.mark.parametrize("names", [("miser", "x", "y"), ("y", "x", "miser")])
@pytest.mark.parametrize("fails", ["miser", "x"])
async def test_a_rule_that_cannot_refund_is_asked_last(names: tuple[str, ...], fails: str) -> None:
    breaker = Breaker()
    miserly: Any = type("Miserly", (TokenBucket,), {"__slots__": (), "refund": Rule.refund})
    rules: dict[str, Any] = {"miser": miserly, "x": TokenBucket, "y": TokenBucket}
    rules[fails] = fickle(breaker, rules[fails], refund=rules[fails].refund)
    limits: dict[str, Any] = {name: Throttle(10, 2, algorithm=rules[name]) for name in names}
    breaker.arm("take")
    with out_of_order():
        await LimitSet(**limits)(miser=4, x=4, y=4).__aenter__()
    assert [(limit.level, limit.active) for limit in limits.values()] == [(10, 0)] * 3


# -- in the queue -------------------------------------------------------------------------

Event = Callable[[Limiter], Awaitable[Callable[[], object]]]
"""Holds up a limiter of 10 tokens, and returns what lets all go at once."""


async def resume(limiter: Limiter) -> Callable[[], object]:
    limiter.throttle.pause(math.inf)
    return lambda: limiter.throttle.resume()


async def end_of_a_pause(limiter: Limiter) -> Callable[[], object]:
    limiter.throttle.pause(5)
    return lambda: None


async def release(limiter: Limiter) -> Callable[[], object]:
    limiter.throttle.concurrency = 1
    lease = await limiter.lease(1)
    return lambda: lease.release()


async def more_slots(limiter: Limiter) -> Callable[[], object]:
    happen = await release(limiter)

    def event() -> None:
        limiter.throttle.concurrency = 9
        at(now() + 50, happen)

    return event


async def settle(limiter: Limiter) -> Callable[[], object]:
    lease = await limiter.lease(10)
    lease.release()
    return lambda: limiter.settle(lease, 0)


async def the_head_leaves(limiter: Limiter) -> Callable[[], object]:
    (await limiter.lease(1)).release()
    head = await queued(limiter.lease(10))
    limiter.throttle.burst = 11
    return lambda: head.cancel() and None


async def another_capacity(limiter: Limiter) -> Callable[[], object]:
    (await limiter.lease(10)).release()
    return lambda: setattr(limiter.throttle, "capacity", 1e9)


EVENTS = [resume, end_of_a_pause, release, more_slots, settle, the_head_leaves, another_capacity]


@every_kind
@deciding
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_the_waiter_for_whom_a_rule_fails_leaves_with_it_and_the_others_go(
    kind: Kind, method: str, event: Event, place: int, problems: list[Any]
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 9, 1e6, algorithm=fickle(breaker))
    happen = await event(limiter)
    gone: list[float] = []

    async def call(weight: float) -> None:
        async with limiter.call(weight):
            gone.append(weight)

    weights = [2.0, 1.5]
    weights.insert(place, POISON)
    tasks = [await queued(call(weight)) for weight in weights]
    assert not gone
    breaker.arm(method, weight=POISON)
    happen()
    await asyncio.wait(tasks, timeout=40)
    assert gone == [2, 1.5]
    assert [type(task.exception()) is OSError for task in tasks] == [n == place for n in range(3)]
    assert breaker.raised == 1
    assert now() <= 10
    assert not problems
    await asyncio.sleep(50)
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
    if event is not another_capacity:
        before = 10 if event in (resume, end_of_a_pause, settle) else 9
        assert limiter.throttle.level == pytest.approx(before - 3.5, abs=1e-2)


@every_kind
@pytest.mark.parametrize(
    ("method", "leaves", "next_goes"), [("ready_at", 2, 4), ("take", 5.25, 5.25)]
)
async def test_a_rule_that_fails_in_a_timer_fails_the_waiter_that_is_due(
    kind: Kind, method: str, leaves: float, next_goes: float, problems: list[Any]
) -> None:
    breaker = Breaker()
    limiter = kind.make(1, burst=4, algorithm=fickle(breaker))
    await limiter.lease(4)
    log: list[tuple[float, float]] = []

    async def call(weight: float) -> None:
        try:
            await limiter.lease(weight)
        finally:
            log.append((now(), weight))

    tasks = [await queued(call(weight)) for weight in (2, POISON, 2)]
    breaker.arm(method, weight=POISON)
    first, poisoned, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, type(poisoned), last) == (None, OSError, None)
    assert sorted(log) == sorted([(2, 2), (leaves, POISON), (next_goes, 2)])
    assert not problems


@every_kind
@deciding
async def test_a_rule_that_is_broken_for_good_fails_one_waiter_after_the_other(
    kind: Kind, method: str
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))
    held = await limiter.lease(2)
    tasks = [await queued(limiter.lease(2)) for _ in range(4)]
    breaker.arm(method)
    held.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 4
    breaker.disarm()
    untouched(limiter, 8, ROOMY - 1)


@every_kind
@deciding
async def test_a_newcomer_does_not_see_what_fails_for_the_head(kind: Kind, method: str) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 9, algorithm=fickle(breaker))
    (await limiter.lease(10)).release()
    poisoned = await queued(limiter.lease(POISON))
    breaker.arm(method, weight=POISON)
    newcomers: list[asyncio.Task[Any]] = []
    # Past the instant at which the head is due, before its timer.
    at(0.325 - 1e-6, lambda: newcomers.append(asyncio.create_task(limiter.lease(1))))
    with out_of_order():
        await poisoned
    await asyncio.gather(*newcomers)
    assert breaker.raised == 1
    assert now() <= 1


@deciding
async def test_those_who_ask_for_other_limits_never_see_it(method: str) -> None:
    breaker = Breaker()
    x, common = Throttle(10, algorithm=fickle(breaker)), Throttle(10, burst=1)
    broken, whole = LimitSet(x=x, common=common), LimitSet(common=common, other=Throttle(10))
    await common.acquire()
    tasks = [
        await queued(limiter.__aenter__())
        for limiter in (broken(), whole(), broken(x=0), common(), broken())
    ]
    breaker.arm(method)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) is OSError for result in results] == [True, False, False, False, True]
    assert now() <= 0.4
    assert (common.waiting, x.waiting) == (0, 0)


@deciding
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
async def test_a_waiter_of_a_pool_leaves_all_its_sets(method: str, kind: Any) -> None:
    breaker = Breaker()
    broken, sound = kind(10, 1, algorithm=fickle(breaker)), kind(10, 1)
    pool = LimitPool([LimitSet(x=broken), LimitSet(x=sound)])
    held = [await pool(x=1).__aenter__(), await pool(x=1).__aenter__()]
    poisoned = await queued(pool(x=POISON).__aenter__())
    second = await queued(pool(x=1).__aenter__())
    breaker.arm(method, weight=POISON)
    next(lease for lease in held if lease.limit_set is pool[0]).release()
    with out_of_order():
        await poisoned
    assert (await second).limit_set is pool[0]
    assert (broken.waiting, sound.waiting, sound.active) == (0, 0, 1)


# -- other calls --------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(("actual", "asked"), [(2, ["refund"]), (9, ["charge", "take"])])
async def test_a_settlement_that_fails_settles_nothing_and_can_be_repeated(
    kind: Kind, actual: float, asked: list[str]
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 2, algorithm=fickle(breaker))
    lease = await limiter.lease(4)

    def settle() -> None:
        if kind.place:  # another limit of the set is settled as well, and first
            lease.settle(other0=0, x=actual)
        else:
            limiter.settle(lease, actual)

    breaker.arm(*asked, times=1)
    with out_of_order():
        settle()
    breaker.disarm()
    assert limiter.throttle.level == 6
    assert all(each.level == ROOMY - 1 for each in limiter.others)
    settle()
    lease.release()
    untouched(limiter, 10 - actual)


@every_kind
@raising
async def test_a_settlement_in_a_block_ends_the_block_with_one_exception(
    kind: Kind, raises: bool
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))
    with pytest.raises(BodyError if raises else OSError):  # noqa: PT012
        async with limiter.call(4) as lease:
            breaker.arm("refund")
            try:
                limiter.settle(lease, 1)
            except OSError:
                if raises:
                    raise BodyError from None
                raise
    breaker.disarm()
    untouched(limiter, 6)


@every_kind
@pytest.mark.parametrize(
    ("change", "methods"),
    [
        (lambda throttle: setattr(throttle, "capacity", 20), ["configure"]),
        (lambda throttle: setattr(throttle, "period", 20), ["configure"]),
        (lambda throttle: setattr(throttle, "burst", 5), ["configure"]),
        (lambda throttle: throttle.charge(3), ["charge", "take"]),
        (lambda throttle: throttle.pause(0, empty=True), ["empty", "take", "level"]),
        (lambda throttle: throttle.level, ["level"]),
    ],
    ids=["capacity", "period", "burst", "charge", "empty", "level"],
)
async def test_a_call_whose_rule_fails_changes_nothing(
    kind: Kind, change: Callable[[Any], object], methods: list[str]
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))
    held = await limiter.lease(2)
    waiter = await queued(limiter.lease(2))
    throttle = limiter.throttle
    breaker.arm(*methods, times=1)
    with out_of_order():
        change(throttle)
    breaker.disarm()
    assert (throttle.capacity, throttle.period, throttle.burst) == (10, 1, 10)
    assert (throttle.level, throttle.paused_for, waiter.done()) == (8, 0, False)
    held.release()
    (await waiter).release()
    untouched(limiter, 6)


@every_kind
@pytest.mark.parametrize("method", ["ready_at", "take", "fork", "level"])
@pytest.mark.parametrize("base", [TokenBucket, SlidingWindow])
async def test_a_question_that_fails_changes_nothing_for_those_who_wait(
    kind: Kind, method: str, base: type[Rule]
) -> None:
    breaker = Breaker()
    limiter = kind.make(4, algorithm=fickle(breaker, base))
    await limiter.lease(4)
    tasks = [await queued(limiter.lease(4)) for _ in range(3)]
    breaker.arm(method)
    for ask in (lambda: limiter.delay(4), limiter.locked, lambda: limiter.try_acquire(4)):
        with suppress(OSError):
            ask()
    with suppress(OSError, ThrottleTimeout):
        await limiter.lease(4, timeout=0.5)
    assert breaker.raised or method != "ready_at"
    breaker.disarm()
    await others_run()
    assert limiter.throttle.waiting == 3
    assert limiter.delay(4) == 4
    for n, task in enumerate(tasks, 1):
        await task
        assert now() == n


@every_kind
@pytest.mark.parametrize("method", ["empty", "take", "level"])
async def test_a_rule_that_fails_at_the_end_of_a_pause_that_empties_leaves_nobody_waiting(
    kind: Kind, method: str, problems: list[Any]
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, algorithm=fickle(breaker))
    limiter.throttle.pause(5, empty=True)
    tasks = [await queued(limiter.lease(1)) for _ in range(3)]
    breaker.arm(method, times=1)
    done, pending = await asyncio.wait(tasks, timeout=60)
    assert not pending
    failed = [task for task in done if task.exception()]
    assert len(failed) + len(problems) <= 1, "one failure is told once"
    assert limiter.throttle.waiting == 0


# -- bodies -------------------------------------------------------------------------------


@every_kind
@deciding
@raising
async def test_a_block_that_ends_does_not_see_what_fails_for_the_next(
    kind: Kind, method: str, raises: bool
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))
    with pytest.raises(BodyError) if raises else nullcontext():
        async with limiter.call(2):
            poisoned = await queued(limiter.lease(POISON))
            following = await queued(limiter.lease(2))
            breaker.arm(method, weight=POISON)
            if raises:
                raise BodyError
    with out_of_order():
        await poisoned
    (await following).release()
    untouched(limiter, 6)


class FickleLaw(AIMD):
    """Fails when it is asked how a call went, or told of it."""

    broken = ""

    def judge(self, error: BaseException | None) -> Any:
        if self.broken == "judge":
            raise OSError("out of order")
        return super().judge(error)

    def sample(self, *args: Any, **options: Any) -> Any:
        if self.broken == "sample":
            raise OSError("out of order")
        return super().sample(*args, **options)


@every_kind
@pytest.mark.parametrize("broken", ["clock", "judge", "sample"])
@raising
@pytest.mark.parametrize("plain", [False, True])
async def test_what_fails_at_the_end_of_a_block_loses_neither_slot_nor_exception(
    kind: Kind, broken: str, raises: bool, plain: bool
) -> None:
    clock, fails_by_clock = FickleClock(), broken == "clock"
    options = {"timer": clock} if fails_by_clock else {"adapt": FickleLaw(maximum=1)}
    limiter = kind.make(1000, 1, **options)
    law = limiter.throttle.adapt or FickleLaw(maximum=1)
    block = limiter.asked if plain and hasattr(limiter.asked, "__aenter__") else limiter.call()
    expected = suppress(OSError) if fails_by_clock else pytest.raises(OSError, match="order")
    with pytest.raises(BodyError) if raises else expected:
        async with block:
            waiter = await queued(limiter.lease())
            clock.broken, law.broken = lambda: fails_by_clock, broken
            if raises:
                raise BodyError
    clock.work()
    law.broken = ""
    (await asyncio.wait_for(waiter, 1)).release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
    assert fails_by_clock or now() == 0


# -- clocks -------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Limiter, Any], object]] = {
    "try_acquire": lambda limiter, held: limiter.try_acquire(),
    "delay": lambda limiter, held: limiter.delay(),
    "locked": lambda limiter, held: limiter.locked(),
    "release": lambda limiter, held: held.release(),
    "settle": lambda limiter, held: limiter.settle(held, 0),
    "charge": lambda limiter, held: limiter.throttle.charge(1),
    "pause": lambda limiter, held: limiter.throttle.pause(1),
    "resume": lambda limiter, held: limiter.throttle.resume(),
    "level": lambda limiter, held: limiter.throttle.level,
    "active": lambda limiter, held: limiter.throttle.active,
    "waiting": lambda limiter, held: limiter.throttle.waiting,
    "paused_for": lambda limiter, held: limiter.throttle.paused_for,
    "repr": lambda limiter, held: repr(limiter.throttle),
    "capacity": lambda limiter, held: setattr(limiter.throttle, "capacity", 20),
    "concurrency": lambda limiter, held: setattr(limiter.throttle, "concurrency", 3),
    "close": lambda limiter, held: limiter.throttle.close(drop_waiting=False),
}


@every_kind
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("waits_for", ["slot", "time"])
async def test_what_a_clock_raises_goes_to_the_caller_that_read_it(
    kind: Kind, call: Callable[[Limiter, Any], object], waits_for: str
) -> None:
    clock = FickleClock()
    limiter = kind.make(10, 1, timer=clock)
    held = await limiter.lease(10 if waits_for == "time" else 1)
    if waits_for == "time":
        limiter.throttle.concurrency = 2
    tasks = [await queued(limiter.lease(1)) for _ in range(2)]
    clock.fail()
    with suppress(OSError):
        call(limiter, held)
    clock.work()
    held.release()
    for task in tasks:
        (await asyncio.wait_for(task, 30)).release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
    await asyncio.sleep(10)
    assert limiter.throttle.level == limiter.throttle.burst


@every_kind
@pytest.mark.parametrize("full", [False, True])
async def test_an_entry_whose_clock_fails_takes_nothing_and_does_not_wait(
    kind: Kind, full: bool
) -> None:
    clock = FickleClock()
    limiter = kind.make(10, 1, timer=clock)
    held = await limiter.lease(0) if full else None
    clock.fail()
    for options in ({"timeout": 1}, *([] if full else [{}, {"priority": 1}])):
        with out_of_order():
            await limiter.lease(2, **options)
    with suppress(OSError) if full else out_of_order():
        assert not limiter.try_acquire(2)
    clock.work()
    if held is not None:
        assert limiter.throttle.waiting == 0
        held.release()
    untouched(limiter, 10, None if full else ROOMY)
    assert limiter.try_acquire()


@every_kind
@pytest.mark.parametrize("place", [0, 1])
async def test_a_waiter_that_is_cancelled_while_the_clock_fails_is_cancelled(
    kind: Kind, place: int
) -> None:
    clock = FickleClock()
    limiter = kind.make(10, 1, timer=clock)
    held = await limiter.lease()
    tasks = [await queued(limiter.lease()) for _ in range(2)]
    clock.fail()
    tasks[place].cancel()
    await others_run()
    clock.work()
    assert tasks[place].cancelled()
    held.release()
    (await tasks[1 - place]).release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@every_kind
async def test_a_clock_that_fails_in_a_timer_is_told_to_the_loop_and_the_timer_set_again(
    kind: Kind, problems: list[Any]
) -> None:
    clock = FickleClock()
    limiter = kind.make(1, burst=1, timer=clock)
    await limiter.lease()
    tasks = [await queued(limiter.lease()) for _ in range(2)]
    clock.broken = lambda: 0.95 < now() < 1.55
    await tasks[0]
    assert 1.55 <= now() <= 1.65 + 1e-3
    assert {type(context["exception"]) for context in problems} == {OSError}
    assert 5 <= len(problems) <= 7, "once every 0.1 s"
    await tasks[1]
    assert 2 <= now() <= 2.65 + 1e-3
    assert limiter.throttle.waiting == 0


@every_kind
async def test_a_clock_that_fails_at_a_deadline_is_read_again(
    kind: Kind, problems: list[Any]
) -> None:
    clock = FickleClock()
    limiter = kind.make(1000, 1, timer=clock)
    held = await limiter.lease()
    task = await queued(limiter.lease(timeout=1))
    clock.broken = lambda: 0.95 < now() < 1.35
    with pytest.raises(ThrottleTimeout):
        await task
    assert 1.35 <= now() <= 1.45 + 1e-3
    assert problems
    held.release()
    assert limiter.try_acquire()


# -- threads ------------------------------------------------------------------------------


class Crowd:
    """Threads that enter a limiter one behind the other, and what they raised."""

    def __init__(self, stage: Stage, limiter: Limiter, weights: list[float]) -> None:
        self.raised: list[type | None] = [BaseException] * len(weights)
        for n, weight in enumerate(weights):
            stage.thread(str(n), self._enter, limiter, n, weight)
            stage.sleep(0.001)
        assert limiter.throttle.waiting == len(weights)

    def _enter(self, limiter: Limiter, n: int, weight: float) -> None:
        try:
            with limiter.call(weight):
                self.raised[n] = None
        except OSError:
            self.raised[n] = OSError


@threaded
@deciding
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("waits_for", ["slot", "time", "pause"])
@staged
def test_a_thread_for_which_a_rule_fails_leaves_with_it_and_the_others_go(
    stage: Stage, kind: Kind, method: str, place: int, waits_for: str
) -> None:
    breaker = Breaker()
    limiter = kind.make(40, 1, algorithm=fickle(breaker))
    held = limiter.call(1).__enter__()
    if waits_for == "time":
        held.release()
        limiter.throttle.charge(59)  # half a second
    elif waits_for == "pause":
        held.release()
        limiter.throttle.pause(math.inf)
    weights = [2.0, 2.0]
    weights.insert(place, POISON)
    crowd = Crowd(stage, limiter, weights)
    breaker.arm(method, weight=POISON)
    if waits_for == "slot":
        held.release()
    elif waits_for == "pause":
        limiter.throttle.resume()
    stage.sleep(1)
    assert crowd.raised == [OSError if n == place else None for n in range(3)]
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


def clock_of(stage: Stage) -> FickleClock:
    return FickleClock(lambda: stage.now / 1e9)


@threaded
@staged
def test_a_clock_that_fails_once_fails_one_thread_and_the_others_go(
    stage: Stage, kind: Kind
) -> None:
    def once() -> bool:
        assert stage.running is not None
        if stage.running.name == "test":
            return False
        clock.work()
        return True

    clock = clock_of(stage)
    limiter = kind.make(20, burst=1, timer=clock)
    limiter.throttle.charge(10)
    crowd = Crowd(stage, limiter, [1, 1, 1])
    clock.broken = once
    stage.sleep(2)
    assert sorted(crowd.raised, key=str) == [OSError, None, None]
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@threaded
@raising
@staged
def test_a_clock_that_fails_at_the_end_of_a_threads_block_loses_nothing(
    stage: Stage, kind: Kind, raises: bool
) -> None:
    clock = clock_of(stage)
    limiter = kind.make(1000, 1, timer=clock)
    with pytest.raises(BodyError) if raises else suppress(OSError), limiter.call():
        crowd = Crowd(stage, limiter, [1, 1])
        clock.fail()
        if raises:
            raise BodyError
    clock.work()
    stage.sleep(1)
    assert crowd.raised == [None, None]
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
