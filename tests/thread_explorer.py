"""The schedule explorer for threads: small scenarios, in every order in which threads could run.

Real threads, of which one runs at a time. Wherever it asks for a lock, and wherever it is to
sleep, the stage decides who goes on: the locks of the library are replaced by ones that ask it.
The clock is virtual: it moves only where everybody waits, to the first instant at which somebody
gives up waiting; or, if the scenario may be *late*, also while somebody could go on, as it does
where a machine is busy. If everybody waits and nobody ever gives up, a wake-up was lost, and the
explorer says so. Event loops are threads like others: theirs wait by such a lock, too.

- `explore` plays a scenario in all schedules, or in all in which at most so many *switches* take
  place that nothing asked for. The search is depth first and stateless, as in `explorer`: what it
  says about a scenario is proved and not sampled, where all shared state is guarded by locks.
- `sample` plays it in random schedules, and may switch at any line of the library as well: that
  shows what is shared without a lock.

A failure tells its schedule, and what happened in it. `play` plays that one again.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import math
import os
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, cast
from unittest import mock

from explorer import DEEP, SECOND, Broken, SearchCut
from scenes import (
    SHARED,
    SLOT,
    Charge,
    Close,
    Drain,
    HoldUp,
    Part,
    Rate,
    Slots,
    Visit,
    Wait,
    rate,
)
from support import check

import async_throttle
from async_throttle import (
    CallLimit,
    LimitPool,
    LimitSet,
    RateLimit,
    RateLimitAlgorithm,
    ResourceLimit,
    ResourceLimitError,
    Throttles,
    keyed,
    limits,
    threads,
)
from async_throttle._base import core_of
from async_throttle._engine.lane import GRANTED
from async_throttle._engine.queue import Queue
from async_throttle._shell import fast, scheduler, thread
from async_throttle._shell.scheduler import find
from async_throttle._shell.thread import ThreadScheduler
from async_throttle._units import NEVER
from async_throttle.testing import READ_THE_CLOCK

LIBRARY: Final = str(Path(async_throttle.__file__).parent)
"""In these files `sample` may switch at any line; but for those of `fast`, where CPython with its
global lock does not switch, and which others do not run."""

MOST_TOLD: Final = 60
"""The last steps of a schedule that a failure tells."""

Scenario = Callable[["Stage"], Callable[[], object] | None]
"""Gives the stage its threads; what it returns is called when all have ended."""


class Abandoned(KeyboardInterrupt):
    """The schedule is broken: every thread is to unwind."""


class Actor:
    """A thread of the stage.

    Attributes:
        wants: the lock that it asks for; None if it only sleeps.
        until: the instant at which it gives up asking, or has slept enough.
        startled: it is to be interrupted where it sleeps, now or next.
        awake: it has just been woken or started, and done nothing since.
        drives: it runs an event loop.
    """

    def __init__(self, name: str, run: Callable[[], object], *, drives: bool = False) -> None:
        self.name = name
        self.run = run
        self.wants: Lock | Bell | None = None
        self.until = 0
        self.startled = False
        self.awake = True
        self.over = False
        self.drives = drives
        self.go = threading.Lock()  # released when it is its turn
        self.go.acquire()
        self.thread: threading.Thread | None = None

    def ready(self, now: int) -> bool:
        """Whether it could go on."""
        if self.over:
            return False
        if self.until <= now or (self.wants is not None and self.wants.free):
            return True
        return self.startled and isinstance(self.wants, Bell)

    def __str__(self) -> str:
        what = "sleeps" if self.wants is None else f"wants {self.wants}"
        return f"{self.name} {what}" + (f" until {self.until:,}" if self.until < NEVER else "")


class Lock:
    """A lock that its holder may take again. Whoever wants it, asks the stage."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name
        self._holder: Actor | None = None
        self._depth = 0

    @property
    def free(self) -> bool:
        return self._depth == 0

    def acquire(self, blocking: bool = True) -> bool:
        me = self._stage.running
        if not self.free and self._holder is me:
            pass
        elif blocking:
            if not self.free or me is None or not me.awake:
                self._stage.wait(self, NEVER)
            assert self.free or self._stage.broken
            if me is not None:
                me.awake = False
        elif not self.free:  # whoever only tries is not stopped: others had their turn before
            return False
        self._holder = me
        self._depth += 1
        return True

    def release(self) -> None:
        assert self._depth, "released, and nobody held it"
        assert self._holder is self._stage.running, "released by another thread"
        self._depth -= 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __str__(self) -> str:
        return self._name


class Bell:
    """A lock that its owner sleeps by until another thread releases it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.free = True

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert blocking
        assert timeout >= 0 or timeout == -1, "refused by real locks"
        stage = self._stage
        me = stage.running
        if not self.free:
            stage.wait(self, NEVER if timeout < 0 else stage.now + round(timeout * SECOND))
            if me is not None:
                me.awake = True
                if me.startled:
                    me.startled = False
                    raise KeyboardInterrupt
        rang, self.free = self.free, False
        return rang

    def release(self) -> None:
        assert not self.free, "refused by real locks"
        self.free = True

    def locked(self) -> bool:
        return not self.free

    def __str__(self) -> str:
        return "to be woken"


class Loop(asyncio.BaseEventLoop):
    """An event loop that sleeps as the threads of a stage do."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._bell = Bell(stage)
        self._bell.acquire()
        self._selector = self  # what asyncio sleeps by
        self._clock_resolution = 1e-9
        self.complaints: list[str] = []

    def time(self) -> float:
        return self._stage.now / SECOND

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            self._bell.acquire()
        elif timeout > 0:
            self._bell.acquire(timeout=timeout)
        return []

    def _write_to_self(self) -> None:
        if self._bell.locked():
            self._bell.release()

    def _process_events(self, event_list: object) -> None:
        """There are no files."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")


class Stage:
    """Where a scenario is played.

    Attributes:
        now: the clock.
        running: whose turn it is.
        began: the calls that began, in order: the instant in seconds, and who it was.
        refused: when an `attempt` was in vain, in seconds.
        broken: what went wrong.
        plot: who stopped where: the instant, the name, what it wanted, and until when.
    """

    def __init__(
        self,
        choose: Callable[[int], int],
        *,
        switches: float = math.inf,
        late: int = 0,
        at_lines: Callable[[], bool] | None = None,
    ) -> None:
        self.now = 0
        self.running: Actor | None = None
        self.began: list[tuple[float, str]] = []
        self.refused: list[float] = []
        self.broken: BaseException | None = None
        self.plot: list[tuple[int, str, str, int]] = []
        self._choose = choose
        self._switches = switches
        self._late = late
        self._at_lines = at_lines
        self._actors: list[Actor] = []
        self._throttles: dict[threads.Throttle, int] = {}  # and how many slots they had
        self._held: Counter[threads.Throttle] = Counter()
        self._granted: dict[object, list[int]] = defaultdict(list)
        self._names = itertools.count(1)
        self._over = threading.Lock()
        self._over.acquire()

    # -- for scenarios ------------------------------------------------------------------

    def throttle(self, *args: Any, **kwargs: Any) -> threads.Throttle:
        """A throttle that is watched."""
        throttle = threads.Throttle(*args, **kwargs)
        self._throttles[throttle] = core_of(throttle).slots.limit
        return throttle

    def thread(self, name: str, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Let *function* run in a thread."""
        self._add(Actor(name, functools.partial(function, *args, **kwargs)))

    def crew(self, names: str, function: Callable[..., object], *args: Any, **how: Any) -> None:
        """Let it run in several."""
        for name in names:
            self.thread(name, function, *args, **how)

    def loop(self, name: str, main: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        """Let the coroutine function *main* run in a thread with an event loop."""

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: Loop(self)) as runner:
                loop = runner.get_loop()
                runner.run(main(*args))
            assert isinstance(loop, Loop)
            assert not loop.complaints, loop.complaints

        self._add(Actor(name, run, drives=True))

    def _add(self, actor: Actor) -> None:
        actor.thread = threading.Thread(target=self._act, args=[actor])
        self._actors.append(actor)
        if self.running is not None:
            actor.thread.start()

    def interrupt(self, name: str) -> None:
        """Raise KeyboardInterrupt in a thread, where it sleeps now or next."""
        next(actor for actor in self._actors if actor.name == name).startled = True

    def sleep(self, seconds: float) -> None:
        """Hold up the whole thread."""
        self.wait(None, self.now + round(seconds * SECOND))
        if self.running is not None:
            self.running.awake = True

    @contextmanager
    def inside(self, *throttles: threads.Throttle, name: str = "") -> Iterator[None]:
        """The body of a call that holds a slot of each."""
        assert self.running is not None
        self.began.append((self.now / SECOND, name or self.running.name))
        self._held.update(throttles)
        for throttle in throttles:
            # Who was granted before the last change may enter after it.
            most = max(core_of(throttle).slots.limit, self._throttles.get(throttle, 0))
            assert self._held[throttle] <= most, f"more than {most} inside"
        try:
            yield
        finally:
            self._held.subtract(throttles)

    def visit(
        self, throttle: threads.Throttle, weight: float = 1, lasts: float = 0, **how: Any
    ) -> None:
        """A call by a thread, that takes *lasts* seconds."""
        with throttle(weight, **how), self.inside(throttle):
            if lasts:
                self.sleep(lasts)

    async def stop_by(
        self, throttle: threads.Throttle, weight: float = 1, lasts: float = 0, **how: Any
    ) -> None:
        """The same by a task."""
        async with throttle(weight, **how):
            with self.inside(throttle):
                if lasts:
                    await asyncio.sleep(lasts)

    def attempt(self, visit: Callable[..., object], *args: Any, **how: Any) -> None:
        """A call that may be refused or interrupted, which is noted."""
        try:
            visit(*args, **how)
        except (ResourceLimitError, KeyboardInterrupt):
            self.refused.append(self.now / SECOND)

    def act(self, throttle: threads.Throttle, part: Part) -> None:
        """What one does in a scene that tasks play as well."""
        for step in part:
            match step:
                case Visit(1, hold, None, "block"):
                    with throttle, self.inside(throttle):
                        self.sleep(hold)
                case Visit(weight, hold, timeout, "block"):
                    self.visit(throttle, weight, hold, timeout=timeout)
                case Visit(form="acquire"):
                    throttle.acquire()
                    with self.inside(throttle):
                        pass
                    throttle.release()
                case Visit(weight):
                    throttle.consume(weight)
                    with self.inside():
                        pass
                case Wait(seconds):
                    self.sleep(seconds)
                case HoldUp(seconds, until, empty):
                    throttle.pause(seconds, empty=empty)
                    self.sleep(until)
                    throttle.resume()
                case Slots(number):
                    throttle.concurrency = number
                    self._throttles[throttle] = max(self._throttles[throttle], number)
                case Rate(capacity, burst):
                    throttle.capacity, throttle.burst = capacity, burst
                case Charge(weight):
                    throttle.charge(weight)
                case Close(drop_waiting):
                    throttle.close(drop_waiting=drop_waiting)
                case Drain():
                    throttle.drain()

    def later(self, seconds: float, action: Callable[..., object], *args: Any) -> None:
        """Have a thread do something after some time."""

        def wait_and_act() -> None:
            self.sleep(seconds)
            action(*args)

        self.thread(f"{action.__name__} at {seconds:g} s", wait_and_act)

    @property
    def instants(self) -> list[float]:
        """When the calls began, in seconds."""
        return sorted(instant for instant, _ in self.began)

    # -- who goes on --------------------------------------------------------------------

    def wait(self, lock: Lock | Bell | None, until: int) -> None:
        """Whoever runs wants *lock*, or gives up at *until*; returns when it is its turn."""
        me = self.running
        if self.broken is not None:
            if not isinstance(lock, Lock):
                raise Abandoned
        elif me is not None:
            me.wants, me.until = lock, until
            what = "sleeps" if lock is None else f"wants {lock}"
            self.plot.append((self.now, me.name, what, until))
            self._hand_over(me)
            me.wants, me.until = None, 0

    def _hand_over(self, me: Actor) -> None:
        chosen = self._next(me)
        if chosen is me:
            return
        self.running = chosen
        (self._over if chosen is None else chosen.go).release()
        if not me.over:
            me.go.acquire()
            if self.broken is not None:
                raise Abandoned

    def _next(self, me: Actor) -> Actor | None:
        """Who goes on; None if the play is over."""
        at_lines, self._at_lines = self._at_lines, None  # nobody goes on meanwhile
        try:
            return self._chosen(me)
        finally:
            self._at_lines = at_lines

    def _chosen(self, me: Actor) -> Actor | None:
        while self.broken is None:
            ready = [actor for actor in self._actors if actor.ready(self.now)]
            wakes = min(
                (a.until for a in self._actors if not a.over and a.until > self.now),
                default=NEVER,
            )
            self._check()
            if not ready:
                if all(actor.over for actor in self._actors):
                    return None
                self._look(wakes)
                self.now = wakes
                continue
            if me in ready:
                ready.remove(me)
                if not self._switches:
                    ready.clear()
                ready.insert(0, me)
            options = len(ready) + (self._late > 0 and wakes < NEVER)
            choice = self._choose(options) if options > 1 else 0
            if choice == len(ready):
                self._late -= 1
                self.now = wakes
                continue
            if choice > 0 and ready[0] is me:
                self._switches -= 1
            return ready[choice]
        return None

    def _look(self, wakes: int) -> None:
        """Everybody waits until *wakes*: nobody is due before."""
        if wakes >= NEVER:
            self._break("nobody will ever wake")
        if any(actor.drives and actor.wants is None for actor in self._actors):
            return  # a loop is held up: it may be late for its own callers
        for throttle in self._throttles:
            queue = find(core_of(throttle)).queue
            if (
                find(core_of(throttle)).clock.timer is None
                and queue.waiting
                and queue.due_at < wakes
            ):
                self._break(f"due at {queue.due_at:,}, and nobody wakes before {wakes:,}")

    def _check(self) -> None:
        """Where nobody is inside the door, its scheduler is as it ought to be."""
        for throttle in self._throttles:
            scheduler = find(core_of(throttle))
            if cast(Any, scheduler).lock.free:
                try:
                    check(throttle)
                except AssertionError as error:
                    self._break(error)

    def _break(self, problem: str | BaseException) -> None:
        if self.broken is None:
            if isinstance(problem, str):
                waiting = ", ".join(str(actor) for actor in self._actors if not actor.over)
                problem = AssertionError(f"{problem}: {waiting}")
            self.broken = problem

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(LIBRARY) or name == fast.__file__:
            return None
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        me, at_lines = self.running, self._at_lines
        if event == "line" and me and self.broken is None and at_lines and at_lines():
            where = f"stops before {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            self.plot.append((self.now, me.name, where, NEVER))
            me.until = self.now
            self._hand_over(me)
            me.until = 0
        return self._trace_line

    # -- the play -----------------------------------------------------------------------

    def perform(self, scenario: Scenario) -> None:
        """Play *scenario*.

        Raises:
            AssertionError: it does not go as it should.
        """
        with self._scenery(), _no_collector(), _one_core():
            check = scenario(self)
            for actor in self._actors:
                assert actor.thread is not None
                actor.thread.start()
            first = self.running = self._next(Actor("", int))
            assert first is not None, "a scenario has threads"
            first.go.release()
            self._over.acquire()
            for actor in self._actors:
                assert actor.thread is not None
                if not actor.over:  # only if something is broken: one by one they unwind
                    self.running = actor
                    actor.go.release()
                actor.thread.join()
            self.running = None
            if self.broken is not None:
                raise self.broken
            for line, orders in self._granted.items():
                assert orders == sorted(orders), f"somebody was overtaken in {line!r}"
            if check is not None:
                check()
            for throttle in self._throttles:
                _check_rest(throttle)

    def _act(self, actor: Actor) -> None:
        actor.go.acquire()
        if self._at_lines is not None:
            sys.settrace(self._trace)
        try:
            if self.broken is None:
                actor.run()
        except Abandoned:
            pass
        except BaseException as error:
            self._break(error)
        sys.settrace(None)
        unwound = self.broken is not None and self._over.locked() is False
        actor.over = True
        if not unwound:
            self._hand_over(actor)

    @contextmanager
    def _scenery(self) -> Iterator[None]:
        """Let the library have the stage's clock and locks."""

        def lock() -> Lock:
            return Lock(self, f"lock {next(self._names)}")

        def clock() -> int:
            return self.now

        advance = Queue.advance

        def noted(queue: Queue, now: int, *, final: bool = True) -> None:
            decided = len(queue.decided)
            advance(queue, now, final=final)
            for waiter in list(queue.decided)[decided:]:
                if waiter.state is GRANTED:
                    self._granted[waiter.lane].append(waiter.order)

        locks = SimpleNamespace(
            Lock=lambda: Bell(self),
            RLock=lock,
            TIMEOUT_MAX=threading.TIMEOUT_MAX,
            get_ident=threading.get_ident,
        )
        with ExitStack() as stack:
            for module in READ_THE_CLOCK:
                stack.enter_context(mock.patch.object(module, "monotonic_ns", clock))
            for module in (thread, scheduler, keyed):
                stack.enter_context(mock.patch.object(module, "threading", locks))
            stack.enter_context(mock.patch.object(scheduler, "_merging", Lock(self, "_merging")))
            stack.enter_context(mock.patch.object(Queue, "advance", noted))
            yield


@contextmanager
def _no_collector() -> Iterator[None]:
    """What was left behind in another play is not finalized in a thread of this one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _one_core() -> Iterator[None]:
    """Only one thread runs at a time: handing over is twice as fast within one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _check_rest(throttle: threads.Throttle) -> None:
    """Nobody holds or waits, and nothing is left of those who did."""
    scheduler = find(core_of(throttle))
    assert isinstance(scheduler, ThreadScheduler)
    assert (throttle.active, throttle.waiting) == (0, 0)
    assert not scheduler.queue.waiting
    assert not scheduler.handed_over
    assert not scheduler.drainers
    assert not scheduler.sleepers
    assert not scheduler.loops
    assert scheduler.leader is None


# ----------------------------------------------------------------------------------- searching


def explore(
    scenario: Scenario, *, switches: float = math.inf, late: int = 0, most: int = 20_000
) -> int:
    """Play *scenario* in every schedule, and return how many that were.

    Args:
        switches: how often another thread may go on though the one that runs could.
        late: how often the clock may go on though a thread could.
        most: schedules; more are not played.

    Raises:
        Broken: with the schedule.
        SearchCut: there are more than *most*.
    """
    path: list[tuple[int, int]] = []
    for played in itertools.count(1):
        schedule = iter([choice for choice, _ in path])
        path.clear()

        def choose(options: int, schedule: Iterator[int] = schedule) -> int:
            choice = next(schedule, 0)
            assert choice < options, "the scenario depends on something besides the schedule"
            path.append((choice, options))
            return choice

        _perform(scenario, Stage(choose, switches=switches, late=late), path)
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return played
        path[-1] = (path[-1][0] + 1, path[-1][1])
        if played == most:
            raise SearchCut(f"{scenario.__name__}: more than {most} schedules")
    raise AssertionError


def sample(scenario: Scenario, seeds: Iterable[int], *, late: int = 0, lines: float = 0) -> None:
    """Play *scenario* in random schedules, one for each of *seeds*.

    Args:
        late: how often the clock may go on though a thread could.
        lines: the probability of a switch at a line of the library.

    Raises:
        Broken: with the seed.
    """
    for seed in seeds:
        dice = random.Random(seed)
        at_lines = (lambda dice=dice: dice.random() < lines) if lines else None
        _perform(scenario, Stage(dice.randrange, late=late, at_lines=at_lines), seed)


def play(scenario: Scenario, schedule: Sequence[int], **bounds: Any) -> None:
    """Play *scenario* in the *schedule* of a failure of `explore`."""
    choices = iter(schedule)
    _perform(scenario, Stage(lambda options: next(choices, 0), **bounds), list(schedule))


def staged(test: Callable[..., object]) -> Callable[..., None]:
    """*test*, whose first argument is a stage, runs in a thread of it. Threads that it adds run
    whenever it waits."""

    @functools.wraps(test)
    def in_virtual_time(**kwargs: Any) -> None:
        play(lambda stage: stage.thread("test", lambda: test(stage, **kwargs)), [])

    parameters = list(inspect.signature(test).parameters.values())[1:]
    in_virtual_time.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return in_virtual_time


def _perform(scenario: Scenario, stage: Stage, schedule: Any) -> None:
    try:
        stage.perform(scenario)
    except Exception as error:
        if isinstance(schedule, list):
            schedule = [step if isinstance(step, int) else step[0] for step in schedule]
        plot = "\n".join(
            f"  {now / SECOND:g} s: {name} {what}"
            + (f" until {until / SECOND:g} s" if until < NEVER else "")
            for now, name, what, until in stage.plot[-MOST_TOLD:]
        )
        message = f"{scenario.__name__}: {error!r}\nin schedule {schedule}:\n{plot}"
        raise Broken(message, str(schedule)) from error


# ---------------------------------------------------------------------------------- scenarios


@dataclass(frozen=True)
class Scene:
    """A scenario, and the bounds within which it is explored."""

    scenario: Scenario
    switches: float
    late: int

    def explore(self) -> int:
        """See `explore`. With ``HYPOTHESIS_PROFILE=deep`` the bounds are wider."""
        more = 1 if DEEP else 0
        most = 1_000_000 if DEEP else 20_000
        return explore(self.scenario, switches=self.switches + more, late=self.late, most=most)


SCENES: Final[dict[str, Scene]] = {}


def scene(*, switches: float = 1, late: int = 0) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        SCENES[scenario.__name__] = Scene(scenario, switches, late)
        return scenario

    return register


def shared(name: str) -> Scenario:
    """A scene that tasks play as well."""
    told = SHARED[name]

    def scenario(stage: Stage) -> Any:
        def act(part: Part) -> None:
            with suppress(*told.may_raise):
                stage.act(throttle, part)

        def check() -> None:
            assert told.began is None or tuple(stage.instants) in told.began, stage.began

        throttle = stage.throttle(**told.throttle)
        for name, part in zip("ABC", told.parts, strict=False):
            stage.thread(name, act, part)
        return check

    scenario.__name__ = name
    return scenario


for _name, _told in SHARED.items():
    scene(switches=_told.switches)(shared(_name))


def began(stage: Stage, *instants: float, refused: Sequence[float] = ()) -> Callable[[], None]:
    """That calls began at these instants, others were refused at those, and none besides."""

    def check() -> None:
        assert (stage.instants, stage.refused) == (list(instants), list(refused)), stage.began

    return check


def began_like(stage: Stage, *possible: Sequence[float]) -> Callable[[], None]:
    """That calls began in one of several ways."""

    def check() -> None:
        assert tuple(stage.instants) in possible, stage.began

    return check


def taken(stage: Stage, until: float, *args: Any, **kwargs: Any) -> threads.Throttle:
    """A throttle of which somebody holds a slot until that instant."""
    throttle = stage.throttle(*args, **kwargs)
    throttle.acquire()
    stage.later(until, throttle.release)
    return throttle


def crowd(
    name: str,
    throttle: dict[str, Any],
    *expected: float,
    crew: str = "AB",
    weight: float = 1,
    lasts: float = 7,
    then: Callable[[threads.Throttle], object] = lambda throttle: None,
    at: float = 0.5,
    **bounds: Any,
) -> None:
    """A scene in which threads come at once, and one does something to the throttle *then*."""

    def scenario(stage: Stage) -> Callable[[], None]:
        limiter = stage.throttle(**throttle)
        stage.crew(crew, stage.visit, limiter, weight, lasts)
        stage.later(at, then, limiter) if at else then(limiter)

        def check() -> None:
            if "late" in bounds:
                assert len(stage.instants) == len(expected)
                assert all(a >= b for a, b in zip(stage.instants, expected, strict=True))
            else:
                began(stage, *expected)()

        return check

    scenario.__name__ = name
    scene(**bounds)(scenario)


EMPTY: Final = rate(burst=1, initial=0)
crowd("leases", rate(2, 1, burst=2), 0, 1, 2, crew="ABC", weight=2, lasts=0, at=0)
crowd("tokens", rate(burst=1), 0, 1, 2, crew="ABC", at=0, switches=2)
crowd("tokens_and_a_busy_machine", rate(), 0, 1, 2, crew="ABC", at=0, switches=0, late=1)
crowd(
    "several_go_at_once_and_others_wait_on",
    *(rate(burst=2, initial=0), 2, 2, 3, 4),
    crew="ABCD",
    then=lambda throttle: throttle.pause(2),
    at=0,
    switches=0,
)
crowd("a_pause_while_others_wait", EMPTY, 2.5, 3.5, then=lambda throttle: throttle.pause(2))
crowd("usage_that_is_learnt_later", EMPTY, 3, 4, then=lambda throttle: throttle.charge(2))
crowd("a_faster_rate", EMPTY, 0.75, 1.25, then=lambda throttle: setattr(throttle, "capacity", 2))


@scene()
def tokens_alone(stage: Stage) -> Any:
    def consume() -> None:
        throttle.consume()
        with stage.inside():
            pass

    throttle = stage.throttle(1, 1, burst=2, initial=0)
    throttle.pause(2)
    stage.crew("AB", consume)
    stage.thread("D", stage.visit, throttle, 1, 7)
    return began(stage, 2, 2, 3)


@scene(switches=0)
def timeouts(stage: Stage) -> Any:
    throttle = taken(stage, 2, **SLOT)
    stage.crew("AB", stage.attempt, stage.visit, throttle, timeout=1)
    stage.thread("C", stage.visit, throttle)
    return began(stage, 2, refused=[1, 1])


@scene()
def a_slot_comes_at_the_deadline(stage: Stage) -> Any:
    throttle = taken(stage, 1, **SLOT)
    stage.thread("A", stage.attempt, stage.visit, throttle, timeout=1)
    stage.thread("B", stage.visit, throttle)

    def check() -> None:
        assert stage.instants + stage.refused == [1, 1]

    return check


@scene()
def a_timeout_while_others_wait_for_time(stage: Stage) -> Any:
    throttle = stage.throttle(1, 1, burst=1, initial=0)
    stage.crew("AB", stage.attempt, stage.visit, throttle, timeout=2.5)
    stage.thread("C", stage.visit, throttle, 1, 2)

    def check() -> None:
        # Who is known to come too late is told at once, the others at their time.
        assert all(at in (0, 2.5) for at in stage.refused)
        assert len(stage.refused) + len(stage.began) == 3

    return check


@scene()
def an_interrupt_of_one_who_waits(stage: Stage) -> Any:
    throttle = stage.throttle(1, burst=1)
    stage.crew("ABC", stage.attempt, stage.visit, throttle)
    stage.later(0.5, stage.interrupt, "A")
    return began_like(stage, (0, 1), (0, 1, 2))


@scene(switches=0)
def an_interrupt_at_the_instant_of_the_grant(stage: Stage) -> Any:
    throttle = taken(stage, 1, 1, 1, burst=1)
    stage.thread("A", stage.attempt, stage.visit, throttle, lasts=7)
    stage.thread("B", stage.visit, throttle)
    stage.later(1, stage.interrupt, "A")
    return began_like(stage, (1,), (1, 2), (1, 8))  # as if it had never asked


@scene()
def a_refund(stage: Stage) -> Any:
    throttle = stage.throttle(1, burst=3)
    lease = throttle.lease(3)
    stage.crew("AB", stage.visit, throttle, 3, 7)
    stage.later(1, lease.settle, 1)
    stage.later(2, lease.release)
    return began(stage, 1, 4)


@scene()
def some_who_fit_no_more(stage: Stage) -> Any:
    throttle = stage.throttle(1, burst=3, initial=0)
    stage.thread("A", stage.attempt, throttle.acquire, 3)
    stage.thread("B", stage.visit, throttle)
    stage.later(0.5, setattr, throttle, "burst", 2)
    return began(stage, 1, refused=[0.5])


@scene()
def a_close_that_drops_them(stage: Stage) -> Any:
    async def stop_by() -> None:
        try:
            await stage.stop_by(throttle)
        except ResourceLimitError:
            stage.refused.append(stage.now / SECOND)

    throttle = stage.throttle(1, burst=1, initial=0)
    stage.thread("A", stage.attempt, throttle.acquire)
    stage.loop("L", stop_by)
    stage.later(0.5, throttle.close)
    return began(stage, refused=[0.5, 0.5])


@scene()
def priorities(stage: Stage) -> Any:
    throttle = taken(stage, 1, **SLOT)
    for name, priority in zip("ABC", (1, -1, 0), strict=True):
        stage.thread(name, stage.visit, throttle, lasts=1, priority=priority)

    def check() -> None:
        assert stage.began == [(1, "B"), (2, "C"), (3, "A")]

    return check


@scene()
def a_drain(stage: Stage) -> Any:
    def drain() -> None:
        throttle.drain()
        drained.append(stage.now / SECOND)

    async def drain_too() -> None:
        await throttle.drain_async()
        drained.append(stage.now / SECOND)

    drained: list[float] = []
    throttle = taken(stage, 0.5, 1, burst=1)
    stage.thread("A", stage.visit, throttle, 1, 1)
    stage.thread("D", drain)
    stage.loop("L", drain_too)

    def check() -> None:
        assert drained == [2, 2]

    return check


@scene()
def a_kept_lease_that_threads_and_tasks_enter(stage: Stage) -> Any:
    @contextmanager
    def alone(lease: object) -> Iterator[None]:
        with stage.inside(throttle):
            assert lease not in inside, "two blocks share a lease"
            inside.add(lease)
            yield
            inside.remove(lease)

    def enter() -> None:
        with kept as lease, alone(lease):
            stage.sleep(1)

    async def enter_too() -> None:
        async with kept as lease:
            with alone(lease):
                await asyncio.sleep(1)

    inside: set[object] = set()
    throttle = stage.throttle(2, 2, burst=2)
    kept = throttle(1)
    stage.crew("AB", enter)
    stage.loop("L", enter_too)
    return began(stage, 0, 0, 1)


# --- event loops


@scene(switches=2)
def a_loop_and_a_thread(stage: Stage) -> Any:
    throttle = stage.throttle(1, 1, burst=1)
    stage.thread("A", stage.visit, throttle)
    stage.loop("L", stage.stop_by, throttle)
    return began(stage, 0, 1)


@scene()
def two_loops_and_a_thread(stage: Stage) -> Any:
    async def two() -> None:
        await asyncio.gather(stage.stop_by(throttle, 1, 7), stage.stop_by(throttle, 1, 7))

    throttle = stage.throttle(1, burst=1)
    stage.thread("A", stage.visit, throttle, 1, 7)
    stage.loop("L", two)
    stage.loop("M", stage.stop_by, throttle, 1, 7)
    return began(stage, 0, 1, 2, 3)


@scene()
def a_loop_that_is_held_up(stage: Stage) -> Any:
    async def hold_up() -> None:
        task = asyncio.create_task(throttle.acquire_async())
        await asyncio.sleep(0.5)
        stage.sleep(20)  # the whole thread
        await task
        throttle.release()

    throttle = stage.throttle(1, burst=1, initial=0)
    stage.loop("L", hold_up)
    stage.crew("AB", stage.visit, throttle, 1, 7)
    # L has its turn, and the others theirs, whether it notices or not.
    return began_like(stage, (1, 2), (1, 3), (2, 3))


def cancel_later(stage: Stage, throttle: threads.Throttle, seconds: float) -> None:
    """A task comes in a loop, and is cancelled from another thread."""

    def cancel() -> None:
        stage.sleep(seconds)
        with suppress(RuntimeError, IndexError):  # its loop was closed, or has not begun
            tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)

    async def come() -> None:
        tasks.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with suppress(asyncio.CancelledError):
            await stage.stop_by(throttle)

    tasks: list[asyncio.Task[None]] = []
    stage.loop("L", come)
    stage.thread("cancel", cancel)


@scene()
def a_task_that_is_cancelled(stage: Stage) -> Any:
    throttle = stage.throttle(1, burst=1)
    cancel_later(stage, throttle, 0.5)
    stage.crew("AB", stage.visit, throttle, 1, 7)
    return began_like(stage, (0, 1), (0, 1, 2))


@scene(switches=0)
def a_task_that_is_cancelled_as_it_is_granted(stage: Stage) -> Any:
    throttle = taken(stage, 1, **SLOT)
    cancel_later(stage, throttle, 1)
    stage.thread("A", stage.visit, throttle)
    return began_like(stage, (1,), (1, 1))


def die_later(
    stage: Stage,
    throttle: threads.Throttle,
    seconds: float,
    *,
    held_up: float = 0,
    collected: float = 0,
) -> None:
    """A task waits in a loop that runs so long, is held up, and closed; then the collector finds
    the task."""

    def run() -> None:
        loop = Loop(stage)
        task: Any = loop.create_task(stage.stop_by(throttle))
        loop.run_until_complete(asyncio.sleep(seconds))
        if held_up:
            stage.sleep(held_up)
        loop.close()
        task._log_destroy_pending = False
        if collected:
            stage.sleep(collected)
        task.get_coro().close()

    stage.thread("L", run)


@scene()
def a_loop_that_is_closed_over_its_callers(stage: Stage) -> Any:
    throttle = taken(stage, 1, **SLOT)
    die_later(stage, throttle, 0.5, collected=1)
    stage.thread("A", stage.visit, throttle)
    return began(stage, 1)


@scene()
def a_loop_that_is_closed_as_its_caller_is_granted(stage: Stage) -> Any:
    throttle = taken(stage, 1, **SLOT)
    die_later(stage, throttle, 1)
    stage.thread("A", stage.visit, throttle)
    return began_like(stage, (1,), (1, 1))


# --- several throttles


@scene()
def two_taken_together(stage: Stage) -> Any:
    def visit() -> None:
        with both(), stage.inside(one, other):
            stage.sleep(1)

    one, other = stage.throttle(math.inf, 1), stage.throttle(1, burst=1)
    both = LimitSet(one, other)
    stage.thread("A", visit)
    stage.thread("B", stage.visit, one, 1, 1)
    stage.thread("C", stage.visit, other)
    return began_like(stage, (0, 0, 1), (0, 1, 1), (0, 1, 2))


def visit_both(stage: Stage, one: threads.Throttle, other: threads.Throttle) -> None:
    """A call of a set that is made for it."""
    with LimitSet(one, other)(), stage.inside(one, other):
        pass


@scene(switches=0)
def throttles_brought_together_while_others_wait(stage: Stage) -> Any:
    one, other, third = (stage.throttle(1, burst=1, initial=0) for _ in range(3))
    stage.thread("A", stage.visit, one)
    stage.thread("B", stage.visit, other)
    stage.thread("C", visit_both, stage, one, other)
    stage.thread("D", visit_both, stage, other, third)

    def check() -> None:
        assert stage.instants[0] == 1
        assert stage.instants[-1] in (2, 3)

    return check


@scene()
def sets_made_in_opposite_orders(stage: Stage) -> Any:
    one, other, third = (stage.throttle(math.inf, 1) for _ in range(3))
    stage.thread("A", visit_both, stage, one, other)
    stage.thread("B", visit_both, stage, other, third)
    stage.thread("C", visit_both, stage, third, one)
    return began(stage, 0, 0, 0)


@scene()
def a_loop_and_throttles_brought_together(stage: Stage) -> Any:
    async def stop_by() -> None:
        async with LimitSet(one, other)():
            with stage.inside(one, other):
                await asyncio.sleep(1)

    one, other = (stage.throttle(math.inf, 1) for _ in range(2))
    stage.thread("A", stage.visit, one, 1, 1)
    stage.thread("B", stage.visit, other, 1, 1)
    stage.loop("L", stop_by)
    # Who lacks one slot keeps the other, if it came first.
    return began_like(stage, (0, 0, 1), (0, 1, 1), (0, 1, 2))


@scene(switches=0)
def loops_with_callers_at_throttles_brought_together(stage: Stage) -> Any:
    async def stop_by() -> None:
        await asyncio.gather(stage.stop_by(one, 1, 7), stage.stop_by(other, 1, 7))

    one, other = (stage.throttle(1, burst=1, initial=0) for _ in range(2))
    stage.loop("L", stop_by)
    stage.loop("M", stage.stop_by, other, 1, 7)
    stage.later(0.5, LimitSet, one, other)
    return began(stage, 1, 1, 2)


def two_threads_and_a_loop(
    stage: Stage, call: Callable[[], Any], end: Callable[[Any], object] = lambda held: None
) -> Callable[[], None]:
    """Calls of a second each, of which two can go at once."""

    def visit() -> None:
        with call() as held, stage.inside():
            stage.sleep(1)
            end(held)

    async def stop_by() -> None:
        async with call() as held:
            with stage.inside():
                await asyncio.sleep(1)
                end(held)

    stage.crew("AB", visit)
    stage.loop("L", stop_by)
    return began(stage, 0, 0, 1)


@scene()
def a_pool(stage: Stage) -> Any:
    pool = LimitPool([LimitSet(stage.throttle(math.inf, 1)) for _ in range(2)])
    return two_threads_and_a_loop(stage, pool)


@scene()
def limits_in_the_manner_of_concurry(stage: Stage) -> Any:
    documented = limits.LimitSet(
        [
            CallLimit(window_seconds=60, capacity=100),
            RateLimit("tokens", 60, RateLimitAlgorithm.TokenBucket, capacity=4),
            ResourceLimit("connections", 2),
        ],
        shared=True,
        mode="thread",
    )
    # The first two take all tokens, and hold all connections; each gives one token back.
    return two_threads_and_a_loop(
        stage,
        lambda: documented.acquire(requested={"tokens": 2}),
        lambda acquisition: acquisition.update(usage={"tokens": 1}),
    )


@scene(switches=2)
def keys(stage: Stage) -> Any:
    def visit(key: str) -> None:
        throttle = throttles[key]
        with throttle, stage.inside(throttle):
            stage.sleep(1)

    throttles: Throttles[str, Any] = Throttles(lambda key: threads.Throttle(math.inf, 1))
    stage.crew("AB", visit, "one")
    stage.thread("C", visit, "other")
    return began(stage, 0, 0, 1)


@scene(switches=2)
def keys_that_are_forgotten(stage: Stage) -> Any:
    def visit(*several: str) -> None:
        for key in several:
            throttle = throttles[key]
            with throttle, stage.inside(throttle):
                pass
            del throttle  # and may be forgotten

    throttles: Throttles[str, Any] = Throttles(lambda key: threads.Throttle(math.inf, 1))
    stage.thread("A", visit, *"abc")
    stage.thread("B", visit, *"bca")

    def check() -> None:
        assert len(stage.began) == 6
        assert len(throttles) <= 3

    return check


@scene()
def an_interrupt_of_one_who_waits_for_two(stage: Stage) -> Any:
    def visit() -> None:
        with both(), stage.inside():
            pass

    one, other = (stage.throttle(1, burst=1, initial=0) for _ in range(2))
    both = LimitSet(one, other)
    stage.crew("AB", stage.attempt, visit)
    stage.later(1, stage.interrupt, "A")

    def check() -> None:
        began_like(stage, (1,), (1, 2))()
        assert one.level == other.level, "one of them was charged alone"

    return check


@scene(switches=2)
def an_acquisition_that_two_threads_release(stage: Stage) -> Any:
    def release() -> None:
        acquisition.release()
        with LimitSet(throttle)(), stage.inside(throttle):
            pass

    throttle = stage.throttle(math.inf, 1)
    acquisition = LimitSet(throttle).acquire()
    stage.crew("AB", release)
    return began(stage, 0, 0)


@scene(switches=2)
def a_settlement_by_two_threads(stage: Stage) -> Any:
    throttle = stage.throttle(1, burst=10)
    acquisition = LimitSet(tokens=throttle).acquire({"tokens": 10})
    stage.crew("AB", acquisition.settle, {"tokens": 4})

    def check() -> None:
        assert throttle.level == 6
        acquisition.settle({"tokens": 3})
        assert throttle.level == 7
        acquisition.release()

    return check
