"""`SQLiteStore`: processes that share a file, and what may become of file and processes.

Real processes in real time. No test looks at how long something took, but for bounds that only
somebody who waits for ever would miss.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import in_child
from sqlite_workers import RATED, TOKEN, WINDOW, Session

from async_throttle.stores import Busy, StoreUnavailable, _files, _state, sqlite
from async_throttle.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[1]
PATIENCE = 10.0
"""Seconds after which somebody hangs."""
CAPACITY, PERIOD, BURST = 1, 2, 3

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps open files in place")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "quota.db")


@pytest.fixture
def store(path: str) -> SQLiteStore:
    return SQLiteStore(path)


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes connections that are closed in the end."""
    made: list[Any] = []

    def connection(store: SQLiteStore, wake: Callable[[], None] = lambda: None) -> Any:
        made.append(store.connect(wake))
        return made[-1]

    yield connection
    for each in made:
        each.close()


class Worker:
    """A process of `sqlite_workers`."""

    def __init__(self, what: str, path: str, seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.sqlite_workers", what, path, str(seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.said = b""

    def go(self) -> None:
        """Wait until it is ready, and let it begin."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        assert self.process.stdout.readline() == b'["ready"]\n'
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def kill(self) -> list[Any]:
        """Kill it; what it had said."""
        self.process.kill()
        return self.end(-signal.SIGKILL if sys.platform != "win32" else 1)

    def end(self, code: int = 0) -> list[Any]:
        """Wait for its end; what it had said."""
        said, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == code
        return [json.loads(line) for line in said.splitlines(keepends=True) if line[-1:] == b"\n"]


def within(booked: list[tuple[float, float]], limit: list[float], *, sliding: bool) -> float:
    """The bookings of all processes keep the limit; how much of it they used, from 0 to 1."""
    booked.sort()
    instants = [at for at, _ in booked]
    total = sum(number for _, number in booked)
    capacity, period, burst = limit[CAPACITY] / TOKEN, limit[PERIOD], limit[BURST] / TOKEN
    if sliding:
        first, inside = 0, 0.0
        for at, number in booked:
            inside += number
            while booked[first][0] + period <= at:
                inside -= booked[first][1]
                first += 1
            assert inside <= capacity
        return total / (capacity * ((instants[-1] - instants[0]) // period + 1))
    missing, last = 0.0, instants[0]
    for at, number in booked:
        missing = max(0.0, missing - (at - last) * capacity / period) + number
        last = at
        assert missing <= burst + 1e-6
    return total / (burst + (instants[-1] - instants[0]) * capacity / period)


def python(program: str, *arguments: str, **how: Any) -> str:
    """What *program* prints in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **how,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    said: str = run.stdout
    return said.strip()


def whole(path: str) -> None:
    """The database is in order. Asked by a process of its own: a file closed here drops locks."""
    program = """
        import contextlib, sqlite3, sys
        with contextlib.closing(sqlite3.connect(sys.argv[1])) as database:
            print(database.execute("PRAGMA integrity_check").fetchall())
    """
    assert python(program, path) == "[('ok',)]"


# -- several at one file ------------------------------------------------------------------


def test_what_processes_book_together_keeps_every_limit(path: str) -> None:
    workers = [Worker("book", path, 1.5) for _ in range(3)]
    for worker in workers:
        worker.go()
    said = [worker.end() for worker in workers]
    for name, limit in (("rated", RATED), ("window", WINDOW)):
        booked = [(at, number) for each in said for kind, at, number in each if kind == name]
        assert within(booked, limit, sliding=name == "window") > 0.2
        assert all(any(kind == name for kind, _, _ in each) for each in said)


def test_of_processes_that_saturate_it_none_starves(path: str) -> None:
    workers = [Worker("saturate", path, 1.5) for _ in range(4)]
    for worker in workers:
        worker.go()
    calls, waits = zip(*(worker.end()[0] for worker in workers), strict=True)
    assert max(calls) < 8 * min(calls)  # without the guard it is 39, and one waits to the end
    assert max(waits) < 1.2


def test_processes_that_are_killed_leave_it_whole_and_nobody_waiting(
    path: str, connect: Callable[..., Any]
) -> None:
    draw = random.Random(7)
    said: list[Any] = []
    workers = [Worker("storm", path, 60) for _ in range(3)]
    for worker in workers:
        worker.go()
    for _ in range(9):
        time.sleep(draw.random() * 0.15)
        said += workers.pop(0).kill()
        workers.append(Worker("storm", path, 60))
        workers[-1].go()
    time.sleep(0.1)
    for worker in workers:
        said += worker.kill()

    session = Session(connect(SQLiteStore(path)), "slots", ttl=0.3)
    session.ask()
    assert session.waits < 1.0
    whole(path)
    for name, limit in (("rated", RATED), ("window", WINDOW)):
        booked = [(at, number) for kind, at, number in said if kind == name]
        within(booked, limit, sliding=name == "window")
        assert len(booked) > 20
    deadline = time.monotonic() + PATIENCE
    while session.held < 3 and time.monotonic() < deadline:  # the slots of the dead come back
        session.take(3 - session.held, -1, 1)
        time.sleep(0.01)
    assert session.held == 3


def test_two_stores_of_one_process_are_kept_apart_and_one_may_go(
    path: str, connect: Callable[..., Any]
) -> None:
    """POSIX drops all locks of a process on a file when any descriptor of it is closed."""
    booked: list[tuple[float, float]] = []

    def take(connection: Any, times: int) -> None:
        session = Session(connection, "rated")
        for _ in range(times):
            booked.extend(session.take(1))
        connection.close()

    threads = [
        threading.Thread(target=take, args=(connect(SQLiteStore(path)), times))
        for times in (10, 100, 100)
    ]
    for thread in threads:
        thread.start()
    other = Worker("book", path, 0.5)
    other.go()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    booked += [(at, number) for kind, at, number in other.end() if kind == "rated"]
    within(booked, RATED, sliding=False)
    whole(path)


def test_the_threads_of_a_process_share_a_connection(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    connection = connect(store)
    booked: list[tuple[float, float]] = []

    def take() -> None:
        session = Session(connection, "rated")
        for _ in range(50):
            booked.extend(session.take(1))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    within(booked, RATED, sliding=False)
    assert len(booked) >= 20


def test_a_state_is_the_same_whether_it_was_kept_in_memory_or_read(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    first, second = Session(connect(store), "hourly"), Session(connect(store), "hourly")
    levels = []
    for session in (first, first, second, second, first, second):
        levels.append(session.ask(1)["limits"][0][4] // TOKEN)
    assert levels == [99, 98, 97, 96, 95, 94]
    assert set(store.look()["hourly"]["sessions"]) == {first.id, second.id}


def test_a_quota_survives_the_program(path: str) -> None:
    program = """
        import sys
        from tests.sqlite_workers import Session
        from async_throttle.stores.sqlite import SQLiteStore
        session = Session(SQLiteStore(sys.argv[1]).connect(lambda: None), "hourly")
        print(sum(number for _, number in session.take(60)))
    """
    assert [python(program, path) for _ in range(2)] == ["60", "40"]
    assert sorted(os.listdir(os.path.dirname(path))) == ["quota.db", "quota.db.lock"]


def test_a_step_on_several_limits_is_kept_as_a_whole_or_not_at_all(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    connection = connect(store)
    session = Session(connection, "rated", "hourly")
    session.take(1)
    before = store.look()
    connection._files.sql.execute(
        "CREATE TRIGGER fails BEFORE UPDATE ON states WHEN new.name = 'hourly' "
        "BEGIN SELECT raise(ABORT, 'one of two'); END"
    )
    with pytest.raises(StoreUnavailable, match=r"quota\.db' cannot be used: one of two"):
        session.take(1)
    assert store.look() == before
    connection._files.sql = None
    connect(store).call(["rated"], Session(connection, "rated").request(), 1)


def test_what_goes_wrong_in_a_step_leaves_the_guard_free(
    store: SQLiteStore, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Session(connect(store), "rated", "hourly"), Session(connect(store), "rated")
    second.ask()

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_files, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.ask()
    assert second.take(1)
    assert first.take(1)


@posix
def test_whatever_a_signal_raises_at_any_moment_leaves_guard_and_door_free(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    class Alarm(BaseException):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    draw = random.Random(3)
    connection, other = connect(store), Session(connect(store), "ample")
    alone, both = Session(connection, "ample"), Session(connection, "hourly", "rated")
    rung = 0
    before = signal.signal(signal.SIGALRM, ring)
    gc.disable()  # what a signal raises in a callback of the collector goes nowhere
    try:
        for turn in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + draw.random() * 1e-3)
                while True:
                    (alone if turn % 2 else both).ask(1)
            except Alarm:
                rung += 1
            connection.call(alone.names, alone.request(), 0)
            other.connection.call(other.names, other.request(), 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert rung == 300
    whole(path)


def test_rows_that_have_lapsed_are_deleted_now_and_then(
    store: SQLiteStore, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(store)
    session = Session(connection, "ample")
    session.ask()
    files = connection._files
    lapsed = [(f"{n:05}", 1 if n % 2 else 1 << 60, "{}") for n in range(3_000)]
    files.sql.executemany("INSERT INTO states VALUES (?, ?, ?)", lapsed)
    monkeypatch.setattr(_files, "SWEEP", 4)
    for _ in range(4 * (3_000 // _files.SWEPT + 2)):
        session.ask()
    assert files.execute("SELECT count(*) FROM states").fetchall() == [(1_501,)]
    monkeypatch.setattr(_files, "KNOWN", 0)
    for _ in range(4):
        session.ask()
    assert len(files.known) == 1


# -- who has to wait ----------------------------------------------------------------------


@posix
def test_whoever_finds_the_guard_taken_waits_as_long_as_it_wants(
    store: SQLiteStore, path: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    connection = connect(store)
    session = Session(connection, "rated")
    session.ask()
    guard = os.open(path + ".lock", os.O_RDWR)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for patience in (0, 0.02):
            with pytest.raises(Busy):
                connection.call(["rated"], session.request(), patience)

        async def wait() -> bool:
            sent = asyncio.create_task(connection.send(["rated"], session.request()))
            for _ in range(5):
                await asyncio.sleep(0.01)  # the loop is not blocked
            assert not sent.done()
            fcntl.flock(guard, fcntl.LOCK_UN)
            return bool(await asyncio.wait_for(sent, PATIENCE))

        assert asyncio.run(wait())
        fcntl.flock(guard, fcntl.LOCK_EX)
        monkeypatch.setattr(sqlite, "SHUT_OUT", 0.05)
        with pytest.raises(StoreUnavailable, match=r"quota\.db' .* has had it locked for 2 s"):
            asyncio.run(connection.send(["rated"], session.request()))
        with pytest.raises(StoreUnavailable, match="locked"):
            store.look()
    finally:
        os.close(guard)
    assert session.ask()


def test_whoever_finds_the_database_locked_by_another_program_waits_as_well(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    connection = connect(store)
    for names in (["rated"], ["rated", "hourly"]):
        session = Session(connection, *names)
        session.ask()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy):
            connection.call(names, session.request(), 0.01)
        other.execute("COMMIT")
        other.close()
        assert session.ask()


def test_a_call_within_a_step_of_the_same_thread_finds_it_busy(
    store: SQLiteStore, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer or a signal handler may ask at any moment."""
    connection = connect(store)
    session, other = Session(connection, "rated"), Session(connection, "rated")
    real, busy = _state.step, []

    def step(*arguments: Any) -> Any:
        with pytest.raises(Busy):
            connection.call(["rated"], other.request(), 0.01)
        busy.append(True)
        return real(*arguments)

    monkeypatch.setattr(_files, "step", step)
    assert session.take(1)
    assert busy


# -- fork ---------------------------------------------------------------------------------


@needs_fork
def test_a_child_inherits_no_file_and_has_the_quota(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    connection = connect(store)
    session = Session(connection, "hourly")
    session.take(60)

    def child() -> None:
        fds = "/proc/self/fd"
        if os.path.isdir(fds):
            found = [os.path.realpath(os.path.join(fds, each)) for each in os.listdir(fds)]
            assert not [each for each in found if each.startswith(path)]
        with pytest.raises(StoreUnavailable, match="inherited by a fork"):
            session.ask()
        connection.close()
        assert sum(number for _, number in Session(store.connect(print), "hourly").take(60)) == 40

    in_child(child, PATIENCE)
    assert session.take(1) == []
    whole(path)


@needs_fork
def test_a_fork_at_any_moment_of_a_step_harms_neither_side(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    session = Session(connect(store), "rated", "window")
    booked: list[tuple[float, float]] = []
    done = False

    def hammer() -> None:
        while not done:
            booked.extend(session.take(1))

    def child() -> None:
        mine = Session(store.connect(lambda: None), "rated")
        for _ in range(20):
            mine.ask()
            mine.connection._files.door.acquire()
            mine.connection._files.close()  # so that it is opened again
            mine.connection._files.door.release()

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        for _ in range(20):
            in_child(child, PATIENCE)
    finally:
        done = True
        thread.join(PATIENCE)
    assert not thread.is_alive()
    whole(path)
    within(booked, WINDOW, sliding=True)


@needs_fork
def test_a_fork_that_does_not_wait_for_a_step_leaves_it_to_the_parent(
    store: SQLiteStore, path: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of another thread hangs, in a disk maybe, while it holds the guard."""
    monkeypatch.setattr(_files, "FORK", 0.01)
    session = Session(connect(store), "hourly")
    real, inside, go = _state.step, threading.Event(), threading.Event()

    def step(*arguments: Any) -> Any:
        inside.set()
        assert go.wait(PATIENCE)
        return real(*arguments)

    def child() -> None:
        with pytest.raises(Busy):
            store.connect(print).call(["hourly"], session.request(), 0.05)

    monkeypatch.setattr(_files, "step", step)
    thread = threading.Thread(target=session.take, args=(60,))
    thread.start()
    assert inside.wait(PATIENCE)
    in_child(child, PATIENCE)
    go.set()
    thread.join(PATIENCE)
    assert store.look()["hourly"]["rate"]["entries"][0][1] == 60 * TOKEN
    assert len(session.take(60)) > 0
    whole(path)


# -- what becomes of the files ------------------------------------------------------------


@posix
@pytest.mark.parametrize("gone", [("",), ("", "-wal", "-shm"), ("", "-wal", "-shm", ".lock")])
def test_a_file_that_was_deleted_is_made_anew_and_everybody_notices(
    store: SQLiteStore, path: str, gone: tuple[str, ...], connect: Callable[..., Any]
) -> None:
    sessions = [Session(connect(store), "hourly") for _ in range(3)]
    for session in sessions:
        session.take(20)
    for each in gone:
        os.unlink(path + each)
    for session in sessions:
        assert sum(number for _, number in session.take(20)) == 20
    state = store.look()["hourly"]
    assert sum(weight for _, weight in state["rate"]["entries"]) == 60 * TOKEN
    whole(path)
    for session in sessions:
        session.connection.close()
    whole(path)


@posix
def test_a_guard_that_was_deleted_is_made_anew(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    sessions = [Session(connect(store), "hourly") for _ in range(2)]
    for session in sessions:
        session.take(20)
    os.unlink(path + ".lock")
    for session in sessions:
        session.take(20)
    guards = {session.connection._files.guard_is for session in sessions}
    assert guards == {(os.stat(path + ".lock").st_ino, os.stat(path + ".lock").st_dev)}
    assert sum(weight for _, weight in store.look()["hourly"]["rate"]["entries"]) == 80 * TOKEN


@posix
def test_a_file_that_was_replaced_is_used_and_no_log_of_the_old_one_is_played_into_it(
    store: SQLiteStore, path: str, connect: Callable[..., Any]
) -> None:
    first = Session(connect(store), "hourly")
    first.take(10)
    first.connection.close()
    shutil.copy(path, path + ".copy")  # nobody has it open

    sessions = [Session(connect(store), "hourly") for _ in range(3)]
    for session in sessions:
        session.take(30)
    assert os.path.getsize(path + "-wal") > 0
    os.replace(path + ".copy", path)
    sessions[0].take(5)
    whole(path)
    sessions[1].connection.close()  # it has not noticed, and takes no log with it
    sessions[2].take(5)
    assert sum(weight for _, weight in store.look()["hourly"]["rate"]["entries"]) == 20 * TOKEN
    for session in sessions:
        session.connection.close()
    whole(path)


def test_an_interpreter_that_ends_closes_its_files_and_deletes_no_log_of_others(path: str) -> None:
    program = """
        import os, sys
        from tests.sqlite_workers import Session
        from async_throttle.stores.sqlite import SQLiteStore
        store = SQLiteStore(sys.argv[1])
        session = Session(store.connect(lambda: None), "hourly")
        session.take(1)
        os.unlink(sys.argv[1])
        other = Session(store.connect(lambda: None), "hourly")
        other.take(1)
        print(os.path.exists(sys.argv[1] + "-wal"))
        other.connection.close()
        open(sys.argv[1] + "-wal", "w").close()
    """
    if sys.platform != "win32":
        assert python(program, path) == "True"
        assert os.path.exists(path + "-wal")


OTHERS: dict[str, Callable[[str], object]] = {
    "file is not a database": lambda path: Path(path).write_bytes(b"no database " * 1_000),
    "unable to open database file": lambda path: os.mkdir(path),
    "it is the database of another program": lambda path: made(path, "CREATE TABLE mine (x)"),
    "it was made by another version of async_throttle": lambda path: made(
        path, f"PRAGMA application_id = {_files.OURS}; CREATE TABLE states (x)"
    ),
}


def made(path: str, script: str) -> None:
    database = sqlite3.connect(path)
    database.executescript(script)
    database.close()


@pytest.mark.parametrize("why", OTHERS)
def test_what_is_no_quota_is_said_to_be_none_and_left_alone(
    store: SQLiteStore, path: str, why: str, connect: Callable[..., Any]
) -> None:
    OTHERS[why](path)
    before = Path(path).read_bytes() if os.path.isfile(path) else b""
    for ask in (Session(connect(store), "rated").ask, store.look):
        with pytest.raises(StoreUnavailable) as caught:
            ask()
        assert str(caught.value) == f"the store {path!r} cannot be used: {why}"
    assert os.path.isdir(path) or Path(path).read_bytes() == before


def test_a_folder_that_is_not_there_and_a_damaged_state_are_told(
    tmp_path: Path, store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    lost = SQLiteStore(tmp_path / "nowhere" / "a\x1b\n.db")
    with pytest.raises(StoreUnavailable, match=r"a\\x1b\\n\.db' cannot .* No such file or dir"):
        Session(connect(lost), "rated").ask()
    session = Session(connect(store), "rated")
    session.ask()
    session.connection._files.sql.execute("UPDATE states SET state = '{'")
    with pytest.raises(StoreUnavailable, match="a state in it is damaged"):
        session.ask()


def test_a_file_system_without_shared_memory_is_refused(
    store: SQLiteStore, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the pragma answers with another mode, and raises nothing."""
    real = sqlite3.connect

    class Plain(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode"), *rest)

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=Plain, **k))
    with pytest.raises(StoreUnavailable, match=r"does not do .its journal mode stays 'delete'"):
        Session(connect(store), "rated").ask()


def test_a_full_disk_is_told_and_forgotten_when_there_is_room_again(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    session = Session(connect(store), "rated", "hourly")
    session.ask()
    sql = session.connection._files.sql
    (pages,) = sql.execute("PRAGMA page_count").fetchone()
    sql.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def fill() -> None:
        for n in range(1_000):
            session.connection.call([f"{n}", "hourly"], session.request(), 1)

    with pytest.raises(StoreUnavailable, match=r"quota\.db' cannot be used: .* full$"):
        fill()
    assert session.ask()


@posix
def test_a_disk_that_takes_no_more_is_told(path: str) -> None:
    program = """
        import resource, sys
        from tests.sqlite_workers import Session
        from async_throttle.stores import StoreUnavailable
        from async_throttle.stores.sqlite import SQLiteStore
        session = Session(SQLiteStore(sys.argv[1]).connect(lambda: None), "rated", "hourly")
        session.ask()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, hard))
        try:
            for n in range(1_000):
                session.ask()
        except StoreUnavailable as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert session.ask()
    """
    assert python(program, path) == f"the store {path!r} cannot be used: disk I/O error"
    whole(path)


@posix
@pytest.mark.parametrize(
    ("modes", "why"),
    [
        ({"": 0o444, ".lock": 0o666}, "attempt to write a readonly database"),
        ({"": 0o666, ".lock": 0o000}, "Permission denied"),
        ({"": 0o000, ".lock": 0o666}, "unable to open database file"),
        ({"": 0o666, ".lock": 0o666}, None),
    ],
)
def test_what_a_user_may_not_do_is_told(modes: dict[str, int], why: str | None) -> None:
    program = """
        import os, sys
        from tests.sqlite_workers import Session
        from async_throttle.stores import StoreUnavailable
        from async_throttle.stores.sqlite import SQLiteStore
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            Session(SQLiteStore(sys.argv[1]).connect(lambda: None), "rated").ask()
        except StoreUnavailable as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = os.path.join(os.path.realpath(folder), "quota.db")
        connection = SQLiteStore(path).connect(lambda: None)
        Session(connection, "rated").ask()
        connection.close()
        for name, mode in modes.items():
            os.chmod(path + name, mode)
        said = python(program, path)
    assert said == ("" if why is None else f"the store {path!r} cannot be used: {why}")


# -- the file that is there without a path ------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory of the user."""
    cache = tmp_path / "home" / "cache"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@posix
def test_without_a_path_the_file_is_the_users_alone(
    cache: Path, connect: Callable[..., Any]
) -> None:
    store = SQLiteStore()
    folder = cache / "async_throttle"
    assert os.path.dirname(store.path) == str(folder)
    assert store.look() == {}
    assert not cache.exists()
    Session(connect(store), "rated").ask()
    found = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    name = os.path.basename(store.path)
    assert found == {name + each: 0o600 for each in ("", "-wal", "-shm", ".lock")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(store.look()) == {"rated"}


def open_folder(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    folder.chmod(0o750)
    return folder


def linked_folder(folder: Path, name: str) -> Path:
    elsewhere = folder.parents[1] / "elsewhere"
    elsewhere.mkdir(parents=True, mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    return folder


def open_file(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, mode=0o700)
    (folder / name).touch()
    (folder / name).chmod(0o644)
    return folder / name


@posix
@pytest.mark.parametrize("planted", [open_folder, linked_folder, open_file])
def test_what_others_could_have_planted_there_is_refused(
    cache: Path, planted: Callable[[Path, str], Path], connect: Callable[..., Any]
) -> None:
    store = SQLiteStore()
    found = planted(cache / "async_throttle", os.path.basename(store.path))
    with pytest.raises(StoreUnavailable, match=r"is not this user's alone: [dl-]rw") as caught:
        Session(connect(store), "rated").ask()
    assert repr(str(found)) in str(caught.value)
    if os.geteuid() == 0 and planted is open_file:
        found.chmod(0o600)
        os.chown(found, 65534, 65534)
        with pytest.raises(StoreUnavailable, match="owner 65534"):
            Session(connect(store), "rated").ask()


def test_the_file_without_a_path_is_named_after_the_program(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(argument: Path | str) -> str:
        monkeypatch.setattr(sys, "argv", [str(argument)])
        return os.path.basename(SQLiteStore().path)

    scripts = [tmp_path / each for each in ("a/bot.py", "b/bot.py", "a/b o\nt/__main__.py")]
    for script in scripts:
        script.parent.mkdir(exist_ok=True)
        script.touch()
    names = [*map(named, scripts), named("-c"), named("")]
    stems = [name[: -len("-01234567.db")] for name in names]
    assert stems == ["bot", "bot", "b_o_t", "python", "python"]
    assert len(set(names)) == 4
    assert named(scripts[0]) == names[0]


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("darwin", "HOME", "Library/Caches/async_throttle"),
        ("linux", "HOME", ".cache/async_throttle"),
        ("win32", "LOCALAPPDATA", "async_throttle"),
    ],
)
@posix
def test_the_cache_directory_is_that_of_the_system(
    tmp_path: Path, platform: str, variable: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert _files.own_folder() == str(tmp_path / folder)
    monkeypatch.setenv(variable, "nowhere")
    with pytest.raises(StoreUnavailable, match="no home directory: give SQLiteStore a path"):
        SQLiteStore()


# -- the store itself ---------------------------------------------------------------------


def test_a_pickled_store_is_the_same_file_with_the_same_settings(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    store = SQLiteStore("quota.db", ttl=5, horizon=1, grace=0.5, on_error="open")
    copy = pickle.loads(pickle.dumps(store))
    assert vars(copy) == vars(store)
    assert repr(copy) == f"SQLiteStore({path!r})"


@posix
def test_two_names_of_a_file_are_one_store(path: str, connect: Callable[..., Any]) -> None:
    os.symlink(path, path + ".link")
    Session(connect(SQLiteStore(path)), "hourly").take(60)
    assert Session(connect(SQLiteStore(path + ".link")), "hourly").take(41) != []
    assert SQLiteStore(path + ".link").path == path


@pytest.mark.parametrize("wrong", ["", ":memory:", "file:quota.db?mode=memory"])
def test_what_processes_cannot_share_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="must be a file that processes can share"):
        SQLiteStore(wrong)
    with pytest.raises(TypeError, match="path"):
        SQLiteStore(b"quota.db")  # type: ignore[arg-type]


def test_a_connection_that_was_closed_says_so_and_may_be_closed_again(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    connection = connect(store)
    assert connection.quick
    connection.close()
    connection.close()
    with pytest.raises(StoreUnavailable, match="this connection was closed"):
        connection.call(["rated"], {}, 0)


# -- wake-ups -----------------------------------------------------------------------------


class Bells:
    """Counts wake-ups."""

    def __init__(self) -> None:
        self.count = 0
        self.rung = threading.Event()

    def wake(self) -> None:
        self.count += 1
        self.rung.set()


def hand_over(store: SQLiteStore, waiting: Session, connect: Callable[..., Any]) -> None:
    """Have *waiting* queue for slots that others hold, and give them back."""
    holder = Session(connect(store), "slots")
    holder.take(3, -1, 1)
    assert holder.held == 3
    waiting.take(1, -1, 1)
    assert waiting.held == 0
    holder.held = 0
    holder.ask()


def test_a_thread_is_woken_by_another_connection(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    bells = Bells()
    waiting = Session(connect(store, bells.wake), "slots")
    hand_over(store, waiting, connect)
    assert bells.rung.wait(PATIENCE)
    waiting.take(1, -1, 1)
    assert waiting.held == 1


def test_an_event_loop_is_woken_by_another_connection(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    async def wait() -> int:
        woken = asyncio.Event()
        calls = []

        def wake() -> None:
            calls.append(asyncio.get_running_loop())
            woken.set()

        connection: Any = store.connect(wake)
        hand_over(store, Session(connection, "slots"), connect)
        for _ in range(50):
            connection._bell.ring(connection.address)  # several are one
        await asyncio.wait_for(woken.wait(), PATIENCE)
        await asyncio.sleep(0.01)
        found = len(calls)
        connection.close()
        connection._bell.ring("1")
        connection._bell.ring("no port")
        return found

    assert asyncio.run(wait()) == 1


def test_an_event_loop_that_watches_no_files_is_woken_by_a_thread(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(  # type: ignore[override]
            self, fd: Any, callback: Any, *args: Any
        ) -> None:
            raise NotImplementedError

        def _make_self_pipe(self) -> None:
            self._internal_fds = 0

        def _close_self_pipe(self) -> None:
            pass

    bells = Bells()

    async def wait() -> None:
        connection = store.connect(bells.wake)
        hand_over(store, Session(connection, "slots"), connect)
        assert bells.rung.wait(PATIENCE)
        connection.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(wait())


def test_nothing_is_left_of_a_connection_that_nobody_keeps(path: str) -> None:
    program = """
        import asyncio, gc, os, sys, threading, time
        from tests.sqlite_workers import Session
        from async_throttle.stores.sqlite import SQLiteStore

        def left():
            files = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
            return threading.active_count(), len(files)

        async def use():
            Session(store.connect(print), "rated").ask()

        store = SQLiteStore(sys.argv[1])
        before = left()
        for _ in range(3):
            Session(store.connect(print), "rated").ask()
            asyncio.run(use())
        deadline = time.monotonic() + 5
        while left() != before and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        print(left() == before)
    """
    assert python(program, path) == "True"


@needs_fork
def test_a_child_that_closes_an_inherited_connection_does_not_silence_the_parents(
    store: SQLiteStore, connect: Callable[..., Any]
) -> None:
    bells = Bells()
    waiting = Session(connect(store, bells.wake), "slots")
    in_child(waiting.connection.close)

    async def wait() -> None:
        woken = asyncio.Event()
        connection = store.connect(woken.set)
        in_child(connection.close)
        hand_over(store, Session(connection, "slots"), connect)
        await asyncio.wait_for(woken.wait(), PATIENCE)
        connection.close()

    asyncio.run(wait())
    waiting.connection._bell.ring(waiting.connection.address)
    assert bells.rung.wait(PATIENCE)
