"""Throttles whose limit follows how their calls end: what is measured, and what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import pytest
from support import at, now, queued, scaled

from async_throttle import (
    AIMD,
    Adaptive,
    BackOff,
    FixedWindow,
    Gradient,
    LimitPool,
    LimitSet,
    Outcome,
    Schedule,
    SlidingWindow,
    Throttle,
    Throttles,
    ThrottleTimeout,
    WeightTooLarge,
    threads,
)
from async_throttle._shell import fast

OK, IGNORED, DROPPED = Outcome


class Sample(NamedTuple):
    latency: int
    in_flight: int
    weight: float
    outcome: Outcome


class Recorder(Adaptive):
    """Says what it was told to say, one limit after the other; keeps what it is told."""

    steers = "concurrency"
    start = 10

    def __init__(self, *limits: float) -> None:
        super().__init__()
        self._limits = limits

    @property
    def limit(self) -> float:
        return self._limit

    def begin(self, limit: float, now: int) -> None:
        self._limit = limit
        self._next = iter(self._limits)
        self.samples: list[Sample] = []

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        self.samples.append(Sample(now - began, in_flight, weight, outcome))
        self._limit = next(self._next, self._limit)


class RateRecorder(Recorder):
    steers = "capacity"


def adapting(*limits: float, concurrency: int = 2, minimum: int = 1) -> Throttle:
    adapt = Recorder(*limits)
    adapt.minimum = minimum
    return Throttle(math.inf, concurrency, adapt=adapt)


def samples(throttle: Any) -> list[Sample]:
    assert isinstance(throttle.adapt, Recorder)
    return throttle.adapt.samples


def outcomes(throttle: Any) -> list[Outcome]:
    return [sample.outcome for sample in samples(throttle)]


# ------------------------------------------------------------------ the ways to make a call

Body = Callable[[], Awaitable[object]]
Call = Callable[[Throttle, Body], Coroutine[Any, Any, None]]


async def plain_block(throttle: Throttle, body: Body) -> None:
    async with throttle:
        await body()


async def decorated(throttle: Throttle, body: Body) -> None:
    @throttle(2)
    async def call() -> None:
        await body()

    await call()


def within(make: Callable[[Throttle], Any]) -> Call:
    """A call that is made within what is made of the throttle."""

    async def call(throttle: Throttle, body: Body) -> None:
        made = make(throttle)
        async with await made if inspect.iscoroutine(made) else made:
            await body()

    return call


block = within(lambda throttle: throttle(3))
WAYS = {
    "plain block": plain_block,
    "block": block,
    "leased block": within(lambda throttle: throttle.lease()),
    "decorated": decorated,
    "set": within(lambda throttle: LimitSet(throttle, other=Throttle(100))),
    "call of a set": within(lambda throttle: LimitSet(throttle, other=Throttle(100))(other=5)),
    "pool": within(lambda throttle: LimitPool([LimitSet(throttle)])()),
}
every_way = pytest.mark.parametrize("call", WAYS.values(), ids=WAYS)


@every_way
async def test_a_call_that_ends_well_is_measured(call: Call) -> None:
    throttle = adapting()
    await asyncio.sleep(1)
    await call(throttle, lambda: asyncio.sleep(0.25))
    (sample,) = samples(throttle)
    assert (sample.latency, sample.in_flight, sample.outcome) == (250_000_000, 1, OK)
    assert throttle.active == 0


@every_way
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), DROPPED),
        (ThrottleTimeout("of another throttle"), IGNORED),
        (KeyError("x"), IGNORED),
        (asyncio.CancelledError(), IGNORED),
        (KeyboardInterrupt(), IGNORED),
    ],
    ids=repr,
)
async def test_how_a_block_ends_tells_how_the_call_did(
    call: Call, error: BaseException, outcome: Outcome
) -> None:
    throttle = adapting()

    async def body() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await call(throttle, body)
    assert raised.value is error
    assert outcomes(throttle) == [outcome]
    assert throttle.active == 0


@every_way
async def test_a_call_that_was_never_granted_is_not_measured(call: Call) -> None:
    throttle = adapting(concurrency=1)
    await throttle.acquire()
    waiting = await queued(call(throttle, asyncio.Event().wait))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    throttle.release()
    assert samples(throttle) == []
    assert throttle.active == 0


async def test_how_many_were_in_flight_is_told() -> None:
    throttle = adapting()
    await asyncio.gather(*(plain_block(throttle, lambda: asyncio.sleep(1)) for _ in range(5)))
    # The first one too: there were two of them while it ran.
    assert [sample.in_flight for sample in samples(throttle)] == [2, 2, 2, 2, 1]


async def test_acquire_and_release_are_not_measured() -> None:
    throttle = adapting()
    await throttle.acquire()
    throttle.release()
    await throttle.consume()
    assert throttle.try_acquire()
    throttle.release()
    assert samples(throttle) == []


async def test_what_a_call_weighs_is_told_as_it_was_settled_by_then() -> None:
    throttle = Throttle(10, adapt=RateRecorder())
    async with throttle:
        pass
    async with throttle(2.5) as lease:
        lease.settle(1)
    async with throttle(2.5) as lease:
        lease.ok()
        lease.settle(1)
    await asyncio.sleep(1)
    api = LimitSet(tokens=throttle)
    async with api(tokens=4):
        pass
    async with api(tokens=4) as acquisition:
        acquisition.settle(tokens=6)
    assert [sample.weight for sample in samples(throttle)] == [1, 1, 2.5, 4, 6]


async def test_of_what_counts_slots_a_set_tells_the_slots_that_were_taken() -> None:
    throttle = adapting(concurrency=5, minimum=3)
    api = LimitSet(calls=throttle, tokens=Throttle(100))
    async with api(calls=3, tokens=9), api(calls=0):
        pass
    assert [(s.weight, s.in_flight) for s in samples(throttle)] == [(3, 3)]


async def test_each_limit_of_a_set_judges_for_itself() -> None:
    class Stoic(Recorder):
        def judge(self, error: BaseException | None) -> Outcome:
            return OK

    one = adapting()
    other = Throttle(math.inf, 5, adapt=Stoic())
    with pytest.raises(TimeoutError):
        async with LimitSet(one, other):
            raise TimeoutError
    assert (outcomes(one), outcomes(other)) == ([DROPPED], [OK])


async def test_latency_is_that_of_the_call_without_the_wait() -> None:
    throttle = adapting(concurrency=1)
    await asyncio.gather(*(block(throttle, lambda: asyncio.sleep(1)) for _ in range(3)))
    assert [sample.latency for sample in samples(throttle)] == [1_000_000_000] * 3


async def test_latency_stands_when_the_throttle_is_joined_to_another_meanwhile() -> None:
    throttle = adapting()
    await asyncio.sleep(10)
    late = Throttle(5, timer=None)
    late_too = Throttle(5)

    async def join() -> None:
        await asyncio.sleep(0.5)
        LimitSet(late, late_too)
        LimitSet(throttle, late)
        await asyncio.sleep(0.5)

    await block(throttle, join)
    (sample,) = samples(throttle)
    assert sample.latency == 1_000_000_000


async def test_many_enter_one_throttle_at_once_and_each_is_measured() -> None:
    throttle = adapting(concurrency=100)

    async def body(seconds: float) -> None:
        async with throttle:
            await asyncio.sleep(seconds)

    await asyncio.gather(*(body(n) for n in (3, 1, 2)))
    await body(4)
    assert [sample.latency / 1e9 for sample in samples(throttle)] == [1, 2, 3, 4]


async def test_a_plain_block_binds_nothing_as_ever() -> None:
    async with adapting() as bound:
        assert bound is None


# ------------------------------------------------------------------------ what is said of it


@pytest.mark.parametrize("make", [lambda t: t(1), lambda t: LimitSet(t)()])
async def test_a_lease_can_say_how_the_call_went_and_the_first_word_counts(make: Any) -> None:
    throttle = adapting(concurrency=5)
    async with make(throttle) as lease:
        await asyncio.sleep(1)
        lease.dropped()
        lease.ok()
        await asyncio.sleep(1)
        assert throttle.active == 1
    with contextlib.suppress(TimeoutError):
        async with make(throttle) as lease:
            lease.ok()
            raise TimeoutError
    async with make(throttle) as lease:
        lease.ignore()
    assert outcomes(throttle) == [DROPPED, OK, IGNORED]
    assert samples(throttle)[0].latency == 1_000_000_000
    assert throttle.active == 0


async def test_a_lease_without_a_block_tells_only_what_it_is_told() -> None:
    throttle = adapting()
    lease = await throttle.lease()
    lease.release()
    assert samples(throttle) == []
    lease = await throttle.lease()
    lease.ok()
    lease.release()
    lease.dropped()
    assert outcomes(throttle) == [OK]


@pytest.mark.parametrize("say", ["ok", "ignore", "dropped"])
async def test_the_words_mean_nothing_to_a_throttle_that_does_not_adapt(say: str) -> None:
    throttle = Throttle(10, 2)
    async with throttle(2) as lease:
        getattr(lease, say)()
    async with LimitSet(throttle)() as acquisition:
        getattr(acquisition, say)()
    assert (throttle.concurrency, throttle.adapt) == (2, None)


@pytest.mark.parametrize("say", ["ok", "ignore", "dropped"])
@pytest.mark.parametrize("make", [lambda t: t(1), lambda t: LimitSet(t)()])
async def test_what_was_not_granted_did_not_go(make: Any, say: str) -> None:
    with pytest.raises(RuntimeError, match="nothing was granted"):
        getattr(make(adapting()), say)()


# ------------------------------------------------------------------------- the limit follows


async def test_it_starts_at_what_the_throttle_was_given_or_where_the_algorithm_does() -> None:
    assert adapting(concurrency=7).concurrency == 7
    assert Throttle(5, adapt=Recorder()).concurrency == 10
    assert Throttle(30, period=60, adapt=RateRecorder()).adapt.limit == 0.5  # type: ignore[union-attr]


async def test_when_the_limit_grows_waiters_go_at_once() -> None:
    throttle = adapting(3, concurrency=1)
    started: list[float] = []

    async def call() -> None:
        async with throttle:
            started.append(now())
            await asyncio.sleep(1)

    await asyncio.gather(*(call() for _ in range(5)))
    assert started == [0, 1, 1, 1, 2]
    assert throttle.concurrency == 3


async def test_when_it_shrinks_holders_finish_and_nobody_enters() -> None:
    throttle = adapting(1, concurrency=3)
    started: list[float] = []

    async def call(seconds: float) -> None:
        async with throttle:
            started.append(now())
            await asyncio.sleep(seconds)

    await asyncio.gather(*(call(seconds) for seconds in (1, 2, 3, 1, 1)))
    assert started == [0, 0, 0, 3, 4]


async def test_a_rate_follows_and_those_who_wait_are_planned_anew() -> None:
    throttle = Throttle(10, burst=1, adapt=RateRecorder(2))
    started: list[float] = []

    async def call() -> None:
        async with throttle:
            started.append(now())

    await asyncio.gather(*(call() for _ in range(4)))
    assert started == [0, 0.5, 1, 1.5]
    assert throttle.capacity == 2


async def test_a_rate_is_per_second_whatever_the_period() -> None:
    throttle = Throttle(600, period=60, adapt=RateRecorder(5))
    async with throttle:
        pass
    assert throttle.capacity == 300


async def test_setting_the_limit_is_a_new_beginning() -> None:
    throttle = adapting(5)
    async with throttle:
        pass
    throttle.concurrency = 3
    assert (throttle.concurrency, samples(throttle)) == (3, [])
    rate = Throttle(10, adapt=RateRecorder(5))
    async with rate:
        pass
    rate.capacity = 20
    assert (rate.capacity, samples(rate)) == (20, [])
    rate.concurrency = 4  # which it does not steer
    throttle.capacity = 7
    assert (rate.concurrency, throttle.capacity) == (4, 7)


async def test_one_algorithm_given_to_two_throttles_is_two() -> None:
    shared = Recorder(5)
    one, other = (Throttle(math.inf, 2, adapt=shared) for _ in range(2))
    async with one:
        pass
    assert (one.concurrency, other.concurrency) == (5, 2)
    assert one.adapt is not other.adapt is not shared
    each: Throttles[str, Throttle] = Throttles(lambda _: Throttle(math.inf, 2, adapt=shared))
    async with each["a"]:
        pass
    assert (each["a"].concurrency, each["b"].concurrency) == (5, 2)


FINITE = "capacity must be finite where it adapts, got inf"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: made(1, Recorder), TypeError, r"adapt must be an Adaptive.*Recorder"),
        (lambda: made(1, "AIMD"), TypeError, r"adapt must be an Adaptive.*'AIMD'"),
        (lambda: made(math.inf, RateRecorder()), ValueError, FINITE),
        (lambda: setattr(made(1, RateRecorder()), "capacity", math.inf), ValueError, FINITE),
        (
            lambda: setattr(adapting(), "concurrency", 0),
            ValueError,
            "concurrency must be at least 1 where it adapts, got 0",
        ),
        *(
            (
                lambda algorithm=algorithm: made(100, BackOff(), algorithm=algorithm),
                ValueError,
                f"algorithm must be a bucket .* got {algorithm.__name__}",
            )
            for algorithm in (SlidingWindow, FixedWindow)
        ),
        (lambda: made(10, AIMD(), "5"), TypeError, "concurrency must be .* got '5'"),
        (lambda: with_any(AIMD, judge="x"), TypeError, r"judge must be callable .* got 'x'"),
        (lambda: with_any(AIMD, decrease="a"), ValueError, "decrease must be .* got 'a'"),
        (lambda: with_any(AIMD, decrease=None), TypeError, "decrease must be .* got None"),
        (lambda: with_any(BackOff, minimum="a"), ValueError, "minimum must be .* got 'a'"),
        (lambda: with_any(BackOff, maximum=[]), TypeError, r"maximum must be .* got \[\]"),
    ],
)
async def test_what_cannot_adapt_is_refused(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def made(capacity: float, adapt: Any, concurrency: Any = 0, **how: Any) -> Throttle:
    return Throttle(capacity, concurrency, adapt=adapt, **how)


def with_any(rule: Any, **parameters: Any) -> Any:
    return rule(**parameters)


async def test_a_judge_that_fails_costs_no_slot() -> None:
    class Failing(Recorder):
        def judge(self, error: BaseException | None) -> Outcome:
            raise ZeroDivisionError

    of_threads = threads.Throttle(math.inf, 1, adapt=Failing())
    for throttle in (Throttle(math.inf, 1, adapt=Failing()), of_threads):
        for make in (lambda t: t, lambda t: t(2), lambda t: LimitSet(t)):
            with pytest.raises(ZeroDivisionError):
                async with make(throttle):
                    pass
            assert throttle.active == 0
            with pytest.raises(KeyError) as raised:
                async with make(throttle):
                    raise KeyError("of the body")
            assert "ZeroDivisionError" in raised.value.__notes__[0]
            assert throttle.active == 0
    for make in (lambda t: t, lambda t: t(2)):
        with pytest.raises(ZeroDivisionError), make(of_threads):
            pass
        assert of_threads.active == 0


@pytest.mark.parametrize("make", [Throttle, threads.Throttle])
async def test_a_block_whose_end_is_interrupted_before_it_began_is_not_remembered(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    throttle = make(math.inf, 1, adapt=Recorder())
    for module in ("throttle", "threads"):
        monkeypatch.setattr(f"async_throttle.{module}.leave_block", interrupted)
    monkeypatch.setattr(fast, "leave_block", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            async with throttle:
                pass
        assert throttle.active == 0
    assert not throttle._blocks


async def test_those_who_share_a_scheduler_with_it_lose_nothing() -> None:
    plain, throttle = Throttle(10, 2), adapting()
    LimitSet(plain, throttle)
    async with plain, plain(3) as lease:
        lease.settle(2)
        assert (plain.active, plain.level) == (2, 7)
    assert plain.active == 0


async def test_a_call_that_outlives_a_new_beginning_counts_for_it() -> None:
    throttle = adapting()
    at(0.5, lambda: setattr(throttle, "concurrency", 1))
    await block(throttle, lambda: asyncio.sleep(1))
    assert len(samples(throttle)) == 1


# ------------------------------------------------------------------------------------ threads


def test_threads_are_measured_too() -> None:
    throttle = threads.Throttle(math.inf, 2, adapt=Recorder(4))
    with throttle:
        pass
    assert throttle.concurrency == 4
    with pytest.raises(TimeoutError), throttle(3):
        raise TimeoutError
    with pytest.raises(KeyError), throttle:
        raise KeyError
    with throttle(1) as lease:
        lease.dropped()

    @throttle(1)
    def work() -> None:
        """Decorated."""

    work()
    with LimitSet(throttle) as acquisition:
        acquisition.ignore()

    async def main() -> None:
        async with throttle:
            pass
        with pytest.raises(TimeoutError):
            async with throttle(2):
                raise TimeoutError

    asyncio.run(main())
    assert outcomes(throttle) == [OK, DROPPED, IGNORED, DROPPED, OK, IGNORED, OK, DROPPED]
    assert throttle.active == 0


# ------------------------------------------------------------------------------ with a server


WHILE = scaled(60, least=15)  # seconds


class Busy(Exception):
    status = 503


class Server:
    """So many workers; a call takes a tenth of a second. Refuses when *most* are there already."""

    def __init__(self, workers: int, most: float = math.inf) -> None:
        self.workers = asyncio.Semaphore(workers)
        self.most = most
        self.inside = self.served = self.refused = 0

    async def answer(self) -> None:
        if self.inside >= self.most:
            self.refused += 1
            await asyncio.sleep(0.01)
            raise Busy
        self.inside += 1
        try:
            async with self.workers:
                await asyncio.sleep(0.1)
            self.served += 1
        finally:
            self.inside -= 1


async def besiege(limiter: Any, server: Server, seconds: float) -> None:
    """Fifty clients call as often as they are let."""
    until = now() + seconds

    async def client() -> None:
        while now() < until:
            with contextlib.suppress(Busy):
                async with limiter:
                    await server.answer()

    await asyncio.gather(*(client() for _ in range(50)))


@pytest.mark.parametrize("make", [lambda t: t, LimitSet], ids=["alone", "in a set"])
async def test_a_throttle_finds_what_a_server_bears(make: Any) -> None:
    throttle = Throttle(math.inf, adapt=Gradient())
    limiter, server = make(throttle), Server(8)
    await besiege(limiter, server, 10)
    server.served = 0
    await besiege(limiter, server, WHILE)
    assert server.served >= 0.95 * WHILE * 80  # a fixed limit of 8 would serve 80 per second
    assert 8 < throttle.concurrency <= 8 + 2 * math.sqrt(8)


async def test_a_throttle_grows_until_it_is_refused() -> None:
    throttle = Throttle(math.inf, adapt=AIMD())
    server = Server(8, most=12)
    await besiege(throttle, server, 10)
    server.served = server.refused = 0
    await besiege(throttle, server, WHILE)
    assert server.served >= 0.95 * WHILE * 80
    assert 0 < server.refused <= 0.05 * server.served
    assert 9 <= throttle.concurrency <= 13


async def test_a_rate_backs_off_from_refusals_and_comes_back() -> None:
    allowed = Throttle(100, burst=5)  # the server's own limit
    throttle = Throttle(1_000, burst=1, adapt=BackOff())
    half = scaled(300, least=100)
    served = refused = 0

    async def client() -> None:
        nonlocal served, refused
        while now() < 2 * half:
            with contextlib.suppress(Busy):
                async with throttle:
                    if not allowed.try_acquire():
                        refused += 1
                        raise Busy
                    allowed.release()
                    served += 1

    at(half, lambda: setattr(allowed, "capacity", 50))
    await asyncio.gather(*(client() for _ in range(5)))
    assert served >= 0.9 * (half * 100 + half * 50)
    assert refused <= 0.01 * served
    assert 35 <= throttle.capacity <= 60


# ------------------------------------------------------- what went wrong before it was released


def refuse(throttle: Throttle, times: int = 1) -> None:
    """So many calls are dropped, one after the other."""
    for _ in range(times):
        lease = asyncio.run(throttle.lease())
        lease.dropped()
        lease.release()


def test_another_period_is_another_rate_from_there_on() -> None:
    throttle = Throttle(100, adapt=BackOff())
    throttle.period = 60
    refuse(throttle)
    assert throttle.capacity == 70


def test_a_rate_that_falls_makes_no_call_impossible() -> None:
    throttle = Throttle(100, adapt=BackOff())
    refuse(throttle, 5)
    assert throttle.capacity < 20
    assert throttle.burst == 100
    throttle.delay(60)  # no WeightTooLarge
    throttle.capacity = 50  # by hand, it follows as it always does
    assert throttle.burst == 50


async def test_what_a_call_may_take_of_a_limit_that_adapts_is_what_it_never_goes_below() -> None:
    for adapt in (AIMD(), Gradient()):
        api = LimitSet(calls=Throttle(math.inf, 20, adapt=adapt))
        with pytest.raises(WeightTooLarge, match="could ever be granted is 1"):
            await api.acquire({"calls": 2})
    throttle = Throttle(math.inf, 20, adapt=AIMD(minimum=5))
    api = LimitSet(calls=throttle)
    for _ in range(20):
        async with api(calls=5) as lease:
            lease.dropped()
        await asyncio.sleep(1)
    assert throttle.concurrency == 5


def test_it_is_in_no_reference_cycle_and_forgotten_like_others() -> None:
    hosts: Throttles[int, Throttle] = Throttles(lambda _: Throttle(math.inf, 4, adapt=AIMD()))
    lent: Throttles[int, Throttle] = Throttles(lambda _: Throttle(100, initial=0, adapt=BackOff()))
    for key in range(10):
        assert hosts[key].concurrency == 4
        lent[key].try_acquire(0)
    assert len(hosts) <= 2
    assert len(lent) == 10  # less than full, and so unlike a new one


def test_a_block_of_a_loop_that_was_closed_gives_its_slot_back() -> None:
    throttle = Throttle(math.inf, 1, adapt=AIMD())

    async def hold() -> None:
        async with throttle:
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    coroutine = hold()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    coroutine.close()  # as the garbage collector does
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore
    assert not task.done()
    assert throttle.active == 0


async def test_a_schedule_and_what_follows_the_server_get_along() -> None:
    throttle = Throttle(100, adapt=BackOff())
    async with Schedule(lambda _: 100).applied_to(throttle):
        async with throttle(1) as lease:
            lease.dropped()
        await asyncio.sleep(200)
        assert throttle.capacity == 70


async def test_the_first_of_many_that_were_let_through_at_once_was_not_alone() -> None:
    throttle = Throttle(math.inf, 100, adapt=AIMD())

    async def call(number: int) -> None:
        async with throttle:
            await asyncio.sleep(0.1)
            if number == 0:
                raise Busy

    await asyncio.gather(*(call(number) for number in range(100)), return_exceptions=True)
    assert throttle.concurrency == 90


def test_a_rate_falls_to_next_to_nothing_and_not_to_nothing() -> None:
    throttle = Throttle(10, burst=1e6, adapt=BackOff(minimum=1e-12))
    refuse(throttle, 100)
    assert throttle.capacity == 1e-9


def test_a_judge_is_asked_under_no_lock() -> None:
    asked = []

    def judge(error: BaseException) -> Outcome | None:
        other = threading.Thread(target=lambda: asked.append(throttle.try_acquire()))
        other.start()
        other.join()  # for ever, if it waits for us
        return None

    throttle = threads.Throttle(math.inf, adapt=AIMD(judge=judge))
    for make in (lambda: throttle, lambda: throttle(1), lambda: LimitSet(throttle)()):
        with contextlib.suppress(KeyError), make():
            raise KeyError
    assert asked == [True, True, True]


async def test_a_call_of_a_set_that_was_released_early_still_tells_how_its_block_ended() -> None:
    throttle = adapting()
    with contextlib.suppress(TimeoutError):
        async with LimitSet(throttle)() as acquisition:
            acquisition.release()
            raise TimeoutError
    assert outcomes(throttle) == [DROPPED]


@pytest.mark.parametrize("said", ["dropped", True, 429])
async def test_what_is_no_verdict_is_noted_and_counts_for_nothing(said: Any) -> None:
    throttle = Throttle(math.inf, 5, adapt=AIMD(judge=lambda error: said))
    with pytest.raises(KeyError) as body:
        async with throttle:
            raise KeyError
    assert "TypeError: judge must return an Outcome or None, got" in body.value.__notes__[0]
    assert (throttle.active, throttle.concurrency) == (0, 5)


def test_one_of_ones_own_needs_little_and_is_told_what_is_wrong_with_it() -> None:
    class Own(Adaptive):
        """Of a class that does not call what it inherits."""

        start = 3

        @property
        def limit(self) -> int:
            return 0  # less than there can be

        def __init__(self, steers: str) -> None:
            self.steers = steers  # type: ignore[misc]

        def begin(self, limit: float, now: int) -> None: ...

        def sample(
            self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome
        ) -> None: ...

    throttle = Throttle(math.inf, adapt=Own("concurrency"))
    assert throttle.concurrency == 1
    assert Own("concurrency").judge(TimeoutError()) is DROPPED
    assert Own("concurrency").minimum == 1
    with pytest.raises(ValueError, match=r"adapt must steer .* got 'rate'"):
        Throttle(1, adapt=Own("rate"))


def test_a_task_that_nobody_keeps_is_not_kept_by_the_block_that_it_is_in() -> None:
    async def hold(limiter: Any) -> None:
        async with limiter:
            await asyncio.Future()  # which nobody keeps either

    async def main(limiter: Any, throttle: Throttle) -> None:
        tasks = [asyncio.create_task(hold(limiter)) for _ in range(3)]
        await asyncio.sleep(0)
        assert throttle.active == 3
        del tasks
        gc.collect()
        assert throttle.active == 0

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of tasks destroyed pending
    try:
        for make in (lambda t: t, lambda t: LimitSet(t), lambda t: t(1)):
            throttle = Throttle(math.inf, 5, adapt=AIMD())
            asyncio.run(main(make(throttle), throttle))
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
