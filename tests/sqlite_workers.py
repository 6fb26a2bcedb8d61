"""Processes that share a quota in a file, for test_store_sqlite.py and the benchmarks.

``python -m tests.sqlite_workers WHAT PATH SECONDS`` starts one. It says "ready", does what it is
told for so long after a line has come in, and prints JSON, one line at a time.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from async_throttle.stores import Busy, Connection, Reply
from async_throttle.stores._state import BUCKET, NO_RATE, SLIDING, step, ticks
from async_throttle.stores.sqlite import SQLiteStore

SECOND = TOKEN = 1_000_000

Code = list[float]


def code(
    kind: int, capacity: int, burst: int | None = None, slots: int = 0, period: int = SECOND
) -> Code:
    """The parameters of a limit: tokens, in microseconds; see `_state`."""
    burst = capacity if burst is None else burst
    scale, grain = ticks(capacity * TOKEN, period)
    return [kind, capacity * TOKEN, period, burst * TOKEN, slots, scale, grain, 0]


RATED = code(BUCKET, 200, 20)
WINDOW = code(SLIDING, 100)
HOURLY = code(SLIDING, 100, period=3600 * SECOND)
SLOTS = code(NO_RATE, 1, slots=3)
AMPLE = code(BUCKET, 1_000_000_000)
LIMITS = {"rated": RATED, "window": WINDOW, "hourly": HOURLY, "slots": SLOTS, "ample": AMPLE}


_numbers = itertools.count()


class Session:
    """What asks a store, as simply as can be.

    Attributes:
        names, codes: of its limits.
        held: slots of each limit that has any.
        waits: the longest wait for the store, in seconds.
    """

    def __init__(self, connection: Connection, *names: str, ttl: float = 30.0) -> None:
        self.connection: Any = connection
        self.names = names
        self.id = f"host/{os.getpid()}/{connection.address}/{next(_numbers)}"
        self.ttl = ttl
        self.seq = 0
        self.held = 0
        self.gen = [0.0] * len(names)
        self.waits = 0.0

    def request(self, count: int = 0, weight: float = 1, slots: int = 0) -> dict[str, Any]:
        """A request of so many calls, each of which takes the same of each limit."""
        self.seq += 1
        limits = [
            {
                "id": self.id,
                "seq": self.seq,
                "since": 0,
                "gen": self.gen[n],
                "until": 0,
                "fresh": 1 + time.time_ns() % 1_000_000_007,
                "open": int(self.seq == 1),
                "code": LIMITS[self.names[n]],
                "version": 1,
                "initial": 0,
                "ttl": round(self.ttl * SECOND),
                "held": self.held,
                "flying": 0,
                "waiting": 0,
                "first": 0,
                "ops": [],
                "edges": [],
                "ahead": 0,
            }
            for n in range(len(self.names))
        ]
        amounts = [[n, weight * TOKEN if weight >= 0 else -1, slots] for n in range(len(limits))]
        return {
            "horizon": SECOND // 4,
            "grace": 0,
            "limits": limits,
            "wants": [[count, amounts]] if count else [],
        }

    def ask(self, count: int = 0, weight: float = 1, slots: int = 0) -> Reply:
        """Ask the store; wait for it as long as it takes."""
        request = self.request(count, weight, slots)
        began = time.monotonic()
        while True:
            try:
                reply: Reply = self.connection.call(self.names, request, 0.05)
                break
            except Busy:
                pass
        self.waits = max(self.waits, time.monotonic() - began)
        self.gen = [told[1] for told in reply["limits"]]
        return reply

    def take(self, count: int, weight: float = 1, slots: int = 0) -> list[tuple[float, float]]:
        """Ask for calls: the instants that were booked, in microseconds, each with its number."""
        reply = self.ask(count, weight, slots)
        booked = [(reply["now"] + group[0], group[1]) for group in reply["wants"][0][0]]
        self.held += slots * round(sum(number for _, number in booked))
        return booked


def report(*said: object) -> None:
    """One line of JSON, in one piece: a process that is killed has said it or not."""
    os.write(1, json.dumps(said).encode() + b"\n")


def book(store: SQLiteStore, until: float) -> None:
    """Take of two limits in turn, and tell each booking."""
    connection = store.connect(lambda: None)
    sessions = [Session(connection, "rated"), Session(connection, "window")]
    while time.monotonic() < until:
        for session in sessions:
            for at, number in session.take(2):
                report(session.names[0], at, number)
        time.sleep(0.003)


def storm(store: SQLiteStore, until: float) -> None:
    """Take whatever there is, in sets and alone, without a pause."""
    connection = store.connect(lambda: None)
    alone, both = Session(connection, "rated"), Session(connection, "rated", "window")
    slots = Session(connection, "slots", ttl=0.3)
    while time.monotonic() < until:
        for at, number in alone.take(1):
            report("rated", at, number)
        for at, number in both.take(1):
            report("rated", at, number)
            report("window", at, number)
        slots.take(1, -1, 1)
        slots.held = 0
        slots.ask()


def saturate(store: SQLiteStore, until: float) -> None:
    """Ask without a pause; tell how often, and the longest wait."""
    session = Session(store.connect(lambda: None), "ample")
    calls = 0
    while time.monotonic() < until:
        session.take(1)
        calls += 1
    report(calls, session.waits)


def bare(path: str, texts: Sequence[str]) -> Callable[[], object]:
    """The least that a step could be: write one of *texts*, while a guard is held."""
    import fcntl  # there is none in Windows, and no benchmark

    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("PRAGMA synchronous = OFF").fetchall()
    database.execute("CREATE TABLE states (name TEXT PRIMARY KEY, state TEXT) WITHOUT ROWID")
    database.execute("INSERT INTO states VALUES ('ample', '')")
    guard = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    execute = database.cursor().execute
    turns = itertools.cycle(texts)

    def write() -> None:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        execute("BEGIN IMMEDIATE")
        execute("UPDATE states SET state = ? WHERE name = 'ample'", (next(turns),))
        execute("COMMIT")
        fcntl.flock(guard, fcntl.LOCK_UN)

    return write


BATCH = 300


def compare(store: SQLiteStore, until: float) -> None:
    """In turn: the bare transaction, a call of the store, and the step and its text alone.

    Tells the processor time of one of each.
    """
    session = Session(store.connect(lambda: None), "ample")
    for _ in range(50):
        session.take(1)
    state = store.look()["ample"]
    text = json.dumps(state, separators=(",", ":"))
    write = bare(store.path + ".bare", [text[:-4] + f"{n:03}}}" for n in range(100)])
    requests: Iterator[dict[str, Any]] = iter(())

    def call() -> None:
        session.connection.call(session.names, next(requests), 0.05)

    def apply() -> None:
        json.dumps(step(time.time_ns() // 1_000, next(requests), [state])[1][0])

    while time.monotonic() < until:
        costs = []
        for work in (write, call, apply):
            requests = iter([session.request(1) for _ in range(BATCH)])
            gc.collect()
            gc.disable()
            began = time.process_time()
            for _ in range(BATCH):
                work()
            costs.append((time.process_time() - began) / BATCH)
            gc.enable()
        report(*costs)


WORK: Sequence[Callable[[SQLiteStore, float], None]] = (book, storm, saturate, compare)


def main(what: str, path: str, seconds: str) -> None:
    work = {work.__name__: work for work in WORK}[what]
    store = SQLiteStore(path)
    report("ready")
    sys.stdin.readline()
    work(store, time.monotonic() + float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
