"""`Throttle`: one example for every promise of its surface, in virtual time and exact.

That the promises hold together, whatever the order of operations, is what test_machine.py is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from support import at, now, others_run, queued, refusal_of, scaled

import async_throttle
from async_throttle import (
    AIMD,
    GCRA,
    FixedWindow,
    LeakyBucket,
    LimitSet,
    RateLimitAlgorithm,
    Rule,
    SlidingWindow,
    Throttle,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    TokenBucket,
    WeightTooLarge,
    threads,
)
from async_throttle._base import core_of
from async_throttle._engine.queue import Queue
from async_throttle._shell.waiting import known
from async_throttle._units import NEVER
from async_throttle.testing import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

ALGORITHMS: list[type[Rule]] = [TokenBucket, GCRA, LeakyBucket, SlidingWindow, FixedWindow]
WINDOWS: list[type[Rule]] = [SlidingWindow, FixedWindow]


def seen(throttle: Throttle) -> list[Any]:
    """All that can be seen of it."""
    parameters = throttle.capacity, throttle.concurrency, throttle.period, throttle.burst
    state = throttle.level, throttle.active, throttle.waiting, throttle.paused_for
    return [*parameters, *state, throttle.locked()]


def call(kind: Any, *args: Any, **options: Any) -> Any:
    """Made with arguments that a type checker would refuse."""
    return kind(*args, **options)


async def ask(throttle: Throttle, form: str, *weight: Any, **options: Any) -> Any:
    """Take what is asked for, in one of the forms of a throttle; a block is left again."""
    if form == "plain":
        async with throttle:
            return None
    if form == "block":
        async with throttle(*weight, **options) as lease:
            return lease
    answer = getattr(throttle, form)(*weight, **options)
    return answer if isinstance(answer, bool) else await answer


FORMS = ["plain", "block", "acquire", "lease", "consume"]
WEIGHED = FORMS[1:]

# --- parameters ---


@pytest.mark.parametrize(
    ("name", "bad", "others"),
    [
        *(("capacity", bad, {}) for bad in (0, -1, -0.5, math.nan, -math.inf, "10")),
        *(("concurrency", bad, {}) for bad in (-1, 1.5, math.nan, math.inf, "2")),
        *(("period", bad, {}) for bad in (0, -1.0, math.nan, math.inf, "1", 1e-10)),
        *(("burst", bad, {}) for bad in (0, -1, math.nan, math.inf, "5")),
        *(("initial", bad, {}) for bad in (-1, 10.5, math.nan, math.inf, "4")),
        ("initial", 4, {"burst": 3}),
        *(("max_waiting", bad, {}) for bad in (-1, 0.5, math.nan)),
        *(("burst", 5, {"algorithm": window}) for window in WINDOWS),
    ],
)
def test_a_bad_parameter_is_refused_by_name_and_value(
    name: str, bad: Any, others: dict[str, Any]
) -> None:
    with pytest.raises(refusal_of(bad), match=f"^{name} .*{re.escape(repr(bad))}$"):
        Throttle(**{"capacity": 10, name: bad, **others})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Throttle(4e-10), "capacity must be at least 1e-9, got 4e-10"),
        (lambda: Throttle(1, period=4e-10), "period must be at least 1e-9 s, got 4e-10"),
        (lambda: Throttle(1, burst=4e-10), "burst must be at least 1e-9, got 4e-10"),
        (lambda: Throttle(1, burst=math.inf), "burst must be finite, got inf"),
        (lambda: Throttle(1).try_acquire(4e-10), "weight must be at least 1e-9, or 0, got 4e-10"),
    ],
)
def test_an_error_states_the_rule_that_was_broken(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        make()


def test_what_is_settled_or_charged_may_be_next_to_nothing() -> None:
    throttle = Throttle(10)
    throttle.charge(4e-10)
    assert throttle.level == 10


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (lambda: call(SlidingWindow), "write Throttle(10, period=60, algorithm=SlidingWindow)"),
        (
            lambda: call(TokenBucket, 10, 5),
            "buckets.TokenBucket is one to be awaited",
        ),
        (lambda: call(Throttle, 1, algorithm=SlidingWindow(0, 1, 1)), "write SlidingWindow, got "),
        (
            lambda: call(Throttle, 1, algorithm="sliding_window"),
            "write async_throttle.SlidingWindow",
        ),
        (lambda: call(Throttle, 1, algorithm="gcra"), "write async_throttle.GCRA, got 'gcra'"),
        (lambda: call(Throttle, 1, algorithm="other"), "write one of TokenBucket, LeakyBucket, "),
    ],
)
def test_whoever_takes_a_rule_for_something_else_is_told_what_to_write(
    make: Any, write: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(write)):
        make()


def test_a_rule_of_a_user_that_fails_as_it_is_made_says_so_itself() -> None:
    class Broken(TokenBucket):
        def configure(self, now: Any, capacity: Any, period: Any, burst: Any) -> None:
            raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        Throttle(1, algorithm=Broken)


def test_the_only_positional_parameters_are_those_of_version_1() -> None:
    throttle = Throttle(10, 2, 0.5)
    assert (throttle.capacity, throttle.concurrency, throttle.period) == (10.0, 2, 0.5)
    with pytest.raises(TypeError):
        Throttle(10, 2, 0.5, 20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_defaults() -> None:
    throttle = Throttle(10)
    assert seen(throttle) == [10.0, 0, 1.0, 10.0, 10.0, 0, 0, 0.0, False]
    assert (throttle.algorithm, throttle.max_waiting, throttle.name) == (TokenBucket, None, None)


def test_a_period_is_rounded_to_whole_nanoseconds() -> None:
    assert Throttle(1, period=1.000_000_000_4).period == 1.0
    assert Throttle(1, period=0.1 + 0.2).period == 0.3


@pytest.mark.parametrize(("capacity", "burst"), [(0.25, 1.0), (1, 1.0), (2.5, 2.5), (100, 100.0)])
def test_an_unset_burst_is_the_capacity_but_at_least_one(capacity: float, burst: float) -> None:
    assert Throttle(capacity).burst == burst


@pytest.mark.parametrize("algorithm", WINDOWS)
def test_a_window_has_no_burst_but_its_capacity(algorithm: type[Rule]) -> None:
    throttle = Throttle(10, algorithm=algorithm)
    assert throttle.burst == 10.0
    throttle.capacity = 5
    assert throttle.burst == 5.0
    with pytest.raises(ValueError, match="burst"):
        throttle.burst = 3
    assert throttle.burst == 5.0


@pytest.mark.parametrize("member", RateLimitAlgorithm)
def test_every_rule_can_be_named_by_class_and_by_member(member: RateLimitAlgorithm) -> None:
    rule = getattr(async_throttle, member.value)
    assert Throttle(10, algorithm=member).algorithm is rule
    assert Throttle(10, algorithm=rule).algorithm is rule


def test_an_unknown_algorithm_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"algorithm .*'token bucket'"):
        Throttle(10, algorithm="token bucket")  # type: ignore[arg-type]


def test_a_class_that_is_no_rule_is_a_type_error_that_names_the_right_one() -> None:
    # As async_throttle.buckets has classes of the same names, which are awaited.
    impostor: Any = type("LeakyBucket", (), {"__module__": "async_throttle.buckets"})
    with pytest.raises(TypeError, match=r"buckets\.LeakyBucket.*async_throttle\.LeakyBucket"):
        Throttle(10, algorithm=impostor)
    with pytest.raises(TypeError, match="algorithm"):
        Throttle(10, algorithm=dict)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_timer_that_cannot_be_called_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"timer .*5"):
        Throttle(10, timer=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_leaky_bucket_spaces_evenly_and_needs_a_burst_for_heavier_weights() -> None:
    throttle = Throttle(10, algorithm=LeakyBucket)
    assert throttle.burst == 1.0
    began = []
    for _ in range(4):
        async with throttle:
            began.append(now())
    assert began == [0.0, 0.1, 0.2, 0.3]
    with pytest.raises(WeightTooLarge):
        await throttle.acquire(2)
    throttle = Throttle(10, burst=2, algorithm=LeakyBucket)
    await throttle.acquire(2)
    await throttle.acquire(2)
    assert now() == 0.5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_initial_is_what_there_is_at_the_start(algorithm: type[Rule]) -> None:
    throttle = Throttle(10, initial=0.25, algorithm=algorithm)
    assert throttle.level == 0.25
    assert throttle.try_acquire(0.25)
    assert not throttle.try_acquire()
    assert Throttle(10, initial=0, algorithm=algorithm).level == 0.0


async def test_max_waiting_refuses_the_next_one_at_once() -> None:
    throttle = Throttle(1, max_waiting=2)
    assert throttle.max_waiting == 2
    assert throttle.try_acquire()
    waiters = [await queued(throttle.acquire()) for _ in range(2)]
    before = seen(throttle)
    with pytest.raises(ThrottleFull, match=r"max_waiting .*2") as refusal:
        await throttle.acquire()
    assert refusal.value.retry_after == 3.0  # behind the two
    assert "2 wait already" in str(refusal.value)
    assert seen(throttle) == before
    await asyncio.gather(*waiters)
    assert now() == 2.0


async def test_max_waiting_zero_never_waits() -> None:
    throttle = Throttle(1, max_waiting=0)
    await throttle.acquire()
    with pytest.raises(ThrottleFull, match="would have to be waited for") as refusal:
        await throttle.acquire()
    assert refusal.value.retry_after == 1.0
    assert "max_waiting" not in str(refusal.value)  # which a facade may have set to 0
    await asyncio.sleep(1.0)
    await throttle.acquire()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_who_needs_no_slot_is_told_no_wait_behind_those_who_lack_one(
    algorithm: type[Rule],
) -> None:
    throttle = Throttle(1, 1, max_waiting=1, algorithm=algorithm)
    await throttle.acquire()
    waiter = await queued(throttle.acquire())
    with pytest.raises(ThrottleFull) as refusal:
        await throttle.consume()
    assert refusal.value.retry_after == 1.0
    waiter.cancel()
    throttle = Throttle(1, 1, algorithm=algorithm)
    await throttle.acquire()
    waiter = await queued(throttle.acquire())
    await throttle.consume()
    assert now() == 1.0  # and that is when it goes
    waiter.cancel()


async def test_name_is_told_by_errors_and_repr() -> None:
    throttle = Throttle(5, name="search api")
    assert throttle.name == "search api"
    assert "'search api'" in repr(throttle)
    with pytest.raises(WeightTooLarge, match="'search api'") as refusal:
        await throttle.acquire(6)
    assert refusal.value.limit == "search api"


async def test_a_timer_of_ones_own_is_the_clock() -> None:
    reading = 100.0
    throttle = Throttle(10, initial=0, timer=lambda: reading)
    await asyncio.sleep(5)
    assert throttle.level == 0.0
    reading = 100.5
    assert throttle.level == 5.0
    assert throttle.delay(10) == 0.5


# --- async with ---


async def test_a_block_takes_one_token_and_one_slot_and_gives_the_slot_back() -> None:
    throttle = Throttle(10, 2)
    async with throttle as bound:
        assert bound is None
        assert (throttle.level, throttle.active) == (9.0, 1)
        async with throttle:
            assert (throttle.level, throttle.active, throttle.locked()) == (8.0, 2, True)
    assert (throttle.level, throttle.active) == (8.0, 0)


async def test_a_call_takes_its_weight_and_one_slot() -> None:
    throttle = Throttle(10, 2)
    async with throttle(5) as lease:
        assert (throttle.level, throttle.active) == (5.0, 1)
        assert (lease.weight, lease.waited) == (5, 0.0)
    async with throttle() as lease:
        assert lease.weight == 1
        assert throttle.level == 4.0
    assert throttle.active == 0


# --- acquire, release, lease, try_acquire ---


async def test_acquire_is_a_coroutine_that_answers_true_and_release_gives_the_slot_back() -> None:
    throttle = Throttle(10, 1)
    call = throttle.acquire(5.5)
    assert asyncio.iscoroutine(call)
    assert await call is True
    assert (throttle.level, throttle.active) == (4.5, 1)
    assert throttle.release() is None  # type: ignore[func-returns-value]
    assert throttle.active == 0


@pytest.mark.parametrize(("done", "active"), [([], 1), ([True], 2)])
async def test_a_release_that_was_interrupted_is_made_once(done: list[bool], active: int) -> None:
    throttle = Throttle(2, 3)
    assert throttle.try_acquire()
    assert throttle.try_acquire()
    await queued(throttle.acquire())  # for time, not for a slot
    core_of(throttle).release_again(done, KeyboardInterrupt())
    assert throttle.active == active


@pytest.mark.parametrize("concurrency", [0, 1, 5])
async def test_one_release_too_many_is_a_value_error(concurrency: int) -> None:
    throttle = Throttle(10, concurrency)
    with pytest.raises(ValueError, match="release"):
        throttle.release()
    async with throttle:
        pass
    with pytest.raises(ValueError, match="release"):
        throttle.release()
    assert throttle.active == 0


@pytest.mark.parametrize("counts", ["start", "end"])
@pytest.mark.parametrize("adapt", [None, AIMD(maximum=8)])
@pytest.mark.parametrize("made", [Throttle, threads.Throttle])
async def test_a_stack_may_give_back_what_was_acquired(made: Any, adapt: Any, counts: str) -> None:
    throttle = made(10, 2, adapt=adapt, counts=counts)
    async with contextlib.AsyncExitStack() as stack:
        assert throttle.try_acquire()
        stack.push_async_exit(throttle)
        assert throttle.active == 1
    assert (throttle.active, throttle.statistics().in_flight) == (0, 0)
    with pytest.raises(ValueError, match=r"release\(\) without acquire"):
        await throttle.__aexit__(None, None, None)


def test_try_acquire_never_waits_and_needs_no_event_loop() -> None:
    throttle = Throttle(10, 2, period=3600)
    assert throttle.try_acquire() is True
    assert throttle.try_acquire(9) is True
    assert throttle.try_acquire(0) is False  # no slot
    throttle.release()
    assert throttle.try_acquire(1) is False  # no token
    assert throttle.try_acquire(0) is True
    assert throttle.active == 2
    throttle.charge(1)
    assert throttle.level == pytest.approx(-1, abs=0.1)


# --- consume ---


async def test_consume_takes_tokens_and_no_slot() -> None:
    throttle = Throttle(10, 1)
    async with throttle:
        assert await throttle.consume(5) is None  # type: ignore[func-returns-value]
        assert (throttle.level, throttle.active) == (4.0, 1)
        await throttle.consume()
        assert throttle.level == 3.0
        await throttle.consume(5)
        assert now() == 0.2


async def test_consume_inside_a_body_does_not_wait_behind_a_caller_that_lacks_the_slot() -> None:
    # Behind it the body would wait for a caller that waits for the body: a deadlock.
    throttle = Throttle(10, 1)
    async with throttle:
        waiter = await queued(throttle.acquire())
        await throttle.consume(9)
        assert now() == 0.0
        await throttle.consume(5)
        assert now() == 0.5
        assert not waiter.done()
    await waiter
    assert now() == 0.6


# --- charge ---


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_a_charge_is_a_finite_number_of_tokens(bad: float) -> None:
    throttle = Throttle(10)
    with pytest.raises(ValueError, match="weight"):
        throttle.charge(bad)
    assert throttle.level == 10.0


# --- locked ---


async def test_locked_is_whether_acquire_would_wait() -> None:
    throttle = Throttle(2, 2)
    assert not throttle.locked()
    await throttle.acquire()
    assert not throttle.locked()
    await throttle.acquire()
    assert throttle.locked()  # neither token nor slot
    throttle.release()
    assert throttle.locked()  # no token
    await asyncio.sleep(0.5)
    assert not throttle.locked()
    throttle.pause(1)
    assert throttle.locked()
    throttle.resume()
    throttle.close()
    assert throttle.locked()


def test_it_is_locked_if_not_even_one_token_will_ever_go_at_once() -> None:
    throttle = Throttle(10, burst=0.5)
    assert throttle.locked()
    assert throttle.try_acquire(0.5)


# --- pause, resume ---


@pytest.mark.parametrize("form", FORMS)
async def test_a_pause_holds_newcomers(form: str) -> None:
    throttle = Throttle(10, 2)
    throttle.pause(3)
    assert throttle.paused_for == 3.0
    assert not throttle.try_acquire()
    await ask(throttle, form)
    assert (now(), throttle.paused_for) == (3.0, 0.0)


async def test_a_pause_may_be_awaited_takes_a_timedelta_and_does_not_block() -> None:
    throttle = Throttle(10)
    await throttle.pause(timedelta(minutes=1, microseconds=1))
    assert (now(), throttle.paused_for) == (0.0, 60.000001)


async def test_a_pause_for_ever_lasts_until_resume() -> None:
    throttle = Throttle(10)
    throttle.pause(math.inf)
    assert throttle.paused_for == math.inf
    assert throttle.delay() == math.inf
    waiter = await queued(throttle.acquire())
    await asyncio.sleep(1e6)
    assert not waiter.done()
    throttle.resume()
    await waiter
    assert now() == 1e6
    assert throttle.paused_for == 0.0


@pytest.mark.parametrize(
    "bad", [-1, -1e-6, math.nan, -math.inf, "5", timedelta(seconds=-1), timedelta(microseconds=-1)]
)
def test_a_pause_is_not_negative(bad: Any) -> None:
    throttle = Throttle(10)
    with pytest.raises(refusal_of(bad), match=re.escape(repr(bad))):
        throttle.pause(bad)
    assert throttle.paused_for == 0.0


async def test_a_refusal_while_a_pause_lasts_says_so_and_until_when() -> None:
    throttle = Throttle(10, max_waiting=1, name="chat")
    throttle.pause(30)
    with pytest.raises(ThrottleTimeout) as early:
        await throttle.acquire(timeout=5)
    assert str(early.value) == (
        "throttle 'chat' is paused for another 30 s, and does not grant it within a timeout of "
        "5 s: it takes 30 s or more"
    )
    assert early.value.retry_after == 30
    waiter = await queued(throttle.acquire(timeout=31))
    with pytest.raises(
        ThrottleFull, match=r" wait already; it is paused for another 30 s$"
    ) as full:
        await throttle.acquire()
    assert full.value.retry_after == 30
    await asyncio.sleep(10)
    throttle.pause(math.inf)
    with pytest.raises(
        ThrottleTimeout, match=r"^throttle 'chat' is paused until resume\(\), "
    ) as late:
        await waiter
    assert (now(), late.value.retry_after) == (31, None)


async def test_a_refusal_when_a_pause_is_over_does_not_speak_of_it() -> None:
    throttle = Throttle(1)
    throttle.pause(1)
    await asyncio.sleep(1)
    await throttle.acquire(timeout=-1)
    with pytest.raises(ThrottleTimeout, match=r"^the throttle does not grant it within "):
        await throttle.acquire(timeout=0.5)


# --- delay ---


async def test_delay_is_how_long_it_takes_and_changes_nothing() -> None:
    throttle = Throttle(10)
    assert throttle.delay() == 0.0
    assert throttle.delay(10) == 0.0
    assert throttle.try_acquire(9)
    before = seen(throttle)
    assert [throttle.delay(weight) for weight in (0, 1, 2, 10)] == [0.0, 0.0, 0.1, 0.9]
    assert seen(throttle) == before
    throttle.charge(6)
    assert throttle.delay(0) == 0.5
    assert throttle.delay() == 0.6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_delay_counts_everyone_ahead_and_is_kept_to_the_nanosecond(
    algorithm: type[Rule],
) -> None:
    burst = 3 if algorithm is LeakyBucket else None
    throttle = Throttle(3, period=0.7, algorithm=algorithm, burst=burst)
    told, came = [], []

    async def call(weight: float) -> None:
        await throttle.acquire(weight)
        came.append(now())

    tasks = []
    for weight in (3, 1, 2, 1, 3, 2.5, 0, 0.1):
        told.append(throttle.delay(weight))
        tasks.append(await queued(call(weight)))
    await asyncio.gather(*tasks)
    assert came == told


async def test_delay_raises_what_acquire_would() -> None:
    throttle = Throttle(10, max_waiting=0)
    with pytest.raises(WeightTooLarge):
        throttle.delay(11)
    with pytest.raises(ValueError, match="weight"):
        throttle.delay(-1)
    throttle.charge(10)
    with pytest.raises(ThrottleFull):
        throttle.delay()
    throttle.close()
    with pytest.raises(ThrottleClosed):
        throttle.delay()


# --- guarantee ---


@pytest.mark.parametrize(
    ("throttle", "window", "most"),
    [
        (Throttle(20), 1.0, 40.0),
        (Throttle(20, burst=5), 1.0, 25.0),
        (Throttle(20, period=60, burst=1), 60, 21.0),
        (Throttle(20, algorithm=GCRA), 0.25, 25.0),
        (Throttle(20, algorithm=LeakyBucket), 0.5, 11.0),
        (Throttle(20, algorithm=SlidingWindow), 1.0, 20.0),
        (Throttle(20, algorithm=SlidingWindow), 1.5, 40.0),
        (Throttle(20, algorithm=SlidingWindow), 0.01, 20.0),
        (Throttle(20, algorithm=FixedWindow), 1.0, 40.0),
        (Throttle(20, algorithm=FixedWindow), 1.01, 60.0),
        (Throttle(math.inf), 1.0, math.inf),
        (Throttle(math.inf, algorithm=SlidingWindow), 1.0, math.inf),
        (Throttle(20), math.inf, math.inf),
    ],
)
def test_guarantee_is_the_most_that_can_go_in_a_window(
    throttle: Throttle, window: float, most: float
) -> None:
    assert throttle.guarantee(window) == most


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_a_guarantee_is_about_a_stretch_of_time(bad: float) -> None:
    with pytest.raises(ValueError, match="window"):
        Throttle(10).guarantee(bad)


# --- live changes ---


def test_an_unset_burst_follows_the_capacity_and_a_set_one_does_not() -> None:
    throttle = Throttle(10)
    throttle.capacity = 4
    assert (throttle.burst, throttle.level) == (4.0, 4.0)
    throttle.capacity = 0.5
    assert throttle.burst == 1.0
    throttle.burst = 7
    throttle.capacity = 20
    assert throttle.burst == 7.0
    throttle.burst = None
    assert throttle.burst == 20.0


async def test_concurrency_zero_lifts_the_limit_and_counts_the_holders_all_the_same() -> None:
    throttle = Throttle(100, 1)
    await throttle.acquire()
    waiters = [await queued(throttle.acquire()) for _ in range(4)]
    throttle.concurrency = 0
    await asyncio.gather(*waiters)
    assert (throttle.concurrency, throttle.active) == (0, 5)
    throttle.concurrency = 5
    assert (throttle.active, throttle.try_acquire()) == (5, False)
    throttle.release()
    assert throttle.try_acquire()


async def test_a_waiter_that_no_longer_fits_fails_at_once_and_the_others_go_on() -> None:
    throttle = Throttle(10, initial=0)
    heavy = await queued(throttle.acquire(8))
    light = await queued(throttle.acquire(4))
    consumer = await queued(throttle.consume(6))
    throttle.burst = 5
    await others_run()
    for waiter in (heavy, consumer):
        error = waiter.exception()
        assert isinstance(error, WeightTooLarge)
        assert error.largest == 5.0
    await light
    assert now() == 0.4


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("capacity", 0), ("capacity", math.nan), ("concurrency", -1), ("concurrency", 0.5)),
        *(("period", 0), ("period", math.inf), ("burst", 0), ("burst", math.inf)),
    ],
)
def test_a_refused_change_changes_nothing(name: str, bad: float) -> None:
    throttle = Throttle(10, 2)
    before = seen(throttle)
    with pytest.raises(ValueError, match=name):
        setattr(throttle, name, bad)
    assert seen(throttle) == before


async def test_a_rate_can_be_lifted_and_put_back_while_callers_wait() -> None:
    throttle = Throttle(1, initial=0)
    waiters = [await queued(throttle.acquire()) for _ in range(100)]
    throttle.capacity = math.inf
    await asyncio.gather(*waiters)
    assert (now(), throttle.level) == (0.0, math.inf)
    throttle.capacity = 2
    assert throttle.burst == 2.0
    assert throttle.level <= 2.0


@pytest.mark.parametrize("name", ["level", "active", "waiting", "paused_for", "name", "algorithm"])
def test_what_is_read_only_cannot_be_set(name: str) -> None:
    throttle = Throttle(10)
    with pytest.raises(AttributeError):
        setattr(throttle, name, 1)


def test_a_misspelt_setting_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Throttle(10).capactiy = 5  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# --- level, repr ---


def test_level_without_a_rate_is_infinite() -> None:
    throttle = Throttle(math.inf, 3)
    throttle.charge(1000)
    assert throttle.try_acquire(10**9)
    assert (throttle.level, throttle.burst, throttle.capacity) == (math.inf, math.inf, math.inf)
    assert Throttle(math.inf, initial=5).level == math.inf
    assert Throttle(math.inf, initial=math.inf).level == math.inf


async def test_repr_is_in_the_manner_of_asyncio_and_tells_the_present() -> None:
    class Polite(Throttle):
        pass

    def told() -> str:
        found = re.fullmatch(r"<(.*)Polite object at 0x[0-9a-f]+ \[(.*)\]>", repr(throttle))
        assert found, repr(throttle)
        return found[2]

    throttle = Polite(10, 3)
    await throttle.acquire(7.5)
    rate = "capacity:10/1s, burst:10, TokenBucket"
    assert told() == f"unlocked, {rate}, tokens:2.5, slots:2/3, waiters:0"
    waiter = await queued(throttle.acquire(5))
    assert told() == f"locked, {rate}, tokens:2.5, slots:2/3, waiters:1"
    await waiter
    throttle.pause(1)
    assert told() == f"paused, {rate}, tokens:0, slots:1/3, waiters:0"
    await asyncio.sleep(1)
    assert told() == f"unlocked, {rate}, tokens:10, slots:1/3, waiters:0"
    throttle.close()
    assert told() == f"closed, {rate}, tokens:10, slots:1/3, waiters:0"
    assert re.fullmatch(
        r"<async_throttle\.Throttle object at .*tokens:10, waiters:0]>", repr(Throttle(10))
    )
    assert "capacity:inf, tokens:inf, slots:2/2, " in repr(Throttle(math.inf, 2))
    assert "capacity:10/1s, burst:10, TokenBucket, tokens:10, slots:60/60" in repr(Throttle(10, 60))


def test_no_repr_ever_raises() -> None:
    class Broken(TokenBucket):
        def level(self, now: int) -> float:
            raise ZeroDivisionError

    def timer() -> float:
        if broken:
            raise ZeroDivisionError
        return 0.0

    broken = False
    throttle = Throttle(10, timer=timer)
    broken = True
    assert "tokens:10" in repr(throttle)
    assert "tokens:?" in repr(Throttle(10, algorithm=Broken))
    for weight in ("5", None, Fraction(1, 2), 1j, 10**400):
        assert repr(call(Throttle(10), weight)).startswith("<async_throttle.Lease of ")


# --- drain, close ---


async def test_drain_waits_for_a_caller_without_a_slot_that_was_granted_and_does_not_run_yet() -> (
    None
):
    throttle = Throttle(10)
    throttle.pause(math.inf)
    granted = await queued(throttle.consume())
    throttle.resume()
    await throttle.drain()
    assert granted.done()


async def test_drain_waits_until_nobody_waits_or_holds() -> None:
    throttle = Throttle(10, 1)

    async def job() -> None:
        async with throttle:
            await asyncio.sleep(1)

    await throttle.drain()  # nobody is there
    assert now() == 0.0
    jobs = [await queued(job()) for _ in range(3)]
    await throttle.drain()
    assert now() == 3.0
    assert (throttle.active, throttle.waiting) == (0, 0)
    await asyncio.gather(*jobs)


@pytest.mark.parametrize("form", [*FORMS, "try_acquire"])
async def test_a_closed_throttle_refuses_newcomers(form: str) -> None:
    throttle = Throttle(10, name="api")
    throttle.close()
    throttle.close()  # again is harmless
    with pytest.raises(ThrottleClosed, match="api") as refusal:
        await ask(throttle, form)
    assert refusal.value.limit == "api"
    assert (throttle.level, throttle.active) == (10.0, 0)


# --- refusals ---


@pytest.mark.parametrize("form", WEIGHED)
@pytest.mark.parametrize("weight", [10.000000001, 11, 1e300])
async def test_a_weight_above_the_burst_is_refused_before_anything_is_taken(
    form: str, weight: float
) -> None:
    throttle = Throttle(10, 1)
    before = seen(throttle)
    with pytest.raises(WeightTooLarge, match="10") as refusal:
        await ask(throttle, form, weight)
    assert isinstance(refusal.value, ValueError)
    assert (refusal.value.largest, refusal.value.retry_after) == (10.0, None)
    assert seen(throttle) == before


def test_a_weight_above_the_burst_is_refused_even_while_the_throttle_is_at_work() -> None:
    def timer() -> float:
        return 0.0 if not made else made[0].try_acquire(11)

    made: list[Throttle] = []
    made.append(Throttle(10, timer=timer))
    with pytest.raises(WeightTooLarge):
        made[0].pause(0)


async def test_a_delay_asked_for_while_the_throttle_is_at_work_counts_pauses_and_waiters() -> None:
    def timer() -> float:
        told.extend(throttle.delay(3) for throttle in asked)
        return 0.0

    asked: list[Throttle] = []
    told: list[float] = []
    throttle = Throttle(10, initial=0, timer=timer)
    waiter = await queued(throttle.acquire(4))
    asked.append(throttle)
    assert throttle.level == 0
    assert told.pop() == 0.7
    throttle.pause(5)
    told.clear()
    assert throttle.level == 0
    assert told == [5.0]
    waiter.cancel()


@pytest.mark.parametrize("form", [*WEIGHED, "try_acquire"])
@pytest.mark.parametrize("weight", [-1, -1e-9, math.nan, math.inf, -math.inf, "1", None, 4e-10])
async def test_a_weight_is_a_finite_number_of_at_least_zero(form: str, weight: Any) -> None:
    throttle = Throttle(10, 1)
    before = seen(throttle)
    with pytest.raises(refusal_of(weight), match=f"weight .*{re.escape(repr(weight))}"):
        await ask(throttle, form, weight)
    assert seen(throttle) == before


# --- timeout ---


async def test_a_timeout_shorter_than_the_known_wait_is_refused_at_once() -> None:
    throttle = Throttle(1, name="api")
    assert throttle.try_acquire()
    with pytest.raises(
        ThrottleTimeout, match=r"'api' .* 0\.999 s: it takes 1 s or more$"
    ) as refusal:
        await throttle.acquire(timeout=0.999)
    assert now() == 0.0
    assert isinstance(refusal.value, TimeoutError)
    assert (refusal.value.retry_after, refusal.value.limit) == (1.0, "api")


@pytest.mark.parametrize(
    ("wait", "told"), [(0, None), (1, 1e-9), (NEVER // 2 - 1, NEVER / 2e9), (NEVER // 2, None)]
)
def test_a_refusal_tells_the_wait_unless_it_is_for_a_slot_or_for_ever(wait: int, told: Any) -> None:
    assert known(wait) == told


@pytest.mark.parametrize("form", ["block", "acquire", "lease"])
async def test_a_timeout_as_long_as_the_wait_is_enough(form: str) -> None:
    throttle = Throttle(1, initial=0)
    answer = await ask(throttle, form, timeout=1)
    assert now() == 1.0
    assert form not in ("block", "lease") or answer.waited == 1.0


@pytest.mark.parametrize("comes", ["a slot more", "a resume", "a refund"])
async def test_what_comes_at_the_deadline_s_instant_is_in_time(comes: str) -> None:
    throttle = Throttle(1, 1, burst=10)
    lease = await throttle.lease(10)
    if comes == "a slot more":
        at(2.0, lambda: setattr(throttle, "concurrency", 2))
    else:
        lease.release()
    waiter = await queued(throttle.acquire(2, timeout=2))
    if comes == "a refund":
        throttle.charge(5)
        at(2.0, lambda: lease.settle(5))
    elif comes == "a resume":
        throttle.pause(math.inf)
        at(2.0, throttle.resume)
    assert await waiter
    assert (now(), throttle.level, throttle.waiting) == (2.0, 0.0, 0)


async def test_a_nanosecond_after_the_deadline_it_is_too_late_though_the_timer_is_later() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    throttle = Throttle(10, 1)
    await throttle.acquire()
    waiter = await queued(throttle.acquire(timeout=2))
    await asyncio.sleep(1)
    loop._now += 1_000_000_001  # as if the loop had been blocked
    throttle.release()
    with pytest.raises(ThrottleTimeout):
        await waiter
    assert (throttle.active, throttle.waiting) == (0, 0)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -math.inf])
async def test_a_timeout_of_nothing_is_now_or_never(timeout: float) -> None:
    throttle = Throttle(10, 1)
    assert await throttle.acquire(timeout=timeout)
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=timeout)
    assert throttle.waiting == 0
    throttle.release()
    throttle.charge(9)
    with pytest.raises(ThrottleTimeout):
        await throttle.acquire(timeout=timeout)
    assert now() == 0.0


async def test_an_infinite_timeout_is_none_and_a_finite_one_never_outlasts_an_endless_pause() -> (
    None
):
    throttle = Throttle(10, initial=0)
    await throttle.acquire(timeout=math.inf)
    throttle.pause(math.inf)
    with pytest.raises(ThrottleTimeout, match=r"1e\+06 s$") as refusal:
        await throttle.acquire(timeout=1e6)
    assert refusal.value.retry_after is None  # who knows when it is resumed
    waiter = await queued(throttle.acquire(timeout=math.inf))
    throttle.resume()
    await waiter
    assert now() == 0.2


@pytest.mark.parametrize("bad", [math.nan, "1"])
async def test_a_timeout_that_is_no_number_is_a_value_error(bad: Any) -> None:
    throttle = Throttle(10, initial=0)
    with pytest.raises((ValueError, TypeError), match=f"timeout must be a number, got {bad!r}"):
        await throttle.acquire(timeout=bad)
    assert throttle.waiting == 0


# --- as exact as integers ---


@pytest.mark.parametrize(
    ("capacity", "period"), [(1, 86_400), (3, 7), (7, 3), (1e6, 1), (999_983, 1), (0.3, 0.7)]
)
def test_a_million_grants_do_not_drift(capacity: float, period: float) -> None:
    throttle = Throttle(capacity, period=period, burst=1, initial=0, timer=lambda: 0.0)
    throttle.charge(10**6 - 1)
    assert throttle.delay() == pytest.approx(10**6 * period / capacity, rel=1e-15, abs=2e-9)


@pytest.mark.parametrize("rate", [3, 999, 30_000, 999_983])
@pytest.mark.parametrize("burst", [1, 2])
async def test_the_drift_of_real_grants_is_below_one_in_a_million(rate: int, burst: int) -> None:
    throttle = Throttle(rate, burst=burst, initial=0)
    grants = scaled(3_000)
    for _ in range(grants):
        await throttle.acquire()
    late = now() - grants / rate
    assert -1e-9 <= late <= grants / rate / 1e6 + 1e-9


async def test_an_interrupt_in_the_middle_of_a_grant_forgets_nobody() -> None:
    class Interrupted(TokenBucket):
        def take(self, now: int, weight: int) -> int | None:
            if interrupts.pop():
                raise KeyboardInterrupt
            return super().take(now, weight)

    interrupts = [False, True, False]
    throttle = Throttle(10, 1, algorithm=Interrupted)
    await throttle.acquire()
    waiter = await queued(throttle.acquire())
    with pytest.raises(KeyboardInterrupt):
        throttle.concurrency = 2
    await asyncio.wait_for(waiter, 1)
    assert (throttle.active, throttle.waiting) == (2, 0)


@pytest.mark.parametrize("kind", [Throttle, LimitSet])
async def test_a_close_that_is_interrupted_is_made_all_the_same_and_hides_no_interrupt(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    throttle = Throttle(10, initial=0)
    limiter = throttle if kind is Throttle else LimitSet(throttle)
    waiter = await queued(limiter.lease())
    monkeypatch.setattr(Queue, "drop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        limiter.close()
    with pytest.raises(ThrottleClosed):
        await waiter


def test_the_clock_of_a_throttle_for_threads_may_take_and_release_of_another() -> None:
    def timer() -> float:
        with other(2):
            return 0.0

    other = threads.Throttle(1_000, 1)
    throttle = threads.Throttle(10, timer=timer)
    assert throttle.try_acquire()
    assert (other.active, throttle.level) == (0, 9)


# --- what is not said ---


@pytest.mark.parametrize("kind", [Throttle, threads.Throttle])
@pytest.mark.parametrize("form", ["acquire", "lease", "consume", "call"])
async def test_the_usual_priority_is_0_and_the_usual_weight_1(kind: type[Any], form: str) -> None:
    async def ask(n: int, how: dict[str, Any]) -> None:
        if form == "call":
            await throttle(**how).__aenter__()
        else:
            await getattr(throttle, form if kind is Throttle else f"{form}_async")(**how)
        order.append((n, round(now(), 3)))

    throttle = kind(10, initial=0)
    order: list[tuple[int, float]] = []
    told: list[dict[str, Any]] = [{}, {"priority": 0, "weight": 1}, {}, {"priority": 0}]
    tasks = [await queued(ask(n, how)) for n, how in enumerate(told)]
    tasks += [await queued(ask(9, {"priority": 1})), await queued(ask(-9, {"priority": -1}))]
    assert throttle.delay() == throttle.delay(1, priority=0) == 0.6
    await asyncio.gather(*tasks)
    assert order == [(-9, 0.1), (0, 0.2), (1, 0.3), (2, 0.4), (3, 0.5), (9, 0.6)]
    worse = await queued(ask(9, {"priority": 1, "weight": 5}))
    await asyncio.sleep(0.1)
    assert throttle.try_acquire()
    worse.cancel()


async def test_who_is_cancelled_at_the_head_is_told_nothing_more() -> None:
    waiter = await queued(Throttle(10, initial=0).acquire())
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await waiter
    assert not hasattr(raised.value, "__notes__")


async def test_a_call_that_weighs_nothing_takes_nothing() -> None:
    throttle, of_threads = Throttle(10), threads.Throttle(10)
    assert await throttle.acquire(0)
    assert of_threads.acquire(0)
    assert await of_threads.acquire_async(0)
    assert (throttle.level, of_threads.level) == (10, 10)
