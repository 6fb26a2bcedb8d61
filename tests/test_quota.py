"""`python -m async_throttle quota`: how limits in a store are read, shown, and changed by hand.

Readings and changes in virtual time, with a store in memory; the command line against files, in
processes of its own only where a terminal is needed.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers_redis import KINDS, started
from stores import MemoryStore
from support import examples

from async_throttle import (
    ClockWindow,
    FixedWindow,
    LeakyBucket,
    SlidingWindow,
    Throttle,
    __main__,
    testing,
)
from async_throttle.stores import Store, StoreUnavailable, _quota, _state
from async_throttle.stores._operator import changed
from async_throttle.stores._reading import Parameters, Reading, SessionReading, reading
from async_throttle.stores._view import ASCII, BLOCKS, columns_of, cut, frame, line, plain, view
from async_throttle.stores.redis import RedisStore
from async_throttle.stores.sqlite import SQLiteStore

ROOT = Path(__file__).parents[1]
START = 1_796_000_000_000_000
SECOND = MILLION = 1_000_000

# Readings.


def parameters(
    kind: int,
    capacity: int,
    period: int = 1,
    burst: int | None = None,
    slots: int = 0,
    ends: int = 0,
) -> list[int]:
    scale, grain = _state.ticks(capacity * MILLION, period * SECOND)
    most = (capacity if burst is None else burst) * MILLION
    return [kind, capacity * MILLION, period * SECOND, most, slots, scale, grain, ends]


def known(code: list[int], **more: Any) -> dict[str, Any]:
    state = _state.blank(START, code, 1)
    state.update(more)
    return state


def session(seen: float = START, ttl: float = 30 * SECOND, **more: Any) -> list[Any]:
    told = [1, 0, seen, ttl, 0, 0.0, 0, 0, 0, 0, 0]
    for name, value in more.items():
        told[getattr(_state, name)] = value
    return told


BUCKET = parameters(_state.BUCKET, 10, slots=4)


@pytest.mark.parametrize(
    ("code", "rate", "later", "level"),
    [
        (BUCKET, {"missing": 1.0 * MILLION, "at": START}, 0, 9.0),
        (BUCKET, {"missing": 10.0 * MILLION, "at": START}, 0.25, 2.5),
        (BUCKET, {"missing": 10.0 * MILLION, "at": START}, 100, 10.0),
        (BUCKET, {"missing": 12.5 * MILLION, "at": START}, 0, -2.5),
        (parameters(_state.SLIDING, 10), {"entries": [[START, 4 * MILLION]]}, 0.999, 6.0),
        (parameters(_state.SLIDING, 10), {"entries": [[START, 4 * MILLION]]}, 1, 10.0),
        (
            parameters(_state.FIXED, 10),
            {"opens": START, "ends": START + SECOND, "used": 25.0 * MILLION},
            1.5,
            -5.0,
        ),
        (
            parameters(_state.CLOCK, 10),
            {"opens": START, "ends": START + SECOND, "used": 25.0 * MILLION},
            1.5,
            -5.0,
        ),
        (
            parameters(_state.CLOCK, 10),
            {"opens": START, "ends": START + SECOND, "used": 25.0 * MILLION},
            86_400,
            10.0,
        ),
        (parameters(_state.CLOCK, 10), {}, 0.5, 10.0),
    ],
)
def test_the_level_is_that_of_the_moment_of_looking(
    code: list[int], rate: dict[str, Any], later: float, level: float
) -> None:
    state = known(code)
    state["rate"].update(rate)
    before = json.dumps(state)
    assert reading("x", state, START + later * SECOND).level == level
    assert json.dumps(state) == before


def test_what_lives_holds_and_what_is_dead_does_not() -> None:
    code = parameters(_state.BUCKET, 10, slots=4, ends=1)
    sessions = {
        "worker-1/4711/50123/1": session(HELD=2, FLYING=2.0 * MILLION, WAITING=7),
        "worker-2/4712/50124/1": session(HELD=1, FLYING=1.0 * MILLION, seen=START - 29 * SECOND),
        "a name/²/of somebody else's": session(),
    }
    found = reading("x", known(code, sessions=sessions), START)
    assert (found.active, found.in_flight, found.level, found.waiting) == (3, 3.0, 7.0, 7)
    assert [(each.host, each.pid) for each in found.sessions] == [
        ("a name", None),
        ("worker-1", 4711),
        ("worker-2", 4712),
    ]
    assert (found.sessions[2].seen, found.sessions[2].ttl) == (29.0, 30.0)
    found = reading("x", known(code, sessions=sessions), START + SECOND)
    assert [each.host for each in found.sessions] == ["a name", "worker-1"]
    assert (found.active, found.in_flight, found.level) == (
        2,
        2.0,
        7.0,
    )  # nobody knows when it ended


def test_pauses_are_told_and_what_is_left_after_them() -> None:
    paused = known(BUCKET, pause=START + 3 * SECOND, empties=1)
    found = reading("x", paused, START + SECOND)
    assert (found.paused, found.empties, found.level) == (2.0, True, 10.0)
    assert found.as_dict()["pause"] == {"left": 2.0, "empties": True}
    found = reading("x", paused, START + 3.5 * SECOND)
    assert (found.paused, found.empties, found.level) == (0.0, False, 5.0)
    assert found.as_dict()["pause"] is None
    found = reading("x", known(BUCKET, pause=_state.FOREVER), START)
    assert found.paused == math.inf
    assert json.loads(json.dumps(found.as_dict()))["pause"] == {"left": None, "empties": False}
    assert reading("x", known(BUCKET, shy=START + SECOND), START).held_back == 1.0


def test_what_was_set_by_hand_is_seen() -> None:
    found = reading("x", known(BUCKET), START)
    assert not found.by_hand
    assert found.now == found.code == Parameters(10.0, 1.0, 10.0, 4)
    changed_state = known(BUCKET)
    changed_state["set"] = changed("x", BUCKET, capacity=20)
    found = reading("x", changed_state, START)
    assert found.by_hand
    assert (found.now.capacity, found.code.capacity) == (20.0, 10.0)
    slots = reading("x", known([_state.NO_RATE, 0, 0, 0, 3, 1, 1, 0]), START)
    assert (slots.level, slots.algorithm, slots.now) == (
        None,
        None,
        Parameters(None, None, None, 3),
    )


def test_for_machines_the_keys_are_these() -> None:
    sessions = {"host/1/2/3": session()}
    told = reading("x", known(BUCKET, sessions=sessions), START).as_dict()
    assert list(told) == [
        *["name", "capacity", "period", "burst", "concurrency", "algorithm", "code", "level"],
        *["active", "in_flight", "counts", "waiting", "held_back", "sessions", "pause", "by_hand"],
    ]
    assert list(told["code"]) == ["capacity", "period", "burst", "concurrency"]
    assert list(told["sessions"][0]) == [
        *["name", "host", "pid", "held", "in_flight", "waiting", "seen", "ttl"]
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": SlidingWindow},
        {"algorithm": FixedWindow},
        {"algorithm": ClockWindow, "period": 60},
        {"burst": 3, "counts": "end"},
    ],
)
def test_the_reading_is_what_a_throttle_is_told(settings: dict[str, Any]) -> None:
    store = MemoryStore()

    async def scene() -> None:
        throttle = Throttle(10, 4, store=store, name="x", **settings)
        async with throttle, throttle:
            await asyncio.sleep(0.1)  # what was booked for callers to come goes back
            await throttle.refresh()
            found = store.readings()["x"]
            assert found.level == pytest.approx(throttle.level, abs=1e-5)
            assert (found.active, found.counts) == (2, settings.get("counts", "start"))
        await throttle.drain()
        await throttle.refresh()
        found = store.readings()["x"]
        assert found.level == pytest.approx(throttle.level, abs=1e-5)
        assert (found.algorithm or "").split()[0] in throttle.algorithm.__name__.lower()

    testing.run(scene())


# By hand.


def now() -> float:
    """The time of the event loop."""
    return asyncio.get_running_loop().time()


def test_a_pause_by_hand_is_one_for_everybody() -> None:
    store = MemoryStore()

    async def scene() -> None:
        one, other = (Throttle(10, store=store, name="x") for _ in range(2))
        for throttle in (one, other):
            async with throttle:
                pass
        store.pause("x", timedelta(seconds=2))
        await one.refresh()
        assert one.paused_for == pytest.approx(2.0, abs=0.01)
        begun = now()
        async with other:
            assert now() - begun == pytest.approx(2.0, abs=0.05)
        store.pause("x", math.inf)
        assert store.readings()["x"].paused == math.inf
        store.resume("x")
        assert store.readings()["x"].paused == 0.0
        async with one:
            assert now() - begun == pytest.approx(2.0, abs=0.05)

    testing.run(scene())


def test_what_is_set_by_hand_holds_until_the_program_says_another_value() -> None:
    store = MemoryStore()

    async def scene() -> None:
        throttle = Throttle(10, 4, store=store, name="x")
        async with throttle:
            pass
        store.set("x", capacity=20, concurrency=2)
        await throttle.refresh()
        assert (throttle.capacity, throttle.burst, throttle.concurrency) == (20, 20, 2)
        again = Throttle(10, 4, store=store, name="x")  # the program is started again
        await again.refresh()
        assert (again.capacity, again.concurrency) == (20, 2)
        assert store.readings()["x"].by_hand
        newer = Throttle(30, 4, store=store, name="x")  # a deploy
        await newer.refresh()
        await again.refresh()
        assert (newer.capacity, again.capacity, again.concurrency) == (30, 30, 4)
        assert not store.readings()["x"].by_hand

    testing.run(scene())


def test_a_reset_gives_everything_back_but_what_sessions_hold() -> None:
    store = MemoryStore()

    async def scene() -> None:
        throttle = Throttle(10, 4, store=store, name="x")
        async with throttle:
            await throttle.acquire(9)
            store.set("x", capacity=5)
            store.pause("x", 60)
            store.reset("x")
            found = store.readings()["x"]
            assert (found.level, found.paused, found.active) == (10.0, 0.0, 2)
            assert not found.by_hand
            await throttle.refresh()
            assert (throttle.capacity, throttle.level, throttle.paused_for) == (10, 10, 0)
        throttle.release()

    testing.run(scene())


@pytest.mark.parametrize("kind", [_state.BUCKET, _state.SLIDING, _state.FIXED])
def test_what_was_taken_before_a_reset_is_worth_nothing_after_it(kind: int) -> None:
    code = parameters(kind, 10)
    asked = {
        "id": "host/1/2/3",
        "seq": 1,
        "since": 0,
        "gen": 0,
        "until": 0,
        "fresh": 1,
        "open": 1,
        "code": code,
        "version": 0,
        "initial": 0,
        "ttl": 30 * SECOND,
        "held": 0,
        "flying": 0,
        "waiting": 0,
        "first": 0,
        "ops": [],
        "edges": [],
        "ahead": 0,
    }
    request = {"horizon": 0, "grace": 0, "limits": [asked], "wants": [[8, [[0, MILLION, 0]]]]}
    reply, kept, _ = _state.step(START, request, [None])
    (_, count, receipt), *_ = reply["wants"][0][0]
    assert count == 8
    asked.update(seq=2, ops=[["reset"]])
    _, kept, _ = _state.step(START, request | {"wants": []}, kept)
    asked.update(seq=3, first=1, ops=[])
    one = request | {"wants": [[1, [[0, MILLION, 0]]]]}
    _, kept, _ = _state.step(START + 1, one, kept)
    asked.update(seq=4, ops=[["back", receipt, 8 * MILLION]])
    reply, _, _ = _state.step(START + 2, request | {"wants": []}, kept)
    assert reply["limits"][0][4] <= 9 * MILLION + 20  # what has come back since then


@pytest.mark.parametrize(
    ("before", "told", "after"),
    [
        ([10, 1, 10, 4], {"capacity": 20}, [20, 1, 20, 4]),
        ([10, 1, 3, 4], {"capacity": 20}, [20, 1, 3, 4]),
        ([10, 1, 10, 4], {"capacity": 20, "burst": 5}, [20, 1, 5, 4]),
        ([1, 1, 1, 4], {"capacity": 20}, [20, 1, 1, 4]),  # it may be a leaky bucket
        ([10, 1, 10, 4], {"period": 60}, [10, 60, 10, 4]),
        ([10, 1, 10, 4], {"period": timedelta(minutes=1)}, [10, 60, 10, 4]),
        ([10, 1, 10, 4], {"concurrency": 0}, [10, 1, 10, 0]),
        ([10, 1, 10, 4], {}, [10, 1, 10, 4]),
    ],
)
def test_a_burst_follows_the_capacity_where_it_did(
    before: list[int], told: dict[str, Any], after: list[int]
) -> None:
    assert changed("x", parameters(_state.BUCKET, *before), **told) == parameters(
        _state.BUCKET, *after
    )


@pytest.mark.parametrize(
    ("kind", "told", "error"),
    [
        (_state.BUCKET, {"capacity": 0}, "capacity must be positive, got 0"),
        (_state.BUCKET, {"capacity": math.inf}, "capacity must be finite, got inf"),
        (_state.BUCKET, {"burst": 1e-8}, "burst must be at least 1e-6 with a store"),
        (_state.BUCKET, {"period": 0}, "period must be at least 1e-6 s, and finite, got 0"),
        (_state.BUCKET, {"period": math.inf}, "period must be at least 1e-6 s, and finite"),
        (_state.BUCKET, {"concurrency": 1.5}, "concurrency must be a whole number"),
        (_state.SLIDING, {"burst": 3}, "burst must not be set: 'x' is a window"),
        (_state.CLOCK, {"period": 3}, "period must not be set: 'x' is a window on the clock"),
        (_state.NO_RATE, {"capacity": 3}, "capacity must not be set: 'x' has no rate"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(kind: int, told: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        changed("x", parameters(kind, 10), **told)


def test_a_leaky_bucket_stays_one() -> None:
    store = MemoryStore()

    async def scene() -> None:
        throttle = Throttle(10, store=store, name="x", algorithm=LeakyBucket)
        async with throttle:
            store.set("x", capacity=20)
            await throttle.refresh()
            assert (throttle.capacity, throttle.burst) == (20, 1)

    testing.run(scene())


def test_who_changes_a_limit_that_is_not_there_is_told_of_those_that_are() -> None:
    store = MemoryStore()
    with pytest.raises(LookupError, match=r"no limit 'chat' is known to .*: there are none"):
        store.reset("chat")

    async def scene() -> None:
        async with Throttle(10, store=store, name="ch\x1bat"), Throttle(9, store=store, name="b"):
            with pytest.raises(LookupError, match=r"there are 'b', 'ch\\x1bat'$"):
                store.pause("chat", 3)
            with pytest.raises(ValueError, match="seconds must be a number of seconds"):
                store.pause("b", -1)

    testing.run(scene())
    assert MemoryStore().readings() == {}


# What is shown.

WORKER = SessionReading("vm/21310/50123/1", "vm", 21310, 10, 0.0, 311, 0.21, 30.0)
CHAT = Reading(
    name="chat",
    algorithm="bucket",
    now=Parameters(200.0, 1.0, 200.0, 10),
    code=Parameters(100.0, 1.0, 100.0, 10),
    level=67.4381,
    active=10,
    in_flight=0.0,
    counts="start",
    waiting=1311,
    paused=29.83,
    empties=True,
    held_back=0.0,
    sessions=(WORKER, replace(WORKER, host="worker-7.eu-west-1.compute.internal", waiting=1000)),
)
TOKENS = Reading(
    name="tok\x1b[2Jens 割り当て",
    algorithm="sliding window",
    now=Parameters(200_000.0, 60.0, 200_000.0, None),
    code=Parameters(200_000.0, 60.0, 200_000.0, None),
    level=120_000.0,
    active=0,
    in_flight=20_000.0,
    counts="end",
    waiting=0,
    paused=0.0,
    empties=False,
    held_back=9.8,
    sessions=(),
)
SLOTS = Reading(
    name="slots",
    algorithm=None,
    now=Parameters(None, None, None, 4),
    code=Parameters(None, None, None, None),
    level=None,
    active=4,
    in_flight=0.0,
    counts="start",
    waiting=0,
    paused=math.inf,
    empties=False,
    held_back=0.0,
    sessions=(replace(WORKER, name="x", host="割り当て", pid=None, held=4, seen=4000.0),),
)
STORE = "SQLiteStore('/var/lib/bot/quota.db')"


def test_the_view_at_80_columns() -> None:
    assert frame(STORE, "13:45:02", [CHAT, TOKENS, SLOTS], 80, BLOCKS) == [
        "SQLiteStore('/var/lib/bot/quota.db')              3 limits, 2 sessions  13:45:02",
        "",
        "chat                                            200 per 1 s, burst 200, 10 slots",
        "  ████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  67.4 of 200 left",
        "  10 of 10 slots used, 1,311 waiting, paused for 29.8 s, then empty",
        "  set by hand: capacity 200 (code: 100)",
        "    host                              pid   held  in flight  waiting        seen",
        "    vm                              21310     10          0      311   0.2 s ago",
        "    worker-7.eu-west-1.compute.…    21310     10          0    1,000   0.2 s ago",
        "",
        "tok\\x1b[2Jens 割り当て                          200,000 per 60 s, sliding window",
        "  ██████████████████████████████▒▒▒▒▒░░░░░░░░░░░░░░░  120,000 of 200,000 left",
        "  20,000 in flight, 0 waiting, no slots for 9.8 s: its state was lost",
        "",
        "slots                                                                    4 slots",
        "  4 of 4 slots used, 0 waiting, paused",
        "  set by hand: concurrency 4 (code: none)",
        "    host                              pid   held  in flight  waiting        seen",
        "    割り当て                            ?      4          0      311  67 min ago",
    ]


def test_the_view_where_only_ascii_can_be_shown() -> None:
    assert view(TOKENS, 80, ASCII, "ascii") == [
        "tok\\x1b[2Jens \\u5272\\u308a\\u5f53\\u3066          200,000 per 60 s, sliding window",
        "  ##############################+++++...............  120,000 of 200,000 left",
        "  20,000 in flight, 0 waiting, no slots for 9.8 s: its state was lost",
    ]


def test_a_store_with_a_long_name_has_a_line_for_it_and_one_without_limits_says_so() -> None:
    assert frame("RedisStore('redis://10.0.0.1:6379/2', prefix='openai:')", "1", [], 70, ASCII) == [
        "RedisStore('redis://10.0.0.1:6379/2', prefix='openai:')",
        "0 limits, 0 sessions  1",
        "",
        "No limit is in use, and of none is anything missing.",
    ]


def test_one_line_tells_the_same() -> None:
    assert [line(limit) for limit in (CHAT, SLOTS)] == [
        "chat: 67.4 of 200 left, 10 of 10 slots used, 1,311 waiting, paused for 29.8 s, "
        "then empty, 2 sessions; set by hand: capacity 200 (code: 100)",
        "slots: no rate, 4 of 4 slots used, 0 waiting, paused, 1 session; "
        "set by hand: concurrency 4 (code: none)",
    ]


texts = st.text(st.sampled_from("ab割\x1b\x07\n\r\t\x9b\u202e\u0301\u200d\ud800🙂\\"), max_size=30)
sizes = st.sampled_from([0.0, 1e-6, 0.5, 1.0, 99.95, 1234.5, 1e9, 1e15])
options = st.none() | st.integers(1, 10**6)
limits = st.builds(
    Reading,
    name=texts,
    algorithm=st.just("bucket"),
    now=st.builds(Parameters, sizes, sizes, sizes, options),
    code=st.builds(Parameters, sizes, sizes, sizes, options),
    level=sizes | sizes.map(lambda size: -size),
    active=sizes,
    in_flight=sizes,
    counts=st.sampled_from(["start", "end"]),
    waiting=st.integers(0, 10**9),
    paused=sizes | st.just(math.inf),
    empties=st.booleans(),
    held_back=sizes,
    sessions=st.lists(
        st.builds(SessionReading, texts, texts, options, sizes, sizes, st.just(3), sizes, sizes),
        max_size=2,
    ).map(tuple),
)


@examples(300)
@given(
    found=st.lists(limits, max_size=2),
    columns=st.integers(1, 120),
    store=texts,
    encoding=st.sampled_from(["utf-8", "ascii", "latin-1"]),
)
def test_no_line_is_wider_than_the_terminal_and_no_name_moves_its_cursor(
    found: list[Reading], columns: int, store: str, encoding: str
) -> None:
    glyphs = BLOCKS if encoding == "utf-8" else ASCII
    for text in frame(store, "13:45:02", found, columns, glyphs, encoding):
        assert columns_of(text) <= columns
        assert text.isprintable()
        text.encode(encoding)
    for limit in found:
        assert line(limit, encoding).isprintable()
        json.dumps(limit.as_dict()).encode("ascii")


def test_text_is_cut_where_it_fits() -> None:
    assert [cut("割り", columns) for columns in range(5)] == ["", "…", "…", "割…", "割り"]
    assert plain("a\\b") == "a\\b"


# The command line.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("q.db poke chat", "'poke' must be one of show, pause, resume, set, reset"),
        ("q.db pause", "pause: the name of a limit is missing"),
        ("q.db pause chat soon", "seconds must be a number, not 'soon'"),
        ("q.db pause chat nan", "seconds must be a number, not 'nan'"),
        ("q.db pause chat 3 4", "pause: '4' is too much"),
        ("q.db resume chat 3", "resume: '3' is too much"),
        ("q.db show chat", "show: 'chat' is too much"),
        ("q.db set chat", "such as capacity=200"),
        ("q.db set chat size=3", "'size=3' must be NAME=NUMBER"),
        ("q.db set chat capacity=", "capacity must be a number, not ''"),
        ("q.db --every 0", "argument --every: must be between 0.05 and 86400"),
    ],
)
def test_arguments_that_mean_nothing_are_named(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        __main__.main(["quota", *arguments.split()])
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert complaint in err.splitlines()[-1]
    assert out == ""


def test_a_command_may_do_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    options = _quota.parse(["pause", "chat"])
    assert (options.store, options.name, options.seconds) == (None, "chat", math.inf)
    options = _quota.parse(["q.db", "set", "chat", "capacity=20", "--json", "concurrency=3"])
    assert options.parameters == {"capacity": 20.0, "concurrency": 3.0}
    monkeypatch.setenv("ASYNC_THROTTLE_REDIS_URL", "redis://jo:secret@localhost:1/2")
    store = _quota.opened(None, "openai:")
    assert repr(store) == "RedisStore('redis://localhost:1/2', prefix='openai:')"


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (None, "there is no file {path!r}"),
        (b"import this", "{path!r} is not the file of a store: there is no '{path}.lock'"),
        ("folder", "{path!r} is not a file"),
        ("database", "the store {path!r} cannot be used: it is the database of another program"),
        ("redis://jo:secret@localhost:x/", "the port of a Redis server is a whole number"),
        ("redis://jo:secret@127.0.0.1:1/", "127.0.0.1:1"),  # nobody is there
        ("", "say which store: a file, a URL, or ASYNC_THROTTLE_REDIS_URL in the environment"),
    ],
)
def test_what_is_no_store_is_said_to_be_none_in_one_sentence(
    made: Any,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sqlite3

    monkeypatch.delenv("ASYNC_THROTTLE_REDIS_URL", raising=False)
    path = tmp_path / "quota.db"
    where = [str(path)]
    if made == "folder":
        path.mkdir()
    elif made == "database":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE other (x)")
        database.close()
        (tmp_path / "quota.db.lock").touch()
    elif isinstance(made, bytes):
        path.write_bytes(made)
    elif made is not None:
        where = [made] if made else []
    assert _quota.main([*where, "--once"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert complaint.format(path=str(path)) in err
    assert "secret" not in err


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file in which a limit is known, with a name that does not mean well."""
    path = str(tmp_path / "quota.db")

    async def scene() -> None:
        throttle = Throttle(
            1, period=3600, burst=10, store=SQLiteStore(path), name="ch\x1b[2Jat 割"
        )
        await throttle.acquire(4)

    asyncio.run(scene())
    return path


NAME = "ch\x1b[2Jat 割"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What the command line prints."""
    assert __main__.main(["quota", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_file_is_shown_and_changed(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(capsys, path, "--once")
    first = shown.index("") + 1
    assert shown[first].startswith("ch\\x1b[2Jat 割   ")
    assert shown[first].endswith("  1 per 1 h, burst 10")
    assert shown[first + 1].endswith("  6 of 10 left")
    assert max(map(columns_of, shown)) <= 80

    (told,) = run(capsys, path, "--once", "--json")
    told = json.loads(told)
    assert list(told) == ["store", "now", "limits"]
    assert told["store"] == repr(SQLiteStore(path))
    assert abs(told["now"] - time.time()) < 60
    (limit,) = told["limits"]
    assert (limit["name"], limit["pause"], limit["by_hand"]) == (NAME, None, False)
    assert limit["level"] == pytest.approx(6, abs=0.1)
    assert [each["pid"] for each in limit["sessions"]] == [os.getpid()]

    assert "  0 waiting, paused for 30.0 s" in run(capsys, path, "pause", NAME, "30")
    assert "  0 waiting" in run(capsys, path, "resume", NAME)
    assert "  0 waiting, paused" in run(capsys, path, "pause", NAME)
    shown = run(capsys, path, "set", NAME, "capacity=50", "concurrency=3")
    assert shown[0].endswith("  50 per 1 h, burst 10, 3 slots")
    assert "  set by hand: capacity 50 (code: 1), concurrency 3 (code: none)" in shown
    shown = run(capsys, path, "reset", NAME)
    assert shown[0].endswith("  1 per 1 h, burst 10")
    assert shown[1].endswith("  10 of 10 left")
    (told,) = run(capsys, path, "reset", NAME, "--json")
    assert [limit["name"] for limit in json.loads(told)["limits"]] == [NAME]

    assert __main__.main(["quota", path, "pause", "chat"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(": there are 'ch\\x1b[2Jat 割'\n")
    assert __main__.main(["quota", path, "set", NAME, "capacity=-1"]) == 1
    assert capsys.readouterr().err == "quota: capacity must be positive, got -1.0\n"


@pytest.mark.real_time
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_is_shown_and_changed_and_its_password_is_not(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(kind, "--requirepass", "sesame") as server:
        url = f"redis://:sesame@127.0.0.1:{server.port}"
        store = RedisStore(url, prefix="openai:")

        async def scene() -> None:
            throttle = Throttle(1, 4, period=3600, burst=10, store=store, name=NAME)
            async with throttle(4):
                await asyncio.to_thread(look)

        def look() -> None:
            monkeypatch.setenv("ASYNC_THROTTLE_REDIS_URL", url)
            (told,) = run(capsys, "--prefix", "openai:", "--once", "--json")
            assert "sesame" not in told
            (limit,) = json.loads(told)["limits"]
            assert (limit["name"], limit["active"]) == (NAME, 1)
            assert limit["level"] == pytest.approx(6, abs=0.1)
            shown = run(capsys, "--prefix", "openai:", "set", NAME, "capacity=50")
            assert "  set by hand: capacity 50 (code: 1)" in shown
            assert "  1 of 4 slots used, 0 waiting, paused" in run(
                capsys, url, "--prefix", "openai:", "pause", NAME
            )
            shown = run(capsys, url, "--prefix", "openai:", "reset", NAME)
            assert shown[0].endswith("  1 per 1 h, burst 10, 4 slots")
            assert shown[1].endswith("  10 of 10 left")
            assert shown[2] == "  1 of 4 slots used, 0 waiting"
            assert "sesame" not in "".join(run(capsys, url, "--once"))
            assert __main__.main(["quota", url.replace("sesame", "wrong"), "--once"]) == 1
            assert "WRONGPASS" in (complaint := capsys.readouterr().err)
            assert complaint.count("\n") == 1
            assert "wrong" not in complaint

        asyncio.run(scene())


class Away(MemoryStore):
    """A store that is away when it is looked at for the second time."""

    looks = 0

    def look(self) -> dict[str, Any]:
        self.looks += 1
        if self.looks == 2:
            raise StoreUnavailable("the store is away\x07")
        if self.looks == 4:
            raise KeyboardInterrupt
        return {}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def live(
    monkeypatch: pytest.MonkeyPatch, out: io.StringIO, *arguments: str, store: Store | None = None
) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_quota, "opened", lambda text, prefix: store or Away())
    return _quota.main(arguments, out)


def test_on_a_terminal_a_store_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Terminal()
    assert live(monkeypatch, out) == 0
    frames = out.getvalue().split("\x1b[H")
    assert frames[0] == "\x1b[2J"
    assert [
        found for text in frames for found in re.findall("No limit|away.*again", text, re.S)
    ] == [
        "No limit",
        "away\\x07\x1b[K\nIt will be asked again",
        "No limit",
    ]


def test_elsewhere_it_ends_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    assert live(monkeypatch, out) == 1
    assert re.fullmatch(r"\d\d:\d\d:\d\d no limit is in use\n", out.getvalue())
    assert capsys.readouterr().err == "quota: the store is away\\x07\n"


def test_what_a_terminal_has_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(Away, "frame", None, raising=False)
    monkeypatch.setattr(_quota, "frame", lambda *_: [str(n) for n in range(20)])
    assert live(monkeypatch, out) == 0
    first = out.getvalue().split("\x1b[H")[1].replace("\x1b[K", "").replace("\x1b[J", "")
    assert first.splitlines() == [*"0123456", "13 lines more"]


in_front = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('async_throttle', run_name='__main__')"
)
"""Where the tests run in the background of a shell, SIGINT is ignored, and so it is in children."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty, nor SIGINT to send")


@posix
@pytest.mark.real_time
def test_the_live_view_redraws_in_place_and_ctrl_c_ends_it_quietly(path: str) -> None:
    import pty

    here, there = pty.openpty()
    command = [sys.executable, "-c", in_front, "quota", path, "--every", "0.1"]
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, cwd=ROOT, env=environment
    ) as process:
        os.close(there)
        shown, until = b"", time.monotonic() + 20
        while shown.count(b"\x1b[H") < 4 and time.monotonic() < until:
            if select.select([here], [], [], 0.1)[0]:
                shown += os.read(here, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        while select.select([here], [], [], 0.1)[0]:
            try:
                more = os.read(here, 65536)
            except OSError:  # there is nobody at the other end
                break
            shown += more
    os.close(here)
    text = shown.decode().replace("\r\n", "\n")
    start, *frames = text.split("\x1b[H")
    assert start == "\x1b[2J"
    assert len(frames) >= 4
    assert "Traceback" not in text
    for drawn in frames[:-1]:
        assert drawn.endswith("\x1b[J")
        lines = drawn.removesuffix("\x1b[J").split("\n")
        assert all(each.endswith("\x1b[K") for each in lines[:-1])
        lines = [each.removesuffix("\x1b[K") for each in lines]
        first = lines.index("") + 1
        assert lines[first].startswith("ch\\x1b[2Jat 割   ")
        assert lines[first + 1].endswith("  6 of 10 left")
        assert max(map(columns_of, lines)) <= 80
        assert "".join(lines).isprintable()


@posix
@pytest.mark.real_time
def test_who_has_seen_enough_of_it_breaks_no_pipe(path: str) -> None:
    command = [sys.executable, "-m", "async_throttle", "quota", path, "--every", "0.05", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["limits"][0]["name"] == NAME
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0
