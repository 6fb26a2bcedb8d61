"""The protocol of Redis, and links that speak it: of an event loop, or of a thread.

What is asked, and what follows from an answer, is written once, as coroutines (`_redis_client`). A
`LoopLink` waits in the event loop; a `ThreadLink` blocks instead and never suspends, so `run` can
carry such a coroutine through in a thread.

redis-py has connections too. Those of its versions 5 to 8 differ in how they time out, try again
and close, they cut off the first word of some errors, and more than half of the time of a call is
spent in them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from async_throttle.exceptions import ResourceError
from async_throttle.stores._redis_url import Address

__all__ = ["Link", "LoopLink", "Lost", "RedisError", "Replies", "ThreadLink", "packed", "run"]

T = TypeVar("T")


class RedisError(ResourceError):
    """What a server answered instead of doing what it was asked, in its own words.

    Attributes:
        word: the first one, which says what kind of error it is.
    """

    __module__ = "async_throttle.stores.redis"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.word = message.partition(" ")[0]


class Lost(Exception):
    """The link has ended before the answer came."""


def packed(*words: bytes) -> bytes:
    r"""A command, as it is sent.

    >>> packed(b"GET", b"key")
    b'*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n'
    """
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)


class _Incomplete(Exception):
    """The rest of the answer has not come yet."""


MISSING: Final = object()
"""Instead of an answer: it has not come yet."""


class Replies:
    """Answers, out of what comes in: bytes, whole numbers, None, lists of them, or `RedisError`."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        """Take what has come in."""
        self._data = self._data + data if self._data else data

    def take(self) -> Any:
        """The next answer, or MISSING.

        Raises:
            Lost: this is not the protocol of Redis.
        """
        if not self._data:
            return MISSING
        try:
            reply, end = _parsed(self._data, 0)
        except _Incomplete:
            return MISSING
        self._data = self._data[end:]
        return reply


def _parsed(data: bytes, at: int) -> tuple[Any, int]:
    """The answer that begins at a place, and the place at which it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    kind, text = data[at : at + 1], data[at + 1 : end]
    end += 2
    if kind == b"$":
        size = int(text)
        if size < 0:
            return None, end
        if len(data) < end + size + 2:
            raise _Incomplete
        return data[end : end + size], end + size + 2
    if kind == b"+":
        return text, end
    if kind == b":":
        return int(text), end
    if kind == b"-":
        return RedisError(text.decode("utf-8", "replace")), end
    if kind == b"*":
        items: list[Any] = []
        for _ in range(int(text)):
            item, end = _parsed(data, end)
            items.append(item)
        return items, end
    raise Lost("what came was no answer of Redis")


class Link(ABC):
    """A connection to one server. It is opened once: a lost one is replaced.

    Attributes:
        address: of the server.
        lost: whether it has ended.
    """

    __slots__ = ("address", "lost", "pid")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.lost = False
        self.pid = os.getpid()

    @classmethod
    @abstractmethod
    async def open(cls, address: Address, context: ssl.SSLContext | None, patience: float) -> Self:
        """A link to the server at an address.

        Raises:
            OSError: there is no way; TimeoutError: none within *patience* seconds.
        """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send *data*.

        Raises:
            Lost: the link has ended.
        """

    @abstractmethod
    async def read(self, patience: float) -> Any:
        """The next answer, or message.

        Raises:
            Lost: the link has ended; TimeoutError: nothing came for *patience* seconds.
        """

    @abstractmethod
    def close(self) -> None:
        """End it; in a forked child, without a word to the server."""

    async def ask(self, command: bytes, patience: float) -> Any:
        """The answer to a command. If it does not come in time, the link must be closed."""
        self.write(command)
        return await self.read(patience)


_kept_from_the_collector: list[object] = []
"""Transports of the parent process, in a forked child: their finalizers would warn of them."""


class LoopLink(Link, asyncio.Protocol):
    """A link of the running event loop. A caller that is cancelled leaves it as it is."""

    __slots__ = ("_inbox", "_loop", "_replies", "_transport", "_waiting", "_why")

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._replies = Replies()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._inbox: deque[Any] = deque()
        self._why = "it was closed here"

    @classmethod
    async def open(cls, address: Address, context: ssl.SSLContext | None, patience: float) -> Self:
        loop = asyncio.get_running_loop()
        host, port = address
        async with asyncio.timeout(patience):
            if port:
                _, link = await loop.create_connection(
                    lambda: cls(address), host, port, ssl=context
                )
            else:
                _, link = await loop.create_unix_connection(lambda: cls(address), host)
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            while (reply := self._replies.take()) is not MISSING:
                if not self._waiting:
                    self._inbox.append(reply)
                elif not (waiting := self._waiting.popleft()).done():
                    waiting.set_result(reply)
        except Lost as error:
            self._why = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self._why = str(exc) if exc else "the server closed the connection"
        self._end()

    def _end(self) -> None:
        self.lost = True
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(Lost(self._why))
                waiting.exception()  # a caller that is cancelled meanwhile will not ask for it

    def write(self, data: bytes) -> None:
        if self.lost or self._transport is None:
            raise Lost(self._why)
        self._transport.write(data)

    async def read(self, patience: float) -> Any:
        if self._inbox:
            return self._inbox.popleft()
        if self.lost:
            raise Lost(self._why)
        waiting: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(waiting)
        timer = self._loop.call_later(patience, self._too_late, waiting)
        try:
            return await waiting
        finally:
            timer.cancel()

    def _too_late(self, waiting: asyncio.Future[Any]) -> None:
        if not waiting.done():
            self._waiting.remove(waiting)
            waiting.set_exception(TimeoutError())
            waiting.exception()

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            self._end()
        elif os.getpid() == self.pid:
            with suppress(RuntimeError):  # the loop has been closed, and the socket with it
                transport.abort()
            self._end()
        else:
            # To close the transport would take the parent's socket out of the selector, which both
            # share: so the socket is replaced by one of nobody.
            _kept_from_the_collector.append(transport)
            nowhere = os.open(os.devnull, os.O_RDWR)
            with suppress(OSError):
                os.dup2(nowhere, transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(nowhere)
            self.lost = True


class ThreadLink(Link):
    """A link that blocks its thread. Its coroutines never suspend."""

    __slots__ = ("_replies", "_socket")

    def __init__(self, address: Address, sock: socket.socket) -> None:
        super().__init__(address)
        self._socket = sock
        self._replies = Replies()

    @classmethod
    async def open(cls, address: Address, context: ssl.SSLContext | None, patience: float) -> Self:
        host, port = address
        if port:
            sock = socket.create_connection(address, timeout=patience)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(patience)
            if not port:
                sock.connect(host)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        return cls(address, sock)

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            self.lost = True
            raise Lost(str(error)) from None

    async def read(self, patience: float) -> Any:
        until = time.monotonic() + patience
        while (reply := self._replies.take()) is MISSING:
            try:
                self._socket.settimeout(max(0.001, until - time.monotonic()))
                data = self._socket.recv(65_536)
            except TimeoutError:
                if time.monotonic() < until:
                    continue
                raise
            except (OSError, ValueError) as error:
                self.lost = True
                raise Lost(str(error)) from None
            if not data:
                self.lost = True
                raise Lost("the server closed the connection")
            self._replies.feed(data)
        return reply

    async def ask(self, command: bytes, patience: float) -> Any:
        try:
            return await super().ask(command, patience)
        except BaseException:  # a signal's too: the answer would be taken for the next one's
            self.close()
            raise

    def close(self) -> None:
        self.lost = True
        if os.getpid() == self.pid:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # which wakes a thread that reads
        with suppress(OSError):
            self._socket.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What comes of a coroutine that never suspends: one that has only links of a thread."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("it waits for an event loop")
