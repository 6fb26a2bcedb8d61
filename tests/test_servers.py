"""Nobody who counts to the end is refused, by servers that were written elsewhere (`servers/`).

Each server is asked for all that it allows, for eight periods, directly and through a network that
takes its time. It counts for itself, in real time, and so the tests are plain functions with a loop
of their own: no loop with a clock that jumps may get in. All are visited side by side, before the
first test. How busy the machine is decides no outcome: no delay leads to a refusal, and what is too
slow is tried again, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import FEW
from servers.saturate import Figures, Way
from servers.visits import Outcome, Visit, make

pytestmark = pytest.mark.real_time

LEAST_SHARE = 0.95
LEAST_SHARE_ONE_BY_ONE = 0.90
"""Where calls go one after the other, a timer that is late by a millisecond counts each time."""

WAYS: tuple[Way, ...] = ("direct", "jitter")
ENDS = [
    Visit(server, twin, "end", way)
    for server in FEW
    for twin in server.twins
    for way in WAYS
    # What the end of a call means to a bucket cannot be said of a throttle yet.
    if twin.window or twin.slots
]
STARTS = [
    Visit(server, twin, "start", "jitter") for server in FEW for twin in server.twins if twin.window
]

Go = Callable[[list[Visit]], Outcome]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Go:
    """Makes visits, in a loop that is never in debug mode, which takes milliseconds per request."""

    def go(visits: list[Visit]) -> Outcome:
        folder: Path = tmp_path_factory.mktemp("servers")
        return asyncio.run(make(visits, folder), debug=False)

    return go


@pytest.fixture(scope="module")
def outcome(go: Go) -> Outcome:
    """What came of all visits."""
    return go([*ENDS, *STARTS])


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


@pytest.mark.parametrize("visit", ENDS, ids=str)
def test_hardly_anything_is_lost_of_what_counting_to_the_end_allows(
    visit: Visit, outcome: Outcome, go: Go
) -> None:
    figures = figures_of(visit, outcome)
    least = LEAST_SHARE_ONE_BY_ONE if figures.at_once == 1 else LEAST_SHARE
    if figures.share < least:
        figures = go([visit]).figures[visit]
    if figures.share < least and figures.disturbed:
        pytest.skip(f"THE MACHINE IS TOO BUSY to say what the throttle does: {figures}")
    assert figures.share >= least, figures


@pytest.mark.parametrize("visit", STARTS, ids=str)
def test_who_counts_from_the_start_is_refused(visit: Visit, outcome: Outcome) -> None:
    refused = figures_of(visit, outcome).refused
    assert refused > 0
