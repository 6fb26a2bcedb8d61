"""`ResourceGroup`: what is entered and left, in which order, and what is raised in the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import traceback
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import at, examples, now, others_run, queued

from async_throttle import (
    ConcurrencyLimiter,
    RateLimiter,
    ResourceGroup,
    Throttle,
    TimeoutManager,
    exceptions,
    testing,
)

pytestmark = pytest.mark.virtual_time


class Boom(Exception):
    """An error that is told from others by its name."""


class Stop(BaseException):
    """As KeyboardInterrupt is: no Exception."""


class Log:
    """What happened, in order; the error that was handed to an exit after its name."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def make(self, kind: str, name: str, **does: Any) -> Any:
        return KINDS[kind](self, name, **does)

    def async_manager(self, name: str, **does: Any) -> AsyncManager:
        return AsyncManager(self, name, **does)

    def closer(self, name: str, **does: Any) -> Closer:
        return Closer(self, name, **does)


class Resource:
    """Fails to be entered with *enter*; is left as *leave* says:

    pass; suppress; another error; the same error in another form; the very same error.
    """

    def __init__(
        self, log: Log, name: str, *, enter: str = "pass", leave: str = "pass", takes: float = 0
    ) -> None:
        self.log, self.name = log, name
        self.enters, self.leaves, self.takes = enter, leave, takes

    def __repr__(self) -> str:
        return self.name

    def into(self) -> None:
        if self.enters == "raise":
            raise Boom(f"enter {self.name}")
        self.log.events.append(f"+{self.name}")

    def out(self, error: BaseException | None) -> bool:
        self.log.events.append(f"-{self.name}" + (f" {error}" if error is not None else ""))
        if self.leaves == "raise":
            raise Boom(f"leave {self.name}")
        if self.leaves == "raise Stop":
            raise Stop(f"leave {self.name}")
        if self.leaves == "transform" and error is not None:
            raise Boom(f"{error} by {self.name}") from error
        if self.leaves == "again" and error is not None:
            raise error
        return self.leaves == "suppress"


class AsyncManager(Resource):
    async def __aenter__(self) -> None:
        await asyncio.sleep(self.takes)
        self.into()

    async def __aexit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        assert kind is (None if exc is None else type(exc))
        assert traceback is (None if exc is None else exc.__traceback__)
        try:
            await asyncio.sleep(self.takes)
        finally:
            suppress = self.out(exc)
        return suppress


class SyncManager(Resource):
    def __enter__(self) -> None:
        self.into()

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        return self.out(exc)


class Acloser(Resource):
    async def aclose(self) -> None:
        await asyncio.sleep(self.takes)
        self.out(None)

    def close(self) -> None:
        raise AssertionError("aclose() is preferred")


class Closer(Resource):
    def close(self) -> None:
        self.out(None)


class AwaitedCloser(Resource):
    async def close(self) -> None:
        await asyncio.sleep(self.takes)
        self.out(None)


KINDS: dict[str, type[Resource]] = {
    "async_manager": AsyncManager,
    "sync_manager": SyncManager,
    "acloser": Acloser,
    "closer": Closer,
    "awaited_closer": AwaitedCloser,
}
MANAGERS = ["async_manager", "sync_manager"]
each_kind = pytest.mark.parametrize("kind", KINDS)


async def grouped(*resources: Any) -> ResourceGroup:
    group = ResourceGroup()
    for resource in resources:
        assert await group.add(resource) is resource
    return group


async def failing(group: ResourceGroup, error: BaseException) -> None:
    async with group:
        raise error


async def holding(group: ResourceGroup, seconds: float) -> None:
    async with group:
        await asyncio.sleep(seconds)


async def held_until(instant: float, group: ResourceGroup) -> asyncio.Task[None]:
    """A task that holds *group* for a second, and has held it, or tried to, until now."""
    task = asyncio.create_task(holding(group, 1.0))
    await asyncio.sleep(instant)
    return task


async def left_by_cancelling(group: ResourceGroup) -> BaseException:
    """What is raised where a task that holds *group* is cancelled."""
    task = await queued(holding(group, 60))
    task.cancel("enough")
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await task
    return caught.value


def nobody_asked_to_cancel() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


def names(error: BaseException) -> Any:
    """An error by its name, a group by those that it holds."""
    if isinstance(error, BaseExceptionGroup):
        return [names(one) for one in error.exceptions]
    return str(error)


# --- entering and leaving ---


async def test_a_group_may_be_entered_again_after_it_was_left() -> None:
    log = Log()
    group = await grouped(log.async_manager("a"))
    async with group:
        await group.add(log.async_manager("b"))
    async with group:
        pass
    with pytest.raises(Boom):
        await failing(group, Boom("body"))
    async with group:
        assert log.events == [
            *("+a", "+b", "-b", "-a"),
            *("+a", "+b", "-b", "-a"),
            *("+a", "+b", "-b body", "-a body"),
            *("+a", "+b"),
        ]


async def test_a_group_cannot_be_entered_while_it_is() -> None:
    log = Log()
    group = await grouped(log.async_manager("a", takes=1.0))

    async def other() -> None:
        async with group:
            raise AssertionError("never reached")

    first = await held_until(0.5, group)
    for state in ("entered", "entered", "leaving"):  # the first while it is being entered
        assert state in repr(group)
        with pytest.raises(RuntimeError, match="one at a time"):
            await other()
        await asyncio.sleep(1.0)
    await first
    assert log.events == ["+a", "-a"]
    async with group:
        pass


async def test_limiters_in_a_group_are_held_by_it() -> None:
    rate, slots, throttle = RateLimiter(10.0), ConcurrencyLimiter(2), Throttle(5, 1)
    group = await grouped(rate, slots, throttle, throttle(3))
    throttle.concurrency = 2
    async with group:
        assert rate.throttle.level == 9.0
        assert (slots.throttle.active, throttle.active, throttle.level) == (1, 2, 1.0)
    assert (slots.throttle.active, throttle.active) == (0, 0)


async def test_groups_may_be_in_groups() -> None:
    log = Log()
    inner = await grouped(log.async_manager("b"), log.async_manager("c", leave="raise"))
    group = await grouped(log.async_manager("a"), inner, log.async_manager("d"))
    with pytest.raises(ExceptionGroup) as caught:
        await failing(group, Boom("body"))
    assert log.events == [
        *("+a", "+b", "+c", "+d", "-d body", "-c body", "-b leave c"),
        "-a while leaving a ResourceGroup (2 sub-exceptions)",
    ]
    assert names(caught.value) == ["body", "leave c"]  # and not this within another one


# --- add() and remove() ---


@each_kind
async def test_add_lists_in_a_group_that_is_not_entered(kind: str) -> None:
    log = Log()
    group = await grouped(log.make(kind, "a", enter="raise"))
    assert log.events == []
    assert repr(group) == "<async_throttle.ResourceGroup [not entered, resources:1]>"


@pytest.mark.parametrize("kind", MANAGERS)
async def test_what_cannot_be_entered_is_not_added(kind: str) -> None:
    log = Log()
    group = await grouped(log.closer("a"))
    async with group:
        with pytest.raises(Boom, match="enter b"):
            await group.add(log.make(kind, "b", enter="raise"))
        await group.add(log.closer("c"))
    async with group:
        pass
    assert log.events == ["-c", "-a"] * 2


class Half:
    async def __aenter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize(
    "what", [None, 5, "x", object(), Half(), RateLimiter, Closer, lambda: None, contextlib.suppress]
)
@pytest.mark.parametrize("entered", [True, False])
async def test_what_can_neither_be_entered_nor_closed_is_refused(what: Any, entered: bool) -> None:
    group = ResourceGroup()
    async with group if entered else contextlib.AsyncExitStack():
        with pytest.raises(TypeError, match="resource must be a context manager or") as refusal:
            await group.add(what)
    assert repr(what) in str(refusal.value)
    assert "resources:0" in repr(group)


async def test_a_coroutine_that_was_to_be_awaited_is_refused_and_closed() -> None:
    async def connect() -> Closer:
        raise AssertionError("never reached")

    coroutine: Any = connect()
    with pytest.raises(TypeError, match="<coroutine object"):
        await ResourceGroup().add(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


async def test_of_two_ways_to_be_left_the_better_one_is_taken() -> None:
    log = Log()

    class Both(AsyncManager, SyncManager, Acloser, Closer):
        pass

    class AndClose(SyncManager, Acloser):
        pass

    async with ResourceGroup() as group:
        await group.add(Both(log, "a", takes=1.0))
        assert now() == 1.0
        await group.add(AndClose(log, "b"))
        assert log.events == ["+a", "+b"]


async def test_generators_are_closed() -> None:
    log = []

    def generator() -> Generator[int, None, None]:
        try:
            yield 1
        finally:
            log.append("generator")

    async def async_generator() -> AsyncGenerator[int, None]:
        try:
            yield 2
        finally:
            log.append("asynchronous generator")

    async with ResourceGroup() as group:
        assert next(await group.add(generator())) == 1
        assert await anext(await group.add(async_generator())) == 2
    assert log == ["asynchronous generator", "generator"]


@each_kind
@pytest.mark.parametrize("entered", [True, False])
async def test_remove_leaves_what_is_entered_at_once_and_only_that(
    kind: str, entered: bool
) -> None:
    log = Log()
    resource = log.make(kind, "a")
    group = await grouped(log.closer("x"), resource, log.closer("y"))
    async with group if entered else contextlib.AsyncExitStack():
        log.events.clear()
        assert await group.remove(resource) is None  # type: ignore[func-returns-value]
        assert log.events == (["-a"] if entered else [])
        log.events.clear()
    assert log.events == (["-y", "-x"] if entered else [])
    log.events.clear()
    async with group:
        pass
    assert log.events == ["-y", "-x"]


async def test_remove_takes_the_last_one_of_two() -> None:
    log = Log()
    slots = ConcurrencyLimiter(2)
    group = await grouped(slots, log.closer("a"), slots)
    async with group:
        await group.remove(slots)
        assert slots.throttle.active == 1
        await group.add(log.closer("b"))
        await group.remove(slots)
        assert slots.throttle.active == 0
        with pytest.raises(ValueError, match="resource must be in the group"):
            await group.remove(slots)
    twice = log.closer("twice")
    async with await grouped(twice, log.closer("c"), twice) as group:
        await group.remove(twice)
    assert log.events == ["-b", "-a", "-twice", "-c", "-twice"]


async def test_remove_goes_by_identity() -> None:
    class Equal(Closer):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    log = Log()
    a, b = Equal(log, "a"), Equal(log, "b")
    async with await grouped(a) as group:
        with pytest.raises(ValueError, match="resource must be in the group, got b"):
            await group.remove(b)
        await group.add(b)
        await group.remove(a)
        assert log.events == ["-a"]


async def test_what_fails_to_be_left_is_removed_all_the_same() -> None:
    log = Log()
    resource = log.async_manager("a", leave="raise")
    async with await grouped(resource) as group:
        with pytest.raises(Boom, match="leave a"):
            await group.remove(resource)
        assert "resources:0" in repr(group)
    assert log.events == ["+a", "-a"]


# --- several tasks ---


async def test_what_is_being_added_while_the_group_is_left_is_left_too() -> None:
    log = Log()
    group = await grouped(log.async_manager("a"))
    async with group:
        adding = await queued(group.add(log.async_manager("slow", takes=1.0)))
    assert log.events == ["+a", "-a"]
    with pytest.raises(RuntimeError, match="slow was being entered"):
        await adding
    assert log.events == ["+a", "-a", "+slow", "-slow"]
    assert "resources:1" in repr(group)


async def test_what_is_added_while_the_group_is_being_left_is_listed_only() -> None:
    log = Log()
    group = await grouped(log.async_manager("a", takes=1.0))
    task = await held_until(2.5, group)
    assert repr(group) == "<async_throttle.ResourceGroup [leaving, resources:1]>"
    await group.add(log.async_manager("b"))
    await task
    assert log.events == ["+a", "-a"]
    async with group:
        pass
    assert log.events == ["+a", "-a", "+a", "+b", "-b", "-a"]


async def test_what_is_added_while_the_group_is_being_entered_is_entered_at_once() -> None:
    log = Log()
    group = await grouped(log.async_manager("a", takes=1.0), log.async_manager("b"))
    task = await held_until(0.5, group)
    await group.add(log.async_manager("c"))
    await task
    assert log.events == ["+c", "+a", "+b", "-b", "-a", "-c"]  # left in reverse of that
    log.events.clear()
    async with group:
        pass
    assert log.events == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_what_was_added_before_entering_failed_is_left_too() -> None:
    log = Log()
    group = await grouped(
        log.async_manager("a", takes=1.0), log.async_manager("b", enter="raise", takes=1.0)
    )
    task = await held_until(0.5, group)
    await group.add(log.async_manager("c"))
    with pytest.raises(Boom, match=r"^enter b$"):
        await task
    assert log.events == ["+c", "+a", "-a enter b", "-c enter b"]


async def test_what_is_removed_is_let_go_of() -> None:
    """A group that is held for days may see many come and go."""
    async with ResourceGroup() as group:
        resource = await group.add(Log().closer("a"))
        gone = weakref.ref(resource)
        await group.remove(resource)
        del resource
        gc.collect()
        assert gone() is None


async def test_what_is_removed_while_the_group_is_being_entered_is_not_held() -> None:
    log = Log()
    a, b, c = [log.async_manager(name, takes=1.0) for name in "abc"]
    group = await grouped(a, b, c)
    task = await held_until(0.5, group)
    await group.remove(a)  # which is being entered
    await group.remove(b)  # which is not yet
    await task
    assert log.events == ["+a", "-a", "+c", "-c"]


async def test_what_is_removed_while_the_group_is_being_left_is_left_once() -> None:
    log = Log()
    a, b, c = [log.async_manager(name, takes=1.0) for name in "abc"]
    group = await grouped(a, b, c)
    task = asyncio.create_task(holding(group, 1.0))
    await asyncio.sleep(4.5)  # c is being left
    removing = [asyncio.create_task(group.remove(resource)) for resource in (c, a)]
    await task
    await asyncio.gather(*removing)
    assert sorted(log.events) == ["+a", "+b", "+c", "-a", "-b", "-c"]


async def test_adding_may_be_cancelled() -> None:
    log = Log()
    async with ResourceGroup() as group:
        adding = await queued(group.add(log.async_manager("slow", takes=1.0)))
        adding.cancel()
        await others_run()
        assert adding.cancelled()
        assert "resources:0" in repr(group)
    assert log.events == []


# --- errors ---


async def test_each_error_has_the_one_before_as_its_context() -> None:
    log = Log()
    made = log.async_manager
    with pytest.raises(ExceptionGroup) as caught:
        await failing(
            await grouped(made("a", leave="raise"), made("b", leave="raise")), Boom("body")
        )
    body, b, a = caught.value.exceptions
    assert (a.__context__, b.__context__, body.__context__) == (b, body, None)


async def test_a_timeout_while_a_group_is_entered_is_not_lost_if_somebody_suppresses_it() -> None:
    """The cancellation would be raised, though nobody has cancelled the task."""
    log = Log()
    group = await grouped(
        TimeoutManager(1.0),
        log.async_manager("a", leave="suppress"),
        log.async_manager("b", takes=2.0),
    )
    with pytest.raises(exceptions.TimeoutError, match="the block timed out after 1 s"):
        await holding(group, 1.0)
    assert log.events == ["+a", "-a "]


# --- cancellation and what else is no Exception ---


async def test_a_cancellation_of_the_body_leaves_all_and_stays_one() -> None:
    log = Log()
    group = await grouped(log.async_manager("a"), log.closer("b"), log.async_manager("c"))
    assert type(await left_by_cancelling(group)) is asyncio.CancelledError
    assert log.events == ["+a", "+c", "-c enough", "-b", "-a enough"]


async def test_a_cancellation_while_one_is_left_does_not_keep_the_others_from_being_left() -> None:
    log = Log()
    group = await grouped(
        log.async_manager("a", takes=1.0), log.closer("b"), log.async_manager("c", takes=1.0)
    )
    task = asyncio.create_task(holding(group, 1.0))
    at(3.5, functools.partial(task.cancel, "enough"))
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert log.events == ["+a", "+c", "-c", "-b", "-a enough"]
    assert now() == 4.5  # a took its time


async def test_a_cancellation_is_raised_itself_with_the_others_as_its_context() -> None:
    log = Log()
    made = log.async_manager
    group = await grouped(made("a", leave="raise"), made("b", leave="raise"))

    async def body() -> None:
        async with group:
            try:
                raise Boom("earlier")
            except Boom:
                await asyncio.sleep(60)

    task = await queued(body())
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough") as caught:
        await task
    assert log.events[2:] == ["-b enough", "-a enough"]  # nobody overlooks it
    others = caught.value.__context__
    assert isinstance(others, ExceptionGroup)
    assert names(others) == ["leave b", "leave a"]
    assert str(others.__context__) == "earlier"
    told = "".join(traceback.format_exception(caught.value))
    assert all(part in told for part in ("enough", "leave a", "leave b", "earlier"))


async def test_a_cancellation_that_comes_after_an_error_is_raised_with_it_as_context() -> None:
    log = Log()
    group = await grouped(log.async_manager("a"), log.async_manager("b", takes=1.0))
    task = asyncio.create_task(failing(group, Boom("body")))
    at(1.5, functools.partial(task.cancel, "enough"))
    with pytest.raises(asyncio.CancelledError, match="enough") as caught:
        await task
    assert log.events == ["+a", "+b", "-b body", "-a enough"]
    assert names(caught.value.__context__ or Boom()) == ["body"]


async def test_other_exits_are_raised_themselves_too() -> None:
    log = Log()
    made = log.async_manager
    group = await grouped(made("a", leave="raise"), made("b", leave="raise Stop"), made("c"))
    with pytest.raises(Stop, match="leave b") as caught:
        await failing(group, Boom("body"))
    assert names(caught.value.__context__ or Boom()) == ["body", "leave a"]
    assert log.events[3:] == ["-c body", "-b body", "-a leave b"]
    with pytest.raises(Stop, match="leave b") as caught:
        await holding(await grouped(made("b", leave="raise Stop")), 1.0)
    assert caught.value.__context__ is None


async def test_whoever_suppresses_a_cancellation_does_not_hide_what_failed_beside_it() -> None:
    log = Log()
    made = log.async_manager
    group = await grouped(made("a"), made("b", leave="suppress"), made("c", leave="raise"))
    raised = await left_by_cancelling(group)
    assert log.events[3:] == ["-c enough", "-b enough", "-a leave c"]
    assert names(raised) == ["leave c"]


async def test_a_timeout_does_not_become_a_cancellation_if_something_fails_in_leaving() -> None:
    """Its error is raised from the cancellation: if that were lost on the way out, or raised in
    the end, nobody would know that it was a timeout."""
    log = Log()
    group = await grouped(
        log.closer("a", leave="raise"), TimeoutManager(1.0), log.closer("b", leave="raise")
    )
    with pytest.raises(ExceptionGroup) as caught:
        await holding(group, 60)
    assert names(caught.value) == ["the block timed out after 1 s", "leave b", "leave a"]
    assert nobody_asked_to_cancel()


@pytest.mark.parametrize(
    ("outer", "told"),
    [
        ("pass", ["leave inner", "the block timed out after 2.5 s"]),
        ("transform", ["leave inner by outer", "the block timed out after 2.5 s"]),
        ("suppress", "the block timed out after 2.5 s"),
    ],
)
async def test_such_a_timeout_stands_beside_what_failed_before_and_was_not_suppressed(
    outer: str, told: list[str] | str
) -> None:
    log = Log()
    made = log.async_manager
    group = await grouped(
        TimeoutManager(2.5),
        made("slow", takes=1.0),
        made("outer", leave=outer),
        made("inner", leave="raise"),
    )
    with pytest.raises(Exception, match=r"after 2.5 s|while leaving") as caught:
        await holding(group, 1.0)
    assert names(caught.value) == told
    assert now() == 2.5


async def test_a_timeout_manager_may_be_added_to_a_group_that_is_entered() -> None:
    async def body() -> None:
        async with ResourceGroup() as group:
            await asyncio.sleep(1.0)
            manager = await group.add(TimeoutManager(1.0))
            assert manager.remaining() == 1.0
            await group.remove(manager)
            await asyncio.sleep(5.0)
            await group.add(manager)
            await asyncio.sleep(60)

    with pytest.raises(exceptions.TimeoutError):
        await body()
    assert now() == 7.0


@pytest.mark.parametrize("leave", ["pass", "raise"])
async def test_a_task_group_may_be_in_a_group(leave: str) -> None:
    """Where one of its tasks fails it cancels the body, and takes that back as it is left."""
    log = Log()

    async def child() -> None:
        await asyncio.sleep(1.0)
        raise Boom("child")

    async def body() -> None:
        tasks = asyncio.TaskGroup()
        group = await grouped(log.closer("a"), tasks, log.closer("b", leave=leave))
        async with group:
            tasks.create_task(child())
            await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert names(caught.value) == (["child"] if leave == "pass" else [["child"], "leave b"])
    assert nobody_asked_to_cancel()
    assert now() == 1.0


async def test_a_task_group_whose_task_fails_while_the_group_is_left_is_raised_plain() -> None:
    log = Log()
    tasks = asyncio.TaskGroup()

    async def child() -> None:
        await asyncio.sleep(0.5)
        raise Boom("child")

    async def body() -> None:
        async with await grouped(tasks, log.async_manager("a", takes=1.0)):
            tasks.create_task(child())

    with pytest.raises(ExceptionGroup, match="TaskGroup") as caught:
        await body()
    assert names(caught.value) == ["child"]
    assert now() == 1.5


def test_a_group_serves_one_event_loop_after_the_other() -> None:
    log = Log()
    group = testing.run(grouped(log.async_manager("a"), RateLimiter(5)))
    for _ in range(2):
        testing.run(holding(group, 1.0))
    assert log.events == ["+a", "-a"] * 2


# --- any resources, against blocks that are really nested ---


class AsBlock:
    """What has only close(), as a context manager."""

    def __init__(self, resource: Any) -> None:
        self.resource = resource

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        closing = (getattr(self.resource, "aclose", None) or self.resource.close)()
        if closing is not None:
            await closing


Plan = list[tuple[str, str, str]]


def made(log: Log, plan: Plan) -> list[Any]:
    return [
        log.make(kind, f"r{index}", enter=enter, leave=leave)
        for index, (kind, enter, leave) in enumerate(plan)
    ]


async def nested(resources: list[Any], error: Exception | None) -> None:
    """The oracle."""
    if not resources:
        if error is not None:
            raise error
        return
    first, *others = resources
    if isinstance(first, SyncManager):
        with first:
            await nested(others, error)
    else:
        async with first if isinstance(first, AsyncManager) else AsBlock(first):
            await nested(others, error)


async def in_a_group(resources: list[Any], early: int, error: Exception | None) -> None:
    async with await grouped(*resources[:early]) as group:
        for resource in resources[early:]:
            await group.add(resource)
        if error is not None:
            raise error


def expected(log: Log, plan: Plan, error: str | None) -> list[str]:
    """What must be raised, from what the oracle did: the body's error, if any, first."""
    pending = [] if error is None else [error]
    for event in log.events:
        if event.startswith("-"):
            name, _, handed = event[1:].partition(" ")
            leave = plan[int(name[1:])][2]
            if leave == "raise":
                pending.append(f"leave {name}")
            elif leave == "suppress" and handed:
                pending.clear()
            elif leave == "transform" and handed:
                pending[-1] = f"{handed} by {name}"
    return pending


@examples(500)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from([*MANAGERS * 3, *KINDS]),
            st.sampled_from(["pass"] * 9 + ["raise"]),
            st.sampled_from(["pass", "pass", "raise", "suppress", "transform", "again"]),
        ),
        max_size=6,
    ),
    early=st.integers(0, 6),
    fails=st.booleans(),
)
def test_a_group_does_what_nested_blocks_do(plan: Plan, early: int, fails: bool) -> None:
    def run(block: Callable[[Log], Any]) -> tuple[list[str], BaseException | None]:
        log = Log()
        try:
            testing.run(block(log))
        except Exception as error:
            return log.events, error
        return log.events, None

    given_plan = plan = [
        (kind, enter, leave if kind in MANAGERS or leave == "raise" else "pass")
        for kind, enter, leave in plan
    ]
    enters = [
        index
        for index, (kind, enter, _) in enumerate(plan)
        if enter == "raise" and kind in MANAGERS
    ]
    if enters and enters[0] < early:  # nobody can suppress that
        plan = [
            (kind, enter, "pass" if leave == "suppress" else leave) for kind, enter, leave in plan
        ]
    error = f"enter r{enters[0]}" if enters else "body" if fails else None
    body = Boom("body") if fails else None
    log = Log()

    async def oracle(log: Log) -> None:
        await nested(made(log, plan), body)

    async def group(log: Log) -> None:
        await in_a_group(made(log, given_plan), early, body)

    events, told = run(oracle)
    log.events = events
    ours, raised = run(group)
    assert ours == events
    pending = expected(log, plan, error)
    assert (told is None) == (pending == [])
    added = any(name.startswith("leave") for name in pending)
    if not pending:
        assert raised is None
    elif added:
        assert type(raised) is ExceptionGroup
        assert names(raised) == pending
    else:
        assert type(raised) is Boom
        assert [str(raised)] == pending


@examples(300)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from(["timeout", "resource"]), st.integers(0, 12)), max_size=6
    ),
    takes=st.integers(0, 12),
)
def test_timeouts_in_a_group_are_raised_as_those_of_nested_blocks(
    plan: list[tuple[str, int]], takes: int
) -> None:
    """They may come while something is entered, in the body, and while something is left. The
    only difference: where the later of two would hide the earlier, both are raised."""

    def resources(log: Log) -> list[Any]:
        return [
            TimeoutManager(number)
            if kind == "timeout"
            else log.async_manager(f"r{index}", takes=number / 4)
            for index, (kind, number) in enumerate(plan)
        ]

    async def nested(resources: list[Any], expired: list[Exception]) -> None:
        if not resources:
            await asyncio.sleep(takes)
            return
        try:
            async with resources[0]:
                await nested(resources[1:], expired)
        except exceptions.TimeoutError as error:
            if error not in expired:
                expired.append(error)
            raise

    async def oracle(log: Log) -> Any:
        expired: list[Exception] = []
        with contextlib.suppress(exceptions.TimeoutError):
            await nested(resources(log), expired)
        told = [str(error) for error in expired]
        return told[0] if len(told) == 1 else told

    async def group(log: Log) -> Any:
        try:
            await holding(await grouped(*resources(log)), takes)
        except Exception as error:
            return names(error)
        return []

    async def run(block: Callable[[Log], Any]) -> tuple[Any, list[str], float, int]:
        log = Log()
        raised = await block(log)
        task = asyncio.current_task()
        assert task is not None
        ended, asked = now(), task.cancelling()
        await asyncio.sleep(60)  # a stray timer would cancel this
        return raised, log.events, ended, asked

    assert testing.run(run(group)) == testing.run(run(oracle))
