"""Every shortcut: the decisions of the long way, with fewer steps, for the usual case.

================  =================================================  ============================
shortcut          mirrors                                            held together by
================  =================================================  ============================
`FastThrottle`    `Core.lane` taken by `Scheduler.admit`: `Slots`    tests/test_fast_path.py
                  and `TokenBucket.take` for one token; `Core.release`
`FastLease`       `FastThrottle`, whole tokens; `TokenBucket.refund` tests/test_fast_path.py
`FastFlight`      `Throttle._enter_measured` and `Flights.finish`:   tests/test_fast_path.py
                  a plain block of a throttle that counts to the
                  end; `CountedToEnd.land`, `TokenBucket.take`
`enter_beside`    `FastFlight`, where several such blocks are open   tests/test_fast_path.py
`leave_beside`    `FastFlight`, where several such blocks are open   tests/test_fast_path.py
`enter_block`     `Throttle._enter_measured`: a plain block of a     tests/test_fast_path.py
                  throttle that adapts
`leave_block`     `BaseLease._quit` of such a block                  tests/test_fast_path.py
`enter_lease`     `FastLease`, for threads                           tests/test_fast_path.py
`leave_lease`     `FastLease.__aexit__`, for threads                 tests/test_fast_path.py
`take_one`        `FastThrottle`, for `acquire` and `try_acquire`    tests/test_fast_path.py
`release_slot`    `Core.release` where waiters wait for time         tests/test_fast_path.py
`release_booked`  `Core.release` of a slot that a store has granted, tests/test_stores.py
                  without waiters: `BookedSlots.free`
`hand_over`       `Core.release` where the head waits for that slot  tests/test_fast_path.py
                  (`_hand_unit`: `TokenBucket.take`, `Queue.grant`
                  and `tell_decided`)
`FastSet`         `settle_once` of a plain bucket from which nothing tests/test_fast_path.py
                  was taken since: `TokenBucket.refund`
`settle_once`     `LimitSetAcquisition._settle_one` without waiters  tests/test_fast_path.py
`leave_set`       `BaseLease._release` of a set that is calm         tests/test_fast_path.py
`quietly`         `Scheduler.do` without waiters                     tests/test_fast_path.py
`promptly`        `Scheduler.do` where no waiter was due before      tests/test_fast_path.py
`start`           `Scheduler.start` of a caller in a single lane     tests/test_fast_path.py
`grant_behind`    `Scheduler.admit` behind callers that were granted tests/test_fast_path.py
                  and do not run yet
`queue_behind`    `loop.wait` behind the head of a throttle's lane   tests/test_fast_path.py
                  (`Queue.join`)
`start_unit`      `Scheduler.start` of a caller of `queue_behind`    tests/test_fast_path.py
`join_behind`     `Scheduler.admit` behind the head of a lane        tests/test_fast_path.py
`leave_behind`    `Scheduler.withdraw` from behind the head          tests/test_fast_path.py
`grab`            `Scheduler.try_admit` in a single lane; of plain   tests/test_fast_path.py
                  buckets `Lane.take_into`, `TokenBucket.take`; of
                  limits in a store, what is in hand
================  =================================================  ============================

Shortcuts may be taken only while the scheduler is calm; `grab`, `quietly` and those of measured
blocks, while it is quiet; `FastFlight`, while it is armed, and the scheduler is not quiet for that
reason: see `quick`; shortcuts that serve waiters only while `ENABLED`. Where limits live in a store
the scheduler is never calm: `grab`, `quietly`, `release_booked` and those that serve waiters are
taken, and the store hears of it at the end of the turn of the loop. With `ENABLED` false no
shortcut is taken. The state machines of the tests play every life with the shortcuts and without.

Interruptions. CPython can be interrupted when a Python function begins, when a loop goes back, and
after a call. A flattened entry reads the clock first; from there on it makes no call before its
last store, so it changes the whole state or leaves it. Where the entry must call
(`TokenBucket.note`) it marks the scheduler as busy and not calm, as the door does: a call that
comes in meanwhile takes no shortcut.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Generator, Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, cast

from async_throttle._engine.lane import GONE, GRANTED, QUEUED, SKIP, Lane, Receipt, give_back
from async_throttle._engine.queue import arrivals
from async_throttle._shell.states import ENTERING, FRESH, HELD, LEASED, RELEASED
from async_throttle._shell.tally import tally_of
from async_throttle._shell.waiting import LoopWaiter
from async_throttle._units import NEVER, SECOND, TOKEN
from async_throttle.exceptions import ResourceLimitError
from async_throttle.rules.bucket import MOST_LOWS
from async_throttle.rules.slots import UNLIMITED, Slots

if TYPE_CHECKING:
    from async_throttle._shell.core import Core
    from async_throttle._shell.door import Door
    from async_throttle._shell.flights import Flights
    from async_throttle._shell.following import Following
    from async_throttle._shell.lease import Blocks
    from async_throttle._shell.loop import LoopScheduler
    from async_throttle._shell.scheduler import Scheduler
    from async_throttle._shell.waiting import Attempt, Waiting

__all__ = ["ENABLED", "EPOCH", "NOTHING", "FastLease", "FastThrottle", "who"]

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether no thread can tear apart plain stores of another: schedulers for threads take shortcuts
without their lock only then."""

ENABLED = True
"""Whether shortcuts are taken. Schedulers made while it is false take no shortcut."""

DONE: Final = (True,)
"""Added to a list without a call: something is done."""

UNIT: Final = (1, TOKEN)
"""The weights of a slot and one token."""

EPOCH = 0
"""The number of forks between the first process and this: earlier grants count in the parent."""


@types.coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


NOTHING: Final = cast("types.CoroutineType[Any, Any, None]", _nothing())
"""Awaiting this takes no time: an exhausted generator, which may be awaited again and again.

Called a coroutine, so that type checkers see an async context manager in a class that returns it.
"""
assert not list(cast(Any, NOTHING)), "it yields nothing, and from here on it is exhausted"


class FastThrottle:
    """The uncontended entry and exit of a throttle for an event loop."""

    __slots__ = ()

    if TYPE_CHECKING:
        _blocks: Blocks | None
        _core: Core

        def _enter_slowly(self) -> types.CoroutineType[Any, Any, None]: ...
        def _exit_slowly(self, error: BaseException | None, left: list[Any]) -> None: ...
        def _exit_again(
            self, late: BaseException, error: BaseException | None, left: list[Any]
        ) -> None: ...

    def __aenter__(self) -> types.CoroutineType[Any, Any, None]:
        # No coroutine function: awaiting NOTHING costs half as much as awaiting a coroutine.
        now = monotonic_ns()
        core = self._core
        scheduler = core.scheduler
        slots = core.slots
        state = core.state
        if scheduler.calm and state is not None and slots.free > 0:
            clock = scheduler.clock
            if now >= clock.seen:
                ticks = state.ticks
                full = state.full_at
                if ticks.scale != 1:
                    at = now * ticks.scale
                    if full <= at - ticks.scale:
                        full = at
                elif full > now:
                    at = now
                elif state.floor:
                    at = full = now
                else:  # full, and nothing to be noted: the usual case
                    state.full_at = now + ticks.token
                    clock.seen = now
                    slots.free -= 1
                    return NOTHING
                after = full + ticks.token
                if after <= at + ticks.room:
                    if state.floor and full - at < state.floor:
                        scheduler.busy = True
                        scheduler.calm = False
                        try:
                            bucket: Any = core.rule
                            bucket.note(full - at)
                            state.full_at = after
                            clock.seen = now
                            slots.free -= 1
                        finally:
                            scheduler.calm = True
                            scheduler.busy = False
                        if scheduler.notes:
                            scheduler.catch_up()
                        return NOTHING
                    state.full_at = after
                    clock.seen = now
                    slots.free -= 1
                    return NOTHING
        return self._enter_slowly()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        core = self._core
        slots = core.slots
        if core.scheduler.calm and slots.free < slots.limit:
            slots.free += 1
        else:
            left: list[Any] = []
            try:
                if self._blocks is not None:
                    self._exit_slowly(exc, left)
                elif slots.free != 0:
                    core.release(left)
                elif not hand_over(core, left):
                    core.release_slowly(left)
            except BaseException as late:
                self._exit_again(late, exc, left)
        return NOTHING


class FastFlight:
    """The uncontended entry and exit of a throttle for an event loop that counts to the end.

    While the shortcut is armed, the scheduler is not quiet: the next event of any other kind
    accounts first for what was left undone here. See `quick.QuickBlocks`.
    """

    __slots__ = ()

    def __aenter__(self: Any) -> types.CoroutineType[Any, Any, None]:
        blocks = self._blocks
        try:
            task = running_tasks[blocks.loop]
        except KeyError:
            task = None
        now = monotonic_ns()
        at = now if blocks.scale == 1 else now * blocks.scale
        if at >= blocks.edge and blocks.solo is None and task is not None:
            blocks.solo = task
            blocks.since = now
            return NOTHING
        if task is not None and enter_beside(self._core.flights, task, now):
            return NOTHING
        entry: types.CoroutineType[Any, Any, None] = self._enter_to_the_end()
        return entry

    def __aexit__(
        self: Any,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        left: list[bool] | None = None
        blocks = self._blocks
        try:
            now = monotonic_ns()
            if exc is None and blocks.solo is not None and 0 <= now - blocks.since <= SECOND:
                floor = (now if blocks.scale == 1 else now * blocks.scale) - blocks.near
                edge = blocks.edge
                if edge <= floor:
                    blocks.edge = floor + blocks.step
                else:
                    blocks.edge = edge + blocks.token
                blocks.solo = None
                blocks.last = now
                blocks.ended += 1
                return NOTHING
            if exc is None and leave_beside(self._core.flights, now):
                return NOTHING
            left = []
            self._exit_slowly(exc, left)
        except BaseException as late:
            self._exit_again(late, exc, left or [])
        return NOTHING


class FastLease:
    """The uncontended entry, exit and settlement of a lease for an event loop."""

    __slots__ = ()

    async def __aenter__(self: Any) -> Any:
        now = monotonic_ns()
        core = self._core
        weight: Any = self.weight
        scheduler = core.scheduler
        slots = core.slots
        state: Any = core.state
        if (
            scheduler.calm
            and state is not None
            and self._state is FRESH
            and slots.free > 0
            and weight.__class__ is int
            and weight > 0
        ):
            clock = scheduler.clock
            ticks = state.ticks
            at = now if ticks.scale == 1 else now * ticks.scale
            full = state.full_at
            if full <= at - ticks.scale:
                full = at
            after = full + weight * ticks.token
            if (
                after <= at + ticks.room
                and ticks.token
                and now >= clock.seen
                and (full >= at or weight * ticks.token <= ticks.room)  # full within a nanosecond
            ):
                if full > at or state.lows:
                    scheduler.busy = True
                    scheduler.calm = False
                    try:
                        missing = full - at
                        lows = state.lows
                        if (
                            lows and lows[-1] < missing < state.floor and len(lows) < MOST_LOWS
                        ):  # `note` of what is missing more than ever
                            low = [missing]
                            last = [state.issued]
                            lows += low
                            state.upto += last
                        else:
                            core.rule.note(missing)
                        state.full_at = after
                        state.issued = self._receipt = state.issued + 1
                        state.floor = NEVER
                        clock.seen = now
                        slots.free -= 1
                        self._settled = weight
                        self.waited = 0.0
                        self._state = HELD
                    finally:
                        scheduler.calm = True
                        scheduler.busy = False
                    if scheduler.notes:
                        scheduler.catch_up()
                    return self
                state.dead = state.issued
                state.full_at = after
                state.issued = self._receipt = state.issued + 1
                state.floor = NEVER
                clock.seen = now
                slots.free -= 1
                self._settled = weight
                self.waited = 0.0
                self._state = HELD
                return self
        return await self._enter_async()

    def __aexit__(
        self: Any,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> types.CoroutineType[Any, Any, None]:
        core = self._core
        slots = core.slots
        if core.scheduler.calm and self._state is HELD and slots.free < slots.limit:
            slots.free += 1
            self._state = RELEASED
        else:
            left: list[Any] = []
            try:
                self._exit_slowly(exc, left)
            except BaseException as late:
                self._exit_again(late, exc, left)
        return NOTHING

    def settle(self: Any, actual: float) -> None:
        """Say what the call really took, also after the block; again settles the difference.

        Less than taken is given back at once, which may wake a waiter. The bucket then holds
        what it would have held with the true weight, never more: had less been taken, it might
        have been full since, and a full bucket gains nothing. A window gives back only what is
        still inside. More than taken is debt from now on, which later callers wait out.

        A call that failed is not given back by itself: servers count failures.

        Args:
            actual: tokens.

        Raises:
            ValueError: *actual* is negative, infinite or not a number.
            RuntimeError: nothing was granted yet.
        """
        core = self._core
        state: Any = core.state
        if (
            core.scheduler.calm
            and state is not None
            and self._state is HELD
            and actual.__class__ is int
            and actual >= 0
        ):
            less: Any = self._settled - actual
            if (
                less.__class__ is int
                and less >= 0
                and self._receipt == state.issued
                and state.floor == NEVER  # nothing was taken since
            ):
                state.full_at -= less * state.ticks.token
                self._settled = actual
                return
        self._settle_slowly(actual)


class FastSet:
    """The settlement of a lease of a set, right after its grant."""

    __slots__ = ()

    def _settle_usage(self: Any, usage: Mapping[Any, float]) -> None:
        """See `LimitSetAcquisition.settle`."""
        if self._set is not None and len(usage) == 1:
            (key,) = usage
            actual: Any = usage[key]
            core = self._core
            rate = core.rates.get(key)
            receipts = self._receipts
            if rate is not None and type(actual) is int and actual >= 0 and len(receipts) > rate[1]:
                rule, place = rate
                taken = receipts[place]
                amount = actual * TOKEN
                settled: Any = {key: (amount, [])}
                if taken[0] is rule and self._settled is None and self._epoch == EPOCH:
                    less = taken[1] - amount
                    if core.scheduler.calm and core.lane.plain and less > 0:
                        bucket = rule.state
                        grain = bucket.ticks.grain
                        if (
                            taken[2] == bucket.issued
                            and bucket.floor == NEVER  # nothing was taken since
                            and (grain or less % TOKEN == 0)
                        ):
                            token = bucket.ticks.token
                            bucket.full_at -= less * grain if grain else less // TOKEN * token
                            self._settled = settled
                            return
                    if less == 0 or core.scheduler.settle_once(self, key, taken, amount):
                        return
        self._settle_slowly(usage)


class _Running(dict[Any, Any]):
    """The task that runs in an event loop; KeyError without one. For Python 3.14 and later."""

    def __missing__(self, loop: Any) -> Any:
        task = asyncio.current_task(loop) if loop is not None else None
        if task is None:
            raise KeyError(loop)
        return task


running_tasks: Final[dict[Any, Any]] = (
    cast(Any, asyncio.tasks)._current_tasks if sys.version_info < (3, 14) else _Running()
)
"""The task that runs, by event loop. (`asyncio.current_task` is a call, in 3.11 of Python code.)"""


def enter_beside(flights: Flights, task: Any, now: int) -> bool:
    """Begin a plain block that counts to the end, while others are open perhaps."""
    blocks = flights.blocks
    if not blocks.armed and not blocks.arm(flights, now):
        return False
    opened = blocks.opened
    scale = blocks.scale
    at = now * scale
    solo = blocks.solo
    beside = blocks.beside
    full = blocks.full
    if blocks.edge != NEVER:
        full = blocks.edge + blocks.spare
        if solo is None and at >= blocks.edge:
            blocks.solo = task
            blocks.since = now
            return True
    begun = beside + (solo is not None)
    taken = full if full > at - scale else at
    if (
        blocks.armed
        and begun < blocks.most
        and taken + (begun + 1) * blocks.token <= at + blocks.room
        and task not in opened
        and task is not solo
        and now >= blocks.since
        and now >= blocks.last
    ):
        if solo is not None:
            opened[solo] = blocks.since
            blocks.solo = None
        opened[task] = now
        blocks.beside = begun + 1
        blocks.since = now
        blocks.full = full
        blocks.edge = NEVER
        return True
    return False


def enter_after_all(flights: Flights) -> bool:
    """Begin a plain block that counts to the end: what was in the way is not any more."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return task is not None and enter_beside(flights, task, monotonic_ns())


def leave_beside(flights: Flights, now: int) -> bool:
    """End a plain block that counts to the end, and that a shortcut began: not the only one."""
    blocks = flights.blocks
    try:
        task = running_tasks[blocks.loop]
    except KeyError:
        return False
    opened = blocks.opened
    if task not in opened or not (blocks.armed or blocks.arm(flights, now)):
        return False
    scale = blocks.scale
    at = (now + blocks.resolution) * scale
    missing = blocks.full - at
    if missing <= -scale:
        missing = 0
    if missing < blocks.floor:
        blocks.note(flights, missing)
    if (
        blocks.armed
        and task in opened
        and blocks.last <= now <= opened[task] + SECOND
        and now >= blocks.since
    ):
        full = at + missing + blocks.token
        blocks.full = full
        blocks.last = now
        blocks.ended += 1
        blocks.beside -= 1
        del opened[task]
        if not blocks.beside and not blocks.held and not blocks.floor:
            blocks.edge = full - blocks.spare
        return True
    return False


def claim(lease: Any) -> bool:
    """Whether this is the first entry of a call; it is from here on."""
    if lease._state is FRESH:
        lease._state = ENTERING
        return True
    return False


def give_one(core: Core) -> bool:
    """Give a slot back, if no waiter is queued."""
    slots = core.slots
    if core.scheduler.calm and slots.free < slots.limit:
        slots.free += 1
        return True
    return False


def take_one(core: Core) -> bool:
    """Take a slot and a token, if the scheduler is calm and they are there."""
    now = monotonic_ns()
    scheduler = core.scheduler
    slots = core.slots
    state = core.state
    if scheduler.calm and state is not None and slots.free > 0 and now >= scheduler.clock.seen:
        ticks = state.ticks
        at = now * ticks.scale
        full = state.full_at
        if full <= at - ticks.scale:
            full = at
        after = full + ticks.token
        if after <= at + ticks.room and not (state.floor and full - at < state.floor):
            state.full_at = after
            scheduler.clock.seen = now
            slots.free -= 1
            return True
    return False


def who() -> int:
    """The task or the thread that runs, as a number, which keeps no task alive."""
    loop = asyncio._get_running_loop()
    return -threading.get_ident() if loop is None else id(asyncio.current_task(loop))


class Block:
    """A plain block of a throttle whose calls are measured, begun by `enter_block`.

    Attributes:
        core, began, in_flight, limit: as those of `Measure`.
        epoch: of the process in which the block began; see `Scheduler.forked`.
        done: filled once the slot was given back.
    """

    __slots__ = ("began", "core", "done", "epoch", "in_flight", "limit")

    core: Core
    began: int
    in_flight: int
    limit: int
    epoch: int
    done: list[bool]

    def _exit(self, error: BaseException | None) -> None:
        """The block ends, with *error*: the long way of `leave_block`."""
        following: Any = self.core.following
        following.end(self, following.law.judge(error), 1)
        self.release()

    def _release(self, after: object, error: BaseException | None) -> None:
        """The block ends, in whatever way: what is held comes back."""
        self.release()

    def release(self) -> None:
        """Give the slot back, once."""
        if not self.done and self.epoch == EPOCH:
            self.core.release(self.done)


def enter_block(core: Core, blocks: Blocks) -> bool:
    """Begin a block whose call is measured, if no waiter is queued and its weights are there."""
    inside = who()
    block = Block()
    held = [block]
    block.done = []
    now = monotonic_ns()
    scheduler = core.scheduler
    slots = core.slots
    state = core.state
    if (
        scheduler.quiet
        and not scheduler.busy
        and state is not None
        and slots.free > 0
        and now >= scheduler.clock.seen
        and inside not in blocks.held
    ):
        ticks = state.ticks
        at = now * ticks.scale
        full = state.full_at
        if full <= at - ticks.scale:
            full = at
        after = full + ticks.token
        if after <= at + ticks.room and not (state.floor and full - at < state.floor):
            state.full_at = after
            scheduler.clock.seen = now
            slots.free -= 1
            block.core = core
            block.epoch = EPOCH
            block.began = now
            block.in_flight = slots.limit - slots.free
            block.limit = slots.limit
            blocks.held[inside] = held
            return True
    return False


def leave_block(core: Core, blocks: Blocks, error: BaseException | None, done: list[bool]) -> bool:
    """End the only block of this task, begun by `enter_block`, if no waiter is queued."""
    inside = who()
    held = blocks.held.get(inside, ())
    scheduler = core.scheduler
    following = cast("Following", core.following)
    slots = core.slots
    if len(held) != 1 or held[0].__class__ is not Block or not scheduler.quiet:
        return False
    outcome = following.law.judge(error)  # user code, so not inside the door
    now = monotonic_ns()
    if not scheduler.quiet or scheduler.busy or now < scheduler.clock.seen:
        return False
    if slots.free >= slots.limit:
        return False
    scheduler.busy = True
    try:
        del blocks.held[inside]
        scheduler.clock.seen = scheduler.queue.now = now
        following.learn(held[0], outcome, 1, now)
    finally:
        slots.free += 1
        scheduler.busy = False
        done.append(True)
    if scheduler.notes:
        scheduler.catch_up()
    return True


def enter_lease(lease: Any) -> bool:
    """Take a slot and whole tokens for a lease that was not entered yet, if they are there."""
    now = monotonic_ns()
    core = lease._core
    weight: Any = lease.weight
    scheduler = core.scheduler
    slots = core.slots
    state: Any = core.state
    if (
        scheduler.calm
        and state is not None
        and lease._state is FRESH
        and slots.free > 0
        and weight.__class__ is int
        and weight > 0
    ):
        clock = scheduler.clock
        ticks = state.ticks
        at = now * ticks.scale
        full = state.full_at
        if full <= at - ticks.scale:
            full = at
        after = full + weight * ticks.token
        if (
            full <= at
            and not state.lows
            and after <= at + ticks.room
            and (full == at or weight * ticks.token <= ticks.room)  # full within a nanosecond
            and ticks.token
            and now >= clock.seen
        ):
            state.dead = state.issued
            state.full_at = after
            state.issued = lease._receipt = state.issued + 1
            state.floor = NEVER
            clock.seen = now
            slots.free -= 1
            lease._settled = weight
            lease.waited = 0.0
            lease._state = HELD
            return True
    return False


def leave_lease(lease: Any) -> bool:
    """Give the slot of a lease back, if no waiter is queued."""
    core = lease._core
    slots = core.slots
    if core.scheduler.calm and lease._state is HELD and slots.free < slots.limit:
        slots.free += 1
        lease._state = RELEASED
        return True
    return False


def release_slot(core: Core, done: list[bool]) -> bool:
    """Give back a slot for which no waiter waits: the head of the only lane waits for time."""
    scheduler = core.scheduler
    slots = core.slots
    if (
        scheduler.queue.lone is core.lane
        and core.account is None
        and scheduler.usual
        and not scheduler.busy
        and 0 < slots.free < slots.limit
    ):
        slots.free += 1
        done.append(True)
        return True
    return False


def release_booked(core: Core, done: list[bool]) -> bool:
    """Give back a slot that a store has granted, while no waiter is queued here."""
    scheduler = core.scheduler
    slots: Any = core.slots
    if scheduler.busy or not scheduler.quiet or scheduler.measured or core.flights is not None:
        return False
    if slots.unused >= slots.hand:
        return False
    if slots.limit == UNLIMITED or slots.turns > 0:
        slots.unused += 1
    else:
        slots.hand -= 1
    done += DONE
    if slots.limit != UNLIMITED:
        scheduler.feeder.look(scheduler)  # type: ignore[union-attr]
    return True


def hand_over(core: Core, done: list[bool]) -> bool:
    """Give a slot back where the head of the only lane waits for it: straight to that head."""
    now = monotonic_ns()
    scheduler: Any = core.scheduler
    queue = scheduler.queue
    slots = core.slots
    lane = core.lane
    if not scheduler.usual or scheduler.busy or asyncio._get_running_loop() is not scheduler.loop:
        return False
    if core.account is not None:
        return False
    head: Any = None
    scheduler.busy = True
    try:
        if (
            queue.lone is not lane
            or slots.free != 0
            or slots.limit <= 0
            or queue.deadlines
            or scheduler.notes
            or lane.opens_at > now
            or now < scheduler.clock.seen
        ):
            return False
        head = lane.waiters[0]
        if head.future.cancelled():
            return False
        if not core.plain or lane.left or len(lane.waiters) < 2 or head.weights is not UNIT:
            if lane.rates and core.rule.ready_at(now, head.weights[1]) > now:
                return False
            scheduler.clock.seen = queue.now = now
            slots.free += 1
            done.append(True)
            queue.grant(lane, now)
            scheduler.tell_decided()
        elif not _hand_unit(core, head, now, done):
            return False
    except BaseException:
        if head is not None and head.state is GRANTED:
            queue.decided.append(head)  # it is told again: a second time does nothing
        scheduler.recover()
        raise
    finally:
        scheduler.busy = False
    if scheduler.notes:
        scheduler.catch_up()
    return True


def _hand_unit(core: Core, head: Any, now: int, done: list[bool]) -> bool:
    """Hand a slot on, as it is, to a *head* of the unit, if its token is there; the rule is plain.

    Nothing comes in between the taking of the token and the grant.
    """
    scheduler = core.scheduler
    queue = scheduler.queue
    lane = core.lane
    receipts: list[Receipt] = [[core.slots, 1, None]]
    if lane.rates:
        bucket: Any = core.rule
        state = bucket.state
        ticks = state.ticks
        at = now * ticks.scale
        full = state.full_at
        if full <= at - ticks.scale:
            full = at
        after = full + ticks.token
        if after > at + ticks.room:
            return False
        if full <= at and not state.lows:
            state.dead = state.issued
        elif full - at < state.floor:
            bucket.note(full - at)
        issued = state.issued + 1
        receipts.append([bucket, TOKEN, issued])
        state.full_at = after
        state.issued = issued
        state.floor = NEVER
        lane.backlog[1] -= TOKEN
    scheduler.clock.seen = queue.now = now
    head.receipts = receipts
    head.granted_at = now
    head.state = GRANTED
    queue.waiting -= 1
    done.append(True)
    lane.waiters.popleft()
    if scheduler.handed_over:
        scheduler.handed_over.add(head)
    else:
        scheduler.hand_over(head)
    if not head.future.done():
        head.future.set_result(None)
    return True


def start(scheduler: Scheduler, attempt: Attempt) -> bool:
    """Go on after a grant in a single lane: the start of a caller decides no waiter."""
    waiter = attempt.waiters[0]
    if (
        not scheduler.usual
        or waiter.state is not GRANTED
        or waiter.rivals
        or waiter not in scheduler.handed_over
    ):
        return False
    taker = attempt.taker
    if taker is not None:
        spans = waiter.spans if waiter.lane.bottleneck is not None else None
        taker._hold(waiter.receipts, waiter.granted_at - waiter.arrived, waiter.option, spans)
    scheduler.handed_over.discard(waiter)
    waiter.option.asked.count_wait(waiter)
    if not scheduler.busy:
        if not scheduler.queue.waiting:
            scheduler.recalm()
            if scheduler.feeder is not None:
                scheduler.feeder.look(scheduler)
        elif scheduler.aloft is not None:
            scheduler.arm()  # the end of this call is waited for, and no longer than may be
    return True


def join_behind(scheduler: LoopScheduler, attempt: Attempt) -> LoopWaiter | None:
    """Queue up behind the head of a lane, where no waiter is decided, and nothing is due yet."""
    now = monotonic_ns()
    asked, lane, weights = attempt.options[0]
    queue = scheduler.queue
    if (
        not scheduler.usual
        or not lane.waiters
        or scheduler.busy
        or queue.ranked  # the newcomer may rank before heads of other lanes, which go later then
        or scheduler.aloft is not None  # the caller may wait for a call of its own
        or attempt.timeout is not None
        or len(attempt.options) > 1
        or asked.max_waiting is not None
    ):
        return None
    scheduler.busy = True
    try:
        asked.check(weights)
        waiter = scheduler.waiter_here()
        if waiter is None or not lane.waiters or not scheduler.clock.seen <= now < queue.due_at:
            return None
        scheduler.clock.seen = queue.now = waiter.arrived = now
        waiter.option = attempt.options[0]
        attempt.waiters = (waiter,)
        queue.join(waiter, lane, weights)
    except ResourceLimitError as error:
        asked.count_refusal(error)
        raise
    except BaseException:
        scheduler.recover()
        raise
    finally:
        scheduler.busy = False
    if scheduler.notes:
        scheduler.catch_up()
    return waiter


def grant_behind(scheduler: LoopScheduler, attempt: Attempt) -> LoopWaiter | None:
    """Grant a caller that finds no waiter queued, but some that were granted and do not run yet.

    It starts after those.
    """
    now = monotonic_ns()
    asked, lane, weights = attempt.options[0]
    queue = scheduler.queue
    if (
        not scheduler.usual
        or not scheduler.handed_over
        or queue.waiting
        or scheduler.busy
        or scheduler.notes
        or scheduler.aloft is not None
        or lane.bottleneck is not None
        or lane.opens_at > now
        or now < scheduler.clock.seen
        or len(attempt.options) > 1
    ):
        return None
    receipts: list[Receipt] = []
    scheduler.busy = True
    try:
        waiter = scheduler.waiter_here()
        asked.check(weights)
        if waiter is None or not _is_there(lane, weights, now):
            return None
        scheduler.clock.seen = queue.now = now
        waiter.option = attempt.options[0]
        queue.taking = receipts
        lane.take_into(receipts, now, weights)
        waiter.lane = lane
        waiter.weights = weights
        waiter.receipts = receipts
        waiter.arrived = waiter.granted_at = now
        waiter.state = GRANTED
        attempt.waiters = (waiter,)
        queue.taking = ()
        scheduler.handed_over.add(waiter)
        waiter.future.set_result(None)
    except ResourceLimitError as error:
        asked.count_refusal(error)
        raise
    except BaseException:
        undo(scheduler, receipts)
        scheduler.recover()
        raise
    finally:
        scheduler.busy = False
    if scheduler.notes:
        scheduler.catch_up()
    return waiter


def queue_behind(core: Core) -> LoopWaiter | None:
    """Queue up behind the head of a throttle's usual lane, for a slot and a token.

    What comes in between the first store to the queue and the last is noted, and done then.
    """
    scheduler: Any = core.scheduler
    queue = scheduler.queue
    lane = core.lane
    loop = asyncio._get_running_loop()
    if not scheduler.usual or queue.lone is not lane or loop is not scheduler.loop or loop is None:
        return None
    waiter = _new(LoopWaiter)
    waiter.future = loop.create_future()
    waiter.state = GONE
    waiter.rivals = ()
    waiter.lane = lane
    waiter.weights = UNIT
    waiter.deadline = NEVER
    waiter.order = next(arrivals)
    try:
        now = monotonic_ns()
        if (
            scheduler.usual
            and not scheduler.busy
            and queue.lone is lane
            and core.max_waiting is None
            and not core.closed
            and core.rule.parameters.burst >= TOKEN
            and now >= scheduler.clock.seen
        ):
            scheduler.busy = True
            try:
                scheduler.clock.seen = waiter.arrived = now
                if lane.rates:
                    lane.backlog[1] += TOKEN
                queue.waiting += 1
                waiter.state = QUEUED
                lane.waiters.append(waiter)
            except BaseException:
                scheduler.recover()
                raise
            finally:
                scheduler.busy = False
            if scheduler.notes:
                scheduler.catch_up()
            return waiter
    except BaseException:
        if waiter.state is not GONE:
            core.withdraw(waiter)
        raise
    return None


def start_unit(core: Core, waiter: LoopWaiter) -> bool:
    """Go on after a grant of a slot and a token."""
    scheduler = core.scheduler
    tally = core.tally or tally_of(core)
    if waiter.state is not GRANTED or scheduler.drainers or waiter not in scheduler.handed_over:
        return False
    scheduler.handed_over.discard(waiter)
    tally.wait(waiter.granted_at - waiter.arrived)
    if not scheduler.queue.waiting and not scheduler.busy:
        scheduler.recalm()
        if scheduler.feeder is not None:
            scheduler.feeder.look(scheduler)
    return True


def leave_behind(scheduler: Scheduler, waiter: Waiting) -> bool:
    """Have *waiter*, which stands in one lane, leave from behind the head: it held up none."""
    if not ENABLED or scheduler.busy or scheduler.is_elsewhere():
        return False
    if (
        waiter.state is not QUEUED
        or waiter.deadline != NEVER
        or waiter.lane.bottleneck is not None
        or waiter.lane.waiters[0] is waiter
    ):
        return False
    scheduler.busy = True
    try:
        scheduler.queue.leave(waiter)
    except BaseException:
        scheduler.recover()
        raise
    finally:
        scheduler.busy = False
    if scheduler.notes:
        scheduler.catch_up()
    return True


def settle_once(scheduler: Door, lease: Any, key: Any, taken: Receipt, amount: int) -> bool:
    """Settle what was *taken* of one limit of a set, for the first time, if no waiter is queued."""
    rule, weight, receipt = taken
    debts: list[Any] = []
    settled: dict[Any, Any] = {key: (min(amount, weight), debts)}
    now = monotonic_ns()
    if (
        scheduler.is_elsewhere()
        or not scheduler.quiet
        or scheduler.busy
        or now < scheduler.clock.seen
        or lease._settled is not None
    ):
        return False
    scheduler.busy = True
    scheduler.calm = False
    try:
        lease._settled = settled  # first: what is interrupted gives back too little
        scheduler.clock.seen = scheduler.queue.now = now
        if amount < weight:
            rule.refund(now, receipt, weight - amount)
        else:
            debts.append((rule.take(now, amount - weight), amount - weight))
            settled[key] = amount, debts
    except Exception:
        lease._settled = None
        raise
    finally:
        scheduler.calm = scheduler.quiet and not scheduler.measured and scheduler.feeder is None
        scheduler.busy = False
    if scheduler.notes and not scheduler.inside():  # with a lock, the caller is still inside
        scheduler.catch_up()
    return True


def leave_set(lease: Any) -> bool:
    """Give the slots of a set's *lease* back, if no waiter is queued."""
    if lease._state is not HELD and lease._state is not LEASED:
        return False
    scheduler: Scheduler = lease._core.scheduler
    for taken in lease._receipts:
        slots, weight, _ = taken
        if type(slots) is not Slots:
            break
        if not scheduler.calm or slots.free + weight > slots.limit:
            return False
        slots.free += weight
        taken[1] = 0
    if not scheduler.calm:
        return False
    lease._core.lane.holders -= 1
    lease._state = RELEASED
    return True


def quietly(scheduler: Door, change: Callable[[int], object]) -> bool:
    """Make a *change* of limits at once if the scheduler is quiet: no waiter is to be decided."""
    now = monotonic_ns()
    if not scheduler.quiet or scheduler.busy or now < scheduler.clock.seen:
        return False
    scheduler.busy = True
    scheduler.calm = False
    try:
        scheduler.clock.seen = scheduler.queue.now = now
        change(now)
    finally:
        scheduler.calm = scheduler.quiet and not scheduler.measured and scheduler.feeder is None
        scheduler.busy = False
    if scheduler.feeder is not None:
        scheduler.feeder.look(scheduler)
    if scheduler.notes and not scheduler.inside():  # with a lock, the caller is still inside
        scheduler.catch_up()
    return True


def promptly(scheduler: LoopScheduler, change: Callable[[int], object]) -> bool:
    """Make a *change* of limits for which waiters wait, where none was due before."""
    now = monotonic_ns()
    queue = scheduler.queue
    if not scheduler.usual or scheduler.busy or not scheduler.is_here():
        return False
    scheduler.busy = True
    try:
        if not scheduler.clock.seen <= now < queue.due_at or queue.feeds or scheduler.notes:
            return False
        scheduler.clock.seen = queue.now = now
        queue.trusting = False
        change(now)
        queue.advance(now)
        scheduler.tell_decided()
        scheduler.arm()
        if not queue.waiting:  # the last waiter was a cancelled one, which no event will start
            scheduler.recalm()
        if scheduler.feeder is not None:
            scheduler.feeder.look(scheduler)
    except BaseException:
        scheduler.recover()
        raise
    finally:
        queue.trusting = True
        scheduler.busy = False
    if scheduler.notes:
        scheduler.catch_up()
    return True


def _is_there(lane: Lane, weights: tuple[int, ...], now: int) -> bool:
    """Whether the rules of *lane* have *weights* now. No loop in the try of `grab`: see `Lane`."""
    for n, slots in lane.slots:
        if slots.free < weights[n] > 0:
            return False
    for n, rule in lane.rates:
        weight = weights[n]
        if weight != SKIP and (weight > rule.parameters.burst or rule.ready_at(now, weight) > now):
            return False
    return True


def grab(scheduler: Door, lane: Lane, weights: tuple[int, ...], receipts: list[Receipt]) -> bool:
    """Take *weights* of the rules of *lane*, if no waiter is queued and the weights are there.

    *receipts* has what was taken, at any moment: between the taking of a plain bucket and the note
    of it nothing is called or made, and ``+=`` is no call. A grab that was interrupted is undone
    by the caller, see `undo`: the loops have a function of their own, see `Lane.take_into`.
    """
    now = monotonic_ns()
    if (
        not scheduler.quiet
        or scheduler.busy
        or scheduler.shut
        or now < scheduler.clock.seen
        or lane.opens_at > now
    ):
        return False
    queue = scheduler.queue
    scheduler.busy = True
    scheduler.calm = False
    queue.taking = receipts
    scheduler.clock.seen = queue.now = now
    if not lane.plain:
        if not _is_there(lane, weights, now):
            undo(scheduler, receipts)
            return False
        lane.take_into(receipts, now, weights)
    else:
        for n, slots in lane.slots:
            weight = weights[n]
            if weight != SKIP:
                if slots.free < weight:
                    undo(scheduler, receipts)
                    return False
                taken = [[slots, weight, None]]
                slots.free -= weight
                receipts += taken
        rule: Any
        for n, rule in lane.rates:
            weight = weights[n]
            if weight != SKIP:
                bucket = rule.state
                ticks = bucket.ticks
                if weight == TOKEN:
                    cost = ticks.token
                elif ticks.grain:
                    cost = weight * ticks.grain
                else:
                    whole = weight // TOKEN
                    if whole * TOKEN != weight:
                        undo(scheduler, receipts)
                        return False
                    cost = whole * ticks.token
                at = now * ticks.scale
                full = bucket.full_at
                if full <= at - ticks.scale:
                    full = at
                after = full + cost
                room = ticks.room
                if after > at + room or cost > room:
                    undo(scheduler, receipts)
                    return False
                missing = full - at
                if missing <= 0:
                    if bucket.lows:
                        rule.note(0)
                    else:
                        bucket.dead = bucket.issued
                elif missing < bucket.floor:
                    lows = bucket.lows
                    if lows and lows[-1] < missing and len(lows) < MOST_LOWS:
                        upto = bucket.upto  # noted as `note` does, without the search for the place
                        low, last = [missing], [bucket.issued]
                        lows += low
                        upto += last
                    else:
                        rule.note(missing)
                issued = bucket.issued + 1
                taken = [[rule, weight, issued]]
                bucket.full_at = after
                bucket.issued = issued
                bucket.floor = NEVER
                receipts += taken
    queue.taking = ()
    scheduler.calm = scheduler.quiet and not scheduler.measured and scheduler.feeder is None
    scheduler.busy = False
    return True


def undo(scheduler: Door, receipts: list[Receipt]) -> None:
    """Give back what `grab` has taken by now, and leave the door."""
    queue = scheduler.queue
    if queue.taking is receipts:
        give_back(queue.now, receipts)
        queue.taking = ()
        scheduler.calm = scheduler.quiet and not scheduler.measured and scheduler.feeder is None
        scheduler.busy = False


_new = cast(Callable[[type[LoopWaiter]], LoopWaiter], object.__new__)
