"""What an answer does to a limiter: pauses, levels, outcomes."""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import os
import pickle
import random
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from http_quota import simulated
from support import at, check, now

from async_throttle import (
    AIMD,
    Adaptive,
    ClockWindow,
    FixedWindow,
    LimitPool,
    LimitSet,
    Outcome,
    SlidingWindow,
    Throttle,
    Throttles,
    TokenBucket,
    limits,
    threads,
)
from async_throttle.http import Learner, _known, learn
from async_throttle.http import learner as module
from async_throttle.rules.slots import UNLIMITED
from async_throttle.stores import SQLiteStore

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are not told are no longer than they have to be."""
    monkeypatch.setattr(random, "uniform", lambda low, high: low)


def x(limit: object, remaining: object, reset: object = None) -> dict[str, str]:
    """Headers of the X-RateLimit family."""
    told = {"Limit": limit, "Remaining": remaining, "Reset-After": reset}
    return {f"X-RateLimit-{name}": str(value) for name, value in told.items() if value is not None}


def openai(**said: tuple[object, object, object]) -> dict[str, str]:
    """Headers of OpenAI: limit, remaining and reset, by what is counted."""
    names = ("limit", "remaining", "reset")
    return {
        f"x-ratelimit-{part}-{name.replace('_', '-')}": str(value)
        for name, values in said.items()
        for part, value in zip(names, values, strict=True)
    }


async def answered(
    learner: Learner, limiter: Any, status: int, headers: Any = (), *, weights: Any = None
) -> Any:
    """A call of *limiter* that gets this answer; its lease, which was released."""
    lease = await limiter.lease(*(() if weights is None else (weights,)))
    learner.sent(limiter, lease)
    learner.answered(limiter, lease, status, headers)
    lease.release()
    return lease


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "30"}, 31),
        (503, {"Retry-After": "2.5"}, 2.5),
        (529, {}, 1),
        (403, {"Retry-After": "5"}, 6),
        (429, x(5, 0, "7.5"), 7.5),
        (429, {"Retry-After": "34359738368"}, 600),
        (429, {"Retry-After": "-5"}, 1),
        (429, x(5, 0, "9" * 15), 600),
    ],
)
async def test_a_refusal_holds_everybody(status: int, headers: dict[str, str], wait: float) -> None:
    throttle, learner = Throttle(10), Learner()
    await answered(learner, throttle, status, headers)
    assert throttle.paused_for == pytest.approx(wait)
    await throttle.acquire()
    assert now() == pytest.approx(wait + 0.1)  # the bucket was empty when the pause ended
    assert learner.refusals == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Retry-After": "30"}),
        (302, {"Retry-After": "30"}),
        (403, {}),
        (500, {"Retry-After": "1"}),
    ],
)
async def test_what_is_no_refusal_holds_nobody(status: int, headers: dict[str, str]) -> None:
    throttle, learner = Throttle(10), Learner()
    await answered(learner, throttle, status, headers)
    assert throttle.paused_for == 0
    assert learner.refusals == 0


@pytest.mark.parametrize("rule", [SlidingWindow, FixedWindow, ClockWindow])
async def test_a_window_is_not_emptied_for_a_period_more(rule: Any) -> None:
    throttle = Throttle(10, period=60, algorithm=rule)
    await answered(Learner(), throttle, 429, {"Retry-After": "2.0"})
    await throttle.acquire()
    assert 2 <= now() <= 2.5  # the margin of a window of the clock


async def test_no_pause_is_longer_than_it_may_be() -> None:
    throttle = Throttle(10)
    await answered(Learner(max_pause=0.25), throttle, 429, {"Retry-After": "100"})
    assert throttle.paused_for == pytest.approx(0.25)
    await answered(Learner(max_pause=2.5), throttle, 429, {"Retry-After": "100"})
    assert throttle.paused_for == pytest.approx(2.5)


async def test_without_a_delay_pauses_double_up_to_a_minute() -> None:
    throttle, learner = Throttle(math.inf), Learner()
    seen = []
    for _ in range(9):
        await answered(learner, throttle, 429)
        seen.append(round(throttle.paused_for, 3))
        await asyncio.sleep(throttle.paused_for)
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    await answered(learner, throttle, 502)  # which does not say that it is over
    assert learner._known[throttle].row.refusals == 9
    await answered(learner, throttle, 200)
    await answered(learner, throttle, 429)
    assert throttle.paused_for == 1


async def test_chance_makes_a_pause_up_to_a_quarter_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    throttle = Throttle(10)
    await answered(Learner(), throttle, 503)
    assert throttle.paused_for == 1.25


async def test_github_is_left_alone_for_a_minute_and_then_for_two() -> None:
    throttle, learner = Throttle(math.inf), Learner(max_pause=100)
    seen = []
    for _ in range(3):
        await answered(learner, throttle, 429, {"X-GitHub-Request-Id": "1"})
        seen.append(throttle.paused_for)
        await asyncio.sleep(throttle.paused_for)
    assert seen == [60, 100, 100]


async def test_calls_that_are_refused_together_are_refused_once() -> None:
    throttle, learner = Throttle(math.inf), Learner()
    leases = [await throttle.lease() for _ in range(20)]
    for lease in leases:
        learner.sent(throttle, lease)
    for lease in leases[:15]:
        learner.answered(throttle, lease, 429, {})
    assert throttle.paused_for == 1
    await asyncio.sleep(1)
    for lease in leases[15:19]:  # after the pause, and sent before it: nothing new
        learner.answered(throttle, lease, 429, {})
    assert throttle.paused_for == 1
    await asyncio.sleep(1)
    learner.answered(throttle, leases[19], 200, {})  # nor does this say that it is over
    await answered(learner, throttle, 429)
    assert throttle.paused_for == 2


async def test_without_a_word_when_calls_were_sent_a_pause_tells_them_apart() -> None:
    throttle, learner = Throttle(math.inf), Learner()
    for _ in range(3):
        learn(throttle, 429, {}, learner=learner)
    assert throttle.paused_for == 1
    learn(throttle, 200, {}, learner=learner)
    await asyncio.sleep(1)
    learn(throttle, 429, {}, learner=learner)
    assert throttle.paused_for == 2
    await asyncio.sleep(2)
    learn(throttle, 200, {}, learner=learner)
    learn(throttle, 429, {}, learner=learner)
    assert throttle.paused_for == 1


async def test_without_that_word_the_pause_of_a_limit_of_a_set_tells_them_apart() -> None:
    limits, learner = api(), Learner()
    for _ in range(100):
        learn(limits, 429, {"x-ratelimit-remaining-tokens": "0"}, learner=learner)
    assert (limits["tokens"].paused_for, limits.paused_for) == (1, 0)
    await asyncio.sleep(1)
    learn(limits, 429, {"x-ratelimit-remaining-tokens": "0"}, learner=learner)
    assert limits["tokens"].paused_for == 2


async def test_a_call_that_failed_is_not_waited_for() -> None:
    throttle, learner = Throttle(10), Learner()
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    learner.failed(throttle, lease)
    assert throttle.paused_for == 0


def api() -> LimitSet[Throttle]:
    return LimitSet(requests=Throttle(100, period=60), tokens=Throttle(1_000, period=60))


async def test_of_a_set_what_is_used_up_is_paused() -> None:
    limits = api()
    headers = openai(requests=(100, 90, "6s"), tokens=(1_000, 0, "60s"))
    await answered(Learner(), limits, 429, {**headers, "retry-after-ms": "1500"})
    assert (limits["tokens"].paused_for, limits["requests"].paused_for) == (1.5, 0)
    assert limits.paused_for == 0
    async with limits(tokens=0):
        assert now() == 0


async def test_of_a_set_all_is_paused_where_nothing_is_used_up_by_name() -> None:
    for headers in ({"Retry-After": "5.0"}, {**x(9, 0, "5.0"), "X-RateLimit-Scope": "global"}):
        limits = api()
        await answered(Learner(), limits, 429, headers)
        assert limits.paused_for == 5
        assert limits["tokens"].paused_for == limits["requests"].paused_for == 0


async def test_the_resource_of_github_is_the_limit_of_that_name() -> None:
    limits = LimitSet(core=Throttle(5_000, period=3_600), search=Throttle(30, period=60))
    headers = {**x(30, 0, "50.0"), "X-RateLimit-Resource": "search"}
    await answered(Learner(), limits, 403, headers)
    assert (limits["search"].paused_for, limits["core"].paused_for) == (50, 0)


async def test_of_a_pool_the_set_is_paused_that_granted_the_call() -> None:
    first, second = LimitSet(requests=Throttle(10)), LimitSet(requests=Throttle(10))
    pool, learner = LimitPool([first, second]), Learner()
    lease = await answered(learner, pool, 429, {"Retry-After": "60"})
    assert lease.limit_set is first
    assert (first.paused_for, second.paused_for) == (61, 0)
    assert (await answered(learner, pool, 200)).limit_set is second
    assert now() == 0


async def test_a_limiter_without_a_rate_is_paused_as_well() -> None:
    throttle = Throttle(math.inf, 5)
    await answered(Learner(), throttle, 429, {**x(5, 0, "3.0")})
    assert throttle.paused_for == 3


async def test_what_a_refused_call_took_is_kept_or_given_back() -> None:
    kept, back = (
        Throttle(10, period=100, algorithm=SlidingWindow),
        Throttle(10, period=100, algorithm=SlidingWindow),
    )
    await answered(Learner(), kept, 503, weights=4)
    await answered(Learner(refused="refund"), back, 503, weights=4)
    assert (kept.level, back.level) == (6, 10)


async def test_of_a_set_all_that_was_taken_is_given_back() -> None:
    api = LimitSet(
        requests=Throttle(10, period=100, algorithm=SlidingWindow),
        tokens=Throttle(10, period=100, algorithm=SlidingWindow),
        concurrency=3,
    )
    await answered(Learner(refused="refund"), api, 503, weights={"tokens": 4, "requests": 2})
    assert api.level == {"requests": 10, "tokens": 10, "concurrency": math.inf}


async def test_a_call_limit_keeps_a_refused_call_and_the_answer_is_there_all_the_same() -> None:
    api = limits.LimitSet(
        limits=[
            limits.RateLimit("tokens", window_seconds=60, capacity=100),
            limits.CallLimit(window_seconds=60, capacity=50),
        ]
    )
    call = api(tokens=10)
    with call:
        assert Learner(refused="refund").answered(api, call, 429, {"Retry-After": "5"}).refused
    assert api.level == {"tokens": 100, "call_count": 49}
    assert api.paused_for == 6


# -- levels ----------------------------------------------------------------------------------------


async def test_the_level_is_lowered_to_what_is_left_and_never_raised() -> None:
    throttle, learner = Throttle(100, period=60), Learner()
    await answered(learner, throttle, 200, x(100, 40))
    assert throttle.level == pytest.approx(40)
    await answered(learner, throttle, 200, x(100, 90))
    assert throttle.level == pytest.approx(39)
    await answered(learner, throttle, 404, x(100, 7))
    assert throttle.level == pytest.approx(7)


async def test_a_window_forgets_at_the_reset_of_the_server() -> None:
    throttle = Throttle(100, period=60, algorithm=SlidingWindow)
    await answered(Learner(), throttle, 200, x(100, 0, "7.5"))
    await throttle.acquire()
    assert now() == 7.5


async def test_of_two_windows_that_are_used_up_the_later_reset_counts() -> None:
    throttle = Throttle(100, period=60, algorithm=SlidingWindow)
    headers = {"RateLimit": '"short";r=0;t=10, "long";r=0;t=40'}
    await answered(Learner(), throttle, 200, headers)
    await throttle.acquire()
    assert now() == 40


async def test_a_window_that_is_over_says_nothing() -> None:
    throttle = Throttle(100, period=60)
    await answered(Learner(), throttle, 200, x(100, 5, 0))
    assert throttle.level == pytest.approx(99)


async def test_where_others_use_the_quota_what_is_in_flight_is_not_left() -> None:
    throttle, learner = Throttle(100, period=60), Learner(shared=True)
    mine, other = await throttle.lease(10), await throttle.lease(20)
    learner.sent(throttle, mine)
    learner.sent(throttle, other)
    learner.answered(throttle, mine, 200, x(100, 50))
    assert throttle.level == pytest.approx(30)


async def test_nothing_comes_back_before_the_reset_of_a_window_that_is_used_up() -> None:
    throttle, learner = Throttle(9, period=10, algorithm=SlidingWindow), Learner(shared=True)
    for _ in range(4):  # in the window before
        await answered(learner, throttle, 200)
    await asyncio.sleep(8)
    await answered(learner, throttle, 200, x(9, 0, 8))
    async with throttle:  # not at 10, when the first four leave the window here
        assert now() == 16


def in_flight_at_most(throttle: Throttle) -> int:
    """How many more calls go at once, of eight; they weigh nothing, and end."""
    got = [throttle.try_acquire(0) for _ in range(8)]
    for _ in range(sum(got)):
        throttle.release()
    return sum(got)


async def answered_and_open(learner: Learner, throttle: Throttle, headers: Any) -> Any:
    """A call that was answered, and whose body is read."""
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    learner.answered(throttle, lease, 200, headers)
    return lease


@pytest.mark.parametrize("rule", [SlidingWindow, FixedWindow, ClockWindow])
async def test_of_a_shared_window_no_more_are_in_flight_than_the_server_has_left(rule: Any) -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=rule), Learner(shared=True)
    for left, together in ((50, 8), (10, 8), (9, 7), (5, 3), (3, 1), (1, 1)):
        await answered(learner, throttle, 200, x(100, left, 30))
        assert in_flight_at_most(throttle) == together
        assert throttle.level == pytest.approx(left)
        assert throttle.concurrency == 8
    await asyncio.sleep(60)
    await answered(learner, throttle, 200, x(100, 99, 60))
    assert in_flight_at_most(throttle) == 8


async def test_who_has_no_limit_of_slots_has_one_in_the_last_hundred_calls_alone() -> None:
    throttle, learner = Throttle(200, period=60, algorithm=SlidingWindow), Learner(shared=True)
    for left in (150, 101, 99, 5):
        await answered(learner, throttle, 200, x(200, left, 30))
        assert throttle.concurrency == 0
        assert throttle._core.slots.limit == (UNLIMITED if left > 100 else left - 2)


async def test_calls_of_a_shared_window_wait_for_those_in_flight_and_for_no_body() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    bodies = [await answered_and_open(learner, throttle, x(100, 90, 60)) for _ in range(4)]
    unanswered = [await throttle.lease() for _ in range(2)]
    for each in unanswered:
        learner.sent(throttle, each)
    await answered(learner, throttle, 200, x(100, 4, 60))
    assert in_flight_at_most(throttle) == 0  # two are in flight
    unanswered.pop().release()
    assert in_flight_at_most(throttle) == 1
    for each in bodies + unanswered:
        each.release()


async def test_a_later_answer_counts_though_it_comes_first() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    await answered(learner, throttle, 200, x(100, 3, 30))
    await answered(learner, throttle, 200, x(100, 20, 30))
    assert in_flight_at_most(throttle) == 1
    await answered(learner, throttle, 200, x(100, 5, 0))  # a reset that is just over
    assert in_flight_at_most(throttle) == 3


async def test_a_large_call_is_as_many_as_it_weighs() -> None:
    throttle, learner = Throttle(1_000, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    await answered(learner, throttle, 200, x(1_000, 500, 30), weights=100)
    assert in_flight_at_most(throttle) == 3


async def test_an_answer_without_a_reading_says_nothing_of_a_window() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    await answered(learner, throttle, 200, x(100, 3, 30))
    assert in_flight_at_most(throttle) == 1
    await answered(learner, throttle, 404)
    assert in_flight_at_most(throttle) == 1
    await asyncio.sleep(60)
    await answered(learner, throttle, 200, x(100, 90, 30))
    assert in_flight_at_most(throttle) == 8


async def test_what_is_set_meanwhile_is_what_there_is() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    await answered(learner, throttle, 200, x(100, 3, 30))
    throttle.concurrency = 2
    assert (throttle.concurrency, in_flight_at_most(throttle)) == (2, 2)
    await answered(learner, throttle, 200, x(100, 90, 30))
    assert throttle.concurrency == 2


async def test_what_is_set_while_an_answer_waits_for_the_door_is_what_there_is() -> None:
    answers: list[int] = []

    def clock() -> float:  # in the middle of a change, as a signal handler
        if answers:
            learner.answered(throttle, None, answers.pop(), {})
        return now()

    learner = Learner(shared=True)
    throttle = Throttle(100, 8, 60, algorithm=SlidingWindow, timer=clock)
    await answered(learner, throttle, 200, x(100, 3, 30))
    answers.append(200)
    throttle.concurrency = 2
    assert (throttle.concurrency, in_flight_at_most(throttle)) == (2, 2)


@pytest.mark.parametrize(
    ("limit", "together"),
    [
        (lambda: Throttle(10, period=10, algorithm=SlidingWindow), 1),
        (lambda: Throttle(10, 5, 10, algorithm=FixedWindow), 1),
        (lambda: Throttle(10, 5, 10), 5),  # a bucket: it was empty, and so the start is gentle
        (lambda: Throttle(math.inf), 8),
    ],
)
async def test_after_a_refusal_one_of_a_shared_window_goes_alone_until_one_is_served(
    limit: Callable[[], Throttle], together: int
) -> None:
    throttle, learner = limit(), Learner(shared=True)
    before = await throttle.lease()
    learner.sent(throttle, before)
    await answered(learner, throttle, 429, {"Retry-After": "4.5"})
    learner.answered(throttle, before, 200, ())  # which says nothing new
    before.release()
    await asyncio.sleep(9)
    assert in_flight_at_most(throttle) == together
    await answered(learner, throttle, 502)
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    learner.failed(throttle, lease, OSError())
    lease.release()
    assert in_flight_at_most(throttle) <= together
    await answered(learner, throttle, 200)
    assert in_flight_at_most(throttle) >= 5


async def test_the_first_refusal_lets_as_many_go_as_there_are_and_the_next_one_alone() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner()
    open_ones = [await throttle.lease() for _ in range(3)]  # who knows: their bodies may be long
    await answered(learner, throttle, 429, {"Retry-After": "0.5"})
    await asyncio.sleep(0.5)
    assert in_flight_at_most(throttle) == 1
    for each in open_ones:
        each.release()
    assert in_flight_at_most(throttle) == 4
    await answered(learner, throttle, 429, {"Retry-After": "0.5"})
    await asyncio.sleep(0.5)
    assert in_flight_at_most(throttle) == 1


async def test_of_a_set_each_limit_has_what_is_left_of_it() -> None:
    limits = LimitSet(
        a=Throttle(100, 8, 60, algorithm=SlidingWindow),
        b=Throttle(100, 8, 600, algorithm=SlidingWindow),
    )
    learner = Learner(shared=True)
    await answered(learner, limits, 200, {"RateLimit": '"a";r=5;t=30, "b";r=7;t=300'})
    assert [in_flight_at_most(limits[name]) for name in ("a", "b")] == [3, 5]
    await answered(learner, limits, 200, {"RateLimit": '"b";r=4;t=300'})
    assert in_flight_at_most(limits["b"]) == 2


async def test_a_law_for_concurrency_stays_alone_with_it() -> None:
    throttle = Throttle(100, 8, 60, algorithm=SlidingWindow, adapt=AIMD())
    other = await throttle.lease(3)
    await answered(Learner(shared=True), throttle, 200, x(100, 5, 30))
    assert throttle.level == pytest.approx(2)  # less what is in flight, as of a bucket
    assert throttle.concurrency == 8
    other.release()


@pytest.mark.parametrize(
    ("algorithm", "shared", "said"),
    [
        (SlidingWindow, True, (9, 1, 8)),  # one is left
        (SlidingWindow, True, (9, 0)),  # nobody knows until when
        (SlidingWindow, True, (9, 0, 0)),  # it is over
        (SlidingWindow, False, (9, 0, 8)),  # nobody else is there
        (TokenBucket, True, (9, 0, 8)),  # it comes back bit by bit
    ],
)
async def test_else_what_comes_back_here_is_there(
    algorithm: Any, shared: bool, said: tuple[int, ...]
) -> None:
    throttle = Throttle(9, period=10, algorithm=algorithm)
    await answered(Learner(shared=shared), throttle, 200, x(*said))
    assert throttle.paused_for == 0


async def test_a_pause_until_a_reset_is_bounded_and_is_that_of_its_limit() -> None:
    limits = LimitSet(
        requests=Throttle(9, period=10, algorithm=SlidingWindow),
        tokens=Throttle(90, period=10, algorithm=SlidingWindow),
    )
    learner = Learner(shared=True, max_pause=30)
    headers = {"RateLimit": '"requests";r=5;t=60, "tokens";r=0;t=60'}
    await answered(learner, limits, 200, headers, weights={"tokens": 5})
    assert (limits["requests"].paused_for, limits["tokens"].paused_for) == (0, 30)


async def test_after_a_refusal_others_may_use_the_quota_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WARY", 3)
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner()
    await answered(learner, throttle, 200, x(100, 7))
    assert in_flight_at_most(throttle) == 8
    await answered(learner, throttle, 429, {"Retry-After": "0.0"})
    await answered(learner, throttle, 200, x(100, 4))
    assert in_flight_at_most(throttle) == 2
    await answered(learner, throttle, 200, x(100, 3))
    await answered(learner, throttle, 200, x(100, 2))  # the third one: forgotten
    assert throttle.level == pytest.approx(2)
    assert in_flight_at_most(throttle) == 8


@pytest.mark.parametrize(
    ("headers", "levels"),
    [
        (
            openai(requests=(100, 5, "57s"), tokens=(1_000, 50, "57s")),
            {"requests": 5, "tokens": 50},
        ),
        (x(100, 5), {"requests": 5}),
        ({"RateLimit": '"tokens";r=50;t=5'}, {"tokens": 50}),
        ({"RateLimit": '"some";r=5;t=5'}, {"requests": 5}),
        ({"RateLimit": '"some";r=5;t=5', "RateLimit-Policy": '"some";q=9;qu="content-bytes"'}, {}),
        ({"Anthropic-RateLimit-Input-Tokens-Remaining": "50"}, {}),
        ({"X-MBX-USED-WEIGHT-1M": "95"}, {"requests": 5}),
    ],
)
async def test_a_reading_is_of_the_limit_of_its_name(
    headers: dict[str, str], levels: dict[str, float]
) -> None:
    limits = api()
    await answered(Learner(), limits, 200, headers)
    expected = {"requests": 99, "tokens": 999, **levels}
    assert limits.level == {key: pytest.approx(level) for key, level in expected.items()}


async def test_names_are_compared_without_case_and_a_dash_is_an_underscore() -> None:
    limits = LimitSet(Input_Tokens=Throttle(1_000), output_tokens=Throttle(1_000))
    headers = {"anthropic-ratelimit-input-tokens-remaining": "50", **x(9, 3)}
    await answered(Learner(), limits, 200, headers)
    assert limits.level == {"Input_Tokens": 50, "output_tokens": 999}


async def test_the_only_rate_of_a_set_is_that_of_requests() -> None:
    limits = LimitSet(calls=Throttle(100), concurrency=3)
    await answered(Learner(), limits, 200, x(100, 5))
    assert limits.level["calls"] == 5


async def test_a_throttle_by_itself_counts_requests_and_not_tokens() -> None:
    throttle = Throttle(100, period=60)
    await answered(Learner(), throttle, 200, openai(requests=(100, 60, "24s"), tokens=(9, 5, "1s")))
    assert throttle.level == pytest.approx(60)


async def test_a_limit_of_another_period_is_told_once() -> None:
    throttle, learner = Throttle(30, period=60), Learner()
    groq = openai(requests=(14_400, 3, "86382s"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await answered(learner, throttle, 200, groq)
        await answered(learner, throttle, 200, groq)
    assert len(told) == 1
    assert "limit of requests, 14400, is for 86400 s, but the period of" in str(told[0].message)
    assert (told[0].category, told[0].filename) == (RuntimeWarning, __file__)
    assert throttle.level == pytest.approx(28)
    assert learner.ignored == 2


async def test_a_reset_that_was_rounded_is_not_of_another_period() -> None:
    throttle, learner = Throttle(30_000, period=60), Learner()
    await answered(learner, throttle, 200, openai(requests=(30_000, 29_999, "4ms")))
    await answered(learner, throttle, 200, openai(requests=(30_000, 29_000, "2s")))
    assert learner.ignored == 0


@pytest.mark.parametrize(("seconds", "ignored"), [(24, 1), (32, 0), (110, 0), (140, 1)])
async def test_a_period_may_be_off_by_a_factor_of_two(seconds: float, ignored: int) -> None:
    throttle, learner = Throttle(100, period=60), Learner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        headers = openai(requests=(100, 50, f"{seconds / 2}s"))
        await answered(learner, throttle, 200, headers)
    assert learner.ignored == ignored
    assert throttle.level == pytest.approx(99 if ignored else 50)


async def test_what_was_used_is_of_the_limit_if_that_is_said() -> None:
    throttle = Throttle(100, period=60)
    await answered(Learner(), throttle, 200, {"X-RateLimit-Limit": "50", "X-RateLimit-Used": "45"})
    assert throttle.level == pytest.approx(5)


async def test_a_refusal_during_a_pause_of_somebody_else_is_news() -> None:
    throttle, learner = Throttle(10), Learner()
    throttle.pause(0.5)
    learn(throttle, 429, {}, learner=learner)
    assert throttle.paused_for == 1


async def test_a_longer_window_is_left_out_of_nothing() -> None:
    throttle = Throttle(30, period=1)
    headers = {"RateLimit": '"hour";r=5;t=900', "RateLimit-Policy": '"hour";q=100;w=3600'}
    await answered(Learner(), throttle, 200, headers)
    assert throttle.level == pytest.approx(5)


async def test_what_was_used_in_another_window_is_not_of_this_one() -> None:
    throttle, learner = Throttle(1_200, period=60), Learner()
    with pytest.warns(RuntimeWarning, match="what the server says of it is ignored"):
        await answered(learner, throttle, 200, {"X-MBX-USED-WEIGHT-1D": "1190"})
    assert throttle.level == pytest.approx(1_199)


async def test_where_warnings_are_errors_the_answer_is_there_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle, learner = Throttle(30, period=60), Learner()
    lease = await throttle.lease()
    headers = openai(requests=(14_400, 3, "86382s"))
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not learner.answered(throttle, lease, 200, headers).refused
    assert [each.exc_type for each in seen] == [RuntimeWarning]


@pytest.mark.parametrize("how", ["cached", "Age"])
async def test_an_answer_of_a_cache_says_nothing_of_now(how: str) -> None:
    throttle, learner = Throttle(100, period=60), Learner()
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    headers = x(100, 5) if how == "cached" else {**x(100, 5), "Age": "3"}
    learner.answered(throttle, lease, 200, headers, cached=how == "cached")
    assert throttle.level == pytest.approx(99)
    lease = await throttle.lease()
    learner.answered(throttle, lease, 429, {"Age": "3", "Retry-After": "5"}, cached=how == "cached")
    assert throttle.paused_for == (0 if how == "cached" else 6)


# -- policies --------------------------------------------------------------------------------------

POLICY = {"RateLimit": '"a";r=10;t=5', "RateLimit-Policy": '"a";q=20;w=30'}


async def test_policies_are_taken_over_if_that_is_wished() -> None:
    throttle = Throttle(100, period=60)
    await answered(Learner(), throttle, 200, POLICY)
    assert (throttle.capacity, throttle.period) == (100, 60)
    await answered(Learner(adopt=True), throttle, 200, POLICY)
    assert (throttle.capacity, throttle.period) == (20, 30)
    assert throttle.level == pytest.approx(9)


async def test_of_several_policies_none_is_the_whole() -> None:
    throttle = Throttle(100, period=60)
    headers = {"RateLimit-Policy": '"a";q=20;w=30, "b";q=50;w=3600'}
    await answered(Learner(adopt=True), throttle, 200, headers)
    assert (throttle.capacity, throttle.period) == (100, 60)
    limits = LimitSet(a=Throttle(1), b=Throttle(1), requests=Throttle(7))
    await answered(Learner(adopt=True), limits, 200, headers)
    assert limits.capacity == {"a": 20, "b": 50, "requests": 7}
    assert (limits["a"].period, limits["b"].period) == (30, 3_600)


async def test_of_a_bucket_the_limit_is_taken_over_if_its_period_fits() -> None:
    limits = api()
    headers = openai(requests=(500, 400, "12s"), tokens=(9_000, 8_000, "1h"))
    with pytest.warns(RuntimeWarning, match="tokens"):
        await answered(Learner(adopt=True), limits, 200, headers)
    assert limits.capacity == {"requests": 500, "tokens": 1_000}
    assert limits["requests"].period == 60


async def test_a_policy_that_cannot_be_taken_over_is_counted() -> None:
    throttle = Throttle(100, period=60, algorithm=ClockWindow)
    learner = Learner(adopt=True)
    headers = {"RateLimit-Policy": '"a";q=600;w=7'}  # a day is no multiple of it
    await answered(learner, throttle, 200, headers)
    assert (throttle.capacity, throttle.period, learner.ignored) == (100, 60, 1)
    await answered(learner, throttle, 200, {"RateLimit-Policy": '"a";q=0;w=60'})
    assert throttle.capacity == 100


async def test_a_policy_is_not_taken_over_by_half() -> None:
    throttle, learner = Throttle(100, period=60), Learner(adopt=True)
    headers = {
        "X-HubSpot-RateLimit-Max": "0.0000000001",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "30000",
    }
    await answered(learner, throttle, 200, headers)
    assert (throttle.capacity, throttle.period, learner.ignored) == (100, 60, 1)


async def test_no_policy_stops_all_calls() -> None:
    throttle, learner = Throttle(100, period=60), Learner(adopt=True)
    await answered(learner, throttle, 200, {"RateLimit-Policy": '"a";q=5;w=999999999999999'})
    assert (throttle.capacity, throttle.period, learner.ignored) == (100, 60, 1)
    await answered(learner, throttle, 200, {"RateLimit-Policy": '"a";q=5;w=2678400'})
    assert (throttle.capacity, throttle.period, learner.ignored) == (5, 31 * 86_400, 1)


# -- outcomes --------------------------------------------------------------------------------------


class Seen(Adaptive):
    """Remembers how calls ended, and when."""

    __slots__ = ("samples",)

    steers = "concurrency"
    start = 10

    def __init__(self, samples: list[tuple[float, Outcome]]) -> None:
        super().__init__()
        self.samples = samples

    @property
    def limit(self) -> float:
        return 10

    def begin(self, limit: float, now: int) -> None:
        pass

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        self.samples.append(((now - began) / 1e9, outcome))


class ReadTimeout(Exception):
    """As httpx has it."""


Tell = Callable[[Learner, Any, Any], object]


@pytest.mark.parametrize(
    ("tell", "outcome"),
    [
        (lambda learner, of, lease: learner.answered(of, lease, 200, {}), Outcome.OK),
        (lambda learner, of, lease: learner.answered(of, lease, 404, {}), Outcome.OK),
        (lambda learner, of, lease: learner.answered(of, lease, 429, {}), Outcome.DROPPED),
        (lambda learner, of, lease: learner.answered(of, lease, 502, {}), Outcome.DROPPED),
        (
            lambda learner, of, lease: learner.answered(of, lease, 200, {}, cached=True),
            Outcome.IGNORED,
        ),
        (lambda learner, of, lease: learner.failed(of, lease), Outcome.IGNORED),
        (lambda learner, of, lease: learner.failed(of, lease, OSError()), Outcome.IGNORED),
        (
            lambda learner, of, lease: learner.failed(of, lease, asyncio.CancelledError()),
            Outcome.IGNORED,
        ),
        (lambda learner, of, lease: learner.failed(of, lease, TimeoutError()), Outcome.DROPPED),
        (lambda learner, of, lease: learner.failed(of, lease, ReadTimeout()), Outcome.DROPPED),
    ],
)
@pytest.mark.parametrize("in_a_set", [False, True])
async def test_limits_that_adapt_hear_how_it_went_at_the_headers(
    tell: Tell, outcome: Outcome, in_a_set: bool
) -> None:
    samples: list[tuple[float, Outcome]] = []
    throttle = Throttle(math.inf, 10, adapt=Seen(samples))
    limiter: Any = LimitSet(slots=throttle) if in_a_set else throttle
    learner = Learner()
    async with await limiter.lease() as lease:
        learner.sent(limiter, lease)
        await asyncio.sleep(2)
        tell(learner, limiter, lease)
        await asyncio.sleep(5)  # the body
    assert samples == [(2, outcome)]


# -- a judge, by hand, bad input -------------------------------------------------------------------


async def test_a_judge_knows_better() -> None:
    seen: list[tuple[int, Any]] = []

    def judge(status: int, headers: Any) -> bool | None:
        seen.append((status, headers))
        return {200: True, 429: False}.get(status)

    throttle, learner = Throttle(10), Learner(judge=judge)
    await answered(learner, throttle, 429, {"Retry-After": "5"})
    assert throttle.paused_for == 0
    await answered(learner, throttle, 200, {"Retry-After": "5"})
    assert throttle.paused_for == 6
    throttle.resume()
    await answered(learner, throttle, 503)
    assert throttle.paused_for == 2  # the second in a row
    assert seen == [(429, {"Retry-After": "5"}), (200, {"Retry-After": "5"}), (503, ())]


async def test_what_a_judge_raises_comes_out_and_changes_nothing() -> None:
    throttle = Throttle(10)
    lease = await throttle.lease()
    wrong: Any = lambda status, headers: "yes"  # noqa: E731
    with pytest.raises(TypeError, match="judge must return True, False or None, got 'yes'"):
        Learner(judge=wrong).answered(throttle, lease, 429, {})
    broken: Any = lambda status, headers: 1 / 0  # noqa: E731
    with pytest.raises(ZeroDivisionError):
        Learner(judge=broken).answered(throttle, lease, 429, {})
    assert throttle.paused_for == 0


async def test_by_hand_with_and_without_a_lease() -> None:
    throttle = Throttle(100, period=60)
    async with throttle(1) as lease:
        assert learn(throttle, 200, x(100, 40), lease=lease).limits["requests"].remaining == 40
    assert throttle.level == pytest.approx(40)
    assert learn(throttle, 429, {"Retry-After": "5"}).refused
    assert throttle.paused_for == 6
    shared = Learner(shared=True)
    async with Throttle(100)(5) as other:
        throttle.resume()
        learn(throttle, 200, x(100, 10), lease=None, learner=shared)
        assert other.weight == 5
    assert throttle.level <= 10


async def test_of_keys_it_is_the_throttle_of_the_key() -> None:
    hosts, learner = Throttles(lambda host: Throttle(10)), Learner()
    await answered(learner, hosts["a"], 429, {"Retry-After": "5"})
    assert (hosts["a"].paused_for, hosts["b"].paused_for) == (6, 0)
    await asyncio.sleep(60)
    for n in range(10):
        assert hosts[str(n)].paused_for == 0
    assert "a" in hosts
    await asyncio.sleep(6)
    for n in range(10):
        assert hosts[str(n)].paused_for == 0
    assert "a" not in hosts  # what is known of it keeps nothing


@pytest.mark.parametrize("make", [Throttle, lambda rate: LimitSet(requests=Throttle(rate))])
async def test_refusals_are_in_a_row_though_nobody_waits_for_that_host_in_between(
    make: Callable[[float], Any],
) -> None:
    hosts, learner = Throttles[Any, Any](lambda host: make(10)), Learner()
    for pause in (1, 2, 4):
        await answered(learner, hosts["a"], 429)
        assert hosts["a"].paused_for == pause
        await asyncio.sleep(pause + 50)
        for n in range(10):
            hosts[n].try_acquire()


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({"shared": 1}, TypeError, "shared must be True or False, got 1"),
        ({"adopt": None}, TypeError, "adopt must be True or False, got None"),
        ({"max_pause": 0}, ValueError, "max_pause must be positive and finite, got 0"),
        ({"max_pause": math.inf}, ValueError, "max_pause must be positive and finite, got inf"),
        ({"max_pause": math.nan}, ValueError, "max_pause must be a number, got nan"),
        ({"max_pause": "5"}, TypeError, "max_pause must be a number, got '5'"),
        ({"refused": "no"}, ValueError, "refused must be 'keep' or 'refund', got 'no'"),
        ({"judge": 5}, TypeError, "judge must be callable with a status and headers, got 5"),
    ],
)
def test_parameters_out_of_range(parameters: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Learner(**parameters)


async def test_arguments_of_another_kind() -> None:
    throttle, learner = Throttle(10), Learner()
    wrong: Any = Throttles(lambda key: Throttle(1))
    with pytest.raises(TypeError, match="limiter must be the throttle of its key, got "):
        learn(wrong, 200, {})
    wrong = "throttle"
    with pytest.raises(TypeError, match="limiter must be the throttle, a set or a pool, got 'thr"):
        learn(wrong, 200, {})
    with pytest.raises(TypeError, match="lease must be what was granted, or None, got 'throttle'"):
        learn(throttle, 200, {}, lease=wrong)
    with pytest.raises(TypeError, match="learner must be a Learner, got 'throttle'"):
        learn(throttle, 200, {}, learner=wrong)
    with pytest.raises(
        ValueError, match="lease must be that of a call of the pool, to tell its set, got None"
    ):
        learn(LimitPool([api()]), 200, {})
    with pytest.raises(TypeError, match="headers must be"):
        learner.answered(throttle, None, 200, wrong)


async def test_what_is_malformed_is_counted() -> None:
    throttle, learner = Throttle(10), Learner()
    await answered(learner, throttle, 429, {"Retry-After": "soon", "RateLimit": "a;r=1, b="})
    assert (learner.ignored, learner.refusals) == (2, 1)
    assert repr(learner) == "<async_throttle.http.Learner [refusals:1, ignored:2]>"


# -- how long things are kept, and by whom ---------------------------------------------------------


async def test_refusals_in_a_row_are_those_of_the_limiter_whoever_learns() -> None:
    throttle = Throttle(10)
    pauses = []
    for _ in range(3):  # a client for each call
        await answered(Learner(), throttle, 429)
        pauses.append(throttle.paused_for)
        throttle.resume()
        await asyncio.sleep(1)
    for expected, pause in zip((1, 2, 4), pauses, strict=True):
        assert expected <= pause <= 1.25 * expected


async def test_sets_of_the_same_throttles_are_one_limiter() -> None:
    everybody = Throttle(10)
    hosts = Throttles[str, Throttle](lambda host: Throttle(10))
    learner = Learner()
    pauses: list[float] = []

    async def refused(host: str) -> float:
        throttles = [everybody, hosts[host]]
        limits = LimitSet(*(throttles[::-1] if len(pauses) == 1 else throttles))
        await answered(learner, limits, 429)
        return limits.paused_for

    for _ in range(3):
        pauses.append(await refused("a"))
        await asyncio.sleep(10)
    pauses.append(await refused("b"))
    for expected, pause in zip((1, 2, 4, 1), pauses, strict=True):
        assert expected <= pause <= 1.25 * expected
    assert everybody.paused_for == 0


async def test_where_a_set_is_refused_its_throttles_go_on_as_before() -> None:
    everybody, host = (Throttle(100, 8, 60, algorithm=SlidingWindow) for _ in range(2))
    await answered(Learner(shared=True), LimitSet(everybody, host), 429)
    assert in_flight_at_most(everybody) == in_flight_at_most(host) == 8


async def test_slots_kept_back_for_one_learner_come_back_by_another() -> None:
    throttle, other = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    await answered(other, throttle, 200)
    await answered(Learner(shared=True), throttle, 429, {"Retry-After": "0.5"})
    await asyncio.sleep(0.5)
    assert in_flight_at_most(throttle) == 1
    await answered(other, throttle, 200)
    assert in_flight_at_most(throttle) == 8


@pytest.mark.parametrize("others", [0, 5], ids=["alone", "among those who wait"])
async def test_slots_that_are_kept_back_come_back_though_nobody_learns_more(
    others: int,
) -> None:
    throttle = Throttle(100, 8, 5, algorithm=SlidingWindow)
    await answered(Learner(shared=True), throttle, 429, {"Retry-After": "0.5"})
    longest = 0

    async def call() -> None:
        nonlocal longest
        async with throttle:
            longest = max(longest, throttle.active)
            await asyncio.sleep(1)

    early = [asyncio.create_task(call()) for _ in range(others)]
    await asyncio.sleep(5)
    assert longest == (1 if others else 0)
    await asyncio.sleep(0.5)
    await asyncio.gather(*early, *(call() for _ in range(20)))
    assert longest == 8
    assert (throttle.active, in_flight_at_most(throttle)) == (0, 8)


async def test_it_ends_though_no_call_ends() -> None:
    throttle = Throttle(100, 2, 5, algorithm=SlidingWindow)
    async with throttle:
        learn(throttle, 429, {"Retry-After": "0.5"})
        async with throttle:  # as who asks for more while he reads a body
            assert now() == pytest.approx(5.5)


def test_it_ends_in_a_thread_though_no_call_ends() -> None:
    throttle = threads.Throttle(100, 2, 0.05, algorithm=SlidingWindow)
    with throttle:
        learn(throttle, 429, {"Retry-After": "0.05"})
        with throttle(1, timeout=30) as lease:
            assert lease.waited < 30


async def test_it_ends_though_a_pause_without_an_end_was_resumed() -> None:
    throttle = Throttle(100, 8, 5, algorithm=SlidingWindow)
    lease = await throttle.lease()
    throttle.pause(math.inf)
    learn(throttle, 429, {"Retry-After": "0.5"}, lease)
    lease.release()
    await asyncio.sleep(10)
    throttle.resume()
    assert in_flight_at_most(throttle) == 1
    await asyncio.sleep(5)
    assert in_flight_at_most(throttle) == 8


async def test_it_ends_where_no_slots_were_set_and_callers_of_several_sets_wait() -> None:
    everybody = Throttle(100, period=5, algorithm=SlidingWindow)
    limiters = [LimitSet(everybody, Throttle(1, period=60)) for _ in range(2)]
    await asyncio.gather(*(limiter.lease() for limiter in limiters))
    await answered(Learner(), everybody, 429, {"Retry-After": "0.5"})
    calls = [asyncio.create_task(limiter.lease()) for limiter in limiters]
    await asyncio.sleep(5.6)
    check(everybody)
    assert everybody._core.slots.limit == UNLIMITED
    await asyncio.gather(*calls)


async def test_slots_that_are_kept_back_come_back_in_sets_that_are_made_meanwhile() -> None:
    one, other = (Throttle(100, 8, 5, algorithm=SlidingWindow) for _ in range(2))
    await asyncio.sleep(3)
    await answered(Learner(shared=True), one, 429, {"Retry-After": "0.5"})
    both = LimitSet(other, one)
    await asyncio.sleep(5.4)
    assert in_flight_at_most(one) == 1
    await asyncio.sleep(0.1)
    leases = await asyncio.gather(*(both.lease() for _ in range(8)))
    assert asyncio.get_running_loop().time() == pytest.approx(8.5)
    for lease in leases:
        lease.release()


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        (lambda: Throttle(600, period=60), 0),
        (lambda: Throttle(10_000, period=86_400), 9_999),
        (lambda: Throttle(10_000, period=86_400, burst=5), 0),
        (lambda: LimitSet(Throttle(10_000, period=86_400), Throttle(10)), 9),
    ],
    ids=["a minute", "a day", "a day, burst 5", "a set with a day"],
)
async def test_a_bucket_is_empty_after_a_pause_if_it_comes_back_within_a_minute(
    limit: Callable[[], Any], level: float
) -> None:
    limiter = limit()
    await answered(Learner(), limiter, 503, {"Retry-After": "5.0"})
    await asyncio.sleep(5)
    lowest = min(limiter.level.values()) if isinstance(limiter, LimitSet) else limiter.level
    assert lowest == pytest.approx(level, abs=1.1)


async def test_a_learner_keeps_neither_limiters_nor_leases() -> None:
    learner, throttle = Learner(), Throttle(10)
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    learner.answered(throttle, lease, 429, {})
    forgotten = await throttle.lease()
    learner.sent(throttle, forgotten)
    gone = weakref.ref(throttle), weakref.ref(lease), weakref.ref(forgotten)
    del throttle, lease, forgotten
    gc.collect()
    assert [each() for each in gone] == [None, None, None]
    assert len(learner._known) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_leaves_the_lock_behind() -> None:
    throttle, learner = threads.Throttle(10), Learner()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with _known.lock:
            held.set()
            over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:

        def work() -> None:
            learner.answered(throttle, None, 429, {})
            assert learner.refusals == 1

        in_child(work)
    finally:
        over.set()
        holder.join(60)


def test_threads_learn_together() -> None:
    throttle, learner = threads.Throttle(1e6), Learner()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for n in range(50):
            lease = throttle.lease()
            learner.sent(throttle, lease)
            learner.answered(throttle, lease, 200, {"RateLimit": "void" if n % 2 else "1e9"})
            lease.release()

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert learner.ignored == 8 * 25


def test_threads_learn_of_a_shared_window_together() -> None:
    throttle, learner = threads.Throttle(100, 64, 60, algorithm=SlidingWindow), Learner(shared=True)
    errors: list[BaseException] = []

    def answered_and_open(remaining: int) -> threads.Lease:
        lease = throttle.lease(0)
        learner.answered(throttle, lease, 200, x(100, remaining, 60))
        return lease

    def work() -> None:
        try:
            for _ in range(500):
                answered_and_open(50).release()
        except BaseException as error:
            errors.append(error)

    bodies = [answered_and_open(90) for _ in range(52)]
    workers = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert throttle.active == len(bodies)


async def test_a_body_that_was_read_is_forgotten_though_its_response_is_kept() -> None:
    throttle, learner = Throttle(100, 8, 60, algorithm=SlidingWindow), Learner(shared=True)
    kept = [await answered(learner, throttle, 200, x(100, 4, 60)) for _ in range(3)]
    opened = [await answered_and_open(learner, throttle, x(100, 4, 60)) for _ in range(3)]
    assert set(learner._known[throttle].row.bodies or ()) == {*opened}
    assert len(kept) == 3


async def test_a_set_in_the_manner_of_concurry_learns_as_well() -> None:
    limits_of_concurry = limits.LimitSet(
        limits=[
            limits.RateLimit(key="tokens", window_seconds=60, capacity=100),
            limits.CallLimit(window_seconds=60, capacity=50),
        ]
    )
    call = limits_of_concurry.acquire(requested={"tokens": 10})
    with call:
        learner = Learner(refused="refund")
        learner.sent(limits_of_concurry, call)
        learner.answered(limits_of_concurry, call, 200, {"RateLimit": '"tokens";r=5;t=5'})
        assert limits_of_concurry["tokens"].throttle.level == pytest.approx(5)
        call.update(usage={"tokens": 10})


async def test_what_is_learnt_goes_to_the_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "quota.db")
    throttle = threads.Throttle(100, period=3_600, name="api", store=store)
    other = threads.Throttle(
        100, period=3_600, name="api", store=SQLiteStore(tmp_path / "quota.db")
    )
    learner = Learner()
    with throttle(1) as lease:
        learner.answered(throttle, lease, 200, x(100, 40))
    throttle.refresh()
    other.refresh()
    assert other.level <= 40.5
    assert not throttle._core.may_narrow  # its slots are everybody's
    learn(throttle, 429, {"Retry-After": "600"}, learner=learner)
    throttle.refresh()
    other.refresh()
    assert other.paused_for > 500


async def test_waiters_go_when_the_pause_ends() -> None:
    throttle, learner = Throttle(10, 1), Learner()
    lease = await throttle.lease()
    learner.sent(throttle, lease)
    waiter = asyncio.create_task(throttle.lease())
    at(1, lambda: learner.answered(throttle, lease, 429, {"Retry-After": "3.0"}))
    at(2, lease.release)
    await waiter
    assert now() == pytest.approx(4.1)


DUPLICATES: dict[str, Callable[[Learner], Learner]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda learner: pickle.loads(pickle.dumps(learner)),
}


def refused_unless_teapot(status: int, headers: object) -> bool:
    return status != 418


@pytest.mark.parametrize("way", DUPLICATES)
async def test_a_copy_learns_in_the_same_way(way: str) -> None:
    original = Learner(
        shared=True, adopt=True, max_pause=5, refused="refund", judge=refused_unless_teapot
    )
    throttle, other, third = (Throttle(100, period=60) for _ in range(3))
    for _ in range(3):  # the fourth in a row is a pause of 8 s, where nothing bounds it
        await answered(original, throttle, 500, x(100, "nonsense"))
        throttle.resume()
    twin = DUPLICATES[way](original)
    assert (twin.refusals, twin.ignored) == (0, 0)
    await answered(twin, throttle, 500)
    assert throttle.paused_for == 5
    assert (twin.refusals, original.refusals, original.ignored) == (1, 3, 3)
    await answered(twin, other, 500, {"Retry-After": "60"})
    assert (other.paused_for, other.level) == (5, 100)  # bounded; and what was taken is given back
    async with third(10):
        await answered(twin, third, 418, x(100, 50))
        assert third.level == pytest.approx(40)  # others use it, too
    await answered(twin, third, 418, {"RateLimit-Policy": '"a";q=5;w=9'})
    assert (third.capacity, third.period) == (5, 9)


# -- what it is worth ------------------------------------------------------------------------------


def test_learning_avoids_refusals_where_others_use_a_bucket() -> None:
    nothing = simulated(TokenBucket, TokenBucket, None, seeds=1)
    usual = simulated(TokenBucket, TokenBucket, Learner(), seeds=1)
    shared = simulated(TokenBucket, TokenBucket, Learner(shared=True), seeds=1)
    assert nothing.refused > 3 * usual.refused > 3 * shared.refused
    assert shared.refused <= 10  # of some 540
    for each in (usual, shared):
        assert each.used >= 0.98 * nothing.used


def test_with_a_window_as_the_server_has_it_one_at_most_is_refused_and_all_is_used() -> None:
    usual = simulated(FixedWindow, FixedWindow, Learner(), seeds=1)
    shared = simulated(FixedWindow, FixedWindow, Learner(shared=True), seeds=5)
    assert shared.together == 1  # the last one of a window, which the outsider got
    assert usual.refused <= 10
    assert usual.used >= 600
    assert shared.used >= 3_000


@pytest.mark.parametrize("shared", [False, True])
def test_alone_with_a_window_as_the_server_has_it_nothing_is_lost(shared: bool) -> None:
    alone = simulated(FixedWindow, FixedWindow, Learner(shared=shared), share=0, seeds=1)
    assert (alone.refused, alone.served) == (0, 600)
