"""A signal handler may raise any exception, such as TimeoutError: no event stays torn apart."""

from __future__ import annotations

import asyncio

import pytest

from async_throttle import Throttle
from async_throttle._base import core_of
from async_throttle._engine.lane import Lane
from async_throttle._engine.queue import Queue
from async_throttle._shell.scheduler import find


class Alarm(Exception):
    """Raised by a signal handler."""


async def test_one_in_the_middle_of_a_grant_that_a_release_finds_due_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = 0.0
    throttle = Throttle(1, 2, timer=lambda: reading)
    await throttle.acquire()
    waiting = asyncio.ensure_future(throttle.consume())
    await asyncio.sleep(0)

    def ring(queue: Queue, lane: Lane) -> None:
        monkeypatch.undo()
        raise Alarm

    monkeypatch.setattr(Queue, "_sweep_busy", ring)
    reading = 1.0
    with pytest.raises(Alarm):
        throttle.release()
    find(core_of(throttle)).check()
    await asyncio.wait_for(waiting, 1)
    assert throttle.active == 0


async def test_one_in_the_middle_of_what_was_noted_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttle = Throttle(1)
    scheduler = find(core_of(throttle))
    unraised: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraised.append)

    def ring(lane: Lane) -> None:
        monkeypatch.setattr(Lane, "reopen", reopen)
        raise Alarm

    reopen = Lane.reopen
    monkeypatch.setattr(Lane, "reopen", ring)
    scheduler.do(lambda now: throttle.pause(1))
    scheduler.check()
    assert len(unraised) == 1
