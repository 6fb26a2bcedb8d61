"""The same calls give the same answers wherever the objects happen to lie in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import permutations
from typing import Any

import pytest
from support import scaled

from async_throttle import (
    LimitPool,
    LimitSet,
    ResourceLimitError,
    Throttle,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
    testing,
    threads,
)

ROUNDS = scaled(40, least=8)

Question = Callable[[Any], Awaitable[object]]
"""Asks a set of three limits, a, b and c, that are alike, what it could say of any of them."""


async def delay(api: Any) -> object:
    await api().__aenter__()
    return api.delay().limit


async def waited_for(api: Any) -> object:
    await api().__aenter__()
    lease = await api().__aenter__()
    return [key for key, span in lease.waited_for.items() if span]


async def timeout(api: Any) -> object:
    await api().__aenter__()
    with pytest.raises(ThrottleTimeout) as caught:
        await api(timeout=0).__aenter__()
    return caught.value.limit


async def too_large(api: Any) -> object:
    with pytest.raises(WeightTooLarge) as caught:
        await api(a=2, b=2, c=2).__aenter__()
    return caught.value.limit


async def full(api: Any) -> object:
    for key in "abc":
        api_of(api)[key].charge(1)
    with pytest.raises(ThrottleFull) as caught:
        await api().__aenter__()
    return caught.value.limit


async def closed(api: Any) -> object:
    for key in "cab":
        api_of(api)[key].close()
    with pytest.raises(ResourceLimitError) as caught:
        await api().__aenter__()
    return caught.value.limit


async def too_late_for_a_pause(api: Any) -> object:
    for key in "abc":
        api_of(api)[key].pause(1)
    with pytest.raises(ResourceLimitError) as caught:
        await api(timeout=0).__aenter__()
    return caught.value.limit


QUESTIONS = (delay, waited_for, timeout, too_large, full, closed, too_late_for_a_pause)


def api_of(api: Any) -> Any:
    return api[0] if isinstance(api, LimitPool) else api


def scattered(rng: random.Random, make: Callable[[], Any], ballast: list[Any]) -> list[Any]:
    """Three throttles in order of their creation, at addresses in any order."""
    made = [make() for _ in range(rng.randrange(3, 30))]
    chosen = [made[n] for n in sorted(rng.sample(range(len(made)), 3))]
    ballast += rng.sample(made, len(made) // 2)
    rng.shuffle(ballast)
    del ballast[40:]
    return chosen


def ask(question: Question, api: Any) -> str:
    return repr(testing.run(question(api)))  # type: ignore[arg-type]


@pytest.mark.parametrize("question", QUESTIONS, ids=[q.__name__ for q in QUESTIONS])
@pytest.mark.parametrize("kind", [Throttle, threads.Throttle], ids=["loop", "threads"])
@pytest.mark.parametrize("pooled", [False, True], ids=["set", "pool"])
def test_what_is_said_of_equal_limits_does_not_depend_on_their_addresses(
    question: Question, kind: Any, pooled: bool
) -> None:
    rng = random.Random(5)
    options = {"max_waiting": 0} if question is full else {}
    ballast: list[Any] = []
    answers: dict[tuple[str, ...], set[str]] = {}
    for _ in range(ROUNDS):
        made = scattered(rng, lambda: kind(1, **options), ballast)
        for order in permutations("abc"):
            # In the order of their creation they are called so; they are given as a, b, c.
            if rng.random() < 0.5:
                continue
            named = dict(zip(order, made, strict=True))
            api: Any = LimitSet(a=named["a"], b=named["b"], c=named["c"])
            answers.setdefault(order, set()).add(ask(question, LimitPool([api]) if pooled else api))
            made = scattered(rng, lambda: kind(1, **options), ballast)
    assert {order: len(said) for order, said in answers.items()} == dict.fromkeys(answers, 1)


@pytest.mark.parametrize("question", [delay, timeout, waited_for])
def test_sets_over_the_same_throttles_say_the_same_in_whatever_order_they_are_given(
    question: Question,
) -> None:
    rng = random.Random(6)
    ballast: list[Any] = []
    said = set()
    for _ in range(ROUNDS):
        for order in permutations(range(3)):
            made = scattered(rng, lambda: Throttle(1), ballast)
            named = {"abc"[n]: made[n] for n in order}
            said.add(ask(question, LimitSet(**named)))
    assert len(said) == 1


def test_who_goes_first_of_sets_that_are_alike_does_not_depend_on_addresses() -> None:
    async def life(throttles: list[Any]) -> list[str]:
        one, other, third = throttles
        sets = {
            "ab": LimitSet(one, other),
            "bc": LimitSet(other, third),
            "ca": LimitSet(third, one),
            "abc": LimitSet(third, other, one),
        }
        order: list[str] = []

        async def call(name: str, priority: int) -> None:
            lease = await sets[name](priority=priority).__aenter__()
            order.append(f"{name} {priority} {lease.waited} {lease.waited_for}")

        tasks = [
            asyncio.create_task(call(name, priority))
            for priority in (0, 1, 0, 2)
            for name in ("ca", "abc", "bc", "ab")
        ]
        await asyncio.gather(*tasks)
        return order

    rng = random.Random(7)
    ballast: list[Any] = []
    lives = {
        tuple(testing.run(life(scattered(rng, lambda: Throttle(1, burst=1), ballast))))
        for _ in range(ROUNDS)
    }
    assert len(lives) == 1
