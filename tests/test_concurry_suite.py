"""What `concurry_suite.py` makes of concurry's own tests; it is run by hand, and by the checks."""

from __future__ import annotations

import concurry_suite


def test_the_suite_changes_the_lines_that_import_and_no_other() -> None:
    source = """
from concurry import LimitSet, Worker  # both
from concurry.core.limit.limit_set import (
    InMemorySharedLimitSet,
    MultiprocessSharedLimitSet,
)
from pydantic import ValidationError

def test() -> None:
    from concurry.core.limit import LimitPool
    "from concurry import CallLimit"
"""
    assert (
        concurry_suite.ours(source)
        == """
from async_throttle.limits import LimitSet; from concurry import Worker
from async_throttle.limits import LimitSet as InMemorySharedLimitSet; \
from concurry.core.limit.limit_set import MultiprocessSharedLimitSet
from pydantic import ValidationError

def test() -> None:
    from async_throttle.limits import LimitPool
    "from concurry import CallLimit"
"""
    )


def test_the_suite_asks_for_a_reason_of_each_test_that_fails_and_of_no_other() -> None:
    known = "limit_set::TestUnknownLimitKeys::test_all_unknown_keys"
    passed = {f"limit::test_{n}": True for n in range(concurry_suite.AT_LEAST)}
    text, well = concurry_suite.told({**passed, known: False})
    assert (well, text.splitlines()[0].split(" pass")[0]) == (
        True,
        f"{len(passed)} of {len(passed) + 1} tests of concurry==0.13.2",
    )
    for wrong in (
        {**passed, known: True},
        {**passed, "limit::test_else": False},
        {**passed, "limit::test_0": False, known: False},
        dict([*passed.items()][1:]),
    ):
        assert not concurry_suite.told(wrong)[1]
