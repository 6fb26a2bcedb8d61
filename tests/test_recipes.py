"""Recipes beside other libraries: what is passed to those who retry, and slots around threads."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, TypedDict

import pytest
from support import now, queued

from async_throttle import Throttle, exceptions, threads
from async_throttle.exceptions import (
    ResourceLimitError,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)

ROW = re.compile(r"^ {4}([a-z_.]+) {2,}(\w+=.+)$", re.MULTILINE)
TABLE = dict(ROW.findall(exceptions.__doc__ or ""))
"""By library, what the documentation says is to be passed to it."""


class State(TypedDict):
    """What a graph passes on."""

    done: bool


def stamina(call: Any, told: dict[str, Any]) -> Any:
    decorate = importlib.import_module("stamina").retry
    return decorate(**told, attempts=3, wait_initial=0, wait_max=0, timeout=None)(call)


def tenacity(call: Any, told: dict[str, Any]) -> Any:
    library = importlib.import_module("tenacity")
    return library.retry(**told, stop=library.stop_after_attempt(3), reraise=True)(call)


def langgraph(call: Any, told: dict[str, Any]) -> Any:
    graphs = importlib.import_module("langgraph.graph")
    policy = importlib.import_module("langgraph.types").RetryPolicy

    async def node(state: State) -> State:
        await call()
        return {"done": True}

    graph = graphs.StateGraph(State)
    again = policy(**told, max_attempts=3, initial_interval=0.01, jitter=False)
    graph.add_node("node", node, retry_policy=again)
    graph.add_edge(graphs.START, "node")
    compiled = graph.compile()
    return lambda: compiled.ainvoke({"done": False})


def google(call: Any, told: dict[str, Any]) -> Any:
    library = importlib.import_module("google.api_core.retry_async")
    return library.AsyncRetry(**told, initial=0.01, timeout=60)(call)


LIBRARIES: dict[str, tuple[Callable[[Any, dict[str, Any]], Any], str]] = {
    "stamina": (stamina, "stamina"),
    "tenacity": (tenacity, "tenacity"),
    "langgraph": (langgraph, "langgraph.types"),
    "google.api_core": (google, "google.api_core.retry"),
}


def test_the_table_has_a_row_for_each_library() -> None:
    assert set(TABLE) == set(LIBRARIES)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("wrong", [ThrottleTimeout, ThrottleFull, ThrottleClosed, WeightTooLarge])
async def test_a_refusal_that_ends_is_tried_again_and_one_that_does_not_is_final(
    name: str, wrong: type[ResourceLimitError]
) -> None:
    retrying, module = LIBRARIES[name]
    library = pytest.importorskip(module)
    keyword, code = TABLE[name].split("=", 1)
    told = {keyword: eval(code, {**vars(exceptions), **vars(library)})}
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise wrong("refused")

    ends = wrong in (ThrottleTimeout, ThrottleFull)
    with nullcontext() if ends else pytest.raises(wrong):
        await retrying(call, told)()
    assert calls == (3 if ends else 1)


async def test_stamina_comes_back_when_the_refusal_says_so() -> None:
    library: Any = pytest.importorskip("stamina")
    throttle = Throttle(2, burst=1)

    def soon(error: Exception) -> bool | float:
        return (error.retry_after or True) if isinstance(error, ThrottleTimeout) else False

    @library.retry(on=soon, timeout=None)  # type: ignore[untyped-decorator]
    async def call() -> float:
        async with throttle(1, timeout=0):
            return now()

    assert [await call(), await call()] == [0.0, 0.5]


# --- slots and threads ---


class Work:
    """Takes until it is told to end, and counts how many threads do it at once."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.release()
        self.end.wait()
        with self.lock:
            self.running -= 1


@pytest.mark.virtual_time(False)
async def test_a_slot_that_is_taken_around_a_thread_is_free_before_the_thread_is() -> None:
    work, throttle = Work(), Throttle(math.inf, 1)

    async def call() -> None:
        async with throttle:
            await asyncio.to_thread(work)

    for _ in range(3):
        task = asyncio.create_task(call())
        await asyncio.to_thread(work.begun.acquire)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    work.end.set()
    assert work.most == 3


@pytest.mark.virtual_time(False)
async def test_a_slot_that_is_taken_in_the_thread_is_held_until_the_thread_ends() -> None:
    work, throttle = Work(), threads.Throttle(math.inf, 1)

    def run() -> None:
        with throttle:
            work()

    tasks = [await queued(asyncio.to_thread(run)) for _ in range(3)]
    await asyncio.to_thread(work.begun.acquire)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    work.end.set()
    for _ in range(2):
        await asyncio.to_thread(work.begun.acquire)
    await throttle.drain_async()
    assert work.most == 1


async def test_release_keeps_the_tokens_spent() -> None:
    throttle = Throttle(10, 1)
    await throttle.acquire(4)
    throttle.release()
    assert (throttle.active, throttle.level) == (0, 6)


def test_what_is_said_of_them_stands_where_they_are_met() -> None:
    assert "to_thread" in inspect.getdoc(Throttle).replace("\n", " ")  # type: ignore[union-attr]
    assert "stay spent" in (inspect.getdoc(Throttle.release) or "")


# ------------------------------------------------------------------------- clocks of other loops


async def a_minute_apart() -> float:
    """How long two calls take that are a minute apart, by the clock of the loop that runs them."""
    loop = asyncio.get_running_loop()
    throttle = Throttle(1, period=60, timer=loop.time)
    began = loop.time()
    await throttle.acquire()
    await throttle.acquire()
    return loop.time() - began


def in_looptime() -> float:
    looptime = importlib.import_module("looptime")
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        return runner.run(a_minute_apart())


def in_aiotools() -> float:
    clock = importlib.import_module("aiotools").VirtualClock()

    async def main() -> float:
        with clock.patch_loop():
            return await a_minute_apart()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("library", ["looptime", "aiotools"])
def test_a_throttle_follows_the_virtual_clock_of_another_loop(library: str) -> None:
    pytest.importorskip(library)
    took = {"looptime": in_looptime, "aiotools": in_aiotools}[library]()
    assert took == pytest.approx(60, abs=0.2)  # a *timer* is looked at every 0.1 s
