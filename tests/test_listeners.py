"""Listeners are told every event; rules that want it are told the end of every call."""

from __future__ import annotations

from typing import Any

import pytest
from limiters import Kind, every_kind
from support import at, now, queued

from async_throttle import LimitSet, Throttle, ThrottleClosed, ThrottleTimeout, TokenBucket, threads
from async_throttle._base import core_of
from async_throttle._shell.door import Event
from async_throttle._shell.scheduler import find
from async_throttle._units import SECOND, TOKEN

both_kinds = pytest.mark.parametrize("kind", [Throttle, threads.Throttle])


def heard(throttle: Any) -> list[Event]:
    """What its listeners are told, from now on."""
    events: list[Event] = []
    find(core_of(throttle)).listen(events.append)
    return events


def taken(events: list[Event], began: int = 0) -> list[tuple[str, int]]:
    """What was told since the last look, and at how many milliseconds."""
    told = [(event.what, (event.at - began) // 10**6) for event in events]
    events.clear()
    return told


@both_kinds
async def test_listeners_are_told_every_event_and_when_it_was(kind: type[Any]) -> None:
    throttle = kind(10, 2, initial=0)
    began = core_of(throttle).scheduler.clock.seen - round(now() * SECOND)
    events = heard(throttle)
    lease = await queued(throttle(5).__aenter__())
    late = await queued(throttle(4, timeout=0.95).__aenter__())
    throttle.charge(1)  # so that the second is not in time
    assert [event.what for event in events] == ["change"]
    await lease
    with pytest.raises(ThrottleTimeout):
        await late
    assert taken(events, began) == [("change", 0), ("grant", 600), ("refusal", 950)]
    assert throttle.try_acquire()
    lease.result().settle(4)
    lease.result().release()
    throttle.release()
    throttle.capacity = 20
    throttle.concurrency = 3
    throttle.pause(1)
    throttle.resume()
    assert [what for what, _ in taken(events)] == [
        *("grant", "settle", "release", "release"),
        *("change", "change", "pause", "resume"),
    ]
    assert throttle.try_acquire(0)
    throttle.close()
    with pytest.raises(ThrottleClosed):
        await throttle.acquire()
    assert [event.asked for event in events] == [core_of(throttle)] * 3
    assert [what for what, _ in taken(events)] == ["grant", "close", "refusal"]


@every_kind
async def test_a_listener_hears_of_calls_in_whatever_form_they_are_asked(kind: Kind) -> None:
    limiter = kind.make(10, 1)
    events = heard(limiter.throttle)
    lease = await limiter.lease()
    waiter = await queued(limiter.lease())
    assert [event.what for event in events] == ["grant"]
    lease.release()
    assert [event.what for event in events] == ["grant", "release", "grant"]
    (await waiter).release()
    assert [event.what for event in events][3:] == ["release"]


@both_kinds
def test_a_listener_that_fails_keeps_no_other_from_being_told(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(event: Event) -> None:
        raise LookupError

    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda told: unraisable.append(told.exc_type))
    throttle = kind(10)
    find(core_of(throttle)).listen(fails)
    events = heard(throttle)
    assert throttle.try_acquire()
    assert ([event.what for event in events], unraisable) == (["grant"], [LookupError])


class Ends(TokenBucket):
    """Notes the ends of calls: instant and weight, and whether the receipt is that of the call."""

    __slots__ = ("calls", "ends")
    wants_ends = True

    def __init__(self, *args: Any) -> None:
        self.calls: list[Any] = []
        self.ends: list[Any] = []
        super().__init__(*args)

    def take(self, now: int, weight: int) -> Any:
        self.calls.append(super().take(now, weight))
        return self.calls[-1]

    def ended(self, now: int, receipt: Any, weight: int) -> None:
        self.ends.append((now, self.calls.index(receipt), weight))


@every_kind
async def test_a_rule_is_told_the_end_of_each_call_that_it_granted(kind: Kind) -> None:
    limiter = kind.make(10, 2, algorithm=Ends)
    rule: Any = core_of(limiter.throttle).rule
    first, second = await limiter.lease(3), await limiter.lease(4)
    at(now() + 1, second.release)
    began = find(core_of(limiter.throttle)).clock.seen
    await limiter.lease(1)  # once a slot is free
    first.release()
    ends = [(at - began, call, weight // TOKEN) for at, call, weight in rule.ends]
    assert ends == [(SECOND, 1, 4), (SECOND, 0, 3)]


async def test_a_rule_is_told_what_a_call_has_really_taken() -> None:
    throttle = Throttle(10, algorithm=Ends)
    rule: Any = core_of(throttle).rule
    async with throttle(5) as lease:
        lease.settle(2)
    async with LimitSet(a=throttle, b=Throttle(9))(a=5, b=4) as held:
        held.settle(b=1)
        held.settle(a=3)
    assert [weight // TOKEN for _, _, weight in rule.ends] == [2, 3]


async def test_listeners_stay_when_throttles_are_joined() -> None:
    one, other = Throttle(10), Throttle(10)
    events = heard(one), heard(other)
    async with LimitSet(one, other):
        pass
    assert [[event.what for event in each] for each in events] == [["grant", "release"]] * 2
