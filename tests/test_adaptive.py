"""Adaptive limits: what they make of single samples, and what becomes of servers under them.

The servers are simulated (``adaptive/queueing.py``), in a time of their own, and measured first:
against theory, and with rules whose faults are known, which the proofs must not let pass.
"""

from __future__ import annotations

import asyncio
import copy
import http
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from adaptive.queueing import (
    Caller,
    Client,
    Pacer,
    RateServer,
    Server,
    Service,
    World,
    constant,
    exponential,
    heavy,
    jain,
    uniform,
)
from hypothesis import given
from hypothesis import strategies as st

from async_throttle import ThrottleFull, ThrottleTimeout, exceptions
from async_throttle.rules.adaptive import AIMD, Adaptive, BackOff, Gradient, Outcome

SECOND = 10**9
HOUR = 3600.0
OK, IGNORED, DROPPED = Outcome

CONCURRENCY: list[type[AIMD] | type[Gradient]] = [AIMD, Gradient]
RULES: list[type[AIMD] | type[Gradient] | type[BackOff]] = [AIMD, Gradient, BackOff]


class Fixed(Adaptive):
    """A limit that stays: what an adaptive one is measured by."""

    steers = "concurrency"
    start = 1

    def __init__(self, limit: float = 1) -> None:
        super().__init__()
        self._limit = limit

    @property
    def limit(self) -> float:
        return self._limit

    def begin(self, limit: float, now: int) -> None:
        self._limit = limit

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        pass


class LongAverage(Fixed):
    """A gradient whose baseline is a long average: it drifts up with the load it makes."""

    long = 0.0

    def sample(self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome) -> None:
        span = now - began
        self.long += (span - self.long) / 600 if self.long else span
        gradient = max(0.5, min(1.0, 1.5 * self.long / span))
        grown = self._limit * gradient + 4
        self._limit = min(1000.0, self._limit + 0.2 * (grown - self._limit))


# ------------------------------------------------------------------- how the end of a call counts


def error(name: str, **attributes: Any) -> Exception:
    """An error of some library, with what it says of itself."""
    made: Exception = type(name, (Exception,), {})()
    vars(made).update(attributes)
    return made


class Response:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Status:
    def __init__(self, name: str) -> None:
        self.name = name


class Deprecated(Exception):
    """As aiohttp does it."""

    status = 400

    @property
    def code(self) -> int:
        raise DeprecationWarning("use status")


class Broken(Exception):
    @property
    def response(self) -> object:
        raise RuntimeError("there is none")


class ConnectTimeout(Exception):
    pass


class Renamed(ConnectTimeout):
    pass


@pytest.mark.parametrize(
    "dropped",
    [
        TimeoutError(),
        exceptions.TimeoutError(),
        error("ReadTimeout"),
        error("GatewayTIMEOUTError"),
        Renamed(),
        error("ClientResponseError", status=429),
        error("HTTPError", code=503),
        error("HTTPStatusError", response=Response(status_code=529)),
        error("APIStatusError", status_code=http.HTTPStatus.TOO_MANY_REQUESTS, code="slow_down"),
        error("AioRpcError", code=lambda: Status("RESOURCE_EXHAUSTED")),
        error("RpcError", code=lambda: Status("UNAVAILABLE")),
        error("GRPCError", status=Status("DEADLINE_EXCEEDED")),
        ExceptionGroup("several", [ValueError(), ExceptionGroup("more", [TimeoutError()])]),
        BaseExceptionGroup("several", [asyncio.CancelledError(), TimeoutError()]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rule", RULES)
def test_a_server_that_has_too_much_drops_a_call(
    rule: type[AIMD] | type[Gradient] | type[BackOff], dropped: BaseException
) -> None:
    assert rule().judge(dropped) is DROPPED


@pytest.mark.parametrize(
    "ignored",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(503),
        GeneratorExit(),
        ValueError("timeout"),
        ConnectionError(),
        ThrottleTimeout(),
        ThrottleFull(),
        error("HTTPError", code=500),
        error("HTTPError", code="429"),
        error("HTTPError", code=[429]),
        error("HTTPStatusError", response=Response(status_code=404, code=429)),
        error("RpcError", code=lambda: Status("NOT_FOUND")),
        error("RpcError", code=lambda: 1 / 0),
        error("RpcError", code=lambda needed: needed),
        Deprecated(),
        Broken(),
        ExceptionGroup("several", [ValueError(), ThrottleTimeout()]),
    ],
    ids=repr,
)
def test_what_says_nothing_of_the_server_is_ignored(ignored: BaseException) -> None:
    assert AIMD().judge(ignored) is IGNORED


def test_no_error_is_well_and_nobody_is_asked() -> None:
    def never(error: BaseException) -> Outcome:
        raise AssertionError

    assert AIMD(judge=never).judge(None) is OK


@pytest.mark.parametrize("rule", RULES)
def test_a_judge_of_ones_own_goes_first_and_leaves_the_rest_to_the_usual_one(
    rule: type[AIMD] | type[Gradient] | type[BackOff],
) -> None:
    verdicts: dict[type[BaseException], Outcome] = {
        KeyError: OK,
        TimeoutError: IGNORED,
        OSError: DROPPED,
    }
    judge = rule(judge=lambda error: verdicts.get(type(error))).judge
    assert [judge(error()) for error in verdicts] == [OK, IGNORED, DROPPED]
    assert judge(ConnectTimeout()) is DROPPED
    assert judge(ValueError()) is IGNORED


# --------------------------------------------------------------------------------- the parameters


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        (AIMD, {"minimum": 0}, "minimum must be at least 1, got 0"),
        (AIMD, {"minimum": -1}, "minimum must be a whole number of at least 0, got -1"),
        (Gradient, {"minimum": 1.5}, "minimum must be a whole number of at least 0, got 1.5"),
        (AIMD, {"maximum": math.inf}, "maximum must be a whole number of at least 0, got inf"),
        (Gradient, {"minimum": 5, "maximum": 4}, "maximum must be at least 5, minimum, got 4"),
        (AIMD, {"decrease": 1}, "decrease must be between 0 and 1, got 1"),
        (Gradient, {"decrease": math.nan}, "decrease must be between 0 and 1, got nan"),
        (BackOff, {"decrease": 0}, "decrease must be between 0 and 1, got 0"),
        (AIMD, {"timeout": 0}, "timeout must be a finite number of seconds above 0, got 0"),
        (AIMD, {"timeout": -1}, "timeout must be a number of seconds of at least 0, got -1"),
        (BackOff, {"recovery": math.inf}, "recovery must be a finite number of seconds"),
        (BackOff, {"minimum": 0}, "minimum must be a finite number above 0, got 0"),
        (BackOff, {"maximum": math.inf}, "maximum must be a finite number above 0, got inf"),
        (BackOff, {"minimum": 5, "maximum": 4.5}, "maximum must be at least 5, minimum, got 4.5"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(
    rule: Callable[..., Adaptive], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        rule(**given)


def test_a_rate_that_is_not_limited_cannot_be_backed_off_from() -> None:
    with pytest.raises(ValueError, match=r"^limit must be a finite number above 0, got inf$"):
        BackOff().begin(math.inf, 0)


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_limit_begins_within_its_bounds(rule: type[AIMD] | type[Gradient]) -> None:
    bounded = rule(minimum=5, maximum=20)
    bounded.begin(3, 0)
    assert bounded.limit == 5
    bounded.begin(1000, 0)
    # A gradient begins at once to measure, with as few as it may.
    assert bounded.limit == (20 if rule is AIMD else 5)


def test_a_rate_begins_within_its_bounds() -> None:
    rule = BackOff(minimum=5, maximum=20)
    for limit, begun in ((3, 5), (10, 10), (1000, 20)):
        rule.begin(limit, 0)
        assert rule.limit == begun


def test_a_rate_has_bounds_of_its_own_that_follow_where_it_began() -> None:
    rule = BackOff()
    for began in (10, 500):
        rule.begin(began, 0)
        for n in range(1, 100):
            rule.sample(n, n, 1, 1, DROPPED)
        assert rule.limit == began / 100


@pytest.mark.parametrize("rule", RULES)
def test_a_copy_goes_its_own_way(rule: type[AIMD] | type[Gradient] | type[BackOff]) -> None:
    given = rule()
    mine, yours = copy.copy(given), copy.copy(given)
    mine.begin(100, 0)
    yours.begin(100, 0)
    before = repr(yours)
    for n in range(1, 50):
        mine.sample(n, n - 1, 2, 1, OK)
        mine.sample(n, n, 100, 1, DROPPED)
    assert repr(yours) == before
    assert repr(mine) != before


def test_what_a_rule_says_of_itself() -> None:
    rule = AIMD(maximum=50)
    rule.begin(20, 0)
    assert repr(rule) == "<AIMD [limit:20, minimum:1, maximum:50, doubling]>"
    rule.sample(2, 1, 20, 1, DROPPED)
    assert repr(rule) == "<AIMD [limit:18, minimum:1, maximum:50, growing]>"
    gradient = Gradient()
    assert repr(gradient) == "<Gradient [limit:2, minimum:1, maximum:1000, measuring]>"
    for _ in range(10):
        gradient.sample(SECOND // 2, 0, 2, 1, OK)
    assert repr(gradient) == "<Gradient [limit:4, minimum:1, maximum:1000, base:0.5 s]>"
    backoff = BackOff(minimum=3)
    backoff.begin(100, 0)
    backoff.sample(2, 1, 1, 1, DROPPED)
    assert repr(backoff) == "<BackOff [limit:70, minimum:3, maximum:100, ceiling:100]>"


# ------------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize("rule", RULES)
def test_what_is_ignored_changes_nothing(rule: type[AIMD] | type[Gradient] | type[BackOff]) -> None:
    ignoring, untouched = rule(), rule()
    for one in (ignoring, untouched):
        one.begin(50, 0)
    for n in range(200):
        ignoring.sample(n, 0, 50, 1, IGNORED)
    assert repr(ignoring) == repr(untouched)
    assert ignoring.limit == untouched.limit


@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_refusals_at_once_are_one_event(
    rule: type[AIMD] | type[Gradient] | type[BackOff],
) -> None:
    once, often = rule(), rule()
    for one in (once, often):
        one.begin(100, 0)
    once.sample(10, 5, 100, 1, DROPPED)
    for n in range(100):
        often.sample(10 + n, 5, 100, 1, DROPPED)
    assert once.limit == often.limit
    often.sample(200, 9, 100, 1, DROPPED)  # it was on its way as well
    assert once.limit == often.limit


def test_calls_let_through_after_a_cut_can_cut_again() -> None:
    rule = AIMD()
    rule.begin(100, 0)
    limits = []
    for n in range(1, 4):
        rule.sample(10 * n, 10 * n - 5, 100, 1, DROPPED)
        limits.append(rule.limit)
    assert limits == [90, 81, 72]


def test_a_cut_starts_from_what_was_in_flight() -> None:
    rule = AIMD()
    rule.begin(1000, 0)
    rule.sample(10, 5, 800, 1, DROPPED)
    assert rule.limit == 720


def test_one_call_that_fails_among_few_says_little_about_many() -> None:
    rule = AIMD()
    rule.begin(1000, 0)
    rule.sample(10, 5, 1, 1, DROPPED)
    assert rule.limit == 450


def test_a_whole_round_of_drops_and_nothing_served_cuts_twice_as_deep() -> None:
    """Far too much: at a tenth less for each round trip, timeouts would go on for a minute."""
    rule = AIMD()
    rule.begin(100, 0)
    for _ in range(100):
        rule.sample(10, 5, 100, 1, DROPPED)
    assert rule.limit == 90
    rule.sample(20, 15, 90, 1, DROPPED)
    assert rule.limit == 40
    rule.sample(21, 5, 100, 1, OK)  # one that was on its way for long, but served
    rule.sample(30, 25, 40, 1, DROPPED)
    assert rule.limit == 36


def rounds(rule: Adaptive, trips: int, most: int = 10**9) -> list[float]:
    """The limit after each round trip of one second to a server that takes everything.

    There is demand for *most* calls at once, and for each that is over, the next is let through.
    """
    limits = []
    for n in range(1, trips + 1):
        in_flight = min(int(rule.limit), most)
        for _ in range(in_flight):
            rule.sample(n * SECOND, (n - 1) * SECOND + 1, in_flight, 1, OK)
        limits.append(rule.limit)
    return limits


def test_aimd_doubles_with_each_round_trip_until_something_is_dropped() -> None:
    rule = AIMD()
    rule.begin(4, 0)
    assert rounds(rule, 5) == [8, 16, 32, 64, 128]


def test_aimd_grows_by_one_with_each_round_trip_after_a_drop() -> None:
    rule = AIMD()
    rule.begin(10, -10)
    rule.sample(-1, -5, 10, 1, DROPPED)
    assert rule.limit == 9
    limits = rounds(rule, 50)
    assert limits[9] == pytest.approx(9 + 10, abs=1)
    assert limits[-1] == pytest.approx(9 + 50, abs=2)


def test_aimd_counts_a_slow_call_as_dropped_however_it_ended() -> None:
    rule = AIMD(timeout=2.0)
    rule.begin(10, 0)
    rule.sample(2 * SECOND + 1, 1, 10, 1, OK)  # just in time
    assert rule.limit == 11
    rule.sample(2 * SECOND + 2, 1, 10, 1, OK)
    assert rule.limit == 9


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_limit_does_not_grow_while_it_is_not_used(rule: type[AIMD] | type[Gradient]) -> None:
    unused = rule()
    unused.begin(50, 0)
    assert max(rounds(unused, 1000, most=3)) == 50
    unused.sample(1001 * SECOND, 1000 * SECOND + 1, 50, 1, DROPPED)
    least = unused.limit
    assert least <= 45
    for n in range(1002, 2000):
        unused.sample(n * SECOND, n * SECOND - 1, 3, 1, OK)
    assert unused.limit <= max(least, 45)


def test_a_rate_does_not_grow_while_it_is_not_used() -> None:
    rule = BackOff(maximum=1000)
    rule.begin(10, 0)
    for n in range(1, 10_000):
        rule.sample(n * SECOND, n * SECOND - 1, 1, 7, OK)  # 7 of 10
    assert rule.limit == 10
    for n in range(10_000, 10_100):
        rule.sample(n * SECOND, n * SECOND - 1, 1, 9, OK)
    assert 11 < rule.limit < 9 / 0.8 + 1  # and no further than it is used


def test_a_rate_comes_back_along_the_curve() -> None:
    rule = BackOff(recovery=10.0, maximum=1000)
    rule.begin(100, 0)
    rule.sample(2, 1, 1, 1, DROPPED)
    limits = [rule.limit]
    for n in range(1, 21):
        rule.sample(2 + n * SECOND, 3, 1, rule.limit, OK)
        limits.append(rule.limit)
    expected = [100 + 30 * (t / 10 - 1) ** 3 for t in range(21)]
    assert limits == pytest.approx(expected)
    assert limits[0] == 70
    assert limits[10] == 100
    assert limits[20] == pytest.approx(130)


def test_a_rate_of_few_and_heavy_calls_comes_back_in_as_many_steps() -> None:
    """A call each hour, of what an hour gives: no leap to where an hour of use would lead."""
    rule = BackOff(recovery=10.0, maximum=1000)
    rule.begin(100, 0)
    rule.sample(2, 1, 1, 1, DROPPED)
    for n in range(1, 11):
        rule.sample(n * 3600 * SECOND, 3, 1, rule.limit * 3600, OK)
        assert rule.limit == pytest.approx(100 + 30 * (n / 10 - 1) ** 3)


def test_refusals_in_a_row_do_not_forget_the_ceiling() -> None:
    rule = BackOff(recovery=10.0)
    rule.begin(100, 0)
    for n in range(1, 10):
        rule.sample(2 * n, 2 * n - 1, 1, 1, DROPPED)
    assert rule.limit == pytest.approx(100 * 0.7**9)
    for n in range(1, 11):
        rule.sample(20 + n * SECOND, 20, 1, rule.limit, OK)
    assert rule.limit == pytest.approx(100)


def test_a_gradient_learns_its_base_from_a_short_spell_at_half_the_limit() -> None:
    rule = Gradient()
    rule.begin(100, 0)
    assert rule.limit == 2
    for n in range(10):
        rule.sample(n + 1 + 100, n + 1, 2, 1, OK)
    assert rule.limit == 100
    rule.sample(SECOND, SECOND - 100, 100, 1, OK)  # the next whole second
    assert rule.limit == 50


def test_one_stuck_call_does_not_take_the_queue_for_it_from_all_others() -> None:
    def after(*spans: int) -> int:
        rule = Gradient()
        rule.begin(16, 0)
        for _ in range(10):
            rule.sample(100, 0, 2, 1, OK)
        for span in spans:
            rule.sample(10**6, 10**6 - span, 16, 1, OK)
        return rule.limit

    calm = [100] * 31
    assert after(*calm, 100) == 24
    assert after(*calm, 500_000) == 17  # and not a half
    assert after(*[200] * 32) == 12


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("back", [1, SECOND, 10**15])
def test_another_clock_does_not_stop_it(
    rule: type[AIMD] | type[Gradient] | type[BackOff], back: int
) -> None:
    one = rule() if rule is not BackOff else BackOff(recovery=1.0)
    one.begin(100, 10**16)
    for n in range(10):
        one.sample(10**16 + n, 10**16 - 1, 100, 1, OK)
    now = 10**16 - back
    one.sample(now, 10**16, 100, 1, OK)  # ended before it began
    for _ in range(2):
        now += SECOND
        one.sample(now, now - 1, 100, 1, DROPPED)
    least = one.limit
    assert least < 100
    for _ in range(3000):
        now += SECOND // 100
        one.sample(now, now - SECOND // 200, int(one.limit) if rule is not BackOff else 1, 1, OK)
    assert one.limit > least


instants = st.one_of(st.integers(-10, 10**4), st.integers(-(10**18), 10**18))
samples = st.lists(
    st.tuples(
        instants,
        instants,
        st.integers(1, 10**4),
        st.floats(0, 1e9),
        st.sampled_from(Outcome),
    ),
    max_size=200,
)
steady = st.lists(
    st.tuples(
        st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 3), st.sampled_from(Outcome)
    ),
    min_size=50,
    max_size=400,
)


@given(samples=samples, limit=st.floats(1e-3, 1e6))
@pytest.mark.parametrize("rule", RULES)
def test_no_sequence_of_samples_leads_it_out_of_its_bounds(
    rule: type[AIMD] | type[Gradient] | type[BackOff], samples: list[Any], limit: float
) -> None:
    one = rule(minimum=2, maximum=300)
    one.begin(limit, 0)
    for sample in samples:
        one.sample(*sample)
        assert 2 <= one.limit <= 300
        if rule is not BackOff:
            assert isinstance(one.limit, int)
        assert repr(one)


@given(steps=steady)
@pytest.mark.parametrize("rule", RULES)
def test_nor_does_any_sequence_in_which_time_goes_on(
    rule: type[AIMD] | type[Gradient] | type[BackOff], steps: list[Any]
) -> None:
    one = rule(minimum=1, maximum=64)
    one.begin(8, 0)
    now = 0
    for wait, span, short, outcome in steps:
        now += wait
        one.sample(now, now - span, max(1, int(one.limit) - short), 1, outcome)
        assert 1 <= one.limit <= 64


# ----------------------------------------------------------------------- the yardstick is measured


def test_the_servers_keep_the_laws_of_queueing() -> None:
    """One worker, calls at random at half its capacity: in the mean, 1 / (10 - 5) seconds each."""
    server = Server(World(), 1, exponential(0.1))
    client = Client(server, Fixed(), 10**6, demand=5.0)
    server.world.run(40_000)
    assert client.latency(0, 40_000) == pytest.approx(0.2, rel=0.03)
    assert client.rate(0, 40_000) == pytest.approx(5, rel=0.01)


def test_a_server_without_a_queue_refuses_as_erlang_says() -> None:
    """Two workers, two calls each second of one second each: 0.4 of them find both busy."""
    server = Server(World(), 2, exponential(1.0), room=0, delay=1e-6)
    client = Client(server, Fixed(), 10**6, demand=2.0)
    server.world.run(40_000)
    dropped = client.drop_rate(0, 40_000)
    assert dropped / (dropped + client.rate(0, 40_000)) == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize(
    ("service", "variance"), [(constant, 0), (uniform, 1 / 12), (exponential, 1)]
)
def test_the_service_times_have_their_mean_and_variance(
    service: Callable[[float], Service], variance: float
) -> None:
    chance = World().chance
    drawn = [service(2.0)(chance) for _ in range(50_000)]
    assert fmean(drawn) == pytest.approx(2.0, rel=0.02)
    assert fmean((x - 2) ** 2 for x in drawn) == pytest.approx(4 * variance, rel=0.05)


def test_heavy_tails_are_heavy() -> None:
    chance = World().chance
    drawn = [heavy(1.0)(chance) for _ in range(200_000)]
    assert fmean(drawn) == pytest.approx(1.0, rel=0.05)
    assert fmean((x - 1) ** 2 for x in drawn) > 8


def test_a_call_that_is_given_up_costs_the_server_all_the_same() -> None:
    server = Server(World(), 1, constant(1.0))
    client = Client(server, Fixed(), 2, timeout=1.5)
    server.world.run(3.0)
    # One served at 1 s; the second, begun at 0 s, given up at 1.5 s and finished at 2 s.
    assert list(client.ended) == [SECOND]
    assert client.drops[0] == 3 * SECOND // 2
    assert server.busy == 1


def test_the_books_are_kept_over_time() -> None:
    server = RateServer(World(), 10, 1, delay=0.1)
    client = Pacer(server, Fixed(), 10)
    server.world.at(5, lambda: client.rule.begin(20, 0))
    server.world.run(10)
    assert client.limit_at(4.0) == 10
    assert client.limit_at(9.0) == 20
    assert client.mean_limit(0, 10) == pytest.approx(15, abs=0.2)
    assert client.mean_limit(1, 2) == 10
    assert client.most(0, 4) == 10
    assert client.rate(0, 5) == pytest.approx(10, rel=0.03)
    assert client.drop_rate(6, 10) == pytest.approx(10, rel=0.1)


def test_shares_are_rated_as_jain_did() -> None:
    assert jain([3, 3, 3]) == 1
    assert jain([1, 0, 0, 0]) == 0.25


# ---------------------------------------------------------------------------- servers with workers


@dataclass(frozen=True)
class Setting:
    """A server, and what its clients are like. The service takes 0.1 s in the mean."""

    workers: int
    service: Callable[[float], Service] = constant
    room: int | None = None
    delay: float = 0.0
    timeout: float | None = None
    demand: float | None = None  # as a part of what the workers can do
    seconds: float = 60.0
    seed: int = field(default=1, repr=False)

    def __str__(self) -> str:
        parts = [f"{self.workers} {self.service.__name__}"]
        parts += [f"room {self.room}"] if self.room is not None else []
        parts += [f"delay {self.delay}"] if self.delay else []
        parts += [f"timeout {self.timeout}"] if self.timeout else []
        parts += [f"demand {self.demand}"] if self.demand else []
        return " ".join(parts)

    def server(self) -> Server:
        world = World(self.seed)
        service = self.service(0.1)
        return Server(world, self.workers, service, room=self.room, delay=self.delay)

    def client(self, server: Server, rule: Adaptive, limit: float, **more: Any) -> Client:
        demand = None if self.demand is None else self.demand * self.workers / 0.1
        return Client(server, rule, limit, timeout=self.timeout, demand=demand, **more)

    def play(self, rule: Adaptive, limit: float) -> Client:
        server = self.server()
        client = self.client(server, rule, limit)
        server.world.run(self.seconds)
        return client


@cache
def best_fixed(setting: Setting, since: float) -> float:
    """What the best fixed limit would have carried from *since* on, in calls per second.

    Of those that are not refused all the time: a limit that is refused is none.
    """
    best = 0.0
    for part in (0.9, 1, 1.1, 1.25, 1.5):
        client = setting.play(Fixed(), math.ceil(setting.workers * part))
        rate = client.rate(since, setting.seconds)
        if client.drop_rate(since, setting.seconds) <= 0.02 * rate:
            best = max(best, rate)
    return best


QUEUES = [
    Setting(1, seconds=200),
    Setting(1, exponential, seconds=200),
    Setting(2, exponential, seconds=200),
    Setting(10),
    Setting(10, uniform),
    Setting(10, exponential),
    Setting(10, exponential, delay=0.05),
    Setting(10, exponential, demand=1.5),
    Setting(10, heavy, seconds=200),
    Setting(100, uniform, seconds=20),
    Setting(100, exponential, seconds=30),
    Setting(100, heavy, seconds=30),
    Setting(500, exponential, seconds=12),
]
"""Servers that queue whatever comes."""

REFUSING = [
    Setting(2, room=2, delay=0.01),
    Setting(10, uniform, room=0, delay=0.01),
    Setting(10, exponential, room=5, delay=0.01),
    Setting(10, exponential, room=20, delay=0.02),
    Setting(10, exponential, room=5, delay=0.01, demand=1.5),
    Setting(100, uniform, room=20, delay=0.01, seconds=20),
    Setting(10, timeout=0.5),
    Setting(10, exponential, timeout=1.5),
]
"""Servers that refuse, or are given up on."""

ALL = [(Gradient, setting) for setting in QUEUES + REFUSING] + [(AIMD, one) for one in REFUSING]


@pytest.mark.parametrize(
    ("rule", "setting"), ALL, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_it_carries_nine_tenths_of_what_the_best_fixed_limit_does(
    rule: type[AIMD] | type[Gradient], setting: Setting
) -> None:
    settled = setting.seconds / 4
    client = setting.play(rule(), rule.start)
    assert client.rate(settled, setting.seconds) >= 0.9 * best_fixed(setting, settled)


def within(client: Caller, rate: float, *, since: float, until: float, stretch: float) -> float:
    """Seconds from *since* to the stretch from which on nine tenths of *rate* are carried."""
    starts = [since + n * stretch / 4 for n in range(int((until - since) / stretch * 4) - 3)]
    low = [start for start in starts if client.rate(start, start + stretch) < 0.9 * rate]
    return low[-1] + stretch / 4 - since if low else 0.0


@pytest.mark.parametrize("workers", [10, 100, 500])
@pytest.mark.parametrize("rule", CONCURRENCY)
def test_it_has_settled_after_thirty_round_trips(
    rule: type[AIMD] | type[Gradient], workers: int
) -> None:
    """From its small start, at a tenth of a second for each."""
    room = workers // 5 if rule is AIMD else None
    setting = Setting(workers, uniform, room=room, delay=0.001, seconds=6)
    client = setting.play(rule(), rule.start)
    assert within(client, workers / 0.1, since=0, until=6, stretch=2) <= 3.0


@pytest.mark.parametrize("service", [constant, uniform, exponential])
@pytest.mark.parametrize("workers", [10, 100])
def test_a_gradient_keeps_the_queue_that_it_means_to_keep(
    workers: int, service: Callable[[float], Service]
) -> None:
    client = Setting(workers, service).play(Gradient(), Gradient.start)
    limit = client.mean_limit(10, 60)
    # In a closed circle, what is not being worked on stands in the queue.
    assert workers * 0.97 <= limit <= workers + 2.5 * math.sqrt(workers)
    assert client.latency(10, 60) <= 0.1 * (1 + 2.6 / math.sqrt(workers))


@pytest.mark.parametrize("service", [constant, exponential])
def test_a_gradient_alone_makes_no_refusals_where_there_is_some_room(
    service: Callable[[float], Service],
) -> None:
    client = Setting(20, service, room=30, delay=0.01).play(Gradient(), Gradient.start)
    assert client.drop_rate(5, 60) <= 0.001 * client.rate(5, 60)


@pytest.mark.parametrize("service", [constant, exponential])
def test_a_gradient_learns_from_refusals_what_it_cannot_see_as_a_queue(
    service: Callable[[float], Service],
) -> None:
    """The queue that it means to keep does not fit in."""
    client = Setting(80, service, room=5, delay=0.01).play(Gradient(), Gradient.start)
    assert client.drop_rate(10, 60) <= 0.01 * client.rate(10, 60)
    assert client.rate(10, 60) >= 0.85 * 800


def test_aimd_takes_what_is_dropped_by_chance_for_overload() -> None:
    """One call in 148 takes longer than five times the mean."""
    client = Setting(1000, exponential, timeout=0.5).play(AIMD(), AIMD.start)
    assert client.mean_limit(30, 60) == pytest.approx(math.sqrt(10 * math.exp(5)), rel=0.3)


# ----------------------------------------------------------------------------- when they change


@dataclass(frozen=True)
class Step:
    """A server of so many workers, and from 30 s on another."""

    before: int
    after: int
    slower: float = 1.0
    within: float = 15.0  # seconds in which the limit must have followed

    def play(
        self, rule: Adaptive, limit: float, service: Callable[[float], Service], **kept: Any
    ) -> Client:
        timeout = kept.pop("timeout", None)
        server = Server(World(), self.before, service(0.1), **kept)
        client = Client(server, rule, limit, timeout=timeout)
        server.world.at(30, lambda: self.change(server, service(0.1 * self.slower)))
        server.world.run(90)
        return client

    def change(self, server: Server, service: Service) -> None:
        server.service = service
        server.resize(self.after)


STEPS = [
    Step(20, 80),
    Step(80, 20),
    Step(20, 20, slower=3),
    Step(20, 20, slower=1 / 3),
]
each_step = pytest.mark.parametrize("step", STEPS, ids=str)
each_service = pytest.mark.parametrize("service", [constant, exponential])


@each_service
@each_step
def test_a_gradient_follows_a_step(step: Step, service: Callable[[float], Service]) -> None:
    client = step.play(Gradient(), Gradient.start, service)
    new = step.after / (0.1 * step.slower)
    since = 30 + step.within
    assert client.rate(since, 90) >= 0.9 * new
    assert client.latency(since, 90) <= 0.1 * step.slower * 2
    assert client.rate(30, since) >= 0.5 * new  # nor does it starve meanwhile


@each_service
@each_step
def test_aimd_follows_a_step_where_it_is_refused(
    step: Step, service: Callable[[float], Service]
) -> None:
    client = step.play(AIMD(), AIMD.start, service, room=10, delay=0.01)
    since = 30 + step.within
    assert client.rate(since, 90) >= 0.9 * step.after / (0.1 * step.slower)
    assert client.most(since, 90) <= (step.after + 10) * 1.25
    assert client.drop_rate(since, 90) <= 0.05 * client.rate(since, 90)


@each_service
@pytest.mark.parametrize("step", [Step(80, 20), Step(20, 20, slower=3)], ids=str)
def test_aimd_gets_out_of_an_overload_in_which_everything_times_out(
    step: Step, service: Callable[[float], Service]
) -> None:
    """The server works on what nobody waits for any more, until there is less of it."""
    client = step.play(AIMD(), AIMD.start, service, timeout=1.5)
    new = step.after / (0.1 * step.slower)
    assert client.rate(30, 33) < 0.9 * new
    assert client.rate(45, 90) >= 0.9 * new


# --------------------------------------------------------------------------------------- for a day


def drift(client: Caller, hours: int) -> float:
    """The limit in the last hour, as a multiple of that in the second."""
    last = client.mean_limit((hours - 1) * HOUR, hours * HOUR)
    return last / client.mean_limit(HOUR, 2 * HOUR)


@pytest.mark.parametrize("demand", [0.8, 1.1])
def test_a_gradient_does_not_creep_in_a_day(demand: float) -> None:
    """Six workers and one second for each call, first with enough of them and then too few."""
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, Gradient(), Gradient.start, demand=6 * demand)
    server.world.run(24 * HOUR)
    assert 0.85 <= drift(client, 24) <= 1.15
    assert client.most(HOUR, 24 * HOUR) <= 6 * 10
    assert client.rate(HOUR, 24 * HOUR) >= 0.9 * min(6, 6 * demand)


def test_aimd_does_not_creep_in_a_day() -> None:
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, AIMD(timeout=5), AIMD.start, timeout=30, demand=6.6)
    server.world.run(24 * HOUR)
    assert 0.85 <= drift(client, 24) <= 1.15
    assert client.most(HOUR, 24 * HOUR) <= 6 * 10
    assert client.rate(HOUR, 24 * HOUR) >= 0.9 * 6


def test_what_takes_a_long_average_for_its_baseline_creeps() -> None:
    """The proof can fail: this is how a gradient is usually made."""
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, LongAverage(), 4, demand=6.6)
    server.world.run(6 * HOUR)
    assert client.limit_at(6 * HOUR) > 20 * 6


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_small_demand_leaves_the_limit_where_it_is(rule: type[AIMD] | type[Gradient]) -> None:
    server = Server(World(), 100, exponential(0.1))
    client = Client(server, rule(), 40, demand=50)  # five at a time in the mean
    server.world.run(600)
    assert client.most(0, 600) == 40


# ------------------------------------------------------------------------------ with one another


def share(
    rule: Callable[[], Adaptive],
    setting: Setting,
    clients: int,
    *,
    ahead: Callable[[int], float] = lambda n: 0.0,
) -> tuple[list[Client], float]:
    """Clients that start one after the other, and the mean latency in the second half."""
    server = setting.server()
    start = 4 if rule is Gradient else 10
    made = [
        setting.client(server, rule(), start, start=7.3 * n, ahead=ahead(n)) for n in range(clients)
    ]
    server.world.run(setting.seconds)
    half = setting.seconds / 2
    return made, fmean(client.latency(half, setting.seconds) for client in made)


def shares(clients: list[Client], setting: Setting) -> list[float]:
    return [client.rate(setting.seconds / 2, setting.seconds) for client in clients]


TWO = [
    Setting(20, seconds=200),
    Setting(20, exponential, seconds=200),
    Setting(100, uniform, seconds=120),
    Setting(100, exponential, seconds=120),
]


@pytest.mark.parametrize("setting", TWO, ids=str)
def test_two_gradients_have_equal_shares_and_a_short_queue(setting: Setting) -> None:
    clients, latency = share(Gradient, setting, 2)
    carried = shares(clients, setting)
    assert jain(carried) >= 0.95
    assert max(carried) <= 1.3 * min(carried)
    assert sum(carried) >= 0.9 * setting.workers / 0.1
    assert latency <= 0.1 * (1 + 6 / math.sqrt(setting.workers))


@pytest.mark.parametrize(
    "setting",
    [
        Setting(20, exponential, room=10, delay=0.02, seconds=200),
        Setting(100, uniform, room=20, delay=0.02, seconds=120),
        Setting(20, exponential, timeout=1, seconds=200),
    ],
    ids=str,
)
def test_two_aimds_have_equal_shares(setting: Setting) -> None:
    clients, _ = share(AIMD, setting, 2)
    carried = shares(clients, setting)
    assert jain(carried) >= 0.95
    assert sum(carried) >= 0.9 * setting.workers / 0.1


def test_five_gradients_keep_a_short_queue_because_they_measure_at_the_same_instants() -> None:
    """Those whose clocks differ take the queue of the others for service, as others' rules do."""
    setting = Setting(100, uniform, seconds=120)
    together, short = share(Gradient, setting, 5)
    assert jain(shares(together, setting)) >= 0.95
    assert short <= 0.15
    _, long = share(Gradient, setting, 5, ahead=lambda n: 10.3 * n)
    assert long > 2 * short


# ----------------------------------------------------------------------------------------- a rate


def back_off(
    rate: float, burst: float, limit: float, seconds: float, *, clients: int = 1, **more: Any
) -> tuple[RateServer, list[Pacer]]:
    """Pacers that have begun at *limit* with a server of *rate*; nothing has happened yet."""
    server = RateServer(World(), rate, burst, delay=0.05)
    made = [Pacer(server, BackOff(), limit, start=20.0 * n, **more) for n in range(clients)]
    return server, made


@pytest.mark.parametrize(
    ("rate", "burst", "limit"), [(10, 10, 100), (10, 1, 20), (100, 100, 1000), (1, 5, 3)]
)
def test_backing_off_uses_nine_tenths_of_the_rate_at_a_refusal_or_two_each_half_minute(
    rate: float, burst: float, limit: float
) -> None:
    server, [client] = back_off(rate, burst, limit, 900)
    server.world.run(1800)
    assert client.rate(60, 1800) >= 0.9 * rate
    assert client.drop_rate(60, 1800) * HOUR <= 240


def test_backing_off_never_goes_beyond_what_the_throttle_was_given() -> None:
    server, [client] = back_off(100, 100, 10, 900)
    server.world.run(900)
    assert client.most(0, 900) == 10
    assert client.rate(1, 900) == pytest.approx(10, rel=0.01)
    assert not client.drops


def test_backing_off_follows_a_step_down_at_once_and_one_up_in_two_minutes() -> None:
    server, [client] = back_off(40, 40, 100, 900)
    server.world.at(300, lambda: server.resize(10))
    server.world.at(600, lambda: server.resize(40))
    server.world.run(900)
    assert client.rate(100, 300) >= 0.9 * 40
    assert client.mean_limit(310, 340) <= 1.25 * 10
    assert client.rate(310, 600) >= 0.9 * 10
    assert client.rate(720, 900) >= 0.9 * 40


def test_after_an_outage_the_rate_is_back_within_the_recovery() -> None:
    server, [client] = back_off(40, 40, 40, 600)
    server.world.at(300, lambda: server.resize(1e-6))
    server.world.at(360, lambda: server.resize(40))
    server.world.run(600)
    assert client.mean_limit(345, 360) < 4
    assert client.mean_limit(400, 600) >= 0.95 * 40


def test_two_that_back_off_share_the_rate() -> None:
    server, clients = back_off(40, 40, 100, 1800, clients=2)
    server.world.run(1800)
    carried = [client.rate(600, 1800) for client in clients]
    assert jain(carried) >= 0.95
    assert sum(carried) >= 0.9 * 40
    assert sum(client.drop_rate(600, 1800) for client in clients) * HOUR <= 480


def test_a_rate_that_is_not_used_is_not_put_to_the_test() -> None:
    server = RateServer(World(), 10, 10, delay=0.05)
    client = Pacer(server, BackOff(maximum=1000), 20, demand=5)
    server.world.run(HOUR)
    assert client.most(0, HOUR) == 20


# ------------------------------------------------------------------------------------- the picture


def test_the_picture_is_drawn_for_every_rule() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.adaptive", "--clients", "2"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    pictures = run.stdout.split("\n\n")
    assert [picture.split(":")[0] for picture in pictures] == ["AIMD", "Gradient", "BackOff"]
    for picture in pictures:
        rows = picture.splitlines()[2:]
        assert len(rows) == 30
        assert all("#" in row and ("|" in row or ">" in row) for row in rows)


def test_the_picture_says_what_it_shows() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.adaptive", "--help"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0
    assert "best fixed" in run.stdout
    assert "--rule" in run.stdout


def test_what_is_dropped_when_it_is_time_to_measure_still_cuts() -> None:
    rule = Gradient()
    rule.begin(20, now=0)
    served = [(at, n % 20 + 1) for n, at in enumerate(range(10**6, 10**9, 10**6))]
    for at, in_flight in served:
        rule.sample(at, at - 5 * 10**5, in_flight, 1, Outcome.OK)
    twin = copy.copy(rule)
    assert not rule._resume
    rule.sample(rule._due, rule._due - 1_000, 20, 1, Outcome.DROPPED)
    twin.sample(twin._due, twin._due - 1_000, 20, 1, Outcome.OK)
    assert rule._resume < twin._resume


@pytest.mark.parametrize(
    ("attributes", "outcome"),
    [
        ({"status": "error", "status_code": 429}, Outcome.DROPPED),
        ({"status": "RESOURCE_EXHAUSTED"}, Outcome.DROPPED),
        ({"status": "NOT_FOUND", "code": 404}, Outcome.IGNORED),
        ({"status": 404, "code": 429}, Outcome.IGNORED),
        ({"status": type("Odd", (), {"name": []})()}, Outcome.IGNORED),
    ],
)
def test_the_first_status_that_is_a_number_decides(
    attributes: dict[str, object], outcome: Outcome
) -> None:
    error = OSError()
    for name, value in attributes.items():
        setattr(error, name, value)
    assert AIMD().judge(error) is outcome


def test_what_was_cancelled_after_the_timeout_counts_as_dropped() -> None:
    rule = AIMD(timeout=2)
    rule.begin(10, now=0)
    rule.sample(10**9, 1, 10, 1, Outcome.IGNORED)
    assert rule.limit == 10
    rule.sample(3 * 10**9, 1, 10, 1, Outcome.IGNORED)
    assert rule.limit == 9
