"""Several limits at once, and threads: beside concurry, in the words that both understand.

Where it can be the same code for both it is, with only the module exchanged. Blocking calls run in
a thread in which no event loop runs, as they would in a program of their users.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import mean
from typing import Any, TypeAlias, TypeVar

from async_throttle import LimitSet, Throttle
from async_throttle import limits as ours

from .measure import cpu_time, undisturbed
from .peers import CONCURRY, NOT_MEASURED
from .rows import SLOTS, Answer, Bench, Finding, Group, Row

T = TypeVar("T")

Library: TypeAlias = Any
"""`async_throttle.limits`, or `concurry`."""

OURS = "ours"

ASKED, USED = {"tokens": 100}, {"tokens": 80}
"""What the calls take, and what they then turn out to have used."""

ONE = {"tokens": 1}

AMPLE, HOUR = 1_000_000_000, 3600
"""A capacity that no sample comes to the end of, and seconds in which it comes back."""


async def concurry(bench: Bench) -> list[Finding]:
    """All of it: the module is one group of rows."""
    return [
        *await acquiring(bench),
        *await acquiring_in_threads(bench),
        *await crossing_window(bench),
        *await waking(bench),
        *await waking_at_once(bench),
        *await waiting_in_tasks(bench),
        *await answering(bench),
    ]


def both(bench: Bench, sample: Callable[[Library], Awaitable[T]]) -> dict[str, Any]:
    """The contenders: ours and, where it is installed, concurry's."""
    lib = bench.peers.concurry
    return {
        OURS: partial(sample, ours),
        CONCURRY: NOT_MEASURED if lib is None else partial(sample, lib),
    }


def together(lib: Library, *limits: Any, **config: str) -> Any:
    return lib.LimitSet(limits=list(limits), shared=True, mode="thread", config=config)


def rate(lib: Library, capacity: int, seconds: float, algorithm: str = "TokenBucket") -> Any:
    return lib.RateLimit(
        key="tokens",
        window=seconds,
        algorithm=getattr(lib.RateLimitAlgorithm, algorithm),
        capacity=capacity,
    )


def calls_limit(lib: Library) -> Any:
    return lib.CallLimit(window=HOUR, algorithm=lib.RateLimitAlgorithm.TokenBucket, capacity=AMPLE)


def one_limit(lib: Library) -> Any:
    return together(lib, rate(lib, AMPLE, HOUR))


def three_limits(lib: Library) -> Any:
    slots = lib.ResourceLimit(key="connections", capacity=SLOTS)
    return together(lib, rate(lib, AMPLE, HOUR), calls_limit(lib), slots)


def drained(lib: Library, capacity: int, seconds: float, algorithm: str = "TokenBucket") -> Any:
    """A set whose only limit has nothing left as of now."""
    limits = together(lib, rate(lib, capacity, seconds, algorithm))
    with limits.acquire(requested={"tokens": capacity}) as acquisition:
        acquisition.update(usage={"tokens": capacity})
    return limits


# --- nobody waits ---------------------------------------------------------------------------------


def acquire(limits: Any, calls: int) -> None:
    for _ in range(calls):
        with limits.acquire(requested=ASKED) as acquisition:
            acquisition.update(usage=USED)


def cost(make: Callable[[], Any], calls: int) -> float:
    """Processor time of one call: acquire, update, release."""
    limits = make()
    with undisturbed():
        start = cpu_time()
        acquire(limits, calls)
        elapsed = cpu_time() - start
    spent = AMPLE - limits.get_stats()["tokens"]["available_tokens"]
    assert 0 < spent <= 80 * calls + 1, f"not updated: {spent}"
    return elapsed / calls


async def cost_of_native(api: LimitSet, calls: int) -> float:
    """The same in asyncio and in our words."""
    with undisturbed():
        start = cpu_time()
        for _ in range(calls):
            async with api(tokens=100) as lease:
                lease.settle(tokens=80)
        elapsed = cpu_time() - start
    assert AMPLE - 80 * calls <= api["tokens"].level < AMPLE
    return elapsed / calls


async def acquiring(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((3_000, 21), (100, 3))

    async def group(make: Callable[[Library], Any], concurrency: int, *limits: str) -> Group:
        async def sample(lib: Library) -> float:
            return await asyncio.to_thread(cost, partial(make, lib), calls)

        async def native() -> float:
            members = {limit: Throttle(AMPLE, period=HOUR) for limit in limits}
            api = LimitSet(concurrency=concurrency, **members)  # type: ignore[call-overload]
            return await cost_of_native(api, calls)

        return await bench.group(rounds, {"native": native, **both(bench, sample)})

    one = await group(one_limit, 0, "tokens")
    three = await group(three_limits, SLOTS, "tokens", "requests")
    return [
        one.row("acquire, update, release: one bucket", "us", OURS, CONCURRY, 0.15),
        one.row("async with api(...), settle: one bucket", "us", "native", CONCURRY, 0.15),
        three.row("acquire, update, release: three limits", "us", OURS, CONCURRY, 0.15),
        three.row("async with api(...), settle: three limits", "us", "native", CONCURRY, 0.15),
    ]


def cost_in_threads(lib: Library, calls: int, count: int) -> float:
    """Seconds per call of *count* threads that share one bucket."""
    limits = one_limit(lib)
    ready = threading.Barrier(count + 1)

    def work() -> None:
        ready.wait()
        acquire(limits, calls)

    threads = [threading.Thread(target=work) for _ in range(count)]
    with undisturbed():
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
    # What came back meanwhile is at most a fraction of what one call used.
    spent = AMPLE - limits.get_stats()["tokens"]["available_tokens"]
    assert spent <= 80 * calls * count + 1
    return elapsed / (calls * count)


async def acquiring_in_threads(bench: Bench) -> list[Row]:
    calls, rounds = bench.pick((3_000, 11), (50, 3))

    async def sample(lib: Library) -> float:
        return await asyncio.to_thread(cost_in_threads, lib, calls, 4)

    group = await bench.group(rounds, both(bench, sample))
    return [group.row("4 threads on one bucket, time per call", "us", OURS, CONCURRY, 1 / 4)]


# --- many calls inside a sliding window -----------------------------------------------------------


def cost_inside(lib: Library, inside: int, seconds: float, calls: int) -> float:
    """Processor time of a call that finds *inside* calls in the window, come in over *seconds*."""
    limits = together(lib, rate(lib, inside + calls, 100 * seconds, "SlidingWindow"))
    batch = 10
    start = time.perf_counter()
    for first in range(0, inside, batch):
        # Evenly, because calls of the same instant may be counted as one.
        time.sleep(max(0.0, start + seconds * first / inside - time.perf_counter()))
        for _ in range(batch):
            with limits.acquire(requested=ONE) as acquisition:
                acquisition.update(usage=ONE)
    with undisturbed():
        began = cpu_time()
        for _ in range(calls):
            with limits.acquire(requested=ONE) as acquisition:
                acquisition.update(usage=ONE)
        elapsed = cpu_time() - began
    assert not limits.try_acquire(requested=ONE).successful, "somebody has left the window"
    return elapsed / calls


async def crossing_window(bench: Bench) -> list[Row]:
    """The real clock. `windows.crossing` moves one by hand, and has calls leave as others come."""
    few, (many, seconds), calls, rounds = bench.pick(
        (100, (10_000, 1.5), 300, 5), (10, (500, 0.1), 50, 1)
    )
    lib = bench.peers.concurry

    async def sample(lib: Library, inside: int) -> float:
        spread = seconds * inside / many
        return await asyncio.to_thread(cost_inside, lib, inside, spread, calls)

    group = await bench.group(
        rounds,
        {
            "few": lambda: sample(ours, few),
            OURS: lambda: sample(ours, many),
            f"{few:,} inside": lambda: sample(ours, few),
            CONCURRY: NOT_MEASURED if lib is None else lambda: sample(lib, many),
        },
    )
    work = f"SlidingWindow, {many:,} calls inside"
    return [
        group.row(f"{work}: flat", "us", OURS, f"{few:,} inside", 1.25),
        group.row(work, "us", OURS, CONCURRY, None),
    ]


# --- somebody waits -------------------------------------------------------------------------------

Late: TypeAlias = tuple[float, float, float]
"""Seconds too late, on average and at most; the share of a core that it took to wait for it."""

Wait: TypeAlias = Callable[[Callable[[], None]], None]
"""Waits for its turn, says so, and ends."""


def turn(limits: Any) -> Wait:
    def wait(go: Callable[[], None]) -> None:
        with limits.acquire(requested=ONE) as acquisition:
            go()
            acquisition.update(usage=ONE)

    return wait


def lateness(waits: Sequence[Wait], due: Sequence[float]) -> Late:
    """How late threads that wait are for the instants at which somebody is *due*, in order."""
    went: list[float] = []

    def go() -> None:
        went.append(time.perf_counter())

    threads = [threading.Thread(target=wait, args=(go,)) for wait in waits]
    for thread in threads:
        thread.start()
    started, cpu = time.perf_counter(), cpu_time()
    assert started < due[0], "somebody was due before all of them waited"
    for thread in threads:
        thread.join()
    share = (cpu_time() - cpu) / (time.perf_counter() - started)
    late = [instant - turn for instant, turn in zip(sorted(went), due, strict=True)]
    # A timer that came late is paid back up to 5 ms; nothing else is a reason to be early.
    assert min(late) > -0.005, f"early by {-min(late)} s"
    return mean(late), max(late), share


FIRST = 0.5
"""Seconds until the first one is due, in which all threads come to wait."""


def sometime(n: int, apart: float) -> float:
    """Seconds until the *n*-th is due: not in step with those who look every ten milliseconds."""
    return FIRST + (n + random.random()) * apart


def late_on_their_own(lib: Library, count: int, apart: float) -> Late:
    """Each thread waits for a bucket of its own."""
    sets, due = [], []
    for n in range(count):
        wait = sometime(n, apart)
        sets.append(drained(lib, 1, wait))
        due.append(time.perf_counter() + wait)
    return lateness([turn(limits) for limits in sets], due)


def late_on_one_window(lib: Library, count: int, apart: float) -> Late:
    """All threads wait for one full window, from which one after the other leaves."""
    seconds = count * apart + sometime(0, 0.01)
    limits = together(lib, rate(lib, count, seconds, "SlidingWindow"))
    start = time.perf_counter()
    due: list[float] = []
    for n in range(count):
        time.sleep(max(0.0, start + sometime(n, apart) - FIRST - time.perf_counter()))
        turn(limits)(lambda: due.append(time.perf_counter() + seconds))
    return lateness([turn(limits)] * count, due)


def late_at_once(lib: Library, count: int) -> Late:
    """All threads wait for one window, and are due at the same instant."""
    seconds = sometime(0, 0.01)
    limits = drained(lib, count, seconds, "SlidingWindow")
    return lateness([turn(limits)] * count, [time.perf_counter() + seconds] * count)


def late_on_locks(count: int) -> Late:
    """What the interpreter needs: threads on locks that one thread opens, one after the other."""
    locks = [threading.Lock() for _ in range(count)]
    for lock in locks:
        lock.acquire()

    def behind(lock: threading.Lock) -> Wait:
        def wait(go: Callable[[], None]) -> None:
            with lock:
                go()

        return wait

    due = time.perf_counter() + FIRST

    def open_all() -> None:
        time.sleep(max(0.0, due - time.perf_counter()))
        for lock in locks:
            lock.release()

    opener = threading.Thread(target=open_all)
    opener.start()
    late = lateness([behind(lock) for lock in locks], [due] * count)
    opener.join()
    return late


async def waking(bench: Bench) -> list[Row]:
    (count, apart), rounds = bench.pick(((100, 0.02), 3), ((10, 0.02), 1))
    rows = []
    for where, sample in (
        ("a bucket each", late_on_their_own),
        ("one window", late_on_one_window),
    ):

        async def run(lib: Library, sample: Any = sample) -> Late:
            return await asyncio.to_thread(sample, lib, count, apart)

        average, latest, share = await bench.groups(
            rounds,
            both(bench, run),
            3,
        )
        work = f"{count} threads wait on {where}, due {apart * 1000:.0f} ms apart"
        rows += [
            average.row(f"{work}: late on average", "ms", OURS, CONCURRY, None, most=0.001),
            latest.row(f"{work}: late at most", "ms", OURS, CONCURRY, None),
            share.row(f"{work}: share of a core", "%", OURS, CONCURRY, None, most=0.02),
        ]
    return rows


async def waking_at_once(bench: Bench) -> list[Row]:
    """Here most of it is the interpreter, which has to switch to each of the threads."""
    count, rounds = bench.pick((100, 9), (10, 1))

    async def run(lib: Library) -> Late:
        return await asyncio.to_thread(late_at_once, lib, count)

    async def run_locks() -> Late:
        return await asyncio.to_thread(late_on_locks, count)

    locks = f"{count} bare locks"
    average, latest, _ = await bench.groups(
        rounds,
        {locks: run_locks, **both(bench, run)},
        3,
    )
    work = f"{count} threads, due at once"
    return [
        average.row(f"{work}: late on average", "ms", OURS, CONCURRY, None),
        average.row(f"{work}: late on average, beside locks", "ms", OURS, locks, None),
        latest.row(f"{work}: late at most", "ms", OURS, CONCURRY, None),
    ]


async def share_of_waiting(call: Callable[[], Any], count: int, seconds: float) -> float:
    """The share of a core that *count* tasks take while they wait, and now and then one goes."""
    tasks = [asyncio.create_task(call()) for _ in range(count)]
    await asyncio.sleep(0.2)
    left = sum(task.done() for task in tasks)
    start, cpu = time.perf_counter(), cpu_time()
    await asyncio.sleep(seconds)
    share = (cpu_time() - cpu) / (time.perf_counter() - start)
    went = sum(task.done() for task in tasks) - left
    assert 0 < went < count - left, "they were to wait, and one after the other to go"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return share


async def waiting_in_tasks(bench: Bench) -> list[Row]:
    """50 go each second. concurry's documented `acquire` would block the loop: CC-10."""
    count, seconds, rounds = bench.pick((1_000, 2.0, 3), (50, 0.2, 1))
    lib = bench.peers.concurry

    async def with_ours() -> float:
        limits = drained(ours, 50, 1.0)

        async def call() -> None:
            async with limits.acquire(requested=ONE) as acquisition:
                acquisition.update(usage=ONE)

        return await share_of_waiting(call, count, seconds)

    async def with_theirs() -> float:
        limits = drained(lib, 50, 1.0)

        async def call() -> None:
            async with await limits.async_acquire(requested=ONE) as acquisition:
                acquisition.update(usage=ONE)

        return await share_of_waiting(call, count, seconds)

    async def native() -> float:
        api = LimitSet(tokens=Throttle(50, initial=0))

        async def call() -> None:
            async with api(tokens=1) as lease:
                lease.settle(tokens=1)

        return await share_of_waiting(call, count, seconds)

    group = await bench.group(
        rounds,
        {
            OURS: with_ours,
            "native": native,
            CONCURRY: NOT_MEASURED if lib is None else with_theirs,
        },
    )
    work = f"{count:,} tasks wait"
    return [
        group.row(f"{work}: share of a core", "%", OURS, CONCURRY, None, most=0.02),
        group.row(f"{work} in async with api(...)", "%", "native", CONCURRY, None, most=0.02),
    ]


# --- no stopwatch ---------------------------------------------------------------------------------


def body_raises(lib: Library) -> str:
    limits = together(
        lib, rate(lib, AMPLE, HOUR), lib.ResourceLimit(key="connections", capacity=SLOTS)
    )
    try:
        with limits.acquire(requested=ASKED):
            raise ConnectionError("the service hung up")
    except Exception as error:
        held = limits.get_stats()["connections"]["current_usage"]
        return f"{type(error).__name__}, {held} slots leaked"


def one_set_is_full(lib: Library) -> str:
    sets = [
        together(lib, lib.ResourceLimit(key="connections", capacity=SLOTS), region=region)
        for region in ("us", "eu")
    ]
    pool = lib.LimitPool(
        limit_sets=sets, load_balancing=lib.LoadBalancingAlgorithm.RoundRobin, worker_index=0
    )
    idle = 0
    with sets[0].acquire(requested={"connections": SLOTS}):
        for _ in range(10):
            with (
                contextlib.suppress(TimeoutError),
                pool.acquire(requested={"connections": 1}, timeout=0.02) as acquisition,
            ):
                idle += acquisition.config["region"] == "eu"
    return f"{idle} of 10 go to the idle one"


def heavy_among_light(lib: Library, patience: float) -> str:
    capacity, lights = 20, 4
    limits = drained(lib, capacity, 0.1)
    over = threading.Event()
    light = 0

    def one_after_the_other() -> None:
        nonlocal light
        while not over.is_set():
            turn(limits)(lambda: None)
            light += 1

    threads = [threading.Thread(target=one_after_the_other) for _ in range(lights)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    before = light
    try:
        with limits.acquire(requested={"tokens": capacity}, timeout=patience) as acquisition:
            passed = light - before
            acquisition.update(usage={"tokens": capacity})
    except TimeoutError:
        return f"not within {patience:g} s"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # Each of the light ones may have been ahead, and be counted when it has come back.
    return "in turn" if passed <= 2 * lights else f"after {passed} light ones"


async def answering(bench: Bench) -> list[Answer]:
    patience = bench.pick(5.0, 2.0)
    lib = bench.peers.concurry

    async def asked(question: str, ask: Callable[[Library], str], wanted: str) -> Answer:
        we = await asyncio.to_thread(ask, ours)
        they = NOT_MEASURED if lib is None else await asyncio.to_thread(ask, lib)
        return Answer(question, we, CONCURRY, they, wanted)

    return [
        await asked(
            "the body raises ConnectionError before update()",
            body_raises,
            "ConnectionError, 0 slots leaked",
        ),
        await asked(
            "a pool of two, one of them full", one_set_is_full, "10 of 10 go to the idle one"
        ),
        await asked(
            "a heavy request among light ones",
            partial(heavy_among_light, patience=patience),
            "in turn",
        ),
    ]
