"""Adaptive limits at work: what becomes of simulated servers under them.

The servers (``adaptive/queueing.py``) have a time of their own, and are measured first: against
theory, and with rules whose faults are known, which the proofs must not let pass.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any, TypeVar

import pytest
from adaptive import __main__ as adaptive
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
from support import QUICK, scaled

from async_throttle.adaptive import AIMD, Adaptive, BackOff, Gradient, Outcome

T = TypeVar("T")

SECOND = 10**9
HOUR = 3600.0
HOURS = 5 if QUICK else scaled(24, least=12)  # of a day
LONG = scaled(40_000, least=15_000)  # seconds, in which chance evens out


def some(*cases: T) -> Sequence[T]:
    """All of them, and in profile quick every third."""
    return cases[::3] if QUICK else cases


SlotRule = type[AIMD] | type[Gradient]

CONCURRENCY: list[SlotRule] = [AIMD, Gradient]

each_service = pytest.mark.parametrize("service", some(exponential, constant))


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


# ----------------------------------------------------------------------- the yardstick is measured


def test_the_servers_keep_the_laws_of_queueing() -> None:
    """One worker, calls at random at half its capacity: in the mean, 1 / (10 - 5) seconds each."""
    server = Server(World(), 1, exponential(0.1))
    client = Client(server, Fixed(), 10**6, demand=5.0)
    server.world.run(LONG)
    assert client.latency(0, LONG) == pytest.approx(0.2, rel=0.03)
    assert client.rate(0, LONG) == pytest.approx(5, rel=0.01)


def test_a_server_without_a_queue_refuses_as_erlang_says() -> None:
    """Two workers, two calls each second of one second each: 0.4 of them find both busy."""
    server = Server(World(), 2, exponential(1.0), room=0, delay=1e-6)
    client = Client(server, Fixed(), 10**6, demand=2.0)
    server.world.run(LONG)
    dropped = client.drop_rate(0, LONG)
    assert dropped / (dropped + client.rate(0, LONG)) == pytest.approx(0.4, rel=0.03)


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


PARTS = (1.25, 1, 1.1, 0.9, 1.5)[: scaled(5, least=2)]
"""Of the workers: limits of which one is about the best."""


@cache
def best_fixed(setting: Setting, since: float) -> float:
    """What the best fixed limit would have carried from *since* on, in calls per second.

    Of those that are not refused all the time: a limit that is refused is none.
    """
    best = 0.0
    for part in PARTS:
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
    ("rule", "setting"), some(*ALL), ids=lambda value: getattr(value, "__name__", str(value))
)
def test_it_carries_nine_tenths_of_what_the_best_fixed_limit_does(
    rule: SlotRule, setting: Setting
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
def test_it_has_settled_after_thirty_round_trips(rule: SlotRule, workers: int) -> None:
    """From its small start, at a tenth of a second for each."""
    room = workers // 5 if rule is AIMD else None
    setting = Setting(workers, uniform, room=room, delay=0.001, seconds=6)
    client = setting.play(rule(), rule.start)
    assert within(client, workers / 0.1, since=0, until=6, stretch=2) <= 3.0


@pytest.mark.parametrize("service", some(exponential, constant, uniform))
@pytest.mark.parametrize("workers", [10, 100])
def test_a_gradient_keeps_the_queue_that_it_means_to_keep(
    workers: int, service: Callable[[float], Service]
) -> None:
    client = Setting(workers, service).play(Gradient(), Gradient.start)
    limit = client.mean_limit(10, 60)
    # In a closed circle, what is not being worked on stands in the queue.
    assert workers * 0.97 <= limit <= workers + 2.5 * math.sqrt(workers)
    assert client.latency(10, 60) <= 0.1 * (1 + 2.6 / math.sqrt(workers))


@each_service
def test_a_gradient_alone_makes_no_refusals_where_there_is_some_room(
    service: Callable[[float], Service],
) -> None:
    client = Setting(20, service, room=30, delay=0.01).play(Gradient(), Gradient.start)
    assert client.drop_rate(5, 60) <= 0.001 * client.rate(5, 60)


@each_service
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
    """The limit in the second half, as a multiple of that in the first, from its second hour on.

    A single hour tells nothing: by chance its limit differs by a fifth from that of another.
    """
    half = (hours + 1) / 2 * HOUR
    return client.mean_limit(half, hours * HOUR) / client.mean_limit(HOUR, half)


@pytest.mark.parametrize("demand", [0.8, 1.1])
def test_a_gradient_does_not_creep_in_a_day(demand: float) -> None:
    """Six workers and one second for each call, first with enough of them and then too few."""
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, Gradient(), Gradient.start, demand=6 * demand)
    server.world.run(HOURS * HOUR)
    assert 0.85 <= drift(client, HOURS) <= 1.15
    assert client.most(HOUR, HOURS * HOUR) <= 6 * 10
    assert client.rate(HOUR, HOURS * HOUR) >= 0.9 * min(6, 6 * demand)


def test_aimd_does_not_creep_in_a_day() -> None:
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, AIMD(timeout=5), AIMD.start, timeout=30, demand=6.6)
    server.world.run(HOURS * HOUR)
    assert 0.85 <= drift(client, HOURS) <= 1.15
    assert client.most(HOUR, HOURS * HOUR) <= 6 * 10
    assert client.rate(HOUR, HOURS * HOUR) >= 0.9 * 6


def test_what_takes_a_long_average_for_its_baseline_creeps() -> None:
    """The proof can fail: this is how a gradient is usually made."""
    server = Server(World(), 6, exponential(1.0))
    client = Client(server, LongAverage(), 4, demand=6.6)
    server.world.run(6 * HOUR)
    assert client.limit_at(6 * HOUR) > 20 * 6


@pytest.mark.parametrize("rule", CONCURRENCY)
def test_a_small_demand_leaves_the_limit_where_it_is(rule: SlotRule) -> None:
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


@pytest.mark.parametrize("setting", some(*TWO), ids=str)
def test_two_gradients_have_equal_shares_and_a_short_queue(setting: Setting) -> None:
    clients, latency = share(Gradient, setting, 2)
    carried = shares(clients, setting)
    assert jain(carried) >= 0.95
    assert max(carried) <= 1.3 * min(carried)
    assert sum(carried) >= 0.9 * setting.workers / 0.1
    assert latency <= 0.1 * (1 + 6 / math.sqrt(setting.workers))


@pytest.mark.parametrize(
    "setting",
    some(
        Setting(20, exponential, room=10, delay=0.02, seconds=200),
        Setting(100, uniform, room=20, delay=0.02, seconds=120),
        Setting(20, exponential, timeout=1, seconds=200),
    ),
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
    ("rate", "burst", "limit"), some((10, 10, 100), (100, 100, 1000), (10, 1, 20), (1, 5, 3))
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


def test_the_picture_is_drawn_for_every_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptive", "--clients", "2"])
    adaptive.main()
    pictures = capsys.readouterr().out.split("\n\n")
    assert [picture.split(":")[0] for picture in pictures] == ["AIMD", "Gradient", "BackOff"]
    for picture in pictures:
        rows = picture.splitlines()[2:]
        assert len(rows) == 30
        assert all("#" in row and ("|" in row or ">" in row) for row in rows)


def test_the_picture_says_what_it_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptive", "--help"])
    with pytest.raises(SystemExit, match="0"):
        adaptive.main()
    shown = capsys.readouterr().out
    assert "best fixed" in shown
    assert "--rule" in shown
