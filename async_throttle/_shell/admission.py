"""Admission: callers that are granted at once, queued up, refused, started, or withdrawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from async_throttle._engine.bounds import FEW, is_within
from async_throttle._engine.forecast import at_least, quote
from async_throttle._engine.lane import (
    DROPPED,
    EXPIRED,
    FAILED,
    GRANTED,
    QUEUED,
    UNFIT,
    Lane,
    Receipt,
    give_back,
)
from async_throttle._shell import fast
from async_throttle._shell.door import Door
from async_throttle._shell.waiting import (
    Asked,
    Attempt,
    Option,
    Waiting,
    checked,
    granted,
    note,
    possible,
    refused,
)
from async_throttle._units import NEVER, SECOND, nanoseconds
from async_throttle.exceptions import ResourceLimitError

__all__ = ["Admission"]

_LATE: Final = object()

TRIES: Final = 3
"""How often a store is asked for what a caller wants that will not wait: the first answer opens a
file, or a link, and takes long."""


class Admission(Door):
    """The part of a scheduler that lets callers in."""

    __slots__ = ()

    def admit(self, attempt: Attempt, *, blocking: bool) -> Waiting | None:
        """Grant *attempt* at once, or queue it up, to wait with the thread or in an event loop.

        Returns:
            None if it was granted; else the first waiter of *attempt*, which is to be waited for.
        """
        if self.inside():
            raise RuntimeError(
                f"{attempt.options[0].asked!r} was at work when it was asked again, from a "
                "signal handler, a finalizer, a rule or a clock that it called: it cannot wait "
                "here; use try_acquire(), or let a task or another thread do it"
            )
        if self.feeder is not None:
            self.feeder.guest = False
        if self.quiet and len(attempt.options) == 1:
            option = attempt.options[0]
            checked(option)
            receipts = self.grab(option.lane, option.weights)
            if receipts is not None:
                attempt.receipts = receipts
                if attempt.taker is not None:
                    attempt.taker._hold(receipts, 0, option, None)
                return None
        return self.enter(lambda now: self.here()._admit(now, attempt, blocking), asks=True)

    def seize(self, attempt: Attempt, tries: int = TRIES) -> bool:
        """Grant *attempt* at once if that overtakes no waiter; False too if the door is taken.

        A store is asked so many times.
        """
        if self.inside() or self.is_elsewhere():
            possible(attempt.options)  # what can never be is refused all the same
            return False
        if self.feeder is not None:
            self.fetch(possible(attempt.options))
        try:
            taken: bool = self.enter(lambda now: self.here()._seize(attempt), asks=True)
        except BaseException:
            self.here().withdraw(attempt)
            raise
        if taken or self.feeder is None or not self.feeder.served or tries <= 1:
            return taken
        return self.seize(attempt, tries - 1)  # what was booked had expired

    def fetch(self, options: Sequence[Option]) -> None:
        """Ask the store for what a caller wants that will not wait."""
        if self.feeder is not None:
            self.feeder.served = False
            for _, lane, weights in options:
                self.feeder.fetch(self, lane, weights)
            self.feeder.guest = False

    def ask_store(self) -> None:
        """Ask the store how the limits stand; not while a call is at work here."""
        if self.feeder is not None and not self.inside():
            self.feeder.fetch(self, None, ())
            self.feeder.guest = False

    async def ask_store_later(self) -> None:
        """The same in an event loop."""
        if self.feeder is not None and not self.inside():
            await self.feeder.fetch_later(self, None, ())
            self.feeder.guest = False

    @abstractmethod
    def loop_waiter(self, asked: Asked) -> Waiting:
        """A waiter of the running event loop; raises if that must not wait here."""

    @abstractmethod
    def thread_waiter(self, asked: Asked) -> Waiting:
        """A waiter of the running thread; raises if that must not wait here."""

    def try_admit(self, attempt: Attempt) -> bool:
        """Grant *attempt* at once if that overtakes no waiter; whether it was granted."""
        for option in attempt.options:
            waiters = option.lane.waiters
            if waiters and not waiters[0].cancelled():
                continue  # as `Queue.can_take` would find, for each of the many lanes of a pool
            receipts = self.queue.try_take(option.lane, option.weights)
            if receipts is not None:
                attempt.receipts = receipts
                if self.listeners:
                    self.happened("grant", option.asked, option.weights)
                if attempt.taker is not None:
                    attempt.taker._hold(receipts, 0, option, None)
                return True
        return False

    @abstractmethod
    def quietly(self, change: Callable[[int], object]) -> bool:
        """Make a *change* of limits if the scheduler is quiet, by a shortcut."""

    def grab(self, lane: Lane, weights: tuple[int, ...]) -> list[Receipt] | None:
        """Grant *weights* if the scheduler is quiet and they are there, by a shortcut."""
        receipts: list[Receipt] = []
        try:
            taken = fast.grab(self, lane, weights, receipts)
            if self.notes:
                self.catch_up()
        except BaseException:
            fast.undo(self, receipts)
            give_back(self.queue.now, receipts)
            raise
        return receipts if taken else None

    def settle_once(self, lease: Any, key: Any, taken: Receipt, amount: int) -> bool:
        """Settle one limit of a set for the first time if the scheduler is quiet, by a shortcut."""
        return fast.settle_once(self, lease, key, taken, amount)

    def _admit(self, now: int, attempt: Attempt, blocking: bool) -> Waiting | None:
        try:
            attempt.options = possible(attempt.options)
            if self.feeder is not None and not self.queue.waiting:
                _, lane, weights = attempt.options[0]
                self.feeder.prepare(self, lane, weights, now)
            if not self.behind() and self._take(attempt):
                return None
            return self._queue_up(now, attempt, blocking)
        except ResourceLimitError as error:
            if self.listeners:
                self.happened("refusal", attempt.options[0].asked, error)
            raise

    def _seize(self, attempt: Attempt) -> bool:
        attempt.options = possible(attempt.options)
        return not self.behind() and self._take(attempt)

    def _take(self, attempt: Attempt) -> bool:
        if not self.try_admit(attempt):
            return False
        if self.queue.waiting:
            self.decide()  # backfilling may let a waiter go now
        return True

    def _queue_up(self, now: int, attempt: Attempt, blocking: bool) -> Waiting:
        """Queue *attempt* up, unless that is refused; `enter` decides."""
        options = attempt.options
        if self.aloft is not None and self.aloft.waits_for_itself(options):
            raise RuntimeError(
                f"{options[0].asked!r} would have to be waited for by a task whose own calls hold "
                "what it waits for, as they have not ended: let them end first, or say "
                "lease.ended() when the answer is there"
            )
        deadline = self._deadline(attempt, now)
        make = self.thread_waiter if blocking else self.loop_waiter
        first = make(options[0].asked)
        queue = self.queue
        if queue.deadlines and queue.expires_at <= now:
            queue.advance(now)  # waiters whose deadline has come are no obstacle
        fulls = self._fulls(attempt, deadline, now)
        waiters = first.in_each(options, now)
        self.enlist(waiters)
        attempt.waiters = self.newcomers = waiters  # first: an interrupt finds whom to take out
        self._join(waiters, fulls, deadline)
        return first

    def _join(self, waiters: Sequence[Waiting], fulls: list[object], deadline: int) -> None:
        """Queue each of *waiters* up for its option, unless that is full."""
        for waiter, full in zip(waiters, fulls, strict=True):
            if full is None:
                option = waiter.option
                self.queue.join(waiter, option.lane, option.weights, deadline)

    def _fulls(self, attempt: Attempt, deadline: int, now: int) -> list[object]:
        """By option, why the caller may not queue there, or None; raises if it may nowhere.

        A caller that is refused must not have stood in the queue, not even for that instant.
        """
        options = attempt.options
        fulls: list[object] = [None] * len(options)
        late = deadline <= now
        if late or any(option.asked.max_waiting is not None for option in options):
            for n, (asked, lane, weights) in enumerate(options):
                if not self.queue.can_take(lane, weights):
                    fulls[n] = _LATE if late else asked.crowded(weights)
            if None not in fulls:
                asked, lane, weights = options[0]
                at, place = self.quote(lane, weights)
                if late:
                    timeout = 0.0 if attempt.timeout is None else min(attempt.timeout, 0.0)
                    raise refused(asked, asked.refusal_timeout(timeout, at - now, place))
                raise refused(asked, asked.refusal_full(fulls[0], at - now))
        return fulls

    def _deadline(self, attempt: Attempt, now: int) -> int:
        """The instant at which the timeout is over; refuses a wait that is known to be longer."""
        timeout = attempt.timeout
        if timeout is None:
            return NEVER
        allowed = nanoseconds("timeout", max(0, timeout))
        if allowed >= NEVER:
            return NEVER
        deadline = now + allowed
        options = attempt.options
        if any(is_within(self.queue, lane, weights, deadline) for _, lane, weights in options):
            return deadline
        quotes = [self.quote(lane, weights) for _, lane, weights in options]
        soonest = min(range(len(quotes)), key=quotes.__getitem__)
        at, place = quotes[soonest]
        if at > deadline:
            asked = options[soonest].asked
            raise refused(asked, asked.refusal_timeout(timeout, at - now, place))
        return deadline

    def quote(self, lane: Lane, weights: tuple[int, ...]) -> tuple[int, int]:
        """When a newcomer could go, and the place of the rule that it would wait for, or -1."""
        at, place = quote(self.queue, lane, weights)
        return at, self.queue.missing(lane, weights) if place < 0 else place

    def start(self, attempt: Attempt) -> None:
        """The caller runs again: it goes on, or the reason of its refusal is raised."""
        self.enter(lambda now: self.here()._start(now, attempt), surely=True)

    def _start(self, now: int, attempt: Attempt) -> None:
        self.queue.touched()
        winner = granted(attempt.waiters[0])
        if winner.state is not GRANTED:
            if self.listeners:
                self.happened("refusal", attempt.options[0].asked, winner.state)
            refusal = self._refusal(now, attempt)
            attempt.part()
            try:
                raise refusal
            finally:
                del refusal  # or it and its traceback would keep each other
        self.handed_over.discard(winner)
        winner.option.asked.count_wait(winner)
        if attempt.taker is not None:
            spans = winner.spans if winner.lane.bottleneck is not None else None
            waited = winner.granted_at - winner.arrived
            attempt.taker._hold(winner.receipts, waited, winner.option, spans)
        attempt.part()

    def _refusal(self, now: int, attempt: Attempt) -> BaseException:
        """Why the caller was taken out of the queue."""
        waiters = attempt.waiters
        for waiter in waiters:
            if waiter.state is FAILED:
                error = waiter.error
                del waiter.error
                return error
        for waiter in waiters:
            asked, lane, weights = waiter.option
            if waiter.state is EXPIRED:
                if self.queue.waiting <= FEW:
                    at, place = self.quote(lane, weights)
                else:
                    at, place = at_least(self.queue, lane, weights)
                timeout = (waiter.deadline - waiter.arrived) / SECOND
                return refused(asked, asked.refusal_timeout(timeout, at - now, place))
        for waiter in waiters:
            asked = waiter.option.asked
            if waiter.state is UNFIT:
                return refused(asked, asked.refusal_weight(waiter.option.weights))
        for waiter in waiters:
            asked = waiter.option.asked
            if waiter.state is DROPPED:
                return refused(asked, asked.refusal_closed(waiter.option.weights))
        raise AssertionError("nobody else waits in vain")

    def give_up(self, attempt: Attempt, reason: BaseException) -> None:
        """The wait was cut short by *reason*, which a clock that fails now does not hide."""
        try:
            self.withdraw(attempt)
        except Exception as late:
            note(reason, "the queue", late)

    def withdraw(self, attempt: Attempt) -> None:
        """The caller goes before it has begun: as if it had never asked."""
        if attempt.receipts or any(w.state in (QUEUED, GRANTED) for w in attempt.waiters):
            try:
                self.do(lambda now: self.here()._withdraw(now, attempt), surely=True)
            except BaseException:
                self.here().do(lambda now: self.here()._withdraw(now, attempt), surely=True)
                raise

    def _withdraw(self, now: int, attempt: Attempt) -> None:
        self.queue.touched(*(rule for rule, _, _ in attempt.receipts or ()))
        for waiter in attempt.waiters:
            self.handed_over.discard(waiter)
            self.queue.leave(waiter)
        if attempt.receipts:
            give_back(now, attempt.receipts)
        attempt.part()
