"""The step in Python and its twin in Lua: the same histories, to the bit.

What Hypothesis invents is what happens to some sessions of up to three limits: whatever can come to
a store, with late and lost requests, other parameters, deaths, and clocks that are set. Replies,
wakes and states are compared after each request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers_redis import KINDS, Server, Wire, started
from support import examples

import async_throttle.stores
from async_throttle.stores import _state, address_of
from async_throttle.stores._state import BUCKET, CLOCK, FIXED, NO_RATE, SLIDING, ticks

SCRIPT = (Path(async_throttle.stores.__file__).parent / "redis.lua").read_text("utf-8")
SECOND = 1_000_000
START = 1_796_000_000 * SECOND
HOUR = 3_600 * SECOND


class Twin:
    """A server that plays steps, and hears whom they wake."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wire: Wire = server.wire()
        self.ear = server.wire()
        self.ear.call("PSUBSCRIBE", "wake:*")
        self.sha = self.wire.call("SCRIPT", "LOAD", SCRIPT)
        self.games = 0

    def step(self, now: float, text: str, keys: list[str]) -> tuple[Any, set[str]]:
        words = ["EVALSHA", self.sha, len(keys), *keys, text, str(int(now)), "wake:"]
        reply = json.loads(self.wire.call(*words))
        return reply, set(self.heard())

    def heard(self) -> list[str]:
        """The addresses that were called, one for each call, since this was asked last."""
        self.ear.say("PING")
        heard = []
        while (message := self.ear.read())[0] == b"pmessage":
            heard.append(message[2].decode().removeprefix("wake:"))
        return heard

    def close(self) -> None:
        self.wire.close()
        self.ear.close()

    def look(self, keys: list[str]) -> Any:
        return json.loads(self.wire.call("EVALSHA", self.sha, len(keys), *keys, "", "", ""))


@pytest.fixture(scope="module", params=KINDS)
def twin(request: pytest.FixtureRequest) -> Iterator[Twin]:
    with started(request.param) as server:
        twin = Twin(server)
        yield twin
        twin.close()


def parameters(kind: int, capacity: float, period: int, burst: float, slots: int, ends: int) -> Any:
    scale, grain = ticks(int(capacity), period)
    if kind != BUCKET:
        burst = capacity
    return [kind, capacity, period, burst, slots, scale, grain, ends]


USUAL = [3 * SECOND, 10 * SECOND, 5 * SECOND]
CAPACITIES = [SECOND, 3 * SECOND, 10 * SECOND, 333_333, 99_999_999, 200_000 * SECOND, 1e17, 1.5e19]
PERIODS = [SECOND, 333_333, 60 * SECOND, 7, 86_400 * SECOND]
WEIGHTS = [0, 1, 333_333, SECOND, 2 * SECOND, 7 * SECOND, 123_456_789, 5e16]

kinds = st.sampled_from([BUCKET, BUCKET, SLIDING, SLIDING, FIXED, CLOCK, NO_RATE])

usual_parameters = st.builds(
    parameters,
    kinds,
    st.sampled_from(USUAL),
    st.just(SECOND),
    st.sampled_from(USUAL),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([0, 0, 1]),
)

any_parameters = st.builds(
    parameters,
    kinds,
    st.sampled_from(CAPACITIES),
    st.sampled_from(PERIODS),
    st.sampled_from([SECOND, 10 * SECOND, 12_345_678, 1e17]),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([0, 0, 1]),
)

weights = st.sampled_from(WEIGHTS)
few = st.integers(0, 3)

operations = st.one_of(
    st.tuples(st.just("back"), few, weights),
    st.tuples(st.just("charge"), weights),
    st.tuples(st.just("end"), weights),
    st.tuples(st.just("lower"), weights, weights, st.sampled_from([-1, 0, SECOND, 5 * SECOND])),
    st.tuples(st.just("empty")),
    st.tuples(st.just("pause"), st.sampled_from([-1, 0, 100_000, 3 * SECOND]), st.integers(0, 1)),
    st.tuples(st.just("resume")),
    st.tuples(st.just("set"), any_parameters),
    st.tuples(st.just("reset")),
)

amounts = st.tuples(few, st.sampled_from([-1, *WEIGHTS]), st.sampled_from([0, 0, 1, 1, 2]))

any_wants = st.lists(
    st.tuples(st.integers(1, 30), st.lists(amounts, min_size=1, max_size=3)), max_size=3
)

wild = {
    "who": st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
    "limits": st.sampled_from([[0], [0], [1], [0, 1], [2, 0], [1, 2], [0, 1, 2]]),
    "later": st.sampled_from([0, 1, 1_000, 37_123, 250_000, SECOND, 11 * SECOND]),
    "jump": st.sampled_from([0] * 12 + [-5, -HOUR, HOUR, 31 * SECOND]),
    "slept": st.booleans(),  # the session's clock went along
    "late": st.sampled_from([0] * 8 + [1, 2]),
    "forgets": st.sampled_from([0] * 8 + [1, 2]),
    "back": st.sampled_from([0, 1, 1, 2, -1]),
    "flies": st.sampled_from([0, 0, 1]),
    "open": st.sampled_from([0, 0, 0, 1, 2]),
    "code": few,
    "ops": st.lists(operations, max_size=2),
    "repeats": st.booleans(),  # the last operations again
    "wants": any_wants,
    "waiting": few,
    "ahead": st.sampled_from([0, 0, 1, 333_333, 2 * SECOND, 1e16]),
    "horizon": st.sampled_from([250_000] * 4 + [0, -1]),
}

moments = st.fixed_dictionaries(wild)

usual_moments = st.fixed_dictionaries(
    {
        **wild,
        "who": st.integers(0, 2),
        "limits": st.sampled_from([[0], [0], [0, 1]]),
        "later": st.sampled_from([0, 1_000, 37_123, 250_000, 700_000]),
        "jump": st.just(0),
        "slept": st.just(True),
        "late": st.just(0),
        "forgets": st.just(0),
        "open": st.just(0),
        "ops": st.lists(
            st.one_of(
                st.tuples(st.just("back"), few, st.sampled_from([333_333, SECOND])),
                st.tuples(st.just("lower"), weights, weights, st.sampled_from([-1, 0, SECOND])),
                st.tuples(st.just("charge"), st.sampled_from([SECOND, 20 * SECOND])),
                st.tuples(st.just("pause"), st.just(100_000), st.integers(0, 1)),
                st.tuples(st.just("set"), usual_parameters),
                st.tuples(st.just("reset")),
            ),
            max_size=1,
        ),
        "repeats": st.just(False),
        "wants": st.lists(
            st.tuples(
                st.integers(1, 8),
                st.lists(
                    st.tuples(few, st.sampled_from([0, 333_333, SECOND, SECOND, 3 * SECOND]), few),
                    min_size=1,
                    max_size=2,
                ),
            ),
            max_size=2,
        ),
    }
)


class Session:
    """What a session remembers of a limit."""

    def __init__(self) -> None:
        self.seq = 0
        self.gen = 0.0
        self.until = 0.0
        self.version = 0
        self.held = 0
        self.flying = 0.0
        self.done = 0
        self.seen = 0.0
        self.receipts: list[float] = []
        self.ops: list[Any] = []


class Game:
    """A history: limits, and what sessions remember of them."""

    def __init__(self, twin: Twin, codes: list[Any]) -> None:
        self.twin = twin
        twin.games += 1
        self.keys = [f"twins:{twin.games}:{n}" for n in range(3)]
        self.codes = codes
        self.states: list[Any] = [None] * 3
        self.sessions: dict[tuple[int, int], Session] = {}
        self.now = START
        self.generations = 1_000

    def asked(self, moment: Any, n: int) -> dict[str, Any]:
        who = moment["who"]
        mine = self.sessions.setdefault((who, n), Session())
        if moment["forgets"] == 1:
            mine.gen = 0
        elif moment["forgets"] == 2:
            mine.gen += 1
        mine.seq += 1
        self.generations += 1
        if not moment["repeats"]:
            mine.done += len(mine.ops)
            mine.ops = []
            for op in moment["ops"]:
                if op[0] == "back":
                    receipts = mine.receipts or [0.0]
                    op = ("back", receipts[-1 - op[1] % len(receipts)], op[2])
                mine.ops.append(list(op))
        back = moment["back"]
        mine.held = max(0, mine.held - back)
        if moment["flies"]:
            mine.flying = max(0, mine.flying - SECOND)
        code = self.codes[moment["code"] if moment["open"] else n]
        period = code[_state.PERIOD]
        first = (self.now // period - 1) * period
        edges = [first + k * period for k in range(4)]
        return {
            "id": "" if who == 3 else f"host/{who}/{who % 2}/1",
            "seq": mine.seq - moment["late"],
            "since": self.now - mine.seen if mine.seen and moment["slept"] else SECOND,
            "gen": mine.gen,
            "until": mine.until,
            "fresh": self.generations,
            "open": moment["open"],
            "code": code,
            "version": mine.version,
            "initial": SECOND if moment["waiting"] == 3 else 0,
            "ttl": 30 * SECOND,
            "held": mine.held,
            "flying": mine.flying,
            "waiting": moment["waiting"],
            "first": mine.done,
            "ops": mine.ops,
            "edges": [[e, e + max(1, period - 20_000), e + period] for e in edges],
            "ahead": moment["ahead"],
        }

    def play(self, moment: Any) -> None:
        self.now += moment["later"] + moment["jump"]
        places = moment["limits"]
        wants = []
        for count, amounts in moment["wants"] if moment["who"] != 3 else []:
            used = {
                n % len(places): [n % len(places), weight, slots] for n, weight, slots in amounts
            }
            wants.append([count, list(used.values())])
        request = {
            "horizon": moment["horizon"],
            "grace": 20_000,
            "limits": [self.asked(moment, n) for n in places],
            "wants": wants,
        }
        text = json.dumps(request)
        keys = [self.keys[n] for n in places]
        states = json.loads(json.dumps([self.states[n] for n in places]))
        told, kept, wakes = _state.step(self.now, json.loads(text), states)
        told = json.loads(json.dumps(told))
        reply, heard = self.twin.step(self.now, text, keys)
        assert reply == told
        assert heard == {address_of(name) for name in wakes}
        for n, state in zip(places, kept, strict=True):
            self.states[n] = state
        assert self.twin.look(self.keys) == json.loads(json.dumps(self.states))
        self.learn(moment, told)

    def learn(self, moment: Any, told: Any) -> None:
        for place, n in enumerate(moment["limits"]):
            mine = self.sessions[moment["who"], n]
            mine.seen = self.now
            mark, gen, _, lasts, _, _, held, _, _, _, _, version, *_, receipt, stock = told[
                "limits"
            ][place]
            if mark in (_state.STALE, _state.MISMATCH):
                continue
            mine.gen, mine.until, mine.held = gen, self.now + lasts, held
            mine.version = version or mine.version
            if stock:
                mine.receipts.append(receipt)
        for (_, amounts), (groups, _) in zip(
            [want for want in moment["wants"] if moment["who"] != 3], told["wants"], strict=False
        ):
            places = moment["limits"]
            used = list({n % len(places): weight for n, weight, _ in amounts}.items())
            for _, count, *receipts in groups:
                for (place, weight), receipt in zip(used, receipts, strict=True):
                    mine = self.sessions[moment["who"], places[place]]
                    if receipt:
                        mine.receipts.append(receipt)
                    elif weight > 0 and self.codes[places[place]][_state.ENDS]:
                        mine.flying += weight * count

    def end(self) -> None:
        self.twin.wire.call("DEL", *self.keys)


@examples(300)
@given(
    codes=st.lists(any_parameters, min_size=4, max_size=4),
    moments=st.lists(moments, min_size=1, max_size=40),
)
def test_both_twins_live_the_same_history(twin: Twin, codes: list[Any], moments: list[Any]) -> None:
    play(twin, codes, moments)


@examples(150)
@given(
    codes=st.lists(usual_parameters, min_size=4, max_size=4),
    moments=st.lists(usual_moments, min_size=20, max_size=40),
)
def test_and_one_in_which_little_goes_wrong(
    twin: Twin, codes: list[Any], moments: list[Any]
) -> None:
    play(twin, codes, moments)


def play(twin: Twin, codes: list[Any], moments: list[Any]) -> None:
    game = Game(twin, codes)
    try:
        for moment in moments:
            game.play(moment)
    finally:
        game.end()


# ---------------------------------------------------------------- what the twin in Lua does besides


def request(code: list[Any], *, session: str = "host/1/address/1", **said: Any) -> dict[str, Any]:
    """A session's request for a token, which it is granted."""
    limit = {
        "id": session,
        "seq": 1,
        "since": 0,
        "gen": 0,
        "until": 0,
        "fresh": 3_123_456_789,
        "open": 0,
        "code": code,
        "version": 1,
        "initial": 0,
        "ttl": 30 * SECOND,
        "held": 0,
        "flying": 0,
        "waiting": 0,
        "first": 0,
        "ops": [],
        "edges": [],
        "ahead": 0,
        **said,
    }
    wants = [[1, [[0, SECOND, 0]]]] if session else []
    return {"horizon": 250_000, "grace": 20_000, "limits": [limit], "wants": wants}


TEN = parameters(BUCKET, 10 * SECOND, SECOND, 10 * SECOND, 0, 0)


@pytest.fixture
def key(twin: Twin) -> Iterator[str]:
    twin.games += 1
    name = f"twins:{twin.games}"
    yield name
    twin.wire.call("DEL", name)


def ask(wire: Wire, key: str, request: dict[str, Any], prefix: str = "wake:") -> Any:
    """Have the script read the server's clock."""
    return json.loads(wire.call("EVAL", SCRIPT, 1, key, json.dumps(request), "", prefix))


def test_the_time_is_that_of_the_server_to_the_microsecond(twin: Twin, key: str) -> None:
    def time() -> int:
        seconds, micros = twin.wire.call("TIME")
        return int(seconds) * SECOND + int(micros)

    before = time()
    now = ask(twin.wire, key, request(TEN))["now"]
    assert before <= now <= time()


def test_a_key_expires_when_its_state_is_as_good_as_none(twin: Twin, key: str) -> None:
    ask(twin.wire, key, request(TEN))
    assert 29_000 < twin.wire.call("PTTL", key) <= 30_000
    ask(twin.wire, key, request(TEN, seq=2, ttl=200_000))
    assert twin.wire.call("PTTL", key) <= 200
    operator = request(TEN, session="", ops=[["pause", 100 * SECOND, 0]])
    ask(twin.wire, key, operator)
    assert 99_000 < twin.wire.call("PTTL", key) <= 100_000
    operator["limits"][0]["ops"] = [["resume"]]
    ask(twin.wire, key, operator)
    assert twin.wire.call("PTTL", key) <= 200


def test_what_need_not_be_kept_is_not(twin: Twin, key: str) -> None:
    ask(twin.wire, key, request(TEN, session=""))
    assert twin.wire.call("EXISTS", key) == 0
    ask(twin.wire, key, request(TEN, session="", ops=[["pause", 100 * SECOND, 0]]))
    assert twin.wire.call("PTTL", key) > 90_000
    ask(twin.wire, key, request(TEN, session="", ops=[["resume"]]))
    assert twin.wire.call("PTTL", key) <= 1
    assert twin.look([key]) == [None]


def test_a_connection_is_called_once_for_all_its_sessions(twin: Twin, key: str) -> None:
    twin.heard()
    for n, address in enumerate(["a", "a", "b", "c"]):
        ask(twin.wire, key, request(TEN, session=f"host/1/{address}/{n}"))
    ask(twin.wire, key, request(TEN, session="host/1/c/9", ops=[["pause", 1, 0]]))
    assert sorted(twin.heard()) == ["a", "b", "c"]


def test_few_rights_are_enough(twin: Twin, key: str) -> None:
    if twin.server.kind == "given":
        pytest.skip("NO SERVER whose users we may make")
    rights = ["eval", "evalsha", "time", "get", "set", "publish"]
    user = ["ACL", "SETUSER", "few", "on", ">secret", "resetchannels", "~twins:*", "&wake:*"]
    twin.wire.call(*user, *(f"+{right}" for right in rights))
    wire = twin.server.wire()
    wire.call("AUTH", "few", "secret")
    for n in (1, 2):
        ask(wire, key, request(TEN, session=f"host/1/{n}/1"))
    ask(wire, key, request(TEN, session="", ops=[["pause", SECOND, 0]]))
    ask(wire, key, request(TEN, session="", ops=[["resume"]]))
    assert len(json.loads(wire.call("EVAL", SCRIPT, 1, key, "", "", ""))[0]["sessions"]) == 2
    wire.close()


def test_a_state_takes_little_memory(twin: Twin, key: str) -> None:
    ask(twin.wire, key, request(TEN, session="", ops=[["charge", 3 * SECOND]]))
    bucket = twin.wire.call("STRLEN", key)
    assert bucket <= 44
    for n in range(10):
        ask(twin.wire, key, request(TEN, session=f"host-12345/4711{n}/50123/{n}", seq=1_000))
    assert twin.wire.call("STRLEN", key) <= bucket + 10 * 80
    assert twin.wire.call("MEMORY", "USAGE", key) <= 100 + 10 * 100
