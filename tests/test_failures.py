"""A rule, a clock or a judge of the user's that raises.

A failure in the middle undoes itself. The exception goes to the caller for whom the question was
asked, and to no other: a waiter leaves the queue with it, what was taken is given back, and the
next one is looked at. It never hides the exception of a body. What a clock raises goes to whoever
read it; in a timer that is the loop's exception handler, and the timer is set again.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from limiters import KINDS, ROOMY, Kind, Limiter, every_kind
from support import at, now, others_run, queued

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
        """Work again."""
        self.arm()

    def pass_by(self, method: str, args: tuple[Any, ...]) -> None:
        """Raise if this is what fails."""
        if (
            method in self._methods
            and self._times > 0
            and (self._weight is None or self._weight in args)
        ):
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


def out_of_order() -> Any:
    return pytest.raises(OSError, match="out of order")


def untouched(limiter: Limiter, level: float) -> None:
    """Assert that nobody waits or holds, and how many tokens there are."""
    throttle = limiter.throttle
    assert (throttle.active, throttle.waiting, throttle.level) == (0, 0, level)
    for other in limiter.others:
        assert (other.active, other.waiting) == (0, 0)


# -- at the entry -------------------------------------------------------------------------


@every_kind
@deciding
@pytest.mark.parametrize("base", [TokenBucket, SlidingWindow])
async def test_an_entry_that_fails_takes_nothing(kind: Kind, method: str, base: type[Rule]) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 2, algorithm=fickle(breaker, base))
    breaker.arm(method)
    for enter in (limiter.lease, limiter.lease, limiter.lease):
        with out_of_order():
            await enter(2)
    with out_of_order():
        await limiter.lease(2, timeout=5)
    with out_of_order():
        limiter.try_acquire(2)
    breaker.disarm()
    untouched(limiter, 10)
    assert [other.level for other in limiter.others] == [ROOMY] * len(limiter.others)
    assert limiter.try_acquire(10)


@every_kind
@deciding
async def test_a_plain_block_that_cannot_be_entered_takes_nothing(kind: Kind, method: str) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 2, algorithm=fickle(breaker))
    breaker.arm(method)
    for _ in range(3):
        with out_of_order():
            async with limiter.call():
                pytest.fail("it was not granted")
    breaker.disarm()
    async with limiter.call(2):
        assert limiter.throttle.active == 1
    untouched(limiter, 8)


@deciding
@pytest.mark.parametrize("broken", range(4))
async def test_a_set_gives_back_the_tokens_and_slots_of_all_its_limits(
    method: str, broken: int
) -> None:
    breaker = Breaker()
    limits: dict[str, Any] = {
        name: Throttle(10, 2, algorithm=fickle(breaker) if n == broken else TokenBucket)
        for n, name in enumerate("abcd")
    }
    api = LimitSet(**limits, concurrency=2)
    breaker.arm(method)
    for _ in range(3):
        with out_of_order():
            await api(a=4, b=4, c=4, d=4, concurrency=2).__aenter__()
    breaker.disarm()
    assert [(limit.active, limit.level) for limit in limits.values()] == [(0, 10)] * 4
    assert api["concurrency"].active == 0
    async with api(a=10, b=10, c=10, d=10):
        pass


@pytest.mark.parametrize("order", ["first", "last"])
async def test_a_rule_that_cannot_refund_is_asked_last(order: str) -> None:
    breaker = Breaker()
    miserly = type("Miserly", (TokenBucket,), {"__slots__": (), "refund": Rule.refund})
    makers: dict[str, Callable[[], Throttle]] = {
        "miser": lambda: Throttle(10, algorithm=miserly),
        "x": lambda: Throttle(10, algorithm=fickle(breaker)),
        "y": lambda: Throttle(10),
    }
    names = ("miser", "x", "y") if order == "first" else ("y", "x", "miser")
    limits: dict[str, Any] = {name: makers[name]() for name in names}
    breaker.arm("take")
    with out_of_order():
        await LimitSet(**limits)(miser=4, x=4, y=4).__aenter__()
    assert {name: limit.level for name, limit in limits.items()} == dict.fromkeys(limits, 10)


async def test_what_a_rule_that_cannot_refund_raises_gives_the_others_back() -> None:
    breaker = Breaker()
    miser = Throttle(10, algorithm=fickle(breaker, refund=Rule.refund))
    others = [Throttle(10, 2), Throttle(10, 2)]
    api = LimitSet(others[0], miser, others[1])
    breaker.arm("take")
    with out_of_order():
        await api().__aenter__()
    assert [(other.level, other.active) for other in others] == [(10, 0)] * 2


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
    limiter.throttle.concurrency = 1
    lease = await limiter.lease(1)

    def event() -> None:
        limiter.throttle.concurrency = 9
        at(now() + 50, lease.release)

    return event


async def settle(limiter: Limiter) -> Callable[[], object]:
    lease = await limiter.lease(10)
    lease.release()
    if limiter.asked is limiter.throttle:
        return lambda: lease.settle(0)
    return lambda: lease.settle(x=0)


async def the_head_leaves(limiter: Limiter) -> Callable[[], object]:
    (await limiter.lease(1)).release()
    head = await queued(limiter.lease(10))
    limiter.throttle.burst = 11

    def event() -> None:
        head.cancel()

    return event


async def another_capacity(limiter: Limiter) -> Callable[[], object]:
    (await limiter.lease(10)).release()

    def event() -> None:
        limiter.throttle.capacity = 1e9

    return event


EVENTS = {
    event.__name__: event
    for event in (
        resume,
        end_of_a_pause,
        release,
        more_slots,
        settle,
        the_head_leaves,
        another_capacity,
    )
}


@every_kind
@deciding
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_the_waiter_for_whom_a_rule_fails_leaves_with_it_and_the_others_go(
    kind: Kind, method: str, event: Event, place: int
) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
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
    (failed,) = (task for task in tasks if task.exception())
    assert tasks.index(failed) == place
    assert isinstance(failed.exception(), OSError)
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
    kind: Kind, method: str, leaves: float, next_goes: float
) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    breaker = Breaker()
    limiter = kind.make(1, burst=4, algorithm=fickle(breaker))
    await limiter.lease(4)
    log: list[tuple[float, float]] = []

    async def call(weight: float) -> None:
        try:
            await limiter.lease(weight)
        finally:
            log.append((weight, now()))

    tasks = [await queued(call(weight)) for weight in (2, POISON, 2)]
    breaker.arm(method, weight=POISON)
    first, poisoned, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, last) == (None, None)
    assert isinstance(poisoned, OSError)
    assert log == [(2, 2), (POISON, leaves), (2, next_goes)] or log == [
        (2, 2),
        (2, next_goes),
        (POISON, leaves),
    ]
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
    untouched(limiter, 8)
    assert [other.level for other in limiter.others] == [ROOMY - 1] * len(limiter.others)


@every_kind
@deciding
async def test_a_newcomer_does_not_see_what_fails_for_the_head(kind: Kind, method: str) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 9, algorithm=fickle(breaker))
    (await limiter.lease(10)).release()
    poisoned = await queued(limiter.lease(POISON))
    breaker.arm(method, weight=POISON)
    # Past the instant at which the head is due, before its timer.
    loop = asyncio.get_running_loop()
    newcomers: list[asyncio.Task[Any]] = []
    loop.call_at(0.325 - 1e-6, lambda: newcomers.append(loop.create_task(limiter.lease(1))))
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
    broken = kind(10, 1, algorithm=fickle(breaker))
    sound = kind(10, 1)
    pool = LimitPool([LimitSet(x=broken), LimitSet(x=sound)])
    held = [await pool(x=1).__aenter__(), await pool(x=1).__aenter__()]
    poisoned = await queued(pool(x=POISON).__aenter__())
    second = await queued(pool(x=1).__aenter__())
    breaker.arm(method, weight=POISON)
    for lease in held:
        if lease.limit_set is pool[0]:
            lease.release()
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
    other = {"other0": 0} if len(limiter.others) and "other0" in _keys(limiter) else {}

    def settle_all() -> None:
        if limiter.asked is limiter.throttle:
            lease.settle(actual)
        else:
            lease.settle(**other, x=actual)

    breaker.arm(*asked, times=1)
    with out_of_order():
        settle_all()
    breaker.disarm()
    assert limiter.throttle.level == 6
    assert all(each.level == ROOMY - 1 for each in limiter.others)
    settle_all()
    assert limiter.throttle.level == 10 - actual
    lease.release()
    untouched(limiter, 10 - actual)


def _keys(limiter: Limiter) -> list[Any]:
    limit_set = limiter.asked[0] if isinstance(limiter.asked, LimitPool) else limiter.asked
    return list(limit_set.keys())


@every_kind
@pytest.mark.parametrize("raised_by", ["settle", "body"])
async def test_a_settlement_in_a_block_ends_the_block_with_one_exception(
    kind: Kind, raised_by: str
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))

    async def body() -> None:
        async with limiter.call(4) as lease:
            breaker.arm("refund")
            try:
                lease.settle(1) if limiter.asked is limiter.throttle else lease.settle(x=1)
            except OSError:
                if raised_by == "settle":
                    raise
                raise BodyError from None

    with pytest.raises(OSError if raised_by == "settle" else BodyError):
        await body()
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
    assert throttle.level == 8
    assert throttle.paused_for == 0
    assert not waiter.done()
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
    with suppress(OSError):
        limiter.delay(4)
    with suppress(OSError):
        limiter.locked()
    with suppress(OSError, ThrottleTimeout):
        await limiter.lease(4, timeout=0.5)
    with suppress(OSError):
        limiter.try_acquire(4)
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
    kind: Kind, method: str
) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
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


class BodyError(Exception):
    """What the body of a block raises."""


@every_kind
@deciding
@pytest.mark.parametrize("raises", [False, True])
async def test_a_block_that_ends_does_not_see_what_fails_for_the_next(
    kind: Kind, method: str, raises: bool
) -> None:
    breaker = Breaker()
    limiter = kind.make(10, 1, algorithm=fickle(breaker))
    tasks: list[asyncio.Task[Any]] = []

    async def body() -> None:
        async with limiter.call(2):
            tasks.append(await queued(limiter.lease(POISON)))
            tasks.append(await queued(limiter.lease(2)))
            breaker.arm(method, weight=POISON)
            if raises:
                raise BodyError

    if raises:
        with pytest.raises(BodyError):
            await body()
    else:
        await body()
    with out_of_order():
        await tasks[0]
    (await tasks[1]).release()
    untouched(limiter, 6)


class FickleClock:
    """The loop's clock, which fails at times."""

    def __init__(self) -> None:
        self.broken: Callable[[], bool] = lambda: False
        self.raised = 0

    def __call__(self) -> float:
        if self.broken():
            self.raised += 1
            raise OSError("out of order")
        return now() + 1e6


@every_kind
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_clock_that_fails_at_the_end_of_a_block_loses_neither_slot_nor_exception(
    kind: Kind, raises: bool, plain: bool
) -> None:
    clock = FickleClock()
    limiter = kind.make(1000, 1, timer=clock)
    tasks: list[asyncio.Task[Any]] = []
    block = limiter.asked if plain and hasattr(limiter.asked, "__aenter__") else limiter.call()
    with pytest.raises(BodyError) if raises else suppress(OSError):
        async with block:
            tasks.append(await queued(limiter.lease()))
            clock.broken = lambda: True
            if raises:
                raise BodyError
    clock.broken = lambda: False
    (lease,) = await asyncio.wait_for(asyncio.gather(*tasks), 1)
    lease.release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


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
@pytest.mark.parametrize("broken", ["judge", "sample"])
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_judge_that_fails_hides_no_exception_and_keeps_no_slot(
    kind: Kind, broken: str, raises: bool, plain: bool
) -> None:
    limiter = kind.make(1000, 1, adapt=FickleLaw(maximum=1))
    tasks: list[asyncio.Task[Any]] = []
    block = limiter.asked if plain and hasattr(limiter.asked, "__aenter__") else limiter.call()

    async def body() -> None:
        async with block:
            tasks.append(await queued(limiter.lease()))
            limiter.throttle.adapt.broken = broken
            if raises:
                raise BodyError

    with pytest.raises(BodyError if raises else OSError):
        await body()
    limiter.throttle.adapt.broken = ""
    (lease,) = await asyncio.gather(*tasks)
    lease.release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
    assert now() == 0


# -- clocks -------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Limiter, Any], object]] = {
    "try_acquire": lambda limiter, held: limiter.try_acquire(),
    "delay": lambda limiter, held: limiter.delay(),
    "locked": lambda limiter, held: limiter.locked(),
    "release": lambda limiter, held: held.release(),
    "settle": lambda limiter, held: (
        held.settle(0) if limiter.asked is limiter.throttle else held.settle(x=0)
    ),
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
    clock.broken = lambda: True
    with suppress(OSError):
        call(limiter, held)
    clock.broken = lambda: False
    held.release()
    for task in tasks:
        (await asyncio.wait_for(task, 30)).release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
    await asyncio.sleep(10)
    assert limiter.throttle.level == limiter.throttle.burst


@every_kind
async def test_an_entry_whose_clock_fails_takes_nothing(kind: Kind) -> None:
    clock = FickleClock()
    limiter = kind.make(10, 1, timer=clock)
    clock.broken = lambda: True
    for options in ({}, {"timeout": 1}, {"priority": 1}):
        with out_of_order():
            await limiter.lease(2, **options)
    with out_of_order():
        limiter.try_acquire(2)
    clock.broken = lambda: False
    untouched(limiter, 10)
    assert [other.level for other in limiter.others] == [ROOMY] * len(limiter.others)


@every_kind
async def test_a_newcomer_whose_clock_fails_does_not_stay_in_the_queue(kind: Kind) -> None:
    clock = FickleClock()
    limiter = kind.make(10, 1, timer=clock)
    held = await limiter.lease()
    clock.broken = lambda: True
    with out_of_order():
        await limiter.lease(timeout=1)
    clock.broken = lambda: False
    assert limiter.throttle.waiting == 0
    held.release()
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
    clock.broken = lambda: True
    tasks[place].cancel()
    await others_run()
    clock.broken = lambda: False
    assert tasks[place].cancelled()
    held.release()
    (await tasks[1 - place]).release()
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@every_kind
async def test_a_clock_that_fails_in_a_timer_is_told_to_the_loop_and_the_timer_set_again(
    kind: Kind,
) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
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
async def test_a_clock_that_fails_at_a_deadline_is_read_again(kind: Kind) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
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

threaded = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.of_throttle is threads.Throttle], ids=str
)

PATIENCE = 5.0
"""Real seconds after which a thread hangs."""


class Crowd:
    """Threads that enter a limiter one behind the other, and what becomes of them."""

    def __init__(self, limiter: Limiter, weights: list[float]) -> None:
        self.errors: list[BaseException | None] = [None] * len(weights)
        self._threads = []
        for n, weight in enumerate(weights):
            thread = threading.Thread(target=self._work, args=(limiter, n, weight), daemon=True)
            thread.start()
            self._threads.append(thread)
            end = time.monotonic() + PATIENCE
            while limiter.throttle.waiting <= n and time.monotonic() < end:
                time.sleep(0.001)

    def _work(self, limiter: Limiter, n: int, weight: float) -> None:
        try:
            with limiter.call(weight):
                pass
        except BaseException as error:
            self.errors[n] = error

    def join(self) -> list[type]:
        """Wait for all of them; the types of what they raised."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a thread hangs"
        return [type(error) for error in self.errors]


@threaded
@deciding
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("waits_for", ["slot", "time", "pause"])
def test_a_thread_for_which_a_rule_fails_leaves_with_it_and_the_others_go(
    kind: Kind, method: str, place: int, waits_for: str
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
    crowd = Crowd(limiter, weights)
    breaker.arm(method, weight=POISON)
    if waits_for == "slot":
        held.release()
    elif waits_for == "pause":
        limiter.throttle.resume()
    raised = crowd.join()
    assert [error is OSError for error in raised] == [n == place for n in range(3)]
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@threaded
def test_a_clock_that_fails_once_fails_one_thread_and_the_others_go(kind: Kind) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set() and threading.current_thread() is not threading.main_thread():
            broken.clear()
            raise OSError("out of order")
        return time.monotonic()

    limiter = kind.make(20, burst=1, timer=clock)
    limiter.throttle.charge(10)
    crowd = Crowd(limiter, [1, 1, 1])
    broken.set()
    raised = crowd.join()
    assert raised.count(OSError) == 1
    assert raised.count(type(None)) == 2
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)


@threaded
@pytest.mark.parametrize("raises", [False, True])
def test_a_clock_that_fails_at_the_end_of_a_threads_block_loses_nothing(
    kind: Kind, raises: bool
) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set() and threading.current_thread() is threading.main_thread():
            raise OSError("out of order")
        return time.monotonic()

    limiter = kind.make(1000, 1, timer=clock)
    with pytest.raises(BodyError) if raises else suppress(OSError), limiter.call():
        crowd = Crowd(limiter, [1, 1])
        broken.set()
        if raises:
            raise BodyError
    broken.clear()
    assert crowd.join() == [type(None)] * 2
    assert (limiter.throttle.active, limiter.throttle.waiting) == (0, 0)
