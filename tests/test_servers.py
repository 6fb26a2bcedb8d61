"""Nobody who counts to the end is refused, by servers that were written elsewhere (`servers/`).

Each server is asked for all that it allows, for eight periods, directly and through a network that
takes its time. It counts for itself, in real time, and so the tests are plain functions with a loop
of their own: no loop with a clock that jumps may get in. All are visited side by side, before the
first test. How busy the machine is decides no outcome: no delay leads to a refusal, and those who
got too little try again, when they are fewer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from servers import FEW
from servers.__main__ import table, table_of_uses
from servers.frameworks import EXPRESS, TEN_PER_SECOND
from servers.programs import Missing, Program
from servers.saturate import Figures, Way
from servers.server import Server, Shared, serve
from servers.sharing import Answer, Heard, Share, Use, Uses, share_all
from servers.visits import Outcome, Visit, make

pytestmark = pytest.mark.real_time

LEAST_SHARE = 0.95
LEAST_SHARE_ONE_BY_ONE = 0.90
"""Where calls go one after the other, a timer that is late by a millisecond counts each time."""

WAYS: tuple[Way, ...] = ("direct", "jitter")
ENDS = [Visit(server, twin, "end", way) for server in FEW for twin in server.twins for way in WAYS]
BOUNDED = [visit for visit in ENDS if not visit.twin.also]
"""For limits that are taken together no bound is promised: calls go when both of them allow it."""
STARTS = [
    Visit(server, twin, "start", "jitter") for server in FEW for twin in server.twins if twin.window
]


def visit_all(visits: Sequence[Visit], folder: Path) -> Outcome:
    """Never in debug mode, which takes milliseconds per request."""
    return asyncio.run(make(visits, folder), debug=False)


def lost_too_much(figures: Figures) -> bool:
    least = LEAST_SHARE_ONE_BY_ONE if figures.at_once == 1 else LEAST_SHARE
    return figures.share < least


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What came of all visits."""
    return visit_all([*ENDS, *STARTS], tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="module")
def outcome_of_the_slow(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What came of those visits that lost too much, when fewer were made side by side."""
    slow = [visit for visit in BOUNDED if visit in outcome.figures]
    slow = [visit for visit in slow if lost_too_much(outcome.figures[visit])]
    return visit_all(slow, tmp_path_factory.mktemp("servers"))


def figures_of(visit: Visit, outcome: Outcome) -> Figures:
    if visit.server in outcome.missing:
        pytest.skip(f"NO {visit.server.name}: {outcome.missing[visit.server]}")
    figures = outcome.figures[visit]
    print(figures)
    return figures


@pytest.mark.parametrize("visit", ENDS, ids=str)
def test_nobody_is_refused_who_counts_to_the_end(visit: Visit, outcome: Outcome) -> None:
    refused = figures_of(visit, outcome).refused
    assert refused == 0


@pytest.mark.parametrize("visit", BOUNDED, ids=str)
def test_hardly_anything_is_lost_of_what_counting_to_the_end_allows(
    visit: Visit, outcome: Outcome, outcome_of_the_slow: Outcome
) -> None:
    figures = figures_of(visit, outcome)
    if lost_too_much(figures):
        figures = figures_of(visit, outcome_of_the_slow)
    if lost_too_much(figures) and figures.disturbed:
        pytest.skip(f"THE MACHINE IS TOO BUSY to say what the throttle does: {figures}")
    assert not lost_too_much(figures), figures


@pytest.mark.parametrize("visit", STARTS, ids=str)
def test_who_counts_from_the_start_is_refused(visit: Visit, outcome: Outcome) -> None:
    refused = figures_of(visit, outcome).refused
    assert refused > 0


def test_the_share_is_that_of_the_shortest_time_in_which_so_many_could_be_served() -> None:
    # Ten at once, a round trip of 0.1 s, and each goes again 1 s after its end: nine times ten take
    # eight times 1.1 s, and the last round trip.
    figures = Figures(
        served=90, refused=0, seconds=8.9, round_trip=0.1, at_once=10, forgotten=1.0, late=0.0
    )
    assert figures.share == pytest.approx(1.0)
    assert replace(figures, seconds=17.8).share == pytest.approx(0.5)
    assert replace(figures, served=80, refused=10).share < 0.9


def test_a_server_that_cannot_be_had_is_told_and_left_out(tmp_path: Path) -> None:
    def program() -> Program:
        raise Missing("nobody has it")

    none = Server("none", program, lambda folder, port: [], (EXPRESS.twins[0],))
    visits = [Visit(none, none.twins[0], "end", "direct")]
    told: list[str] = []
    outcome = asyncio.run(make(visits, tmp_path, tell=told.append), debug=False)
    assert outcome.missing == {none: "nobody has it"}
    assert told == ["none: SKIPPED: nobody has it"]
    assert table([none], outcome).count("\n") == 1


def answer(sent: float, came: float, status: int = 200) -> Answer:
    return Answer(sent, came, status, ())


def test_of_a_limit_that_is_shared_both_use_a_part() -> None:
    shared = Shared("40 per 4 s", TEN_PER_SECOND)
    answers = [answer(n / 10, n / 10 + 0.1) for n in range(55)]
    use = Use(shared, 8.0, 0.0, answers, [Heard(1, 200)] * 21 + [Heard(2, 429)] * 3)
    assert (use.served, use.refused, use.windows, use.outsider_served) == (55, 0, 2, 21)
    assert use.share == 76 / 80
    assert use.good
    assert not replace(use, answers=answers[1:]).good
    assert replace(use, shared=replace(shared, burst=40)).share == 76 / 120
    assert replace(use, shared=replace(shared, counts_refused=True)).share == 76 / 77


def test_of_a_server_that_blocks_both_use_what_it_gives_between_its_blocks() -> None:
    shared = Shared("40 per 4 s", TEN_PER_SECOND, blocks=4.0)
    served = [answer(1, 1)] * 60
    ours = [answer(5.9, 6.0, 429), answer(9.9, 10.0, 429)]  # in the block, and when it is over
    use = Use(shared, 15.0, 0.0, served + ours, [Heard(3, 429), Heard(3.5, 429)])
    # 40 before 3.0, and 40 of 53 from 7.08 on; from 14.08 on what both want, 18 per second.
    assert use.given == pytest.approx(80 + 18 * 0.92)
    assert use.share == pytest.approx(60 / use.given)


def test_the_first_call_after_a_refusal_is_the_one_that_was_sent_next() -> None:
    shared = Shared("40 per 4 s", TEN_PER_SECOND)
    answers = [
        answer(0.0, 0.3, 429),
        answer(0.1, 0.5, 429),
        answer(0.4, 0.9),  # after one of them, in time for the other
        answer(4.0, 4.1, 429),
        answer(5.0, 5.1, 429),
    ]
    use = Use(shared, 8.0, 0.0, answers, [])
    assert use.retries == (1, 3)
    assert (use.refused, use.most_refused) == (4, 2)
    assert not use.good


def test_of_a_server_that_says_nothing_some_are_refused_together() -> None:
    shared = Shared("2 per 4 s", TEN_PER_SECOND, most=2)
    answers = [answer(0.0, 0.1, 429), answer(0.0, 0.2, 429), *[answer(5.0, 5.1)] * 4]
    use = Use(shared, 8.0, 0.0, answers, [])
    assert not use.good
    assert replace(use, shared=replace(shared, together=2)).good


def test_what_is_asked_next_is_what_was_sent_first() -> None:
    answers = [answer(0.0, 0.3, 429), answer(0.1, 0.5, 429), answer(0.4, 0.9)]
    use = Use(Shared("40 per 4 s", TEN_PER_SECOND), 8.0, 0.0, answers, [])
    assert use.retries == (1, 1)


def test_what_is_less_than_expected_is_asked_again(tmp_path: Path) -> None:
    shared = Shared("none of it", partial(TEN_PER_SECOND, initial=0, period=60), "/draft-8")
    share = Share(EXPRESS, shared, "direct")
    told: list[str] = []
    made = share_all([share], tmp_path, seconds=0.5, together=1, tell=told.append)
    outcome = asyncio.run(made, debug=False)
    if outcome.missing:
        pytest.skip(f"NO {EXPRESS.name}: {outcome.missing[EXPRESS]}")
    assert outcome.bad() == [share]
    assert sum("0 served, 0 refused" in text for text in told) == 2
    assert "NO" in table_of_uses(outcome)
    expected = replace(share, shared=replace(shared, misses="it is asked for nothing"))
    known = Uses({expected: outcome.uses[share]}, outcome.versions)
    assert not known.bad()
    assert "no: it is asked for nothing" in table_of_uses(known)


def test_a_server_that_ends_at_once_is_heard(tmp_path: Path) -> None:
    program = Program([sys.executable, "-c", "print('no memory left')"], "1.0")
    server = Server("short", lambda: program, lambda folder, port: [])
    with (
        pytest.raises(RuntimeError, match=r"(?s)short does not answer.*no memory left"),
        serve(server, tmp_path),
    ):
        pass
