"""The stores of sets that are handed to other processes, and have no name: concurry's modes.

A file of its own for the sets that a program makes. It lies in a folder that goes with the last
process that uses it: each of them holds a lock on it, shared with the others, which ends with the
process, however that ends.
"""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any, Final

from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores import Store, packed
from async_throttle.stores.ray import RayStore
from async_throttle.stores.sqlite import SQLiteStore

try:
    import fcntl
except ImportError:  # on Windows nobody can delete what somebody uses
    fcntl = None  # type: ignore[assignment]

__all__ = ["OwnFile", "own_actor", "own_file"]

PREFIX: Final = "async_throttle-"
"""How the names of the folders begin."""

YOUNG: Final = 60.0
"""Seconds for which a folder is left alone that nobody has locked: it is being made."""

LAST: Final = -1_000
"""When a folder is left: after processes were joined that use it."""

_lock = threading.RLock()
_own: dict[str, Store] = {}
"""By mode, the store of the sets that this program makes."""
_used: dict[str, OwnFile] = {}
"""By folder, those that this process uses: until it ends, as a set may be on its way to another."""


class OwnFile(SQLiteStore):
    """A quota in a file for a program and the processes that it starts.

    Args:
        folder: where it lies.
        settings: see `Store`.

    Raises:
        StoreUnavailable: it has gone, with the last process that used it.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(os.path.join(folder, "quota.db"), **settings)
        self.folder = folder
        try:
            users = os.open(os.path.join(folder, "users"), os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            raise StoreUnavailable(
                f"{self!r} is not there: the process has ended that made it, and nobody used it"
            ) from None
        if fcntl is not None:
            fcntl.flock(users, fcntl.LOCK_SH)
        self._users = users
        self._watch()
        multiprocessing.util.register_after_fork(self, OwnFile._watch)
        with _lock:
            _used[folder] = self

    def _watch(self) -> None:
        """Leave the folder at the end of this process."""
        args = (self.folder, self._users)
        multiprocessing.util.Finalize(None, _leave, args, exitpriority=LAST)

    def __reduce__(self) -> tuple[Any, ...]:
        return packed(self, self.folder)


def own_file() -> Store:
    """The file of the sets that this program makes."""
    with _lock:
        if "process" not in _own:
            _sweep()
            _own["process"] = OwnFile(tempfile.mkdtemp(prefix=PREFIX))
        return _own["process"]


def own_actor() -> Store:
    """The actor of sets that have no store."""
    with _lock:
        if "ray" not in _own:
            _own["ray"] = RayStore()
        return _own["ray"]


def _leave(folder: str, users: int) -> None:
    with suppress(OSError):
        os.close(users)
    _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder that nobody uses."""
    try:
        users = os.open(os.path.join(folder, "users"), os.O_RDWR)
    except OSError:
        return
    try:
        if fcntl is not None:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # somebody uses it
    finally:
        os.close(users)


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.name.startswith(PREFIX) and entry.stat(follow_symlinks=False)
                if found and found.st_mtime < time.time() - YOUNG and _is_mine(found.st_uid):
                    _remove(entry.path)


def _is_mine(user: int) -> bool:
    return not hasattr(os, "getuid") or user == os.getuid()
