"""The schedule explorer: small scenarios, in every order in which asyncio could run them.

A test sees one schedule, the one that the event loop happens to choose; a race hides in the
others. Here an event loop of our own asks before each step what is to happen next. It may be

- any callback that is ready, not only the one that has been ready longest;
- the cancellation of any task that has not ended: before its first step, at each of its awaits,
  and when what it awaits has come but it has not run yet;
- where nothing is ready, time: the clock jumps to the next timer. Timers due at one instant
  become ready together.

A schedule is a list of numbers, which option was taken wherever there was more than one, and 0 is
always what asyncio itself would do. The search is depth first and stateless: it plays a scenario
from its start, once for each schedule, until no option is left. Nothing is skipped, so what it
says about a scenario is proved and not sampled, up to a number of cancellations. A search that is
cut short says so by `SearchCut`. What it does not try: a clock that moves while something is
ready, as it does when the event loop is blocked.

Meanwhile the callers write down what happens to them in a `Ledger`, which knows no future and no
timer, and says what ought to be so: whenever nothing is ready, and at the end. If the throttle
differs, that is `Broken`, with the schedule that departs from asyncio's as rarely as possible.
Such a schedule can be played again::

    python -m tests.explorer slots_only 0,2,1

and without arguments there is a table of all scenarios. With ``HYPOTHESIS_PROFILE=deep`` in the
environment there are two cancellations instead of one, and ten times as many schedules.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, TypeVarTuple, cast
from unittest import mock

from scenes import (
    SHARED,
    Charge,
    Close,
    Drain,
    HoldUp,
    Part,
    Rate,
    Slots,
    Visit,
    Wait,
)
from support import check

from async_throttle import (
    Lease,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
)
from async_throttle._base import core_of
from async_throttle._engine.lane import GRANTED
from async_throttle._shell.loop import LoopScheduler
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle.adaptive import Adaptive, Outcome
from async_throttle.rules import Rule
from async_throttle.testing import READ_THE_CLOCK

Ts = TypeVarTuple("Ts")

SECOND: Final = 10**9
"""Nanoseconds: all instants are."""

TOKEN: Final = 10**9
"""Nanotokens: all amounts in the ledger are."""

LONG: Final = 1000 * SECOND
"""After so long every bucket is full again."""

DEEP: Final = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

CANCELS: Final = 2 if DEEP else 1
"""Most cancellations in one schedule."""

MOST: Final = 1_000_000 if DEEP else 50_000
"""Most schedules of one scenario; one that has more should be made smaller."""

PLIGHTS: Final = "unborn", "queued", "granted", "inside"
"""What a caller may be when it is cancelled: before its first step, without a grant, granted but
not running yet, in its body."""


class Broken(AssertionError):
    """A promise was broken: which one, in which *schedule*, and how it came to that."""

    def __init__(self, message: str, schedule: str) -> None:
        super().__init__(message)
        self.schedule = schedule


class SearchCut(AssertionError):
    """There are more schedules than may be played, so nothing is proved."""


# ------------------------------------------------------------------------------ the event loop


class Loop(asyncio.BaseEventLoop):
    """An event loop that runs nothing by itself: what is ready waits to be picked.

    Attributes:
        now: the clock.
        steps: how many callbacks have run.
        ready: the callbacks that could run next, first come first.
        complaints: what was reported to the exception handler.
    """

    def __init__(self, complaints: list[str]) -> None:
        super().__init__()
        self.now = 0
        self.steps = 0
        self.ready: list[asyncio.Handle] = []
        self.complaints = complaints
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []  # a heap
        self._order = itertools.count()

    def time(self) -> float:
        return self.now / SECOND

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (round(when * SECOND), next(self._order), timer))
        return timer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")

    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that are armed."""
        while self._timers and self._timers[0][2].cancelled():
            heappop(self._timers)
        return [timer for _, _, timer in self._timers if not timer.cancelled()]

    def jump(self) -> None:
        """Move the clock to the next timer, and make ready whatever is due then."""
        self.now = max(self.now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.now:
            self.ready.append(heappop(self._timers)[2])

    def run(self, choice: int) -> None:
        """Run the callback at this place."""
        self.steps += 1
        self.ready.pop(choice)._run()


def _owner(handle: asyncio.Handle) -> object:
    """The task or the alarm to which a callback belongs."""
    owner = getattr(cast(Any, handle)._callback, "__self__", None)
    # An alarm rings by a coroutine of its own, which is under way.
    frame = owner.cr_frame if inspect.iscoroutine(owner) else None
    return owner if frame is None else frame.f_locals.get("self")


def _described(handle: asyncio.Handle) -> str:
    owner = _owner(handle)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_name()} runs"
    return str(getattr(cast(Any, handle)._callback, "__qualname__", owner))


# ---------------------------------------------------------------------------------- the ledger


@dataclass(eq=False, slots=True)
class Call:
    """What a caller knows of its own call."""

    task: str
    weight: int
    slot: bool  # whether it takes one
    arrived: int  # step of the loop
    deadline: float  # instant
    state: str = "waits"  # then "inside", then "over"
    began: int | None = None  # instant, if it was granted
    at_once: bool = False  # it began in the step in which it arrived


@dataclass(eq=False, slots=True)
class Entry:
    """Something that changes the level at an instant."""

    instant: int
    spent: int = 0
    asked: bool = False  # spent by a call, so there has to be enough
    empties: bool = False
    limits: tuple[int, int] | None = None  # from here on: tokens per second, burst


class Ledger:
    """What the callers saw, and what follows from it: the throttle as it ought to be.

    A call that was cancelled or refused before it started has left no entry, as if it had never
    been made. The ledger is told the time, and asks the throttle nothing.
    """

    def __init__(self, capacity: float, burst: float, concurrency: int, *, window: bool) -> None:
        self.calls: list[Call] = []  # in order of arrival
        self.started: list[Call] = []
        self.entries: list[Entry] = []
        self.limit: float = concurrency or math.inf
        self.paused_until: float = 0
        self._rated = capacity < math.inf
        self._capacity = 0
        self._window = window
        self._paused = self._resized = (-1, -1)  # instant and step
        self._limit_before: float = 0  # the largest at the instant of the last change
        self._closed: float = math.inf  # step
        self._dropped: float = math.inf  # instant
        if self._rated:
            self.change(0, int(capacity), int(burst))

    # What happens

    def start(self, call: Call, now: int, step: int) -> Entry:
        """*call* was granted, and runs."""
        name = call.task
        assert call.state == "waits", f"{name} starts twice"
        assert call.arrived < self._closed, f"{name}, who came after the closing, starts"
        assert now <= self._dropped, f"{name}, who was dropped, starts"
        # What was granted before a pause or a smaller limit, at this very instant, stands.
        stands = self._paused[0] == now and self._paused[1] > call.arrived
        assert stands or now >= self.paused_until, f"{name} starts during a pause"
        stands = self._resized[0] == now and self._resized[1] > call.arrived
        limit = max(self.limit, self._limit_before) if stands else self.limit
        assert not call.slot or self.inside < limit, f"{name} starts without a slot"
        for later in self.calls[self.calls.index(call) + 1 :]:
            # Of those granted at one instant the event loop may run the later one first.
            if call.slot and later.slot and later.began is not None:
                assert later.began == now, f"{later.task} overtook {name}"
                assert not later.at_once, f"{later.task}, a newcomer, overtook {name}"
        call.state, call.began, call.at_once = "inside", now, step == call.arrived
        self.started.append(call)
        entry = Entry(now, call.weight, asked=True)
        self.entries.append(entry)
        self.level(now)
        return entry

    def refuse(self, call: Call, now: int) -> None:
        """*call* was told that its timeout is too short."""
        assert now <= call.deadline, f"{call.task} is told too late"
        if now == call.deadline or self.paused_until > call.deadline:
            return
        ahead = sum(other.weight for other in self.waiting if other.arrived <= call.arrived)
        in_time = self.level(now) + (call.deadline - now) * self._capacity
        assert in_time < ahead, f"{call.task} is refused, and could go in time"

    def charge(self, now: int, weight: int) -> None:
        """Tokens were taken unasked."""
        self.entries.append(Entry(now, weight))

    def change(self, now: int, capacity: int, burst: int) -> None:
        """*capacity* tokens come back per second from now on, and *burst* are the most."""
        self._capacity = capacity
        self.entries.append(Entry(now, limits=(capacity, burst * TOKEN)))

    def resize(self, now: int, step: int, concurrency: int) -> None:
        """There are so many slots from now on."""
        again = self._resized[0] == now
        self._limit_before = max(self.limit, self._limit_before if again else 0)
        self._resized = now, step
        self.limit = concurrency

    def pause(self, now: int, step: int, until: float, *, empty: bool) -> None:
        """Nobody is granted anything before *until*."""
        self._paused = now, step
        self.paused_until = until
        if empty:
            self.entries.append(Entry(int(until), empties=True))

    def resume(self, now: int) -> None:
        """The pause is over."""
        self.paused_until = min(now, self.paused_until)
        for entry in self.entries:
            entry.instant = min(now, entry.instant)

    def close(self, now: int, step: int, *, drop_waiting: bool) -> None:
        """Who comes from now on is refused, and maybe who waits as well."""
        self._closed = step
        if drop_waiting:
            self._dropped = now

    # What follows

    @property
    def waiting(self) -> list[Call]:
        """In order of arrival."""
        return [call for call in self.calls if call.state == "waits"]

    @property
    def inside(self) -> int:
        """Slots held."""
        return sum(call.slot and call.state == "inside" for call in self.calls)

    def next(self, now: int) -> tuple[Call | None, bool]:
        """The call that time alone will bring, and whether its time has come."""
        for call in self.waiting:
            if not call.slot or self.inside < self.limit:
                return call, now >= self.paused_until and self.level(now) >= call.weight
        return None, False

    def level(self, now: int) -> float:
        """Nanotokens left.

        Raises:
            AssertionError: somebody started for whom there was not enough.
        """
        if not self._rated:
            return math.inf
        level: float = math.inf
        capacity = burst = last = 0
        for entry in sorted(self.entries, key=lambda entry: entry.instant):
            if entry.instant > now:
                break
            level = min(burst or math.inf, level + (entry.instant - last) * capacity)
            last = entry.instant
            if entry.limits is not None:
                capacity, burst = entry.limits
                level = min(level, burst)
            if entry.empties:
                level = min(level, 0)
            level -= entry.spent
            if self._window:
                level = burst - self._spent(last)
            assert level >= 0 or not entry.asked, f"one too many starts at {last / SECOND:g} s"
        if self._window:
            return burst - self._spent(now)
        return min(burst, level + (now - last) * capacity)

    def _spent(self, now: int) -> int:
        """Nanotokens spent within the second that ends now."""
        return sum(entry.spent for entry in self.entries if now - SECOND < entry.instant <= now)


# ----------------------------------------------------------------------------------- the stage


class Stage:
    """One performance of a scenario: its loop, its throttle, its tasks and what they may do.

    Attributes:
        plights: the situations in which tasks were when the schedule cancelled them.
        story: what has happened, a line for each step.
    """

    throttle: Throttle
    ledger: Ledger

    def __init__(self, throttle_class: type[Throttle], complaints: list[str]) -> None:
        self.loop = Loop(complaints)
        self.tasks: list[asyncio.Task[None]] = []
        self.plights: list[str] = []
        self.story = ["at 0 s"]
        self._throttle_class = throttle_class
        self._may_raise: tuple[type[Exception], ...] = ()
        self._cancelled: list[asyncio.Task[None]] = []
        self._permuted = False  # asyncio would have run another callback at least once

    # How a scenario sets it

    def set(
        self,
        capacity: float,
        concurrency: int = 0,
        *,
        burst: int | None = None,
        algorithm: type[Rule] = TokenBucket,
        max_waiting: int | None = None,
        adapt: Adaptive | None = None,
    ) -> Throttle:
        """Make the throttle; its period is one second."""
        self.throttle = self._throttle_class(
            capacity,
            concurrency,
            burst=burst,
            algorithm=algorithm,
            max_waiting=max_waiting,
            adapt=adapt,
        )
        window = algorithm is SlidingWindow
        self.ledger = Ledger(capacity, self.throttle.burst, concurrency, window=window)
        return self.throttle

    def play(
        self, *parts: Coroutine[Any, Any, None], may_raise: tuple[type[Exception], ...] = ()
    ) -> None:
        """Let tasks A, B and C do these."""
        assert len(parts) <= 3, "more than three tasks have too many schedules"
        self.tasks = [
            asyncio.Task(part, loop=self.loop, name=name)
            for name, part in zip("ABC", parts, strict=False)
        ]
        self._may_raise = may_raise

    # What a task says

    def arrive(self, weight: int = 1, *, slot: bool = True, timeout: float | None = None) -> Call:
        """A call follows, in the same step."""
        deadline = math.inf if timeout is None else self.loop.now + timeout * SECOND
        call = Call(self._name(), weight * TOKEN, slot, self.loop.steps, deadline)
        self.ledger.calls.append(call)
        self.tell("arrives")
        return call

    def start(self, call: Call) -> Entry:
        """It was granted."""
        self.tell("starts")
        return self.ledger.start(call, self.loop.now, self.loop.steps)

    def end(self, call: Call) -> None:
        """It is over, started or not; to say so twice does no harm."""
        if call.state != "over":
            self.tell("leaves" if call.state == "inside" else "goes without")
            call.state = "over"

    def tell(self, what: str) -> None:
        """Whatever else the reader of a schedule should know."""
        self.story[-1] += f"; {self._name()} {what}"

    # What a task does

    @asynccontextmanager
    async def within(
        self, block: Any, weight: int = 1, *, timeout: float | None = None
    ) -> AsyncIterator[tuple[Any, Call, Entry]]:
        """Enter *block*; what it gives, and what the ledger knows of it."""
        call = self.arrive(weight, timeout=timeout)
        try:
            async with block as lease:
                yield lease, call, self.start(call)
        except ThrottleTimeout:
            self.ledger.refuse(call, self.loop.now)
            raise
        finally:
            self.end(call)

    async def visit(
        self, weight: int = 1, *, hold: float = 0, timeout: float | None = None
    ) -> None:
        """A block that lasts *hold* seconds."""
        plain = weight == 1 and timeout is None
        block = self.throttle if plain else self.throttle(weight, timeout=timeout)
        async with self.within(block, weight, timeout=timeout):
            await asyncio.sleep(hold)

    async def hold(self) -> None:
        """The same without a block."""
        call = self.arrive()
        try:
            await self.throttle.acquire()
            self.start(call)
            try:
                await asyncio.sleep(0)
            finally:
                self.throttle.release()
        finally:
            self.end(call)

    async def consume(self, weight: int = 1) -> None:
        """Tokens without a slot."""
        call = self.arrive(weight, slot=False)
        try:
            await self.throttle.consume(weight)
            self.start(call)
        finally:
            self.end(call)

    async def hold_up(self, seconds: float, *, until: float, empty: bool = False) -> None:
        """A pause, resumed *until* seconds later, whether it is over by then or not."""
        loop, ledger = self.loop, self.ledger
        self.tell("pauses")
        ledger.pause(loop.now, loop.steps, loop.now + seconds * SECOND, empty=empty)
        self.throttle.pause(seconds, empty=empty)
        try:
            await asyncio.sleep(until)
        finally:
            self.tell("resumes")
            ledger.resume(loop.now)
            self.throttle.resume()

    async def drain(self) -> None:
        """Wait until all others are gone, or were cancelled while they waited."""
        await self.throttle.drain()
        self.tell("finds it drained")
        gone = [task.get_name() for task in self._cancelled]
        waiting = [call for call in self.ledger.waiting if call.task not in gone]
        assert self.ledger.inside == len(waiting) == 0, "drained too early"

    async def act(self, part: Part) -> None:
        """What one does in a scene that threads play as well."""
        for step in part:
            match step:
                case Visit(form="acquire"):
                    await self.hold()
                case Visit(weight, form="consume"):
                    await self.consume(weight)
                case Visit(weight, hold, timeout):
                    await self.visit(weight, hold=hold, timeout=timeout)
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case HoldUp(seconds, until, empty):
                    await self.hold_up(seconds, until=until, empty=empty)
                case Slots(number):
                    self.resize(number)
                case Rate(capacity, burst):
                    self.tell(f"makes it {capacity} per second, a burst of {burst}")
                    self.ledger.change(self.loop.now, capacity, burst)
                    self.throttle.capacity, self.throttle.burst = capacity, burst
                case Charge(weight):
                    self.tell(f"charges {weight}")
                    self.ledger.charge(self.loop.now, weight * TOKEN)
                    self.throttle.charge(weight)
                case Close(drop_waiting):
                    self.close(drop_waiting=drop_waiting)
                case Drain():
                    await self.drain()

    def resize(self, concurrency: int) -> None:
        """Set the number of slots."""
        self.tell(f"makes it {concurrency} slots")
        self.ledger.resize(self.loop.now, self.loop.steps, concurrency)
        self.throttle.concurrency = concurrency

    def close(self, *, drop_waiting: bool) -> None:
        """Refuse newcomers, and maybe those who wait."""
        self.tell("closes")
        self.ledger.close(self.loop.now, self.loop.steps, drop_waiting=drop_waiting)
        self.throttle.close(drop_waiting=drop_waiting)

    def settle(self, lease: Lease, entry: Entry, actual: int) -> None:
        """*lease*, which took the tokens of *entry*, needed *actual*."""
        self.tell(f"settles for {actual}")
        more = actual * TOKEN - entry.spent
        if more > 0:
            self.ledger.charge(self.loop.now, more)
        else:
            entry.spent += more
        lease.settle(actual)

    def cancel_head(self) -> None:
        """Cancel the task that has waited longest."""
        for call in self.ledger.waiting[:1]:
            self.tell(f"cancels {call.task}")
            self._cancel(next(task for task in self.tasks if task.get_name() == call.task))

    # How it goes on

    def turn(self, schedule: Schedule, cancels: int) -> bool:
        """Let the next thing happen; False if nothing can."""
        loop = self.loop
        loop.ready = [handle for handle in loop.ready if not handle.cancelled()]
        if not loop.ready:
            self._check_quiet()
            if all(task.done() for task in self.tasks) or not loop.timers():
                return False
        callbacks = len(loop.ready) or 1  # or else the clock
        victims = [task for task in self.tasks if not task.done()]
        options = callbacks + len(victims)
        spared = len(self.plights) == cancels
        choice = schedule.choose(options, callbacks if spared else options)
        mark = "*" if choice else " "
        if choice >= callbacks:
            victim = victims[choice - callbacks]
            self.plights.append(self._plight(victim))
            self.story.append(f"* cancel {victim.get_name()}, which is {self.plights[-1]}")
            self._cancel(victim)
        elif loop.ready:
            self._permuted |= choice > 0
            self.story.append(f"{mark} {_described(loop.ready[choice])}")
            loop.run(choice)
        else:
            loop.jump()
            self.story.append(f"at {loop.now / SECOND:g} s")
            assert len(self.story) < 1000, "it goes round in circles"
            call, due = self.ledger.next(loop.now - 1)
            assert call is None or not due, f"{call.task} could go, and time goes by"
        check(self.throttle)
        return True

    def finish(self) -> None:
        """Nothing happens any more: everything must be as if nobody had been there."""
        throttle, ledger, loop = self.throttle, self.ledger, self.loop
        for task in self.tasks:
            name = task.get_name()
            assert task.done(), f"{name} hangs: nothing will ever wake it"
            assert task.cancelled() == (task in self._cancelled), f"{name} swallows a cancellation"
        assert not loop.timers(), f"left armed: {loop.timers()}"
        assert not scheduler_of(throttle).drainers, "a drain() is still waited for"
        _agree(throttle.waiting, 0, "waiting")
        _agree(throttle.active, 0, "active")
        _agree(throttle.level, ledger.level(loop.now) / TOKEN, "level")
        if not self._permuted:
            order = [call.task for call in ledger.calls if call.slot and call.began is not None]
            _agree([call.task for call in ledger.started if call.slot], order, "order of starts")
        loop.now += LONG
        _agree(throttle.level, throttle.burst, "level long after")
        _agree(loop.complaints, [], "what Python complains of")

    def clear(self) -> None:
        """Leave nothing behind that could complain later."""
        for task in self.tasks:
            task.cancel()
        for _ in range(100):
            if self.loop.ready:
                self.loop.run(0)
        self.loop.close()

    def _check_quiet(self) -> None:
        """Nothing is ready: whoever could go has gone, and the throttle is as it ought to be.

        It is looked at and asked nothing: a question would let it see the time, and mend what it
        has missed.
        """
        throttle, ledger, now = self.throttle, self.ledger, self.loop.now
        core, scheduler = core_of(throttle), cast(LoopScheduler, scheduler_of(throttle))
        queue = scheduler.queue
        for task in self.tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            if isinstance(error, AssertionError):
                raise error
            allowed = error is None or isinstance(error, self._may_raise)
            assert allowed, f"{task.get_name()} raises {error!r}"
        call, due = ledger.next(now)
        assert call is None or not due, f"{call.task} could go, and nobody wakes it"
        assert not scheduler.handed_over, "nothing is ready, and yet somebody is about to start"
        _agree(queue.waiting, len(ledger.waiting), "waiting")
        _agree(core.slots.used, ledger.inside, "active")
        if not queue.emptying:  # else whoever asks next empties the bucket
            _agree(core.rule.level(now), ledger.level(now) / TOKEN, "level")
        armed = Counter(_owner(timer) for timer in self.loop.timers())
        grants = call is not None and ledger.paused_until < math.inf
        _agree(armed[scheduler._grants], int(grants), "timers for grants")
        timeouts = any(call.deadline < math.inf for call in ledger.waiting)
        _agree(armed[scheduler._timeouts], int(timeouts), "timers for timeouts")

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if task.cancel():
            self._cancelled.append(task)

    def _plight(self, task: asyncio.Task[None]) -> str:
        """The situation in which *task* is."""
        coro = cast("Coroutine[Any, Any, None]", task.get_coro())
        if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
            return "unborn"
        states = [call.state for call in self.ledger.calls if call.task == task.get_name()]
        if "waits" not in states:
            return "inside" if "inside" in states else "elsewhere"
        return "granted" if any(_owner(handle) is task for handle in self.loop.ready) else "queued"

    def _name(self) -> str:
        task = asyncio.current_task(self.loop)
        assert task is not None, "only tasks do anything here"
        return task.get_name()


def scheduler_of(throttle: Throttle) -> Scheduler:
    """Where callers of *throttle* wait."""
    return find(core_of(throttle))


def _agree(real: object, ought: object, what: str) -> None:
    assert real == ought, f"{what} is {real}, ought to be {ought}"


# ---------------------------------------------------------------------------------- the search

Scenario = Callable[[Stage], None]
Play = Callable[["Schedule", list[str]], Stage]


class Schedule:
    """Which option is taken, wherever there is more than one; 0 where nothing is said.

    Args:
        taken: the choices to begin with.
        departures: how many may be other than 0.
    """

    def __init__(self, taken: Sequence[int] = (), departures: float = math.inf) -> None:
        self._taken = list(taken)
        self._offered: list[int] = []
        self._departures = departures
        self.rewind()

    def rewind(self) -> None:
        """Back to the first choice."""
        self._next = 0
        self._left = self._departures

    def choose(self, options: int, allowed: int) -> int:
        """Which of *options* is taken here; a search tries the first *allowed* ones."""
        if options == 1 or self._left == 0:
            return 0
        if self._next == len(self._taken):
            self._taken.append(0)
        if self._next == len(self._offered):
            self._offered.append(allowed)
        choice = self._taken[self._next]
        if self._offered[self._next] != allowed or choice >= allowed:
            raise ValueError(f"choice {self._next} of schedule {self} is not one of {allowed}")
        self._next += 1
        self._left -= choice > 0
        return choice

    def advance(self) -> bool:
        """Become the next schedule, depth first; False if this was the last."""
        while self._taken and self._taken[-1] + 1 == self._offered[-1]:
            self._taken.pop()
            self._offered.pop()
        if self._taken:
            self._taken[-1] += 1
        self.rewind()
        return bool(self._taken)

    def __str__(self) -> str:
        last = max((n for n, choice in enumerate(self._taken) if choice), default=0)
        return ",".join(map(str, self._taken[: last + 1])) or "0"


@dataclass(slots=True)
class Report:
    """How much was searched.

    Attributes:
        schedules: how many were played.
        plights: how often a cancellation hit a task in which situation; see `PLIGHTS`.
    """

    schedules: int = 0
    plights: Counter[str] = field(default_factory=Counter)


def explore(
    scenario: Scenario,
    *,
    cancels: int = CANCELS,
    most: int = MOST,
    departures: float = math.inf,
    throttle_class: type[Throttle] = Throttle,
) -> Report:
    """Play *scenario* in every schedule.

    Args:
        scenario: sets the stage; must do the same each time.
        cancels: most cancellations in one schedule.
        most: schedules that may be played.
        departures: how often a schedule may depart from asyncio's.
        throttle_class: what to examine.

    Raises:
        Broken: a promise does not hold.
        SearchCut: there are more schedules than *most*.
    """
    play = functools.partial(perform, scenario, cancels=cancels, throttle_class=throttle_class)
    report = Report()
    try:
        with listening() as complaints:
            for stage in _performances(play, complaints, Schedule(departures=departures), most):
                report.schedules += 1
                report.plights.update(stage.plights)
            gc.collect()
            _agree(complaints, [], f"what Python complains of after {scenario.__name__}")
    except Broken as error:
        raise _simplest(play) or error from None
    return report


def perform(
    scenario: Scenario,
    schedule: Schedule,
    complaints: list[str],
    *,
    cancels: int,
    throttle_class: type[Throttle] = Throttle,
) -> Stage:
    """Play *scenario* once, while `listening`.

    Raises:
        Broken: a promise does not hold.
    """
    stage = Stage(throttle_class, complaints)
    asyncio._set_running_loop(stage.loop)
    try:
        scenario(stage)
        while stage.turn(schedule, cancels):
            pass
        stage.finish()
    except AssertionError as error:
        lines = [
            str(error),
            f"in schedule {schedule} of {scenario.__name__}, which departs from asyncio at *:",
            *stage.story,
            f"again: python -m tests.explorer {scenario.__name__} {schedule}",
        ]
        raise Broken("\n".join(lines), str(schedule)) from error
    finally:
        stage.clear()
        asyncio._set_running_loop(None)
    return stage


@contextmanager
def listening() -> Iterator[list[str]]:
    """The library reads the stage's clock, and all that Python complains of is listed."""
    complaints: list[str] = []

    def monotonic_ns() -> int:
        return cast(Loop, asyncio.get_running_loop()).now

    def hook(unraisable: Any) -> None:
        complaints.append(f"{unraisable.err_msg}: {unraisable.exc_value!r}")

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(mock.patch.object(sys, "unraisablehook", hook))
        for module in READ_THE_CLOCK:
            stack.enter_context(mock.patch.object(module, "monotonic_ns", monotonic_ns))
        warnings.simplefilter("error")
        yield complaints


def _performances(
    play: Play, complaints: list[str], schedule: Schedule, most: int
) -> Iterator[Stage]:
    """All from *schedule* on."""
    for played in itertools.count(1):
        yield play(schedule, complaints)
        if not schedule.advance():
            return
        if played == most:
            raise SearchCut(f"there are more than {most:,} schedules; {schedule} is the next")


def _simplest(play: Play) -> Broken | None:
    """A failure that departs from asyncio as rarely as possible, unless that is hard to find."""
    for departures in range(4):
        try:
            with listening() as complaints:
                for _ in _performances(play, complaints, Schedule(departures=departures), 20_000):
                    pass
        except Broken as error:
            return error
        except SearchCut:
            break
    return None


# ------------------------------------------------------------------------------- the scenarios

SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(setting: Scenario) -> Scenario:
    """Have *setting* explored."""
    SCENARIOS[setting.__name__] = setting
    return setting


def shared(name: str) -> Scenario:
    """A scene that threads play as well."""
    scene = SHARED[name]

    def setting(stage: Stage) -> None:
        stage.set(**scene.throttle)
        stage.play(*map(stage.act, scene.parts), may_raise=scene.may_raise)

    setting.__name__ = name
    return setting


for _name in SHARED:
    scenario(shared(_name))


@scenario
def a_limit_that_follows_how_calls_end(stage: Stage) -> None:
    class Seesaw(Adaptive):
        steers = "concurrency"
        start = 1

        @property
        def limit(self) -> int:
            return self._limit

        def begin(self, limit: float, now: int) -> None:
            self._limit = int(limit)

        def sample(
            self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome
        ) -> None:
            self._limit = 3 - self._limit
            stage.tell(f"makes it {self._limit} slots")
            stage.ledger.resize(stage.loop.now, stage.loop.steps, self._limit)

    stage.set(math.inf, 1, adapt=Seesaw())
    stage.play(stage.visit(), stage.visit(2), stage.visit())


@scenario
def twice_in_a_row(stage: Stage) -> None:
    async def twice() -> None:
        await stage.visit()
        await stage.visit()

    stage.set(3, 1)
    stage.play(twice(), twice(), twice())


@scenario
def a_body_that_raises(stage: Stage) -> None:
    async def failing() -> None:
        async with stage.within(stage.throttle):
            await asyncio.sleep(0)
            raise LookupError

    stage.set(2, 1)
    stage.play(failing(), failing(), stage.visit(), may_raise=(LookupError,))


@scenario
def timeout_at_the_instant_of_a_release(stage: Stage) -> None:
    # Here the event loop decides: who has not been told that it is too late can still go.
    async def holder() -> None:
        async with stage.within(stage.throttle):
            await asyncio.sleep(1)
            queue = scheduler_of(stage.throttle).queue
            waiting = [waiter for waiter in queue.waiters() if not waiter.cancelled()]
        for waiter in waiting[:1]:
            assert waiter.state is GRANTED, (
                "one still waited when a slot was freed, and goes without"
            )

    stage.set(math.inf, 1)
    stage.play(holder(), stage.visit(timeout=1), stage.visit(), may_raise=(ThrottleTimeout,))


@scenario
def a_newcomer_at_the_instant_of_a_deadline(stage: Stage) -> None:
    # Whichever is first: B is told, and C goes when A has gone.
    async def newcomer() -> None:
        await asyncio.sleep(1)
        await stage.visit(timeout=2)

    stage.set(math.inf, 1)
    stage.play(
        stage.visit(hold=2), stage.visit(timeout=1), newcomer(), may_raise=(ThrottleTimeout,)
    )


@scenario
def a_newcomer_who_can_go_at_the_instant_of_a_deadline(stage: Stage) -> None:
    # C needs no token: only B is in its way, who can not make it any more.
    async def charger() -> None:
        await stage.visit()
        if stage.loop.now == 0:  # later, C may have been granted what would be taken from it
            stage.tell("charges 1")
            stage.ledger.charge(0, TOKEN)
            stage.throttle.charge(1)

    async def newcomer() -> None:
        await asyncio.sleep(1)
        await stage.visit(0)

    stage.set(1)
    stage.play(charger(), stage.visit(timeout=1), newcomer(), may_raise=(ThrottleTimeout,))


@scenario
def asyncio_timeout_at_the_instant_of_the_grant(stage: Stage) -> None:
    async def impatient() -> None:
        async with asyncio.timeout(1):
            await stage.hold()

    stage.set(1, 1)
    stage.play(stage.visit(), impatient(), stage.visit(), may_raise=(TimeoutError,))


@scenario
def timeout_behind_one_who_may_have_left(stage: Stage) -> None:
    async def patient_then_not() -> None:
        await stage.visit()
        await stage.visit(timeout=2)

    stage.set(1)
    stage.play(patient_then_not(), stage.visit(), stage.visit(), may_raise=(ThrottleTimeout,))


@scenario
def cancel_the_head_then_release(stage: Stage) -> None:
    async def holder() -> None:
        async with stage.within(stage.throttle):
            await asyncio.sleep(0)
            stage.cancel_head()
        stage.cancel_head()  # and the next one, after it was granted

    stage.set(math.inf, 1)
    stage.play(holder(), stage.visit(), stage.visit())


@scenario
def a_newcomer_where_a_slot_is_left(stage: Stage) -> None:
    # The short way would be open as soon as nobody waits.
    async def resizer() -> None:
        async with stage.within(stage.throttle):
            await asyncio.sleep(0)
            stage.resize(3)

    stage.set(math.inf, 1)
    stage.play(resizer(), stage.visit(), stage.visit())


@scenario
def try_acquire_behind_one_about_to_start(stage: Stage) -> None:
    async def trier() -> None:
        call = stage.arrive()
        try:
            if stage.throttle.try_acquire():
                stage.start(call)
                try:
                    await asyncio.sleep(0)
                finally:
                    stage.throttle.release()
            else:
                alone = stage.ledger.waiting == [call] and stage.ledger.next(stage.loop.now)[1]
                assert not alone, "refused though there is room"
        finally:
            stage.end(call)

    stage.set(3, 3)
    stage.play(stage.hold_up(math.inf, until=0), stage.visit(), trier())


@scenario
def consume_inside_a_body(stage: Stage) -> None:
    async def eater() -> None:
        async with stage.within(stage.throttle):
            await stage.consume()

    stage.set(1, 1)
    stage.play(eater(), eater())


def settled(
    name: str, weight: int, actual: int, *, later: bool, other: int = 1, **throttle: Any
) -> None:
    """A scenario in which A settles its lease, in its block or afterwards."""

    def setting(stage: Stage) -> None:
        async def settler() -> None:
            async with stage.within(stage.throttle(weight), weight) as (lease, _, entry):
                await asyncio.sleep(0)
                if not later:
                    stage.settle(lease, entry, actual)
            if later:
                await asyncio.sleep(0)
                stage.settle(lease, entry, actual)

        stage.set(**throttle)
        stage.play(settler(), stage.visit(other), stage.visit())

    setting.__name__ = name
    scenario(setting)


settled("a_lease_settled_inside", 3, 1, later=False, other=2, capacity=1, burst=3)
settled("a_lease_settled_afterwards", 2, 0, later=True, other=2, capacity=1, concurrency=1, burst=2)
settled("a_lease_settled_for_more", 1, 3, later=False, capacity=2, burst=2)


@scenario
def a_lease_taken_first_and_entered_then(stage: Stage) -> None:
    async def leaser() -> None:
        call = stage.arrive(2)
        try:
            lease = await stage.throttle.lease(2)
            stage.start(call)
            async with lease:
                await asyncio.sleep(0)
        finally:
            stage.end(call)

    stage.set(4, 1)
    stage.play(leaser(), leaser(), stage.visit())


@scenario
def one_object_entered_by_all(stage: Stage) -> None:
    inside: set[Lease] = set()

    async def enter() -> None:
        async with stage.within(kept, 2) as (lease, _, _):
            assert lease not in inside, "two blocks share a lease"
            inside.add(lease)
            try:
                await asyncio.sleep(0)
            finally:
                inside.remove(lease)

    kept = stage.set(4, 2)(2)
    stage.play(enter(), enter(), enter())


@scenario
def one_object_entered_by_all_over_time(stage: Stage) -> None:
    # If B is cancelled, A's entry is the first again. C, who is inside by then, has given its
    # slot back before the end of its block, and must not give A's back as well.
    async def enter(*, early: bool) -> None:
        async with stage.within(kept, 2) as (lease, call, _):
            if early:
                lease.release()
                stage.end(call)
            await asyncio.sleep(1.5)

    async def visit_and_enter() -> None:
        await stage.visit(2)
        await asyncio.sleep(2.2)
        await enter(early=False)

    kept = stage.set(2, 1)(2)
    stage.play(visit_and_enter(), enter(early=True), enter(early=True))


def main(arguments: Sequence[str]) -> int:
    """Print a table of all scenarios or, of a scenario and its choices, the story.

    Returns:
        How many scenarios failed.
    """
    if arguments:
        name, choices = arguments
        schedule = Schedule([int(choice) for choice in choices.split(",")])
        try:
            with listening() as complaints:
                stage = perform(SCENARIOS[name], schedule, complaints, cancels=len(choices))
        except Broken as error:
            print(error)
            return 1
        print(*stage.story, sep="\n")
        return 0
    print("           a cancellation hit a task that was")
    print("schedules" + "".join(f"{plight:>11}" for plight in PLIGHTS) + "  seconds  scenario")
    total = failed = 0
    for name, setting in SCENARIOS.items():
        began = time.perf_counter()
        try:
            report = explore(setting)
        except AssertionError as error:
            print(f"{name} FAILS:\n{error}", flush=True)
            failed += 1
            continue
        total += report.schedules
        hits = "".join(f"{report.plights[plight]:11,}" for plight in PLIGHTS)
        seconds = time.perf_counter() - began
        print(f"{report.schedules:9,}{hits}{seconds:9.1f}  {name}", flush=True)
    print(f"{total:9,} in all")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
