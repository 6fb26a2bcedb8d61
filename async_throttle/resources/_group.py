"""ResourceGroup: resources that are entered in order and left in reverse, whatever fails.

Each resource has a `contextlib.AsyncExitStack` of its own, which knows the kinds. What is done
here is to go on when leaving one fails, and to keep account of what is to be raised in the end.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeVar

__all__ = ["ResourceGroup"]

T = TypeVar("T")

MESSAGE: Final = "while leaving a ResourceGroup"


class ResourceGroup:
    """Resources that are entered together, in order, and left together, in reverse.

    ::

        group = ResourceGroup()
        limiter = await group.add(RateLimiter(10.0))
        session = await group.add(aiohttp.ClientSession())

        async with group:
            ...
            cache = await group.add(Cache())    # entered at once, left with the others
            await group.remove(session)         # left at once

    A resource is an asynchronous context manager, or else a synchronous one, or else has
    ``aclose()`` or ``close()``, which is awaited if there is something to await. Of limiters it is
    the block that is entered: a `RateLimiter` costs one token, a `ConcurrencyLimiter` is held, a
    `TimeoutManager` limits all that is done in the group.

    When the group is left, all of them are, also if some fail and if the task is cancelled
    meanwhile. The exception of the body goes from the innermost resource outwards, as through
    nested blocks: each may suppress it, or raise another one, which those further out see.
    What is raised in the end:

    - the exception of the body, if leaving added none. It may have got a new form on the way:
      what is raised ``from`` it, or as a group that holds it, or by whoever takes a cancellation
      back (``uncancel``), such as `asyncio.timeout` and task groups, stands in its place. If the
      body raised nothing, the same goes for a cancellation that comes while the group is left;
    - otherwise an ExceptionGroup of all, that of the body first; also if there is only one;
    - a CancelledError, KeyboardInterrupt and the like itself, with those others as its context.
      It is also what goes on outwards, whatever else fails: nobody overlooks a cancellation.

    Where entering one fails, those before it are left in the same way, and none can suppress that.

    It may be entered again after it was left, by one at a time. Not thread-safe.

    >>> from async_throttle import testing
    >>> class Shelf:
    ...     def __init__(self, name): self.name = name
    ...     async def __aenter__(self): print("open", self.name)
    ...     async def __aexit__(self, *error): print("close", self.name)
    >>> async def main():
    ...     group = ResourceGroup()
    ...     await group.add(Shelf("a"))
    ...     async with group:
    ...         await group.add(Shelf("b"))
    >>> testing.run(main())
    open a
    open b
    close b
    close a
    """

    __module__ = "async_throttle"

    # _members  in order of being added
    # _entered  those that are to be left, in order of having been entered: what is added while
    #           the others are still being entered comes before them
    # _open     from the start of entering to the start of leaving: newcomers are entered
    # _busy     from the start of entering to the end of leaving: nobody else can enter
    __slots__ = ("__weakref__", "_busy", "_entered", "_members", "_open")

    def __init__(self) -> None:
        self._members: list[_Member] = []
        self._entered: list[_Member] = []
        self._open = False
        self._busy = False

    async def add(self, resource: T) -> T:
        """Add *resource* and return it; in a group that is entered it is entered at once.

        If that fails, it is not in the group.

        Raises:
            TypeError: *resource* is nothing that could be entered or closed.
            RuntimeError: the group was left while *resource* was being entered. It is left, too.
        """
        member = _Member(resource)
        if self._open:
            await member.enter()
            if not self._open:
                await member.leave()
                raise RuntimeError(f"{self!r} was left while {resource!r} was being entered")
            self._entered.append(member)
        self._members.append(member)
        return resource

    async def remove(self, resource: object) -> None:
        """Remove *resource*, if it is in twice the one that came last; it is left, if entered.

        What fails in leaving it is raised here, and it is removed all the same.

        Raises:
            ValueError: *resource* is not in the group.
        """
        for member in reversed(self._members):
            if member.resource is resource:
                self._members.remove(member)
                if member in self._entered:
                    self._entered.remove(member)
                    await member.leave()
                return
        raise ValueError(f"resource must be in the group, got {resource!r}")

    async def __aenter__(self) -> Self:
        if self._busy:
            raise RuntimeError(f"{self!r} is entered already: one at a time")
        self._busy = self._open = True
        try:
            for member in self._members.copy():
                if member in self._members:  # not removed meanwhile
                    await member.enter()
                    if member in self._members:
                        self._entered.append(member)
                    else:
                        await member.leave()
        except BaseException as error:
            # Nobody can suppress it: without the body there is nowhere to go on.
            await self._leave(error, suppressible=False)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._leave(exc)

    async def _leave(self, body: BaseException | None, *, suppressible: bool = True) -> bool:
        """Leave all members; True if *body* was suppressed, False if it is to be raised."""
        self._open = False
        unwinding = _Unwinding(body, suppressible)
        try:
            while self._entered:
                await unwinding.leave(self._entered.pop())
            return unwinding.conclude()
        finally:
            self._busy = False

    def __repr__(self) -> str:
        state = "entered" if self._open else "leaving" if self._busy else "not entered"
        return f"<async_throttle.ResourceGroup [{state}, resources:{len(self._members)}]>"


class _Member:
    """A resource in a group.

    Attributes:
        resource: what was added.
    """

    # _stack  what leaves it, once it is entered
    __slots__ = ("_stack", "resource")

    def __init__(self, resource: Any) -> None:
        self.resource = resource
        self._stack = AsyncExitStack()
        if not (_is_async(resource) or _is_sync(resource)):
            _closing(resource)

    async def enter(self) -> None:
        if _is_async(self.resource):
            await self._stack.enter_async_context(self.resource)
        elif _is_sync(self.resource):
            self._stack.enter_context(self.resource)
        else:
            self._stack.push_async_callback(_call, _closing(self.resource))

    async def leave(self, error: BaseException | None = None) -> bool | None:
        """Leave it; true if it suppressed *error*."""
        if error is None:
            return await self._stack.__aexit__(None, None, None)
        return await self._stack.__aexit__(type(error), error, error.__traceback__)


class _Unwinding:
    """What is to be raised, while one member after the other is left."""

    # _body    what the body raised
    # _suppressible     whether it counts if a member suppresses what it is handed
    # _errors  in the order in which they came; that of the body, in its present form, first
    # _added   whether leaving raised one of them. A cancellation is not counted: it comes while
    #          something is left, but from elsewhere, and whoever sent it may take it back
    __slots__ = ("_added", "_body", "_errors", "_suppressible")

    def __init__(self, body: BaseException | None, suppressible: bool) -> None:
        self._body = body
        self._suppressible = suppressible
        self._added = False
        self._errors = [] if body is None else [body]

    async def leave(self, member: _Member) -> None:
        """Leave *member*, which is handed what is to be raised so far."""
        at = self._foremost()
        handed = self._errors[at] if self._errors else None
        requests = _cancelling()
        try:
            if await member.leave(handed) and self._suppressible:
                # With it goes what it has replaced, not what failed beside it.
                del self._errors[: at + 1]
                self._added = bool(self._errors)
        except BaseException as error:
            if _among(error, self._errors):
                return
            if handed is not None and _succeeds(error, handed, _cancelling() < requests):
                self._errors[at] = error
            else:
                self._errors.append(error)
                self._added |= isinstance(error, Exception)

    def conclude(self) -> bool:
        """Raise what is to be raised, unless that is what the body raised: then False."""
        if not self._errors:
            return self._body is not None
        error = self._errors[self._foremost()]
        if isinstance(error, Exception) and (self._added or len(self._errors) > 1):
            raise BaseExceptionGroup(MESSAGE, self._errors) from None
        others = [other for other in self._errors if other is not error]
        if others:
            group = BaseExceptionGroup(MESSAGE, others)
            group.__context__, error.__context__ = error.__context__, group
        if error is self._body:
            return False
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not what is being handled where it is raised

    def _foremost(self) -> int:
        """Which one goes on outwards: the last that is no Exception, or else the last."""
        for at in reversed(range(len(self._errors))):
            if not isinstance(self._errors[at], Exception):
                return at
        return len(self._errors) - 1


def _succeeds(error: BaseException, handed: BaseException, taken_back: bool) -> bool:
    """Whether *error* is what *handed* has become, and no other one beside it.

    Of two cancellations only the later goes on: whoever takes one back cannot tell which it is,
    and the other would be left over.
    """
    if error.__cause__ is handed:
        return True
    if isinstance(error, BaseExceptionGroup) and _among(handed, error.exceptions):
        return True
    return isinstance(handed, asyncio.CancelledError) and (
        taken_back or isinstance(error, asyncio.CancelledError)
    )


def _among(error: BaseException, errors: Sequence[BaseException]) -> bool:
    return any(error is other for other in errors)


def _cancelling() -> int:
    """How often this task was asked to cancel by those who have not taken it back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _is_async(resource: object) -> bool:
    return hasattr(type(resource), "__aenter__") and hasattr(type(resource), "__aexit__")


def _is_sync(resource: object) -> bool:
    return hasattr(type(resource), "__enter__") and hasattr(type(resource), "__exit__")


def _closing(resource: Any) -> Callable[[], object]:
    """What closes *resource*, which is no context manager."""
    if isinstance(resource, Coroutine):
        resource.close()  # what it would have returned was meant
    elif not isinstance(resource, type):
        for name in ("aclose", "close"):
            method = getattr(resource, name, None)
            if callable(method):
                return method  # type: ignore[no-any-return]
    raise TypeError(
        f"resource must be a context manager or have aclose() or close(), got {resource!r}"
    )


async def _call(method: Callable[[], object]) -> None:
    result = method()
    if inspect.isawaitable(result):
        await result
