"""What sets and pools have in common: calls that take weights by limit."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar

from async_throttle._shell.lease import Blocks
from async_throttle._shell.single import Single
from async_throttle.limits._acquisition import (
    Begun,
    Delay,
    LimitSetAcquisition,
    begin,
    by_limit,
    soonest,
    tried,
)

__all__ = ["BaseLimits"]


class BaseLimits(Single):
    """Limits that are taken together: a set, or a pool of sets."""

    # _blocks   what the blocks of the limiter itself hold, by task or thread
    __slots__ = ("__weakref__", "_blocks", "_core")

    _acquisition: ClassVar[type[LimitSetAcquisition]] = LimitSetAcquisition
    _begun: ClassVar[type[LimitSetAcquisition]] = Begun
    _blocks: Blocks
    _core: Any  # a Source

    # -- calling ------------------------------------------------------------------------

    def __call__(
        self,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """A call: ``async with api(tokens=900) as lease:``; also a decorator.

        Args:
            amounts, named: how much of each limit; 1 of those not said, and nothing of those with
                0. Of a limit without a rate, which counts slots, a whole number. A limit without a
                name goes by its place: ``api({0: 5})``.
            timeout: seconds to wait at most; see `Throttle.acquire`.
            priority: lower goes first; see `Throttle.acquire`. What is said there of classes
                holds for each set.

        Raises:
            ValueError: a name that is no limit, or is said twice; a weight that cannot be.
        """
        weights = named if amounts is None else by_limit(amounts, named)
        return self._acquisition(self, self._core, weights, timeout, priority)

    def acquire(
        self,
        amounts: Mapping[Any, float] | None = None,
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        **named: float,
    ) -> LimitSetAcquisition:
        """A call that begins at once.

        Where no event loop runs, this waits, with the whole thread. Where one runs, it takes at
        once what is there; else the result is to be awaited, or entered with ``async with``. If
        both are forgotten, slots come back when it is collected, with a `ResourceWarning`.

        Raises:
            ResourceLimitError: it was refused; says which limit, and when to come back.
            ValueError: as a call does.
        """
        weights = by_limit(amounts, named)
        return begin(self._begun(self, self._core, weights, timeout, priority))

    def try_acquire(
        self, amounts: Mapping[Any, float] | None = None, /, *, priority: int = 0, **named: float
    ) -> LimitSetAcquisition:
        """Take what is asked for if that is possible now and overtakes nobody.

        Returns:
            What was taken; or, with `successful` False, nothing: entered with ``with`` or
            ``async with`` that holds nothing.
        """
        weights = by_limit(amounts, named)
        return tried(self._acquisition(self, self._core, weights, None, priority))

    async def __aenter__(self) -> LimitSetAcquisition:
        acquisition = await self._acquisition(self, self._core, {}, None, 0)
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __enter__(self) -> LimitSetAcquisition:
        acquisition = self._acquisition(self, self._core, {}, None, 0).__enter__()
        try:
            self._blocks.enter(acquisition)
        except BaseException:
            self._blocks.forget(acquisition)
            acquisition.release()
            raise
        return acquisition

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left: list[LimitSetAcquisition] = []
        try:
            left.append(self._blocks.leave())
            left[0]._quit(exc)
        except BaseException as late:
            held = left or [self._blocks.leave()]
            held[0]._exit_again(late, exc, held)

    # -- looking ------------------------------------------------------------------------

    def delay(
        self, amounts: Mapping[Any, float] | None = None, /, *, priority: int = 0, **named: float
    ) -> Delay:
        """Seconds until a call could be granted, counting everyone ahead; 0.0 is now.

        It tells which limit is the one to wait for, too: ``api.delay(tokens=900).limit``. A
        lower bound where a slot is what is missing. Plays through what is to happen to all
        waiters, which costs as much as to serve them. The next question goes on from there, if
        nothing has happened but arrivals and the grants that were foreseen. After a refund, a
        cancellation or a pause all is played once more; so it is for a newcomer that would go
        before the one who asked last, such as one to another set with a shorter queue.

        Raises:
            ResourceLimitError: what the call would raise; ValueError as well.
        """
        return soonest(self._core.options(self._core.weigh(by_limit(amounts, named)), priority))
