"""A quota in a file, for the processes of one host: SQLite, which Python brings.

`_files.py` is how steps are kept apart, and what becomes of the files; `_bell.py` is how processes
wake each other. Network file systems do not do: SQLite's log is shared memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Literal

from async_throttle.stores import Busy, Connection, Reply, Request, Store, address_of, packed
from async_throttle.stores._bell import Bell
from async_throttle.stores._files import SHUT_OUT, Files, own_folder

__all__ = ["SQLiteStore"]

SPINS = 5
"""How often the guard is tried before a pause: most steps are over by then."""
PAUSE = 0.0003
"""Seconds between later tries."""


class SQLiteStore(Store):
    """A quota in a file, for all processes of this host that name the same file.

    Args:
        path: the file; it is made if it is not there. None: one in a folder of the user's cache
            directory that nobody else can read, named after the program and where that lies.
        ttl, horizon, grace, on_error, on_mismatch: see `Store`.

    A pickled store is the same file.

    >>> SQLiteStore("/var/lib/bot/quota.db")
    SQLiteStore('/var/lib/bot/quota.db')

    Raises:
        TypeError: *path* is no path.
        ValueError: *path* is no file that processes could share, or a parameter is out of range.
        StoreUnavailable: there is no path, and the user has no cache directory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        ttl: float = 30.0,
        horizon: float = 0.25,
        grace: float = 0.02,
        on_error: Literal["wait", "local", "open", "raise"] = "wait",
        on_mismatch: Literal["replace", "raise"] = "replace",
    ) -> None:
        super().__init__(
            ttl=ttl, horizon=horizon, grace=grace, on_error=on_error, on_mismatch=on_mismatch
        )
        if path is None:
            path = os.path.join(own_folder(), _program() + ".db")
        path = os.fspath(path)
        if not isinstance(path, str):
            raise TypeError(f"path must be a str or a path, got {path!r}")
        if path in ("", ":memory:") or path.startswith("file:"):
            raise ValueError(f"path must be a file that processes can share, got {path!r}")
        self.path = os.path.realpath(path)  # two names of one file have one guard

    def connect(self, wake: Callable[[], None]) -> Connection:
        """A connection for the running event loop, or for the threads of this process.

        Raises:
            StoreUnavailable: the process has no loopback interface to be woken by. What is wrong
                with the file is told by the first call.
        """
        return _SQLiteConnection(self.path, wake)

    def look(self) -> dict[str, Any]:
        """The states of all limits, by name; none if the file is not there.

        Raises:
            StoreUnavailable: the file cannot be read.
        """
        if not os.path.lexists(self.path):
            return {}
        files = Files(self.path)
        until = time.monotonic() + SHUT_OUT
        try:
            while True:
                try:
                    with files.door:
                        return files.look()
                except Busy:
                    if time.monotonic() >= until:
                        raise files.shut_out() from None
                time.sleep(PAUSE)
        finally:
            files.end()

    def __reduce__(self) -> tuple[Any, ...]:
        return packed(self, self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


def _program() -> str:
    """A name for the program: that of its file, and a digest of where that lies."""
    script = sys.argv[0] if sys.argv else ""
    if os.path.isfile(script):
        where = os.path.realpath(script)
        name = os.path.splitext(os.path.basename(where))[0]
        if name == "__main__":
            name = os.path.basename(os.path.dirname(where))
    else:
        where, name = os.getcwd(), "python"
    name = "".join(each if each.isalnum() or each in "-_" else "_" for each in name)[:64]
    digest = hashlib.sha256(os.fsencode(where)).hexdigest()[:8]
    return f"{name}-{digest}"


class _SQLiteConnection(Connection):
    """Files and a bell."""

    quick = True

    def __init__(self, path: str, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._files = Files(path)
        self._pid = os.getpid()
        self._closed = False
        try:
            self._bell = Bell()
        except OSError as error:
            raise self._files.away(f"there is no loopback interface ({error})") from error
        self.address = str(self._bell.port)
        self._bell.listen(self)
        self._end = weakref.finalize(self, _end, self._files, self._bell)

    def call(self, names: Sequence[str], request: Request, patience: float) -> Reply:
        """Apply a step; see `Connection.call`."""
        files = self._files
        if files.is_inside():
            raise Busy  # a finalizer, or a signal handler, comes in the middle of a step
        # No acquire() with a timeout: what is raised by a signal could come between it and a try.
        with files.door:
            files.owner = get_ident()
            if self._closed or self._pid != os.getpid():
                raise files.away("this connection was closed, or inherited by a fork")
            tries, until = 0, 0.0
            while True:
                try:
                    reply, wakes = files.apply(names, request)
                    break
                except Busy:
                    tries += 1
                    if tries == 1:
                        until = time.monotonic() + patience
                    elif tries > SPINS:
                        if time.monotonic() >= until:
                            raise
                        time.sleep(PAUSE)
        if wakes:
            for address in {address_of(session) for session in wakes}:
                self._bell.ring(address)
        return reply

    async def send(self, names: Sequence[str], request: Request) -> Reply:
        """Apply a step without blocking the event loop; see `Connection.send`."""
        until = time.monotonic() + SHUT_OUT
        while True:
            try:
                return self.call(names, request, 0)
            except Busy:
                if time.monotonic() >= until:
                    raise self._files.shut_out() from None
            await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Let files and bell go."""
        self._closed = True
        self._end()

    def __repr__(self) -> str:
        return f"<connection {self.address} to {self._files.path!r}>"


def _end(files: Files, bell: Bell) -> None:
    files.end()
    bell.close()
