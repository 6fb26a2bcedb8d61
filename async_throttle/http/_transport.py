"""A transport that waits for a limit, for httpx and for httpx2, which is httpx under another name.

The classes here have no base of either; `httpx.py` and `httpx2.py` give them one. When the slot of
a request comes back is told here, once, for both. Taken before the inner transport is called, it
comes back at the first of these:

1. The inner transport raises, or is cancelled.
2. The answer is closed when it comes: it was made from bytes, as by caches and mock transports.
   Nobody reads or closes the stream of such an answer, so it must not hold the slot.
3. The stream of an upgraded connection (status 101) is closed, as 4.
4. The body is closed: `aclose`.
5. An iteration of the body ends: at its end, or because it is broken off, cancelled, or fails. It
   may be the second one of the same stream, as by the SDK of OpenAI.
6. The body is collected, neither read nor closed.
7. The transport is closed.

The answer is changed in place: an answer that is made anew lacks its version, its reason, and the
stream of an upgraded connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar

from async_throttle.http._calls import (
    Asked,
    Calls,
    Key,
    Priority,
    SyncAsked,
    SyncCalls,
    Timeout,
    Weight,
)
from async_throttle.http._leases import EXTENSION
from async_throttle.http.learner import serials

if TYPE_CHECKING:
    from async_throttle.http.learner import Learner

__all__ = ["Body", "Family", "SyncBody", "SyncTransport", "Transport"]

Q = TypeVar("Q")
"""A request of the family."""

T = TypeVar("T")
"""A transport of the family, the inner one."""

FAMILIES = ("httpx", "httpx2")

CLIENTS: Final = {
    **dict.fromkeys(("handle_request", "__enter__"), ("Client", "SyncThrottledTransport")),
    **dict.fromkeys(("handle_async_request", "__aenter__"), ("AsyncClient", "ThrottledTransport")),
}
"""By what a client asks of a transport: the client, and the transport that is for it."""


class Family:
    """What the transports need of the module that is their family.

    Attributes:
        name: of the module.
        request: its class of requests.
        unsent: its exceptions that say that no byte was sent.
        late: its exceptions that say that no answer came in time.
    """

    __slots__ = ("late", "name", "request", "unsent")

    def __init__(self, module: Any) -> None:
        self.name: str = module.__name__
        self.request: type[Any] = module.Request
        self.unsent: tuple[type[Exception], ...] = (
            module.ConnectTimeout,
            module.PoolTimeout,
            module.ConnectError,
            module.UnsupportedProtocol,
        )
        self.late: tuple[type[Exception], ...] = (module.ReadTimeout, module.WriteTimeout)

    def check_transport(self, transport: Any, handle: str) -> None:
        """Refuse what is no transport of this family.

        Raises:
            TypeError: *transport* is of another family, or has no method *handle*.
        """
        homes = {base.__module__.partition(".")[0] for base in type(transport).__mro__}
        others = homes.intersection(FAMILIES) - {self.name}
        if others and self.name not in homes:
            other = others.pop()
            raise TypeError(
                f"transport must be of {self.name}, got one of {other}, {transport!r}: take "
                f"ThrottledTransport from async_throttle.http.{other}, for a client of {other}"
            )
        if isinstance(transport, type) or not hasattr(transport, handle):
            raise TypeError(f"transport must have a method {handle}, got {transport!r}")

    def refusal(self, request: Any) -> TypeError:
        """What to raise at a *request* of another family: nothing was sent yet."""
        other = type(request).__module__.partition(".")[0]
        advice = f"take it from async_throttle.http.{other}" if other in FAMILIES else "it is none"
        return TypeError(
            f"this ThrottledTransport is for clients of {self.name}, and was asked to send "
            f"{request!r} of {other}: {advice}"
        )

    def lacks(self, transport: Any, name: str) -> AttributeError:
        """What to raise where *transport* has no *name*; clients of the other kind ask for some."""
        client, twin = CLIENTS.get(name, ("", ""))
        if not client:
            return AttributeError(f"{type(transport).__name__!r} object has no attribute {name!r}")
        return AttributeError(
            f"transport of {self.name}.{client} must be a {twin}, got {transport!r}"
        )

    def swapped(self, request: Any, headers: Any) -> Any:
        """The same *request* with other *headers*; the caller's own stays as it is."""
        # Of a request that follows a redirect the client copies the headers of the one before.
        mine = request.headers.copy()
        mine.update(headers)
        return self.request(
            request.method,
            request.url,
            headers=mine,
            stream=request.stream,
            extensions=request.extensions,
        )


CACHES: Final = frozenset(("caching", "hishel_from_cache", "from_cache"))
"""What the answers of a cache have among their extensions: of hishel 2, 1 and 0."""


def is_cached(extensions: Any) -> bool:
    """Whether an answer of `CACHES` was stored, and tells nothing of now.

    It does tell of now where the cache has asked the server whether its answer still holds.
    """
    said = extensions.get("caching")  # a dictionary, with each answer
    if isinstance(said, dict):
        extensions = said
    elif extensions.get("hishel_from_cache"):
        return not extensions.get("hishel_revalidated")
    return bool(extensions.get("from_cache") and not extensions.get("revalidated"))


class Body:
    """The body of an answer, which holds the slot of its call."""

    __slots__ = ("_calls", "_lease", "_stream")

    def __init__(self, calls: Calls[Any], lease: Any, stream: Any) -> None:
        self._calls = calls
        self._stream = stream
        self._lease = lease

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream: Any = None
        try:
            stream = self._stream.__aiter__()
            async for chunk in stream:
                yield chunk
        except GeneratorExit:  # broken off, which the stream beneath has to know as well
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
            raise
        finally:
            self._calls.release(self._lease)

    async def aclose(self) -> None:
        """Close the body, and give the slot back."""
        try:
            await self._stream.aclose()
        finally:
            if self._lease in self._calls.open:
                self._calls.release(self._lease)

    def __del__(self) -> None:
        # Ctrl-C may come before all is there, but then the call has failed, and holds nothing.
        lease = getattr(self, "_lease", None)
        if lease is not None and lease in self._calls.open:
            self._calls.drop(lease)


class SyncBody:
    """The same for threads."""

    __slots__ = ("_calls", "_lease", "_stream")

    def __init__(self, calls: Calls[Any], lease: Any, stream: Any) -> None:
        self._calls = calls
        self._stream = stream
        self._lease = lease

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        finally:
            self._calls.release(self._lease)

    def close(self) -> None:
        """Close the body, and give the slot back."""
        try:
            self._stream.close()
        finally:
            self._calls.release(self._lease)

    def __del__(self) -> None:
        # Ctrl-C may come before all is there, but then the call has failed, and holds nothing.
        lease = getattr(self, "_lease", None)
        if lease is not None and lease in self._calls.open:
            self._calls.drop(lease)


class Wrapper(Generic[Q, T]):
    """What the transports for event loops and for threads have in common."""

    _family: ClassVar[Family]
    _calls: Calls[Q]
    _inner: Any

    def _new(self) -> Any:
        """The inner transport where none is given."""
        raise NotImplementedError

    @property
    def learner(self) -> Learner | None:
        """What learns from the answers, and counts what it ignores; None if nothing does."""
        return self._calls.learner

    if not TYPE_CHECKING:  # or checkers would take it for a transport of any kind

        def __getattr__(self, name: str) -> Any:
            raise self._family.lacks(self, name)

    def __repr__(self) -> str:
        kind = f"async_throttle.http.{self._family.name}.{type(self).__name__}"
        return f"<{kind} of {self._calls.throttle!r} over {self._inner!r}>"


class Transport(Wrapper[Q, T]):
    """A transport in which each request waits for a limit, and holds its slot for the body."""

    _body: ClassVar[type[Body]]

    def __init__(
        self,
        throttle: Asked[Q],
        transport: T | None = None,
        *,
        weight: Weight[Q] = 1,
        key: Key[Q] | None = None,
        timeout: Timeout[Q] = None,
        priority: Priority[Q] = 0,
        learn: bool | Learner = True,
        origins: Iterable[str] = (),
    ) -> None:
        family = self._family
        if transport is not None:
            family.check_transport(transport, "handle_async_request")
        self._calls = Calls(
            throttle,
            weight=weight,
            key=key,
            timeout=timeout,
            priority=priority,
            learn=learn,
            origins=origins,
            unsent=family.unsent,
            late=family.late,
        )
        self._inner = self._new() if transport is None else transport

    async def handle_async_request(self, request: Q) -> Any:
        """Wait for the limit, and send *request*.

        Raises:
            TypeError: *request* is of another family. Nothing was sent.
            ResourceLimitError: the limit refuses it, by `ThrottleTimeout` and others. Nothing was
                sent, and nothing is held.
        """
        calls = self._calls
        learner = calls.learner
        if not isinstance(request, self._family.request):
            raise self._family.refusal(request)
        if calls.ready is None or calls.open:  # else as `begin` does, without the call
            limiter, lease = calls.begin(request)
        else:
            limiter, lease = calls.fixed, calls.ready()
        await lease.__aenter__()
        response = None
        try:
            sent = request
            if not calls.alone:
                limiter = calls.granted(limiter, lease)
                if headers := calls.swapped(request, lease):
                    sent = self._family.swapped(request, headers)
            lease.serial = next(serials)
            response = await self._inner.handle_async_request(sent)
            if calls.ends:
                lease.ended()
            if learner is not None:
                status, headers, more = response.status_code, response.headers, response.extensions
                cached = not CACHES.isdisjoint(more) and is_cached(more)
                learner.answered(limiter, lease, status, headers, cached=cached)
            response.extensions[EXTENSION] = lease
            if response.is_closed:
                calls.over(lease)
            else:
                calls.keep(lease)
                response.stream = self._body(calls, lease, response.stream)
        except BaseException as error:
            calls.failed(limiter, lease, error)
            if response is not None:
                await response.aclose()
            raise
        return response

    async def aclose(self) -> None:
        """Close the inner transport; bodies that are open hold nothing any more."""
        try:
            await self._inner.aclose()
        finally:
            self._calls.release_all()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self._inner.__aexit__(exc_type, exc_value, traceback)
        finally:
            self._calls.release_all()


class SyncTransport(Wrapper[Q, T]):
    """The same for threads, over limits for threads."""

    _body: ClassVar[type[SyncBody]]

    def __init__(
        self,
        throttle: SyncAsked[Q],
        transport: T | None = None,
        *,
        weight: Weight[Q] = 1,
        key: Key[Q] | None = None,
        timeout: Timeout[Q] = None,
        priority: Priority[Q] = 0,
        learn: bool | Learner = True,
        origins: Iterable[str] = (),
    ) -> None:
        family = self._family
        if transport is not None:
            family.check_transport(transport, "handle_request")
        self._calls = SyncCalls(
            throttle,
            weight=weight,
            key=key,
            timeout=timeout,
            priority=priority,
            learn=learn,
            origins=origins,
            unsent=family.unsent,
            late=family.late,
        )
        self._inner = self._new() if transport is None else transport

    def handle_request(self, request: Q) -> Any:
        """Wait for the limit, with the thread, and send *request*; see `Transport`."""
        calls = self._calls
        learner = calls.learner
        if not isinstance(request, self._family.request):
            raise self._family.refusal(request)
        limiter, lease = calls.begin(request)
        lease.__enter__()
        response = None
        try:
            sent = request
            if not calls.alone:
                limiter = calls.granted(limiter, lease)
                if headers := calls.swapped(request, lease):
                    sent = self._family.swapped(request, headers)
            lease.serial = next(serials)
            response = self._inner.handle_request(sent)
            if calls.ends:
                lease.ended()
            if learner is not None:
                status, headers, more = response.status_code, response.headers, response.extensions
                cached = not CACHES.isdisjoint(more) and is_cached(more)
                learner.answered(limiter, lease, status, headers, cached=cached)
            response.extensions[EXTENSION] = lease
            if response.is_closed:
                calls.over(lease)
            else:
                calls.keep(lease)
                response.stream = self._body(calls, lease, response.stream)
        except BaseException as error:
            calls.failed(limiter, lease, error)
            if response is not None:
                response.close()
            raise
        return response

    def close(self) -> None:
        """Close the inner transport; bodies that are open hold nothing any more."""
        try:
            self._inner.close()
        finally:
            self._calls.release_all()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            self._inner.__exit__(exc_type, exc_value, traceback)
        finally:
            self._calls.release_all()
