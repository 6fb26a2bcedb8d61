"""What comes in while a limiter is at work: at every moment at which that can really happen.

A scene is a short life of a limiter: callers wait, hold, leave, settings change. It is played once
for each moment inside the package, and at that moment something comes in:

- a call as a finalizer makes it, in this thread or in another one (ways `here` and `thread`);
- a call as a signal handler makes it (way `signal`);
- a KeyboardInterrupt (what `interrupt`, always by a signal).

**Moments.** A finalizer runs where CPython may collect garbage, which is wherever something is
called or a container is made. Its moments are the entry of each function of the package, and on
each visit of a line the first instruction that could do that (all but those in `SILENT`: they only
move references and compute with numbers). A trace function makes the call itself.

Signal handlers run, and exceptions of theirs come up, in fewer places. In 3.11, 3.12 and 3.13 alike
the evaluation loop looks for them

- at RESUME, when a function begins or a generator goes on after a yield, but not after an await;
- at a backward jump (JUMP_BACKWARD; in 3.11 POP_JUMP_BACKWARD_IF_... as well);
- when a function written in C has returned to CALL, CALL_KW or CALL_FUNCTION_EX; what it returned
  is lost if an exception comes up. ``with lock:`` has no such place between the taking of the lock
  and its block, since BEFORE_WITH does not look.

An exception that a trace function raises comes up at an instruction of its own choice, and under
that one's exception handlers, which may be wrong by one: after ``with lock: return f()`` it would
keep the lock. So nothing is raised here. Before an instruction that is followed by such a place,
a real signal is left pending, and CPython delivers it where it does. `TRIP` says how.
A signal that ends a sleep in a lock does not come between two instructions: it is not tried here.

One place is no limiter's: a KeyboardInterrupt while `Future.set_result` has the event loop note
whom it is to wake. The future is done then, and asyncio has forgotten who waits for it.

**Judge.** Nobody hangs, slots are never too many, only the errors of `ALLOWED` are raised, and
when all have ended nobody waits or holds, and the level is back when it should be, not before.
Lives in virtual time are compared as well: what each caller saw and when, and the level at the
end, must be exactly as if the call had come in just before or just after the outer call; it is
made there in a life of its own. There is no second arithmetic that could be wrong.

Answers must lie between those of before and after, and change nothing. An outer call may be several
events, and an answer is as of the last of these: what time or a caller has given back may be there
that waiters are granted before the outer call is through. An interrupted entry is an
entry that was never asked for; an interrupted exit has taken place; other calls have or have not.
A callback of the event loop that is interrupted ends the loop, which is run again: then only the
promises count that need no comparison. Lives of several threads are not repeatable, so their
clock stands still, and the level is the burst less what was taken.

    python -m tests.interruptions [--scene S] [--what W] [--way Y] [--every N] [--moment M]

prints moments tried and wrong. With *moment* it plays that one alone and tells what it saw.
"""

from __future__ import annotations

import _thread
import argparse
import asyncio
import contextlib
import dis
import functools
import gc
import logging
import math
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from linecache import getline
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import async_throttle
from async_throttle import (
    AIMD,
    LimitPool,
    LimitSet,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleTimeout,
    WeightTooLarge,
    threads,
)
from async_throttle.testing import DeadlockError, VirtualTimeLoop

ROOT: Final = str(Path(async_throttle.__file__).parent) + "/"
ASYNCIO: Final = str(Path(asyncio.__file__).parent) + "/"
OTHERS: Final = tuple(ROOT + name for name in ("testing.py", "pytest_plugin.py", "_demo/"))
"""Files of the package that no limiter runs."""

ALLOWED: Final = ThrottleClosed, ThrottleTimeout, WeightTooLarge, asyncio.CancelledError
"""What callers may get."""

PATIENCE: Final = 2.0
"""Real seconds after which a life is stuck."""

PROMPT: Final = 0.02
"""Real seconds for which an interrupted thread waits for another one, which may need its lock."""


class _Trip(int):
    now = property(_thread.interrupt_main)


TRIP: Final = _Trip(signal.SIGINT)
"""``TRIP.now`` makes a signal pending, and nothing in it lets the handler run at once.

A property whose getter is written in C: no CALL, so no look for signals, neither in
`interrupt_main` nor when it returns, nor at the RETURN of the trace function that says it.
"""

# ---------------------------------------------------------------------------------- moments

CALLS: Final = {"CALL", "CALL_KW", "CALL_FUNCTION_EX"}
BACKWARD: Final = "JUMP_BACKWARD", "POP_JUMP_BACKWARD"
SILENT: Final = (
    *("LOAD_", "STORE_FAST", "STORE_ATTR", "STORE_DEREF", "STORE_SUBSCR", "DELETE_FAST", "COPY"),
    *("SWAP", "POP_", "PUSH_", "NOP", "CACHE", "PRECALL", "KW_NAMES", "RESUME", "RETURN_"),
    *("BINARY_", "COMPARE_OP", "UNARY_", "TO_BOOL", "IS_OP", "CONTAINS_OP", "JUMP_FORWARD"),
    *("JUMP_IF", "END_", "CHECK_", "UNPACK_SEQUENCE", "RERAISE", "EXTENDED_ARG"),
    *("COPY_FREE_VARS", "MAKE_CELL", "SEND"),
)
"""Beginnings of the names of instructions at which no garbage is collected.

Properties, operators and iterators that are written in Python are entered by some of them: the
entry of that function is a moment then.
"""

CHECKED, FOREIGN, RESUMES = 1, 2, 4


@functools.cache
def _instructions(code: CodeType) -> dict[int, int]:
    """By offset: whether signals are looked for after it, and whether it may call anything."""
    found = {}
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        flags = FOREIGN * (not name.startswith(SILENT) or name == "LOAD_BUILD_CLASS")
        flags |= RESUMES * (name == "RESUME")
        flags |= CHECKED * (name in CALLS or name.startswith(BACKWARD))
        found[instruction.offset] = flags
    return found


@functools.cache
def _ours(file: str) -> bool:
    return file.startswith(ROOT) and not file.startswith(OTHERS)


@dataclass(frozen=True)
class Moment:
    """A place in a life.

    Attributes:
        number: to come back to it.
        segment: which of the outer calls, in order; a coroutine that goes on is the next one.
        phase: what the scene does by it: "enter", "exit", "call", "cancel" an entry; "callback" of
            the loop.
        place: function and line.
    """

    number: int
    segment: int
    phase: str
    place: str


class Tracer:
    """Counts the moments in the package, and acts at one of them, or at an edge of a segment.

    Args:
        signals: count the places at which signals are looked for, else those of finalizers.
        at: the number of the moment; None records all of them in *moments*.
        edge: instead, the segment, and "before" or "after".
        act: what to do then, once.
        put_off: act when the outer call is through that the moment is in.
        repeatable: the life is the same each time. Else the number may be that of another
            instruction, so it is the next place at which signals are looked for.
        probing: at each edge the life is to write down its answers.
    """

    def __init__(
        self,
        *,
        signals: bool = False,
        at: int | None = None,
        edge: tuple[int, str] | None = None,
        act: Callable[[], None] | None = None,
        put_off: bool = False,
        repeatable: bool = True,
        probing: bool = False,
    ) -> None:
        self.signals = signals
        self.at = at
        self.edge = edge
        self.act = act
        self.put_off = put_off
        self.repeatable = repeatable
        self.probing = probing
        self.probe: Callable[[int, str], None] | None = None
        self.moments: list[Moment] = []
        self.reached: Moment | None = None
        self.segment = 0
        self.phase = ""
        self._count = 0
        self._outer: FrameType | None = None
        self._fresh = True
        self._last: tuple[FrameType, int, bool] | None = None
        self._before: Any = None

    def start(self) -> None:
        """Trace this thread, from the next call on."""
        self._before = sys.gettrace()
        here = sys._getframe()
        here.f_trace = None
        here.f_trace_opcodes = True  # 3.12 looks at the next settrace whether anybody wants them
        sys.settrace(self._enter)

    def stop(self) -> None:
        """Give the thread back to whoever traced it."""
        sys.settrace(self._before)
        self._outer = self._last = None

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if not _ours(frame.f_code.co_filename):
            return None
        outer, beneath = frame, frame.f_back
        while beneath is not None and outer is not self._outer:
            if _ours(beneath.f_code.co_filename):
                outer = beneath
            beneath = beneath.f_back
        if outer is not self._outer:
            # What is thrown into a coroutine begins in the innermost one: *outer* is not *frame*.
            self.segment += 1
            caller = outer.f_back
            scene = caller is not None and caller.f_code.co_filename == __file__
            self.phase = PHASE.get() if scene else "callback"
            if self.phase == "enter" and not _instructions(frame.f_code)[frame.f_lasti] & RESUMES:
                self.phase = "cancel"
            self._outer = outer
            self._edge("before")
        elif self.signals and self.at is None and self._last is not None:
            last, number, noted = self._last
            if last is frame.f_back and not noted:  # a property or an operator: RESUME looks
                self._record(last, number)
        if self.edge is not None:  # nothing but the ends of outer calls counts
            if frame is not outer:
                return None
            frame.f_trace_lines = False
            return self._within
        if not self.signals and self._moment(frame):
            return None
        frame.f_trace = self._within  # 3.13 wants it before the next line
        frame.f_trace_opcodes = True
        return self._within

    def _within(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._fresh = True
        elif event == "return":
            if frame is self._outer:
                self._edge("after")
                self._outer = None
        elif event == "opcode":
            flags = _instructions(frame.f_code).get(frame.f_lasti, 0)
            if not self.signals:
                if flags & FOREIGN and self._fresh:
                    self._fresh = False
                    self._moment(frame)
                return self._within
            self._count += 1
            noted = bool(flags & CHECKED)
            if self.at is None:
                self._last = frame, self._count, noted
                if noted:
                    self._record(frame, self._count)
            elif self._count == self.at or (
                self._count > self.at and noted and self.reached is None
            ):
                if not noted and not self.repeatable:
                    return self._within
                self.reached = self._described(frame, self._count)
                if self.put_off:
                    self.edge = self.segment, "after"
                    return self._within
                self.stop()
                _ = TRIP.now  # nothing between here and the instruction looks for signals
        return self._within

    def _moment(self, frame: FrameType) -> bool:
        self._count += 1
        if self.at is None:
            self._record(frame, self._count)
        elif self._count == self.at:
            self.reached = self._described(frame, self._count)
            if self.put_off:
                self.edge = self.segment, "after"
                return False
            self.stop()
            if self.act is not None:
                self.act()
            return True
        return False

    def _edge(self, side: str) -> None:
        if self.probe is not None:
            self.probe(self.segment, side)
        if self.edge == (self.segment, side):
            self.stop()
            if self.act is not None:
                self.act()

    def _record(self, frame: FrameType, number: int) -> None:
        self.moments.append(self._described(frame, number))

    def _described(self, frame: FrameType, number: int) -> Moment:
        place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        return Moment(number, self.segment, self.phase, place)


NEVER: Final = 0, "never"
"""The edge of no segment."""

PHASE: ContextVar[str] = ContextVar("PHASE", default="call")
"""What the scene is doing by the outer call."""


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Meanwhile the outer calls are of this kind."""
    token = PHASE.set(name)
    try:
        yield
    finally:
        PHASE.reset(token)


# ------------------------------------------------------------------------------------- lives


@dataclass
class Life:
    """One life of a limiter, as those who use it see it.

    Attributes:
        limiter: who is asked; a throttle, a set or a pool.
        throttle: whose level and settings are touched: the limiter, or a member.
        most: the most slots that may be held.
        lease: held from the start, for a finalizer.
        ledger: (instant, who, what) of all that the callers saw.
        spent: (instant, tokens), by whoever took them.
        wrong: what is broken.
        answer: of the call that came in.
    """

    what: str
    tracer: Tracer
    loop: asyncio.AbstractEventLoop | None = None
    limiter: Any = None
    throttle: Any = None
    lease: Any = None
    most: float = 0
    inside: int = 0
    held: int = 0  # by the lease and an acquire(), until they are given back
    ledger: list[tuple[float, str, str]] = field(default_factory=list)
    spent: list[tuple[float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    answer: object = None
    came: bool = False
    came_at: float = 0.0
    lost: bool = False
    table: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    late: list[asyncio.Task[None]] = field(default_factory=list)
    others: list[threading.Thread] = field(default_factory=list)
    released: bool = False
    lock: Any = field(default_factory=threading.Lock)

    # -- what the scenes say ------------------------------------------------------------

    def now(self) -> float:
        return 0.0 if self.loop is None else self.loop.time()

    def note(self, who: str, what: object) -> None:
        if isinstance(what, BaseException):
            if not isinstance(what, ALLOWED) and not (
                isinstance(what, KeyboardInterrupt) and self.what == "interrupt"
            ):
                self.wrong.append(f"{type(what).__name__}: {what}"[:120])
            what = type(what).__name__
        self.ledger.append((self.now(), who, str(what)))

    def begin(self, limiter: Any, throttle: Any, lease: Any) -> None:
        """The limiter is there, *lease* and an acquire() of *throttle* are held."""
        self.limiter, self.throttle, self.lease = limiter, throttle, lease
        self.spent = [(-1, 3)]
        self.held = 2
        self.most = throttle.concurrency or math.inf

    def entered(self, who: str, weight: float) -> None:
        with self.lock:
            self.inside += 1
            self.spend(weight)
            if self.inside + self.held > self.most:
                self.wrong.append("too many slots")
        self.note(who, "entered")

    def spend(self, weight: float) -> None:
        self.spent.append((self.now(), weight))

    def left(self, who: str) -> None:
        with self.lock:
            self.inside -= 1
        self.note(who, "left")

    def do(self, name: str, call: Callable[[], object], kind: str = "call") -> object:
        """An outer call of the scene itself."""
        answer: object = None
        try:
            with phase(kind):
                answer = call()
        except BaseException as error:
            self.note(name, error)
        return answer

    async def call(
        self,
        who: str,
        enter: Callable[[], Any],
        takes: float = 0.01,
        weight: float = 1,
        settle: Callable[[Any], object] | None = None,
    ) -> None:
        """A caller in a task."""
        try:
            token = PHASE.set("enter")
            async with enter() as held:
                PHASE.reset(token)
                self.entered(who, weight)
                try:
                    await asyncio.sleep(takes)
                    if settle is not None:
                        self.do(who, lambda: settle(held))
                finally:
                    self.left(who)
                    PHASE.set("exit")
        except BaseException as error:
            self.note(who, error)

    async def wait(self, who: str, ask: Callable[[], Awaitable[object]], weight: float = 0) -> None:
        """A caller of something else that waits."""
        try:
            with phase("enter"):
                await ask()
            self.spend(weight)
            self.note(who, "came through")
        except BaseException as error:
            self.note(who, error)

    def start(self, who: str, enter: Callable[[], Any], **kwargs: Any) -> asyncio.Task[None]:
        assert self.loop is not None
        return self.loop.create_task(self.call(who, enter, **kwargs), name=who)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Things may come in."""
        self.tracer.start()
        try:
            yield
        finally:
            self.tracer.stop()

    def give_back(self) -> None:
        """Release what was held from the start, if nothing that came in did."""
        self.lease.release()
        if not self.released:
            self.released = True
            self.throttle.release()
        self.held = 0

    async def finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for all, and judge what is left; in virtual time."""
        self.limiter.resume() if math.isinf(getattr(self.limiter, "paused_for", 0.0)) else None
        await asyncio.sleep(0.2)
        self.give_back()
        for task in tasks + self.late:
            await asyncio.wait([task])
        throttle = self.throttle
        self.note("level", throttle.level)
        if throttle.active or throttle.waiting or self.limiter_waits():
            self.wrong.append(f"{throttle.active} held, {throttle.waiting} waiting at the end")
        missing = throttle.burst - throttle.level
        filling = missing * throttle.period / throttle.capacity
        if throttle.algorithm is SlidingWindow:
            filling = throttle.period
        elif missing > 0.01:
            await asyncio.sleep(filling - 0.001)
            if throttle.level >= throttle.burst:
                self.wrong.append("full too early")
            filling = 0.002
        await asyncio.sleep(filling + 0.001)
        if throttle.level != throttle.burst:
            self.wrong.append(f"level {throttle.level} at last, not {throttle.burst}")
        self.checked()

    def finish_thread(self, total: float | None) -> None:
        """The same for threads: *total* is the burst if the clock stood still."""
        for thread in self.others:
            thread.join(PATIENCE)
            if thread.is_alive():
                self.wrong.append("the other thread hangs")
        self.give_back()
        if self.answer is True and self.what == "try_acquire":
            self.throttle.release()
        throttle = self.throttle
        if throttle.active or throttle.waiting or self.limiter_waits():
            self.wrong.append(f"{throttle.active} held, {throttle.waiting} waiting at the end")
        if total is not None:
            if self.came and self.answer in (None, True):
                self.spend(TAKEN.get(self.what, 0))
            left = total - sum(weight for _, weight in self.spent)
            self.note("level", throttle.level)
            charged = any(who == "charge" and what != "entered" for _, who, what in self.ledger)
            if throttle.level != left and not charged:  # an interrupted charge may have come or not
                self.wrong.append(f"level {throttle.level}, not {left}")
        else:
            time.sleep(0.005)
            if throttle.level != throttle.burst:
                self.wrong.append(f"level {throttle.level} at last")
        self.checked()

    def limiter_waits(self) -> int:
        return int(getattr(self.limiter, "waiting", 0))

    def checked(self) -> None:
        """What the engine itself says."""
        from support import check

        check(self.limiter)
        check(self.throttle)

    # -- what comes in ------------------------------------------------------------------

    def come_in(self) -> None:
        """The call, in whichever thread."""
        self.came = True
        self.came_at = self.now()
        try:
            self.answer = WHATS[self.what](self)
        except BaseException as error:
            self.answer = type(error).__name__
            if self.what == "acquire" and isinstance(error, (RuntimeError, ThrottleTimeout)):
                return
            if not isinstance(error, ThrottleClosed):
                self.wrong.append(f"{self.what}: {type(error).__name__}: {error}"[:120])

    def in_a_thread(self) -> None:
        thread = threading.Thread(target=self.come_in, daemon=True)
        self.others.append(thread)
        thread.start()
        thread.join(PATIENCE if self.loop is not None else PROMPT)
        if self.loop is not None and thread.is_alive():
            self.wrong.append("the other thread hangs")

    def soon(self) -> None:
        assert self.loop is not None
        self.loop.call_soon(self.come_in)

    def try_release(self) -> None:
        """Give back what a `try_acquire` took."""
        self.held -= 1
        self.do("try_release", self.throttle.release, "exit")

    def probe(self, segment: int, side: str) -> None:
        answers = self.table[segment, side] = {"at": self.now()}
        for name in NUMBERS:
            try:
                answers[name] = WHATS[name](self)
            except ThrottleClosed as error:
                answers[name] = type(error).__name__


def _lease_release(life: Life) -> None:
    life.held -= 1
    life.lease.release()


def _release(life: Life) -> None:
    life.held -= 1
    life.released = True
    life.throttle.release()


def _settle(amount: float) -> Callable[[Life], None]:
    def settle(life: Life) -> None:
        if isinstance(life.lease, async_throttle.LimitSetAcquisition):
            life.lease.settle(rate=amount)
        else:
            life.lease.settle(amount)

    return settle


def _set(name: str, value: float) -> Callable[[Life], None]:
    def change(life: Life) -> None:
        if name == "concurrency":
            life.most = max(life.most, value or math.inf)
        setattr(life.throttle, name, value)

    return change


def _pause(life: Life) -> None:
    getattr(life.limiter, "pause", life.throttle.pause)(0.01 if life.loop is None else 0.3)


def _resume(life: Life) -> None:
    getattr(life.limiter, "resume", life.throttle.resume)()


def _close(drop_waiting: bool) -> Callable[[Life], None]:
    def close(life: Life) -> None:
        life.throttle.close(drop_waiting=drop_waiting)

    return close


def _acquire(life: Life) -> object:
    """Wait: for asyncio in a task of its own, for threads in the one that was interrupted."""
    if life.loop is None:
        life.throttle.acquire(0, timeout=0.02)
        life.throttle.release()
        return True

    async def late() -> None:
        await life.wait("late", life.throttle.consume)

    life.late.append(life.loop.create_task(late()))
    return None


def _try_acquire(life: Life) -> object:
    answer = life.throttle.try_acquire()
    if answer and life.loop is not None:
        life.held += 1
        life.loop.call_soon_threadsafe(life.loop.call_later, 0.05, life.try_release)
    return answer


def _attribute(name: str) -> Callable[[Life], object]:
    return lambda life: getattr(life.throttle, name)


WHATS: Final[dict[str, Callable[[Life], object]]] = {
    "lease.release": _lease_release,
    "release": _release,
    "settle below": _settle(0),
    "settle above": _settle(6),
    "charge": lambda life: life.throttle.charge(3),
    "sync": lambda life: life.throttle.sync(remaining=1_000 if life.loop is None else 4),
    "pause": _pause,
    "resume": _resume,
    "close": _close(True),
    "close for newcomers": _close(False),
    "capacity": _set("capacity", 20),
    "period": _set("period", 2),
    "burst": _set("burst", 3),
    "concurrency": _set("concurrency", 5),
    "fewer slots": _set("concurrency", 3),
    "no slots": _set("concurrency", 0),
    "ok": lambda life: life.lease.ok(),
    "ended": lambda life: life.lease.ended(),
    "acquire": _acquire,
    "try_acquire": _try_acquire,
    "try_consume": lambda life: life.throttle.try_consume(),
    "locked": lambda life: life.throttle.locked(),
    "level": _attribute("level"),
    "active": _attribute("active"),
    "waiting": _attribute("waiting"),
    "paused_for": _attribute("paused_for"),
    "delay": lambda life: life.throttle.delay(1),
    "repr": lambda life: repr(life.throttle),
    "statistics": lambda life: life.throttle.statistics(),
}
SHARED: Final = ("limit_set", "pool")
"""Scenes in which sets wait as well, whose callers delay() does not count while all is at work."""

NUMBERS: Final = ["locked", "level", "active", "waiting", "paused_for", "delay"]
ANSWERS: Final = ["try_acquire", "try_consume", *NUMBERS, "repr", "statistics"]
TAKEN: Final = {
    "settle below": -2,
    "settle above": 4,
    "charge": 3,
    "try_acquire": 1,
    "try_consume": 1,
}
"""Tokens that it takes in the end."""

STEPS: Final = "concurrency", "fewer slots", "no slots"
"""Scenes leave out steps of their own that would contradict these."""

WAYS: Final = "here", "thread", "signal"

# ------------------------------------------------------------------------------------ scenes


async def held(life: Life, t: Any, weight: float = 2) -> None:
    """A lease and a slot of a throttle are held."""
    lease = await t.lease(weight)
    await t.acquire()
    life.begin(t, t, lease)


async def all_but(victim: int, tasks: list[asyncio.Task[None]]) -> None:
    """One of them is cancelled, the others end."""
    await asyncio.sleep(0.0005)
    tasks[victim].cancel()
    await asyncio.wait(tasks)


async def crowd(life: Life) -> None:
    """Callers wait for slots and tokens, one is cancelled, one has a timeout."""
    t = Throttle(10, 4, burst=8)
    await held(life, t)
    with life.watched():
        tasks = [life.start(f"plain{n}", lambda: t) for n in range(4)]
        tasks += [life.start(f"five{n}", lambda: t(5), weight=5) for n in range(2)]
        tasks.append(life.start("patient", lambda: t(1, timeout=0.9)))
        tasks.append(life.start("hasty", lambda: t(1, timeout=0.05)))
        await all_but(4, tasks)
    await life.finish(tasks)


async def slots(life: Life) -> None:
    """Slots are short, and tokens soon there: who is not woken at a release waits for ever."""
    t = Throttle(1000, 4, burst=4, initial=3)
    await held(life, t, 1)
    with life.watched():
        tasks = [life.start(f"caller{n}", lambda: t) for n in range(4)]
        tasks += [life.start(f"lease{n}", lambda: t(2), weight=2) for n in range(2)]
        await all_but(4, tasks)
    await life.finish(tasks)


async def controls(life: Life) -> None:
    """Each plain call in turn, while callers wait."""
    t = Throttle(10, 4, burst=8)
    await held(life, t)
    other = await t.lease(1)
    life.held += 1
    with life.watched():
        tasks = [life.start(f"caller{n}", lambda: t(2), weight=2) for n in range(5)]
        tasks.append(asyncio.create_task(life.wait("consumer", lambda: t.consume(1), 1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for name, call in (
            ("settle", lambda: other.settle(0)),
            ("charge", lambda: t.charge(1)),
            ("sync", lambda: t.sync(remaining=5, shared=True)),
            ("pause", lambda: t.pause(0.1)),
            ("resume", lambda: t.resume()),
            ("capacity", lambda: setattr(t, "capacity", 12)),
            ("period", lambda: setattr(t, "period", 1.5)),
            ("burst", lambda: setattr(t, "burst", 6)),
            ("settle", lambda: other.settle(2)),
            ("locked", lambda: t.locked() and None),
            ("waiting", lambda: t.waiting and None),
        ):
            life.do(name, call)
            await asyncio.sleep(0.01)
        life.held -= 1
        life.do("release", other.release, "exit")
        await asyncio.sleep(0)
        if life.what not in STEPS:
            life.do("concurrency", lambda: setattr(t, "concurrency", 3))
        tasks.append(asyncio.create_task(life.wait("drain", t.drain)))
        await asyncio.wait(tasks[:-1])
    await life.finish(tasks)


async def closing(life: Life) -> None:
    """The limiter is closed while callers hold, wait for a slot, for tokens, for a deadline."""
    t = Throttle(10, 4, burst=8)
    await held(life, t)
    with life.watched():
        tasks = [life.start(f"caller{n}", lambda: t(1, timeout=2), takes=0.1) for n in range(4)]
        tasks.append(asyncio.create_task(life.wait("heavy", lambda: t.consume(7))))
        await asyncio.sleep(0.15)
        life.do("close", t.close)
        tasks.append(life.start("newcomer", lambda: t))
        await asyncio.wait(tasks)
    seen = {entry[1:] for entry in life.ledger}
    if ("newcomer", "entered") in seen and ("close", "KeyboardInterrupt") not in seen:
        life.wrong.append("close() was lost")
    await life.finish(tasks)


async def limit_set(life: Life) -> None:
    """A set of two throttles, with priorities, beside callers of one of them alone."""
    rate, slots = Throttle(10, 4, burst=8), Throttle(100, 3)
    api = LimitSet(rate=rate, slots=slots)
    lease = await api(rate=2)
    await rate.acquire()
    life.begin(api, rate, lease)
    with life.watched():
        tasks = [
            life.start(f"set{n}", functools.partial(api, rate=2, priority=n % 2), weight=2)
            for n in range(4)
        ]
        tasks += [life.start(f"alone{n}", lambda: rate) for n in range(2)]
        tasks.append(life.start("hasty", lambda: api(timeout=0.5)))
        await asyncio.sleep(0.0005)
        tasks[2].cancel()
        await asyncio.sleep(0.02)
        life.do("pause", lambda: api.pause(0.05))
        await asyncio.sleep(0.01)
        life.do("resume", api.resume)
        await asyncio.wait(tasks)
    await life.finish(tasks)


async def pool(life: Life) -> None:
    """A pool of two sets."""
    first, second = Throttle(10, 4, burst=8), Throttle(5, 1, burst=2)
    both = LimitPool([LimitSet(rate=first), LimitSet(rate=second)])
    lease = await both[0](rate=2)
    await first.acquire()
    life.begin(both, first, lease)
    life.most += 1
    with life.watched():
        tasks = [life.start(f"pool{n}", lambda: both(rate=2), weight=2) for n in range(5)]
        tasks.append(life.start("alone", lambda: first))
        await all_but(3, tasks)
    await life.finish(tasks)


async def adaptive(life: Life) -> None:
    """Slots that adapt, and callers in plain blocks."""
    t = Throttle(10, 4, burst=8, adapt=AIMD(minimum=4, maximum=4))
    await held(life, t)
    with life.watched():
        tasks = [life.start(f"plain{n}", lambda: t) for n in range(3)]
        tasks += [life.start(f"lease{n}", lambda: t(2), weight=2) for n in range(3)]
        await all_but(1, tasks)
    await life.finish(tasks)


async def window(life: Life) -> None:
    """A sliding window."""
    t = Throttle(8, 4, algorithm=SlidingWindow)
    await held(life, t)
    with life.watched():
        tasks = [
            life.start(f"two{n}", lambda: t(2), weight=2, settle=lambda held: held.settle(1))
            for n in range(4)
        ]
        tasks.append(life.start("plain", lambda: t))
        await all_but(1, tasks)
    await life.finish(tasks)


async def to_the_end(life: Life) -> None:
    """Calls count to the end: of blocks, of leases, of those that are said to have ended."""
    t = Throttle(10, 4, burst=8, counts="end", linger=0.01)
    await held(life, t)
    with life.watched():
        tasks = [life.start(f"plain{n}", lambda: t) for n in range(2)]
        tasks += [
            life.start(f"two{n}", lambda: t(2), weight=2, settle=lambda held: held.settle(1))
            for n in range(2)
        ]
        tasks += [
            life.start(f"early{n}", lambda: t(2), weight=2, settle=lambda held: held.ended())
            for n in range(2)
        ]
        await all_but(1, tasks)
    await life.finish(tasks)


async def settlement(life: Life) -> None:
    """Leases are settled, below and above, into debt; callers wait it out."""
    t = Throttle(10, 4, burst=8)
    await held(life, t)
    with life.watched():
        tasks = [
            life.start(
                f"caller{n}",
                lambda: t(2),
                weight=2,
                settle=lambda held, actual=actual: held.settle(actual),
            )
            for n, actual in enumerate((0, 7, 2, 1, 9))
        ]
        await all_but(2, tasks)
    await life.finish(tasks)


def still() -> float:
    """A clock that stands still: all waiting is for slots, and no token comes back."""
    return 1000.0


def _with(life: Life, who: str, enter: Callable[[], Any], weight: float = 1) -> None:
    """A caller in a thread."""
    try:
        token = PHASE.set("enter")
        with enter():
            PHASE.reset(token)
            life.entered(who, weight)
            try:
                time.sleep(0.0002)
            finally:
                life.left(who)
                token = PHASE.set("exit")
        PHASE.reset(token)
    except BaseException as error:
        life.note(who, error)


def _held(life: Life, t: Any, weight: float = 2) -> None:
    """A lease and a slot of a throttle are held."""
    lease = t.lease(weight)
    t.acquire()
    life.begin(t, t, lease)


def _workers(life: Life, enter: Callable[[], Any], weight: float = 1) -> list[threading.Thread]:
    def work(who: str) -> None:
        for _ in range(3):
            _with(life, who, enter, weight)

    workers = [threading.Thread(target=work, args=(f"worker{n}",), daemon=True) for n in range(2)]
    for worker in workers:
        worker.start()
    return workers


def _join(life: Life, workers: list[threading.Thread]) -> None:
    end = time.monotonic() + PATIENCE
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    hang = sum(worker.is_alive() for worker in workers)
    if hang:
        life.wrong.append("a thread hangs")
        life.throttle.close()


def thread_alone(life: Life) -> None:
    """Each call of a throttle for threads, by one thread that never has to wait."""
    t = threads.Throttle(10, 4, burst=1000, timer=still)
    _held(life, t)

    def spend(weight: float) -> None:
        t.charge(weight)
        life.spend(weight)

    with life.watched():
        _with(life, "plain", lambda: t)
        _with(life, "three", lambda: t(3), 3)
        if life.do("try", t.try_acquire, "enter"):
            life.spend(1)
            life.do("release", t.release, "exit")
        if life.do("acquire", lambda: t.acquire(4), "enter"):
            life.spend(4)
            life.do("release", t.release, "exit")
        for name, call in (
            ("charge", lambda: spend(5)),
            ("pause", lambda: t.pause(5)),
            ("resume", lambda: t.resume()),
            ("capacity", lambda: setattr(t, "capacity", 12)),
            ("period", lambda: setattr(t, "period", 1.5)),
            ("locked", lambda: t.locked() and None),
        ):
            life.do(name, call)
    t.resume()
    life.finish_thread(1000)


def thread_slots(life: Life) -> None:
    """Three threads and two slots."""
    t = threads.Throttle(10, 4, burst=1000, timer=still)
    _held(life, t)
    workers = _workers(life, lambda: t)
    with life.watched():
        for n in range(3):
            _with(life, f"main{n}", lambda: t(2, timeout=5), 2)
            _with(life, f"plain{n}", lambda: t)
    _join(life, workers)
    life.finish_thread(1000)


def thread_time(life: Life) -> None:
    """Three threads and a rate, in real time."""
    t = threads.Throttle(4000, 4, burst=2)
    _held(life, t, 1)
    workers = _workers(life, lambda: t)
    with life.watched():
        for n in range(4):
            _with(life, f"main{n}", lambda: t)
    _join(life, workers)
    life.finish_thread(None)


def thread_set(life: Life) -> None:
    """Three threads and a set."""
    rate = threads.Throttle(10, 4, burst=1000, timer=still)
    slots = threads.Throttle(math.inf, 3, timer=still)
    api = LimitSet(rate=rate, slots=slots)
    lease = api(rate=2)
    lease.__enter__()
    rate.acquire()
    life.begin(api, rate, lease)
    workers = _workers(life, lambda: api(rate=2), 2)
    with life.watched():
        for n in range(3):
            _with(life, f"main{n}", lambda: api(rate=2), 2)
            _with(life, f"alone{n}", lambda: rate)
    _join(life, workers)
    life.finish_thread(1000)


def thread_pool(life: Life) -> None:
    """Three threads and a pool of two sets over one shared rate."""
    rate = threads.Throttle(10, 4, burst=1000, timer=still)
    one, two = (threads.Throttle(math.inf, 2, timer=still) for _ in range(2))
    both = LimitPool([LimitSet(rate=rate, slots=one), LimitSet(rate=rate, slots=two)])
    lease = both[0](rate=2)
    lease.__enter__()
    rate.acquire()
    life.begin(both, rate, lease)
    workers = _workers(life, lambda: both(rate=2), 2)
    with life.watched():
        for n in range(3):
            _with(life, f"main{n}", lambda: both(rate=2), 2)
    _join(life, workers)
    life.finish_thread(1000)


@dataclass(frozen=True)
class Scene:
    """A life, and what cannot come in there.

    Attributes:
        exact: the life is the same each time, up to what comes in.
    """

    play: Callable[[Life], Coroutine[Any, Any, None] | None]
    without: frozenset[str] = frozenset()
    exact: bool = True

    @property
    def name(self) -> str:
        return self.play.__name__

    @property
    def threads(self) -> bool:
        return self.name.startswith("thread_")


FROZEN: Final = frozenset({"pause", "burst"})
"""A pause would never end under a clock that stands still, and a level would never rise."""

SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene(crowd),
        Scene(slots),
        Scene(controls, frozenset({"capacity", "period", "burst"})),
        Scene(closing),
        Scene(limit_set),
        Scene(pool),
        Scene(adaptive, frozenset({"concurrency", "fewer slots", "no slots"})),
        Scene(window, frozenset({"burst"})),
        Scene(settlement),
        Scene(to_the_end, frozenset({"burst"})),
        Scene(thread_alone, FROZEN),
        Scene(thread_slots, FROZEN, exact=False),
        Scene(thread_time, frozenset({"capacity", "period", "burst"}), exact=False),
        Scene(thread_set, FROZEN, exact=False),
        Scene(thread_pool, FROZEN, exact=False),
    )
}

# ------------------------------------------------------------------------------------ playing


class Stuck(BaseException):
    """The life takes too long."""


def play(scene: Scene, what: str, tracer: Tracer, act: str = "come_in") -> Life:
    """Play a life; what is to be done at the tracer's moment is the method *act* of the life."""
    life = Life(what, tracer)
    interrupt = act == "interrupt"

    def handler(signum: int, frame: FrameType | None) -> None:
        if interrupt:
            life.lost = _loses_a_wakeup(frame)
            raise KeyboardInterrupt
        life.come_in()

    def watchdog(signum: int, frame: FrameType | None) -> None:
        raise Stuck

    def rise() -> None:
        raise KeyboardInterrupt

    tracer.act = rise if interrupt else getattr(life, act, None)
    if tracer.probing:
        tracer.probe = life.probe
    complaints: list[str] = []
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda args: complaints.append(f"unraisable {args.exc_value!r}"[:120]),
    )
    hook2, threading.excepthook = (
        threading.excepthook,
        lambda args: complaints.append(f"in a thread {args.exc_value!r}"[:120]),
    )
    collecting = gc.isenabled()
    gc.disable()
    before = signal.signal(signal.SIGINT, handler), signal.signal(signal.SIGALRM, watchdog)
    signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE)
    try:
        if scene.threads:
            scene.play(life)
        else:
            _in_a_loop(scene, life)
    except (Stuck, DeadlockError):
        life.wrong.append("hangs")
    except BaseException as error:
        life.wrong.append(f"{type(error).__name__}: {error}"[:120])
    finally:
        tracer.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect(0)  # what is left says so now, and not in the life of others
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGALRM, before[1])
        sys.unraisablehook = hook
        threading.excepthook = hook2
        if collecting:
            gc.enable()
    life.wrong += complaints
    return life


def _loses_a_wakeup(frame: FrameType | None) -> bool:
    """Whether the event loop is being told to wake who waits for a future that is done now."""
    within = frame is not None and frame.f_code.co_filename.startswith(ASYNCIO)
    while frame is not None and frame.f_code.co_filename.startswith(ASYNCIO):
        frame = frame.f_back
    return within and frame is not None and "set_result" in getline(*_place(frame))


def _place(frame: FrameType) -> tuple[str, int]:
    return frame.f_code.co_filename, frame.f_lineno


def _in_a_loop(scene: Scene, life: Life) -> None:
    loop = life.loop = VirtualTimeLoop()
    loop.set_exception_handler(
        lambda loop, context: life.wrong.append(
            repr(context.get("exception", context["message"]))[:120]
        )
    )

    async def guarded() -> None:
        async with asyncio.timeout(200):
            await scene.play(life)  # type: ignore[misc]

    main = loop.create_task(guarded())
    try:
        while True:
            try:
                loop.run_until_complete(main)
                break
            except KeyboardInterrupt:  # in a callback: the program goes on
                if main.done() or life.what != "interrupt":
                    raise
            except TimeoutError:
                life.wrong.append("hangs")
                break
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        with contextlib.suppress(BaseException):
            for task in left:
                loop.run_until_complete(asyncio.wait([task]))
        for task in {main, *left}:
            if task.done() and not task.cancelled():
                task.exception()
        loop.close()


# ------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one moment: nothing if *wrong* is empty."""

    moment: Moment
    wrong: tuple[str, ...]
    answer: object = None


def moments(scene: Scene, what: str, signals: bool) -> tuple[Moment, ...]:
    """All moments of a life to which nothing happens."""
    stepping = what in STEPS and scene.play is controls
    return _moments(scene, what if stepping else "", signals)


@functools.cache
def _moments(scene: Scene, what: str, signals: bool) -> tuple[Moment, ...]:
    play(scene, what, Tracer(edge=NEVER))  # what is made once is made
    tracer = Tracer(signals=signals)
    life = play(scene, what, tracer)
    assert not life.wrong, f"{scene.name} is wrong without any interruption: {life.wrong}"
    return tuple(tracer.moments)


@dataclass(frozen=True)
class Sight:
    """What a life showed, in an order that does not depend on who ran first at one instant."""

    ledger: tuple[tuple[float, str, str], ...]
    answer: object
    wrong: tuple[str, ...]

    @classmethod
    def of(cls, life: Life) -> Sight:
        return cls(tuple(sorted(life.ledger)), life.answer, tuple(life.wrong))

    def stopped(self) -> tuple[tuple[float, str, str], ...]:
        """The ledger, if it does not matter how a caller was stopped."""
        kinds = {"KeyboardInterrupt": "CancelledError"}
        return tuple(sorted((when, who, kinds.get(what, what)) for when, who, what in self.ledger))


@functools.cache
def reference(scene: Scene, what: str, edge: tuple[int, str], act: str) -> Sight:
    """A life in which it comes in between two outer calls, or `NEVER`."""
    return Sight.of(play(scene, what, Tracer(edge=edge), act))


@functools.cache
def _answers(scene: Scene) -> dict[tuple[int, str], dict[str, Any]]:
    """What is answered at the edges of the outer calls."""
    return play(scene, "", Tracer(edge=NEVER, probing=True)).table


def judge(
    scene: Scene, what: str, way: str, moment: Moment, *, put_off: bool = False
) -> Verdict | None:
    """Let it come in at that moment; None if the life never got there.

    Args:
        put_off: let it come in after the outer call, which must always be right.
    """
    interrupt = what == "interrupt"
    tracer = Tracer(
        signals=_signals(what, way),
        at=moment.number,
        put_off=put_off,
        repeatable=scene.exact,
    )
    act = "interrupt" if interrupt else "in_a_thread" if way == "thread" else "come_in"
    life = play(scene, what, tracer, act)
    if tracer.reached is None:
        return None
    reached = tracer.reached
    if life.lost:
        return None
    wrong = list(life.wrong)
    if not wrong and scene.exact and not _explained(scene, what, way, reached, life):
        wrong.append("differs from before and after")
    numeric = what in NUMBERS and scene.exact and not (what == "delay" and scene.name in SHARED)
    if not wrong and numeric and not _between(scene, what, reached, life):
        wrong.append("answers something else than before or after")
    return Verdict(reached, tuple(wrong), life.answer)


def _explained(scene: Scene, what: str, way: str, moment: Moment, life: Life) -> bool:
    """Whether all is as if it had come in between two outer calls."""
    seen = Sight.of(life)
    if what == "interrupt":
        if moment.phase == "callback":
            return True
        if moment.phase == "cancel":  # both mean that it was never asked for
            return reference(scene, what, NEVER, "interrupt").stopped() == seen.stopped()
        sides = {"enter": ["before"], "exit": ["after"]}.get(moment.phase, ["before", "after"])
        edges = [((moment.segment, side), "interrupt") for side in sides]
    elif (what in ANSWERS and not (what.startswith("try_") and life.answer is True)) or (
        what == "acquire" and life.answer == "RuntimeError"  # it would have had to wait
    ):
        return seen.ledger == reference(scene, what, NEVER, "come_in").ledger
    else:
        edges = [((moment.segment, side), "come_in") for side in ("after", "before")]
        if way == "thread" and scene.threads:
            edges += [((moment.segment + n, "after"), "come_in") for n in (1, 2, 3)]
        elif way == "thread":
            # The loop is told to do it soon. Whoever goes through the door before does it, too.
            edges += [((moment.segment, side), "soon") for side in ("after", "before")]
            edges += [((segment, "after"), "come_in") for segment in _at_once(scene, moment)]
    return any(reference(scene, what, edge, act) == seen for edge, act in edges)


def _at_once(scene: Scene, moment: Moment) -> list[int]:
    """The outer calls that come next, at the same instant."""
    ends = {segment: seen["at"] for (segment, side), seen in _answers(scene).items()}
    now = ends.get(moment.segment)
    return [segment for segment, at in ends.items() if segment > moment.segment and at == now]


def _between(scene: Scene, what: str, moment: Moment, life: Life) -> bool:
    """Whether the answer lies between those of before and after the events of an outer call.

    These come one after the other: time passes, slots and tokens are given back, and waiters are
    granted, each by an event of its own. An answer is as of the last one.
    """
    table = _answers(scene)
    last_segment = moment.segment + 4 * scene.threads  # another thread may have to wait
    near = [
        table[segment, side][what]
        for segment in range(max(1, moment.segment - 4), last_segment + 1)
        for side in ("before", "after")
        if (segment, side) in table
    ]
    if what == "active":  # who leaves has left before the slot is another one's
        near.append(min(near) - 1)
    if what == "level":  # what time or a caller gives back is there before it is granted
        granted = sum(weight for at, weight in life.spent if at == life.came_at)
        near += [number + granted for number in near]
    if life.answer in near or (what == "locked" and life.answer is True):
        return True
    answer: Any = life.answer
    near = [number for number in near if not isinstance(number, str)]
    if isinstance(answer, str) or not near:
        return False
    return bool(min(near) - 1e-9 <= answer <= max(near) + 1e-9)


@dataclass
class Report:
    """How a scene fared with one what and way."""

    tried: int = 0
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return len(self.verdicts)


def ways(scene: Scene, what: str) -> tuple[str, ...]:
    """In which ways that may come in."""
    if what == "interrupt":
        return ("signal",)
    if what == "acquire" and not scene.threads:
        return ("here", "signal")  # tasks are made in the loop's own thread
    return WAYS


def combinations(scene: Scene) -> Iterator[tuple[str, str]]:
    """What may come in in this scene, and how."""
    for what in (*WHATS, "interrupt"):
        if what not in scene.without:
            for way in ways(scene, what):
                yield what, way


def survey(scene: Scene, what: str, way: str, every: int = 1, first: int = 0) -> Report:
    """Try every *every*-th moment."""
    report = Report()
    for moment in moments(scene, what, _signals(what, way))[first::every]:
        verdict = judge(scene, what, way, moment)
        if verdict is not None:
            report.tried += 1
            if verdict.wrong:
                report.verdicts.append(verdict)
    return report


def sample(scene: Scene, most: int) -> Iterator[tuple[str, str, Moment]]:
    """*most* moments of the scene, spread evenly over what comes in, how and when."""
    kinds = list(combinations(scene))
    total = sum(len(moments(scene, what, _signals(what, way))) for what, way in kinds)
    stride = max(1, round(total / most)) | 1
    place = sum(scene.name.encode()) % stride  # another one in each scene
    for what, way in kinds:
        found = moments(scene, what, _signals(what, way))
        while place < len(found):
            yield what, way, found[place]
            place += stride
        place -= len(found)


def _signals(what: str, way: str) -> bool:
    return what == "interrupt" or way == "signal"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.interruptions")
    parser.add_argument("--scene", choices=SCENES)
    parser.add_argument("--what", choices=[*WHATS, "interrupt"])
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--moment", type=int)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    logging.disable()
    chosen = [SCENES[options.scene]] if options.scene else list(SCENES.values())
    for scene in chosen:
        total = bad = 0
        for what, way in combinations(scene):
            if options.what not in (None, what) or options.way not in (None, way):
                continue
            if options.moment is not None:
                moment = Moment(options.moment, 0, "", "")
                print(what, way, judge(scene, what, way, moment))
                continue
            report = survey(scene, what, way, options.every)
            total += report.tried
            bad += report.wrong
            line = f"{scene.name:13} {what:20} {way:7} {report.wrong:5} of {report.tried:5} wrong"
            kinds = Counter(problem for verdict in report.verdicts for problem in verdict.wrong)
            print(line, *(f"| {count} x {kind}" for kind, count in kinds.most_common(3)))
            places = Counter(verdict.moment.place for verdict in report.verdicts)
            numbers = {verdict.moment.place: verdict.moment.number for verdict in report.verdicts}
            for place, count in places.most_common(5):
                print(f"    {count:4} x {place} (the last at moment {numbers[place]})")
        print(f"{scene.name}: {bad} of {total} moments are wrong", flush=True)


if __name__ == "__main__":
    main()
