"""Wake-ups between the processes of one host: a datagram of one byte on loopback."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

__all__ = ["Bell", "Listener"]

MOST = 1_000
"""Datagrams that are one wake-up; the operating system keeps some hundreds."""


class Listener(Protocol):
    """What is woken."""

    @property
    def wake(self) -> Callable[[], None]:
        """To be called when somebody rings."""
        ...


class Bell:
    """What wakes a connection: a datagram of one byte that comes to its port on loopback.

    One that is lost, or sent by a stranger, costs a look at the store.

    Attributes:
        port: where it comes.
        silent: whether nobody listens any more.
        loop: the event loop that listens; None if a thread does.
    """

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.bind(("127.0.0.1", 0))
        except OSError:
            self.socket.close()
            raise
        self.port: int = self.socket.getsockname()[1]
        self.silent = False
        self.loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._pid = os.getpid()

    def listen(self, connection: Listener) -> None:
        """Wake *connection* in the running event loop; else in a thread, which does not keep it."""
        try:
            loop = asyncio.get_running_loop()
            loop.add_reader(self.socket, self._heard, connection.wake)
        except (RuntimeError, NotImplementedError):
            threading.Thread(
                target=self._wait,
                args=(weakref.ref(connection),),
                name=f"wake-ups of {connection!r}",
                daemon=True,
            ).start()
        else:
            self.loop = weakref.ref(loop)

    def _heard(self, wake: Callable[[], None]) -> None:
        self._hush()
        wake()

    def _hush(self) -> None:
        """Several datagrams are one wake-up."""
        with suppress(OSError):
            for _ in range(MOST):
                self.socket.recv(1)

    def _wait(self, listener: weakref.ref[Listener]) -> None:
        with self.socket, selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            while True:
                selector.select()
                self._hush()
                connection = listener()
                if self.silent or connection is None:
                    return
                connection.wake()
                del connection

    def ring(self, address: str) -> None:
        """Wake the connection of that address, if it is there."""
        with suppress(OSError, ValueError, OverflowError):
            self.socket.sendto(b"\0", ("127.0.0.1", int(address)))

    def close(self) -> None:
        """Listen no more."""
        self.silent = True
        if self._pid != os.getpid():
            self.socket.close()  # the loop's files, and the datagrams, are the parent's
        elif self.loop is None:
            self.ring(str(self.port))  # the thread closes the socket
        else:
            loop = self.loop()
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self.socket)
            self.socket.close()
