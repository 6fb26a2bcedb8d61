"""The throttle for threads: its calls, small scenarios in every schedule, large ones at random.

Most of this runs on the stage of `thread_explorer`: real threads, one at a time, in virtual time,
so that instants may be compared by ``==``. What is about true concurrency comes last: it runs in
real time, switching threads every microsecond, and asserts order and counts, never how long
something took. What hangs there is told by a watchdog.

Nothing here needs a global interpreter lock: what threads share is guarded by locks of its own.
(It has not run on a free-threaded interpreter yet: there was none at hand.)
"""

from __future__ import annotations

import ast
import asyncio
import faulthandler
import functools
import gc
import inspect
import math
import random
import sys
import threading
import time
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import pytest
from explorer import Broken
from scenes import SLOT
from support import scaled
from thread_explorer import (
    SCENES,
    Stage,
    began,
    die_later,
    explore,
    play,
    sample,
    staged,
    taken,
)

from async_throttle import (
    LimitSet,
    RateLimit,
    ThrottleClosed,
    ThrottleFull,
    Throttles,
    ThrottleTimeout,
    WeightTooLarge,
    _base,
    threads,
)
from async_throttle import Throttle as AsyncThrottle
from async_throttle._base import core_of
from async_throttle._engine.lane import GRANTED, Waiter
from async_throttle._engine.queue import Queue
from async_throttle._shell.scheduler import Scheduler, find
from async_throttle._shell.states import ENTERING
from async_throttle._shell.thread import LoopOfWaiters, Sleeper, ThreadScheduler, wait
from async_throttle.threads import Lease, Throttle

# --- calls


@staged
def test_a_body_that_fails_gives_back_the_slot_and_keeps_the_token(stage: Stage) -> None:
    throttle = stage.throttle(10, 1)
    with pytest.raises(KeyError), throttle:
        raise KeyError
    with pytest.raises(KeyError), throttle(2):
        raise KeyError
    assert (throttle.active, throttle.level) == (0, 7)


@staged
def test_a_lease_tells_what_was_taken_and_is_settled(stage: Stage) -> None:
    throttle = stage.throttle(10, 1, burst=10)
    with throttle(4) as lease:
        assert isinstance(lease, Lease)
        assert (lease.weight, lease.waited, throttle.level) == (4, 0, 6)
        lease.settle(1)
        assert throttle.level == 9
    lease.settle(6)
    assert throttle.level == 4


@staged
def test_a_wait_that_is_known_to_be_too_long_is_refused_at_once(stage: Stage) -> None:
    throttle = stage.throttle(1, burst=1, name="api")
    throttle.acquire()
    with pytest.raises(ThrottleTimeout, match="throttle 'api'") as refusal:
        throttle.acquire(timeout=0.5)
    assert (stage.now, refusal.value.retry_after, refusal.value.limit) == (0, 1, "api")
    with throttle(timeout=1):
        assert stage.now == 1_000_000_000
    throttle.release()


@staged
def test_a_refusal_changes_nothing(stage: Stage) -> None:
    throttle = stage.throttle(1, 2, burst=2, max_waiting=0)
    throttle.consume(2)
    for refusal, call in (
        (ThrottleTimeout, lambda: throttle.acquire(timeout=0.5)),
        (ThrottleFull, throttle.acquire),
        (ThrottleFull, lambda: throttle.consume(2)),
        (WeightTooLarge, lambda: throttle.lease(3)),
    ):
        with pytest.raises(refusal):
            call()
        assert (throttle.level, throttle.active, throttle.waiting) == (0, 0, 0)
    throttle.close()
    with pytest.raises(ThrottleClosed), throttle:
        pass
    stage.sleep(2)
    assert throttle.level == 2


# --- where an event loop runs, nothing that blocks


@staged
def test_plain_calls_in_an_event_loop_take_what_is_there(stage: Stage) -> None:
    async def main() -> None:
        with throttle, throttle(1):
            assert throttle.active == 2
        throttle.acquire()
        throttle.release()
        throttle.lease().release()
        throttle.consume()
        throttle.drain()
        with LimitSet(throttle, other)() as acquisition:
            assert acquisition.successful
        assert throttle.level == 4

    throttle, other = stage.throttle(10, 5), stage.throttle(10)
    stage.loop("L", main)


@staged
def test_plain_calls_in_an_event_loop_say_what_to_use_instead_of_waiting(stage: Stage) -> None:
    async def main() -> None:
        for call in (
            throttle.__enter__,
            throttle(1).__enter__,
            throttle.acquire,
            throttle.lease,
            throttle.consume,
            both().__enter__,
        ):
            with pytest.raises(RuntimeError, match="async with"):
                call()
            assert (throttle.level, throttle.waiting, throttle.active) == (0, 0, 0)
            assert other.level == 10
        with other, pytest.raises(RuntimeError, match="drain"):
            other.drain()

    throttle, other = stage.throttle(1, burst=1), stage.throttle(10, 1)
    both = LimitSet(throttle, other)
    throttle.charge(1)
    stage.loop("L", main)


@staged
def test_a_thread_that_would_have_to_wait_for_throttles_of_asyncio_is_told(stage: Stage) -> None:
    throttle = AsyncThrottle(1, burst=1)
    both = LimitSet(throttle)
    with both():
        assert throttle.level == 0
    with pytest.raises(RuntimeError, match=r"async_throttle\.threads"), both():
        pass
    assert (throttle.level, throttle.waiting) == (0, 0)


# --- small scenarios in every schedule


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_every_schedule_keeps_every_promise(scene: Any) -> None:
    print(f"{scene.explore():,} schedules", end=" ")


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_a_switch_at_any_line_breaks_nothing(scene: Any) -> None:
    sample(scene.scenario, range(scaled(10, least=3)), lines=0.03, late=scene.late)
    sample(scene.scenario, range(10, 10 + scaled(5, least=1)), lines=0.3, late=scene.late)


def eight_of_all_kinds(stage: Stage) -> Any:
    """More than can be explored: six threads and two loops, with all that may happen."""

    def visit(weight: float) -> None:
        with suppress(KeyboardInterrupt, ThrottleTimeout):
            stage.visit(throttle, weight, weight / 10, timeout=6)
        with suppress(KeyboardInterrupt):
            throttle.consume()

    async def stop_by() -> None:
        task = asyncio.create_task(stage.stop_by(throttle, 1, 0.1))
        another = asyncio.create_task(stage.stop_by(throttle, 2, 0.2, priority=1))
        with suppress(TimeoutError):
            await asyncio.wait_for(task, 1.5)
        await another

    def boss() -> None:
        throttle.pause(0.5, empty=True)
        throttle.concurrency = 1
        stage.sleep(1)
        throttle.capacity = 4
        throttle.resume()
        stage.sleep(1)
        throttle.concurrency = 2
        throttle.charge(1)

    throttle = stage.throttle(2, 2, burst=3)
    for name, weight in ("A", 1), ("B", 3), ("C", 2), ("D", 1):
        stage.thread(name, visit, weight)
    stage.loop("L", stop_by)
    stage.loop("M", stop_by)
    stage.thread("boss", boss)
    stage.later(0.3, stage.interrupt, "A")
    stage.later(1.2, stage.interrupt, "B")
    return None


def test_many_random_schedules_of_many_threads() -> None:
    sample(eight_of_all_kinds, range(scaled(60)), late=2)
    sample(eight_of_all_kinds, range(60, 60 + scaled(40)), lines=0.01)


# --- the explorer finds what is broken


def nobody_takes_over(scheduler: Any) -> None:
    """A leader that goes names nobody else: followers sleep on."""
    if scheduler.loops or scheduler.leader is not None:
        ThreadScheduler_arm(scheduler)


def forgetful(scheduler: Any) -> None:
    """The leader is not told that something is due earlier."""
    for mine in list(scheduler.loops.values()):
        mine.watch(scheduler.queue.due_at)
    if scheduler.sleepers and scheduler.leader is None:
        next(iter(scheduler.sleepers)).ring()


def silent(waiter: Any) -> None:
    """Nobody is woken."""


def clinging(queue: Queue, waiter: Waiter) -> None:
    """Who leaves after a grant keeps what it has taken."""
    if waiter.state is not GRANTED:
        Queue_leave(queue, waiter)


def impolite(queue: Queue, waiter: Any, lane: Any, *more: Any) -> None:
    """The last to come goes first."""
    Queue_join(queue, waiter, lane, *more)
    lane.waiters.rotate()


def generous(lease: Any) -> Any:
    """Each entry of a kept lease is taken for its first."""
    lease._state = ENTERING
    wait(lease._whom(), lease._options(), lease._timeout, lease)
    return lease


def forsaking(scheduler: Any, other: Any) -> None:
    """Who waited at a scheduler that was absorbed is not told."""


Queue_leave, Queue_join = Queue.leave, Queue.join
ThreadScheduler_arm = ThreadScheduler.arm


@pytest.mark.parametrize(
    ("owner", "name", "broken", "scenes"),
    [
        (ThreadScheduler, "arm", nobody_takes_over, ["tokens"]),
        (ThreadScheduler, "arm", forgetful, ["a_faster_rate"]),
        (Sleeper, "ring", silent, ["slots_only", "a_drain"]),
        (LoopOfWaiters, "watch", lambda mine, due: None, ["two_loops_and_a_thread"]),
        (Queue, "leave", clinging, ["an_interrupt_at_the_instant_of_the_grant"]),
        (Queue, "join", impolite, ["slots_only"]),
        (Lease, "_enter", generous, ["a_kept_lease_that_threads_and_tasks_enter"]),
        (ThreadScheduler, "adopt", forsaking, ["loops_with_callers_at_throttles_brought_together"]),
    ],
)
def test_what_is_broken_is_found_by_some_schedule(
    owner: Any, name: str, broken: Any, scenes: list[str]
) -> None:
    for scene in scenes:
        with mock.patch.object(owner, name, broken), pytest.raises(Broken):
            explore(SCENES[scene].scenario, switches=2, most=2_000)


def test_a_door_without_a_lock_is_found_at_some_line() -> None:
    def scenario(stage: Stage) -> Any:
        def work() -> None:
            for _ in range(2):
                with throttle, stage.inside(throttle):
                    throttle.charge(0)

        throttle = stage.throttle(2, 1, burst=2)
        for name in "ABC":
            stage.thread(name, work)
        return began(stage, 0, 0, 0.5, 1, 1.5, 2)

    sample(scenario, range(5), lines=0.1)
    with mock.patch.object(ThreadScheduler, "enter", Scheduler.enter), pytest.raises(Broken):
        sample(scenario, range(1_000), lines=0.1)


DOOR = {"do", "ask", "enter", "admit", "seize", "exclusively", "start", "withdraw"} | {"ask_store"}
"""What goes through the door of a scheduler."""

WAYS = {"wait", "drained", "release", "leave_block", "lease", "lease_async"} | {
    "_configure",
    "_lease",
    "_lease_async",
}
"""What goes there on behalf of others."""

PURE = {
    "__call__": "makes a lease, or decorates",
    "__repr__": "looks, and changes not even what is due",
    "guarantee": "parameters, which a change replaces at once",
    "name": "never changes",
    "store": "never changes",
    "__reduce_ex__": "what it was made with, which never changes",
    "algorithm": "never changes",
    "max_waiting": "never changes",
    "adapt": "never changes",
    "capacity": "one parameter",
    "period": "one parameter",
    "burst": "one parameter",
    "concurrency": "one parameter",
}
"""Members that need no door, and why. (Setters need it.)"""


def members(path: Any) -> Iterator[tuple[str, ast.AST]]:
    """The public members of the throttles in a module, and `with`."""
    for node in ast.walk(ast.parse(inspect.getsource(path))):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Throttle"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    setter = any(isinstance(d, ast.Attribute) for d in member.decorator_list)
                    if not member.name.startswith("_") or member.name.startswith("__"):
                        yield member.name + " =" * setter, member


def test_every_member_goes_through_the_door_or_reads_what_never_changes() -> None:
    beside = {
        name
        for module in (_base, threads)
        for name, member in members(module)
        if not any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
            in DOOR | WAYS
            for node in ast.walk(member)
        )
    }
    assert beside - {"__init__"} == PURE.keys()


@staged
def test_a_slot_is_given_back_inside_the_door_also_where_others_wait_for_time(stage: Stage) -> None:
    """Outside, another thread could come to wait for it meanwhile, and would not be woken."""
    throttle = stage.throttle(1, 3, burst=2)
    throttle.acquire(2)
    stage.thread("A", stage.visit, throttle)
    stage.sleep(0.5)
    assert throttle.waiting == 1
    plot = len(stage.plot)
    throttle.release()
    assert any(what.startswith("wants lock") for _, _, what, _ in stage.plot[plot:])


def test_a_schedule_that_was_told_can_be_played_again() -> None:
    with mock.patch.object(ThreadScheduler, "arm", nobody_takes_over):
        with pytest.raises(Broken) as found:
            explore(SCENES["tokens"].scenario)
        schedule = [int(choice) for choice in found.value.schedule.strip("[]").split(",")]
        with pytest.raises(Broken, match="nobody") as again:
            play(SCENES["tokens"].scenario, schedule)
    assert again.value.schedule == found.value.schedule
    play(SCENES["tokens"].scenario, schedule)


# --- who waits, sleeps


@pytest.mark.parametrize("waits_for", ["tokens", "slots"])
@staged
def test_a_hundred_threads_lie_down_twice_each_at_most(stage: Stage, waits_for: str) -> None:
    if waits_for == "tokens":
        throttle = stage.throttle(1, burst=1, initial=0)
    else:
        throttle = taken(stage, 1, **SLOT)
    for n in range(100):
        stage.thread(str(n), stage.visit, throttle, 1, 1_000 if waits_for == "tokens" else 1)
    stage.sleep(1_000)
    assert stage.instants == list(range(1, 101))
    # Until it is told to keep the time, and until the time has come.
    assert sum(what == "wants to be woken" for _, _, what, _ in stage.plot) <= 2 * 100


@staged
def test_nobody_looks_while_there_is_nothing_to_see(stage: Stage) -> None:
    async def stop_by() -> None:
        await stage.stop_by(throttle)

    throttle = stage.throttle(math.inf, 1)
    throttle.pause(math.inf)
    for name in "ABC":
        stage.thread(name, stage.visit, throttle)
    stage.loop("L", stop_by)
    stage.sleep(1)
    told = len(stage.plot)
    stage.sleep(1_000_000)
    assert len(stage.plot) == told + 1  # the nap of this very thread
    throttle.resume()
    stage.sleep(1)
    assert len(stage.began) == 4


@staged
def test_a_held_up_loop_is_no_reason_to_refuse_a_thread(stage: Stage) -> None:
    async def hold_up() -> None:
        task = asyncio.create_task(stage.stop_by(throttle))
        await asyncio.sleep(0.5)
        stage.sleep(10)
        await task

    throttle = stage.throttle(1, burst=5, initial=0)
    only = LimitSet(throttle)
    stage.loop("L", hold_up)
    stage.sleep(5)  # by now the task has been granted, and cannot run
    assert (throttle.level, throttle.locked(), only.locked()) == (4, False, False)
    assert throttle.try_acquire()
    throttle.release()
    with only.try_acquire() as acquisition:
        assert acquisition.successful
    assert throttle.level == 2
    stage.sleep(10)
    assert stage.instants == [10.5]


@staged
def test_a_loop_that_was_busy_when_it_was_told_wakes_in_time(stage: Stage) -> None:
    async def be_busy() -> None:
        task = asyncio.create_task(stage.stop_by(throttle))
        await asyncio.sleep(0.05)
        stage.sleep(0.55)
        await task

    throttle = stage.throttle(1, burst=1, initial=0)
    stage.loop("L", be_busy)
    stage.later(0.1, throttle.charge, 1)
    stage.sleep(5)
    assert stage.began == [(2, "L")]


@staged
def test_who_was_behind_one_who_is_interrupted_takes_what_is_there_then(stage: Stage) -> None:
    def wait() -> None:
        with pytest.raises(KeyboardInterrupt), both(tokens=3):
            pass

    def follow() -> None:
        with both(tokens=2, files=0):
            stage.began.append((stage.now / 1e9, "B"))

    tokens, files = stage.throttle(1, burst=3, initial=2), stage.throttle(math.inf, 1)
    both = LimitSet(tokens=tokens, files=files)
    files.acquire()
    stage.thread("A", wait)
    stage.later(0.1, follow)
    stage.later(4, stage.interrupt, "A")
    stage.sleep(4.5)
    assert stage.began == [(4, "B")]
    assert tokens.level == 1.5  # the bucket was full, and B had two of it at 4 s, no earlier
    files.release()


@staged
def test_an_interrupted_drain_is_forgotten(stage: Stage) -> None:
    def drain() -> None:
        with pytest.raises(KeyboardInterrupt):
            throttle.drain()
        ended.append(stage.now)

    ended: list[int] = []
    throttle = stage.throttle(math.inf, 1)
    throttle.acquire()
    stage.thread("D", drain)
    stage.later(1, stage.interrupt, "D")
    stage.sleep(2)
    assert ended == [1_000_000_000]
    throttle.release()  # the stage looks whether anything is left


# --- event loops that end


@staged
def test_a_task_goes_while_its_own_grant_and_the_death_of_a_loop_are_noticed(
    stage: Stage,
) -> None:
    async def give_up() -> None:
        await asyncio.sleep(0.1)
        task = asyncio.create_task(throttle.acquire_async(timeout=100))
        await asyncio.sleep(0.1)
        stage.sleep(3)  # both are due now, and the one before is dead
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    throttle = stage.throttle(1, burst=4, initial=0)
    die_later(stage, throttle, 0.5, collected=4)
    stage.loop("L", give_up)
    stage.sleep(4)
    assert throttle.level == 4
    stage.sleep(1)
    assert throttle.level == 4


@staged
def test_a_grant_in_a_loop_that_is_closed_before_it_is_noticed_is_undone(stage: Stage) -> None:
    throttle = stage.throttle(1, 1, burst=3)
    throttle.acquire(1)
    die_later(stage, throttle, 0.5, held_up=1, collected=2)  # it is granted meanwhile
    stage.sleep(0.6)
    stage.thread("A", stage.visit, throttle, 3)
    stage.sleep(0.4)
    throttle.release()
    assert (throttle.active, throttle.waiting, throttle.level) == (1, 1, 2)
    stage.sleep(1)  # nothing tells that a loop was closed; whoever comes next sees it
    assert (throttle.active, throttle.waiting, throttle.level) == (1, 0, 0)
    stage.sleep(1)
    assert stage.began == [(2, "A")]
    stage.sleep(1)
    assert throttle.level == 2


# --- real threads


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(*functions: Callable[[], object], seconds: float = 30) -> None:
    """Run all of them at once; whoever has not ended after so long has hung."""

    def run(function: Callable[[], object]) -> None:
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    errors: deque[BaseException] = deque()
    barrier = threading.Barrier(len(functions))
    crew = [threading.Thread(target=run, args=[each], daemon=True) for each in functions]
    for thread in crew:
        thread.start()
    end = time.monotonic() + seconds
    for thread in crew:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in crew):
        faulthandler.dump_traceback(sys.stderr)
        pytest.fail("threads hang: where, is told above")
    if errors:
        raise errors[0]


class Log:
    """What really happened, written down by those to whom it happened.

    Attributes:
        entries: of each call: the first and the last instant at which it may have been granted,
            in nanoseconds, and its weight.
        most: of each throttle: how many were inside at once.
    """

    def __init__(self) -> None:
        self.entries: deque[tuple[int, int, float]] = deque()
        self.most: Counter[Throttle] = Counter()
        self._inside: Counter[Throttle] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def inside(self, *throttles: Throttle) -> Iterator[None]:
        with self._lock:
            self._inside.update(throttles)
            for throttle in throttles:
                self.most[throttle] = max(self.most[throttle], self._inside[throttle])
        try:
            yield
        finally:
            with self._lock:
                self._inside.subtract(throttles)

    def enter(self, asked: int, waited: float, weight: float) -> None:
        self.entries.append((asked + round(waited * 1e9), time.monotonic_ns(), weight))

    def check_envelope(self, rate: float, burst: float) -> None:
        """In no interval was more granted than may be, for all that can be told from outside."""
        entries = sorted(self.entries, key=lambda entry: entry[1])
        for start in {entry[0] for entry in entries}:
            granted = 0.0
            for first, last, weight in entries:
                if first >= start:
                    granted += weight
                    # Up to 5 ms of lateness are paid back.
                    allowed = burst + rate * ((last - start) / 1e9 + 0.005)
                    assert granted <= allowed + 1e-6


@contextmanager
def order_of_grants() -> Iterator[None]:
    """Check that within each lane callers are granted in the order in which they came."""

    def noted(queue: Queue, now: int, *, final: bool = True) -> None:
        decided = len(queue.decided)
        advance(queue, now, final=final)
        for waiter in list(queue.decided)[decided:]:
            if waiter.state is GRANTED:
                grants[waiter.lane].append(waiter.order)  # its queue is locked

    grants: defaultdict[Any, list[int]] = defaultdict(list)
    advance = Queue.advance
    with mock.patch.object(Queue, "advance", noted):
        yield
    assert grants, "nobody had to wait"
    for orders in grants.values():
        assert orders == sorted(orders)


def at_rest(throttle: Throttle) -> None:
    """Nobody holds or waits, and in time all tokens are there."""
    assert (throttle.active, throttle.waiting) == (0, 0)
    missing = throttle.burst - throttle.level
    time.sleep(max(0.0, missing * throttle.period / throttle.capacity))
    assert throttle.level == throttle.burst


@pytest.mark.real_time
@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("seed", range(scaled(2, least=1)))
def test_a_storm_of_threads_and_loops(seed: int) -> None:
    rate, burst, slots = 5_000, 50, 5
    throttle = Throttle(rate, slots, burst=burst)
    kept = throttle(2)
    log = Log()
    busy = threading.Semaphore(0)

    def work(dice: random.Random) -> None:
        for _ in range(60):
            weight = dice.choice((1, 1, 2, 5))
            asked = time.monotonic_ns()
            match dice.randrange(6):
                case 0:
                    with throttle(weight, priority=dice.choice((0, 0, 1))) as lease:
                        log.enter(asked, lease.waited, weight)
                        with log.inside(throttle):
                            time.sleep(0)
                case 1:
                    with suppress(ThrottleTimeout):
                        throttle.acquire(weight, timeout=dice.random() * 0.01)
                        with log.inside(throttle):
                            pass
                        throttle.release()
                case 2:
                    throttle.consume(weight)
                case 3:
                    if throttle.try_acquire(weight):
                        log.enter(asked, 0, weight)
                        with log.inside(throttle):
                            time.sleep(0)
                        throttle.release()
                case 4:
                    lease = throttle.lease(weight)
                    with log.inside(throttle):
                        actual = dice.randrange(weight + 2)
                        lease.settle(actual)
                        log.enter(asked, lease.waited, min(actual, weight))
                    lease.release()
                case 5:
                    with kept as lease, log.inside(throttle):
                        log.enter(asked, lease.waited, 2)

    async def call(dice: random.Random) -> None:
        for _ in range(12):
            asked = time.monotonic_ns()
            if dice.random() < 0.2:
                async with kept as lease:
                    with log.inside(throttle):
                        log.enter(asked, lease.waited, 2)
                        await asyncio.sleep(0)
            else:
                weight = dice.choice((1, 2, 5))
                with suppress(ThrottleTimeout):
                    async with throttle(weight, timeout=dice.choice((None, 0.005))) as lease:
                        log.enter(asked, lease.waited, weight)
                        with log.inside(throttle):
                            await asyncio.sleep(0)

    async def hold(weight: int) -> None:
        async with throttle(weight):
            with log.inside(throttle):
                await asyncio.sleep(0)

    async def cancelled(dice: random.Random) -> None:
        for _ in range(12):
            task = asyncio.ensure_future(hold(dice.choice((1, 5))))
            await asyncio.sleep(dice.random() * 0.01)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def main(dice: random.Random) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(call(random.Random(dice.random())))
                group.create_task(cancelled(random.Random(dice.random())))

    def loop(dice: random.Random) -> None:
        asyncio.run(main(dice))

    def boss(dice: random.Random) -> None:
        while not busy.acquire(timeout=0.001):
            match dice.randrange(8):
                case 0:
                    throttle.pause(0.002)
                case 1:
                    throttle.resume()
                case 2:
                    throttle.concurrency = dice.randint(1, slots)
                case 3:
                    throttle.capacity = dice.choice((rate / 2, rate))
                case 4:
                    throttle.charge(3)
                case 5:
                    assert throttle.delay(2) >= 0
                case 6:
                    assert throttle.locked() in (True, False)
                    assert throttle.level <= burst
                case 7:
                    assert throttle.active <= slots
                    assert "async_throttle.Throttle" in repr(throttle)
        throttle.resume()
        throttle.capacity, throttle.concurrency = rate, slots

    def crew() -> Iterator[Callable[[], object]]:
        for n in range(8):
            yield functools.partial(work, random.Random(f"{seed} {n}"))
        for n in range(3):
            yield functools.partial(loop, random.Random(f"{seed} loop {n}"))

    lead = threading.Thread(target=boss, args=[random.Random(seed)])
    lead.start()
    try:
        with order_of_grants():
            in_threads(*crew())
    finally:
        busy.release()
        lead.join()
    assert log.most[throttle] <= slots
    log.check_envelope(rate, burst)
    at_rest(throttle)
    scheduler = find(core_of(throttle))
    assert isinstance(scheduler, ThreadScheduler)
    assert not scheduler.sleepers
    assert not scheduler.handed_over


@pytest.mark.real_time
@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("attempt", range(scaled(10, least=3)))
def test_sets_are_made_by_many_threads_at_once_while_others_wait(attempt: int) -> None:
    def send(first: int) -> None:
        for key in range(first, first + 4):
            chat = chats[key % 4]
            with LimitSet(everybody, chat)(), log.inside(everybody, chat):
                time.sleep(0)
            with chat, log.inside(chat):
                pass
            with everybody, log.inside(everybody):
                pass

    async def send_too(key: int) -> None:
        chat = chats[key]
        async with LimitSet(chat, everybody)():
            with log.inside(everybody, chat):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(send_too(key) for key in range(4)))

    everybody = Throttle(5_000, 3, burst=10)
    chats: Throttles[int, Throttle] = Throttles(lambda chat: Throttle(math.inf, 1))
    log = Log()
    with order_of_grants():
        in_threads(
            *(functools.partial(send, n) for n in range(6)),
            *(lambda: asyncio.run(main()) for _ in range(2)),
        )
    assert log.most[everybody] <= 3
    at_rest(everybody)
    for key in range(4):
        assert log.most[chats[key]] <= 1
        assert (chats[key].active, chats[key].waiting) == (0, 0)


def test_idle_it_keeps_neither_threads_nor_timers() -> None:
    def work() -> None:
        with throttle(10):
            pass

    async def main() -> None:
        await asyncio.gather(*(throttle.consume_async(10) for _ in range(3)))
        await asyncio.to_thread(work)
        async with throttle:
            pass
        await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []

    throttle = Throttle(5_000, 2, burst=10)
    before = threading.active_count()
    asyncio.run(main())
    in_threads(work, work)
    assert threading.active_count() == before


def test_an_idle_throttle_is_freed_at_once() -> None:
    def work(throttle: Throttle) -> None:
        for _ in range(3):
            with throttle(10) as lease:
                lease.settle(9)

    async def main(throttle: Throttle) -> None:
        await asyncio.gather(*(throttle.consume_async(10) for _ in range(3)))
        with suppress(ThrottleTimeout):
            await throttle.acquire_async(10, timeout=1e-6)

    gc.collect()
    gc.disable()
    try:
        throttle = Throttle(5_000, 2, burst=10)
        in_threads(*[functools.partial(work, throttle)] * 2)
        asyncio.run(main(throttle))
        remains = weakref.ref(throttle), weakref.ref(core_of(throttle).scheduler)
        del throttle
        assert [remain() for remain in remains] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [AsyncThrottle, Throttle])
def test_a_throttle_that_is_at_work_is_not_taken_together_with_others(kind: Any) -> None:
    """A clock, a finalizer or a signal handler tries to, in the middle of an event."""

    def timer() -> float:
        if asks:
            asks.clear()
            with pytest.raises(RuntimeError, match="at work"):
                LimitSet(one, other)
        return 0.0

    asks: list[bool] = []
    one, other = kind(1, timer=timer), kind(1, timer=timer)
    asks.append(True)
    assert one.level == 1
    assert not asks
    LimitSet(one, other)


def test_throttles_for_threads_and_others_are_not_taken_together() -> None:
    with pytest.raises(TypeError, match="one kind"):
        LimitSet(Throttle(1), AsyncThrottle(1))
    limits = LimitSet(RateLimit("tokens", 1, capacity=5))
    with limits() as acquisition:
        assert acquisition.successful
