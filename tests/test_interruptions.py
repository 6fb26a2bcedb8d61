"""What comes in while a limiter is at work does its work, later if need be, and breaks nothing."""

from __future__ import annotations

import ast
import asyncio
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from interruptions import ANSWERS, SCENES, WHATS, judge, sample
from support import PROFILE, scaled

import async_throttle
from async_throttle import (
    Lease,
    LimitPool,
    LimitSet,
    LimitSetAcquisition,
    Throttle,
    ThrottleClosed,
    limits,
    threads,
)
from async_throttle._base import core_of
from async_throttle._engine.lane import Lane
from async_throttle._engine.queue import Queue
from async_throttle._shell.clock import Clock
from async_throttle._shell.scheduler import find
from async_throttle.rules.bucket import TokenBucket

MOMENTS = {"brief": 8, "quick": 24, "mutants": 36, "deep": 10**9}.get(PROFILE, 80)
"""In each scene; ``python -m tests.interruptions`` tries them all."""


@pytest.mark.parametrize("scene", SCENES.values(), ids=lambda scene: scene.name)
def test_what_comes_in_at_any_moment_is_done_and_breaks_nothing(scene: Any) -> None:
    wrong = []
    for what, way, moment in sample(scene, MOMENTS):
        verdict = judge(scene, what, way, moment)
        if way == "thread" and verdict is not None and verdict.wrong:
            verdict = judge(scene, what, way, moment)  # a thread that was held up comes in later
        if verdict is not None and verdict.wrong:
            again = f"--scene {scene.name} --what '{what}' --way {way} --moment {moment.number}"
            wrong.append(f"{verdict.moment.place}: {verdict.wrong}; {again}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("scene", SCENES.values(), ids=lambda scene: scene.name)
def test_the_judge_finds_nothing_wrong_with_what_comes_in_between_two_calls(scene: Any) -> None:
    for what, way, moment in sample(scene, scaled(20, least=6)):
        if what != "interrupt" and what not in ANSWERS:
            verdict = judge(scene, what, way, moment, put_off=True)
            assert verdict is None or not verdict.wrong, (what, way, verdict)


# ------------------------------------------------------------------------ from another thread

FREES: dict[str, Callable[[Throttle, Lease], object]] = {
    "lease.release": lambda throttle, lease: lease.release(),
    "lease.ended": lambda throttle, lease: lease.ended(),
    "release": lambda throttle, lease: throttle.release(),
    "settle": lambda throttle, lease: lease.settle(0),
    "resume": lambda throttle, lease: throttle.resume(),
    "close": lambda throttle, lease: throttle.close(),
    "capacity": lambda throttle, lease: setattr(throttle, "capacity", 1e9),
    "period": lambda throttle, lease: setattr(throttle, "period", 1e-6),
    "concurrency": lambda throttle, lease: setattr(throttle, "concurrency", 2),
}
"""What lets somebody go who waits for that very thing."""


@pytest.mark.virtual_time(False)
@pytest.mark.parametrize("what", FREES)
async def test_a_call_from_another_thread_is_done_while_the_loop_sleeps(what: str) -> None:
    # The garbage collector runs finalizers in whichever thread allocates. The loop sleeps until
    # its next timer, an hour away: who goes on earlier was woken.
    slots = what in ("lease.release", "release", "concurrency")
    throttle = Throttle(math.inf if slots else 1, int(slots), 3600)
    if what == "lease.ended":
        throttle = Throttle(1e9, 0, 1, burst=1, counts="end")
    lease = await throttle.lease(1)
    if what == "resume":
        throttle.capacity = 1e9
        throttle.pause(3600)
    waiter = asyncio.create_task(throttle.acquire())
    await asyncio.sleep(0.01)
    assert not waiter.done()
    woken = threading.Event()
    waiter.add_done_callback(lambda task: woken.set())
    noticed = []

    def another_thread() -> None:
        FREES[what](throttle, lease)
        noticed.append(woken.wait(2))  # far less than the loop would sleep
        loop.call_soon_threadsafe(over.set)

    loop, over = asyncio.get_running_loop(), asyncio.Event()
    thread = threading.Timer(0.05, another_thread)  # the loop is asleep by then
    thread.start()
    await over.wait()
    thread.join()
    (outcome,) = await asyncio.gather(waiter, return_exceptions=True)
    assert noticed == [True]
    assert isinstance(outcome, ThrottleClosed) if what == "close" else outcome is True


# --------------------------------------------------------------------------- while it sleeps


def _lacks_a_slot() -> Any:
    return threads.Throttle(math.inf, 1)


def _lacks_a_token() -> Any:
    return threads.Throttle(1, 2, 3600)


def _set_lacks_a_slot() -> Any:
    return LimitSet(threads.Throttle(1e6, 1), threads.Throttle(1e6, 2))


@pytest.mark.parametrize("make", [_lacks_a_slot, _lacks_a_token, _set_lacks_a_slot])
def test_a_thread_that_is_interrupted_in_its_sleep_never_asked(make: Callable[[], Any]) -> None:
    limiter = make()

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with limiter:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt), limiter:
                pytest.fail("nobody lets it in")
            assert limiter.waiting == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    throttles = [limiter[key] for key in limiter] if isinstance(limiter, LimitSet) else [limiter]
    assert not [throttle for throttle in throttles if throttle.active]


# ------------------------------------------------------------- answers are as of the last event


class Asking(TokenBucket):
    """A rule that asks the throttle *of* as it takes, and raises if it *fails*."""

    __slots__ = ()
    of: ClassVar[Throttle]
    fails: ClassVar[bool]
    answers: ClassVar[list[object]]

    def take(self, now: int, weight: int) -> int | None:
        throttle = self.of
        self.answers.append((throttle.level, throttle.active, throttle.waiting, throttle.delay()))
        self.answers.append(repr(throttle).split("[")[1])
        if self.fails:
            raise Alarm
        return super().take(now, weight)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("queued", [False, True])
async def test_a_question_in_the_middle_of_a_grant_finds_nothing_taken(
    queued: bool, fails: bool
) -> None:
    throttle, asking = Throttle(8, 3), Throttle(8, 1, algorithm=Asking)
    both = LimitSet(throttle, asking)
    Asking.of, Asking.answers, Asking.fails = throttle, [], False
    if queued:
        await asking.acquire()
        Asking.answers.clear()
    Asking.fails = fails
    entry = asyncio.ensure_future(both().__aenter__())
    await asyncio.sleep(0)
    if queued:
        asking.release()
    await asyncio.gather(entry, return_exceptions=True)
    state = "locked" if queued else "unlocked"
    seen = (
        f"{state}, capacity:8/1s, burst:8, TokenBucket, tokens:8, slots:3/3, waiters:{queued:d}]>"
    )
    assert Asking.answers == [(8, 0, queued, 0), seen]
    assert (throttle.level, throttle.active) == ((8, 0) if fails else (7, 1))


class AskingSet(TokenBucket):
    """A rule that asks the set *of* as it takes."""

    __slots__ = ()
    of: ClassVar[LimitSet]
    answers: ClassVar[list[object]]

    def take(self, now: int, weight: int) -> int | None:
        delay = self.of.delay()
        self.answers.append((float(delay), delay.limit))
        return super().take(now, weight)


@pytest.mark.parametrize("slots", [0, 1])
async def test_a_set_asked_in_the_middle_of_a_grant_counts_its_callers(slots: int) -> None:
    AskingSet.answers = []
    asking = Throttle(1000, algorithm=AskingSet)
    api = AskingSet.of = LimitSet(tokens=Throttle(10, slots, burst=1), asking=asking)
    tasks = [asyncio.ensure_future(api().__aenter__()) for _ in range(3)]
    await asyncio.sleep(0.15)
    if slots:  # which are held: the others wait
        asking.charge(1)
    assert AskingSet.answers == [(0, None), (0.2, "tokens")]
    for task in tasks:
        task.cancel()


async def test_a_question_from_within_knows_of_entries_that_took_a_shortcut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle = Throttle(10, 4, burst=8)
    await asyncio.sleep(60)
    answers: list[object] = []
    tick = Clock.tick

    def ask(clock: Clock) -> int:
        answers.append((throttle.level, repr(throttle).split("[")[1]))
        return tick(clock)

    async with throttle:
        monkeypatch.setattr(Clock, "tick", ask)
        throttle.charge(1)
        monkeypatch.undo()
    assert answers == [
        (7, "unlocked, capacity:10/1s, burst:8, TokenBucket, tokens:7, slots:3/4, waiters:0]>")
    ]


# ------------------------------------- a handler may raise any exception, such as TimeoutError


class Alarm(Exception):
    """Raised by a signal handler."""


async def test_an_exception_in_the_middle_of_a_grant_that_a_release_finds_due_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = 0.0
    throttle = Throttle(1, 2, timer=lambda: reading)
    await throttle.acquire()
    waiting = asyncio.ensure_future(throttle.consume())
    await asyncio.sleep(0)

    def ring(queue: Queue, lane: Lane) -> None:
        monkeypatch.undo()
        raise Alarm

    monkeypatch.setattr(Queue, "_sweep_busy", ring)
    reading = 1.0
    with pytest.raises(Alarm):
        throttle.release()
    find(core_of(throttle)).check()
    await asyncio.wait_for(waiting, 1)
    assert throttle.active == 0


async def test_an_exception_in_the_middle_of_what_was_noted_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle = Throttle(1)
    scheduler = find(core_of(throttle))
    unraised: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)
    reopen = Lane.reopen

    def ring(lane: Lane) -> None:
        monkeypatch.setattr(Lane, "reopen", reopen)
        raise Alarm

    monkeypatch.setattr(Lane, "reopen", ring)
    scheduler.do(lambda now: throttle.pause(1))
    scheduler.check()
    assert len(unraised) == 1


# -------------------------------------------------------------------------- loops in a try

ROOT = Path(async_throttle.__file__).parent
UNDOES = [*ROOT.glob("_engine/*.py"), *ROOT.glob("_shell/*.py"), *ROOT.glob("limits/*.py")]


@pytest.mark.parametrize("path", [*UNDOES, ROOT / "keyed.py"], ids=lambda path: path.stem)
def test_no_loop_turns_where_an_interrupt_must_be_caught(path: Path) -> None:
    # From CPython 3.12 on, what is raised as a loop goes back to its start passes by the handlers
    # of a try (and the end of a with) around the loop, in the same function.
    loops = [
        loop.lineno
        for block in ast.walk(ast.parse(path.read_text()))
        if isinstance(block, ast.With) or (isinstance(block, ast.Try) and _undoes(block))
        for statement in block.body
        for loop in ast.walk(statement)
        if isinstance(loop, ast.For | ast.While)
    ]
    assert not loops


def _undoes(block: ast.Try) -> bool:
    caught = [handler.type for handler in block.handlers]
    return bool(block.finalbody) or any(
        kind is None or ast.unparse(kind) == "BaseException" for kind in caught
    )


# ------------------------------------------------------------------------------- every member

NOTED = "checks its arguments at once, is done when the outer call is through"
BEFORE = "answers from the state before the outer call"
REFUSES = "raises RuntimeError if it would have to wait in the thread that it interrupted"
ASKS = "asks the store, or nobody where a call is at work"
LATER = "a coroutine, or what makes one: goes through the queue when the loop runs it"
PURE = "touches nothing that changes during a call"
BOTH = f"getter: {BEFORE}; setter: {NOTED}"
SINGLE = dict.fromkeys(("__copy__", "__deepcopy__", "__reduce_ex__"), PURE)

THROTTLE = {
    **SINGLE,
    **dict.fromkeys(("charge", "close", "pause", "release", "resume", "sync"), NOTED),
    **dict.fromkeys(("burst", "capacity", "concurrency", "period"), BOTH),
    **dict.fromkeys(("active", "delay", "guarantee", "level", "locked", "paused_for"), BEFORE),
    **dict.fromkeys(("statistics", "try_acquire", "try_consume", "waiting"), BEFORE),
    "__repr__": BEFORE,
    **dict.fromkeys(("adapt", "algorithm", "max_waiting", "name", "__call__", "__init__"), PURE),
    "store": PURE,
}
ASYNC = {"__aenter__": LATER, "__aexit__": NOTED}
SYNC = {"__enter__": REFUSES, "__exit__": NOTED}
TELLS = dict.fromkeys(("dropped", "ended", "ignore", "ok", "release", "settle"), NOTED)
LEASE = {
    **SINGLE,
    **TELLS,
    **ASYNC,
    **dict.fromkeys(("throttle", "serial", "waited", "weight", "__call__"), PURE),
    "__repr__": BEFORE,
}

SETS = {
    **SINGLE,
    **ASYNC,
    **SYNC,
    **dict.fromkeys(("pause", "resume", "close"), NOTED),
    **dict.fromkeys(("delay", "locked", "paused_for", "waiting", "level", "active"), BEFORE),
    **dict.fromkeys(("capacity", "guarantee", "statistics"), BEFORE),
    **dict.fromkeys(("try_acquire", "try_consume", "__repr__"), BEFORE),
    "acquire": REFUSES,
    **dict.fromkeys(("consume", "drain", "lease"), f"in a loop: {LATER}; else {REFUSES}"),
}

ROWS: dict[type, dict[str, str]] = {
    Throttle: {
        **THROTTLE,
        **ASYNC,
        **dict.fromkeys(("acquire", "consume", "drain", "lease", "refresh"), LATER),
    },
    threads.Throttle: {
        **THROTTLE,
        **ASYNC,
        **SYNC,
        **dict.fromkeys(("acquire", "consume", "drain", "lease"), REFUSES),
        **dict.fromkeys(("acquire_async", "consume_async", "drain_async", "lease_async"), LATER),
        "refresh": ASKS,
    },
    Lease: LEASE,
    threads.Lease: {**LEASE, **SYNC},
    LimitSet: {
        **SETS,
        **dict.fromkeys(("charge", "sync"), NOTED),
        **dict.fromkeys(("config", "keys", "max_waiting"), PURE),
        **dict.fromkeys(("__call__", "__contains__", "__getitem__", "__init__"), PURE),
        **dict.fromkeys(("__iter__", "__len__"), PURE),
    },
    LimitSetAcquisition: {
        **SINGLE,
        **TELLS,
        **ASYNC,
        **SYNC,
        "__await__": LATER,
        "__repr__": BEFORE,
        **dict.fromkeys(("config", "limit_set", "successful", "waited", "waited_for"), PURE),
        **dict.fromkeys(("serial", "weights", "__bool__", "__call__"), PURE),
    },
    LimitPool: {
        **SETS,
        **dict.fromkeys(("charge", "sync"), PURE),
        **dict.fromkeys(("limit_sets", "load_balancing", "worker_index"), PURE),
        **dict.fromkeys(("__call__", "__getitem__", "__init__", "__iter__", "__len__"), PURE),
    },
}

ROWS |= {
    limits.LimitSet: {
        **ROWS[LimitSet],
        "async_acquire": LATER,
        "get_stats": BEFORE,
        **dict.fromkeys(("limits", "mode", "shared"), PURE),
    },
    limits.LimitSetAcquisition: {
        **ROWS[LimitSetAcquisition],
        "acquisitions": BEFORE,
        "update": NOTED,
    },
    limits.LimitPool: {**ROWS[LimitPool], "async_acquire": LATER, "get_stats": BEFORE},
}


def members(cls: type) -> set[str]:
    """What users may say: public names, and the special methods that the package defines."""
    found = set()
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            special = name.startswith("__") and callable(value)
            if not name.startswith("_") or (special and name not in MACHINERY):
                found.add(name)
    return found


MACHINERY = {"__init_subclass__", "__class_getitem__", "__subclasshook__"}


@pytest.mark.parametrize("cls", ROWS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_public_member_says_what_it_does_when_it_comes_in(cls: type) -> None:
    assert members(cls) == ROWS[cls].keys()


def test_what_is_noted_or_answers_comes_in_in_the_scenes() -> None:
    tried = {what.partition(" ")[0] for what in WHATS}
    promised = {name for name, row in THROTTLE.items() if row in (NOTED, BEFORE, BOTH)}
    # `guarantee` answers from the settings alone.
    assert promised - {"guarantee", "__repr__"} <= tried
