"""The independent proof: the real `Throttle` and a naive `Oracle` live the same life, step by step.

Hypothesis invents a throttle and a life for it: callers of every kind, cancellations, pauses,
resizes, settlements, debts, closing, and time. Some operations share one step of the event loop,
which is where the races are. After each step everything that can be seen must be equal, instants
to the nanosecond, and the ten invariants are checked on what the callers themselves recorded.

How many lives: ``HYPOTHESIS_PROFILE`` in the environment, see ``support.py``.
``--hypothesis-show-statistics`` prints the number, and which answers were met how often.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final, Literal, TypeVar

import pytest
from hypothesis import event, example, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from oracle import LATE, MS, TOKEN, Algorithm, Bucket, Call, Entry, Oracle
from support import examples

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    Lease,
    ResourceLimitError,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
)
from async_throttle.testing import VirtualTimeLoop

SECOND: Final = 1000 * MS
FAR: Final = 10**6 * SECOND
"""No further into the future: the clock of an event loop is a float."""

ALGORITHMS: Final[dict[Algorithm, Any]] = {
    "TokenBucket": TokenBucket,
    "GCRA": GCRA,
    "LeakyBucket": LeakyBucket,
    "SlidingWindow": SlidingWindow,
    "FixedWindow": FixedWindow,
}
ANSWERS: Final[dict[type[Exception], str]] = {
    WeightTooLarge: "heavy",
    ThrottleTimeout: "timeout",
    ThrottleFull: "full",
    ThrottleClosed: "closed",
}

Kind = Literal["acquire", "lease", "block", "plain block", "consume"]
T = TypeVar("T")
Exit = Literal["return", "raise", "cancel"]


# ----------------------------------------------------------------- what Hypothesis may choose


@dataclass(frozen=True, slots=True)
class Eighths:
    """A weight as a share of the burst, or a time as one of the time to fill it."""

    count: int


@dataclass(frozen=True, slots=True)
class UntilNext:
    """The instant at which something is due, or a nanosecond beside it."""

    beside: int = 0


Weight = int | Eighths
Timeout = int | UntilNext | float | None
Time = int | UntilNext | Eighths

WEIGHTS: Final[st.SearchStrategy[Weight]] = st.one_of(
    st.just(TOKEN),
    st.integers(0, 9).map(Eighths),
    st.sampled_from([0, TOKEN // 10, TOKEN // 3, TOKEN // 2, 2 * TOKEN, 5 * TOKEN, 1]),
    st.integers(0, 3 * TOKEN),
)
CAPACITIES: Final = st.one_of(
    st.sampled_from([n * TOKEN for n in (1, 2, 3, 5, 8, 10, 7, 100, 999_999)]),
    st.sampled_from([TOKEN // 10, TOKEN // 3, 5 * TOKEN // 2, 7 * TOKEN // 10]),
    st.integers(TOKEN // 100, 20 * TOKEN),
)
PERIODS: Final = st.sampled_from([SECOND, SECOND // 3, 100 * MS, 7, 60 * SECOND])
TIMEOUTS: Final[st.SearchStrategy[Timeout]] = st.one_of(
    st.none(),
    st.integers(-1, 1).map(UntilNext),
    st.sampled_from([0, -SECOND, 1, 100 * MS, SECOND, 10 * SECOND, math.inf]),
)
TIMES: Final[st.SearchStrategy[Time]] = st.one_of(
    st.integers(-1, 1).map(UntilNext),
    st.integers(1, 12).map(Eighths),
    st.sampled_from([1, MS, 100 * MS, SECOND // 3, SECOND, 10 * SECOND]),
    st.integers(1, 3 * SECOND),
)
PAUSES: Final[st.SearchStrategy[int | float]] = st.one_of(
    st.sampled_from([0, 1, 100 * MS, SECOND, math.inf]), st.integers(0, 3 * SECOND)
)
WHICH: Final = st.integers(0, 7)
"""Which of the callers in question, counted round."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A caller to come."""

    kind: Kind
    weight: Weight
    timeout: Timeout


ARRIVALS: Final = st.builds(
    Arrival,
    st.sampled_from(["acquire", "lease", "block", "plain block", "consume"]),
    WEIGHTS,
    TIMEOUTS,
)


@dataclass(frozen=True, slots=True)
class Config:
    """A throttle to build, in the oracle's units."""

    algorithm: Algorithm
    capacity: int | None
    concurrency: int
    period: int
    burst: int | None
    initial: int | None
    max_waiting: int | None
    crowd: tuple[Arrival, ...]


@st.composite
def configs(draw: st.DrawFn) -> Config:
    algorithm = draw(st.sampled_from(list(ALGORITHMS)))
    window = algorithm in ("SlidingWindow", "FixedWindow")
    capacity = draw(st.one_of(CAPACITIES, CAPACITIES, CAPACITIES, st.none()))
    limited = not window and capacity is not None
    burst = draw(st.one_of(st.none(), CAPACITIES)) if limited else None
    most = Oracle(algorithm, capacity, burst=burst).burst
    initial = draw(st.none() | st.integers(0, 8).map(lambda n: most * n // 8)) if most else None
    return Config(
        algorithm,
        capacity,
        draw(st.integers(0, 3)),
        draw(PERIODS),
        burst,
        initial,
        draw(st.sampled_from([None, None, None, 0, 1, 3])),
        draw(st.lists(ARRIVALS, max_size=4).map(tuple)),
    )


def seconds(ns: float) -> float:
    return ns / SECOND


def nanoseconds(seconds: float) -> int | float:
    return seconds if math.isinf(seconds) else round(seconds * SECOND)


def as_tokens(weight: int) -> float:
    """An int where it can be one: whole tokens take a faster path of their own."""
    return weight / TOKEN if weight % TOKEN else weight // TOKEN


# ------------------------------------------------------------------------------- the callers


class BodyFailed(Exception):
    """Raised by a body, and nothing else may come out of its block."""


@dataclass(slots=True, eq=False)
class Caller:
    """One task, and its twin in the oracle."""

    ident: int
    kind: Kind | Literal["try"]
    weight: int
    call: Call
    task: asyncio.Task[None] | None = None
    leave: asyncio.Future[Exit] | None = None
    lease: Lease | None = None
    promised: tuple[int, int] | None = None
    holds: bool = False
    exit: Exit | None = None
    least: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller was told, and when, as it recorded it itself."""

    how: str
    at: int
    retry_after: int | float | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """The rate from an instant on."""

    since: int
    capacity: int
    period: int
    burst: int


class ThrottleMachine(RuleBasedStateMachine):
    """One life of a throttle.

    An operation is a function that does the same thing to both sides. It runs inside the event
    loop, alone in its step or together with the next ones; then the loop runs until it is idle.
    """

    throttle: Throttle
    oracle: Oracle

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.operations: list[Callable[[], object]] = []
        self.share_step_with = 0
        self.idents = itertools.count()
        self.callers: list[Caller] = []
        self.seen: dict[int, Seen] = {}
        self.compared = 0
        self.started: list[Caller] = []
        self.grants: list[tuple[int, Caller]] = []
        self.numbers: list[Numbers] = []
        self.broken: list[str] = []
        self.turns_moved = 0
        self.promises_due: list[tuple[int, int]] = []
        self.was_blocked = False
        self.blocked_in_this_step = False
        self.drains: list[asyncio.Task[None]] = []
        self.well = False
        self.most_slots = math.inf

    @initialize(config=configs())
    def build(self, config: Config) -> None:
        def construct() -> None:
            self.throttle = Throttle(
                math.inf if config.capacity is None else as_tokens(config.capacity),
                config.concurrency,
                seconds(config.period),
                burst=None if config.burst is None else as_tokens(config.burst),
                algorithm=ALGORITHMS[config.algorithm],
                initial=None if config.initial is None else as_tokens(config.initial),
                max_waiting=config.max_waiting,
            )

        self.in_the_loop(construct)
        self.oracle = Oracle(
            config.algorithm,
            config.capacity,
            concurrency=config.concurrency,
            period=config.period,
            burst=config.burst,
            initial=config.initial,
            max_waiting=config.max_waiting,
            born=self.clock(),
        )
        self.remember_numbers()
        event(f"algorithm {config.algorithm if config.capacity else 'none'}")
        for arrival in config.crowd:
            self.arrive(arrival)

    # ---------------------------------------------------------------- how an operation is done

    def in_the_loop(self, action: Callable[[], T]) -> T:
        """Calls *action* in a step of the loop: only there has the throttle the virtual clock."""

        async def step() -> T:
            return action()

        return self.loop.run_until_complete(step())

    def clock(self) -> int:
        return round(self.loop.time() * SECOND)

    def do(self, *operation: Callable[[], object], quiet: bool = False) -> None:
        """Does *operation* now, or in one step with those that follow.

        Args:
            operation: what to call, in order, to do one thing to both sides.
            quiet: it moves nobody's turn, so that promises made before it must be kept.
        """
        self.turns_moved += not quiet
        self.operations.extend(operation)
        if self.share_step_with:
            self.share_step_with -= 1
        else:
            self.flush()

    def flush(self) -> None:
        """Does all operations in one step of the event loop, then lets the loop come to rest."""

        async def one_step() -> None:
            for operation in self.operations:
                operation()
            await self.come_to_rest()

        self.most_slots = self.throttle.concurrency or math.inf
        if self.operations:
            self.well = False
            self.loop.run_until_complete(one_step())
            self.oracle.run()
            for caller in self.callers:  # cancelled before its first step, a task sees nothing
                if caller.task and caller.task.cancelled() and caller.ident not in self.seen:
                    self.sees(caller, Seen("cancelled", self.clock()))
        self.operations.clear()
        self.blocked_in_this_step = False
        self.share_step_with = 0

    async def come_to_rest(self) -> None:
        while True:
            await asyncio.sleep(0)
            if not vars(self.loop)["_ready"]:
                return

    def remember_slots(self) -> None:
        """Who starts in this step may have been granted before the number was cut in it."""
        self.most_slots = max(self.most_slots, self.throttle.concurrency or math.inf)

    def remember_numbers(self) -> None:
        o = self.oracle
        if o.capacity is not None and o.burst is not None:
            self.numbers.append(Numbers(self.clock(), o.capacity, o.period, o.burst))

    def resolve(self, weight: Weight) -> int:
        if isinstance(weight, Eighths):
            return (self.oracle.burst or 8 * TOKEN) * weight.count // 8
        return weight

    async def live(self, caller: Caller, patience: float | None) -> None:
        """The task of a caller: asks, records what it was told, and runs a body if it has one."""
        throttle, weight = self.throttle, as_tokens(caller.weight)
        try:
            match caller.kind:
                case "acquire":
                    assert await throttle.acquire(weight, timeout=patience) is True
                    self.starts(caller)
                case "lease":
                    caller.lease = await throttle.lease(weight, timeout=patience)
                    self.starts(caller)
                case "consume":
                    await throttle.consume(weight)
                    self.starts(caller)
                case "block":
                    async with throttle(weight, timeout=patience) as caller.lease:
                        await self.body(caller)
                case "plain block":
                    async with throttle as nothing:
                        assert nothing is None
                        await self.body(caller)
        except ResourceLimitError as error:
            after = error.retry_after
            ns = None if after is None else nanoseconds(after)
            self.sees(caller, Seen(ANSWERS[type(error)], self.clock(), ns))
        except asyncio.CancelledError:
            if caller.ident not in self.seen:
                self.sees(caller, Seen("cancelled", self.clock()))
            raise
        finally:
            if caller.leave is not None:
                caller.holds = False

    async def body(self, caller: Caller) -> None:
        self.starts(caller)
        caller.leave = self.loop.create_future()
        if await caller.leave == "raise":
            raise BodyFailed

    def sees(self, caller: Caller, seen: Seen) -> None:
        if caller.ident in self.seen:
            self.broken.append(f"caller {caller.ident} was told {self.seen[caller.ident]}, {seen}")
        self.seen[caller.ident] = seen

    def starts(self, caller: Caller) -> None:
        """The first step of a granted caller."""
        self.sees(caller, Seen("granted", self.clock()))
        self.started.append(caller)
        self.is_granted(caller)
        if caller.promised is not None and caller.promised[1] == self.turns_moved:
            self.promises_due.append((caller.promised[0], self.clock()))

    def is_granted(self, caller: Caller) -> None:
        caller.least = caller.weight
        self.grants.append((self.clock(), caller))
        caller.holds = caller.kind != "consume"
        if caller.holds and len(self.holders()) > self.most_slots:
            self.broken.append(f"caller {caller.ident} got a slot that was not there")

    def holders(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.holds]

    def waiting_tasks(self) -> list[Caller]:
        return [
            c for c in self.callers if c.task and not c.task.done() and c.ident not in self.seen
        ]

    def in_their_body(self) -> list[Caller]:
        return [c for c in self.holders() if c.leave is not None and not c.leave.done()]

    def without_block(self) -> list[Caller]:
        return [c for c in self.holders() if c.leave is None]

    def snapshot(self) -> dict[str, float]:
        """What a refusal must not change."""
        names = ("level", "active", "waiting", "paused_for", "capacity", "concurrency", "burst")
        return {name: getattr(self.throttle, name) for name in names}

    # ----------------------------------------------------------------------- rules: the callers

    @rule(arrival=ARRIVALS)
    def arrive(self, arrival: Arrival) -> None:
        kind, timeout = arrival.kind, arrival.timeout
        heavy = TOKEN if kind == "plain block" else self.resolve(arrival.weight)
        ident = next(self.idents)
        if kind in ("consume", "plain block"):
            timeout = None
        alone = not self.operations and not self.share_step_with
        before: list[dict[str, float]] = []

        def operation() -> None:
            before.append(self.snapshot())
            wait = timeout
            if isinstance(wait, UntilNext):
                known = self.oracle.delay(heavy) if self.oracle.fits(heavy) else SECOND
                wait = known + wait.beside if known < FAR else math.inf
            call = self.oracle.arrive(ident, heavy, needs_slot=kind != "consume", timeout=wait)
            caller = Caller(ident, kind, heavy, call)
            if alone:
                caller.promised = self.promise(heavy)
            self.callers.append(caller)
            coroutine = self.live(caller, None if wait is None else seconds(wait))
            caller.task = self.loop.create_task(coroutine)

        self.do(operation, quiet=True)
        if alone and ident in self.seen and self.seen[ident].how in ANSWERS.values():
            assert self.in_the_loop(self.snapshot) == before[0], "a refusal changed something"

    def promise(self, weight: int) -> tuple[int, int] | None:
        """The instant at which a newcomer will be granted if nothing but time happens."""
        o = self.oracle
        if (
            o.closed
            or not o.fits(weight)
            or o.is_full()
            or any(c.deadline is not None for c in o.waiters)
        ):
            return None
        if o.concurrency and o.concurrency - o.active <= len(o.waiters):
            return None
        delay = nanoseconds(self.throttle.delay(as_tokens(weight)))
        return None if isinstance(delay, float) else (self.clock() + delay, self.turns_moved)

    @rule(weight=WEIGHTS)
    def try_acquire(self, weight: Weight) -> None:
        heavy = self.resolve(weight)
        ident = next(self.idents)

        def operation() -> None:
            before = self.snapshot()
            expected = self.oracle.try_acquire(ident, heavy)
            answer: bool | str
            try:
                answer = self.throttle.try_acquire(as_tokens(heavy))
            except ResourceLimitError as error:
                answer = ANSWERS[type(error)]
            if isinstance(expected, Call):
                assert answer is True
                caller = Caller(ident, "try", heavy, expected)
                self.callers.append(caller)
                self.is_granted(caller)
            else:
                assert ("no" if answer is False else answer) in expected
                assert self.snapshot() == before, "a refusal changed something"

        self.do(operation, quiet=True)

    @precondition(lambda self: bool(self.without_block()))
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        def operation() -> None:
            holders = self.without_block()
            if not holders:
                return
            caller = holders[which % len(holders)]
            caller.holds = False
            self.oracle.release()
            if caller.lease is not None:
                caller.lease.release()
            else:
                self.throttle.release()

        self.do(operation)

    @precondition(lambda self: bool(self.in_their_body()))
    @rule(which=WHICH, how=st.sampled_from(["return", "return", "raise", "cancel"]))
    def leave_a_block(self, which: int, how: Exit) -> None:

        def operation() -> None:
            inside = self.in_their_body()
            if not inside:
                return
            caller = inside[which % len(inside)]
            assert caller.leave is not None
            assert caller.task is not None
            caller.exit = how
            self.oracle.leave(caller.call)
            if how == "cancel":
                caller.task.cancel()
            else:
                caller.leave.set_result(how)

        self.do(operation)

    @precondition(lambda self: bool(self.waiting_tasks() or self.operations))
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        """Cancels a task that waits, or has been granted or made in this very step."""

        def operation() -> None:
            waiting = [c for c in self.waiting_tasks() if not c.call.cancelled]
            if not waiting:
                return
            caller = waiting[which % len(waiting)]
            assert caller.task is not None
            self.oracle.cancel(caller.call)
            caller.task.cancel()

        told = len(self.seen)
        before = self.in_the_loop(self.snapshot)
        alone = not self.operations and not self.share_step_with
        self.do(operation)
        if alone and len(self.seen) == told + 1:
            after = {**before, "waiting": before["waiting"] - 1}
            assert self.in_the_loop(self.snapshot) == after, "not as if it had never asked"

    @precondition(lambda self: any(c.lease is not None for c in self.callers))
    @rule(
        which=WHICH, eighths=st.sampled_from([0, 0, 1, 4, 7, 8, 9, 16, 24]), more=st.integers(0, 2)
    )
    def settle(self, which: int, eighths: int, more: int) -> None:

        def operation() -> None:
            leases = [caller for caller in self.callers if caller.lease is not None]
            caller = leases[-1 - which % len(leases)]
            actual = caller.weight * eighths // 8 + more
            caller.least = min(caller.least, actual)
            assert caller.lease is not None
            self.oracle.settle(caller.call, actual)
            caller.lease.settle(as_tokens(actual))

        self.do(operation)

    @rule(
        kind=st.sampled_from(["lease", "block"]),
        weight=WEIGHTS,
        before=TIMES,
        other=st.sampled_from(["plain block", "plain block", "block", "consume"]),
        after=TIMES,
        eighths=st.sampled_from([0, 0, 3, 7, 12]),
    )
    def settle_late(
        self, kind: Kind, weight: Weight, before: Time, other: Kind, after: Time, eighths: int
    ) -> None:
        """A lease is settled when time has passed and others have taken: what is it worth?"""
        self.arrive(Arrival(kind, weight, None))
        self.time_passes(before)
        self.arrive(Arrival(other, TOKEN, None))
        self.time_passes(after)
        if any(caller.lease is not None for caller in self.callers):
            self.settle(0, eighths, 0)

    @rule(weight=WEIGHTS)
    def charge(self, weight: Weight) -> None:
        heavy = self.resolve(weight)

        self.do(partial(self.oracle.charge, heavy), partial(self.throttle.charge, as_tokens(heavy)))

    @rule()
    def drain(self) -> None:
        self.flush()

        def operation() -> None:
            self.drains.append(self.loop.create_task(self.throttle.drain()))

        self.do(operation, quiet=True)
        busy = bool(self.oracle.active or self.oracle.waiters)
        assert self.drains[-1].done() is not busy

    # ----------------------------------------------------------------------- rules: the operator

    @rule(duration=PAUSES, empty=st.booleans())
    def pause(self, duration: int | float, empty: bool) -> None:
        self.do(
            partial(self.oracle.pause, duration, empty=empty),
            partial(self.throttle.pause, seconds(duration), empty=empty),
        )

    @rule()
    def resume(self) -> None:
        self.do(self.oracle.resume, self.throttle.resume)

    @rule(slots=st.integers(0, 3))
    def set_concurrency(self, slots: int) -> None:
        self.do(
            partial(self.oracle.set_concurrency, slots),
            partial(setattr, self.throttle, "concurrency", slots),
            self.remember_slots,
        )

    @precondition(lambda self: self.oracle.capacity is not None)
    @rule(capacity=CAPACITIES)
    def set_capacity(self, capacity: int) -> None:
        self.do(
            partial(self.oracle.set_capacity, capacity),
            partial(setattr, self.throttle, "capacity", as_tokens(capacity)),
            self.remember_numbers,
        )

    @precondition(lambda self: self.oracle.capacity is not None)
    @rule(period=PERIODS)
    def set_period(self, period: int) -> None:
        self.do(
            partial(self.oracle.set_period, period),
            partial(setattr, self.throttle, "period", seconds(period)),
            self.remember_numbers,
        )

    @precondition(lambda self: self.oracle.capacity is not None and not self.oracle.is_window)
    @rule(burst=CAPACITIES)
    def set_burst(self, burst: int) -> None:
        self.do(
            partial(self.oracle.set_burst, burst),
            partial(setattr, self.throttle, "burst", as_tokens(burst)),
            self.remember_numbers,
        )

    @rule(weight=st.sampled_from([-1.0, math.nan, math.inf]))
    def nonsense(self, weight: float) -> None:
        """Refused, and nothing changes."""

        def operation() -> None:
            t = self.throttle
            before = self.snapshot()
            for ask in (t.try_acquire, t.charge, t.delay):
                with pytest.raises((ValueError, ThrottleClosed)):
                    ask(weight)
            for name in ("capacity", "concurrency", "period", "burst"):
                with pytest.raises(ValueError, match=name):
                    setattr(t, name, -1)
            if not t.active:
                with pytest.raises(ValueError, match="release"):
                    t.release()
            assert self.snapshot() == before

        self.do(operation, quiet=True)

    @precondition(lambda self: len(self.callers) > 5)
    @rule(drop_waiting=st.booleans())
    def close(self, drop_waiting: bool) -> None:
        self.do(
            partial(self.oracle.close, drop_waiting=drop_waiting),
            partial(self.throttle.close, drop_waiting=drop_waiting),
        )

    # ------------------------------------------------------------------------- rules: the time

    @rule(count=st.integers(1, 3))
    def share_one_step(self, count: int) -> None:
        """The next operations happen in one step of the event loop: nobody runs in between."""
        self.flush()
        self.share_step_with = count

    @rule(arrivals=st.lists(ARRIVALS, min_size=2, max_size=5))
    def many_arrive(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.arrive(arrival)

    @rule()
    def time_passes_until_next(self) -> None:
        self.time_passes(UntilNext())

    @rule(time=TIMES)
    def time_passes(self, time: Time) -> None:
        self.flush()
        if isinstance(time, Eighths):
            o = self.oracle
            fill = (o.burst or TOKEN) * o.period // (o.capacity or TOKEN)
            time = (o.period if o.is_window else fill) * time.count // 8
        elif isinstance(time, UntilNext):
            due = self.oracle.next_instant()
            time = 0 if due is None else math.ceil(due) + time.beside - self.clock()
        if 0 < time < FAR - self.clock():
            self.advance_to(self.clock() + time)

    @rule(time=st.sampled_from([MS, LATE - 1, LATE, LATE + 1, 40 * MS, SECOND]))
    def the_loop_is_blocked(self, time: int) -> None:
        """Some callback runs for so long; the timers due in the meantime fire late, and at once.

        Which of a grant and a deadline both missed came first is left to the simpler tests.
        """

        def operation() -> None:
            until = self.clock() + time
            if all(c.deadline is None or c.deadline > until for c in self.oracle.waiters):
                self.was_blocked = True
                vars(self.loop)["_now"] = until
                self.oracle.advance(until, blocked=True)

        if self.blocked_in_this_step:  # the first would go unnoticed
            self.flush()
        self.blocked_in_this_step = True
        self.do(operation)

    def advance_to(self, instant: int) -> None:
        async def sleep() -> None:
            arrived = self.loop.create_future()
            self.loop.call_at(seconds(instant), arrived.set_result, None)
            await arrived
            assert self.clock() == instant
            await self.come_to_rest()

        self.well = False
        self.loop.run_until_complete(sleep())
        self.oracle.advance(instant)

    # ---------------------------------------------------------- after each step: all is equal

    @invariant()
    def all_is_well(self) -> None:
        """Everything that is checked after each step of the loop."""

        def check() -> None:
            self.every_caller_was_told_what_the_oracle_says()
            self.the_throttle_shows_what_the_oracle_shows()
            self.i01_envelope()
            self.i02_slots()
            self.i03_order()
            self.i04_one_decision()
            self.i05_no_lost_wake_up()
            self.i09_promised_instant()
            self.well = True

        if not self.operations:
            self.in_the_loop(check)

    def every_caller_was_told_what_the_oracle_says(self) -> None:
        told = self.oracle.outcomes
        for outcome in told[self.compared :]:
            seen = self.seen.get(outcome.ident)
            assert seen is not None, f"{outcome}, of which the caller knows nothing"
            assert seen.how in outcome.how, (outcome, seen)
            assert seen.at == outcome.at, (outcome, seen)
            assert same_delay(seen.retry_after, outcome.retry_after), (outcome, seen)
            event(f"told {seen.how}")
        assert len(self.seen) == len(told), (self.seen, told)
        self.compared = len(told)
        granted = [outcome.ident for outcome in told if "granted" in outcome.how]
        assert [caller.ident for caller in self.started] == granted
        for caller in self.started:
            if caller.lease is not None:
                assert caller.call.granted is not None
                waited = caller.call.granted - caller.call.arrived
                assert nanoseconds(caller.lease.waited) == waited
            if caller.exit is not None:
                assert caller.task is not None
                assert caller.task.cancelled() == (caller.exit == "cancel")
                if not caller.task.cancelled():
                    failed = isinstance(caller.task.exception(), BodyFailed)
                    assert failed == (caller.exit == "raise")

    def the_throttle_shows_what_the_oracle_shows(self) -> None:
        t, o = self.throttle, self.oracle
        assert self.clock() == o.clock
        assert t.active == o.active
        assert t.waiting == len(o.waiters)
        assert nanoseconds(t.paused_for) == o.paused_for()
        assert same_tokens(t.level, o.level()), (t.level, float(o.level()) / TOKEN)
        assert t.concurrency == o.concurrency
        assert same_tokens(t.capacity, math.inf if o.capacity is None else o.capacity)
        assert same_tokens(t.burst, math.inf if o.burst is None else o.burst)
        assert nanoseconds(t.period) == o.period
        for weight in (0, TOKEN, (o.burst or TOKEN) // 3, o.burst or TOKEN):
            if o.closed or not o.fits(weight):
                with pytest.raises((ThrottleClosed, WeightTooLarge)):
                    t.delay(as_tokens(weight))
            elif o.is_full() and not o.may_go_now(weight):
                with pytest.raises(ThrottleFull):
                    t.delay(as_tokens(weight))
            else:
                told = nanoseconds(t.delay(as_tokens(weight)))
                assert same_delay(told, o.delay(weight)), (weight, told, o.delay(weight))
        if not o.closed and o.fits(TOKEN):
            assert t.locked() is not o.may_go_now(TOKEN)
        for window in (o.period // 2, o.period, 3 * o.period + 1):
            most = o.guarantee(window)
            assert same_tokens(t.guarantee(seconds(window)), most)
        if not (o.active or o.waiters):
            assert all(drain.done() for drain in self.drains)
        assert "Throttle" in repr(t)

    # ----------------------------------------------------------- after each step: the invariants

    def i01_envelope(self) -> None:
        """No stretch of time admitted more than it may, by trying all pairs of grants."""
        if self.oracle.capacity is None:
            return
        if self.oracle.is_window:
            self.check_windows()
        else:
            self.check_buckets()

    def check_buckets(self) -> None:
        # What a caller sees is up to 1 ns later than the instant from which its grant counts.
        slack = 1 + (LATE if self.was_blocked else 0)
        for first, (since, _) in enumerate(self.grants):
            burst = max(n.burst for n, end in self.stretches() if n.since <= since <= end)
            admitted = 0
            for until, caller in self.grants[first:]:
                admitted += caller.least
                assert admitted <= burst + self.trickled(since - slack, until)

    def trickled(self, since: int, until: int) -> Fraction:
        """What came in between, each stretch at its own rate."""
        total = Fraction(0)
        for stretch, end in self.stretches():
            length = min(until, end) - max(since, stretch.since)
            total += Fraction(stretch.capacity, stretch.period) * max(0, length)
        return total

    def stretches(self) -> Iterator[tuple[Numbers, int]]:
        ends = [n.since for n in self.numbers[1:]] + [self.clock() + 1]
        return zip(self.numbers, ends, strict=True)

    def check_windows(self) -> None:
        """Within a stretch of one rate; what a change of it leaves behind, the oracle says."""
        born = self.numbers[0].since
        for stretch, end in self.stretches():
            inside = [(at, c) for at, c in self.grants if stretch.since < at < end]
            for since, _ in inside:
                if self.oracle.algorithm == "FixedWindow":
                    since -= (since - born) % stretch.period
                admitted = sum(c.least for at, c in inside if 0 <= at - since < stretch.period)
                assert admitted <= stretch.capacity

    def i02_slots(self) -> None:
        """Nobody ever began without a slot; those who hold are those who are counted."""
        assert not self.broken, self.broken
        assert self.throttle.active == len(self.holders())

    def i03_order(self) -> None:
        """Who came first went first; only one that needs no slot passed one that does."""
        for place, caller in enumerate(self.started):
            for later in self.started[place + 1 :]:
                passed = caller.ident > later.ident
                assert not passed or (caller.kind == "consume" and later.kind != "consume")

    def i04_one_decision(self) -> None:
        """Who waits holds nothing: the slots are all with those who run."""
        waiting = self.waiting_tasks()
        assert self.throttle.waiting == len(waiting)
        assert not any(caller.holds for caller in waiting)

    def i05_no_lost_wake_up(self) -> None:
        """A timer is armed if time alone would grant somebody, and hardly any other."""
        handles = [*vars(self.loop)["_scheduled"], *vars(self.loop)["_ready"]]
        timers = [handle for handle in handles if isinstance(handle, asyncio.TimerHandle)]
        armed = [timer for timer in timers if not timer.cancelled()]
        deadlines = [c.deadline for c in self.oracle.waiters if c.deadline is not None]
        grant = self.oracle.next_grant()
        assert len(armed) <= (grant is not None) + bool(deadlines), armed
        due = deadlines if grant is None else [*deadlines, math.ceil(grant)]
        if due:
            assert min(nanoseconds(timer.when()) for timer in armed) <= min(due)

    def i09_promised_instant(self) -> None:
        """Who was told an instant, and nothing but time happened since, went at that instant."""
        for promised, granted in self.promises_due:
            assert granted == promised
        self.promises_due.clear()

    # ---------------------------------------------------------------------------- the end of it

    def teardown(self) -> None:
        try:
            if self.well:
                self.flush()
                self.all_is_well()
                self.i08_conservation()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(self.come_to_rest())
            self.loop.close()

    def i08_conservation(self) -> None:
        """When all have ended, nothing is held at once, and the bucket fills in the stated time."""
        t, o = self.throttle, self.oracle
        note("teardown: all end")

        def all_end() -> None:
            o.resume()
            t.resume()
            for caller in self.waiting_tasks():
                assert caller.task is not None
                o.cancel(caller.call)
                caller.task.cancel()
            for caller in self.in_their_body():
                assert caller.leave is not None
                o.leave(caller.call)
                caller.leave.set_result("return")
            for caller in self.without_block():
                caller.holds = False
                o.release()
                t.release()

        self.do(all_end)
        assert self.in_the_loop(lambda: (t.active, t.waiting)) == (0, 0)
        self.loop.run_until_complete(t.drain())
        self.all_is_well()
        if o.capacity is not None and o.burst is not None:
            debt = max(0, -o.level())
            full_in = o.period if o.is_window else (o.burst + debt) * o.period / o.capacity
            if full_in < FAR - self.clock():
                self.advance_to(self.clock() + math.ceil(full_in))
                assert self.in_the_loop(lambda: t.level) == t.burst


def same_delay(real: float | None, expected: float | None) -> bool:
    """Equal to the nanosecond, as far as a float number of seconds can tell."""
    if real is None or expected is None or expected < FAR:
        return real == expected
    return real == expected or math.isclose(real, expected, rel_tol=1e-15)


def same_tokens(real: float, expected: Fraction | float) -> bool:
    """Equal, but for the conversion to a float number of tokens."""
    if isinstance(expected, float):
        return real == expected
    return math.isclose(real, float(expected / TOKEN), rel_tol=1e-12, abs_tol=1e-9)


TestThrottleMachine = ThrottleMachine.TestCase
TestThrottleMachine.settings = settings(
    examples(200),
    stateful_step_count=40,
    report_multiple_bugs=False,
)


# ------------------------------------------------------- a bucket alone, to the last fraction

BUCKETS: Final = st.tuples(CAPACITIES, PERIODS, CAPACITIES)
"""Capacity, period and burst."""

STEPS: Final = st.one_of(
    st.tuples(st.just("take"), WEIGHTS),
    st.tuples(st.just("charge"), WEIGHTS),
    st.tuples(st.just("wait"), st.one_of(st.integers(1, 3 * SECOND), st.integers(1, 9))),
    st.tuples(st.just("wait"), st.integers(1, 12).map(Eighths)),
    st.tuples(st.just("refund"), WHICH, st.integers(1, 8)),
    st.tuples(st.just("change"), BUCKETS),
    st.just(("empty",)),
)


@examples(1_000)
@given(BUCKETS, st.lists(STEPS, min_size=4, max_size=16))
@example(  # the refund was worth nothing, for 59/60 of a nanotoken had been rounded down to 0
    (TOKEN, 60 * SECOND, TOKEN),
    [
        ("take", 1),
        ("wait", 1),
        ("change", (TOKEN // 10, SECOND // 10, 5 * TOKEN)),
        ("refund", 0, 8),
    ],
)
def test_a_bucket_alone_says_what_the_oracle_s_says(
    numbers: tuple[int, int, int], steps: list[tuple[Any, ...]]
) -> None:
    """What a life of a throttle meets too rarely: refunds across changes, fraction by fraction."""
    capacity, period, burst = numbers
    now, real, naive = 0, TokenBucket(0, *numbers), Bucket(0, *numbers, burst)
    taken: list[tuple[Any, Entry]] = []
    for step in steps:
        match step:
            case "take", weight:
                weight = burst * weight.count // 8 if isinstance(weight, Eighths) else weight
                weight = min(weight, burst)
                ready = real.ready_at(now, weight)
                assert ready == math.ceil(naive.ready(now, weight))
                now = max(now, ready)
                taken.append((real.take(now, weight), naive.take(now, weight)))
            case "charge", weight:
                weight = burst * weight.count // 8 if isinstance(weight, Eighths) else weight
                real.charge(now, weight)
                naive.take(now, weight)
            case "wait", time:
                fill = burst * period // capacity
                now += fill * time.count // 8 if isinstance(time, Eighths) else time
            case "refund", which, eighths if taken:
                receipt, entry = taken[which % len(taken)]
                back = entry.weight * eighths // 8
                real.refund(now, receipt, back)
                naive.refund(entry, now, back)
            case "change", (capacity, period, burst):
                real.configure(now, capacity, period, burst)
                naive.change(now, capacity, period, burst)
            case ("empty",):
                real.empty(now)
                naive.empty(now)
        missing = Fraction(
            max(0, real.state.full_at - now * real.ticks.scale) * TOKEN, real.ticks.token
        )
        assert burst - missing == naive.level(now)
