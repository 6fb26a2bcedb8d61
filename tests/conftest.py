"""What all tests share: the loop whose clock jumps, and how much is tried."""

from __future__ import annotations

import gc
import re
from collections import Counter

import pytest
import support  # its profile is the default of every test that is read from here on

pytest_plugins = ["async_throttle.pytest_plugin"]

NO_SERVER = r"NO SERVER (.*?)['\"]?\)?$"
"""How a test says why it was skipped: see `servers_redis.started`."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What looks at a real clock is run by one worker of pytest-xdist, one after the other."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("real_time"):
                item.add_marker(pytest.mark.xdist_group("real time"))


@pytest.fixture(scope="module", autouse=True)
def what_is_there_already_is_no_garbage() -> None:
    """Many tests run the garbage collector. If it looked each time at thousands of tests, and at
    what the modules before have kept, each run would take a fifth of a second."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What needs a server that cannot be had here was not tested, and that must not be missed."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [found[1] for each in skipped if (found := re.search(NO_SERVER, str(each.longrepr)))]
    if reasons:
        terminalreporter.section(f"{len(reasons)} TESTS HAD NO SERVER", "!", yellow=True, bold=True)
        for reason, times in sorted(Counter(reasons).items()):
            terminalreporter.line(f"{times:4} {reason}", yellow=True)


def pytest_report_header() -> str:
    return f"profile: {support.PROFILE} (of {', '.join(support.PROFILES)}; see tests/support.py)"
