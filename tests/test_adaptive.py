"""Adaptive limits: what they make of single samples, and of how calls end."""

from __future__ import annotations

import asyncio
import copy
import http
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_throttle import ThrottleFull, ThrottleTimeout, exceptions
from async_throttle.adaptive import AIMD, Adaptive, BackOff, Gradient, Outcome

SECOND = 10**9
OK, IGNORED, DROPPED = Outcome

SlotRule = type[AIMD] | type[Gradient]
AnyRule = SlotRule | type[BackOff]

CONCURRENCY: list[SlotRule] = [AIMD, Gradient]
RULES: list[AnyRule] = [AIMD, Gradient, BackOff]


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
    def __init__(self, name: object) -> None:
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
        error("OSError", status="error", status_code=429),  # the first that is a number decides
        error("OSError", status="RESOURCE_EXHAUSTED"),
        ExceptionGroup("several", [ValueError(), ExceptionGroup("more", [TimeoutError()])]),
        BaseExceptionGroup("several", [asyncio.CancelledError(), TimeoutError()]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rule", RULES)
def test_a_server_that_has_too_much_drops_a_call(rule: AnyRule, dropped: BaseException) -> None:
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
        error("OSError", status="NOT_FOUND", code=404),
        error("OSError", status=404, code=429),
        error("OSError", status=Status([])),
        error("OSError", status=lambda: 429),  # only `code` is a method, of gRPC
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
def test_a_judge_of_ones_own_goes_first_and_leaves_the_rest_to_the_usual_one(rule: AnyRule) -> None:
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
        (BackOff, {"recovery": 9e-9}, "recovery must be a finite number of seconds"),
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


def test_what_is_just_within_range_is_taken() -> None:
    for rule in RULES:
        one = rule(minimum=5, maximum=5)
        one.begin(100, 0)
        assert one.limit == 5
    assert AIMD(timeout=1e-9).timeout == 1
    assert BackOff(recovery=1e-8).recovery == 10


def test_a_rate_that_is_not_limited_cannot_be_backed_off_from() -> None:
    with pytest.raises(ValueError, match=r"^limit must be a finite number above 0, got inf$"):
        BackOff().begin(math.inf, 0)


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_limit_begins_within_its_bounds(rule: SlotRule) -> None:
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
    least = BackOff(minimum=5)
    least.begin(3, 0)
    assert least.limit == 5


def test_a_rate_has_bounds_of_its_own_that_follow_where_it_began() -> None:
    rule = BackOff()
    for began in (10, 500):
        rule.begin(began, 0)
        for n in range(1, 100):
            rule.sample(n, n, 1, 1, DROPPED)
        assert rule.limit == began / 100
    rule.begin(0.5, 0)
    assert repr(rule) == "<BackOff [limit:0.5, minimum:0.005, maximum:0.5, ceiling:0.5]>"
    rule = BackOff(maximum=10)
    for began, minimum in ((100, 0.1), (1, 0.01)):
        rule.begin(began, 0)
        assert f"minimum:{minimum}, maximum:10," in repr(rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_copy_goes_its_own_way(rule: AnyRule) -> None:
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
    assert repr(AIMD()) == "<AIMD [limit:10, minimum:1, maximum:1000, doubling]>"
    assert repr(BackOff()) == "<BackOff [limit:1, minimum:0.01, maximum:1, ceiling:1]>"
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
def test_what_is_ignored_changes_nothing(rule: AnyRule) -> None:
    ignoring, untouched = rule(), rule()
    for one in (ignoring, untouched):
        one.begin(50, 0)
    for n in range(200):
        ignoring.sample(n, 0, 50, 1, IGNORED)
    assert repr(ignoring) == repr(untouched)
    assert ignoring.limit == untouched.limit


@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_refusals_at_once_are_one_event(rule: AnyRule) -> None:
    once, often = rule(), rule()
    for one in (once, often):
        one.begin(100, 0)
    once.sample(10, 5, 100, 1, DROPPED)
    for n in range(100):
        often.sample(10 + n, 5, 100, 1, DROPPED)
    assert once.limit == often.limit
    often.sample(200, 9, 100, 1, DROPPED)  # it was on its way as well
    assert once.limit == often.limit


def ready(rule: Adaptive, limit: float = 100, took: int = 1) -> Any:
    """At *limit* since the instant 0, and done with what a gradient does first."""
    rule.begin(limit, 0)
    play(rule, took, took, times=10, in_flight=1)
    assert rule.limit == limit
    return rule


def play(
    rule: Adaptive, now: int, took: int, outcome: Outcome = OK, times: int = 1, in_flight: int = 200
) -> float:
    """The limit after so many calls that ended at *now*."""
    for _ in range(times):
        rule.sample(now, now - took, in_flight, 0, outcome)
    return rule.limit


@pytest.mark.parametrize("rule", RULES)
def test_what_began_up_to_a_cut_or_ends_before_it_began_does_not_cut(rule: AnyRule) -> None:
    one = ready(rule())
    left = 0.7 if rule is BackOff else 0.9
    cuts = 0
    for now, began, counts in [
        *((10, -1, False), (10, 11, False), (10, 0, True), (10, 10, False)),
        *((20, 10, False), (20, 11, True), (30, 30, True)),
    ]:
        play(one, now, now - began, DROPPED)
        cuts += counts
        assert one.limit == pytest.approx(100 * left**cuts, abs=1)
    for began, counts in ((4, False), (5, True)):  # by another clock
        twin = copy.copy(one)
        play(twin, 5, 5 - began, DROPPED)
        to_measure = 0.5 if rule is Gradient else 1  # which it does at once
        assert twin.limit == pytest.approx(100 * left ** (cuts + counts) * to_measure, abs=1)


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


@pytest.mark.parametrize("served", [0, 1])
@pytest.mark.parametrize(("dropped", "then"), [(7, 8), (8, 4)])
def test_a_whole_round_is_as_many_as_the_limit(served: int, dropped: int, then: int) -> None:
    rule = AIMD()
    play(rule, 9, 5, OK, times=served, in_flight=1)
    assert play(rule, 10, 5, DROPPED, times=dropped) == 9
    assert play(rule, 20, 5, DROPPED) == then


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


def test_for_aimd_half_is_use_while_it_doubles_and_all_but_one_thereafter() -> None:
    rule = AIMD()
    assert play(rule, 5, 5, in_flight=4) == 10
    assert play(rule, 5, 5, in_flight=5) == 11
    rule.begin(10, 0)
    assert play(rule, 10, 5, DROPPED) == 9
    assert play(rule, 20, 5, times=50, in_flight=7) == 9
    assert play(rule, 20, 5, times=50, in_flight=8) == 10


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_limit_does_not_grow_while_it_is_not_used(rule: SlotRule) -> None:
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


def test_use_is_four_fifths_and_what_was_served_since_the_cut() -> None:
    rule = BackOff(recovery=20.0, maximum=1000)  # in steps of 2 s
    rule.begin(100, 0)
    for now, weight, outcome, limit in [
        (1.0, 1e6, OK, 100),
        (1.5, 1e6, DROPPED, 70),
        (2.5, 0, OK, 70),
        (3.5, 1e6, IGNORED, 70),
        (3.5, 0.8 * 2 * 70 - 0.01, OK, 70),
        (5.5, 0.8 * 2 * 70, OK, 100 - 30 * 0.9**3),
    ]:
        rule.sample(round(now * SECOND), round(now * SECOND), 1, weight, outcome)
        assert rule.limit == pytest.approx(limit)


def test_the_ceiling_is_where_it_was_refused_last_and_the_way_there_begins_at_the_cut() -> None:
    rule = BackOff(recovery=10.0, maximum=1000)
    rule.begin(100, 0)

    def served(since: int, steps: int) -> float:
        for n in range(1, steps + 1):
            rule.sample((since + n) * SECOND, (since + n) * SECOND, 1, 1e6, OK)
        return rule.limit

    play(rule, 1, 0, DROPPED)
    assert play(rule, 2, 0, DROPPED) == pytest.approx(49)
    assert served(1, 5) == pytest.approx(100 - 51 / 8)
    play(rule, 10 * SECOND, 0, DROPPED)
    assert served(10, 10) == pytest.approx(100 - 51 / 8)


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


def test_a_gradient_measures_on_a_grid_and_no_call_counts_for_more_than_four() -> None:
    """Worked out by hand, as all that follows: a tenth of a second for a call, and a limit of 9."""
    rule, tenth, start = Gradient(), SECOND // 10, 1100 * SECOND
    rule.begin(9, start)
    assert play(rule, start + tenth, tenth, times=10) == 9
    assert play(rule, start + SECOND - 1, tenth) == 9
    assert play(rule, start + SECOND, tenth) == 3  # by 2 * sqrt(9)
    start += SECOND
    play(rule, start + tenth, tenth, times=9)
    play(rule, start + tenth, tenth + 1, times=20)  # began before
    play(rule, start + tenth, -1, times=20)  # ended before it began
    assert rule.limit == 3
    assert play(rule, start + 65 * tenth, 65 * tenth) == 9
    # A mean of (9 * 0.1 + 0.4) / 10, and its standard error: sqrt((9 * 0.03**2 + 0.27**2) / 9 / 10)
    assert "base:0.16 s" in repr(rule)
    # 6.5 s are more than a tenth of 4, 16 or 64 s; the next multiple of 256 s is 1280 s.
    assert play(rule, 1280 * SECOND - 1, tenth) == 9
    assert play(rule, 1280 * SECOND, tenth) == 3


def test_in_its_first_base_no_call_counts_for_more_than_eight_like_the_middle_one() -> None:
    rule = Gradient()
    rule.begin(9, 0)
    for took, times in ((100, 4), (200, 5), (10_000, 1)):
        play(rule, took, took, times=times)
    assert rule._base == pytest.approx(300 + math.sqrt((4 * 200**2 + 5 * 100**2 + 1300**2) / 90))
    rule.begin(9, 0)
    assert play(rule, 0, 0, times=10) == 9  # a call may take no time that the clock would show


@pytest.mark.parametrize(("base", "took", "limit"), [(15, 16, 64 - 4 + 8), (61, 64, 64 - 3 + 16)])
def test_a_gradient_takes_a_double_step_where_less_than_half_the_queue_is_there(
    base: int, took: int, limit: int
) -> None:
    rule = ready(Gradient(), 64, base)
    assert play(rule, 1000, took, times=2 * 64) == limit


def test_slower_service_halves_a_gradient_at_most_until_it_is_measured() -> None:
    rule = ready(Gradient())
    assert play(rule, 10, 1, times=200) == 120
    assert play(rule, 20, 8, times=239, in_flight=1) == 120
    assert play(rule, 20, 8, times=241, in_flight=1) == 60
    play(rule, SECOND, 1)
    assert play(rule, SECOND + 1, 1, times=60) == 60
    assert play(rule, SECOND + 20, 8, times=120, in_flight=1) == 30
    dropped = ready(Gradient())
    assert play(dropped, 10, 1, DROPPED) == 90
    assert play(dropped, 20, 8, times=180, in_flight=1) == 45


def test_a_gradient_that_was_refused_grows_by_one_until_it_has_measured_twice() -> None:
    rule = ready(Gradient())
    assert play(rule, 10, 1, times=200) == 120
    play(rule, 20, 1, times=239)
    assert play(rule, 30, 1, DROPPED, in_flight=120) == 108
    assert play(rule, 40, 1, times=215) == 108  # what was measured before the cut is void
    assert play(rule, 40, 1) == 109
    for n, limit in ((1, 110), (2, 110 + 8 * math.sqrt(108))):  # the third doubled step
        before = rule.limit
        assert play(rule, n * SECOND, 1) == int(before / 2)
        assert play(rule, n * SECOND + 1, 1, times=math.ceil(before)) == before
        assert play(rule, n * SECOND + 2, 1, times=2 * int(before)) == int(limit)


def test_a_call_that_is_dropped_while_a_gradient_measures_cuts_what_it_comes_back_to() -> None:
    rule = Gradient()
    rule.begin(100, 0)
    assert play(rule, 10, 5, DROPPED) == 2
    assert play(rule, 10, 5, times=10) == 90


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("back", [1, SECOND, 10**15])
def test_another_clock_does_not_stop_it(rule: AnyRule, back: int) -> None:
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
    rule: AnyRule, samples: list[Any], limit: float
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
def test_nor_does_any_sequence_in_which_time_goes_on(rule: AnyRule, steps: list[Any]) -> None:
    one = rule(minimum=1, maximum=64)
    one.begin(8, 0)
    now = 0
    for wait, span, short, outcome in steps:
        now += wait
        one.sample(now, now - span, max(1, int(one.limit) - short), 1, outcome)
        assert 1 <= one.limit <= 64


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


def test_what_was_cancelled_after_the_timeout_counts_as_dropped() -> None:
    rule = AIMD(timeout=2)
    rule.begin(10, now=0)
    rule.sample(10**9, 1, 10, 1, Outcome.IGNORED)
    assert rule.limit == 10
    rule.sample(3 * 10**9, 1, 10, 1, Outcome.IGNORED)
    assert rule.limit == 9
