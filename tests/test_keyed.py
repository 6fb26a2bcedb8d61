"""Keyed throttles: one per key, never a second one beside it, and none for which nobody cares.

What may be forgotten is checked against a plain dictionary that forgets nothing: whoever asks
must be granted at the same instants.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import sys
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import examples, now, others_run, queued, scaled

from async_throttle import (
    FixedWindow,
    LeakyBucket,
    LimitPool,
    LimitSet,
    ResourceLimitError,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    TokenBucket,
    limits,
    testing,
    threads,
)
from async_throttle._shell.core import Core
from async_throttle.keyed import LOOKED_AT, Throttles, learnt

pytestmark = pytest.mark.virtual_time

Hosts = Throttles[Any, Throttle]


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def newcomers(throttles: Throttles[Any, Any], count: int = 20) -> None:
    """Ask for so many new keys, each of which has old ones looked at."""
    for _ in range(count):
        throttles[object()]


@contextmanager
def without_collector() -> Iterator[None]:
    """Whatever dies in here dies because nothing refers to it any more."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -------------------------------------------------------------------------------- one for each key


def test_a_key_has_one_throttle_made_for_it_when_it_is_first_asked_for() -> None:
    asked: list[str] = []

    def make(key: str) -> Throttle:
        asked.append(key)
        return Throttle(1, name=key)

    hosts: Hosts = Throttles(make)
    assert asked == []
    first, second = hosts["a"], hosts["b"]
    assert (first.name, second.name) == ("a", "b")
    assert hosts["a"] is first
    assert asked == ["a", "b"]


def test_it_can_be_looked_at_like_a_mapping_without_making_anything() -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(1))
    assert (len(hosts), list(hosts), "a" in hosts) == (0, [], False)
    kept = [hosts["a"], hosts["b"]]
    assert len(kept) == len(hosts) == 2
    assert "a" in hosts
    assert "c" not in hosts
    assert sorted(hosts) == ["a", "b"]
    for key in hosts:
        hosts[f"{key}, and while it is iterated"]
    assert repr(hosts) == f"<async_throttle.Throttles object at {id(hosts):#x} [keys:{len(hosts)}]>"


@pytest.mark.parametrize("key", [None, 0, "", (), False, ("eu", 5), frozenset()])
def test_whatever_can_be_hashed_is_a_key(key: Hashable) -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(1))
    assert hosts[key] is hosts[key]
    assert key in hosts
    for look in (hosts.__getitem__, hosts.__contains__):
        with pytest.raises(TypeError, match="unhashable type: 'list'"):
            look([])


@pytest.mark.parametrize("factory", [None, 5, "host"])
def test_what_cannot_be_called_is_no_factory(factory: Any) -> None:
    with pytest.raises(TypeError, match=f"factory must be callable, got {factory!r}"):
        Throttles(factory)


@pytest.mark.parametrize("made", [None, Throttle, TokenBucket, 3])
def test_what_a_factory_returns_must_be_a_throttle_and_else_nothing_remains(made: Any) -> None:
    hosts: Hosts = Throttles(lambda key: made)
    for _ in range(2):
        with pytest.raises(
            TypeError, match=r"factory must return a Throttle, a set or a pool, got .* for 'a'"
        ):
            hosts["a"]
    assert list(hosts) == []


def test_a_factory_that_raises_leaves_nothing_and_is_called_again() -> None:
    answers: Iterator[Throttle | Exception] = iter([LookupError("no such host"), Throttle(3)])

    def make(key: str) -> Throttle:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    hosts: Hosts = Throttles(make)
    with pytest.raises(LookupError, match="no such host"):
        hosts["a"]
    assert "a" not in hosts
    assert hosts["a"].capacity == 3


def test_a_factory_may_ask_for_other_keys() -> None:
    def make(path: str) -> Throttle:
        parent = path.rpartition("/")[0]
        return Throttle(hosts[parent].capacity / 2 if parent else 8)

    hosts: Hosts = Throttles(make)
    kept = [hosts["a/b/c"], hosts["a/b"], hosts["a"]]
    assert [throttle.capacity for throttle in kept] == [2, 4, 8]
    assert set(hosts) <= {"a", "a/b", "a/b/c"}
    assert hosts["a/b/c"] is kept[0]


def test_a_factory_that_asks_for_the_very_key_gets_the_one_that_was_made_first() -> None:
    made: list[Throttle] = []

    def make(key: str) -> Throttle:
        mine = Throttle(1)
        made.append(mine)
        if len(made) == 1:
            assert hosts[key] is made[1]
        return mine

    hosts: Hosts = Throttles(make)
    assert hosts["a"] is hosts["a"] is made[1]


def test_a_throttle_that_the_factory_gives_to_several_keys_is_never_made_again() -> None:
    shared = [Throttle(5)]
    hosts: Hosts = Throttles(lambda key: shared[0] if isinstance(key, str) else Throttle(1))
    assert hosts["a"] is hosts["b"] is shared[0]
    alive = weakref.ref(shared[0])
    shared[0] = Throttle(7)
    newcomers(hosts)  # each of the two is the other's reference
    assert hosts["a"] is hosts["b"] is alive()


# -------------------------------------------------------------------------------- what is forgotten


def test_what_nobody_could_tell_from_a_new_one_is_forgotten_at_once() -> None:
    clock = Clock()
    hosts: Hosts = Throttles(lambda key: Throttle(2, timer=clock))
    with without_collector():
        alive = weakref.ref(hosts["a"])
        assert hosts["a"].try_acquire(2)
        hosts["a"].release()
        newcomers(hosts)
        clock.seconds = 1.0 - 1e-9
        newcomers(hosts)
        assert alive() is hosts["a"]
        clock.seconds = 1.0
        newcomers(hosts, 2)
        assert "a" not in hosts
        assert alive() is None
    assert hosts["a"].level == 2


def test_a_throttle_that_was_kept_is_never_replaced_by_another() -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(1))
    kept = hosts["a"]
    for _ in range(20):
        newcomers(hosts, 10)
        assert "a" in hosts
        assert hosts["a"] is kept
        assert len(hosts) == 2  # and what was asked for last
    del kept
    newcomers(hosts)
    assert "a" not in hosts


def test_the_table_holds_about_twice_as_many_as_must_be_kept() -> None:
    kept_for = 500
    clock = Clock()
    hosts: Hosts = Throttles(lambda key: Throttle(1, period=kept_for, timer=clock))
    most = 0
    for key in range(10 * kept_for):  # one new key each second
        assert hosts[key].try_acquire()
        hosts[key].release()
        clock.seconds += 1
        most = max(most, len(hosts))
    assert kept_for <= most <= 2 * kept_for + LOOKED_AT
    clock.seconds += kept_for
    newcomers(hosts, len(hosts))
    assert len(hosts) == 1


def test_a_key_takes_less_than_three_kilobytes_while_it_matters() -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(10, 2, timer=Clock()))
    assert hosts["a"].try_acquire()
    with without_collector():
        tracemalloc.start()
        try:
            assert all(hosts[key].try_acquire() for key in range(500))
            assert tracemalloc.get_traced_memory()[0] < 500 * 3_000
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_keys_ever_seen() -> None:
    clock = Clock()
    hosts: Hosts = Throttles(lambda key: Throttle(10, 2, burst=1, timer=clock))

    def visit(first: int, last: int) -> int:
        """So many keys, one each 10 ms and limited for 100 ms; the bytes in use afterwards."""
        for key in range(first, last):
            assert hosts[key].try_acquire()
            hosts[key].release()
            clock.seconds += 0.01
            assert len(hosts) <= 25
        return tracemalloc.get_traced_memory()[0]

    visit(0, 100)
    with without_collector():
        tracemalloc.start()
        try:
            early, late = visit(100, 1_000), visit(1_000, 1_000 + scaled(7_000, least=3_000))
        finally:
            tracemalloc.stop()
    assert late - early < 10_000  # some bytes a key would be hundreds of thousands


async def test_nor_does_it_where_each_is_taken_together_with_one_for_all() -> None:
    everybody = Throttle(1_000)
    chats: Throttles[int, Throttle] = Throttles(lambda chat: Throttle(10, burst=1))

    async def visit(first: int, last: int) -> int:
        """The number of objects alive afterwards."""
        for chat in range(first, last):
            async with LimitSet(everybody, chats[chat]):
                await asyncio.sleep(0.01)
            assert len(chats) <= 25
        return len(gc.get_objects())

    await visit(0, 100)
    with without_collector():
        early, late = await visit(100, 200), await visit(200, 1_000)
    assert late - early < 400  # one for every other key would be as many


# ------------------------------------------------------------------------------------- what is kept


Make = Callable[[Hosts], Any]
"""Brings a reason about to keep the throttle of "a"; what comes of it is held meanwhile."""

End = Callable[[Hosts, Any], Any] | None
"""Takes the reason away again; None if it lasts."""


async def done(made: Any) -> Any:
    return await made if inspect.isawaitable(made) else made


def let_go(hosts: Hosts, held: Any) -> None:
    pass


def released(hosts: Hosts, held: Any) -> None:
    hosts["a"].release()


def resumed(hosts: Hosts, held: Any) -> None:
    hosts["a"].resume()


async def time_passes(hosts: Hosts, held: Any) -> None:
    await asyncio.sleep(100)


async def ended(hosts: Hosts, held: asyncio.Task[Any]) -> None:
    held.cancel()
    with suppress(asyncio.CancelledError):
        await held
    await others_run()  # asyncio has the error, and so all its frames, until its next step


async def somebody_is_inside(hosts: Hosts) -> asyncio.Task[None]:
    async def inside() -> None:
        async with hosts["a"](0):
            await asyncio.sleep(1000)

    return await queued(inside())


async def somebody_waits(hosts: Hosts) -> asyncio.Task[Any]:
    hosts["a"].pause(1e6)
    return await queued(hosts["a"].acquire(0, timeout=2e6))


async def cancelled_and_resumed(hosts: Hosts, held: asyncio.Task[Any]) -> None:
    await ended(hosts, held)
    hosts["a"].resume()


async def somebody_was_granted_and_starts(hosts: Hosts) -> asyncio.Task[Any]:
    held = await somebody_waits(hosts)
    hosts["a"].resume()
    return held


async def started_and_gone(hosts: Hosts, held: asyncio.Task[Any]) -> None:
    await held
    hosts["a"].release()


async def somebody_has_a_lease_to_settle(hosts: Hosts) -> Any:
    async with hosts["a"](0) as lease:
        return lease


def somebody_has_a_decorated_function(hosts: Hosts) -> Any:
    @hosts["a"](2)
    async def fetch() -> None:
        pass

    return fetch


def changed(setting: str, value: float) -> tuple[Make, End]:
    return lambda hosts: setattr(hosts["a"], setting, value), None


REASONS: dict[str, tuple[Make, End]] = {
    "a slot is held": (lambda hosts: hosts["a"].acquire(0), released),
    "tokens are missing": (lambda hosts: hosts["a"].consume(1), time_passes),
    "there is a debt": (lambda hosts: hosts["a"].charge(50), time_passes),
    "it is paused": (lambda hosts: hosts["a"].pause(60), time_passes),
    "it is paused for ever": (lambda hosts: hosts["a"].pause(math.inf), resumed),
    "it was emptied by a pause": (lambda hosts: hosts["a"].pause(0, empty=True), time_passes),
    "somebody is inside": (somebody_is_inside, ended),
    "somebody waits": (somebody_waits, cancelled_and_resumed),
    "somebody was granted and starts": (somebody_was_granted_and_starts, started_and_gone),
    "somebody has it": (lambda hosts: hosts["a"], let_go),
    "somebody has a lease to settle": (somebody_has_a_lease_to_settle, let_go),
    "somebody has a call to make": (lambda hosts: [hosts["a"](3)], let_go),
    "somebody has a decorated function": (somebody_has_a_decorated_function, let_go),
    "somebody has a set with it": (lambda hosts: LimitSet(hosts["a"], Throttle(1)), let_go),
    "it is closed": (lambda hosts: hosts["a"].close(), None),
    "another capacity": changed("capacity", 11),
    "another concurrency": changed("concurrency", 3),
    "another period": changed("period", 2.0),
    "another burst": changed("burst", 9),
    "the same capacity, from now on": changed("capacity", 10),
}


@pytest.mark.parametrize(("make", "end"), REASONS.values(), ids=REASONS)
async def test_it_is_kept_while(make: Make, end: End) -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(10, 4))
    with without_collector():
        alive = weakref.ref(hosts["a"])
        held = await done(make(hosts))
        newcomers(hosts)
        assert "a" in hosts
        assert hosts["a"] is alive()
        assert len(hosts) <= 3  # it keeps no others
        if end is not None:
            await done(end(hosts, held))
            del held
            newcomers(hosts)
            assert "a" not in hosts
            assert alive() is None


class Unknown(LeakyBucket):
    """A rule that does not tell whether it is as good as new."""

    __slots__ = ()

    fresh_at = Rule.fresh_at


def test_a_rule_that_does_not_tell_whether_it_is_as_good_as_new_is_kept() -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(10, algorithm=Unknown))
    hosts["a"]
    newcomers(hosts, 5)
    assert "a" in hosts
    assert len(hosts) == 6


def test_a_key_whose_clock_breaks_while_it_is_looked_at_is_kept() -> None:
    clock = Clock()

    def broken() -> float:
        if clock.seconds == 1:
            raise OSError("no clock")
        return clock.seconds

    hosts: Hosts = Throttles(lambda key: Throttle(1, timer=broken if key == "a" else clock))
    alive = weakref.ref(hosts["a"])
    clock.seconds = 1
    with pytest.raises(OSError, match="no clock"):
        hosts["b"]
    assert list(hosts) == ["a"]
    clock.seconds = 2
    assert hosts["a"] is alive()
    newcomers(hosts)
    assert "a" not in hosts


# ------------------------------------------------------------------- against one that never forgets


@dataclass(frozen=True)
class Step:
    """After a wait, something is done with a key.

    Attributes:
        key: which one.
        until_due: a share of the burst to wait for; None is a plain wait.
        wait: nanoseconds; to be added, if it waits for something due.
        do: what.
        part: the weight, as a share of the burst.
        hold: seconds for which whoever is granted stays inside.
    """

    key: int
    until_due: float | None
    wait: int
    do: str
    part: float
    hold: float = 0.0


@dataclass(frozen=True)
class Kind:
    """The throttles of all keys."""

    algorithm: type[Rule]
    capacity: float
    period: float
    burst: float | None
    concurrency: int

    def make(self, key: object) -> Throttle:
        return Throttle(
            self.capacity,
            self.concurrency,
            self.period,
            burst=self.burst,
            algorithm=self.algorithm,
        )


class Naive(dict[Any, Throttle]):
    """It remembers all of them."""

    def __init__(self, make: Callable[[Any], Throttle]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: object) -> Throttle:
        self[key] = self.make(key)
        return self[key]


Table = Throttles[Any, Throttle] | Naive

PARTS = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])
STEPS = st.builds(
    Step,
    key=st.integers(0, 2),
    until_due=st.one_of(st.none(), PARTS),
    wait=st.one_of(st.integers(0, 2), st.integers(0, 3 * 10**9)),
    do=st.sampled_from(["enter", "enter", "try", "consume", "charge", "pause", "empty"]),
    part=PARTS,
    hold=st.sampled_from([0.0, 0.1, 1.0]),
)


@st.composite
def kinds(draw: st.DrawFn, *algorithms: type[Rule]) -> Kind:
    algorithm = draw(st.sampled_from(algorithms))
    bucket = issubclass(algorithm, TokenBucket)
    return Kind(
        algorithm,
        capacity=draw(st.sampled_from([1, 3, 7, 10, 0.3, 997])),
        period=draw(st.sampled_from([1.0, 0.007, 60.0])),
        burst=draw(st.sampled_from([None, 1, 2, 5])) if bucket else None,
        concurrency=draw(st.sampled_from([0, 1, 2])),
    )


def lived(table: Table, steps: list[Step]) -> list[tuple[int, str, float, float]]:
    """What became of each step and when, in virtual time: (place, key and what, when, level)."""
    told: list[tuple[int, str, float, float]] = []

    async def take(place: int, step: Step) -> None:
        weight = step.part * table[step.key].burst
        match step.do:
            case "enter":
                async with table[step.key](weight):
                    told.append((place, f"{step.key} enters", now(), weight))
                    await asyncio.sleep(step.hold)
            case "consume":
                await table[step.key].consume(weight)
                told.append((place, f"{step.key} consumes", now(), weight))

    async def live() -> None:
        tasks: list[asyncio.Task[None]] = []
        for place, step in enumerate(steps):
            due = 0.0
            if step.until_due is not None:
                due = table[step.key].delay(step.until_due * table[step.key].burst)
            await asyncio.sleep(due + step.wait / 10**9)
            for new in range(3):  # new keys, so that old ones are looked at
                table[place, new]
            weight = step.part * table[step.key].burst
            match step.do:
                case "try":
                    granted = table[step.key].try_acquire(weight)
                    told.append((place, f"{step.key} tries: {granted}", now(), weight * granted))
                    if granted:
                        table[step.key].release()
                case "charge":
                    table[step.key].charge(weight)
                case "pause":
                    table[step.key].pause(step.hold)
                case "empty":
                    table[step.key].pause(step.hold, empty=True)
                case _:
                    tasks.append(await queued(take(place, step)))
            told.append((place, f"{step.key} has", now(), table[step.key].level))
        await asyncio.gather(*tasks)

    testing.run(live())
    return told


@given(
    kind=kinds(TokenBucket, LeakyBucket, SlidingWindow, FixedWindow),
    steps=st.lists(STEPS, max_size=15),
)
@examples(200)
@example(  # full within a nanosecond: one made just then would lag a third of a nanosecond
    kind=Kind(TokenBucket, 3, 1.0, 2, 0),
    steps=[
        Step(0, None, 0, "try", 0.5),
        Step(0, 1.0, 0, "try", 1.0),
        Step(0, 0.5, 0, "try", 0.5),
        Step(0, 0.5, 0, "try", 0.5),
    ],
)
@example(  # a window of which nothing is left does not tell when it was made
    kind=Kind(FixedWindow, 10, 1.0, None, 0),
    steps=[
        Step(0, None, 999_999_999, "try", 1.0),
        Step(0, None, 1, "try", 1.0),
        Step(0, None, 10**9 - 1, "try", 1.0),
        Step(0, None, 1, "try", 1.0),
    ],
)
@example(  # really forgotten in between
    kind=Kind(TokenBucket, 10, 1.0, None, 1),
    steps=[
        Step(0, None, 0, "enter", 1.0, 0.1),
        Step(1, 1.0, 0, "pause", 0.0, 1.0),
        Step(0, 1.0, 3 * 10**9, "enter", 1.0),
        Step(1, 1.0, 0, "enter", 1.0),
    ],
)
def test_callers_are_granted_as_if_no_key_were_ever_forgotten(
    kind: Kind, steps: list[Step]
) -> None:
    assert lived(Throttles(kind.make), steps) == lived(Naive(kind.make), steps)


# ------------------------------------------------------------- a throttle is in no reference cycle


async def is_taken_from_and_changed(throttle: Throttle) -> None:
    async with throttle, throttle(2) as lease:
        lease.settle(1)
    lease.settle(5)
    await throttle.acquire()
    throttle.release()
    (await throttle.lease(2)).release()
    await throttle.consume(2)
    throttle.charge(1)
    await asyncio.sleep(1)
    assert throttle.try_acquire()
    drained = await queued(throttle.drain())
    throttle.release()
    await drained
    await throttle(1)(others_run)()
    throttle.pause(1)
    throttle.pause(1, empty=True)
    await throttle.acquire()
    throttle.release()
    throttle.capacity, throttle.period, throttle.burst = 3, 0.1, 9
    throttle.pause(math.inf)
    throttle.resume()
    throttle.pause(10_000)
    given_up = await queued(throttle.drain())
    given_up.cancel()
    repr(throttle)


async def is_fought_for(throttle: Throttle) -> None:
    async def inside(place: int) -> None:
        async with throttle(3, priority=place % 2):
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(inside, range(20)))
    throttle.charge(50)
    throttle.concurrency = 1
    await throttle.acquire(0)
    for timeout in (0.1, 100):  # refused at once, and in the end
        with suppress(ThrottleTimeout):
            await throttle.acquire(timeout=timeout)
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await throttle.acquire()
    throttle.release()


async def is_refused(throttle: Throttle) -> None:
    with suppress(ResourceLimitError):
        await throttle.acquire(1_000)
    throttle.pause(math.inf)
    task = await queued(throttle.acquire())
    throttle.close()
    (refused,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(refused, ResourceLimitError)
    with suppress(ResourceLimitError):
        await throttle.acquire()


async def is_cancelled(throttle: Throttle) -> None:
    throttle.pause(100)
    waiting = [await queued(throttle.acquire(timeout=limit)) for limit in (None, 200, None)]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    async def inside() -> None:
        async with throttle(1):
            raise LookupError

    throttle.resume()
    with suppress(LookupError):
        await inside()


async def is_in_a_set_that_is_gone(throttle: Throttle) -> None:
    both = LimitSet(mine=throttle, other=Throttle(10), concurrency=2)

    async def inside() -> None:
        async with both(mine=3) as lease:
            await asyncio.sleep(0.01)
            lease.settle(mine=1)

    await asyncio.gather(*(inside() for _ in range(20)))
    both.pause(1)
    waiting = await queued(inside())
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


USES: list[Callable[[Throttle], Coroutine[Any, Any, None]]] = [
    is_taken_from_and_changed,
    is_fought_for,
    is_refused,
    is_cancelled,
    is_in_a_set_that_is_gone,
]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_nothing_keeps_a_throttle_after_it(
    use: Callable[[Throttle], Coroutine[Any, Any, None]],
) -> None:
    with without_collector():
        throttle = Throttle(10, 4)
        alive = weakref.ref(throttle)
        await use(throttle)
        await others_run()
        del throttle
        assert alive() is None


def test_nothing_keeps_a_throttle_that_was_used_in_one_event_loop_after_another() -> None:
    with without_collector():
        throttle = Throttle(10, 4)
        alive = weakref.ref(throttle)
        for use in (is_cancelled, is_taken_from_and_changed, is_fought_for):
            testing.run(use(throttle))
        del throttle
        assert alive() is None


# ----------------------------------------------------------------------------------------- threads
#
# Real threads. Nothing here depends on how long anything takes: the clock is moved by hand.


@contextmanager
def often_switched() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def together(count: int, work: Callable[[int], None]) -> None:
    """Run *work* in so many threads at once; the first error of them, if any."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(place: int) -> None:
        start.wait()
        try:
            work(place)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    with often_switched():
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for error in errors:
        raise error


ThreadHosts = Throttles[Any, threads.Throttle]


def test_all_threads_that_ask_for_a_key_get_the_same_throttle() -> None:
    hosts: ThreadHosts = Throttles(lambda key: threads.Throttle(1))
    keys = range(300)
    got: list[list[threads.Throttle]] = [[] for _ in range(4)]
    together(4, lambda place: got[place].extend(hosts[key] for key in keys))
    for key in keys:
        assert len({id(throttles[key]) for throttles in got}) == 1
    assert len({id(throttle) for throttle in got[0]}) == len(keys)
    assert set(hosts) == set(keys)


def test_threads_that_let_go_at_once_never_get_more_than_there_is() -> None:
    # What is taken stays missing, for the clock stands still. If a throttle were forgotten while
    # another thread was about to take from it, the next one would start full again.
    clock = Clock()
    hosts: ThreadHosts = Throttles(lambda key: threads.Throttle(3, timer=clock))
    granted: list[Counter[int]] = [Counter() for _ in range(4)]

    def work(place: int) -> None:
        for turn in range(600):
            key = turn // 3
            if hosts[key].try_acquire():
                hosts[key].release()
                granted[place][key] += 1
            hosts[place, turn]

    together(4, work)
    assert sum(granted, Counter()) == dict.fromkeys(range(200), 3)
    clock.seconds = 1
    newcomers(hosts, len(hosts))
    assert len(hosts) <= LOOKED_AT


def test_who_takes_at_the_moment_at_which_a_throttle_is_looked_at_is_not_forgotten() -> None:
    # A throttle is found idle. Before it is dropped, another thread takes from it and lets go.
    def watched(core: Core, now: int) -> bool:
        idle = is_idle(core, now)
        if core.name == "a" and not others:
            others.append(threading.Thread(target=take))
            others[0].start()
            others[0].join(0.2)  # long enough, if nothing held it up
        return idle

    def take() -> None:
        assert hosts["a"].try_acquire()

    others: list[threading.Thread] = []
    clock = Clock()
    hosts: ThreadHosts = Throttles(lambda key: threads.Throttle(3, name=str(key), timer=clock))
    is_idle = Core.idle
    with mock.patch.object(Core, "idle", watched):
        hosts["a"]
        hosts["b"]
    others[0].join()
    assert hosts["a"].level == 2


def test_what_dies_with_a_throttle_may_ask_for_a_key() -> None:
    class Farewell(Clock):
        def __del__(self) -> None:
            hosts["reborn"].charge(1)

    hosts: ThreadHosts = Throttles(
        lambda key: threads.Throttle(1, timer=Farewell() if key == "a" else Clock())
    )
    hosts["a"]
    worker = threading.Thread(target=lambda: hosts["b"], daemon=True)  # would hang for ever
    worker.start()
    worker.join(10)
    assert not worker.is_alive()
    assert "a" not in hosts
    assert hosts["reborn"].level == 0


def is_used_by_threads(throttle: threads.Throttle) -> None:
    def work(place: int) -> None:
        for turn in range(20):
            with throttle(1, priority=turn % 2) as lease:
                lease.settle(0)
        with suppress(ThrottleTimeout), throttle(1, timeout=0):
            pass

    together(3, work)
    with throttle:
        pass
    throttle.drain()
    throttle.pause(5)
    with LimitSet(throttle, threads.Throttle(5)).try_acquire():
        pass
    throttle.close()


def is_used_by_event_loops(throttle: threads.Throttle) -> None:
    async def inside() -> None:
        async with throttle(1):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(inside() for _ in range(20)))
        throttle.pause(math.inf)
        waiting = await queued(inside())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await others_run()

    together(2, lambda place: asyncio.run(main()) if place == 0 else None)
    throttle.resume()


@pytest.mark.parametrize("use", [is_used_by_threads, is_used_by_event_loops])
def test_nothing_keeps_a_throttle_for_threads_after_it(
    use: Callable[[threads.Throttle], None],
) -> None:
    with without_collector():
        throttle = threads.Throttle(1_000_000, 2)
        alive = weakref.ref(throttle)
        use(throttle)
        del throttle
        assert alive() is None


# --------------------------------------------------------------------------------- sets and pools


def a_set(account: Any = None, kind: Any = Throttle) -> Any:
    members = {"tokens": kind(10)} if account is None else {"tokens": kind(10), "account": account}
    return LimitSet(**members, concurrency=2)


def a_pool(account: Any = None, kind: Any = Throttle) -> Any:
    return LimitPool([a_set(account, kind), a_set(account, kind)])


def the_set(limiter: Any) -> Any:
    return limiter[0] if isinstance(limiter, LimitPool) else limiter


made_of_sets = pytest.mark.parametrize("make", [a_set, a_pool])
kinds_of_throttles = pytest.mark.parametrize("kind", [Throttle, threads.Throttle])


@made_of_sets
@kinds_of_throttles
async def test_a_set_is_kept_while_it_matters_and_forgotten_when_a_new_one_would_do(
    make: Any, kind: Any
) -> None:
    models = Throttles(lambda model: make(None, kind))
    limiter = models["a"]
    assert models["a"] is limiter
    del limiter
    newcomers(models)
    assert "a" not in models  # nothing was taken
    async with models["a"](tokens=5):
        newcomers(models)
        assert "a" in models
    newcomers(models)
    assert the_set(models["a"])["tokens"].level == 5
    await asyncio.sleep(0.5)
    newcomers(models)
    assert "a" not in models
    for change in (
        lambda: models["a"].close(),
        lambda: setattr(the_set(models["a"])["tokens"], "capacity", 5),
        lambda: the_set(models["a"])["concurrency"].close(),
    ):
        change()
        newcomers(models)
        assert "a" in models
        del models._throttles["a"]


@made_of_sets
async def test_a_pause_of_a_set_is_kept_until_it_ends(make: Any) -> None:
    models = Throttles(lambda model: make())
    models["a"].pause(5)
    newcomers(models)
    assert models["a"].paused_for == 5
    await asyncio.sleep(5)
    newcomers(models)
    assert "a" not in models


@made_of_sets
async def test_what_sets_share_does_not_keep_them(make: Any) -> None:
    account = Throttle(1_000)
    models = Throttles(lambda model: make(account))
    async with models["a"]:
        account.charge(500)
    await asyncio.sleep(0.2)  # what is of the key alone is there again
    assert account.level < 1_000
    newcomers(models)
    assert "a" not in models
    keys = range(200)
    for key in keys:
        async with models[key]:
            pass
        await asyncio.sleep(0.1)
    assert len(models) < 30
    assert len(models._ages) == len(models)


@made_of_sets
@pytest.mark.parametrize("part", ["limiter", "set", "tokens"])
async def test_a_set_is_kept_for_whoever_knows_a_part_of_it(make: Any, part: str) -> None:
    models = Throttles(lambda model: make())
    kept = models["a"]
    if part != "limiter":
        kept = the_set(kept)
    if part == "tokens":
        kept = kept["tokens"]
    newcomers(models)
    assert "a" in models
    del kept
    newcomers(models)
    assert "a" not in models


def test_limits_of_concurry_are_kept_for_whoever_knows_them() -> None:
    models = Throttles(lambda model: limits.LimitSet([limits.RateLimit("tokens", 60, None, 5)]))
    parts: list[Callable[[], Any]] = [
        lambda: models["a"]["tokens"],
        lambda: models["a"]["tokens"].throttle,
    ]
    for part in parts:
        kept = part()
        newcomers(models)
        assert "a" in models
        del kept
        newcomers(models)
        assert "a" not in models


@pytest.mark.parametrize(
    "one", [Throttle(5), threads.Throttle(5), a_set(), a_pool(), Throttle(5)(2)]
)
def test_a_limiter_in_the_place_of_a_factory_is_refused_at_once(one: Any) -> None:
    with pytest.raises(
        TypeError, match=r"as in Throttles\(lambda key: Throttle\(5\)\), got one for"
    ):
        Throttles(one)


# ------------------------------------------------------------------------- what a server has said


def alone(throttle: Throttle) -> Throttle:
    return throttle


def in_a_set(throttle: Throttle) -> LimitSet[Any]:
    return LimitSet(requests=throttle)


def in_a_pool(throttle: Throttle) -> LimitPool[Any]:
    return LimitPool([LimitSet(requests=throttle)])


def throttle_of(limiter: Any) -> Throttle:
    """The throttle that one of the three above was given."""
    if isinstance(limiter, Throttle):
        return limiter
    limit_set = limiter[0] if isinstance(limiter, LimitPool) else limiter
    found: Throttle = limit_set["requests"]
    return found


@pytest.mark.parametrize("made", [alone, in_a_set, in_a_pool])
@pytest.mark.parametrize("algorithm", [TokenBucket, SlidingWindow, FixedWindow])
async def test_what_a_server_has_said_keeps_a_key_for_a_period_after_it_was_said_last(
    made: Callable[[Throttle], Any], algorithm: type[Rule]
) -> None:
    hosts: Throttles[Any, Any] = Throttles(lambda key: made(Throttle(10, algorithm=algorithm)))

    def hears() -> None:
        throttle = throttle_of(hosts["a"])
        with learnt(throttle):
            throttle.capacity, throttle.period = 5, 60.0

    for _ in range(2):
        hears()
        for _ in range(2):
            await asyncio.sleep(29)
            newcomers(hosts)
            assert throttle_of(hosts["a"]).capacity == 5
    await asyncio.sleep(29)
    newcomers(hosts)
    assert "a" not in hosts
    assert throttle_of(hosts["a"]).capacity == 10


@pytest.mark.parametrize("made", [in_a_set, in_a_pool])
async def test_what_a_server_says_of_a_throttle_that_sets_share_keeps_none_of_them(
    made: Callable[[Throttle], Any],
) -> None:
    account = Throttle(10)
    users: Throttles[Any, Any] = Throttles(lambda key: made(account))
    for user in range(20):
        with learnt(throttle_of(users[user])):
            account.capacity = 5
    assert len(users) <= LOOKED_AT


@pytest.mark.parametrize("made", [alone, in_a_set, in_a_pool])
async def test_hosts_that_were_paused_and_lowered_are_forgotten_in_the_end(
    made: Callable[[Throttle], Any],
) -> None:
    hosts: Throttles[Any, Any] = Throttles(lambda key: made(Throttle(10, period=10)))
    for empty in (False, True):
        hosts["paused", empty].pause(30, empty=empty)
        throttle_of(hosts["its limit", empty]).pause(30, empty=empty)
    throttle_of(hosts["lowered"]).sync(remaining=1, reset=30)
    throttle_of(hosts["charged"]).charge(25)
    busy = {*hosts}
    newcomers(hosts)
    assert busy <= {*hosts}
    await asyncio.sleep(60)
    newcomers(hosts)
    assert not busy & {*hosts}


async def test_a_setting_that_the_user_changed_is_no_word_of_the_server_s() -> None:
    hosts: Hosts = Throttles(lambda key: Throttle(10))
    hosts["a"].concurrency = 3
    for key, error in (("a", None), ("b", LookupError("while it was set"))):
        with suppress(LookupError), learnt(hosts[key]):
            hosts[key].capacity = 5
            if error is not None:
                raise error
    await asyncio.sleep(60)
    newcomers(hosts)
    assert "a" in hosts
    assert "b" not in hosts
