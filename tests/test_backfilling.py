"""Between lines: a later caller may go first, but nobody's instant is postponed by that.

Told with the pure queue. The properties are about random limits and random lives, in which all
amounts are whole tokens that come back every whole number of nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import examples
from test_queue import Desk, bucket

from async_throttle import FixedWindow, LeakyBucket, Rule, SlidingWindow, TokenBucket
from async_throttle._queue import (
    EXPIRED,
    GONE,
    GRANTED,
    PATIENCE,
    QUEUED,
    SKIP,
    Caller,
    Gate,
    Queue,
    SetLine,
)
from async_throttle._units import NEVER, SECOND, TOKEN
from async_throttle.rules.slots import Slots

LONG = 10**7
"""By then all who ever can go have gone."""

# ------------------------------------------------------------------------------ told as stories


def test_a_later_caller_goes_first_where_the_earlier_one_will_find_enough_all_the_same() -> None:
    # "set" waits for its own limit until 30; by then the shared one will have three again.
    shared, own = bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    desk = Desk([shared, own], [shared])
    desk.join("set", 3, 1)
    assert desk.ask(5, line=1)
    desk.run(100)
    assert desk.grants == [(30, "set")]


def test_a_later_caller_waits_where_the_earlier_one_would_run_short_by_a_single_token() -> None:
    shared, own = bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    desk = Desk([shared, own], [shared])
    desk.join("set", 4, 1)
    assert not desk.ask(5, line=1)
    desk.join("later", 5, line=1)
    desk.run(100)
    assert desk.grants == [(30, "set"), (70, "later")]


def test_on_the_limit_that_an_earlier_one_waits_for_arrival_decides() -> None:
    shared, own = bucket(1, 10, 5, level=1), bucket(1, 30, 1)
    desk = Desk([shared, own], [shared])
    desk.join("heavy", 5, 1)
    assert not desk.ask(1, line=1)
    desk.join("light", 1, line=1)
    desk.run(100)
    assert desk.grants == [(40, "heavy"), (50, "light")]


def test_who_stands_behind_an_earlier_head_is_looked_after_as_well() -> None:
    # The second will want all five at 60: whoever takes one before must do so by 10.
    shared, own = bucket(1, 10, 5), bucket(1, 30, 1, level=0)
    desk = Desk([shared, own], [shared])
    desk.join("first", 0, 1)
    desk.join("second", 5, 1)
    desk.run(10)
    assert desk.ask(5, line=1)
    desk.run(11)
    assert not desk.ask(1, line=1)
    desk.run(100)
    assert desk.grants == [(30, "first"), (60, "second")]


def test_those_ahead_keep_a_bucket_from_filling_so_a_newcomer_matters_longer() -> None:
    # Alone it would be forgotten at 10; as "a" takes two at 5, "b" would not find five at 25.
    shared, a, b = bucket(1, 10, 5), bucket(1, 5, 1, level=0), bucket(1, 25, 1, level=0)
    desk = Desk([shared, a], [shared, b], [shared])
    desk.join("a", 2, 1, line=0)
    desk.join("b", 5, 1, line=1)
    assert not desk.ask(1, line=2)
    desk.join("newcomer", 1, line=2)
    desk.run(100)
    assert desk.grants == [(5, "a"), (25, "b"), (35, "newcomer")]


def test_who_comes_later_to_an_earlier_line_is_not_ahead() -> None:
    shared, own = bucket(1, 10, 5, level=4), bucket(1, 30, 9, level=0)
    desk = Desk([shared, own], [shared])
    desk.join("head", 0, 1)
    desk.join("between", 5, line=1)
    desk.run(5)
    desk.join("behind the head", 5, 0)
    desk.run(100)
    assert desk.grants == [(10, "between"), (30, "head"), (60, "behind the head")]


def test_who_is_held_up_is_looked_at_again_as_soon_as_there_is_enough_for_all() -> None:
    # "b" is held up by "a" elsewhere, and the newcomer by "b" until there is enough for both.
    other, slow = bucket(1, 100, 1), bucket(1, 90, 1, level=0)
    shared = bucket(1, 10, 5, level=1)
    desk = Desk([other, slow], [other, shared], [shared])
    desk.join("a", 1, 1, line=0)
    desk.join("b", 1, 1, line=1)
    desk.join("newcomer", 1, line=2)
    assert desk.queue.wake_at == 10
    desk.run(1000)
    assert desk.grants == [(10, "newcomer"), (90, "a"), (190, "b")]


def test_so_it_is_where_the_earlier_one_could_not_have_gone_before_some_instant() -> None:
    # At 15 "b" could go but for "a", and two would be there, not the three for both.
    other, slow = bucket(1, 100, 1), bucket(1, 90, 1, level=0)
    shared, own = bucket(1, 10, 5, level=1), bucket(1, 15, 1, level=0)
    desk = Desk([other, slow], [other, shared, own], [shared])
    desk.join("a", 1, 1, line=0)
    desk.join("b", 1, 2, 1, line=1)
    desk.join("newcomer", 1, line=2)
    assert desk.queue.wake_at == 20
    desk.run(1000)
    assert desk.grants == [(20, "newcomer"), (90, "a"), (190, "b")]


def test_a_fixed_window_forgets_a_newcomer_at_its_edge() -> None:
    shared, own = FixedWindow(0, 4 * TOKEN, 10), bucket(1, 10, 1, level=0)
    desk = Desk([shared, own], [shared])
    desk.run(1)
    desk.join("a", 4, 1)
    desk.run(2)
    assert desk.ask(4, line=1)
    desk.run(100)
    assert desk.grants == [(10, "a")]


def test_a_sliding_window_forgets_a_newcomer_a_period_later() -> None:
    shared, own = SlidingWindow(0, 4 * TOKEN, 10), bucket(1, 15, 1, level=0)
    desk = Desk([shared, own], [shared])
    desk.join("a", 4, 1)
    assert desk.ask(2, line=1)
    desk.run(5)
    assert desk.ask(2, line=1)
    desk.run(6)
    assert not desk.ask(1, line=1)
    desk.run(100)
    assert desk.grants == [(15, "a")]


def test_a_limit_that_the_newcomer_does_without_is_not_one_that_it_shares() -> None:
    # "a" waits for slow until 30, and "b" wants nothing of slow.
    slow, shared, own = bucket(1, 30, 1, level=0), bucket(1, 10, 5), bucket(1, 10, 1)
    desk = Desk([slow, shared, own], [slow, shared], sets=True)
    desk.join("a", 1, 3, 1, line=0)
    desk.join("b", None, 5, line=1)
    desk.run(100)
    assert desk.grants == [(0, "b"), (30, "a")]


def test_who_does_without_everything_but_waits_for_the_pause_of_its_set_holds_up_nobody() -> None:
    shared = bucket(1, 10, 5, level=0)
    desk = Desk([shared], [shared, bucket(1, 10, 5)], sets=True)
    desk.pause(50, desk.own[0])
    desk.join("paused", None, line=0)
    desk.join("light", 1, 0, line=1)
    desk.run(100)
    assert desk.grants == [(10, "light"), (50, "paused")]


def test_what_a_pause_will_have_emptied_counts_only_from_its_end_on() -> None:
    # At 50 "a" looks as if it would go at 51; from 51 on it is known that it goes at 65.
    own, shared, slots = bucket(1, 7, 4, level=1), SlidingWindow(0, 4 * TOKEN, 15), Slots(2)
    desk = Desk([own, shared, slots], [slots, shared])
    desk.join("a", 2, 4, 1, line=0)
    desk.pause(50, shared)
    desk.join("b", 1, 1, line=1)
    desk.run(1)
    desk.pause(51, own, empties=True)
    desk.run(1000)
    assert desk.grants == [(65, "a"), (80, "b")]


# ------------------------------------------------------------------------------------ random limits


@dataclass(frozen=True)
class Rate:
    """A rate of *burst* tokens, of which one comes back every *every* ns and *used* are missing."""

    kind: type[Rule]
    every: int
    burst: int
    used: int

    def rule(self) -> Rule:
        rule: Rule
        if issubclass(self.kind, TokenBucket):
            rule = self.kind(0, TOKEN, self.every, self.burst * TOKEN)
        else:
            rule = self.kind(0, self.burst * TOKEN, self.every * self.burst)
        rule.take(0, min(self.used, self.burst) * TOKEN)
        return rule


@dataclass(frozen=True)
class Limits:
    """Rates, some slots, and for each line which of them it asks for.

    Attributes:
        slots: how many there are, of each kind of slots; they are counted after the rates.
        sets: whether callers may do without some.
    """

    rates: tuple[Rate, ...]
    lines: tuple[tuple[int, ...], ...]
    slots: tuple[int, ...] = ()
    sets: bool = False

    def rules(self) -> list[Rule]:
        return [*(rate.rule() for rate in self.rates), *(Slots(limit) for limit in self.slots)]

    def desk(self, rules: Sequence[Rule] = ()) -> Desk:
        rules = rules or self.rules()
        return Desk(*([rules[n] for n in line] for line in self.lines), sets=self.sets)

    def line(self, arrival: Arrival) -> int:
        return arrival.line % len(self.lines)

    def amounts(self, arrival: Arrival) -> list[int | None]:
        """What *arrival* asks for: never more than there could be."""
        asked: list[int | None] = []
        for n, amount in zip(self.lines[self.line(arrival)], arrival.amounts, strict=False):
            if amount is None and self.sets:
                asked.append(None)
            elif n < len(self.rates):
                asked.append(min(amount or 0, self.rates[n].burst))
            else:
                asked.append(min(max(amount or 0, 1), self.slots[n - len(self.rates)]))
        return asked


@dataclass(frozen=True)
class Arrival:
    """Somebody who comes *gap* after the one before, to stay for *patience*."""

    gap: int
    line: int
    amounts: tuple[int | None, ...]
    priority: int = 0
    patience: int = NEVER


@dataclass(frozen=True)
class Pause:
    """A pause of which rate, or of which set, from the start to *until*."""

    gate: int
    until: int
    empties: bool

    def begin(self, desk: Desk) -> None:
        gates = [*desk.gates.values(), *desk.own]
        desk.pause(self.until, gates[self.gate % len(gates)], empties=self.empties)


KINDS: list[type[Rule]] = [TokenBucket, LeakyBucket, SlidingWindow, FixedWindow]
RATES = st.builds(
    Rate, st.sampled_from(KINDS), st.integers(1, 10), st.integers(1, 6), st.integers(0, 6)
)
AMOUNTS = st.integers(0, 6)
PAUSES = st.lists(
    st.builds(Pause, st.integers(0, 6), st.integers(0, 80), st.booleans()), max_size=2
)


@st.composite
def limits(draw: st.DrawFn, *, slots: Sequence[int] = (), sets: bool | None = None) -> Limits:
    """Two to four rates, and two to four lines over some of them, each with at least one."""
    rates = draw(st.lists(RATES, min_size=2, max_size=4))
    some = st.sets(st.integers(0, len(rates) + len(slots) - 1), min_size=1)
    lines = draw(
        st.lists(some.map(sorted).map(tuple), min_size=2, max_size=4, unique=True).filter(
            lambda lines: any(n < len(rates) for line in lines for n in line)
        )
    )
    return Limits(
        tuple(rates), tuple(lines), tuple(slots), draw(st.booleans()) if sets is None else sets
    )


def arrivals(*, classes: int = 1, leave: bool = False, most: int = 10) -> st.SearchStrategy[Any]:
    return st.lists(
        st.builds(
            Arrival,
            st.just(0) | st.integers(0, 25),
            st.integers(0, 3),
            st.tuples(*[AMOUNTS | AMOUNTS | st.none()] * 6),
            st.integers(0, classes - 1),
            st.just(NEVER) | st.integers(0, 60) if leave else st.just(NEVER),
        ),
        min_size=1,
        max_size=most,
    )


def join(desk: Desk, limits: Limits, name: str, arrival: Arrival) -> Caller:
    return desk.join(
        name,
        *limits.amounts(arrival),
        line=limits.line(arrival),
        priority=arrival.priority,
        deadline=deadline(desk, arrival),
    )


def deadline(desk: Desk, arrival: Arrival) -> int:
    return NEVER if arrival.patience == NEVER else desk.now + arrival.patience


def quote(desk: Desk, limits: Limits, arrival: Arrival) -> tuple[int, int]:
    line = limits.line(arrival)
    weights = desk.weights(line, limits.amounts(arrival))
    return desk.queue.quote(desk.line(line, arrival.priority), weights)


def play(
    limits: Limits,
    coming: Sequence[Arrival],
    pauses: Iterable[Pause] = (),
    *,
    taken: int = 0,
    absent: Container[int] = (),
) -> Desk:
    """Everybody comes but those who are *absent*, and then time passes.

    Of each kind of slots, *taken* are held by somebody who never gives them back.
    """
    desk = limits.desk()
    for line in desk.lines:
        for _, slots in line.slots:
            slots.free = max(0, slots.limit - taken)
    for pause in pauses:
        pause.begin(desk)
    for n, arrival in enumerate(coming):
        desk.run(desk.now + arrival.gap)
        if n not in absent:
            join(desk, limits, f"{n}", arrival)
    desk.run(LONG)
    return desk


def granted(desk: Desk) -> dict[str, int]:
    """Who was granted, and when."""
    return {name: at for at, name in desk.grants}


# ------------------------------------------------------------------------------ nobody is postponed


@given(
    limits=limits(),
    coming=arrivals(classes=2),
    last=arrivals(most=1),
    pauses=PAUSES,
)
@examples(400)
def test_whoever_ranks_last_changes_nothing_for_anybody_else(
    limits: Limits, coming: list[Arrival], last: list[Arrival], pauses: list[Pause]
) -> None:
    # Also for those behind a head, and those of its own line. That nobody gives up is part of it:
    # to those behind one who will it was promised what comes true if everybody stays.
    coming = [*coming, replace(last[0], priority=1)]
    newcomer = len(coming) - 1
    with_it = play(limits, coming, pauses)
    without = play(limits, coming, pauses, absent=[newcomer])
    others = [entry for entry in with_it.book if entry[1] != f"{newcomer}"]
    assert sorted(others) == sorted(without.book)
    assert len(others) < len(with_it.book)


@given(limits=limits(), coming=arrivals(), pauses=PAUSES)
@examples(400)
def test_what_was_quoted_holds_whoever_comes_later(
    limits: Limits, coming: list[Arrival], pauses: list[Pause]
) -> None:
    desk = limits.desk()
    for pause in pauses:
        pause.begin(desk)
    quoted = {}
    for n, arrival in enumerate(coming):
        desk.run(desk.now + arrival.gap)
        quoted[f"{n}"] = quote(desk, limits, arrival)[0]
        join(desk, limits, f"{n}", arrival)
    desk.run(LONG)
    assert granted(desk) == quoted


@given(
    limits=limits(slots=(3, 2)),
    coming=arrivals(classes=2),
    last=arrivals(most=1),
    pauses=PAUSES,
    taken=st.integers(0, 3),
)
@examples(400)
def test_whoever_ranks_last_takes_no_slot_from_a_head_that_waits_for_time(
    limits: Limits, coming: list[Arrival], last: list[Arrival], pauses: list[Pause], taken: int
) -> None:
    # Slots are kept for heads only, so it is they who may count on their instants. They may go
    # sooner: somebody who stands behind another head may lack the slot that the newcomer has.
    coming = [*coming, replace(last[0], priority=1)]
    newcomer = len(coming) - 1
    came_at = sum(arrival.gap for arrival in coming)
    with_it = granted(play(limits, coming, pauses, taken=taken))
    without = granted(play(limits, coming, pauses, taken=taken, absent=[newcomer]))
    heads: dict[tuple[int, int], str] = {}
    for n, arrival in enumerate(coming[:newcomer]):
        if without.get(f"{n}", NEVER) > came_at:
            heads.setdefault((limits.line(arrival), arrival.priority), f"{n}")
    for head in heads.values():
        assert with_it.get(head, NEVER) <= without.get(head, NEVER)


@given(limits=limits(slots=(1,)), coming=arrivals(), pauses=PAUSES)
@examples(200)
def test_who_lacks_a_slot_holds_up_nobody_on_the_rates(
    limits: Limits, coming: list[Arrival], pauses: list[Pause]
) -> None:
    # No slot is ever free: it is as if those who want one had never come, nor those behind them.
    slot = len(limits.rates)
    stuck_lines = set()
    stuck = []
    for n, arrival in enumerate(coming):
        line = limits.line(arrival)
        asked = dict(zip(limits.lines[line], limits.amounts(arrival), strict=True))
        if line in stuck_lines or asked.get(slot):
            stuck_lines.add(line)
            stuck.append(n)
    with_them = play(limits, coming, pauses, taken=1)
    without = play(limits, coming, pauses, taken=1, absent=stuck)
    assert with_them.grants == without.grants
    assert with_them.queue.waiting == len(stuck)


# -------------------------------------------------------------------------------- what was promised


@given(
    limits=limits(slots=(1000,)),
    coming=arrivals(classes=3),
    pauses=PAUSES,
)
@examples(300)
def test_the_quote_is_the_instant_of_the_grant_and_names_what_held_it_up_longest(
    limits: Limits, coming: list[Arrival], pauses: list[Pause]
) -> None:
    *others, last = coming
    desk = limits.desk()
    for pause in pauses:
        pause.begin(desk)
    for n, arrival in enumerate(others):
        desk.run(desk.now + arrival.gap)
        join(desk, limits, f"{n}", arrival)
    desk.run(desk.now + last.gap)
    due, culprit = quote(desk, limits, last)
    caller = join(desk, limits, "last", last)
    asked_at = desk.now
    desk.run(LONG)
    assert (caller.state, caller.granted_at) == (GRANTED, due)
    if limits.sets and due > asked_at:
        assert caller.held_up[culprit] == max(caller.held_up) > 0
    else:
        assert culprit == -1


@pytest.mark.parametrize("kind", KINDS)
def test_a_heavy_caller_goes_at_its_instant_however_many_light_ones_come(kind: type[Rule]) -> None:
    shared = Rate(kind, every=10, burst=10, used=10).rule()
    own, another = bucket(1, 400, 1, level=0), bucket(1, 1, 1)
    desk = Desk([shared, own], [shared], [shared, another])
    assert desk.quote(10, 1) == 400
    desk.join("heavy", 10, 1)
    for now in range(600):
        desk.run(now)
        asked = [1] if now % 2 else [1, 1]
        desk.join(f"light {now}", *asked, line=2 - now % 2)
    assert granted(desk)["heavy"] == 400
    # Of the forty that came back until then, ten were its own, and most of the others theirs.
    assert 20 <= sum(name != "heavy" and at < 400 for at, name in desk.grants) <= 30


def test_who_lacks_slots_of_two_kinds_goes_in_turn_though_others_keep_using_each() -> None:
    a, b = Slots(2), Slots(2)
    desk = Desk([a, b], [b, a], [a], [b])
    leaves_at = {(a, 3): 1, (a, 7): 1, (b, 5): 1, (b, 9): 1}  # those who hold them now
    for slots, _ in leaves_at:
        slots.free -= 1
    desk.join("first", 2, 2, line=0)
    desk.join("second", 2, 2, line=1)
    seen = 0
    for now in range(1, 40):
        desk.run(now)
        for held in (a, b):
            held.free += leaves_at.pop((held, now), 0)
        desk.decide()
        desk.join(f"a {now}", 1, line=2)
        desk.join(f"b {now}", 1, line=3)
        for at, name in desk.grants[seen:]:  # whoever has got in stays for ten
            caller = desk.callers[name]
            for n, held in caller.line.slots:
                leaving = leaves_at.get((held, at + 10), 0)
                leaves_at[held, at + 10] = leaving + caller.weights[n]
        seen = len(desk.grants)
    assert desk.grants[:6] == [
        (9, "first"),
        (19, "second"),
        *[(29, name) for name in ("a 1", "b 1", "a 2", "b 2")],
    ]


def test_the_first_who_lacks_a_slot_keeps_all_it_wants_and_others_only_those_that_they_lack() -> (
    None
):
    a, b, c, d = Slots(1), Slots(1), Slots(1), Slots(1)
    desk = Desk([a, c], [b, d], [c], [d])
    a.free = b.free = 0
    desk.join("first", 1, 1, line=0)
    desk.join("second", 1, 1, line=1)
    assert not desk.ask(1, line=2)
    assert desk.ask(1, line=3)
    desk.join("third", 1, line=2)
    a.free = 1
    desk.decide()
    assert desk.grants == [(0, "first")]


def test_a_head_that_waits_for_time_keeps_the_slots_it_wants() -> None:
    slots, own = Slots(3), bucket(1, 10, 1, level=0)
    desk = Desk([slots, own], [slots])
    desk.join("waits for time", 2, 1)
    assert desk.ask(1, line=1)
    assert not desk.ask(1, line=1)
    desk.join("lacks a slot", 1, line=1)
    desk.run(100)
    assert desk.grants == [(10, "waits for time")]
    desk.leave("waits for time")
    assert desk.grants[1:] == [(100, "lacks a slot")]


def test_a_head_that_is_paused_for_good_keeps_nothing_from_anybody() -> None:
    slots, own, shared = Slots(1), bucket(1, 10, 1), bucket(1, 10, 1)
    desk = Desk([slots, own, shared], [slots, shared])
    desk.pause(NEVER, own)
    desk.join("paused", 1, 1, 1)
    assert desk.ask(1, 1, line=1)
    slots.free += 1
    desk.run(50)
    desk.resume(own)
    assert desk.grants == [(50, "paused")]


# ------------------------------------------------------------------------ a slow chat and idle ones


@pytest.mark.parametrize("queued", [25, 40, 400])
def test_messages_queued_for_one_slow_chat_do_not_hold_up_an_idle_one(queued: int) -> None:
    # Thirty a second for everybody, twenty a minute for each chat.
    everybody = TokenBucket(0, 30 * TOKEN, SECOND)
    chats = [TokenBucket(0, 20 * TOKEN, 60 * SECOND) for _ in range(31)]
    desk = Desk(*([everybody, chat] for chat in chats))
    for n in range(queued):
        desk.join(f"slow {n}", 1, 1)
    for second in range(1, 31):
        desk.run(second * SECOND + 7)
        assert desk.ask(1, 1, line=second)
    times = [at for at, _ in desk.grants]
    assert times == [0] * 20 + [3 * n * SECOND for n in range(1, 11)][: queued - 20]


@pytest.mark.parametrize("queued", [25, 40, 400])
def test_where_everybody_is_the_bottleneck_all_of_its_rate_is_used(queued: int) -> None:
    everybody = TokenBucket(0, 30 * TOKEN, SECOND)
    chats = [TokenBucket(0, 20 * TOKEN, 60 * SECOND) for _ in range(31)]
    desk = Desk(*([everybody, chat] for chat in chats))
    for n in range(queued):
        desk.join(f"slow {n}", 1, 1)
    for n in range(600):
        desk.join(f"other {n}", 1, 1, line=1 + n % 30)
    desk.run(20 * SECOND)
    # Twenty of the slow chat, all six hundred, and one more of the slow every three seconds.
    times = [at for at, _ in desk.grants]
    waited_for = sum(name.startswith("other") for _, name in desk.grants)
    assert waited_for == 600
    last = max(at for at, name in desk.grants if name.startswith("other"))
    busy = [at for at in times if at <= last]
    assert busy == [max(0, -(-(n - 29) * SECOND // 30)) for n in range(len(busy))]
    slow = [at for at, name in desk.grants if name.startswith("slow")]
    assert len(slow) == min(queued, 26)


# ----------------------------------------------------------------------------- who can go does go


@dataclass(frozen=True)
class Free:
    """One of those who hold a slot gives it back."""

    gap: int
    which: int


def shortage(rule: Rule, now: int, weight: int) -> bool:
    return rule.fork().level(now) * TOKEN < weight


def nobody_could_go(desk: Desk) -> bool:
    """Whether the first who lacks no slot waits for a token or for the end of a pause."""
    lines = [line for line in desk.kept.values() if line.waiters]
    kept: Counter[Rule] = Counter()
    stuck = False
    for line in sorted(lines, key=lambda line: (line.priority, line.waiters[0].order)):
        weights = dict(zip(line.rules, line.waiters[0].weights, strict=True))
        wanted = {rule: weight for rule, weight in weights.items() if weight != SKIP}
        slots = {rule: wanted[rule] for rule in wanted if isinstance(rule, Slots)}
        lacking = [rule for rule in slots if rule.free - kept[rule] < slots[rule]]
        if not lacking:
            own = [line.gates[0]] if isinstance(line, SetLine) else []
            gates = [*own, *(desk.gates[rule] for rule in wanted if rule in desk.gates)]
            return any(gate.until > desk.now for gate in gates) or any(
                shortage(rule, desk.now, weight)
                for rule, weight in wanted.items()
                if rule not in slots
            )
        for rule in slots if not stuck else lacking:
            kept[rule] += slots[rule]
        stuck = True
    return True


@given(
    limits=limits(slots=(2, 1)),
    acts=st.lists(
        arrivals(classes=2, leave=True, most=1).map(lambda some: some[0])
        | st.builds(Free, st.integers(0, 10), st.integers(0, 1)),
        max_size=20,
    ),
    pauses=PAUSES,
)
@examples(300)
def test_whenever_nobody_goes_the_first_who_lacks_no_slot_cannot(
    limits: Limits, acts: list[Arrival | Free], pauses: list[Pause]
) -> None:
    desk = limits.desk()
    for pause in pauses:
        pause.begin(desk)
    for n, act in enumerate(acts):
        for now in range(desk.now, desk.now + act.gap + 1):
            desk.run(now)
            assert nobody_could_go(desk)
        if isinstance(act, Arrival):
            join(desk, limits, f"{n}", act)
        else:
            held = {slots for line in desk.lines for _, slots in line.slots if slots.used}
            for slots in list(held)[act.which : act.which + 1]:
                slots.free += 1
            desk.decide()
        assert nobody_could_go(desk)


# -------------------------------------------------------------------------------------- priorities


@given(ranks=st.lists(st.integers(-2, 2), max_size=PATIENCE))
@examples(50)
def test_better_priorities_go_first_and_those_of_one_in_order_of_arrival(ranks: list[int]) -> None:
    desk = Desk([bucket(1, 10, 1, level=0)])
    for n, priority in enumerate(ranks):
        desk.join(f"{n}", 1, priority=priority)
    desk.run(1000)
    in_order = sorted(range(len(ranks)), key=lambda n: (ranks[n], n))
    assert desk.grants == [(10 * place, f"{n}") for place, n in enumerate(in_order, 1)]


class Stream:
    """A bucket for which callers of several classes always wait: who goes, class by class."""

    def __init__(self, *classes: int, waiting: int = 2) -> None:
        self.desk = Desk([bucket(1, 10, 1, level=0)])
        self.classes = classes
        self.waiting = waiting
        self.count = 0

    def refill(self) -> None:
        for priority in self.classes:
            while len(self.desk.line(0, priority)) < self.waiting:
                self.count += 1
                self.desk.join(f"{priority}/{self.count}", 1, priority=priority)

    def run(self, grants: int) -> list[int]:
        """The classes of the next so many."""
        before = len(self.desk.grants)
        for _ in range(grants):
            self.refill()
            self.desk.run(self.desk.now + 10)
        return [int(name.split("/")[0]) for _, name in self.desk.grants[before:]]


def test_a_class_is_passed_over_thirty_two_times_in_a_row_and_then_has_its_turn() -> None:
    stream = Stream(1, 0)
    assert PATIENCE == 32
    assert stream.run(99) == ([0] * 32 + [1]) * 3


def test_each_of_many_classes_has_its_turn_within_the_patience_and_one_for_each_other() -> None:
    classes = [3, 2, 1, 0]
    gone = Stream(*classes).run(2000)
    for priority in classes[:-1]:
        turns = [n for n, each in enumerate(gone) if each == priority]
        # Where two of them are due at once, one of them is the first.
        longest = max(
            after - before - 1 for before, after in zip([-1, *turns], turns, strict=False)
        )
        assert PATIENCE <= longest <= PATIENCE + len(classes) - 2
    assert gone.count(0) >= 2000 * (PATIENCE - 3) // PATIENCE


def test_whoever_came_later_to_a_class_waits_for_the_patience_anew() -> None:
    stream = Stream(0)
    stream.refill()
    stream.desk.join("1/early", 1, priority=1)
    assert stream.run(20) == [0] * 20
    stream.desk.leave("1/early")
    stream.refill()
    stream.desk.join("1/late", 1, priority=1)
    # Two of the first class have been there before: they pass over nobody.
    assert stream.run(36) == [0] * 34 + [1, 0]


def test_only_those_who_came_later_pass_over_anybody() -> None:
    desk = Desk([bucket(1, 10, 1, level=0)])
    for n in range(50):
        desk.join(f"before {n}", 1)
    desk.join("low", 1, priority=1)
    for n in range(50):
        desk.join(f"after {n}", 1)
    desk.run(2000)
    assert [name for _, name in desk.grants].index("low") == 50 + PATIENCE


def test_those_who_go_elsewhere_pass_over_nobody() -> None:
    desk = Desk([bucket(1, 10, 1, level=0)], [bucket(1, 10, 50)])
    desk.join("low", 1, priority=1)
    for n in range(40):
        assert desk.ask(1, line=1)
        desk.join(f"high {n}", 1)
    desk.run(1000)
    assert [name for _, name in desk.grants].index("low") == PATIENCE


def test_a_newcomer_that_goes_at_once_passes_over_those_of_worse_classes_too() -> None:
    rule = bucket(1, 10, 5, level=0)
    desk = Desk([rule])
    desk.join("low", 5, priority=1)
    for now in range(10, 10 * (PATIENCE + 1), 10):
        desk.run(now)
        assert desk.ask(1)
    assert not desk.ask(1)
    desk.run(10 * (PATIENCE + 1))
    assert not desk.ask(1)
    desk.run(1000)
    assert desk.grants == [(10 * (PATIENCE + 5), "low")]


def test_a_worse_class_that_has_its_turn_goes_at_its_instant_and_not_before() -> None:
    # It is not let go before the heavy one of the first class because it lacks what that lacks.
    desk = Desk([bucket(1, 10, 5, level=0)])
    desk.join("low", 2, priority=1)
    for n in range(PATIENCE):
        desk.join(f"high {n}", 1)
    desk.run(10 * PATIENCE)
    desk.join("heavy", 5)
    assert desk.quote(2, priority=1) == 10 * (PATIENCE + 9)
    desk.run(1000)
    assert desk.grants[PATIENCE:] == [(10 * (PATIENCE + 2), "low"), (10 * (PATIENCE + 7), "heavy")]


@given(limits=limits(), coming=arrivals(classes=3), pauses=PAUSES)
@examples(200)
def test_priorities_change_nothing_for_those_who_share_no_limit(
    limits: Limits, coming: list[Arrival], pauses: list[Pause]
) -> None:
    # The same limits twice; the others of the second may come in any class, and as many as like.
    half = len(limits.rates)
    twice = Limits(
        limits.rates * 2,
        (*limits.lines, *(tuple(n + half for n in line) for line in limits.lines)),
        sets=limits.sets,
    )
    mine = [replace(arrival, line=limits.line(arrival)) for arrival in coming]
    apart = len(limits.lines)
    theirs = [replace(a, line=a.line + apart, priority=a.priority - 1) for a in mine]
    both = [each for pair in zip(mine, theirs, strict=True) for each in pair]
    both = [replace(each, gap=0) if n % 2 else each for n, each in enumerate(both)]
    begun = [Pause(pause.gate % half, pause.until, pause.empties) for pause in pauses]
    alone = granted(play(twice, mine, begun))
    crowded = granted(play(twice, both, begun))
    assert {f"{n // 2}": crowded[f"{n}"] for n in range(0, len(both), 2)} == alone


# -------------------------------------------------------------------------------- what held it up


@given(
    limits=limits(slots=(2,), sets=True),
    coming=arrivals(classes=2),
    pauses=PAUSES,
    restless=st.booleans(),
)
@examples(200)
def test_what_held_each_caller_up_adds_up_to_its_wait_however_often_one_looks(
    limits: Limits, coming: list[Arrival], pauses: list[Pause], restless: bool
) -> None:
    desk = limits.desk()
    came_at = {}
    for pause in pauses:
        pause.begin(desk)
    for n, arrival in enumerate(coming):
        came_at[f"{n}"] = desk.now + arrival.gap
        for now in range(desk.now, came_at[f"{n}"]) if restless else ():
            desk.jump(now)
        desk.run(came_at[f"{n}"])
        join(desk, limits, f"{n}", arrival)
    for now in range(desk.now, desk.now + 200) if restless else ():
        desk.jump(now)
    desk.run(LONG)
    for name, at in granted(desk).items():
        assert sum(desk.callers[name].held_up) == at - came_at[name]
        assert min(desk.callers[name].held_up) >= 0


@dataclass(frozen=True)
class Event:
    """What happens *gap* later to a set: a caller, a pause, its end, or a slot that is freed."""

    gap: int
    kind: str
    amounts: tuple[int | None, ...]
    gate: int
    until: int


EVENTS = st.lists(
    st.builds(
        Event,
        st.integers(0, 20),
        st.sampled_from(["join", "join", "join", "pause", "resume", "free"]),
        st.tuples(*[AMOUNTS | st.none()] * 5),
        st.integers(0, 3),
        st.just(NEVER) | st.integers(0, 60),
    ),
    max_size=15,
)


def culprit(desk: Desk) -> int:
    """The place of what the head waits for now, the longest of all: the last is its own pause."""
    line = desk.lines[0]
    weights = dict(zip(line.rules, line.waiters[0].weights, strict=True))
    wanted = {rule: weight for rule, weight in weights.items() if weight != SKIP}
    for n, rule in enumerate(line.rules):
        if isinstance(rule, Slots) and rule in wanted and rule.free < wanted[rule]:
            return n
    rates = [rule for rule in line.rules if rule in wanted and rule in desk.gates]
    ends = [(line.gates[0].until, len(line.rules))]
    ends += [(desk.gates[rule].until, line.rules.index(rule)) for rule in rates]
    for rule in rates:
        at = desk.now
        while shortage(rule, at, wanted[rule]):
            at += 1
        ends.append((at, line.rules.index(rule)))
    assert max(ends)[0] > desk.now
    return max(ends, key=lambda end: end[0])[1]


@given(limits=limits(slots=(2,), sets=True), events=EVENTS)
@examples(200)
def test_each_moment_counts_for_the_limit_that_the_head_waits_for_then(
    limits: Limits, events: list[Event]
) -> None:
    limits = replace(limits, lines=(tuple(range(len(limits.rates) + 1)),))
    desk = limits.desk()
    gates = [*desk.own, *desk.gates.values()]
    (slots,) = (rule for _, rule in desk.lines[0].slots)
    counted: dict[str, Counter[int]] = {}

    def look_on(until: int) -> None:
        while desk.now < until:
            if desk.lines[0].waiters:
                place = culprit(desk)
                for name, caller in desk.callers.items():
                    counted.setdefault(name, Counter())[place] += caller.state is QUEUED
            desk.run(desk.now + 1)

    for n, event in enumerate(events):
        look_on(desk.now + event.gap)
        gate = gates[event.gate % len(gates)]
        if event.kind == "join":
            join(desk, limits, f"{n}", Arrival(0, 0, event.amounts))
        elif event.kind == "pause":
            desk.pause(min(NEVER, desk.now + event.until), gate)
        elif event.kind == "resume":
            desk.resume(gate)
        elif slots.used:
            slots.free += 1
            desk.decide()
    look_on(desk.now + 150)
    places = range(len(limits.rates) + 2)
    for name in granted(desk):
        counts = counted.get(name, Counter())
        assert desk.callers[name].held_up == [counts[place] for place in places]


def test_what_is_kept_for_earlier_ones_counts_for_the_limit_of_which_it_is_kept() -> None:
    slots, own, shared = Slots(1), bucket(1, 40, 1, level=0), bucket(1, 100, 5)
    desk = Desk([slots, own, shared], [slots], [bucket(1, 10, 1), shared], sets=True)
    desk.join("first", 1, 1, 5, line=0)
    kept_slot = desk.join("slot", 1, line=1)
    kept_tokens = desk.join("tokens", 1, 1, line=2)
    desk.run(180)
    assert desk.grants == [(40, "first"), (140, "tokens")]
    assert kept_tokens.held_up == [0, 140, 0]
    slots.free += 1
    desk.decide()
    assert desk.grants[2:] == [(180, "slot")]
    assert kept_slot.held_up == [180, 0]


# ----------------------------------------------------------------------------------- two become one


def merged(one: Desk, other: Desk, lines: Sequence[Sequence[Rule]]) -> Desk:
    """A desk for all *lines*, with the queue into which those of the two have become one."""
    one.queue.absorb(other.queue)
    both = Desk(*lines)
    both.queue = one.queue
    both.gates = one.gates | other.gates
    both.kept.clear()
    both.lines = [both.line(n) for n in range(len(lines))]
    both.callers = one.callers | other.callers
    both.book = sorted([*one.book, *other.book], key=lambda entry: entry[0])
    both.decide()
    return both


LINES = ((0,), (0, 1), (2,), (2, 3), (0, 2), (1, 2, 3), (0, 3))
"""The first two over two rates, the next two over two others, and the rest over some of each."""


@given(
    rates=st.lists(RATES, min_size=4, max_size=4),
    before=arrivals(classes=2, leave=True),
    after=arrivals(classes=2, leave=True),
    pauses=PAUSES,
    away=st.integers(-1000, 1000),
)
@examples(200)
def test_two_queues_that_become_one_decide_from_there_on_as_if_they_had_always_been_one(
    rates: list[Rate],
    before: list[Arrival],
    after: list[Arrival],
    pauses: list[Pause],
    away: int,
) -> None:
    # One of the two has lived by another clock so far.
    limits = Limits(tuple(rates), LINES)
    always = limits.desk()
    rules = limits.rules()
    one = Desk([rules[0]], [rules[0], rules[1]])
    other = Desk([rules[2]], [rules[2], rules[3]])
    other.queue.shift(away)
    other.decide()
    for pause in pauses:
        n = pause.gate % 4
        always.pause(pause.until, list(always.gates)[n], empties=pause.empties)
        if n < 2:
            one.pause(pause.until, rules[n], empties=pause.empties)
        else:
            other.pause(pause.until + away, rules[n], empties=pause.empties)
    for n, arrival in enumerate(before):
        for desk in (always, one, other):
            desk.run(desk.now + arrival.gap)
        line = arrival.line % 4
        join(always, limits, f"{n}", replace(arrival, line=line))
        apart = one if line < 2 else other
        apart.join(
            f"{n}",
            *limits.amounts(replace(arrival, line=line)),
            line=line % 2,
            priority=arrival.priority,
            deadline=deadline(apart, arrival),
        )
    other.queue.shift(-away)
    other.book = [(at - away, name, state) for at, name, state in other.book]
    both = merged(one, other, [[rules[n] for n in line] for line in LINES])
    assert both.queue.waiting == always.queue.waiting
    for n, arrival in enumerate(after, len(before)):
        for desk in (always, both):
            desk.run(desk.now + arrival.gap)
            join(desk, limits, f"{n}", replace(arrival, line=arrival.line + n))
    for desk in (always, both):
        desk.run(LONG)
    assert sorted(both.book) == sorted(always.book)


def test_in_the_queue_that_two_became_arrival_decides_over_both() -> None:
    a, b = bucket(1, 10, 5, level=0), bucket(1, 10, 5, level=0)
    one, other = Desk([a]), Desk([b])
    one.join("1", 1)
    other.join("2", 1)
    one.join("3", 1)
    both = merged(one, other, [[a], [b], [b, a]])
    both.join("4", 1, 1, line=2)
    both.join("5", 1, line=0)
    both.run(100)
    assert both.grants == [(10, "1"), (10, "2"), (20, "3"), (30, "4"), (40, "5")]


@given(
    limits=limits(slots=(2,)),
    acts=st.lists(
        arrivals(classes=2, leave=True, most=1).map(lambda some: some[0])
        | st.builds(Pause, st.integers(0, 6), st.integers(0, 80), st.booleans())
        | st.integers(-(10**6), 10**6),
        max_size=14,
    ),
)
@examples(200)
def test_a_queue_that_is_moved_to_another_clock_goes_on_as_before_at_the_moved_instants(
    limits: Limits, acts: list[Arrival | Pause | int]
) -> None:
    stayed, moved = limits.desk(), limits.desk()
    away = SECOND
    moved.queue.shift(away)
    moved.decide()
    for n, act in enumerate(acts):
        if isinstance(act, int):
            moved.queue.shift(act)
            moved.decide()
            moved.book = [(at + act, name, state) for at, name, state in moved.book]
            away += act
        elif isinstance(act, Pause):
            for desk in (stayed, moved):
                replace(act, until=desk.now + act.until).begin(desk)
        else:
            for desk in (stayed, moved):
                desk.run(desk.now + act.gap)
                join(desk, limits, f"{n}", act)
        assert moved.now == stayed.now + away
        for told in ("wake_at", "due_at", "expires_at"):
            here, there = (getattr(desk.queue, told) for desk in (stayed, moved))
            assert there == (here + away if here < NEVER else NEVER)
    stayed.run(LONG)
    moved.run(LONG + away)
    assert moved.book == [(at + away, name, state) for at, name, state in stayed.book]
    for name in granted(stayed) if limits.sets else ():
        assert moved.callers[name].held_up == stayed.callers[name].held_up


# ------------------------------------------------------------------- in two lines at the same time


def join_all(
    desk: Desk, name: str, wants: dict[int, list[int | None]], deadline: int = NEVER
) -> dict[int, Caller]:
    """One caller in several lines of sets, who goes in the first that lets it; by line."""
    callers = {line: Caller() for line in wants}
    for line, caller in callers.items():
        caller.rivals = list(callers.values())
        desk.callers[f"{name}@{line}"] = caller
        desk.queue.join(caller, desk.lines[line], desk.weights(line, wants[line]), deadline)
    desk.decide()
    return callers


def test_who_waits_in_two_lines_goes_in_the_first_that_lets_it_and_is_gone_from_the_other() -> None:
    slow, fast = bucket(1, 50, 5, level=0), bucket(1, 20, 5, level=0)
    desk = Desk([slow], [fast], sets=True)
    callers = join_all(desk, "pool", {0: [1], 1: [1]})
    desk.join("behind", 1, line=0)
    desk.join("behind as well", 1, line=1)
    assert desk.queue.waiting == 4
    desk.run(100)
    assert (callers[0].state, callers[1].state) == (GONE, GRANTED)
    assert desk.grants == [(20, "pool@1"), (40, "behind as well"), (50, "behind")]
    assert desk.queue.waiting == 0
    assert [line.backlog for line in desk.lines] == [[0], [0]]


def test_who_waits_in_two_lines_and_leaves_one_leaves_both() -> None:
    slow, fast = bucket(1, 50, 5, level=0), bucket(1, 20, 5, level=0)
    desk = Desk([slow], [fast], sets=True)
    callers = join_all(desk, "pool", {0: [5], 1: [5]}, deadline=SECOND)
    desk.join("behind", 1, line=0)
    desk.run(10)
    desk.leave("pool@0")
    assert {caller.state for caller in callers.values()} == {GONE}
    assert (desk.queue.waiting, desk.queue.expires_at, desk.queue.due_at) == (1, NEVER, 50)
    desk.run(100)
    assert desk.grants == [(50, "behind")]


def test_who_was_granted_in_one_of_two_lines_and_leaves_gives_back_what_it_took_there() -> None:
    a, b = bucket(1, 50, 5), bucket(1, 20, 5)
    desk = Desk([a], [b], sets=True)
    callers = join_all(desk, "pool", {0: [3], 1: [4]})
    assert (callers[0].state, callers[1].state) == (GRANTED, GONE)
    assert (a.level(0), b.level(0)) == (2, 5)
    desk.leave("pool@0")
    assert (a.level(0), b.level(0)) == (5, 5)


def test_who_expires_in_one_of_two_lines_is_gone_from_the_other() -> None:
    desk = Desk([bucket(1, 50, 5, level=0)], [bucket(1, 20, 5, level=0)], sets=True)
    callers = join_all(desk, "pool", {0: [5], 1: [5]}, deadline=30)
    desk.run(100)
    assert sorted(caller.state.value for caller in callers.values()) == ["expired", "gone"]
    assert [state for _, _, state in desk.book] == [EXPIRED]
    assert (desk.queue.waiting, desk.queue.due_at) == (0, NEVER)


@given(limits=limits(slots=(2,), sets=True), coming=arrivals(), until=st.integers(0, 100))
@examples(200)
def test_each_caller_in_several_lines_is_granted_in_one_and_leaves_no_trace_in_the_others(
    limits: Limits, coming: list[Arrival], until: int
) -> None:
    rules = limits.rules()
    desk = limits.desk(rules)
    pool = []
    for n, arrival in enumerate(coming):
        desk.run(desk.now + arrival.gap)
        lines = {arrival.line % len(limits.lines), n % len(limits.lines)}
        asked = {line: limits.amounts(replace(arrival, line=line)) for line in lines}
        pool.append(join_all(desk, f"{n}", asked))
    desk.run(desk.now + until)
    waiting = 0
    for callers in pool:
        states = Counter(caller.state for caller in callers.values())
        assert states == {QUEUED: len(callers)} or states[QUEUED] == 0 < states[GRANTED] == 1
        waiting += states[QUEUED]
    assert desk.queue.waiting == waiting
    # The rules are as if those who went had asked for nothing but what they got.
    alone = limits.rules()
    for at, name in desk.grants:
        caller = desk.callers[name]
        for rule, weight in zip(caller.line.rules, caller.weights, strict=True):
            if weight != SKIP:
                alone[rules.index(rule)].take(at, weight)
    assert [rule.level(desk.now) for rule in alone] == [rule.level(desk.now) for rule in rules]
    for line in desk.lines:
        wanted = Counter[int]()
        for waiter in line:
            for n, _ in line.rates:
                wanted[n] += max(0, waiter.weights[n])
        assert [line.backlog[n] for n, _ in line.rates] == [wanted[n] for n, _ in line.rates]


@given(limits=limits(sets=True), arrival=arrivals(most=1), pauses=PAUSES)
@examples(100)
def test_a_caller_in_all_lines_goes_at_the_earliest_instant_that_any_of_them_quotes(
    limits: Limits, arrival: list[Arrival], pauses: list[Pause]
) -> None:
    desk = limits.desk()
    for pause in pauses:
        pause.begin(desk)
    lines = range(len(limits.lines))
    asked = {line: limits.amounts(replace(arrival[0], line=line)) for line in lines}
    quoted = [desk.quote(*asked[line], line=line) for line in lines]
    join_all(desk, "pool", asked)
    desk.run(LONG)
    assert [at for at, _ in desk.grants] == [min(quoted)]


# ----------------------------------------------------------------------------------- what it costs


class Counted(TokenBucket):
    """A bucket that counts how often it is asked."""

    __slots__ = ()

    asked: ClassVar[int] = 0

    def ready_at(self, now: int, weight: int) -> int:
        Counted.asked += 1
        return super().ready_at(now, weight)


def counted(every: int, burst: int, level: int) -> Counted:
    rule = Counted(0, TOKEN, every, burst * TOKEN)
    rule.take(0, (burst - level) * TOKEN)
    return rule


def many_lines(how: str, lines: int) -> Queue:
    """A queue in which somebody waits in each of so many lines over one shared rate."""
    queue = Queue(0, 0)
    scarce = how in ("for what they share", "light ones behind a heavy one")
    shared = counted(1_000_000, 100, level=0 if scarce else 100)
    for n in range(lines):
        wait = {"later ones shorter": lines - n, "later ones longer": n + 1}.get(how, 1)
        own = counted(10_000_000 * wait, 1, level=1 if scarce else 0)
        line = queue.line((shared, own), (Gate(shared), Gate(own)))
        heavy = how == "light ones behind a heavy one" and not n
        queue.join(Caller(), line, ((100 if heavy else 1) * TOKEN, TOKEN))
    return queue


@pytest.mark.parametrize(
    "how",
    [
        "for what they share",
        "for limits of their own",
        "light ones behind a heavy one",
        "later ones longer",
        "later ones shorter",
    ],
)
def test_a_decision_costs_what_there_are_lines_in_which_somebody_waits(how: str) -> None:
    costs = []
    for lines in (500, 1000):
        queue = many_lines(how, lines)
        Counted.asked = 0
        assert queue.advance(0) == []
        assert queue.wake_at < NEVER
        costs.append(Counted.asked)
    assert costs[1] <= 2.1 * costs[0] <= 2.1 * 8 * 500


@pytest.mark.parametrize("sets", [False, True])
def test_a_decision_costs_the_same_however_many_wait_in_one_line(sets: bool) -> None:
    costs = []
    for callers in (100, 1000):
        shared, own, other = counted(10, 5, level=0), counted(10, 5, level=5), counted(10, 5, 5)
        desk = Desk([shared, own], [shared, other], sets=sets)
        for _ in range(callers):
            desk.queue.join(Caller(), desk.lines[0], (TOKEN, TOKEN))
        desk.queue.join(Caller(), desk.lines[1], (TOKEN, TOKEN))
        Counted.asked = 0
        for now in range(10, 510, 10):
            assert len(desk.queue.advance(now)) == 1
        costs.append(Counted.asked)
    assert costs[0] == costs[1] <= 50 * 20
