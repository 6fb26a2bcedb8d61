"""Leases: the state machine of calls, for throttles, sets and pools.

The states are drawn in `states`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from async_throttle._engine.lane import Receipt
from async_throttle._shell import fast, loop, thread
from async_throttle._shell.fast import who
from async_throttle._shell.scheduler import find
from async_throttle._shell.single import Single
from async_throttle._shell.states import (
    ASKING,
    EARLY,
    ENTERING,
    FRESH,
    HELD,
    LEASED,
    REFUSED,
    RELEASED,
    SHARED,
    LeaseState,
)
from async_throttle._shell.waiting import Asked, Option, note
from async_throttle._units import SECOND
from async_throttle.rules import Rule

if TYPE_CHECKING:
    from async_throttle._shell.core import Core

__all__ = ["BaseLease", "Blocks", "release", "settle"]


class Blocks:
    """What blocks hold, leases mostly, by the task or thread that entered the block.

    Attributes:
        held: by task or thread, what its blocks hold, the latest last.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[int, list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self.held)

    def __contains__(self, who: int) -> bool:
        return who in self.held

    def enter(self, held: Any) -> None:
        """A block of the running task or thread begins, and holds *held*."""
        self.held.setdefault(who(), []).append(held)

    def leave(self) -> Any:
        """The block that the running task or thread began last ends: what it held."""
        inside = who()
        if inside not in self.held:
            inside = next(iter(self.held))  # begun in one task, ended in another
        held = self.held[inside]
        last = held[-1]
        if len(held) == 1:
            del self.held[inside]
        else:
            del held[-1]
        return last

    def forget(self, held: Any) -> None:
        """The block that holds *held* has come to nothing."""
        for inside, others in list(self.held.items()):
            if held in others:
                others.remove(held)
                if not others:
                    del self.held[inside]

    def undo(self, lease: Any) -> None:
        """The block that was to hold *lease*, of a throttle, was never entered."""
        self.forget(lease)
        lease.ignore()
        lease.settle(0)
        lease.release()


class BaseLease(Single, ABC):
    """A call, from the question to the release."""

    # _state    see above
    # _timeout  seconds to wait at most, or None
    # _others   the leases of further entries, by task or thread; unset without them
    # _epoch    of the process in which it was made; see Scheduler.forked
    # serial    of the request that the call was granted for, if an integration counts them; unset
    #           or None without
    __slots__ = ("__weakref__", "_epoch", "_others", "_state", "_timeout", "serial", "waited")

    _state: LeaseState
    _timeout: float | None
    _others: Blocks
    _epoch: int
    serial: int | None
    waited: float

    # -- the differences between the kinds of leases ------------------------------------

    @abstractmethod
    def _whom(self) -> Asked:
        """The core whose scheduler is asked."""

    @abstractmethod
    def _options(self) -> Sequence[Option]:
        """The options that the caller has."""

    @abstractmethod
    def _twin(self) -> Self:
        """A new call with the same arguments."""

    @abstractmethod
    def _give_back(self, now: int, error: BaseException | None) -> bool:
        """Give the slots back, inside the door; the body has ended with *error*. Nothing can be
        interrupted between the first change and the last, but once a call in flight has ended.

        False if a slot was gone: a release without an acquire has given it back before."""

    @abstractmethod
    def _one_too_many(self) -> ValueError:
        """What to raise where a slot was gone."""

    @abstractmethod
    def _in_flight(self, core: Core) -> tuple[int, int]:
        """Slots and nanotokens of *core* that this call holds: 0 of both once it has ended."""

    def _holds(self) -> bool:
        """Whether the call was granted in this process, and has not ended."""
        held = getattr(self, "_state", FRESH) in (LEASED, HELD, SHARED)  # it may be in the making
        return held and self._epoch == fast.EPOCH

    @abstractmethod
    def _released(self) -> None:
        """The slots were given back: tell listeners, and rules that want ends."""

    @abstractmethod
    def _judge(self, error: BaseException | None) -> None:
        """The block ends, with *error*: tell limits that follow how calls end."""

    # -- entering -----------------------------------------------------------------------

    async def _enter_async(self) -> Self:
        if not self._claim():
            if self._take_over() is not None:
                return self
            twin = self._twin()
            try:
                return self._enroll(await twin._lease_async())
            except BaseException:
                self._expel(twin)
                raise
        try:
            await loop.wait(self._whom(), self._options(), self._timeout, self)
        except BaseException:
            self._unclaim()
            raise
        return self

    def _enter(self) -> Self:
        if not self._claim():
            if self._take_over() is not None:
                return self
            twin = self._twin()
            try:
                return self._enroll(twin._lease())
            except BaseException:
                self._expel(twin)
                raise
        try:
            thread.wait(self._whom(), self._options(), self._timeout, self)
        except BaseException:
            self._unclaim()
            raise
        return self

    async def _lease_async(self) -> Self:
        """Be granted without a block."""
        try:
            self._state = ASKING
            await loop.wait(self._whom(), self._options(), self._timeout, self)
        except BaseException:
            self._unclaim()
            raise
        return self

    def _lease(self) -> Self:
        """Be granted without a block, with the whole thread."""
        try:
            thread.wait(self._whom(), self._options(), self._timeout, self)
        except BaseException:
            self._unclaim()
            raise
        return self

    def _hold(
        self, receipts: list[Receipt], waited: int, option: Option, spans: list[int] | None
    ) -> None:
        """The call is granted. Called inside the door."""
        self.waited = waited / SECOND
        self._state = self._granted_state()

    def _granted_state(self) -> LeaseState:
        """The state of this call once it is granted."""
        if self._state is not ENTERING:
            return LEASED
        return SHARED if hasattr(self, "_others") else HELD

    def _claim(self) -> bool:
        """Whether this is the first entry. Two threads may enter at once."""
        return fast.claim(self) if fast.GIL else self._claim_alone()

    def _claim_alone(self) -> bool:
        return find(self._whom()).exclusively(lambda: fast.claim(self))

    def _unclaim(self) -> None:
        """The first entry came to nothing: the next entry is the first."""
        self._state = RELEASED if hasattr(self, "_others") else FRESH

    def _take_over(self) -> Self | None:
        """This lease, if it was granted or refused without a block, and has a block now."""
        if self._state is LEASED:
            self._state = HELD
            return self
        return self if self._state is REFUSED else None

    def _enroll(self, lease: Self) -> Self:
        """*lease* belongs to this further entry."""

        def enroll() -> None:
            if not hasattr(self, "_others"):
                self._others = Blocks()
            self._others.enter(lease)
            # An entry or exit from here on must look which tasks and threads are inside.
            if self._state is HELD:
                self._state = SHARED
            elif self._state is FRESH:
                self._state = RELEASED

        find(self._whom()).exclusively(enroll)
        return lease

    def _expel(self, lease: Self) -> None:
        """The further entry that *lease* was for has come to nothing."""
        others: Blocks | None = getattr(self, "_others", None)
        if others:
            others.forget(lease)
        lease._release(RELEASED)

    # -- leaving ------------------------------------------------------------------------

    def _leaving(self) -> Self:
        """The lease of the block that ends: this task or thread entered it last."""
        others: Blocks | None = getattr(self, "_others", None)
        if not others or (self._state in (HELD, SHARED, EARLY) and who() not in others):
            return self
        lease: Self = others.leave()
        return lease

    def _exit_slowly(self, error: BaseException | None, left: list[Any]) -> None:
        """A block ends, with *error*; *left* is filled with the lease of that block."""
        left.append(self._leaving())
        left[0]._quit(error)

    def _exit_again(
        self, late: BaseException, error: BaseException | None, left: list[Any]
    ) -> None:
        """`_exit_slowly` was cut short by *late*: finish it.

        A clock or a judge that has failed does not hide *error*, the body's.
        """
        lease: BaseLease = left[0] if left else self._leaving()
        lease._release(RELEASED, error)
        try:
            if error is None or not isinstance(late, Exception):
                raise late
            note(error, "the block", late)
        finally:
            del late, error  # or they and their tracebacks would keep each other

    def _exit(self, error: BaseException | None) -> None:
        """The block that held this ends, with *error*."""
        left: list[Any] = [self]
        try:
            self._quit(error)
        except BaseException as late:
            self._exit_again(late, error, left)

    def _quit(self, error: BaseException | None) -> None:
        try:
            self._judge(error)
        finally:
            self._release(RELEASED, error)

    def release(self) -> None:
        """Give the slots back; a second time does nothing.

        Raises:
            RuntimeError: nothing was granted yet.
            ValueError: the slot was gone: some `release()` without `acquire()` gave it back.
        """
        after = RELEASED if self._state is LEASED else EARLY
        try:
            self._check_granted()
            self._release(after)
        except BaseException as late:
            if not isinstance(late, Exception):  # interrupted: given back all the same
                self._release(after)
            raise

    def _release(self, after: LeaseState, error: BaseException | None = None) -> None:
        """Give the slots back, once; the lease is *after* then. The body has ended with *error*."""

        def give(now: int) -> None:
            if self._state in (LEASED, HELD, SHARED):
                if self._epoch == fast.EPOCH:
                    held = self._give_back(now, error)
                    self._state = after
                    self._released()
                    if not held:
                        raise self._one_too_many()
                self._state = after

        if self._state in (LEASED, HELD, SHARED):
            scheduler = find(self._whom())
            if not scheduler.quietly(give):
                scheduler.do(give, surely=True)
        elif self._state is EARLY:
            self._state = after

    def _check_granted(self) -> None:
        if not hasattr(self, "waited"):
            raise RuntimeError(f"nothing was granted yet to {self!r}")


def release(held: Any, error: BaseException | None) -> None:
    """Whatever a block *held* comes back; the body has ended with *error*."""
    held._release(RELEASED, error)


def settle(rule: Rule, now: int, receipt: Any, debts: list[tuple[Any, int]], more: int) -> None:
    """The weight that *receipt* of *rule* stands for has grown by *more* nanotokens, or shrunk.

    Debts are kept in *debts*, the latest last; a later refund gives back the latest debt first.
    """
    if more > 0:
        debts.append((rule.take(now, more), more))
    while more < 0 and debts:
        late, debt = debts[-1]
        refund = min(debt, -more)
        rule.refund(now, late, refund)
        more += refund
        debts[-1:] = [(late, debt - refund)] if debt > refund else []
    if more < 0 and receipt is not None:
        rule.refund(now, receipt, -more)
