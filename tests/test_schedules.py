"""Every scenario of the explorer, in every schedule; and the explorer itself, which must find
what is broken, and count right.

How many schedules that were is printed under ``-s``. Profile ``quick`` leaves out those that depart
from asyncio's own order more than twice, ``mutants`` those that do more than three times, which is
half of them. ``deep`` allows two cancellations in each, and takes minutes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from explorer import (
    PLIGHTS,
    SCENARIOS,
    Broken,
    Report,
    Scenario,
    Schedule,
    SearchCut,
    Stage,
    explore,
    listening,
    main,
    perform,
)
from support import PROFILE

from async_throttle import Throttle
from async_throttle._engine.lane import GRANTED
from async_throttle._engine.queue import Queue
from async_throttle._shell.loop import LoopScheduler
from async_throttle._shell.scheduler import Scheduler
from async_throttle._shell.waiting import Attempt

DEPARTURES = {"brief": 2, "quick": 2, "mutants": 3}.get(PROFILE, math.inf)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_every_schedule_keeps_every_promise(scenario: Scenario) -> None:
    report = explore(scenario, departures=DEPARTURES)
    print(f"{report.schedules:,} schedules", end=" ")
    assert report.plights["unborn"] > 0
    assert report.plights["inside"] + report.plights["queued"] > 0


# --- it finds what is broken ---


class Unchecked(LoopScheduler):
    """Faults that the self-check would see before anybody suffers from them."""

    def check(self) -> None:
        pass


class Sleepy(Unchecked):
    """Who leaves the queue does not look who is next."""

    def withdraw(self, attempt: Attempt) -> None:
        for waiter in attempt.waiters:
            self.handed_over.discard(waiter)
            self.queue.leave(waiter)
        self.recalm()


class Spendthrift(LoopScheduler):
    """Who is cancelled after the grant gives the slot back, and not the tokens."""

    def _withdraw(self, now: int, attempt: Attempt) -> None:
        for waiter in attempt.waiters:
            if waiter.state is GRANTED:
                del waiter.receipts[1:]
        super()._withdraw(now, attempt)


class Clinging(LoopScheduler):
    """Who is cancelled after the grant still counts as handed over."""

    def _withdraw(self, now: int, attempt: Attempt) -> None:
        handed_over = set(self.handed_over)
        super()._withdraw(now, attempt)
        self.handed_over = self.handed_over | handed_over


class Impolite(LoopScheduler):
    """Who was granted is no longer in anybody's way."""

    def tell_decided(self) -> None:
        super().tell_decided()
        self.handed_over.clear()


class Placid(Unchecked):
    """It opens the shortcuts where nobody waits, though somebody is about to start."""

    def recalm(self) -> None:
        self.calm = not self.queue.waiting


class Trusting(LoopScheduler):
    """An alarm that rings too early is believed."""

    def catch_up(self) -> None:
        self.elapse()


class Restless(LoopScheduler):
    """When the last waiter has started, drainers are not told."""

    def start(self, attempt: Attempt) -> None:
        (waiter,) = attempt.waiters
        assert waiter.state is GRANTED
        assert attempt.taker is None
        self.handed_over.discard(waiter)


class Deaf(LoopScheduler):
    """The shortcut out is open while somebody drains, who is told nothing by it."""

    def recalm(self) -> None:
        self.calm = not self.queue.waiting and not self.handed_over


class Lenient(LoopScheduler):
    """At the instant of a deadline it is never too late."""

    def decide(self) -> None:
        advance = Queue.advance

        def lenient(queue: Queue, now: int, *, final: bool = True) -> None:
            advance(queue, now, final=False)

        with mock.patch.object(Queue, "advance", lenient):
            super().decide()


class Strict(LoopScheduler):
    """At the instant of a deadline it is too late already for what comes then."""

    def elapse(self) -> int:
        now = super().elapse()
        self.decide()
        return now


class Forgetful(LoopScheduler):
    """Those whose time is over are not told."""

    def tell(self, waiter: Any) -> None:
        if waiter.state is GRANTED:
            super().tell(waiter)


def served_at(scheduler: type[Scheduler]) -> type[Throttle]:
    """A throttle whose callers wait there."""
    return type(scheduler.__name__, (Throttle,), {"_scheduler": scheduler})


class Shielded(Throttle):
    """A call goes on when its caller is cancelled."""

    async def acquire(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        return await asyncio.shield(super().acquire(weight, timeout=timeout))


class Stubborn(Throttle):
    """A cancellation that comes when the slot is there already is swallowed."""

    async def acquire(
        self, weight: float = 1.0, *, timeout: float | None = None, priority: int = 0
    ) -> bool:
        call = asyncio.ensure_future(super().acquire(weight, timeout=timeout))
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError:
            if not call.done():
                call.cancel()
                raise
        return await call


class Tidy(Throttle):
    """A release is left to a coroutine, which nobody awaits."""

    async def _release(self) -> None:
        super().release()

    def release(self) -> None:
        super().release()
        self._release()  # type: ignore[unused-coroutine]


@pytest.mark.parametrize(
    ("throttle_class", "scenario", "what"),
    [
        (served_at(Sleepy), "slots_only", "could go, and nobody wakes it"),
        (served_at(Spendthrift), "rate_only", "level is 0.0, ought to be 1.0"),
        (served_at(Clinging), "slots_only", "yet somebody is about to start"),
        (served_at(Impolite), "a_newcomer_behind_one_about_to_start", "a newcomer, overtook"),
        (served_at(Placid), "a_newcomer_where_a_slot_is_left", "a newcomer, overtook"),
        (served_at(Trusting), "rate_only", "timers for grants is 0, ought to be 1"),
        (served_at(Restless), "drain_behind_one_who_holds_nothing", "hangs"),
        (served_at(Deaf), "drain", "hangs"),
        (served_at(Lenient), "pause_longer_than_a_timeout", "is told too late"),
        (served_at(Strict), "timeout_at_the_instant_of_a_release", "still waited when"),
        (served_at(Forgetful), "pause_longer_than_a_timeout", "waiting is 0, ought to be"),
        (Shielded, "acquire_and_release_without_a_block", "active is 1, ought to be 0"),
        (Stubborn, "acquire_and_release_without_a_block", "swallows a cancellation"),
        (Tidy, "acquire_and_release_without_a_block", "never awaited"),
    ],
)
def test_a_throttle_with_a_fault_is_found_out(
    throttle_class: type[Throttle], scenario: str, what: str
) -> None:
    with pytest.raises(Broken, match=what):
        explore(SCENARIOS[scenario], throttle_class=throttle_class)


def test_what_fails_is_told_by_its_simplest_schedule_and_fails_again() -> None:
    """For `Sleepy` it takes one cancellation, and nothing else out of the ordinary."""
    with pytest.raises(Broken) as found:
        explore(SCENARIOS["slots_only"], throttle_class=served_at(Sleepy))
    departures = [line for line in str(found.value).splitlines() if line.startswith("*")]
    assert departures == ["* cancel B, which is granted"]
    assert f"slots_only {found.value.schedule}" in str(found.value)
    again = Schedule([int(choice) for choice in found.value.schedule.split(",")])
    with listening() as complaints, pytest.raises(Broken) as repeated:
        perform(
            SCENARIOS["slots_only"], again, complaints, cancels=1, throttle_class=served_at(Sleepy)
        )
    assert str(repeated.value) == str(found.value)


# --- it counts right ---


def scene(part: Callable[[], Any], tasks: int) -> Scenario:
    """So many tasks that do *part*, and nobody who needs the throttle."""

    def setting(stage: Stage) -> None:
        stage.set(math.inf)
        stage.play(*(part() for _ in range(tasks)))

    return setting


async def step() -> None:
    pass


async def two_steps() -> None:
    await asyncio.sleep(0)


async def nap() -> None:
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("part", "tasks", "schedules"),
    [
        (step, 3, math.factorial(3)),
        (two_steps, 2, math.comb(4, 2)),
        (two_steps, 3, math.factorial(6) // 2**3),
        # The first steps, then three timers, each of them before its task: 90 ways.
        (nap, 3, math.factorial(3) * math.factorial(6) // 2**3),
    ],
)
def test_each_order_of_the_ready_callbacks_is_played_once(
    part: Callable[[], Any], tasks: int, schedules: int
) -> None:
    assert explore(scene(part, tasks), cancels=0).schedules == schedules


def test_a_cancellation_is_tried_before_the_first_step_and_at_each_await() -> None:
    # Not at all; before the first step; at the one await.
    assert explore(scene(two_steps, 1), cancels=1).schedules == 3
    # Not at all; before the first step; asleep; when the timer is due, which then rings before
    # the task runs or after it; when it has rung.
    assert explore(scene(nap, 1), cancels=1).schedules == 6


def test_cancellations_reach_callers_in_every_situation() -> None:
    report = explore(SCENARIOS["slots_only"], cancels=1)
    assert all(report.plights[plight] > 0 for plight in PLIGHTS)
    assert explore(SCENARIOS["slots_only"], cancels=0).plights.total() == 0


def test_a_search_that_is_cut_short_says_so() -> None:
    with pytest.raises(SearchCut, match="more than 5 schedules"):
        explore(scene(step, 3), cancels=0, most=5)
    assert explore(scene(step, 3), cancels=0, most=6) == Report(schedules=6)


def test_a_hang_is_told_and_not_waited_for() -> None:
    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Broken, match="A hangs: nothing will ever wake it"):
        explore(scene(for_ever, 1), cancels=0)


def test_a_scenario_that_is_not_the_same_each_time_is_refused() -> None:
    plays = 0

    def fickle(stage: Stage) -> None:
        nonlocal plays
        plays += 1
        stage.set(math.inf)
        stage.play(*(step() for _ in range(2 + plays % 2)))

    with pytest.raises(ValueError, match="is not one of"):
        explore(fickle, cancels=0)


def test_a_schedule_can_be_told_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slots_only", "0,1"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        "at 0 s",
        "  A runs; A arrives; A starts",
        "* C runs; C arrives",
        "  B runs; B arrives",
    ]
