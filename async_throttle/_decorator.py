"""Functions that run within a block: what all decorators of the package make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

__all__ = ["is_to_be_decorated", "within", "within_either"]

P = ParamSpec("P")


def is_to_be_decorated(value: object) -> bool:
    """Whether *value*, given in the place of a weight, is meant to be decorated."""
    if not callable(value):
        return isinstance(value, classmethod)  # to be refused: no weight is one
    from numbers import Real  # few weights can be called

    return not isinstance(value, Real)


def within(what: str, func: Callable[P, Any], enter: Callable[[], Any]) -> Callable[P, Any]:
    """*func*, an ``async def``, in the block ``enter()``; *what* refuses anything else."""
    if not inspect.iscoroutinefunction(func):
        raise TypeError(f"{what} decorates an async def, got {func!r}")

    @functools.wraps(func)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        async with enter():
            return await func(*args, **kwargs)

    return call


def within_either(what: str, func: Callable[P, Any], enter: Callable[[], Any]) -> Callable[P, Any]:
    """The same for what is entered with ``with`` too: a ``def`` may be decorated as well."""
    if inspect.iscoroutinefunction(func):
        return within(what, func, enter)
    if not callable(func):
        raise TypeError(f"{what} decorates a function, got {func!r}")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{what} decorates a function, got a generator: {func!r}")
    if inspect.iscoroutinefunction(_call_of(func)):
        raise TypeError(f"{what} decorates an async def, got an object to be awaited: {func!r}")

    @functools.wraps(func)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        with enter():
            return func(*args, **kwargs)

    return call


def _call_of(func: Callable[..., Any]) -> Any:
    """What runs when *func*, an object or a partial of it, is called."""
    while isinstance(func, functools.partial):
        func = func.func
    return type(func).__call__
