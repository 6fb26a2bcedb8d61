"""Virtual time for tests under pytest-asyncio, 1.4 or newer.

Load it by one line in the topmost ``conftest.py``::

    pytest_plugins = ["async_throttle.pytest_plugin"]

Then ``@pytest.mark.virtual_time`` on an async test or a class, or as ``pytestmark`` of a module,
runs it and its fixtures on an `async_throttle.testing.VirtualTimeLoop`::

    @pytest.mark.virtual_time
    async def test_one_call_a_minute():
        throttle = Throttle(1, period=60)
        await throttle.acquire()
        await throttle.acquire()
        assert asyncio.get_running_loop().time() == 60.0

For all async tests at once set ``virtual_time = true`` in pytest's configuration;
``@pytest.mark.virtual_time(False)`` then excepts a test.

A test whose `asyncio` mark names its own ``loop_factories`` gets those. ``"virtual_time"`` may be
among them: ``@pytest.mark.asyncio(loop_factories=["virtual_time", "asyncio"])`` runs it on both.

A test that asks for virtual time and would not get it is an error: one of anyio's plugin, and one
that is not marked as asyncio's (in the strict mode of pytest-asyncio).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Mapping

import pytest

from async_throttle.testing import VirtualTimeLoop

_Factories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting ``virtual_time``."""
    parser.addini("virtual_time", "run all async tests in virtual time", "bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark ``virtual_time``."""
    asked = config.hook.pytest_asyncio_loop_factories.has_spec()
    if config.pluginmanager.hasplugin("asyncio") and not asked:
        # Marked tests would pass in real time, or seem to hang.
        raise pytest.UsageError("async_throttle.pytest_plugin needs pytest-asyncio 1.4 or newer")
    config.addinivalue_line(
        "markers", "virtual_time(on=True): run this async test on a clock that jumps, or not"
    )


# Optional: without pytest-asyncio nobody asks, and the plain tests of a project still run.
# A wrapper, so that the loop factories of a project stay in use for its other tests.
@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Generator[None, _Factories | None, _Factories]:
    """The loops on which to run *item*."""
    usual = (yield) or {"asyncio": asyncio.new_event_loop}
    virtual = {"virtual_time": VirtualTimeLoop}
    chosen = item.get_closest_marker("asyncio")
    if chosen is not None and "loop_factories" in chosen.kwargs:
        return {**usual, **virtual}
    return virtual if _wants_virtual_time(config, item) else usual


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a test that asks for virtual time and would run in real time."""
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
        return
    if not _wants_virtual_time(item.config, item):
        return
    if "anyio_backend" in item.fixturenames:
        reason = "anyio's plugin runs it, in real time: mark it with pytest.mark.asyncio instead"
    elif item.get_closest_marker("asyncio") is None:
        reason = "pytest-asyncio does not run it: mark it with pytest.mark.asyncio"
    else:
        return
    pytest.fail(
        f"{item.name} asks for virtual time, but {reason}; or except it by "
        "pytest.mark.virtual_time(False)",
        pytrace=False,
    )


def _wants_virtual_time(config: pytest.Config, item: pytest.Item) -> bool:
    mark = item.get_closest_marker("virtual_time")
    if mark is None:
        return bool(config.getini("virtual_time"))
    (on,) = mark.args or (mark.kwargs.get("on", True),)
    return bool(on)
