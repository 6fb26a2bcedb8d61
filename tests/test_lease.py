"""`Lease`: settled against what a call really took, kept, nested, shared, and as a decorator."""

from __future__ import annotations

import asyncio
import math
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limiters import Kind, every_kind
from support import now, others_run, queued, refusal_of

from async_throttle import (
    AIMD,
    Lease,
    SlidingWindow,
    Throttle,
    ThrottleTimeout,
    WeightTooLarge,
    testing,
    threads,
)
from async_throttle._shell import fast
from async_throttle._shell.lease import Blocks

pytestmark = pytest.mark.virtual_time


# --- what it says ---


async def test_a_lease_says_its_weight_and_how_long_it_waited() -> None:
    throttle = Throttle(10)
    async with throttle(8) as lease:
        assert (lease.weight, lease.waited) == (8, 0.0)
    await asyncio.sleep(0.1)
    async with throttle(5.5) as lease:
        assert (lease.weight, lease.waited) == (5.5, 0.25)
    lease = await throttle.lease(10)
    assert lease.waited == 1.0


async def test_repr_tells_the_state() -> None:
    throttle = Throttle(10, name="api")
    lease = throttle(5)
    pattern = r"<async_throttle\.Lease of 5 \[{}\] of <async_throttle\.Throttle 'api' .*>>"
    assert re.fullmatch(pattern.format("fresh"), repr(lease))
    async with lease:
        assert re.fullmatch(pattern.format("held"), repr(lease))
    assert re.fullmatch(pattern.format("released"), repr(lease))


async def test_before_the_grant_there_is_nothing_to_settle_or_release() -> None:
    throttle = Throttle(10, initial=0)
    lease = throttle(5)

    async def enter() -> None:
        async with lease:
            pass

    for waiting in (False, True):
        task = await queued(enter()) if waiting else None
        with pytest.raises(RuntimeError, match="granted"):
            lease.settle(3)
        with pytest.raises(RuntimeError, match="granted"):
            lease.release()
    assert task is not None
    await task
    lease.settle(3)
    assert throttle.level == 2.0


# --- settle: less than was taken ---


async def test_a_refund_is_worth_the_fewest_tokens_missing_at_any_later_grant() -> None:
    throttle = Throttle(10, burst=100)
    first = await throttle.lease(100)
    await asyncio.sleep(6)
    await throttle.acquire(60)  # 40 were missing
    await asyncio.sleep(3)
    await throttle.acquire(10)  # 70 were missing
    first.settle(0)
    assert throttle.level == 20.0 + 40.0
    first.settle(0)
    assert throttle.level == 60.0


@pytest.mark.parametrize("later", ["plain", "block", "acquire", "consume", "try_acquire", "charge"])
async def test_every_kind_of_later_grant_counts(later: str) -> None:
    throttle = Throttle(10, burst=100)
    first = await throttle.lease(50)
    await asyncio.sleep(5)  # full again
    if later in ("plain", "block"):
        async with throttle if later == "plain" else throttle(1):
            pass
    else:
        taken = getattr(throttle, later)(1)
        await taken if later in ("acquire", "consume") else None
    first.settle(0)
    assert throttle.level == 99.0


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, math.inf, "5"])
async def test_what_was_taken_is_a_finite_number_of_at_least_zero(bad: Any) -> None:
    throttle = Throttle(10)
    async with throttle(5) as lease:
        with pytest.raises(refusal_of(bad), match=f"actual .*{re.escape(repr(bad))}"):
            lease.settle(bad)
        assert throttle.level == 5.0


async def test_settling_never_hides_the_exception_of_the_body() -> None:
    throttle = Throttle(10, 1)
    with pytest.raises(ConnectionError, match="the body's own") as caught:  # noqa: PT012
        async with throttle(5) as lease:
            try:
                raise ConnectionError("the body's own")
            finally:
                lease.settle(500)
    assert caught.value.__context__ is None
    assert (throttle.active, throttle.level) == (0, -490.0)


# --- settle: whatever happens, as if the truth had been known ---


class Truth:
    """A bucket that replays its whole life with the weights as settled. Naive on purpose."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.events: list[list[Fraction]] = []  # instant, weight; in order

    def take(self, instant: Fraction, weight: Fraction) -> list[Fraction]:
        event = [instant, weight]
        self.events.append(event)
        return event

    def level(self, now: Fraction) -> Fraction:
        level, last = Fraction(self.burst), Fraction(0)
        for instant, weight in [*self.events, [now, Fraction(0)]]:
            level = min(Fraction(self.burst), level + (instant - last) * self.rate) - weight
            last = instant
        return level


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sleep"), st.integers(0, 12)),
            st.tuples(st.just("lease"), st.integers(0, 20)),
            st.tuples(st.just("other"), st.integers(0, 20)),
            st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 30)),
        ),
        max_size=30,
    )
)
def test_the_bucket_holds_what_it_would_have_held_with_the_true_weights(
    steps: list[tuple[Any, ...]],
) -> None:
    testing.run(_live(steps))


async def _live(steps: list[tuple[Any, ...]]) -> None:
    throttle = Throttle(4, burst=20)
    truth = Truth(4, 20)
    leases: list[Lease] = []
    parts: list[list[list[Fraction]]] = []  # of each lease: what it took, then its debts
    for action, *numbers in steps:
        if action == "sleep":
            await asyncio.sleep(numbers[0] / 4)
        elif action == "settle":
            if numbers[0] < len(leases):
                leases[numbers[0]].settle(numbers[1])
                mine = parts[numbers[0]]
                more = numbers[1] - sum(weight for _, weight in mine)
                if more > 0:
                    mine.append(truth.take(Fraction(now()), Fraction(more)))
                for event in reversed(mine):
                    back = min(event[1], max(-more, Fraction(0)))
                    event[1] -= back
                    more += back
        elif truth.level(Fraction(now())) >= numbers[0]:
            if action == "lease":
                leases.append(await throttle.lease(numbers[0]))
                parts.append([truth.take(Fraction(now()), Fraction(numbers[0]))])
            else:
                assert throttle.try_acquire(numbers[0])
                truth.take(Fraction(now()), Fraction(numbers[0]))
        else:
            assert not throttle.try_acquire(numbers[0])
        assert throttle.level == truth.level(Fraction(now()))


# --- kept, and entered many times ---


async def test_the_first_entry_is_the_lease_itself_and_later_ones_get_a_fresh_one() -> None:
    throttle = Throttle(100, 2)
    kept = throttle(10)
    async with kept as first:
        assert first is kept
    async with kept as second:
        assert second is not kept
        assert (second.weight, throttle.active) == (10, 1)
    async with kept as third:
        assert third not in (first, second)
    assert (throttle.active, throttle.level) == (0, 70.0)
    second.settle(0)
    assert throttle.level == 80.0
    first.settle(0)
    third.settle(0)
    assert throttle.level == 100.0


async def test_it_may_be_left_in_another_task() -> None:
    throttle = Throttle(100, 2)
    kept = throttle(10)

    async def leave() -> None:
        await kept.__aexit__(None, None, None)

    for active in (1, 2):
        await asyncio.create_task(kept.__aenter__())
        assert throttle.active == active
    for active in (1, 0):
        await asyncio.create_task(leave())
        assert throttle.active == active


@example([("enter", 0), ("enter", 0), ("early", 0), ("early", 0), ("leave", 0)], 0)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "enter", "nest", "leave", "cancel", "early", "settle"]),
            st.integers(0, 4),
        ),
        max_size=40,
    ),
    st.sampled_from([0, 1, 2, 3]),
)
def test_however_it_is_shared_each_entry_holds_its_own_slot(
    steps: list[tuple[str, int]], slots: int
) -> None:
    testing.run(_share(steps, slots))


async def _share(steps: list[tuple[str, int]], slots: int) -> None:
    throttle = Throttle(1_000, slots)
    kept = throttle(1)
    inside: list[Lease] = []  # those in a block
    early: list[Lease] = []  # those of them that gave their slot back before its end
    tasks: list[asyncio.Task[None]] = []
    exits: list[asyncio.Event] = []

    async def block(leave: asyncio.Event, depth: int) -> None:
        async with kept as lease:
            assert lease not in inside
            inside.append(lease)
            try:
                if depth:
                    await block(leave, depth - 1)
                await leave.wait()
            finally:
                inside.remove(lease)

    for action, n in steps:
        if action in ("enter", "nest"):
            exits.append(asyncio.Event())
            tasks.append(asyncio.create_task(block(exits[-1], int(action == "nest"))))
        elif action == "leave" and n < len(exits):
            exits.pop(n).set()
        elif action == "cancel" and n < len(tasks):
            tasks[n].cancel()
        elif action == "early" and n < len(inside):
            inside[n].release()
            early.append(inside[n])
        elif action == "settle" and n < len(inside):
            inside[n].settle(2 + n)
        await others_run()
        held = [lease for lease in inside if lease not in early]
        assert throttle.active == len(held)
        assert all("[held]" in repr(lease) for lease in held)
        assert len(set(map(id, inside))) == len(inside)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (throttle.active, throttle.waiting, inside) == (0, 0, [])


async def test_an_entry_that_fails_leaves_it_as_it_was() -> None:
    throttle = Throttle(10, 1)
    kept = throttle(4, timeout=1)

    async def enter() -> Lease:
        async with kept as lease:
            return lease

    await throttle.acquire()
    cancelled = await queued(enter())
    cancelled.cancel()
    await others_run()
    with pytest.raises(ThrottleTimeout):
        await enter()
    throttle.burst = 3
    with pytest.raises(WeightTooLarge):
        await enter()
    throttle.burst = 10
    throttle.release()
    await asyncio.sleep(1)
    assert await enter() is kept
    assert (throttle.active, throttle.level) == (0, 6.0)


async def test_an_entry_while_the_first_one_still_waits_is_another_one() -> None:
    throttle = Throttle(10, 1)
    kept = throttle(1)
    leases: list[Lease] = []

    async def enter() -> None:
        async with kept as lease:
            leases.append(lease)

    await throttle.acquire()
    first, second = await queued(enter()), await queued(enter())
    first.cancel()
    throttle.release()
    await second
    assert len(leases) == 1
    assert (throttle.active, throttle.waiting, throttle.level) == (0, 0, 8.0)


async def test_what_lease_returned_is_entered_without_taking_anything_again() -> None:
    throttle = Throttle(10, 2)
    lease = await throttle.lease(4)
    async with lease as entered:
        assert entered is lease
        assert (throttle.active, throttle.level) == (1, 6.0)
    assert throttle.active == 0
    async with lease as again:
        assert again is not lease
        assert (throttle.active, throttle.level) == (1, 2.0)
    assert throttle.active == 0


async def test_the_timeout_of_a_kept_lease_counts_from_each_entry() -> None:
    throttle = Throttle(10, 1)
    kept = throttle(1, timeout=1)
    async with kept:
        for end in (1.0, 2.0):
            with pytest.raises(ThrottleTimeout):
                async with kept:
                    pass
            assert now() == end
        assert throttle.active == 1
    assert throttle.active == 0


async def test_an_entry_that_is_interrupted_after_its_grant_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(blocks: Blocks, held: object) -> None:
        raise KeyboardInterrupt

    throttle = Throttle(10, 5)
    async with throttle(1) as lease:
        monkeypatch.setattr(Blocks, "enter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await lease.__aenter__()
        assert throttle.active == 1
        of_threads = threads.Throttle(10, 5)
        with of_threads(1) as other, pytest.raises(KeyboardInterrupt):
            other.__enter__()
        assert (throttle.active, of_threads.active) == (1, 0)
    plain = Throttle(10, 5, algorithm=SlidingWindow, adapt=AIMD())  # not flattened
    measured = threads.Throttle(10, 5, adapt=AIMD())
    for entry in (plain.__aenter__, measured.__aenter__):
        with pytest.raises(KeyboardInterrupt):
            await entry()
    with pytest.raises(KeyboardInterrupt):
        measured.__enter__()
    assert (plain.active, plain.level, measured.active, measured.level) == (0, 10, 0, 10)


def test_of_a_block_that_came_to_nothing_nothing_is_kept() -> None:
    blocks = Blocks()
    for name in "abc":
        blocks.enter(name)
    blocks.forget("b")
    assert [blocks.leave(), bool(blocks), blocks.leave(), bool(blocks)] == ["c", True, "a", False]
    blocks.enter("d")
    blocks.forget("d")
    assert not blocks


async def test_an_entry_that_is_undone_leaves_no_trace() -> None:
    throttle = Throttle(10, 1)
    lease = await throttle.lease(4)
    blocks = Blocks()
    blocks.enter(lease)
    blocks.undo(lease)
    assert (bool(blocks), throttle.level, throttle.active) == (False, 10.0, 0)


def test_a_misspelt_attribute_is_an_error() -> None:
    lease = Throttle(10)(5)
    with pytest.raises(AttributeError):
        lease.wieght = 5  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("counts", ["start", "end"])
@pytest.mark.parametrize("adapt", [None, AIMD(maximum=8)])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("plain", [False, True])
@every_kind
async def test_a_block_that_finds_its_slot_gone_says_so_and_leaves_none_below_nothing(
    kind: Kind,
    plain: bool,
    fails: bool,
    adapt: Any,
    counts: str,
    shortcuts: bool,
    waits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `BoundedSemaphore` does; an exception of the body goes on, with a note."""
    monkeypatch.setattr(fast, "ENABLED", shortcuts)
    limiter = kind.make(3, 2, adapt=adapt, counts=counts)
    throttle = limiter.throttle
    waiters: list[asyncio.Task[bool]] = []

    async def block() -> None:
        async with limiter.asked if plain else limiter.call(2):
            if waits and isinstance(throttle, Throttle):
                waiters.append(asyncio.create_task(throttle.acquire(3)))
                await others_run()
            throttle.release()
            if fails:
                raise KeyError

    with pytest.raises(KeyError if fails else ValueError) as caught:
        await block()
    told = caught.value.__notes__[0] if fails else str(caught.value)
    assert re.search(r"release\(\) without acquire\(\): nobody holds a slot of", told)
    assert throttle.active == 0
    for waiter in waiters:
        await waiter
        throttle.release()
    with pytest.raises(ValueError, match=r"release\(\) without acquire"):
        throttle.release()
    assert (throttle.active, throttle.statistics().in_flight) == (0, 0)
