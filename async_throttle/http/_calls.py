"""What every client needs: which limit a request asks for, and when its call is over.

A call is a request as servers count requests: one per redirect, per round of authentication, per
try of an SDK. `Calls` keeps the calls of one client in the order of their lives::

    limiter, lease = calls.begin(request)          which limit, how much of it; nothing is held
    ... lease is entered ...                       the request waits here
    limiter = calls.granted(limiter, lease)        the set that granted it, of a pool
    headers = calls.swapped(request, lease)        headers of that set's account
    lease.serial = next(serials)                   the request goes out
    calls.failed(limiter, lease, error)            no answer came: the slot comes back
    calls.learner.answered(limiter, lease, ...)    the headers came
    calls.over(lease)                              no body: the slot comes back; or
    calls.keep(lease)                              the body holds the slot until
    calls.release(lease)                           which may be said again and again

`drop` is `release` for finalizers, which run in whichever thread.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar
from urllib.parse import urlsplit

from async_throttle import threads
from async_throttle._base import BaseLimiter, BaseThrottle, core_of
from async_throttle._shell.core import checked_priority
from async_throttle._shell.fast import running_tasks
from async_throttle._units import number, tokens
from async_throttle.exceptions import ResourceLimitError
from async_throttle.keyed import Throttles
from async_throttle.limits._pool import LimitPool
from async_throttle.limits._set import LimitSet
from async_throttle.limits._single import Limit
from async_throttle.resources import ConcurrencyLimiter, RateLimiter
from async_throttle.rules.slots import Slots
from async_throttle.throttle import Lease, Throttle

if TYPE_CHECKING:
    from async_throttle.http.learner import Learner

__all__ = [
    "Asked",
    "Calls",
    "Key",
    "Priority",
    "SyncAsked",
    "SyncCalls",
    "Timeout",
    "Weight",
]

Q = TypeVar("Q")
"""A request of the client."""

Limiter: TypeAlias = (
    Throttle | LimitSet[Throttle] | LimitPool[Throttle] | RateLimiter | ConcurrencyLimiter
)
Asked: TypeAlias = Limiter | Throttles[Any, Any] | Callable[[Q], Limiter]
SyncLimiter: TypeAlias = threads.Throttle | LimitSet[threads.Throttle] | LimitPool[threads.Throttle]
SyncAsked: TypeAlias = SyncLimiter | Throttles[Any, Any] | Callable[[Q], SyncLimiter]

Amount: TypeAlias = float | Mapping[str, float]
Weight: TypeAlias = Amount | Callable[[Q], Amount]
Timeout: TypeAlias = float | Callable[[Q], float | None] | None
Priority: TypeAlias = int | Callable[[Q], int]
Key: TypeAlias = Callable[[Q], Any]
Origin: TypeAlias = tuple[str, str | None, int | None]

PORTS: Final = {"http": 80, "https": 443}

LIMITER: Final = "a Throttle, a set or a pool"


MOST_OPEN: Final = 100
"""Open answers, and slots of a limit, among which those of a task are looked for.

Each request that waits makes that search, so beyond this it would cost too much.
"""


class Owner:
    """Stands for who makes a call, where no task or thread is named."""


NOBODY: Final = Owner()

MANY: Final = Owner()
ONE_OF_MANY: Final[weakref.ref[Any]] = weakref.ref(MANY)
"""Whoever has an answer open that is not looked for."""


class Calls(Generic[Q]):
    """The calls of one client in an event loop.

    Args:
        throttle, weight, key, timeout, priority, learn, origins: see `ThrottledTransport`.
        unsent: exceptions that say that no byte was sent.
        late: exceptions, no TimeoutErrors, that say that no answer came in time.

    Attributes:
        fixed: the limiter, if all requests have one; None without.
        ready: makes the lease, if all requests ask for the same; None without.
        open: by lease, who has the answer open.
        throttle: as the user gave it.
        learner: what is told of answers; None if nothing is.
        alone: whether all requests ask one throttle, so that no set with headers grants them.
        ends: whether it may matter that the answer is there before the call is over.
    """

    # _table    the limiters by key, and
    # _key      the key of a request; None without
    # _find     the user's function that tells the limiter of a request; None without
    # _varies   whether weight, timeout or priority are functions
    # _origins  where headers are swapped
    # _warned   whether the warning was given
    # _loop     that ran when a body was kept
    # _slots    of the throttle, if all requests ask one; None without
    __slots__ = (
        "_find",
        "_key",
        "_late",
        "_loop",
        "_origins",
        "_priority",
        "_slots",
        "_table",
        "_timeout",
        "_unsent",
        "_varies",
        "_warned",
        "_weight",
        "alone",
        "ends",
        "fixed",
        "learner",
        "open",
        "ready",
        "throttle",
    )

    fixed: Any
    ready: Callable[[], Any] | None
    _table: Throttles[Any, Any] | None
    _find: Callable[[Q], Any] | None
    _loop: asyncio.AbstractEventLoop | None
    _slots: Slots | None
    learner: Learner | None
    open: dict[Any, weakref.ref[Any]]

    def __init__(
        self,
        throttle: Any,
        *,
        weight: Weight[Q] = 1,
        key: Key[Q] | None = None,
        timeout: Timeout[Q] = None,
        priority: Priority[Q] = 0,
        learn: bool | Learner = True,
        origins: Iterable[str] = (),
        unsent: tuple[type[BaseException], ...] = (),
        late: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.fixed = self.ready = self._table = self._find = self._loop = self._slots = None
        self.throttle = throttle
        self._warned = False
        self._key: Any = host if key is None else key
        self._weight: Any = weight
        self._timeout: Any = timeout
        self._priority: Any = priority
        self._varies = callable(weight) or callable(timeout) or callable(priority)
        self._origins = frozenset(map(origin_of, listed("origins", origins)))
        self._unsent: tuple[type[BaseException], ...] = (ResourceLimitError, *unsent)
        self._late = late
        self.alone, self.ends = False, True
        self.open = {}
        self.learner = learner_of(learn)
        check_said(weight, timeout, priority)
        if is_limiter(throttle):
            self._fix(self._checked(throttle))
        elif isinstance(throttle, Throttles):
            self._table = throttle
        elif callable(throttle) and not isinstance(throttle, type):
            self._find = throttle
        else:
            raise TypeError(
                f"throttle must be {LIMITER}, Throttles, or a function of the request, got "
                f"{throttle!r}"
            )
        if key is not None and self._table is None:
            raise TypeError(f"key must go with Throttles, got {key!r}")
        if not callable(self._key):
            raise TypeError(f"key must be a function of the request, got {key!r}")

    def _fix(self, limiter: Any) -> None:
        """Have all requests ask *limiter*."""
        self.fixed = limiter
        self.alone = isinstance(limiter, BaseThrottle)
        if self.alone:
            core = core_of(limiter)
            self._slots, self.ends = core.slots, core.flights is not None
        self._check_configs(limiter)
        if self._varies:
            return
        said: Any = self._weight, self._timeout, self._priority
        self.ready = partial(self._call, limiter, *said)
        self.ready()  # whatever it raises is raised here
        if self.alone:  # the same with fewer steps
            self.ready = partial(limiter.__call__, self._weight)
            if self._timeout is not None or self._priority:
                self.ready = partial(self.ready, timeout=said[1], priority=said[2])

    # -- before the request -------------------------------------------------------------

    def begin(self, request: Q, most: float | None = None) -> tuple[Any, Any]:
        """The limiter that *request* asks, and the lease that is to be entered.

        Args:
            request: as the client has it.
            most: seconds that it may take, with the wait.
        """
        limiter = self.fixed
        if self.ready is not None and most is None:
            lease = self.ready()
        else:
            if limiter is None:
                limiter = self._limiter_of(request)
            weight: Any = self._weight
            timeout: Any = self._timeout
            priority: Any = self._priority
            if self._varies:
                weight = weight(request) if callable(weight) else weight
                timeout = timeout(request) if callable(timeout) else timeout
                priority = priority(request) if callable(priority) else priority
            if most is not None:
                timeout = most if timeout is None else min(timeout, most)
            lease = self._call(limiter, weight, timeout, priority)
        if self.open and not self._warned:
            self._warn_of_itself(limiter)
        return limiter, lease

    def _limiter_of(self, request: Q) -> Any:
        if self._find is None:
            assert self._table is not None, "the limiter is fixed, found, or of the table"
            limiter = self._table[self._key(request)]
        else:
            limiter = self._find(request)
            if not is_limiter(limiter):
                raise TypeError(f"throttle must return {LIMITER}, got {limiter!r} for {request!r}")
        return self._checked(limiter)

    def _checked(self, limiter: Any) -> Any:
        """What is asked where the user says *limiter*."""
        return limiter if isinstance(limiter, BaseLimiter) else limiter.throttle

    @staticmethod
    def _call(limiter: Any, weight: Any, timeout: float | None, priority: int) -> Any:
        if isinstance(limiter, BaseThrottle):
            if isinstance(weight, Mapping):
                raise TypeError(f"weight must be a number for {limiter!r}, got {weight!r}")
            made: Any = limiter
            return made(weight, timeout=timeout, priority=priority)
        if isinstance(weight, Mapping):
            return limiter(weight, timeout=timeout, priority=priority)
        if weight != 1:
            raise TypeError(f"weight must be a mapping by limit for a set, got {weight!r}")
        return limiter(timeout=timeout, priority=priority)

    def _warn_of_itself(self, limiter: Any) -> None:
        """Warn, once, if the one who asks waits for a slot that it holds itself."""
        if len(self.open) > MOST_OPEN or not is_full(limiter):
            return
        who = weakref.ref(self._who())
        mine = [granted_by(lease) for lease, owner in list(self.open.items()) if owner == who]
        if any(each in candidates(limiter) for each in mine) and limiter.locked():
            self._warned = True
            warnings.warn(
                f"a request waits for a slot of {limiter!r} while the task or thread that "
                "makes it holds one itself, by an answer that was neither read nor closed: it "
                "may wait for ever. Read or close an answer before the next request is made, "
                "or the same one is tried again",
                RuntimeWarning,
                stacklevel=2,
            )

    def _who(self) -> Any:
        """Who makes a call: the task."""
        try:
            return running_tasks[asyncio._get_running_loop()]
        except KeyError:
            return NOBODY

    # -- once it was granted ------------------------------------------------------------

    def granted(self, limiter: Any, lease: Any) -> Any:
        """The limiter that has granted *lease*: of a pool, one of its sets."""
        return lease.limit_set if isinstance(limiter, LimitPool) else limiter

    def swapped(self, request: Any, lease: Any) -> Mapping[str, str] | None:
        """The headers that *request* is to have instead of its own, by name; None without.

        Raises:
            ValueError: there are such headers, and nobody said where they may be sent.
        """
        if not (headers := getattr(lease, "config", {}).get("headers")):
            return None
        if not self._origins:
            raise ValueError(NO_ORIGINS)
        url = request.url
        if (url.scheme, url.host, url.port or PORTS.get(url.scheme)) not in self._origins:
            return None
        return {name: value for name, value in headers.items() if name in request.headers}

    def failed(self, limiter: Any, lease: Any, error: BaseException) -> None:
        """The call came to nothing, by *error*: whatever it holds comes back."""
        unsent = isinstance(error, self._unsent)
        try:
            if self.learner is not None:
                self.learner.failed(limiter, lease, None if unsent else error)
        finally:
            if unsent:
                lease.ended()
            elif isinstance(error, self._late):
                error = TimeoutError(str(error))
            self._fail(lease, error)
            self.open.pop(lease, None)

    # -- as long as the body is open ----------------------------------------------------

    def keep(self, lease: Any) -> None:
        """Hold what the call holds until `release`."""
        loop, slots = self._loop, self._slots
        if loop is None or not loop.is_running():
            self._loop = asyncio._get_running_loop()  # not each time: it asks for the process
        watched = (slots is None or slots.limit <= MOST_OPEN) and len(self.open) < MOST_OPEN
        self.open[lease] = weakref.ref(self._who()) if watched else ONE_OF_MANY

    def over(self, lease: Any) -> None:
        """The call ends with its answer, which has no body to wait for."""
        # All is done in the call: what it returns is awaited only because `async with` does so.
        lease.__aexit__(None, None, None)

    def release(self, lease: Any) -> None:
        """Give back what a call holds that was kept; a second time does nothing."""
        if lease in self.open:
            self.over(lease)  # first: what is interrupted may be said again
            self.open.pop(lease, None)

    def drop(self, lease: Any) -> None:
        """`release` from a finalizer, which the garbage collector runs in whichever thread."""
        loop = self._loop
        if loop is not None and loop.is_running() and asyncio._get_running_loop() is not loop:
            try:
                loop.call_soon_threadsafe(self.release, lease)
            except RuntimeError:  # the loop was closed just now, and runs nothing any more
                self.release(lease)
        else:
            self.release(lease)

    def release_all(self) -> None:
        """The client is closed: nothing is held any more."""
        for lease in list(self.open):
            self.release(lease)

    def _fail(self, lease: Any, error: BaseException) -> None:
        lease.__aexit__(type(error), error, None)

    def _check_configs(self, limiter: Any) -> None:
        sets = limiter if isinstance(limiter, LimitPool) else [limiter]
        if not self._origins and any(getattr(each, "config", {}).get("headers") for each in sets):
            raise ValueError(NO_ORIGINS)


class SyncCalls(Calls[Q]):
    """The calls of one client in threads."""

    __slots__ = ()

    def _checked(self, limiter: Any) -> Any:
        sets = limiter if isinstance(limiter, LimitPool) else [limiter]
        limits = (
            limit
            for each in sets
            for limit in ([each[key] for key in each] if isinstance(each, LimitSet) else [each])
        )
        # Limits in the manner of concurry are for threads, and no throttles themselves.
        if all(isinstance(limit, (threads.Throttle, Limit)) for limit in limits):
            return limiter
        raise TypeError(
            "throttle must be for threads, async_throttle.threads.Throttle or a set or pool of "
            f"such, got {limiter!r}"
        )

    def _who(self) -> Any:
        """Who makes a call: the thread."""
        return threading.current_thread()

    def drop(self, lease: Any) -> None:
        """`release` from a finalizer: limits for threads bear that in any thread."""
        self.release(lease)

    def over(self, lease: Any) -> None:
        lease.__exit__(None, None, None)

    def _fail(self, lease: Any, error: BaseException) -> None:
        lease.__exit__(type(error), error, None)


NO_ORIGINS: Final = (
    "origins must be given where config has headers, as in origins=['https://api.example.com']: "
    "whoever redirects a request could have the key sent elsewhere"
)


def is_limiter(it: Any) -> bool:
    """Whether requests can wait for *it*."""
    return isinstance(it, (BaseLimiter, RateLimiter, ConcurrencyLimiter))


def check_said(weight: Any, timeout: Any, priority: Any) -> None:
    """Refuse what no request can have, where it is the same for all.

    Raises:
        TypeError: one of them is of another type.
        ValueError: one of them is out of range.
    """
    if not callable(weight):
        for each in weight.values() if isinstance(weight, Mapping) else [weight]:
            tokens("weight", each)
    if timeout is not None and not callable(timeout):
        number("timeout", timeout)
    if not callable(priority):
        checked_priority(priority)


def learner_of(learn: Any) -> Learner | None:
    """What *learn* asks for."""
    from async_throttle.http.learner import Learner

    if isinstance(learn, Learner):
        return learn
    if not isinstance(learn, bool):
        raise TypeError(f"learn must be True, False or a Learner, got {learn!r}")
    return Learner() if learn else None


def host(request: Any) -> Any:
    """The key of *request* where none is said."""
    return request.url.host


def listed(name: str, texts: Any) -> list[str]:
    """The *texts* one by one; a text is no list of its letters."""
    found = [] if isinstance(texts, (str, bytes)) else list(texts)
    if isinstance(texts, (str, bytes)) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{name} must be a list of texts, got {texts!r}")
    return found


def origin_of(text: str) -> Origin:
    """The scheme, the host and the port that *text* says.

    Raises:
        ValueError: it says more, or less.

    >>> origin_of("https://api.example.com")
    ('https', 'api.example.com', 443)
    """
    parts = urlsplit(text)
    try:
        port = parts.port or PORTS.get(parts.scheme)
        name = (parts.hostname or "").encode("idna").decode("idna")  # clients have it in letters
    except ValueError as error:
        raise ValueError(f"origins must be like 'https://api.example.com', got {text!r}") from error
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in PORTS or not name or rest:
        raise ValueError(f"origins must be like 'https://api.example.com', got {text!r}")
    return parts.scheme, name, port


def granted_by(lease: Any) -> Any:
    """The throttle or the set whose limits *lease* holds."""
    return lease.throttle if isinstance(lease, Lease) else lease.limit_set


def candidates(limiter: Any) -> tuple[Any, ...]:
    """The throttles or sets that may grant a call to *limiter*."""
    return tuple(limiter) if isinstance(limiter, LimitPool) else (limiter,)


def is_full(limiter: Any) -> bool:
    """Whether a slot is what *limiter* lacks."""
    if isinstance(limiter, LimitPool):
        return all(map(is_full, limiter))
    if isinstance(limiter, LimitSet):
        return any(is_full(limiter[key]) for key in limiter)
    throttle = limiter if isinstance(limiter, BaseThrottle) else limiter.throttle
    return bool(0 < throttle.concurrency <= throttle.active)
