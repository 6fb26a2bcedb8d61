"""The independent proof: real limiters and a naive `Oracle` live the same life, step by step.

Hypothesis invents a throttle with odd numbers; or throttles of all kinds, sets that share them and
a pool of these sets; and a life for them: callers of every kind (of one throttle, of a set, of the
pool, of a set made for this one call, of a throttle made for its key), of several priorities;
cancellations, pauses, resizes, settlements, debts, closing, and time. Some operations share one
step of the event loop, which is where the races are. After each step everything that can be seen
must be equal, instants to the nanosecond, and what needs no oracle is checked on what the callers
themselves recorded: no throttle ever admits more than it may, over all who use it; slots are never
exceeded.

Atomic: a call takes of all its limits or of none. The level of each throttle, after each step, is
what the oracle gets by replaying exactly the grants, charges and settlements that callers saw.

``--hypothesis-show-statistics`` prints the number, and which answers were met how often.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final, Literal, TypeVar

import pytest
from hypothesis import event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from oracle import (
    LATE,
    MS,
    TOKEN,
    Algorithm,
    Call,
    Gate,
    Limit,
    Option,
    Oracle,
    Together,
    of_throttle,
)
from support import check, examples

from async_throttle import (
    GCRA,
    FixedWindow,
    LeakyBucket,
    LimitPool,
    LimitSet,
    ResourceLimitError,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    Throttles,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
)
from async_throttle._shell import fast
from async_throttle._units import nanoseconds as of_users
from async_throttle.testing import VirtualTimeLoop

T = TypeVar("T")
Exit = Literal["return", "raise", "cancel"]

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

KEYS: Final = 4
"""Of how many keys there are throttles."""

# ----------------------------------------------------------------- what Hypothesis may choose

Kind = Literal["acquire", "lease", "block", "plain block", "consume"]
"""How the caller asks. A set and the pool have no "lease" (it is `acquire`) and no "consume"."""


@dataclass(frozen=True, slots=True)
class Eighths:
    """A weight as a share of the most that there can be, or a time as one of the time to fill."""

    count: int


@dataclass(frozen=True, slots=True)
class UntilNext:
    """The instant at which something is due, or a nanosecond beside it."""

    beside: int = 0


Weight = int | Eighths | None
"""None is not named."""
Timeout = int | float | UntilNext | None
Time = int | UntilNext | Eighths

WEIGHTS: Final[st.SearchStrategy[Weight]] = st.one_of(
    st.none(),
    st.sampled_from([0, TOKEN, 2 * TOKEN, 3 * TOKEN, TOKEN // 2, TOKEN // 3]),
    st.integers(0, 8).map(Eighths),
    st.sampled_from([Eighths(8), Eighths(8), Eighths(9)]),
    st.sampled_from([TOKEN // 10, 5 * TOKEN, 1]) | st.integers(0, 3 * TOKEN),
)
PLAIN: Final = st.sampled_from(
    [*(n * TOKEN for n in (1, 1, 2, 3, 5, 10)), TOKEN // 2, TOKEN // 3, 5 * TOKEN // 2]
)
CAPACITIES: Final = st.one_of(
    PLAIN,
    st.sampled_from([8 * TOKEN, 7 * TOKEN, 100 * TOKEN, 999_999 * TOKEN]),
    st.sampled_from([TOKEN // 10, 7 * TOKEN // 10]),
    st.integers(TOKEN // 100, 20 * TOKEN),
)
BURSTS: Final = st.sampled_from([n * TOKEN for n in (1, 2, 3, 5, 8)])
PERIODS: Final = st.sampled_from(
    [SECOND, SECOND, SECOND // 2, SECOND // 3, 3 * SECOND, 100 * MS, 7, 60 * SECOND]
)
TIMEOUTS: Final[st.SearchStrategy[Timeout]] = st.one_of(
    st.none(),
    st.none(),
    st.integers(-1, 1).map(UntilNext),
    st.sampled_from([0, -SECOND, 1, 100 * MS, SECOND, 10 * SECOND, math.inf]),
)
TIMES: Final[st.SearchStrategy[Time]] = st.one_of(
    st.integers(-1, 1).map(UntilNext),
    st.integers(1, 12).map(Eighths),
    st.sampled_from([1, MS, 100 * MS, SECOND // 3, SECOND // 2, SECOND, 3 * SECOND, 10 * SECOND]),
    st.integers(1, 3 * SECOND),
)
PAUSES: Final[st.SearchStrategy[int | float]] = st.one_of(
    st.sampled_from([0, 1, 100 * MS, SECOND // 2, SECOND, 2 * SECOND, math.inf]),
    st.integers(0, 3 * SECOND),
)
PRIORITIES: Final = st.sampled_from([0, 0, 0, 1, 1, -1])
LINGERS: Final = st.sampled_from([None, 0, 100 * MS, SECOND // 3, 2 * SECOND])
WHICH: Final = st.integers(0, 7)
"""Which of those in question, counted round."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: a throttle, a set, the pool, two throttles taken together, or a key's."""

    what: Literal["throttle", "set", "pool", "two", "key", "with key"]
    which: int
    other: int


TARGETS: Final = st.builds(
    Target,
    st.sampled_from(["throttle"] * 2 + ["set"] * 4 + ["pool"] * 2 + ["two", "key", "with key"]),
    WHICH,
    WHICH,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A caller to come."""

    target: Target
    kind: Kind
    weights: tuple[Weight, ...]
    timeout: Timeout = None
    priority: int = 0


MOST_MEMBERS: Final = 3
ARRIVALS: Final = st.builds(
    Arrival,
    TARGETS,
    st.sampled_from(["block", "acquire", "lease", "plain block", "consume"]),
    st.tuples(*[WEIGHTS] * MOST_MEMBERS),
    TIMEOUTS,
    PRIORITIES,
)
SET_ARRIVALS: Final = st.builds(
    Arrival,
    st.builds(Target, st.sampled_from(["set", "set", "set", "two", "pool"]), WHICH, WHICH),
    st.sampled_from(["block", "acquire", "lease"]),
    st.tuples(*[WEIGHTS] * MOST_MEMBERS),
    st.none(),
    PRIORITIES,
)


@dataclass(frozen=True, slots=True)
class Numeral:
    """A throttle to build, in the oracle's units."""

    algorithm: Algorithm
    capacity: int | None
    concurrency: int
    period: int
    burst: int | None
    max_waiting: int | None
    initial: int | None = None
    used: int = 0
    to_the_end: bool = False
    linger: int | None = None


@st.composite
def odd_numerals(draw: st.DrawFn) -> Numeral:
    """For a throttle that lives alone: any numbers, as none has to fit to that of another."""
    algorithm = draw(st.sampled_from(list(ALGORITHMS)))
    window = algorithm in ("SlidingWindow", "FixedWindow")
    capacity = draw(st.one_of(CAPACITIES, CAPACITIES, CAPACITIES, st.none()))
    limited = not window and capacity is not None
    burst = draw(st.one_of(st.none(), CAPACITIES)) if limited else None
    most = Limit("", algorithm, capacity, burst=burst).burst
    return Numeral(
        algorithm,
        capacity,
        draw(st.integers(0, 3)),
        draw(PERIODS),
        burst,
        draw(st.sampled_from([None, None, None, 0, 1, 3])),
        draw(st.none() | st.integers(0, 8).map(lambda n: most * n // 8)) if most else None,
        to_the_end=most is not None and algorithm != "FixedWindow" and draw(st.booleans()),
        linger=draw(LINGERS),
    )


@st.composite
def numerals(draw: st.DrawFn) -> Numeral:
    algorithm = draw(st.sampled_from(list(ALGORITHMS)))
    window = algorithm in ("SlidingWindow", "FixedWindow")
    capacity = draw(st.one_of(PLAIN, PLAIN, PLAIN, st.none()))
    return Numeral(
        algorithm,
        capacity,
        draw(st.sampled_from([1, 1, 2, 3] if capacity is None else [0, 0, 0, 1, 2])),
        draw(PERIODS),
        draw(BURSTS) if capacity is not None and not window and draw(st.booleans()) else None,
        draw(st.sampled_from([None] * 9 + [0, 1, 2])),
        used=draw(st.sampled_from([0, 4, 8, 8, 12])),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """What there is: throttles, the members of each set, and the sets of the pool."""

    throttles: tuple[Numeral, ...]
    sets: tuple[tuple[int, ...], ...]
    concurrency: int
    pool: tuple[int, ...]
    balancing: Literal["Soonest", "RoundRobin"]
    first: int
    keyed: tuple[Literal["TokenBucket", "SlidingWindow"], int, int]
    crowd: tuple[Arrival, ...]
    priorities: bool = True


@st.composite
def configs(draw: st.DrawFn) -> Config:
    throttles = draw(st.lists(numerals(), min_size=2, max_size=4))
    members = st.lists(
        st.integers(0, len(throttles) - 1), min_size=1, max_size=MOST_MEMBERS, unique=True
    )
    sets = draw(st.lists(members.map(tuple), min_size=1, max_size=3))
    pool = tuple(draw(st.permutations(range(len(sets)))))[:2]
    shared = set.intersection(*(set(sets[n]) for n in pool))
    if any(throttles[n].concurrency for n in shared):
        pool = pool[:1]  # that sets share slots as well is left to simpler tests
    return Config(
        tuple(throttles),
        tuple(sets),
        draw(st.sampled_from([0, 0, 1, 2])),
        pool,
        draw(st.sampled_from(["Soonest", "RoundRobin"])),
        draw(st.integers(0, 2)),
        (
            draw(st.sampled_from(["TokenBucket", "SlidingWindow"])),
            draw(st.integers(1, 3)) * TOKEN,
            draw(st.integers(0, 2)),
        ),
        draw(st.lists(ARRIVALS, max_size=8).map(tuple)),
    )


@st.composite
def lone_configs(draw: st.DrawFn) -> Config:
    """One throttle, and nothing else."""
    return Config(
        (draw(odd_numerals()),),
        (),
        0,
        (),
        "Soonest",
        0,
        ("TokenBucket", TOKEN, 0),
        draw(st.lists(ARRIVALS, max_size=4).map(tuple)),
        draw(st.sampled_from([False, False, True])),
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


@dataclass(frozen=True, slots=True)
class Numbers:
    """The rate from an instant on."""

    since: int
    capacity: int
    period: int
    burst: int


@dataclass(slots=True, eq=False)
class Source:
    """Whom a caller asks, on both sides.

    Attributes:
        real: a throttle, a set or a pool.
        sets: the sets that there are to choose from; none for a throttle.
        limit: the throttle that is asked alone.
    """

    real: Any
    sets: list[tuple[LimitSet, Together]]
    limit: Limit | None = None
    pool: bool = False

    @property
    def keys(self) -> list[str]:
        """The names that any of its sets understands."""
        first, *others = (list(together.keys) for _, together in self.sets)
        return [key for key in first if all(key in keys for keys in others)]

    def limits(self) -> set[Limit]:
        """All that may be asked for."""
        if self.limit is not None:
            return {self.limit}
        return {limit for _, together in self.sets for limit in together.keys.values()}

    def names(self, limits: frozenset[Limit | None]) -> set[str | None]:
        """What errors may call *limits*; None is a pause of the set as a whole."""
        if self.limit is not None:
            return {self.limit.name}
        return {
            key
            for limit in limits
            for _, together in self.sets
            for key, each in [*together.keys.items(), ("pause", None)]
            if each is limit
        }


@dataclass(slots=True, eq=False)
class Caller:
    """One task, and its twin in the oracle."""

    ident: int
    kind: Kind | Literal["try"]
    source: Source
    weights: dict[str, int]
    options: list[Option]
    call: Call
    task: asyncio.Task[None] | None = None
    leave: asyncio.Future[Exit] | None = None
    lease: Any = None
    holds: Option | None = None
    exit: Exit | None = None
    early: bool = False
    least: dict[Limit, int] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Of a throttle that is asked alone."""
        return as_tokens(self.weights[""])

    @property
    def named(self) -> dict[str, float]:
        """Of a set."""
        return {key: as_tokens(weight) for key, weight in self.weights.items()}

    def taken(self) -> Option:
        """What was granted, as the caller sees it."""
        if self.source.limit is not None:
            return self.options[0]
        sets = [limit_set for limit_set, _ in self.source.sets]
        return self.options[sets.index(self.lease.limit_set)]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller was told, and when, as it recorded it itself."""

    how: str
    at: int
    retry_after: int | float | None = None
    limit: Hashable = None


class Machine(RuleBasedStateMachine):
    """One life.

    An operation is a function that does the same thing to both sides. It runs inside the event
    loop, alone in its step or together with the next ones; then the loop runs until it is idle.
    """

    alone = False
    """The life of one throttle: it is looked at more closely, and there are no sets."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = VirtualTimeLoop()
        self.operations: list[Callable[[], object]] = []
        self.share_step_with = 0
        self.idents, self.looks = itertools.count(), itertools.count()
        self.throttles: dict[Limit, Throttle] = {}
        self.sets: list[tuple[LimitSet, Together]] = []
        self.callers: list[Caller] = []
        self.seen: dict[int, Seen] = {}
        self.compared = 0
        self.waits: dict[Limit, list[float]] = defaultdict(list)
        self.started: list[Caller] = []
        self.grants: dict[Limit, list[tuple[int, Caller]]] = {}
        self.numbers: dict[Limit, list[Numbers]] = {}
        self.most_slots: dict[Limit, float] = {}
        self.broken: list[str] = []
        self.turn = 0
        self.well = False
        self.was_blocked = self.blocked_in_this_step = False
        self.drains: list[asyncio.Task[None]] = []

    def build(self, config: Config) -> None:
        self.config = config
        self.oracle = Oracle(self.clock())
        self.in_the_loop(self.construct)
        for arrival in config.crowd:
            self.arrive(arrival)

    def construct(self) -> None:
        config = self.config
        algorithm, capacity, slots = config.keyed
        self.keyed: Throttles[int, Throttle] = Throttles(
            lambda key: Throttle(
                as_tokens(capacity),
                slots,
                algorithm=ALGORITHMS[algorithm],
                name=f"key {key}",
            )
        )
        self.of_key: dict[int, Limit] = {}
        limits = []
        for n, numeral in enumerate(config.throttles):
            limit = Limit(
                f"t{n}",
                numeral.algorithm,
                numeral.capacity,
                concurrency=numeral.concurrency,
                period=numeral.period,
                burst=numeral.burst,
                initial=numeral.initial,
                max_waiting=numeral.max_waiting,
                born=self.clock(),
                to_the_end=numeral.to_the_end,
                linger=numeral.linger,
            )
            limits.append(limit)
            self.know(limit, self.throttle(limit, numeral))
            used = (limit.burst or 0) * numeral.used // 8
            self.oracle.charge(limit, used)
            self.throttles[limit].charge(as_tokens(used))
            event(f"algorithm {numeral.algorithm if numeral.capacity else 'none'}")
        if self.alone:
            return
        for n, members in enumerate(config.sets):
            keys = dict(zip("abc", (limits[m] for m in members), strict=False))
            real: dict[str, Any] = {key: self.throttles[limit] for key, limit in keys.items()}
            concurrency = 0 if n else config.concurrency
            limit_set = LimitSet(**real, concurrency=concurrency, config={"n": n})
            if concurrency:
                own = Limit("concurrency", "TokenBucket", None, concurrency=concurrency)
                keys["concurrency"] = own
                self.know(own, limit_set["concurrency"])
            self.sets.append((limit_set, Together(keys)))
            self.oracle.join(keys.values())
        sets = [self.sets[n] for n in config.pool]
        pool = LimitPool([limit_set for limit_set, _ in sets], config.balancing, config.first)
        self.pool = Source(pool, sets, pool=True)
        self.turn = config.first
        self.oracle.join(self.pool.limits())

    def throttle(self, limit: Limit, numeral: Numeral) -> Throttle:
        of_ends: dict[str, Any] = {}
        if numeral.to_the_end:
            linger = None if numeral.linger is None else seconds(numeral.linger)
            of_ends = {"counts": "end", "linger": linger, "longest": None}
        return Throttle(
            math.inf if numeral.capacity is None else as_tokens(numeral.capacity),
            numeral.concurrency,
            seconds(numeral.period),
            burst=None if numeral.burst is None else as_tokens(numeral.burst),
            algorithm=ALGORITHMS[numeral.algorithm],
            initial=None if numeral.initial is None else as_tokens(numeral.initial),
            max_waiting=numeral.max_waiting,
            name=limit.name,
            **of_ends,
        )

    def know(self, limit: Limit, throttle: Throttle | None) -> None:
        """From now on *limit* is there; *throttle* is not told if that is found by its key."""
        self.oracle.add(limit)
        if throttle is not None:
            self.throttles[limit] = throttle
        self.grants[limit] = []
        self.numbers[limit] = []
        self.remember_numbers(limit)

    # ---------------------------------------------------------------- how an operation is done

    def in_the_loop(self, action: Callable[[], T]) -> T:
        """Calls *action* in a step of the loop: only there have throttles the virtual clock."""

        async def step() -> T:
            return action()

        return self.loop.run_until_complete(step())

    def clock(self) -> int:
        return round(self.loop.time() * SECOND)

    def do(self, *operation: Callable[[], object]) -> None:
        """Does one thing to both sides now, or in one step with those that follow."""
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

        self.most_slots = {limit: limit.concurrency or math.inf for limit in self.oracle.limits}
        if self.operations:
            self.well = False
            self.loop.run_until_complete(one_step())
            self.oracle.run()
            for caller in self.callers:  # cancelled before its first step, a task sees nothing
                if caller.task and caller.task.cancelled() and caller.ident not in self.seen:
                    self.sees(caller, Seen("cancelled", self.clock()))
        self.operations.clear()
        self.share_step_with = 0
        self.blocked_in_this_step = False

    async def come_to_rest(self) -> None:
        while True:
            await asyncio.sleep(0)
            if not vars(self.loop)["_ready"]:
                return

    def forget_old_leases(self) -> None:
        """A lease that is kept keeps the throttles of its keys, which are to be forgotten, too."""
        if self.alone:
            return
        over = [c for c in self.callers if c.holds is None and c.ident in self.seen]
        for caller in over[:-3]:
            if caller.lease is not None and caller.source.sets and caller.leave is None:
                caller.lease.release()  # it holds no slot, and is waited for all the same
            caller.lease = caller.source.real = None
            caller.source.sets.clear()

    def remember_slots(self, limit: Limit) -> None:
        """Who starts in this step may have been granted before the number was cut in it."""
        self.most_slots[limit] = max(self.most_slots[limit], limit.concurrency or math.inf)

    def remember_numbers(self, limit: Limit) -> None:
        if limit.capacity is not None and limit.burst is not None:
            numbers = Numbers(self.clock(), limit.capacity, limit.period, limit.burst)
            self.numbers[limit].append(numbers)

    # ------------------------------------------------------------------------ whom a caller asks

    def limit_of_key(self, key: int) -> Limit:
        """What there is expected for a key: nothing is ever forgotten on this side."""
        if key not in self.of_key:
            algorithm, capacity, concurrency = self.config.keyed
            name = f"key {key}"
            limit = Limit(name, algorithm, capacity, concurrency=concurrency, born=self.clock())
            self.of_key[key] = limit
            self.know(limit, None)
        limit = self.of_key[key]
        if key not in self.keyed:
            self.oracle.part(limit)
        return limit

    def source(self, target: Target) -> Source:
        limits = list(self.throttles)
        limit = limits[target.which % len(limits)]
        match "throttle" if self.alone else target.what:
            case "throttle":
                return Source(self.throttles[limit], [], limit)
            case "set":
                chosen = self.sets[target.which % len(self.sets)]
                return Source(chosen[0], [chosen])
            case "pool":
                return Source(self.pool.real, list(self.pool.sets), pool=True)
            case "key":
                limit = self.limit_of_key(target.which % KEYS)
                return Source(self.keyed[target.which % KEYS], [], limit)
            case "with key":
                second = self.limit_of_key(target.other % KEYS)
                other: Throttle = self.keyed[target.other % KEYS]
            case "two":
                second = limits[(target.which + 1 + target.other % (len(limits) - 1)) % len(limits)]
                other = self.throttles[second]
        together = Together({limit.name: limit, second.name: second})
        limit_set = LimitSet(self.throttles[limit], other)
        self.oracle.join([limit, second])
        return Source(limit_set, [(limit_set, together)])

    def resolve(self, weight: Weight, limits: Sequence[Limit]) -> int:
        counting = [] if self.alone else [limit for limit in limits if limit.counts_slots]
        slots = [limit.concurrency * TOKEN for limit in counting]
        most = min([*slots, *(limit.burst for limit in limits if limit.burst)], default=8 * TOKEN)
        if isinstance(weight, Eighths):
            return most * weight.count // 8
        weight = TOKEN if weight is None else weight
        return weight if self.alone else min(most, weight)

    def caller(
        self, target: Target, kind: Kind | Literal["try"], weights: Sequence[Weight], priority: int
    ) -> Caller:
        """A caller on both sides, who has not asked yet."""
        source = self.source(target)
        if source.limit is not None:
            heavy = TOKEN if kind == "plain block" else self.resolve(weights[0], [source.limit])
            asked = {"": heavy}
            options = [of_throttle(source.limit, heavy, slot=kind != "consume")]
        else:
            asked = {}
            for key, weight in zip(source.keys, weights, strict=False):
                members = [together.keys[key] for _, together in source.sets]
                if weight is not None and kind != "plain block":
                    asked[key] = self.resolve(weight, members)
                    if any(m in t.counting for m, (_, t) in zip(members, source.sets, strict=True)):
                        asked[key] = -(-asked[key] // TOKEN) * TOKEN
            options = [together.option(asked) for _, together in source.sets]

        def asks() -> tuple[Option, ...]:
            if not source.pool:
                return tuple(options)
            in_turn = self.config.balancing == "RoundRobin"
            first = self.turn if in_turn else self.config.first
            order = [(first + n) % len(options) for n in range(len(options))]
            return tuple(options[n] for n in order)

        def starts(option: Option) -> None:
            if source.pool:
                self.turn = options.index(option) + 1

        if kind == "plain block" or not self.config.priorities:
            priority = 0
        leased = kind in ("lease", "block", "plain block") or source.limit is None
        call = Call(next(self.idents), asks, priority, starts, leased=leased)
        return Caller(call.ident, kind, source, asked, options, call)

    async def live(self, caller: Caller, patience: float | None) -> None:
        """The task of a caller: asks, records what it was told, and runs a body if it has one."""
        real, priority = caller.source.real, caller.call.priority
        try:
            match caller.kind:
                case "plain block" if not caller.source.pool:
                    async with real as caller.lease:
                        await self.body(caller)
                case _ if caller.source.sets:
                    await self.live_with_sets(caller, patience)
                case "acquire":
                    told = await real.acquire(caller.weight, timeout=patience, priority=priority)
                    assert told is True
                    self.starts(caller)
                case "lease":
                    caller.lease = await real.lease(
                        caller.weight, timeout=patience, priority=priority
                    )
                    self.starts(caller)
                case "consume":
                    await real.consume(caller.weight, priority=priority)
                    self.starts(caller)
                case _:
                    call = real(caller.weight, timeout=patience, priority=priority)
                    async with call as caller.lease:
                        await self.body(caller)
        except ResourceLimitError as error:
            after = error.retry_after
            ns = None if after is None else nanoseconds(after)
            self.sees(caller, Seen(ANSWERS[type(error)], self.clock(), ns, error.limit))
        except asyncio.CancelledError:
            if caller.ident not in self.seen:
                self.sees(caller, Seen("cancelled", self.clock()))
            raise
        finally:
            if caller.leave is not None:
                caller.holds = None

    async def live_with_sets(self, caller: Caller, patience: float | None) -> None:
        real, named, priority = caller.source.real, caller.named, caller.call.priority
        if caller.kind in ("acquire", "consume"):
            lease = real.acquire(named, timeout=patience, priority=priority)
            caller.lease = await lease
            assert caller.lease is lease
            self.starts(caller)
        elif caller.kind == "lease":
            lease = real(timeout=patience, priority=priority, **named)
            caller.lease = await lease
            self.starts(caller)
        else:
            async with real(timeout=patience, priority=priority, **named) as caller.lease:
                await self.body(caller)

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

    def is_granted(self, caller: Caller) -> None:
        caller.holds = taken = caller.taken()
        caller.least = dict(taken.tokens)
        held = self.held()
        for limit in taken.tokens:
            self.grants[limit].append((self.clock(), caller))
        for limit in taken.slots:
            if held[limit] > self.most_slots.get(limit, math.inf):
                self.broken.append(f"caller {caller.ident} got a slot of {limit} that is not there")
        if not taken.slots:
            caller.holds = None

    def held(self) -> Counter[Limit]:
        """How many slots of each limit those who hold have, as they themselves see it."""
        held: Counter[Limit] = Counter()
        for caller in self.callers:
            if caller.holds is not None:
                held.update(caller.holds.slots)
        return held

    def waiting_tasks(self) -> list[Caller]:
        return [
            c for c in self.callers if c.task and not c.task.done() and c.ident not in self.seen
        ]

    def in_their_body(self) -> list[Caller]:
        return [c for c in self.callers if c.leave is not None and not c.leave.done()]

    def without_block(self) -> list[Caller]:
        return [c for c in self.callers if c.holds and c.leave is None]

    def snapshot(self) -> object:
        """What a refusal must not change."""
        names = ("level", "active", "waiting", "paused_for", "capacity", "concurrency", "burst")
        return [
            *({name: getattr(t, name) for name in names} for t in self.throttles.values()),
            *((limit_set.waiting, limit_set.paused_for) for limit_set, _ in self.sets),
            None if self.alone else list(self.pool.real._core.dispatched),
        ]

    # ----------------------------------------------------------------------- rules: the callers

    @rule(arrival=ARRIVALS)
    def arrive(self, arrival: Arrival) -> None:
        alone = not self.operations and not self.share_step_with
        before: list[object] = []
        asked: list[Caller] = []

        def operation() -> None:
            caller = self.caller(arrival.target, arrival.kind, arrival.weights, arrival.priority)
            asked.append(caller)
            before.append(self.snapshot())
            timeout = arrival.timeout
            if caller.kind == "plain block" or (
                caller.kind == "consume" and not caller.source.sets
            ):
                timeout = None
            if isinstance(timeout, UntilNext):
                known = self.delay(caller)
                timeout = SECOND if known == math.inf else known + timeout.beside
                timeout = of_users("timeout", max(0, seconds(timeout)))  # as far as a float tells
            self.oracle.arrive(caller.call, timeout)
            if alone:
                self.the_delay_is_the_one_that_the_oracle_knows(caller)
            self.callers.append(caller)
            coroutine = self.live(caller, None if timeout is None else seconds(timeout))
            caller.task = self.loop.create_task(coroutine)

        self.do(operation)
        if alone and asked[0].ident in self.seen:
            how = self.seen[asked[0].ident].how
            if how in ANSWERS.values():
                assert self.in_the_loop(self.snapshot) == before[0], "a refusal changed something"

    def delay(self, caller: Caller) -> int | float:
        """What it would have to wait, as the oracle knows."""
        options = [option for option in caller.call.asks() if not self.oracle.never(option)]
        waits = [self.oracle.delay(option, caller.call.priority) for option in options]
        return min(waits, default=math.inf)

    def the_delay_is_the_one_that_the_oracle_knows(self, caller: Caller) -> None:
        oracle = self.oracle
        options = [option for option in caller.call.asks() if not oracle.never(option)]
        if not options or any(map(oracle.crowded, options)) or caller.kind == "consume":
            return
        real, priority = caller.source.real, caller.call.priority
        if caller.source.limit is not None:
            told = real.delay(caller.weight, priority=priority)
        elif caller.kind == "plain block" and not caller.source.pool:
            told = real.delay()
        else:
            told = real.delay(priority=priority, **caller.named)
        expected = self.delay(caller)
        assert same_delay(nanoseconds(told), expected), (told, expected)

    @rule(arrival=ARRIVALS)
    def try_acquire(self, arrival: Arrival) -> None:
        def operation() -> None:
            caller = self.caller(arrival.target, "try", arrival.weights, arrival.priority)
            before = self.snapshot()
            expected = self.oracle.try_acquire(caller.call)
            real, priority = caller.source.real, caller.call.priority
            answer: bool | str
            try:
                if caller.source.limit is not None:
                    answer = real.try_acquire(caller.weight, priority=priority)
                else:
                    caller.lease = real.try_acquire(caller.named, priority=priority)
                    answer = caller.lease.successful
            except ResourceLimitError as error:
                answer = ANSWERS[type(error)]
            if expected is True:
                assert answer is True
                self.callers.append(caller)
                self.is_granted(caller)
            else:
                assert answer is False if expected is False else answer in expected
                assert self.snapshot() == before, "a refusal changed something"

        self.do(operation)

    @precondition(lambda self: bool(self.without_block()))
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        def operation() -> None:
            holders = self.without_block()
            if not holders:
                return
            caller = holders[which % len(holders)]
            caller.holds = None
            self.oracle.release(caller.call)
            if caller.lease is None:
                caller.source.real.release()
            else:
                caller.lease.release()
                caller.lease.release()  # does nothing

        self.do(operation)

    @precondition(lambda self: any(c.lease is not None for c in self.in_their_body()))
    @rule(which=WHICH)
    def release_early(self, which: int) -> None:
        """In the body already; then the end of the block gives nothing back."""

        def operation() -> None:
            inside = [c for c in self.in_their_body() if c.lease is not None and not c.early]
            if not inside:
                return
            caller = inside[which % len(inside)]
            caller.early, caller.holds = True, None
            self.oracle.release(caller.call)
            caller.lease.release()

        self.do(operation)

    @precondition(lambda self: any(c.lease is not None for c in self.callers))
    @rule(which=WHICH)
    def ended(self, which: int) -> None:
        """The answer is there: in the body, or after a block that was cut short, or once more."""

        def operation() -> None:
            leases = [c for c in self.callers if c.lease is not None and c.ident in self.granted()]
            if leases:
                caller = leases[-1 - which % len(leases)]
                self.oracle.ended(caller.call)
                caller.lease.ended()

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
            if not caller.early:
                self.oracle.leave(caller.call, cut=how == "cancel", well=how == "return")
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
        before: Any = self.in_the_loop(self.snapshot)
        undisturbed = not self.operations and not self.share_step_with
        self.do(operation)
        if self.alone and undisturbed and len(self.seen) == told + 1:
            before[0]["waiting"] -= 1
            assert self.in_the_loop(self.snapshot) == before, "not as if it had never asked"

    @precondition(lambda self: any(c.lease is not None for c in self.callers))
    @rule(
        which=WHICH,
        eighths=st.tuples(
            *[st.sampled_from([None, 0, 0, 1, 4, 7, 8, 9, 16, 24])] * (MOST_MEMBERS + 1)
        ),
        more=st.integers(0, 2),
    )
    def settle(self, which: int, eighths: tuple[int | None, ...], more: int = 0) -> None:
        """Of a throttle alone, or of any of the limits of a set, also of those done without."""

        def operation() -> None:
            leases = [c for c in self.callers if c.lease is not None and c.ident in self.granted()]
            if not leases:
                return
            caller = leases[-1 - which % len(leases)]
            if caller.source.limit is not None:
                actual = caller.weights[""] * (eighths[0] or 0) // 8 + more
                self.oracle.settle(caller.call, {caller.source.limit: actual})
                caller.least = {caller.source.limit: min(caller.least[caller.source.limit], actual)}
                caller.lease.settle(as_tokens(actual))
                return
            option = caller.taken()
            together = caller.source.sets[caller.options.index(option)][1]
            used, told = {}, {}
            for (key, limit), share in zip(together.keys.items(), eighths, strict=False):
                if share is None:
                    continue
                actual = (option.tokens.get(limit) or TOKEN) * share // 8
                told[key] = as_tokens(actual)
                if limit not in together.counting:
                    used[limit] = actual
                    if limit in caller.least:
                        caller.least[limit] = min(caller.least[limit], actual)
            self.oracle.settle(caller.call, used)
            caller.lease.settle(**told)

        self.do(operation)

    @rule(
        first=ARRIVALS,
        before=TIMES,
        other=ARRIVALS,
        after=TIMES,
        eighths=st.sampled_from([0, 0, 3, 7, 12]),
    )
    def settle_late(
        self, first: Arrival, before: Time, other: Arrival, after: Time, eighths: int
    ) -> None:
        """A lease is settled when time has passed and others have taken: what is it worth?"""
        self.arrive(replace(first, kind="lease", timeout=None))
        self.time_passes(before)
        self.arrive(replace(other, target=first.target, timeout=None))
        self.time_passes(after)
        if any(caller.lease is not None for caller in self.callers):
            self.settle(0, (eighths,) * (MOST_MEMBERS + 1))

    @precondition(lambda self: not self.alone)
    @rule(
        first=SET_ARRIVALS,
        second=SET_ARRIVALS,
        eighths=st.tuples(*[st.sampled_from([0, 0, 1, 4, 12])] * (MOST_MEMBERS + 1)),
    )
    def settle_while_others_wait(
        self, first: Arrival, second: Arrival, eighths: tuple[int | None, ...]
    ) -> None:
        """A refund at the right moment: whoever can go with it goes at once."""
        self.arrive(replace(first, kind="lease", timeout=None))
        self.arrive(replace(second, target=first.target, timeout=None))
        if any(caller.lease is not None for caller in self.callers):
            self.settle(0, eighths)

    def granted(self) -> set[int]:
        return {ident for ident, seen in self.seen.items() if seen.how == "granted"} | {
            caller.ident for caller in self.callers if caller.kind == "try"
        }

    @rule(which=WHICH, weight=WEIGHTS)
    def charge(self, which: int, weight: Weight) -> None:
        limit, throttle = self.which_throttle(which)

        def operation() -> None:
            heavy = self.resolve(weight, [limit])
            self.oracle.charge(limit, heavy)
            throttle.charge(as_tokens(heavy))

        self.do(operation)

    @rule(
        which=WHICH,
        left=st.integers(0, 8),
        reset=st.sampled_from([None, Fraction(1, 3), Fraction(1), Fraction(5, 2)]),
    )
    def sync(self, which: int, left: int, reset: Fraction | None) -> None:
        """A server says what it has left, and when its window is over."""
        limit, throttle = self.which_throttle(which)
        said = (limit.burst or 0) * left // 8
        span = None if reset is None else max(1, math.floor(reset * limit.period))

        def operation() -> None:
            self.oracle.sync(limit, said, None if span is None else self.clock() + span)
            seconds: Any = None if span is None else Fraction(span, SECOND)
            throttle.sync(remaining=as_tokens(said), reset=seconds)

        self.do(operation)

    @rule(which=WHICH)
    def drain(self, which: int) -> None:
        self.flush()
        limit, throttle = self.which_throttle(which)
        self.do(lambda: self.drains.append(self.loop.create_task(throttle.drain())))
        assert self.drains[-1].done() is not bool(limit.held or self.oracle.hall.count(limit))

    # ----------------------------------------------------------------------- rules: the operator

    def which_throttle(self, which: int) -> tuple[Limit, Throttle]:
        return list(self.throttles.items())[which % len(self.throttles)]

    def gates(self) -> list[tuple[Gate, Any]]:
        """What can be paused."""
        return [
            *((together.line, limit_set) for limit_set, together in self.sets),
            *self.throttles.items(),
        ]

    @rule(which=WHICH, duration=PAUSES, empty=st.booleans())
    def pause(self, which: int, duration: int | float, empty: bool) -> None:
        gate, real = self.gates()[which % len(self.gates())]
        self.do(
            partial(self.oracle.pause, gate, duration, empty=empty),
            partial(real.pause, seconds(duration), empty=empty),
        )

    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        gate, real = self.gates()[which % len(self.gates())]
        self.do(partial(self.oracle.resume, gate), real.resume)

    @rule(which=WHICH, slots=st.integers(0, 3))
    def set_concurrency(self, which: int, slots: int) -> None:
        limit, throttle = self.which_throttle(which)
        slots = slots if self.alone else max(slots, 1)
        shared = not self.alone and len(self.pool.sets) > 1
        if shared and not limit.concurrency:
            return  # it might be shared by the sets of the pool
        self.do(
            partial(self.oracle.set_concurrency, limit, slots),
            partial(setattr, throttle, "concurrency", slots),
            partial(self.remember_slots, limit),
        )

    def which_rate(self, which: int, *, buckets: bool = False) -> tuple[Limit, Throttle] | None:
        rates = [
            (limit, throttle)
            for limit, throttle in self.throttles.items()
            if limit.capacity is not None and not (buckets and limit.is_window)
        ]
        return rates[which % len(rates)] if rates else None

    def change(self, found: tuple[Limit, Throttle] | None, name: str, value: int) -> None:
        if found is not None:
            limit, throttle = found
            real = seconds(value) if name == "period" else as_tokens(value)
            self.do(
                partial(getattr(self.oracle, f"set_{name}"), limit, value),
                partial(setattr, throttle, name, real),
                partial(self.remember_numbers, limit),
            )

    @rule(which=WHICH, capacity=CAPACITIES)
    def set_capacity(self, which: int, capacity: int) -> None:
        self.change(self.which_rate(which), "capacity", capacity)

    @rule(which=WHICH, period=PERIODS)
    def set_period(self, which: int, period: int) -> None:
        self.change(self.which_rate(which), "period", period)

    @rule(which=WHICH, burst=BURSTS | CAPACITIES)
    def set_burst(self, which: int, burst: int) -> None:
        self.change(self.which_rate(which, buckets=True), "burst", burst)

    @precondition(lambda self: len(self.callers) > (5 if self.alone else 8))
    @rule(which=WHICH, drop_waiting=st.booleans())
    def close(self, which: int, drop_waiting: bool) -> None:
        limit, throttle = self.which_throttle(which)
        self.do(
            partial(self.oracle.close, limit, drop_waiting=drop_waiting),
            partial(throttle.close, drop_waiting=drop_waiting),
        )

    # ------------------------------------------------------------------------- rules: the time

    @rule(count=st.integers(1, 3))
    def share_one_step(self, count: int) -> None:
        """The next operations happen in one step of the event loop: nobody runs in between."""
        self.flush()
        self.share_step_with = count

    @rule(arrivals=st.lists(ARRIVALS, min_size=2, max_size=6))
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
            limit = next(iter(self.throttles))
            fill = (limit.burst or TOKEN) * limit.period // (limit.capacity or TOKEN)
            time = (limit.period if limit.is_window else fill) * time.count // 8
        elif isinstance(time, UntilNext):
            due = self.oracle.next_instant()
            time = 0 if due is None else due + time.beside - self.clock()
        if 0 < time < FAR - self.clock():
            self.advance_to(self.clock() + time)

    @precondition(lambda self: self.alone)
    @rule(time=st.sampled_from([MS, LATE - 1, LATE, LATE + 1, 40 * MS, SECOND]))
    def the_loop_is_blocked(self, time: int) -> None:
        """Some callback runs for so long; the timers due in the meantime fire late, and at once.

        Which of a grant and a deadline both missed came first is left to the simpler tests.
        """

        def operation() -> None:
            until = self.clock() + time
            deadlines = (person.call.deadline for person in self.oracle.hall.people)
            limit = next(iter(self.throttles))
            if limit.to_the_end and limit.linger is None:
                return  # how long a call was in flight, its own first step says
            if all(deadline is None or deadline > until for deadline in deadlines):
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

        def all_is_equal() -> None:
            self.every_caller_was_told_what_the_oracle_says()
            self.every_throttle_shows_what_the_oracle_shows()
            self.keys_that_are_not_there_are_as_good_as_new()
            self.no_throttle_admitted_more_than_it_may()
            self.slots_are_with_those_who_run()
            self.timers_are_armed_and_few()
            for limiter in (*self.throttles.values(), *(real for real, _ in self.sets)):
                check(limiter)
            self.forget_old_leases()
            self.well = True

        if not self.operations:
            self.in_the_loop(all_is_equal)

    def every_caller_was_told_what_the_oracle_says(self) -> None:
        told = self.oracle.outcomes
        of_ident = {caller.ident: caller for caller in self.callers}
        for outcome in told[self.compared :]:
            seen = self.seen.get(outcome.ident)
            assert seen is not None, f"{outcome}, of which the caller knows nothing"
            assert seen.how in outcome.how, (outcome, seen)
            assert seen.at == outcome.at, (outcome, seen)
            allowed = outcome.retry_after
            assert any(same_delay(seen.retry_after, after) for after in allowed), (outcome, seen)
            caller = of_ident[outcome.ident]
            if seen.how == "granted":
                self.what_was_granted_is_what_was_asked(caller)
            elif seen.how != "cancelled":
                self.the_refusal_names_its_limit(caller, seen, outcome.limits)
            event(f"{seen.how}, by {'pool' if caller.source.pool else caller.kind}")
        assert len(self.seen) == len(told), (self.seen, told)
        self.compared = len(told)
        granted = [of_ident[outcome.ident] for outcome in told if "granted" in outcome.how]
        assert {caller.ident for caller in self.started} == {caller.ident for caller in granted}
        for group in self.oracle.together:  # others have timers of their own
            orders = (
                [caller.ident for caller in callers if caller.source.limits() & group]
                for callers in (self.started, granted)
            )
            started, expected = orders
            assert started == expected
        for caller in self.started:
            if caller.exit is not None:
                assert caller.task is not None
                assert caller.task.cancelled() == (caller.exit == "cancel")
                if not caller.task.cancelled():
                    failed = isinstance(caller.task.exception(), BodyFailed)
                    assert failed == (caller.exit == "raise")

    def what_was_granted_is_what_was_asked(self, caller: Caller) -> None:
        call, lease = caller.call, caller.lease
        assert call.granted is not None
        assert call.option is not None
        waited = call.granted - call.arrived
        event("waited" if waited else "went at once")
        for person in self.oracle.hall.people:
            earlier = person.call.ident < call.ident and person.call.priority == call.priority
            if earlier and person.option.line.limits & call.option.line.limits:
                event("went before an earlier one")
        if caller.source.limit is not None and waited:
            self.waits[caller.source.limit].append(waited)
        if lease is None:
            return
        assert nanoseconds(lease.waited) == waited
        if caller.source.limit is not None:
            return
        assert caller.taken() is call.option
        together = caller.source.sets[caller.options.index(call.option)][1]
        assert lease.successful
        assert lease.weights == {
            key: as_tokens(caller.weights.get(key, TOKEN)) for key in together.keys
        }
        blamed = lease.waited_for
        assert sum(nanoseconds(span) for span in blamed.values()) == waited, (blamed, waited)
        assert all(span >= 0 for span in blamed.values())
        assert set(together.keys) <= set(blamed) <= {*together.keys, "pause"}
        for key, limit in together.keys.items():
            if blamed[key]:
                self.waits[limit].append(nanoseconds(blamed[key]))

    def the_refusal_names_its_limit(
        self, caller: Caller, seen: Seen, limits: frozenset[Limit | None]
    ) -> None:
        assert seen.limit in caller.source.names(limits), (seen, limits)

    def every_throttle_shows_what_the_oracle_shows(self) -> None:
        assert self.clock() == self.oracle.clock
        for limit, throttle in self.throttles.items():
            self.a_throttle_shows_what_the_oracle_shows(throttle, limit)
            most = limit.burst or TOKEN
            weight = (0, TOKEN, most // 3, most)[next(self.looks) % 4] if self.alone else most // 3
            self.a_throttle_says_when(throttle, limit, weight)
            self.a_throttle_counts_who_waited(throttle, limit)
        for limit_set, together in self.sets:
            self.a_set_shows_what_the_oracle_shows(limit_set, together)

    def a_throttle_says_when(self, throttle: Throttle, limit: Limit, weight: int) -> None:
        option = of_throttle(limit, weight)
        if self.oracle.never(option):
            with pytest.raises((ThrottleClosed, WeightTooLarge)):
                throttle.delay(as_tokens(weight))
        elif self.oracle.crowded(option) and self.oracle.may_go_now(option) is None:
            with pytest.raises(ThrottleFull):
                throttle.delay(as_tokens(weight))
        else:
            told = nanoseconds(throttle.delay(as_tokens(weight)))
            assert same_delay(told, self.oracle.delay(option)), (limit, told)

    def a_throttle_shows_what_the_oracle_shows(self, throttle: Throttle, limit: Limit) -> None:
        o = self.oracle
        level = o.level(limit)
        assert same_tokens(throttle.level, level), (limit, throttle.level, float(level) / TOKEN)
        assert throttle.active == limit.held, limit
        assert same_tokens(throttle.statistics().in_flight, o.in_flight(limit)), limit
        assert throttle.waiting == o.hall.count(limit), limit
        assert nanoseconds(throttle.paused_for) == o.paused_for(limit)
        assert throttle.concurrency == limit.concurrency
        assert same_tokens(throttle.capacity, limit.capacity or math.inf)
        assert nanoseconds(throttle.period) == limit.period
        for window in (limit.period // 2, limit.period, 3 * limit.period + 1):
            assert same_tokens(throttle.guarantee(seconds(window)), limit.guarantee(window))
        assert "Throttle" in repr(throttle)
        assert same_tokens(throttle.burst, math.inf if limit.burst is None else limit.burst)
        if not limit.closed and limit.burst is not None and limit.burst >= TOKEN:
            may_go = o.may_go_now(of_throttle(limit, TOKEN)) is not None
            assert throttle.locked() is not may_go

    def a_throttle_counts_who_waited(self, throttle: Throttle, limit: Limit) -> None:
        waits, told = self.waits[limit], throttle.statistics()
        assert told.queued_granted >= len(waits)  # also those who queued for no time at all
        assert nanoseconds(told.waited) == sum(waits), (limit, told, waits)
        assert nanoseconds(told.longest) == max(waits, default=0)

    def a_set_shows_what_the_oracle_shows(self, limit_set: LimitSet, together: Together) -> None:
        o = self.oracle
        assert limit_set.waiting == o.waits_in(together.line)
        assert nanoseconds(limit_set.paused_for) == o.paused_for(together.line)
        option = together.option({})
        if o.never(option):
            assert limit_set.locked()
            with pytest.raises((ThrottleClosed, WeightTooLarge)):
                limit_set.delay()
            return
        assert limit_set.locked() is (o.may_go_now(option) is None)
        if o.crowded(option) and o.may_go_now(option) is None:
            with pytest.raises(ThrottleFull):
                limit_set.delay()
            return
        told = limit_set.delay()
        assert same_delay(nanoseconds(told), o.delay(option)), (told, together)

    def keys_that_are_not_there_are_as_good_as_new(self) -> None:
        for key, limit in self.of_key.items():
            if key in self.keyed:
                self.a_throttle_shows_what_the_oracle_shows(self.keyed[key], limit)
            else:
                event("a key was forgotten")
                assert self.oracle.level(limit) == limit.burst
                assert not limit.held
                assert not self.oracle.hall.count(limit)

    # -------------------------------------------------- after each step: what needs no oracle

    def no_throttle_admitted_more_than_it_may(self) -> None:
        """No stretch of time admitted more than it may, by trying all pairs of grants."""
        for limit in self.oracle.limits:
            if limit.capacity is None:
                continue
            if limit.is_window:
                self.check_windows(limit)
            else:
                self.check_buckets(limit)

    def check_buckets(self, limit: Limit) -> None:
        grants = self.grants[limit]
        # What a caller sees is up to 1 ns later than the instant from which its grant counts.
        slack = 1 + (LATE if self.was_blocked else 0)
        for first, (since, _) in enumerate(grants):
            burst = max(n.burst for n, end in self.stretches(limit) if n.since <= since <= end)
            admitted = 0
            for until, caller in grants[first:]:
                admitted += caller.least[limit]
                assert admitted <= burst + self.trickled(limit, since - slack, until), limit

    def trickled(self, limit: Limit, since: int, until: int) -> Fraction:
        """What came in between, each stretch at its own rate."""
        total = Fraction(0)
        for stretch, end in self.stretches(limit):
            length = min(until, end) - max(since, stretch.since)
            total += Fraction(stretch.capacity, stretch.period) * max(0, length)
        return total

    def stretches(self, limit: Limit) -> Iterator[tuple[Numbers, int]]:
        numbers = self.numbers[limit]
        return zip(numbers, [n.since for n in numbers[1:]] + [self.clock() + 1], strict=True)

    def check_windows(self, limit: Limit) -> None:
        """Within a stretch of one rate; what a change of it leaves behind, the oracle says."""
        most = 2 if limit.algorithm == "FixedWindow" else 1  # where one ends and the next begins
        for stretch, end in self.stretches(limit):
            inside = [(at, c) for at, c in self.grants[limit] if stretch.since < at < end]
            for since, _ in inside:
                within = [c.least[limit] for at, c in inside if 0 <= at - since < stretch.period]
                assert sum(within) <= most * stretch.capacity, limit

    def slots_are_with_those_who_run(self) -> None:
        """Nobody ever began without a slot; who waits holds none."""
        assert not self.broken, self.broken
        held = self.held()
        for limit, throttle in self.throttles.items():
            assert throttle.active == held[limit], limit
        assert not any(caller.holds for caller in self.waiting_tasks())
        if self.alone:
            assert len(self.waiting_tasks()) == sum(t.waiting for t in self.throttles.values())
        if not (any(held.values()) or self.oracle.hall.people):
            assert all(drain.done() for drain in self.drains)

    def timers_are_armed_and_few(self) -> None:
        """For each queue one for grants and one for deadlines, where there is any."""
        handles = [*vars(self.loop)["_scheduled"], *vars(self.loop)["_ready"]]
        timers = [handle for handle in handles if isinstance(handle, asyncio.TimerHandle)]
        armed = [timer for timer in timers if not timer.cancelled()]
        hall, most = self.oracle.hall, 0
        due = []
        for group in self.oracle.together:
            people = [p for p in hall.people if p.option.line.limits & group]
            deadlines = [p.call.deadline for p in people if p.call.deadline is not None]
            most += bool(people) + bool(deadlines)
            due += deadlines
        if (grant := hall.next_grant(self.clock())) is not None:
            due.append(grant)
        if self.alone:
            ends = any(hall.pauses[gate] < math.inf for gate in hall.empties)
            most = (grant is not None or ends) + bool(due[: len(due) - (grant is not None)])
        assert len(armed) <= most, armed
        if due:
            assert min(nanoseconds(timer.when()) for timer in armed) <= min(due)

    # ---------------------------------------------------------------------------- the end of it

    def teardown(self) -> None:
        try:
            if self.well:
                self.flush()
                self.all_is_well()
                self.in_the_end_nothing_is_left()
        finally:
            self.patch.undo()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(self.come_to_rest())
            self.loop.close()

    def in_the_end_nothing_is_left(self) -> None:
        """When all have ended nothing is held at once, and all fill up in the stated time."""
        note("teardown: all end")

        def all_end() -> None:
            for gate, real in self.gates():
                self.oracle.resume(gate)
                real.resume()
            for caller in self.waiting_tasks():
                assert caller.task is not None
                if not caller.call.cancelled:
                    self.oracle.cancel(caller.call)
                    caller.task.cancel()
            for caller in self.in_their_body():
                assert caller.leave is not None
                if not caller.early:
                    self.oracle.leave(caller.call)
                caller.leave.set_result("return")
            for caller in self.without_block():
                caller.holds = None
                self.oracle.release(caller.call)
                real = caller.source.real if caller.lease is None else caller.lease
                real.release()
            for caller in self.callers:  # those that hold no slot, which are waited for as well
                if caller.lease is not None and caller.leave is None and caller.source.sets:
                    caller.lease.release()

        self.do(all_end)
        throttles = [*self.throttles.values(), *(self.keyed[key] for key in self.keyed)]
        nothing = [(0, 0)] * len(throttles)
        assert self.in_the_loop(lambda: [(t.active, t.waiting) for t in throttles]) == nothing
        for limit_set, _ in self.sets:
            self.loop.run_until_complete(limit_set.drain())
        self.all_is_well()
        full_in = max(map(self.full_in, self.oracle.limits))
        if full_in < FAR - self.clock():
            self.advance_to(self.clock() + math.ceil(full_in))
            levels = self.in_the_loop(lambda: [throttle.level for throttle in throttles])
            assert levels == [throttle.burst for throttle in throttles]

    def full_in(self, limit: Limit) -> Fraction:
        lasts = self.oracle.lasts(limit)
        if limit.capacity is None or limit.burst is None or limit.is_window:
            return Fraction(limit.period + lasts)
        debt = max(Fraction(0), -Fraction(self.oracle.level(limit)))
        return (limit.burst + debt) * limit.period / limit.capacity + lasts


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


class ThrottleMachine(Machine):
    """The life of one throttle, of which everything is looked at."""

    alone = True

    @initialize(config=lone_configs(), shortcuts=st.booleans())
    def begin(self, config: Config, shortcuts: bool) -> None:
        self.patch.setattr(fast, "ENABLED", shortcuts)
        self.build(config)


class SetMachine(Machine):
    """The life of many limits."""

    @initialize(config=configs(), shortcuts=st.booleans())
    def begin(self, config: Config, shortcuts: bool) -> None:
        self.patch.setattr(fast, "ENABLED", shortcuts)
        self.build(config)


TestThrottleMachine = ThrottleMachine.TestCase
TestThrottleMachine.settings = settings(
    examples(200), stateful_step_count=40, report_multiple_bugs=False
)
TestSetMachine = SetMachine.TestCase
TestSetMachine.settings = settings(
    examples(150), stateful_step_count=30, report_multiple_bugs=False
)
