"""Call: what looks like a coroutine, and is one more thing besides."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar, cast

__all__ = ["Call"]

T = TypeVar("T", covariant=True)


class Call(Coroutine[Any, Any, T]):
    """A coroutine in front of another one, which does the work.

    It is its own iterator, so that debuggers that follow what awaits what get to see the other.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = cast("CoroutineType[Any, Any, T]", coroutine)

    def __await__(self) -> Generator[Any, Any, T]:
        # Python refuses that of a coroutine, but cannot know that this is one.
        if self._coroutine.cr_suspended:
            raise RuntimeError("coroutine is being awaited already")
        return self  # type: ignore[return-value]  # an iterator will do

    def __next__(self) -> Any:
        return self._coroutine.send(None)

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # What those who look into tasks ask of a coroutine: cr_frame, __qualname__ and others.
            if name.startswith("cr_") or name in ("__name__", "__qualname__"):
                return getattr(self._coroutine, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
