"""`TimeoutManager`: blocks, calls, parts and tries, and whose cancellation is whose."""

from __future__ import annotations

import asyncio
import builtins
import collections.abc
import contextvars
import functools
import gc
import inspect
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import at, examples, now, others_run, queued

from async_throttle import RateLimiter, TimeoutManager, exceptions, testing
from async_throttle.resources import Attempt

pytestmark = pytest.mark.virtual_time

Form = Callable[[float | None, Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


async def as_block(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    async with TimeoutManager(seconds):
        return await body


async def as_part(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    async with TimeoutManager(60).timeout(math.inf if seconds is None else seconds):
        return await body


async def as_call(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    return await TimeoutManager().run(body, timeout=seconds)


async def as_default_call(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    return await TimeoutManager(seconds).run(body)


async def as_decorator(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    @TimeoutManager(seconds)
    async def function() -> Any:
        return await body

    return await function()


async def as_attempt(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    for attempt in TimeoutManager().attempts([math.inf if seconds is None else seconds]):
        async with attempt:
            return await body
    raise AssertionError("never reached")


async def as_cascade(seconds: float | None, body: Coroutine[Any, Any, Any]) -> Any:
    return await TimeoutManager().cascade(lambda: body, [math.inf if seconds is None else seconds])


FORMS = [
    as_block,
    as_part,
    as_call,
    as_default_call,
    as_decorator,
    as_attempt,
    as_cascade,
]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def asked_to_cancel() -> int:
    """How often the current task was, by those who have not taken it back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def raising(error: BaseException) -> None:
    raise error


# --- every form ---


@each_form
def test_infinity_sets_no_timer(form: Form) -> None:
    with pytest.raises(testing.DeadlockError):  # with a timer, virtual time would go on and on
        testing.run(form(math.inf, asyncio.Event().wait()))


@each_form
@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
async def test_zero_and_less_are_over_where_the_body_first_waits(
    form: Form, seconds: float
) -> None:
    async def at_once() -> str:
        return "needs no time"

    assert await form(seconds, at_once()) == "needs no time"
    with pytest.raises(exceptions.TimeoutError, match="timed out after 0 s"):
        await form(seconds, asyncio.sleep(0))
    assert (now(), asked_to_cancel()) == (0.0, 0)


@each_form
async def test_the_errors_of_the_body_pass_unchanged(form: Form) -> None:
    for error in (KeyError("x"), builtins.TimeoutError("the body's"), exceptions.TimeoutError()):
        with pytest.raises(type(error)) as caught:
            await form(5.0, raising(error))
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)


@each_form
async def test_the_error_is_caught_by_either_name_and_caused_by_the_cancellation(
    form: Form,
) -> None:
    with pytest.raises(builtins.TimeoutError) as caught:
        await form(1.5, asyncio.sleep(60))
    assert type(caught.value) is exceptions.TimeoutError
    assert isinstance(caught.value, exceptions.ResourceError)
    assert type(caught.value.__cause__) is asyncio.CancelledError
    assert caught.value.__context__ is caught.value.__cause__
    assert str(caught.value).endswith(" timed out after 1.5 s")


@each_form
@pytest.mark.parametrize("instant", [2.0, 5.0, 5.5])
async def test_a_cancellation_from_outside_stays_one(form: Form, instant: float) -> None:
    """Before the deadline, with it, and while the body cleans up after it. Nobody else knows of
    the cancellation, so that it must not get lost."""

    async def body() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)

    task = await queued(form(5.0, body()))
    at(instant, functools.partial(task.cancel, "enough"))
    await asyncio.wait([task])
    assert task.cancelled()
    if instant < 5:
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
    await asyncio.sleep(60)


@each_form
async def test_a_cancellation_just_before_the_deadline_wins(form: Form) -> None:
    """Both come before the task runs again."""
    task = asyncio.create_task(asyncio.sleep(0))
    at(1.0, lambda: task.cancel())
    task = await queued(form(1.0, asyncio.sleep(60)))
    await asyncio.wait([task])
    assert (task.cancelled(), now()) == (True, 1.0)


@each_form
async def test_a_body_may_swallow_the_cancellation_or_raise_a_timeout_of_its_own(
    form: Form,
) -> None:
    error = builtins.TimeoutError("the body's")

    async def body(raises: bool) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if raises:
                raise error from None
        return "done all the same"

    assert await form(1.0, body(raises=False)) == "done all the same"
    with pytest.raises(builtins.TimeoutError) as caught:
        await form(1.0, body(raises=True))
    assert caught.value is error
    assert (now(), asked_to_cancel()) == (2.0, 0)


@each_form
async def test_it_gets_on_with_the_timeouts_of_asyncio(form: Form) -> None:
    with pytest.raises(builtins.TimeoutError) as caught:
        async with asyncio.timeout(1.0):
            await form(2.0, asyncio.sleep(60))
    assert type(caught.value) is builtins.TimeoutError
    with pytest.raises(builtins.TimeoutError) as caught:
        await form(2.0, asyncio.wait_for(asyncio.sleep(60), 1.0))
    assert type(caught.value) is builtins.TimeoutError
    with pytest.raises(exceptions.TimeoutError):
        await form(1.0, asyncio.wait_for(asyncio.sleep(60), 2.0))
    with pytest.raises(exceptions.TimeoutError):
        await asyncio.wait_for(form(1.0, asyncio.sleep(60)), 2.0)
    assert (now(), asked_to_cancel()) == (4.0, 0)


@each_form
async def test_it_gets_on_with_task_groups(form: Form) -> None:
    async def inside() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(asyncio.sleep(60))

    with pytest.raises(exceptions.TimeoutError):
        await form(1.0, inside())
    assert asked_to_cancel() == 0  # later some versions of TaskGroup leave one behind

    async def around() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(form(1.0, asyncio.sleep(60)))
            group.create_task(asyncio.sleep(60))

    with pytest.raises(ExceptionGroup) as caught:
        await around()
    assert [type(error) for error in caught.value.exceptions] == [exceptions.TimeoutError]
    assert now() == 2.0


# --- what timed out ---


async def fetch(url: str = "") -> None:
    await asyncio.sleep(60)


async def fetch_one() -> int:
    return 1


class Client:
    async def get(self) -> None:
        await asyncio.sleep(60)


async def test_the_error_names_what_timed_out() -> None:
    tm = TimeoutManager(2.5)
    future = asyncio.get_running_loop().create_future()
    slow = RateLimiter(0.1)
    await slow.acquire()

    async def block() -> None:
        async with tm:
            await fetch()

    async def part() -> None:
        async with tm.timeout(2.5):
            await fetch()

    for call, name in [
        (tm.run(fetch("x")), "fetch()"),
        (tm.run(Client().get()), "Client.get()"),
        (tm.run(asyncio.create_task(fetch())), "fetch()"),
        (tm.run(slow.acquire()), "Throttle.consume()"),
        (tm.run(future), "<Future cancelled>"),
        (tm(fetch)("x"), "fetch()"),
        (tm(Client.get)(Client()), "Client.get()"),
        (tm(functools.partial(fetch, "x"))(), repr(functools.partial(fetch, "x"))),
        (tm.cascade(fetch, [2.5]), "fetch()"),
        (tm.cascade(lambda: Client().get(), [1, 2.5]), "Client.get()"),
        (block(), "the block"),
        (part(), "the block"),
    ]:
        with pytest.raises(exceptions.TimeoutError) as caught:
            await call
        assert str(caught.value) == f"{name} timed out after 2.5 s"


# --- one instance, many entries ---


async def test_one_instance_may_be_nested_and_entered_again() -> None:
    tm = TimeoutManager(1.0)

    async def nested() -> None:
        async with tm:
            await asyncio.sleep(0.75)
            async with tm:
                assert tm.remaining() == 0.25
                await asyncio.sleep(60)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            await nested()
    assert now() == 2.0
    async with tm, tm, tm.timeout(0.5) as same:
        assert same is tm
        assert tm.remaining() == 0.5
    async with tm:
        await asyncio.sleep(0.5)
        async with tm:
            pass
        assert tm.remaining() == 0.5


async def test_tasks_that_share_a_context_leave_each_their_own_block() -> None:
    """The blocks that are open are in a context variable. Tasks may be given one context: then
    the last block in there is not that of the task that leaves."""
    tm = TimeoutManager(1.0)
    context = contextvars.copy_context()
    ended = []

    async def request(name: str, seconds: float) -> None:
        try:
            async with tm:
                await asyncio.sleep(seconds)
        except TimeoutError:
            name += " expired"
        ended.append((name, now()))

    a = asyncio.create_task(request("a", 60), context=context)
    await asyncio.sleep(0.25)
    b = asyncio.create_task(request("b", 60), context=context)
    c = asyncio.create_task(request("c", 0.5), context=context)
    await asyncio.gather(a, b, c)
    assert ended == [("c", 0.75), ("a expired", 1.0), ("b expired", 1.25)]


async def test_a_block_may_be_left_in_another_task_with_its_context() -> None:
    """As fixtures of tests are: set up in one task, torn down in another."""
    tm = TimeoutManager(1.0)
    context = contextvars.copy_context()
    await asyncio.create_task(tm.__aenter__(), context=context)
    await asyncio.create_task(tm.__aexit__(None, None, None), context=context)
    assert context.run(tm.remaining) == math.inf
    await asyncio.sleep(60)


async def test_leaving_what_was_not_entered_is_an_error() -> None:
    tm = TimeoutManager(1.0)
    with pytest.raises(RuntimeError, match="not entered"):
        await tm.__aexit__(None, None, None)
    async with TimeoutManager(1.0), tm.timeout(1.0):
        with pytest.raises(RuntimeError, match="not entered"):
            await tm.__aexit__(None, None, None)


async def test_a_block_that_is_over_cannot_be_left_by_a_task_that_inherited_it() -> None:
    tm = TimeoutManager(5.0)

    async def child() -> None:
        await asyncio.sleep(1)
        await tm.__aexit__(None, None, None)

    async with tm:
        task = asyncio.create_task(child())
    with pytest.raises(RuntimeError, match="not entered"):
        await task


async def test_a_part_and_an_attempt_are_entered_once() -> None:
    tm = TimeoutManager()
    for once in (tm.timeout(1.0), next(tm.attempts([1, 1]))):
        async with once:
            with pytest.raises(RuntimeError, match="once"):
                await once.__aenter__()
        with pytest.raises(RuntimeError, match="once"):
            await once.__aenter__()


async def test_a_part_without_a_number_takes_the_default_and_begins_when_it_is_entered() -> None:
    tm = TimeoutManager(1.0)
    part = tm.timeout()
    await asyncio.sleep(5)
    async with part:
        assert tm.remaining() == 1.0
    async with TimeoutManager().timeout() as tm:
        assert tm.remaining() == math.inf


async def test_blocks_may_be_left_in_another_order_than_entered() -> None:
    tm = TimeoutManager(3.0)
    part = tm.timeout(2.0)
    await tm.__aenter__()
    await part.__aenter__()
    await tm.__aexit__(None, None, None)
    assert tm.remaining() == 2.0
    await part.__aexit__(None, None, None)
    assert tm.remaining() == math.inf


async def test_a_part_keeps_its_deadline_where_a_generator_is_suspended_within_another() -> None:
    """The generator enters its block first and leaves it first, in the task of its consumer."""
    tm = TimeoutManager(60)

    async def pages() -> AsyncIterator[int]:
        async with tm.timeout(5.0):
            yield 1
            await asyncio.sleep(2)
            yield 2

    async def consume() -> None:
        others = pages()
        await anext(others)
        await asyncio.sleep(1)
        async with tm.timeout(7.0):
            assert tm.remaining() == 4.0
            assert [page async for page in others] == [2]
            assert tm.remaining() == 5.0
            await asyncio.sleep(60)

    with pytest.raises(exceptions.TimeoutError, match="after 7 s"):
        await consume()
    assert (now(), asked_to_cancel()) == (8.0, 0)


def test_one_instance_serves_one_event_loop_after_the_other() -> None:
    tm = TimeoutManager(1.0)

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with tm:
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            await tm.run(asyncio.sleep(60))
        return now()

    assert [testing.run(main()), testing.run(main())] == [2.0, 2.0]


def test_outside_of_a_task_it_is_refused_and_leaves_nothing_behind() -> None:
    tm = TimeoutManager(1.0)
    loop = testing.VirtualTimeLoop()
    refused = []

    def outside() -> None:
        entry = tm.__aenter__()
        try:
            entry.send(None)
        except RuntimeError as error:
            refused.append(str(error))
        assert tm.remaining() == math.inf
        loop.stop()

    loop.call_soon(outside)
    loop.run_forever()
    loop.close()
    assert refused == ["Timeout should be used inside a task"]


# --- run() ---


async def test_run_returns_a_coroutine_that_can_be_all_that_coroutines_can() -> None:
    tm = TimeoutManager(5.0)
    call = tm.run(asyncio.sleep(1, "done"))
    assert isinstance(call, collections.abc.Coroutine)
    assert asyncio.iscoroutine(call)
    assert await asyncio.gather(call, asyncio.create_task(tm.run(asyncio.sleep(1, 2)))) == [
        "done",
        2,
    ]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tm.run(asyncio.sleep(1, 3)))
    assert await asyncio.wait_for(asyncio.shield(tm.run(asyncio.sleep(1, 4))), 2.0) == 4
    assert (task.result(), now()) == (3, 3.0)


async def test_run_takes_whatever_can_be_awaited() -> None:
    tm = TimeoutManager(5.0)

    class Custom:
        def __await__(self) -> Any:
            return asyncio.sleep(1, "custom").__await__()

    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    assert await tm.run(Custom()) == "custom"
    assert await tm.run(future) == "future"
    assert await tm.run(asyncio.create_task(asyncio.sleep(1, "task"))) == "task"
    assert await tm.run(tm.run(asyncio.sleep(1, "run"), timeout=2), timeout=1.5) == "run"
    await tm.run(RateLimiter(1).acquire())
    assert list(await tm.run(asyncio.gather(asyncio.sleep(1), fetch_one()))) == [None, 1]


async def test_run_cancels_a_task_that_it_awaits_unless_that_is_shielded() -> None:
    tm = TimeoutManager(1.0)
    task = asyncio.create_task(asyncio.sleep(60))
    with pytest.raises(TimeoutError):
        await tm.run(task)
    assert task.cancelled()
    task = asyncio.create_task(asyncio.sleep(60))
    with pytest.raises(TimeoutError):
        await tm.run(asyncio.shield(task))
    await task
    assert now() == 61.0


@pytest.mark.parametrize("what", [fetch, None, 5, "fetch()", asyncio.sleep])
def test_run_refuses_what_cannot_be_awaited(what: Any) -> None:
    tm: Any = TimeoutManager()
    with pytest.raises(TypeError, match="coro must be awaitable") as refusal:
        tm.run(what)
    assert repr(what) in str(refusal.value)


def state(coroutine: Coroutine[Any, Any, Any]) -> str:
    return inspect.getcoroutinestate(coroutine)


async def test_a_run_that_never_begins_closes_the_coroutine() -> None:
    tm: Any = TimeoutManager()
    for bad, error in ((math.nan, ValueError), ("2", TypeError), ([], TypeError)):
        inner = fetch()
        with pytest.raises(error, match="timeout"):
            tm.run(inner, timeout=bad)
        assert state(inner) == inspect.CORO_CLOSED
    inner = fetch()
    call = tm.run(inner)
    call.close()
    assert state(inner) == inspect.CORO_CLOSED
    inner = fetch()
    task = asyncio.create_task(tm.run(inner))
    task.cancel()
    await others_run()
    assert task.cancelled()
    assert state(inner) == inspect.CORO_CLOSED


def test_a_run_that_is_forgotten_closes_the_coroutine_and_is_told_of_itself() -> None:
    inner = fetch()
    call = TimeoutManager(1.0).run(inner)
    with pytest.warns(RuntimeWarning, match="never awaited") as told:
        del call
    assert [str(one.message) for one in told] == [
        "coroutine 'TimeoutManager._run' was never awaited"
    ]
    del told  # which holds the coroutine that it tells of
    assert state(inner) == inspect.CORO_CLOSED


async def test_a_run_that_is_closed_halfway_closes_the_coroutine() -> None:
    async def main() -> None:
        inner = fetch()
        call = TimeoutManager(1.0).run(inner)
        call.send(None)
        call.close()
        assert state(inner) == inspect.CORO_CLOSED

    await asyncio.create_task(main())
    await asyncio.sleep(60)  # nothing is left that would cancel later


async def test_a_coroutine_that_runs_elsewhere_is_left_alone() -> None:
    inner = asyncio.sleep(5, "done")
    task = await queued(inner)
    with pytest.raises(RuntimeError, match="being awaited already"):
        await TimeoutManager(1.0).run(inner)
    gc.collect()
    assert await task == "done"


async def test_what_is_no_coroutine_is_not_closed() -> None:
    """asyncpg's pool, for one, can be awaited, and has a close() of another meaning."""

    class Pool:
        def __await__(self) -> Any:
            return asyncio.sleep(0).__await__()

        def close(self) -> None:
            raise AssertionError("closed")

    tm: Any = TimeoutManager()
    tm.run(Pool()).close()
    with pytest.raises(ValueError, match="timeout"):
        tm.run(Pool(), timeout=math.nan)


def test_a_run_shows_where_its_coroutine_stands() -> None:
    with pytest.raises(testing.DeadlockError, match=r"TimeoutManager\._run[\s\S]*Event\.wait"):
        testing.run(TimeoutManager().run(asyncio.Event().wait()))


# --- as a decorator ---


# --- remaining() ---


async def test_remaining_is_the_time_until_the_earliest_deadline_of_any_manager() -> None:
    tm = TimeoutManager()
    assert tm.remaining() == math.inf
    async with tm:
        assert tm.remaining() == math.inf
        async with TimeoutManager(5.0):
            await asyncio.sleep(1)
            assert tm.remaining() == 4.0
            async with tm.timeout(60):
                assert tm.remaining() == 4.0
                async with tm.timeout(3):
                    assert tm.remaining() == 3.0
                assert tm.remaining() == 4.0
        assert tm.remaining() == math.inf


async def test_remaining_is_zero_once_the_deadline_is_over() -> None:
    tm = TimeoutManager(1.0)
    seen = []

    async def body() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(tm.remaining())
            await asyncio.sleep(1)
            seen.append(tm.remaining())

    with pytest.raises(TimeoutError):
        async with tm:
            await body()
    assert seen == [0.0, 0.0]
    assert tm.remaining() == math.inf


async def test_remaining_counts_every_form() -> None:
    async def look() -> float:
        return TimeoutManager.remaining()

    for form in FORMS:
        assert await form(3.0, look()) == 3.0
        assert await form(None, look()) in (math.inf, 60.0)
        assert await look() == math.inf


async def test_child_tasks_inherit_what_remains_while_the_block_lasts() -> None:
    tm = TimeoutManager(5.0)
    seen = []

    async def child() -> None:
        for _ in range(3):
            seen.append((now(), tm.remaining()))
            await asyncio.sleep(1)
        async with tm.timeout(2.0):
            seen.append((now(), tm.remaining()))

    async with tm:
        other = await queued(tm.run(asyncio.sleep(1), timeout=2.0))
        assert tm.remaining() == 5.0  # what a child opens is not its parent's
        task = asyncio.create_task(child())
        await asyncio.sleep(1.5)
    await other
    assert tm.remaining() == math.inf
    await task
    assert seen == [(0.0, 5.0), (1.0, 4.0), (2.0, math.inf), (3.0, 2.0)]


async def test_a_thread_sees_what_remains() -> None:
    tm = TimeoutManager(5.0)
    assert await asyncio.to_thread(tm.remaining) == math.inf
    async with tm:
        await asyncio.sleep(1)
        assert await asyncio.to_thread(tm.remaining) == 4.0


async def test_tasks_that_start_one_another_do_not_hand_on_ever_more() -> None:
    """Each enters its block while that of the task that started it is still open."""
    tm = TimeoutManager(5.0)
    sizes = []

    async def worker(n: int) -> None:
        await asyncio.sleep(0.9)
        async with tm:
            held = [value for value in contextvars.copy_context().values() if tm_holds(value)]
            sizes.append(sum(len(value) for value in held))
            if n:
                workers.append(asyncio.create_task(worker(n - 1)))
            await asyncio.sleep(1)

    def tm_holds(value: object) -> bool:
        return isinstance(value, tuple) and any(hasattr(item, "_manager") for item in value)

    workers = [asyncio.create_task(worker(20))]
    for task in workers:  # which grows
        await task
    assert sizes == [1] + [2] * 20


async def test_a_block_that_is_over_keeps_nothing_alive() -> None:
    """A task that outlives the block it was started in has it in its context."""
    tm = TimeoutManager(5.0)
    released = asyncio.Event()

    class Job:
        def __await__(self) -> Any:
            children.append(asyncio.create_task(released.wait()))
            yield from asyncio.sleep(1).__await__()
            return self

    async def parent() -> Job:
        async with tm:
            children.append(asyncio.create_task(released.wait()))
            return await tm.run(Job())

    children: list[asyncio.Task[Any]] = []
    task = asyncio.create_task(parent())
    job = weakref.ref(await task)
    del task
    await others_run()
    gc.collect()
    assert job() is None
    released.set()
    await asyncio.gather(*children)


def test_a_block_that_is_over_does_not_keep_its_loop_alive() -> None:
    """A context may outlive the loop: that of a thread, or of a callback that somebody keeps."""

    async def main() -> contextvars.Context:
        async with TimeoutManager(5.0):
            context = contextvars.copy_context()
            assert context.run(TimeoutManager.remaining) == 5.0
        return context

    loop = testing.VirtualTimeLoop()
    context = loop.run_until_complete(main())
    loop.close()
    closed = weakref.ref(loop)
    del loop
    gc.collect()
    assert closed() is None
    assert context.run(TimeoutManager.remaining) == math.inf


# --- attempts and cascade ---


async def in_attempts(timeouts: list[float], body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    for attempt in TimeoutManager().attempts(timeouts):
        async with attempt:
            await body()


async def test_attempts_follow_one_another_until_one_is_in_time() -> None:
    seen: list[Any] = []
    for attempt in TimeoutManager().attempts([0.5, 1, 2, 4]):
        async with attempt as same:
            assert same is attempt
            assert attempt.timeout == TimeoutManager.remaining()
            seen.append((attempt.number, attempt.timeout, now()))
            await asyncio.sleep(1.5)
            seen.append("done")
    assert seen == [(1, 0.5, 0.0), (2, 1, 0.5), (3, 2, 1.5), "done"]
    assert (now(), asked_to_cancel()) == (3.0, 0)


class Tries(list[float]):
    """When each began."""

    def __init__(self, what: Callable[[], Coroutine[Any, Any, object]] = fetch) -> None:
        self.what = what

    async def __call__(self) -> None:
        self.append(now())
        await self.what()


async def test_the_last_expiry_is_raised() -> None:
    tries = Tries()
    with pytest.raises(exceptions.TimeoutError, match=r"^attempt 3 of 3 timed out after 2 s$"):
        await in_attempts([0.5, 1.0, 2.0], tries)
    assert (tries, now(), asked_to_cancel()) == ([0.0, 0.5, 1.5], 3.5, 0)


@pytest.mark.parametrize(
    "error", [KeyError("x"), builtins.TimeoutError("theirs"), exceptions.TimeoutError("theirs")]
)
async def test_what_is_not_the_attempt_s_own_expiry_passes(error: Exception) -> None:
    tries = Tries(lambda: raising(error))
    with pytest.raises(type(error)) as caught:
        await in_attempts([1, 1], tries)
    assert caught.value is error
    assert tries == [0.0]
    tries = Tries(lambda: TimeoutManager(0.5).run(fetch()))
    with pytest.raises(exceptions.TimeoutError, match=r"^fetch\(\) timed out after 0.5 s$"):
        await in_attempts([1, 1], tries)
    assert tries == [0.0]


async def test_break_and_continue_and_the_end_of_the_block_end_the_loop() -> None:
    tries = []
    for attempt in TimeoutManager().attempts([1, 1]):
        async with attempt:
            tries.append("break")
            break
    for word in ("continue", "end"):
        for attempt in TimeoutManager().attempts([1, 1]):
            async with attempt:
                tries.append(word)
                if word == "continue":
                    continue
    assert tries == ["break", "continue", "end"]


@pytest.mark.parametrize("limit", [1.0, 1.5, 2.0])
async def test_the_expiry_of_a_block_around_the_attempts_passes(limit: float) -> None:
    """At 1.0 and 2.0 it comes together with that of an attempt."""
    tries = Tries()
    with pytest.raises(exceptions.TimeoutError, match=f"the block timed out after {limit:g} s"):
        async with TimeoutManager(limit):
            await in_attempts([1.0, 1.0, 1.0], tries)
    assert (now(), asked_to_cancel()) == (limit, 0)
    assert tries == [0.0, 1.0][: math.ceil(limit)]


async def test_a_cancellation_ends_the_attempts() -> None:
    tries = Tries()
    task = await queued(in_attempts([1.0, 1.0], tries))
    at(1.0, task.cancel)
    await asyncio.wait([task])
    assert (task.cancelled(), tries) == (True, [0.0])


async def test_an_attempt_that_was_not_entered_is_an_error_that_tells_how() -> None:
    attempts = TimeoutManager().attempts([1, 1])
    assert next(attempts).number == 1
    with pytest.raises(RuntimeError, match=r"^attempt 1 .*'async with attempt:'"):
        next(attempts)
    with pytest.raises(StopIteration):
        next(attempts)


async def test_cascade_lets_other_errors_pass() -> None:
    calls: Iterator[Callable[[], Awaitable[None]]] = iter(
        [lambda: asyncio.sleep(60), lambda: raising(KeyError("x"))]
    )
    with pytest.raises(KeyError):
        await TimeoutManager().cascade(lambda: next(calls)(), [1, 1, 1])
    assert now() == 1.0

    def broken() -> Awaitable[None]:
        raise LookupError

    with pytest.raises(LookupError):
        await TimeoutManager().cascade(broken, [1])


def test_cascade_takes_a_function_and_closes_a_coroutine() -> None:
    inner = fetch()
    tm: Any = TimeoutManager()
    with pytest.raises(TypeError, match=r"make_coro .*a function .* got <coroutine object fetch"):
        tm.cascade(inner, [1])
    assert state(inner) == inspect.CORO_CLOSED


# --- numbers ---


BAD = [
    (math.nan, ValueError),
    (Decimal("nan"), ValueError),
    ("2", TypeError),
    (b"2", TypeError),
    (10**400, ValueError),
    ([], TypeError),
    (1j, TypeError),
]


@pytest.mark.parametrize(("bad", "error"), BAD)
def test_what_is_no_number_of_seconds_is_refused_by_its_name(
    bad: Any, error: type[Exception]
) -> None:
    tm = TimeoutManager()
    calls: list[tuple[str, Callable[[], object]]] = [
        ("default_timeout", lambda: TimeoutManager(bad)),
        ("timeout", lambda: tm.timeout(bad)),
        ("timeout", lambda: tm.run(fetch(), timeout=bad)),
        (r"timeouts\[1\]", lambda: tm.attempts([1, bad])),
        (r"timeouts\[0\]", lambda: tm.cascade(fetch, [bad, 1])),
    ]
    for name, call in calls:
        with pytest.raises(error, match=f"^{name} must be a number of seconds, got ") as refusal:
            call()
        assert repr(bad) in str(refusal.value)


@pytest.mark.parametrize(
    ("series", "error"), [([], ValueError), ({}, ValueError), (0.5, TypeError), (None, TypeError)]
)
def test_what_is_no_series_of_timeouts_is_refused(series: Any, error: type[Exception]) -> None:
    tm = TimeoutManager()
    calls: list[Callable[[], object]] = [
        lambda: tm.attempts(series),
        lambda: tm.cascade(fetch, series),
    ]
    for call in calls:
        with pytest.raises(error, match=r"^timeouts must hold at least one"):
            call()
    with pytest.raises(TypeError, match=r"timeouts\[1\] .* got None"):  # it has no default
        TimeoutManager(1.0).attempts([1, None])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def test_an_error_that_a_series_of_timeouts_raises_passes() -> None:
    def series() -> Iterator[float]:
        yield 1.0
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        TimeoutManager().attempts(series())


@pytest.mark.parametrize("seconds", [1, 1.0, Fraction(1), Decimal(1), True])
async def test_all_kinds_of_numbers_will_do(seconds: Any) -> None:
    with pytest.raises(TimeoutError, match="after 1 s"):
        await TimeoutManager().run(fetch(), timeout=seconds)
    assert now() == 1.0
    assert TimeoutManager(seconds).default_timeout == 1.0


def test_managers_and_attempts_say_what_they_are() -> None:
    assert repr(TimeoutManager()) == "<async_throttle.TimeoutManager [no default]>"
    assert repr(TimeoutManager(2.50)) == "<async_throttle.TimeoutManager [default:2.5 s]>"
    assert TimeoutManager().default_timeout is None
    first = next(TimeoutManager().attempts([0.5, 1]))
    assert isinstance(first, Attempt)
    assert repr(first) == "<async_throttle.resources.Attempt 1 of 2, 0.5 s>"


# --- any nesting ---


@examples(300)
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(FORMS), st.sampled_from([None, 0, 1, 2, 3])),
        min_size=1,
        max_size=4,
    ),
    takes=st.sampled_from([0, 1, 2, 3, 4]),
    cleaning=st.sampled_from([0, 0.5, 2.5]),
)
def test_in_any_nesting_one_error_comes_and_no_cancellation_stays(
    blocks: list[tuple[Form, float | None]], takes: float, cleaning: float
) -> None:
    """Two deadlines may come: the earliest, and the next one if it falls into the cleaning up.
    The outermost of the blocks to which they belong raises, the others see a cancellation."""

    async def body() -> str:
        try:
            await asyncio.sleep(takes)
        except asyncio.CancelledError:
            await asyncio.sleep(cleaning)
            raise
        return "done"

    async def main() -> tuple[str, float, int]:
        nested: Coroutine[Any, Any, str] = body()
        for form, seconds in reversed(blocks):
            nested = form(seconds, nested)
        try:
            result = await nested
        except exceptions.TimeoutError as error:
            result = str(error).rpartition(" after ")[2]
        ended, asked = now(), asked_to_cancel()
        await asyncio.sleep(60)  # a stray timer would cancel this
        return result, ended, asked

    limits = [math.inf if seconds is None else seconds for _, seconds in blocks]
    earliest = min(limits)
    if takes < earliest:
        assert testing.run(main()) == ("done", takes, 0)
        return
    clean = earliest + cleaning
    ends = min([clean, *(limit for limit in limits if limit > earliest)])
    outermost = next(limit for limit in limits if limit in (earliest, ends))
    assert testing.run(main()) == (f"{outermost:g} s", ends, 0)
