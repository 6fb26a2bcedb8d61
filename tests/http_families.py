"""httpx and httpx2 behind one face, servers for both, and what breaks off a coroutine anywhere."""

from __future__ import annotations

import asyncio
import types
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from importlib import import_module
from typing import Any, TypeVar

import pytest

__all__ = ["FAMILIES", "Family", "broken_off"]

T = TypeVar("T")

URL = "https://api.example.com/v1"


class Family:
    """One of the families, with our transports for it, and servers that are no servers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lib = import_module(name)
        self.ours = import_module(f"async_throttle.http.{name}")

    def __repr__(self) -> str:
        return self.name

    def stream(
        self,
        *chunks: bytes | BaseException | float,
        closing: float = 0.0,
        fails: BaseException | None = None,
    ) -> Any:
        """A body: bytes are sent, exceptions raised, numbers are seconds to wait.

        Args:
            closing: seconds that it takes to close it.
            fails: what closing it raises.
        """

        class Stream(self.lib.AsyncByteStream, self.lib.SyncByteStream):  # type: ignore[misc, name-defined]
            closed = 0

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for chunk in chunks:
                    if isinstance(chunk, BaseException):
                        raise chunk
                    if isinstance(chunk, bytes):
                        yield chunk
                    else:
                        await asyncio.sleep(chunk)

            def __iter__(self) -> Iterator[bytes]:
                for chunk in chunks:
                    if isinstance(chunk, BaseException):
                        raise chunk
                    if isinstance(chunk, bytes):
                        yield chunk

            async def aclose(self) -> None:
                await asyncio.sleep(closing)
                self.close()

            def close(self) -> None:
                self.closed += 1
                if fails is not None:
                    raise fails

        return Stream()

    def server(self, *answers: Any, after: float = 0.0) -> Any:
        """An inner transport that gives the *answers* in turn, the last one again and again.

        An answer is a response or an exception, or a function of the request that gives one. It
        comes *after* so many seconds; the requests that came are in ``requests``.
        """
        lib = self.lib

        class Server(lib.AsyncBaseTransport, lib.BaseTransport):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                self.requests: list[Any] = []
                self.closed = 0

            def answer(self, request: Any) -> Any:
                answer = answers[min(len(self.requests), len(answers)) - 1]
                answer = answer(request) if callable(answer) else answer
                if isinstance(answer, BaseException):
                    raise answer
                return answer

            async def handle_async_request(self, request: Any) -> Any:
                self.requests.append(request)
                await asyncio.sleep(after)
                return self.answer(request)

            def handle_request(self, request: Any) -> Any:
                self.requests.append(request)
                return self.answer(request)

            async def aclose(self) -> None:
                self.closed += 1

            def close(self) -> None:
                self.closed += 1

        return Server()

    def streaming(self, *chunks: bytes | BaseException | float, **how: Any) -> Any:
        """A server that answers each request with a body of these *chunks*."""
        after = how.pop("after", 0.0)
        status = how.pop("status", 200)
        headers = how.pop("headers", {})
        return self.server(
            lambda request: self.lib.Response(
                status, headers=headers, stream=self.stream(*chunks, **how)
            ),
            after=after,
        )

    def client(self, throttle: Any, server: Any, **how: Any) -> Any:
        return self.lib.AsyncClient(transport=self.ours.ThrottledTransport(throttle, server, **how))

    def sync_client(self, throttle: Any, server: Any, **how: Any) -> Any:
        return self.lib.Client(transport=self.ours.SyncThrottledTransport(throttle, server, **how))

    def error(self, name: str) -> Exception:
        error: Exception = getattr(self.lib, name)("it was to fail")
        return error


FAMILIES: Sequence[Any] = [pytest.param(Family(name), id=name) for name in ("httpx", "httpx2")]


def broken_off(
    coroutine: Coroutine[Any, Any, T], at: int, error: Callable[[], BaseException]
) -> Awaitable[tuple[int, T | None]]:
    """Run *coroutine*, and raise *error* in it where it waits for the *at*-th time.

    Returns:
        How often it has waited, and its result; None if it was broken off.
    """

    @types.coroutine
    def run() -> Generator[Any, Any, tuple[int, T | None]]:
        waits = 0
        step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
        while True:
            try:
                waited_for = step()
            except StopIteration as result:
                return waits, result.value
            except asyncio.CancelledError:
                return waits, None
            waits += 1
            if waits == at:
                if asyncio.isfuture(waited_for):
                    waited_for._asyncio_future_blocking = False
                    waited_for.cancel()
                step = lambda: coroutine.throw(error())  # noqa: E731
                continue
            try:
                yield waited_for
            except BaseException as late:
                step = lambda late=late: coroutine.throw(late)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda: coroutine.send(None)  # noqa: E731

    return run()
