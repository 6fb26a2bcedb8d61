"""Quotas that several processes share: what a call through a store costs, and who gets how many.

The processes are those of `tests/store_processes.py` and `tests/sqlite_workers.py`, the servers
those of `tests/servers_redis.py`.
"""

import asyncio
import functools
import importlib
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median
from typing import Any, TypeAlias

from async_throttle import LimitSet, Throttle
from async_throttle.stores import RedisStore, SQLiteStore

from .measure import cpu_time, undisturbed
from .peers import LIMITS, NOT_MEASURED, PYRATE_LIMITER, SELF_LIMITERS, TESTS, THROTTLED
from .rows import Bench, Group, Row

ROOT = TESTS.parent

BARE = "the bare transaction"
NOBODY = "nobody"

AMPLE = 1_000_000
"""Calls a second, and a burst, that no sample uses up."""

Acquire: TypeAlias = Callable[[], Coroutine[Any, Any, bool]]
"""One call through a limiter: whether it was granted."""

_names = (f"limit{n}" for n in itertools.count())
"""No sample finds what another has left."""


def served(
    work: Callable[[Bench, Any], Awaitable[list[Row]]],
) -> Callable[[Bench], Coroutine[Any, Any, list[Row]]]:
    """Give *work* a server of its own; or say that there is none."""

    @functools.wraps(work)
    async def run(bench: Bench) -> list[Row]:
        server = bench.peers.server
        if server.module is None:
            about = (work.__doc__ or work.__name__).splitlines()[0]
            return [Row(about, "us", NOT_MEASURED, server.name, NOT_MEASURED, None, {})]
        with server.module.start(server.name) as started:
            return await work(bench, started)

    return run


def requests(server: Any) -> int:
    """How many scripts *server* has run."""
    told = server.call("INFO", "commandstats").decode()
    found = re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+).*?failed_calls=(\d+)", told)
    return sum(int(calls) - int(failed) for calls, failed in found)


# -- one process -------------------------------------------------------------------------------


async def timed(acquire: Acquire, calls: int, tasks: int = 1) -> float:
    """Seconds on the clock per call, with connections that are there already."""

    async def several(count: int) -> None:
        for _ in range(count):
            assert await acquire(), "nobody was to be refused"

    await asyncio.gather(*[several(2) for _ in range(tasks)])
    with undisturbed():
        start = time.perf_counter()
        await asyncio.gather(*[several(calls) for _ in range(tasks)])
        return (time.perf_counter() - start) / (calls * tasks)


@asynccontextmanager
async def by_limits(lib: Any, url: str) -> AsyncIterator[Acquire]:
    storage = importlib.import_module("limits.aio.storage")
    strategies = importlib.import_module("limits.aio.strategies")
    pool = importlib.import_module("redis.asyncio").ConnectionPool.from_url(url)
    kept = storage.RedisStorage(f"async+{url}", implementation="redispy", connection_pool=pool)
    limiter = strategies.FixedWindowRateLimiter(kept)
    item, name = lib.RateLimitItemPerSecond(AMPLE), next(_names)

    async def acquire() -> bool:
        return await limiter.hit(item, name) is True

    yield acquire
    await pool.aclose()


@asynccontextmanager
async def by_pyrate_limiter(lib: Any, url: str) -> AsyncIterator[Acquire]:
    name = next(_names)
    async with importlib.import_module("redis.asyncio").Redis.from_url(url) as client:
        bucket = await lib.RedisBucket.init([lib.Rate(AMPLE, 1_000)], client, name)
        with lib.Limiter(bucket) as limiter:

            async def acquire() -> bool:
                return await limiter.try_acquire_async(name) is True

            yield acquire


@asynccontextmanager
async def by_throttled(lib: Any, url: str) -> AsyncIterator[Acquire]:
    lib = importlib.import_module("throttled.asyncio")
    quota = lib.rate_limiter.per_sec(AMPLE, burst=AMPLE)
    store = lib.store.RedisStore(server=url)
    limiter = lib.Throttled(key=next(_names), using="gcra", quota=quota, store=store)

    async def acquire() -> bool:
        return not (await limiter.limit()).limited

    yield acquire
    await store._backend.get_client().aclose()  # there is no public way


@asynccontextmanager
async def by_self_limiters(lib: Any, url: str) -> AsyncIterator[Acquire]:
    slots = lib.Semaphore(next(_names), capacity=100, redis_url=url, connection_pool_size=64)

    async def acquire() -> bool:
        async with slots:
            return True

    yield acquire


LIMITERS: Mapping[str, Callable[[Any, str], AbstractAsyncContextManager[Acquire]]] = {
    LIMITS: by_limits,
    PYRATE_LIMITER: by_pyrate_limiter,
    THROTTLED: by_throttled,
    SELF_LIMITERS: by_self_limiters,
}


def peers(url: str, calls: int, tasks: int = 1) -> dict[str, Callable[[Any], Awaitable[float]]]:
    """A sample of each peer."""

    def sample(name: str) -> Callable[[Any], Awaitable[float]]:
        async def run(lib: Any) -> float:
            async with LIMITERS[name](lib, url) as acquire:
                return await timed(acquire, calls, tasks)

        return run

    return {name: sample(name) for name in LIMITERS}


class Ours:
    """Samples of throttles with a store on *server*; and how many requests a call took."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.store = RedisStore(server.url)
        self.elsewhere = RedisStore(server.url)
        self.asked: dict[str, list[float]] = {}

    async def sample(self, name: str, acquire: Acquire, calls: int, tasks: int) -> float:
        before = requests(self.server)
        cost = await timed(acquire, calls, tasks)
        made = (calls + 2) * tasks
        self.asked.setdefault(name, []).append((requests(self.server) - before) / made)
        return cost

    async def one(self, name: str, fill: float, calls: int, tasks: int = 1) -> float:
        """Through one limit, of whose burst that part is there at first."""
        throttle = await self.throttle(fill)

        async def acquire() -> bool:
            await throttle.consume()
            return True

        return await self.sample(name, acquire, calls, tasks)

    async def three(self, name: str, fill: float, calls: int) -> float:
        """Through three limits, one of them with slots."""
        both = [await self.throttle(fill), await self.throttle(fill)]
        limits = LimitSet(*both, await self.throttle(fill, 10))

        async def acquire() -> bool:
            async with limits():
                return True

        return await self.sample(name, acquire, calls, 1)

    async def throttle(self, fill: float, concurrency: int = 0) -> Throttle:
        """One of whose burst that part is there at first, and that another session knows, too."""
        name = next(_names)
        made, other = (
            Throttle(
                1_000,  # so few come back that the level stays where it was
                concurrency,
                burst=AMPLE,
                initial=AMPLE * fill,
                store=store,
                name=name,
            )
            for store in (self.store, self.elsewhere)
        )
        await other.refresh()
        return made

    def rows(self, work: str, name: str) -> list[Row]:
        """The requests of *work*."""
        asked = self.asked[name]
        return [Row(f"requests of {work}", "requests", asked, NOBODY, NOT_MEASURED, None, {})]


FULL, HALF_FULL = 1.0, 0.45
"""Beside other sessions, permits are fetched ahead of the upper half only."""


@served
async def redis_alone(bench: Bench, server: Any) -> list[Row]:
    """Redis, one task, and nobody in its way."""
    calls, rounds = bench.pick((300, 21), (20, 3))
    ours = Ours(server)
    group = await bench.group(
        rounds,
        {
            "full": lambda: ours.one("full", FULL, calls),
            "half": lambda: ours.one("half", HALF_FULL, calls),
            "set, full": lambda: ours.three("set, full", FULL, calls),
            "set, half": lambda: ours.three("set, half", HALF_FULL, calls),
        },
        peers(server.url, calls),
    )
    assert median(ours.asked["half"]) > 0.9, f"each call was to ask: {ours.asked['half']}"
    rows = []
    for name, work, asked in (
        ("full", "Redis: consume(), bucket full", 1.35),
        ("half", "Redis: consume(), half full", 1.35),
        ("set, full", "Redis: a set of three limits and slots, full", 1.5),
        ("set, half", "Redis: a set of three limits and slots, half full", 1.5),
    ):
        rows += [group.row(work, "us", name, THROTTLED, asked), *ours.rows(work, name)]
    return rows


@served
async def redis_crowded(bench: Bench, server: Any) -> list[Row]:
    """Redis, 64 tasks of one process, beside the fastest peer."""
    tasks = 64
    calls, theirs, rounds = bench.pick((200, 20, 11), (5, 2, 1))
    ours = Ours(server)
    samples: dict[str, Any] = {
        "full": lambda: ours.one("full", FULL, calls, tasks),
        "half": lambda: ours.one("half", HALF_FULL, calls, tasks),
    }
    group = await bench.group(rounds, samples, peers(server.url, theirs, tasks))
    best = fastest(group)
    rows = []
    for name, work in (
        ("full", "Redis, 64 tasks: consume(), bucket full"),
        ("half", "Redis, 64 tasks: consume(), half full"),
    ):
        rows += [group.row(work, "us", name, best, 1 / 8), *ours.rows(work, name)]
    return rows


def fastest(group: Group) -> str:
    """The peer whose calls took least; the first, if none could be had."""
    costs = {name: group.found(name) for name in LIMITERS}
    return min(LIMITERS, key=lambda name: median(costs[name] or [math.inf]))


# -- two processes -----------------------------------------------------------------------------

Spans: TypeAlias = list[list[tuple[float, float]]]
"""Of each process, when its calls began and ended."""


def shared(url: str, calls: int, tasks: int, lasts: float, **made: Any) -> Spans:
    """What two processes do that make so many calls each in so many tasks."""
    what = [str(calls), str(tasks), str(lasts), json.dumps(made)]
    command = [sys.executable, "-m", "tests.store_processes", "work", url, *what]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert not any(process.returncode for process in processes)
    spans = [[(began, ended) for began, ended in json.loads(each)] for each in said]
    assert [len(each) for each in spans] == [calls * tasks] * 2, "everybody was to get through"
    return spans


@served
async def redis_rate(bench: Bench, server: Any) -> list[Row]:
    """Redis: 2 processes with 100 waiters each, at 50 calls a second."""
    tasks, rounds = bench.pick((100, 5), (10, 1))
    rate, burst = 50, 5
    spans, asked = [], []
    for _ in range(rounds):
        server.call("FLUSHALL")
        before = requests(server)
        told = shared(server.url, 1, tasks, 0, capacity=rate, burst=burst)
        asked.append((requests(server) - before) / (2 * tasks))
        starts = [began for each in told for began, _ in each]
        spans.append(max(starts) - min(starts))
    ideal = [(2 * tasks - burst) / rate] * rounds
    work = "Redis, 2 processes, 100 waiters each, 50/s"
    return [
        Row(f"{work}: until all are through", "s", spans, "ideal", ideal, 1.01, {}),
        Row(f"{work}: per acquire", "requests", asked, NOBODY, NOT_MEASURED, None, {}, 0.3),
    ]


@served
async def redis_slots(bench: Bench, server: Any) -> list[Row]:
    """Redis: 2 processes with 20 tasks each, and 4 slots for jobs of 5 ms."""
    calls, rounds = bench.pick((40, 7), (3, 1))
    tasks, slots, lasts = 20, 4, 0.005
    costs, bare, asked, fewest, most = [], [], [], [], []
    for _ in range(rounds):
        bare.append(await unlimited(slots, 2 * tasks * calls // slots, lasts))
        server.call("FLUSHALL")
        before = requests(server)
        made = {"capacity": math.inf, "concurrency": slots}
        told = shared(server.url, calls, tasks, lasts, **made)
        jobs = 2 * tasks * calls
        asked.append((requests(server) - before) / jobs)
        assert crowd(told) <= slots, "more jobs at once than there are slots"
        first, last = zip(*map(ends, told), strict=True)
        costs.append((max(last) - min(first)) / jobs)
        both = max(first), min(last)
        done = [sum(both[0] <= began and end <= both[1] for began, end in each) for each in told]
        fewest.append((both[1] - both[0]) / max(1, min(done)))
        most.append((both[1] - both[0]) / max(1, max(done)))
    work = "Redis, 2 processes, 20 tasks each, 4 slots of 5 ms"
    return [
        Row(f"{work}: a job", "ms", costs, "4 loops, no limit", bare, 1 / 0.9, {}),
        Row(f"{work}: per job", "requests", asked, NOBODY, NOT_MEASURED, None, {}, 0.1),
        Row(f"{work}: a job of the slower", "ms", fewest, "of the other", most, None, {}),
    ]


async def unlimited(tasks: int, calls: int, lasts: float) -> float:
    """Seconds per job of tasks that nothing holds up: timers are late, too."""

    async def several() -> None:
        for _ in range(calls):
            await asyncio.sleep(lasts)

    start = time.perf_counter()
    await asyncio.gather(*[several() for _ in range(tasks)])
    return (time.perf_counter() - start) / (tasks * calls)


def ends(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """When the first of *spans* began, and the last one ended."""
    return min(began for began, _ in spans), max(ended for _, ended in spans)


def crowd(told: Spans) -> int:
    """The most calls that were under way at once."""
    changes = sorted(
        change for each in told for began, ended in each for change in ((began, 1), (ended, -1))
    )
    return max(itertools.accumulate(change for _, change in changes))


# -- memory ------------------------------------------------------------------------------------


@served
async def redis_memory(bench: Bench, server: Any) -> list[Row]:
    """Redis: bytes of a bucket, and of each session that holds a slot."""
    sessions, ttl, prefix = bench.pick(64, 8), 0.1, "openai:"
    store = RedisStore(server.url, prefix=prefix)

    def size(name: str) -> int:
        return int(server.call("MEMORY", "USAGE", f"{{{prefix}}}{name}"))

    bucket = Throttle(
        500,
        period=60,
        store=RedisStore(server.url, prefix=prefix, ttl=ttl),
        name="requests",
    )
    await bucket.consume(400)
    bucket.close()
    while store.look()["requests"]["sessions"]:
        await asyncio.sleep(ttl)
        await asyncio.to_thread(store.resume, "requests")  # whoever comes next buries it
    alone = size("requests")

    holders, sizes = [], []
    for _ in range(sessions + 1):
        kept = RedisStore(server.url, prefix=prefix)  # so that it has a session of its own
        holders.append(Throttle(100, 1_000, store=kept, name="slots"))
        await holders[-1].acquire()
        sizes.append(size("slots"))
    assert len(store.look()["slots"]["sessions"]) == sessions + 1
    for holder in holders:
        holder.release()
        await holder.drain()
    each = (sizes[-1] - sizes[0]) / sessions
    return [
        Row("memory of a bucket", "B", [alone], NOBODY, NOT_MEASURED, None, {}, 100),
        Row("memory of a live session", "B", [each], NOBODY, NOT_MEASURED, None, {}, 200),
    ]


# -- a file ------------------------------------------------------------------------------------


async def sqlite_throttle(bench: Bench) -> list[Row]:
    """SQLite, one task through a throttle, nobody else at the file."""
    calls, rounds = bench.pick((1_000, 21), (30, 3))
    with tempfile.TemporaryDirectory() as folder:
        store, elsewhere = SQLiteStore(f"{folder}/quota.db"), SQLiteStore(f"{folder}/quota.db")

        def throttle(fill: float, place: SQLiteStore, name: str) -> Throttle:
            initial = AMPLE * fill
            return Throttle(1_000, burst=AMPLE, initial=initial, store=place, name=name)

        async def consume(fill: float) -> float:
            name = next(_names)
            await throttle(fill, elsewhere, name).refresh()
            limit = throttle(fill, store, name)
            for _ in range(20):
                await limit.consume()
            with undisturbed():
                start = cpu_time()
                for _ in range(calls):
                    await limit.consume()
                return (cpu_time() - start) / calls

        first = throttle(HALF_FULL, store, next(_names))
        await first.consume()
        state = next(iter(store.look().values()))
        text = json.dumps(state, separators=(",", ":"))
        texts = [f"{text[:-4]}{n:03}}}" for n in range(100)]
        write = importlib.import_module("sqlite_workers").bare(f"{folder}/bare.db", texts)

        async def bare() -> float:
            with undisturbed():
                start = cpu_time()
                for _ in range(calls):
                    write()
                return (cpu_time() - start) / calls

        group = await bench.group(
            rounds,
            {"full": lambda: consume(FULL), "half": lambda: consume(HALF_FULL), BARE: bare},
        )
    return [
        group.row("SQLite: consume(), bucket full", "us", "full", BARE, 1.5),
        group.row("SQLite: consume(), half full", "us", "half", BARE, 1.5),
    ]


def started(what: str, path: str, seconds: float, count: int) -> list[list[list[Any]]]:
    """What *count* processes say that work on a file at the same time."""
    command = [sys.executable, "-m", "tests.sqlite_workers", what, path, str(seconds)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b'["ready"]\n'
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate(timeout=seconds + 60)[0] for process in processes]
    assert not any(process.returncode for process in processes)
    return [[json.loads(line) for line in each.splitlines()] for each in said]


async def sqlite_alone(bench: Bench) -> list[Row]:
    """A step on one limit, nobody else at the file."""
    with tempfile.TemporaryDirectory() as folder:
        ((*samples,),) = started("compare", f"{folder}/quota.db", bench.pick(5.0, 0.2), 1)
    bare, ours, step = map(list, zip(*samples, strict=True))
    return [
        Row("SQLiteStore: a step on one limit", "us", ours, BARE, bare, 1.5, {}),
        Row("the step and its text alone", "us", step, BARE, bare, None, {}),
    ]


async def sqlite_crowded(bench: Bench) -> list[Row]:
    """Four processes that do nothing but ask for steps of one file."""
    slowest, fastest, waits = [], [], []
    seconds, rounds = bench.pick((3.0, 5), (0.2, 1))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            said = started("saturate", f"{folder}/quota.db", seconds, 4)
        calls = [each[0][0] for each in said]
        slowest.append(seconds / min(calls))
        fastest.append(seconds / max(calls))
        waits.append(max(each[0][1] for each in said))
    return [
        Row("4 processes saturate a file: the slowest", "us", slowest, "fastest", fastest, 1.5, {}),
        Row("the longest wait of any of them", "ms", waits, "nobody", NOT_MEASURED, None, {}, 0.1),
    ]
