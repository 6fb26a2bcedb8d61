"""The files in which SQLite keeps a quota.

::

    quota.db                 a row for each limit: its name, until when it lasts, its state as JSON
    quota.db-wal, -shm       are SQLite's, and go when the last process has closed the database
    quota.db.lock            the guard: who holds its lock is the only one at the database

A step reads, computes and writes while its process holds the guard. SQLite alone would keep the
steps apart as well, but not fairly: of four processes that do nothing else, one starves. A process
that is killed lets go of all its locks, and what it has not committed was never there.

What must stay true, or commits are lost:

- Nobody but SQLite opens the database: closing any file of it drops SQLite's locks of this process.
- No child of a fork inherits an open database, whose locks it would not have and would believe to
  have: a fork waits for the step in hand, and closes all files first. They are opened anew when
  they are next needed.
- Both files are looked for at their paths in each step: somebody may have deleted or replaced them.
  The guard notes whose log lies beside it, so that none is played back into another database.
  (SQLite leaves the log alone when it closes a database that is not at its path any more.)
- A guard is unlocked before it is closed: a child may have inherited it.

What is written survives the program, not a loss of power: there is no fsync.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from async_throttle.stores import Busy, Reply, Request, StoreUnavailable
from async_throttle.stores._state import State, step

if sys.platform == "win32":
    import msvcrt

    TAKEN = PermissionError

    def _locks(file: int) -> tuple[Callable[[], object], Callable[[], object]]:
        def unlock() -> None:
            with suppress(OSError):  # it was not locked
                msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

        return partial(msvcrt.locking, file, msvcrt.LK_NBLCK, 1), unlock

else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

    TAKEN = BlockingIOError

    def _locks(file: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """What locks a guard, or raises TAKEN, and what unlocks it.

        Both are called in C alone: no signal handler can come in between the end of a step and the
        unlocking, and leave all other processes waiting.
        """
        return partial(flock, file, LOCK_EX | LOCK_NB), partial(flock, file, LOCK_UN)


__all__ = ["SHUT_OUT", "Files", "own_folder"]

P = ParamSpec("P")
R = TypeVar("R")

OURS = 0x61746871
"""The application id of the database: nobody else's is touched."""
FORMAT = 1
"""The user version of the database."""
LOG = 8 << 20
"""Bytes that SQLite's log keeps on disk; it has a thousand pages at most unless a step is large."""
LASTS = 3
"""The place of how long a state lasts in what is told of a limit: see `_state`."""

SHUT_OUT = 2.0
"""Seconds after which the guard, or the database, is held by somebody who does not let go."""
FORK = 1.0
"""Seconds that a fork waits for the step of another thread."""

SWEEP = 256
"""Each so many-th step looks for rows that have lapsed..."""
SWEPT = 2 * SWEEP
"""...among so many: more than could have come meanwhile."""
KNOWN = 1_000
"""States that are kept in memory, to save reading those that nobody else has changed."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().decode


def own_folder() -> str:
    """The folder in the user's cache directory."""
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        cache = os.path.expanduser("~/Library/Caches")
    else:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(cache):
            cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):
        raise StoreUnavailable("this user has no home directory: give SQLiteStore a path")
    return os.path.join(os.path.realpath(cache), "async_throttle")


def _check_owner(path: str, kind: Callable[[int], bool]) -> None:
    """Refuse what others could have put there, or may read."""
    found = os.lstat(path)
    ours = sys.platform == "win32" or (
        found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    )
    if not (kind(found.st_mode) and ours):
        raise StoreUnavailable(
            f"{path!r} is not this user's alone: {stat.filemode(found.st_mode)}, "
            f"owner {found.st_uid}"
        )


class _Moved(Exception):
    """There is another guard at the path by now."""


def _identity(path: str) -> tuple[int, int]:
    """Which file there is at a path."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_dev


@cache
def _select(names: int) -> str:
    marks = ", ".join("?" * names)
    return f"SELECT name, state FROM states WHERE name IN ({marks})"


class Files:
    """Guard and database of a store, opened when they are needed.

    Attributes:
        door: held by the thread that is at the files, and over a fork; owner: the last such thread.
        guard: its file descriptor; -1 while it is closed.
        lock, unlock: the guard; see `_locks`.
        guard_is, database_is: which files are open.
        sql: the database; None while it is closed. cursor, execute: its only cursor.
        known: by name, the text of a state as it was last seen, and the state.
        steps: how many there were; swept: the name up to which rows were looked at.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.guard_path = path + ".lock"
        self.door = threading.Lock()
        self.owner = 0
        self.guard = -1
        self.lock: Callable[[], object] = bool
        self.unlock: Callable[[], object] = bool
        self.guard_is = self.database_is = (0, 0)
        self.sql: sqlite3.Connection | None = None
        self.cursor: sqlite3.Cursor
        self.execute: Callable[..., sqlite3.Cursor]
        self.known: dict[str, tuple[str, State]] = {}
        self.steps = 0
        self.swept = ""
        with _forking:
            _all_files.add(self)

    # -- a step --

    def apply(self, names: Sequence[str], request: Request) -> tuple[Reply, list[str]]:
        """Apply a step; the reply, and who is to be woken.

        Raises:
            Busy: somebody else is at the files, and nothing was done.
        """
        return self._within(self._step, names, request)

    def is_inside(self) -> bool:
        """Whether this thread is in the middle of a step."""
        return self.door.locked() and self.owner == threading.get_ident()

    def look(self) -> dict[str, Any]:
        """The states by name."""
        return self._within(self._look)

    def _within(self, work: Callable[P, R], *what: P.args, **how: P.kwargs) -> R:
        """Do *work* while the guard is held, and tell its errors in the words of stores."""
        try:
            if self.guard < 0:
                self._open_guard()
            try:
                try:
                    self.lock()
                except TAKEN:
                    raise Busy from None
                if _identity(self.guard_path) != self.guard_is:
                    raise _Moved
                if self.sql is None or _identity(self.path) != self.database_is:
                    self._open()
                return work(*what, **how)
            finally:
                self.unlock()
        except _Moved:
            self._close_guard()
            raise Busy from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL):
                self._undo()
                raise Busy from None
            self._close_database()
            raise self.away(str(error)) from error
        except OSError as error:
            raise self.away(error.strerror or str(error)) from error
        except BaseException:
            self._undo()
            raise

    def _step(self, names: Sequence[str], request: Request) -> tuple[Reply, list[str]]:
        self.steps += 1
        if self.steps % SWEEP == 0:
            self._sweep()
        execute, known = self.execute, self.known
        many = len(names) > 1
        if many:  # one row is read and written by itself; nobody comes between, while we are here
            execute("BEGIN IMMEDIATE")
        now = time.time_ns() // 1_000
        texts = dict(execute(_select(len(names)), names).fetchall())
        states: list[State | None] = []
        for name in names:
            text = texts.get(name)
            seen, state = known.pop(name, ("", None))
            states.append(None if text is None else state if text == seen else self._read(text))
        reply, kept, wakes = step(now, request, states)
        for n in range(len(names)):
            name, state = names[n], kept[n]
            if state is not None:
                text = _encode(state)
                lasts = int(now + reply["limits"][n][LASTS])
                if name in texts:
                    execute(
                        "UPDATE states SET lasts = ?, state = ? WHERE name = ?", (lasts, text, name)
                    )
                else:
                    execute("INSERT INTO states VALUES (?, ?, ?)", (name, lasts, text))
                known[name] = text, state
            elif name in texts:
                execute("DELETE FROM states WHERE name = ?", (name,))
        if many:
            execute("COMMIT")
        return reply, wakes

    def _read(self, text: str) -> State:
        try:
            return _decode(text)  # type: ignore[no-any-return]
        except ValueError:
            raise self.away("a state in it is damaged") from None

    def _sweep(self) -> None:
        """Delete rows that have lapsed, and keep what is known within bounds."""
        now = time.time_ns() // 1_000
        if len(self.known) > KNOWN:
            self.known.clear()
        rows = self.execute(
            "SELECT name, lasts FROM states WHERE name > ? ORDER BY name LIMIT ?",
            (self.swept, SWEPT),
        ).fetchall()
        for name, lasts in rows:
            if lasts <= now:
                self.execute("DELETE FROM states WHERE name = ?", (name,))
        self.swept = rows[-1][0] if len(rows) == SWEPT else ""

    def _look(self) -> dict[str, Any]:
        rows = self.execute(
            "SELECT name, state FROM states WHERE lasts > ? ORDER BY name",
            (time.time_ns() // 1_000,),
        ).fetchall()
        return {name: self._read(text) for name, text in rows}

    def _undo(self) -> None:
        """Give up a transaction that was not committed."""
        if self.sql is not None and self.sql.in_transaction:
            self.sql.rollback()

    def away(self, why: str) -> StoreUnavailable:
        """The error that says why the store cannot be used."""
        return StoreUnavailable(f"the store {self.path!r} cannot be used: {why}")

    def shut_out(self) -> StoreUnavailable:
        """The error when `Busy` does not end."""
        return self.away(f"another process has had it locked for {SHUT_OUT:g} s")

    # -- opening --

    def _open_guard(self) -> None:
        private = self._is_private()
        mode = 0o600
        if private:
            folder = os.path.dirname(self.path)
            os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:
                _check_owner(folder, stat.S_ISDIR)
        else:
            try:
                mode = stat.S_IMODE(os.stat(self.path).st_mode) & 0o666
            except FileNotFoundError:
                mode = 0o644  # as SQLite makes the database
        guard = os.open(self.guard_path, os.O_RDWR | os.O_CREAT, mode)
        found = os.fstat(guard)
        self.guard_is = found.st_ino, found.st_dev
        self.lock, self.unlock = _locks(guard)
        self.guard = guard

    def _is_private(self) -> bool:
        try:
            return os.path.dirname(self.path) == own_folder()
        except StoreUnavailable:
            return False

    def _open(self) -> None:
        """Open the database; called while the guard is held."""
        self._close_database()
        there = _identity(self.path)[0]
        if there == 0 or self._noted() not in (0, there):
            for log in ("-wal", "-shm"):  # of a database that was here before
                if os.path.lexists(self.path + log):
                    os.unlink(self.path + log)
        if self._is_private():
            try:
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                _check_owner(self.path, stat.S_ISREG)
        sql = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(sql)
            self.database_is = _identity(self.path)
            self._note(self.database_is[0])
        except BaseException:
            sql.close()
            raise
        self.cursor = sql.cursor()
        self.execute = self.cursor.execute
        self.sql = sql

    def _prepare(self, sql: sqlite3.Connection) -> None:
        def ask(pragma: str) -> Any:
            return sql.execute(f"PRAGMA {pragma}").fetchone()[0]

        owner = ask("application_id")
        empty = ask("schema_version") == 0
        if owner != OURS and not (owner == 0 and empty):
            raise self.away("it is the database of another program")
        if not empty and ask("user_version") != FORMAT:
            raise self.away("it was made by another version of async_throttle")
        sql.execute("PRAGMA synchronous = OFF")
        if (mode := ask("journal_mode = WAL")) != "wal":  # it does not raise where it cannot
            raise self.away(f"its file system does not do (its journal mode stays {mode!r})")
        sql.execute(f"PRAGMA journal_size_limit = {LOG}").fetchall()
        sql.execute("BEGIN IMMEDIATE")
        if empty:
            sql.execute(
                "CREATE TABLE states (name TEXT PRIMARY KEY, lasts INTEGER NOT NULL, "
                "state TEXT NOT NULL) WITHOUT ROWID"
            )
            sql.execute("CREATE TABLE opened (at INTEGER NOT NULL)")
            sql.execute("INSERT INTO opened VALUES (0)")
            sql.execute(f"PRAGMA application_id = {OURS}")
            sql.execute(f"PRAGMA user_version = {FORMAT}")
        # Whoever cannot write learns it here.
        sql.execute("UPDATE opened SET at = ?", (time.time_ns() // 1_000,))
        sql.execute("COMMIT")

    def _noted(self) -> int:
        """The number of the database to which the log beside the guard belongs; 0: not known."""
        if sys.platform == "win32":  # nobody replaces an open file there
            return 0
        noted = os.pread(self.guard, 32, 0)
        return int(noted) if noted.strip().isdigit() else 0

    def _note(self, number: int) -> None:
        if sys.platform != "win32":
            os.pwrite(self.guard, b"%-31d\n" % number, 0)

    # -- closing --

    def close(self) -> None:
        """Close both files, behind the door; they are opened again when they are needed."""
        self._close_database()
        self._close_guard()

    def end(self) -> None:
        """Close both files, unless another thread does not come out of its step."""
        if self.door.acquire(timeout=SHUT_OUT):
            try:
                self.close()
            finally:
                self.door.release()

    def _close_database(self) -> None:
        sql = self.sql
        if sql is not None:
            self.sql = None
            self.known.clear()
            self.cursor.close()  # SQLite does not let go while there is a statement left
            sql.close()

    def _close_guard(self) -> None:
        if self.guard >= 0:
            guard, self.guard = self.guard, -1
            self.unlock()
            os.close(guard)

    # -- fork --

    def forked(self) -> None:
        """This is the child, which has inherited what a fork did not wait for."""
        self.door = threading.Lock()
        if self.guard >= 0:
            os.close(self.guard)  # without unlocking it: the lock is the parent's
            self.guard = -1
        if self.sql is not None:
            # Never closed, not even when the interpreter ends: a lock within it may be held by a
            # thread that is not here. So it is given a reference that nobody has.
            kept = self.sql, self.cursor
            self.sql = None
            self.known.clear()
            _kept.append(kept)
            with suppress(ImportError):  # an interpreter may have been built without it
                import ctypes

                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


_all_files: weakref.WeakSet[Files] = weakref.WeakSet()
_forking = threading.RLock()
"""Held over a fork, and by whoever makes files."""
_held: list[Files] = []
"""Those whose door is held over a fork."""
_kept: list[object] = []
"""Databases that were inherited."""


def _before_fork() -> None:
    _forking.acquire()
    for files in list(_all_files):
        if files.door.acquire(timeout=FORK):
            _held.append(files)
            with suppress(Exception):  # the child takes no harm from what it does not touch
                files.close()


def _after_fork(child: bool) -> None:
    for files in _held:
        files.door.release()
    _held.clear()
    if child:
        for files in list(_all_files):
            files.forked()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, child=False),
        after_in_child=partial(_after_fork, child=True),
    )
