"""Connections to real servers of Redis and Valkey: what they survive, and what they tell.

Each test is told for an event loop and for threads. Servers are started by the tests; where one
cannot be had, its tests are skipped.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import selectors
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import servers_redis
from hypothesis import given
from hypothesis import strategies as st
from servers_redis import Server, Wire, started
from support import examples

from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores import Busy, Connection
from async_throttle.stores._redis_client import away_word
from async_throttle.stores._redis_wire import MISSING, Lost, RedisError, Replies, packed
from async_throttle.stores._state import BUCKET, LOST_STATE, NEVER, NO_RATE
from async_throttle.stores.redis import RedisStore

pytestmark = [pytest.mark.real_time, pytest.mark.virtual_time(False)]

BUCKET_OF_TEN = [BUCKET, 10_000_000, 1_000_000, 10_000_000, 0, 10, 1, 0]
SOON = 5.0
"""Seconds within which things happen that take milliseconds, on a machine that is very busy."""


class Asker:
    """A session that asks for a token of a bucket each time, over a connection."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.woken = 0
        self.asked = 0
        self.listens = False
        self.connection = self.connect()

    def connect(self) -> Connection:
        return self.store.connect(self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def request(self, names: tuple[str, ...], **more: Any) -> dict[str, Any]:
        """A request of this session for a token of each limit."""
        self.asked += 1
        usual = {
            "id": f"host/1/{self.connection.address}/1",
            "seq": self.asked,
            "since": 0,
            "gen": 0,
            "until": 0,
            "fresh": 7,
            "open": int(self.asked == 1),
            "code": BUCKET_OF_TEN,
            "version": 0,
            "initial": 0,
            "ttl": 30_000_000,
            "held": 0,
            "flying": 0,
            "waiting": 0,
            "first": 0,
            "ops": [],
            "edges": [],
            "ahead": 0,
        }
        wants = more.pop("wants", [[1, [[n, 1_000_000, 0] for n in range(len(names))]]])
        limits = [{**usual, **more} for _ in names]
        return {"horizon": 250_000, "grace": 20_000, "limits": limits, "wants": wants}

    def ask(self, *names: str, **more: Any) -> Any:
        """What the store replies, after it was seen to be a reply to this."""
        names = names or ("chat",)
        reply = self.call(names, self.request(names, **more))
        assert len(reply["limits"]) == len(names)
        return reply

    def call(self, names: tuple[str, ...], request: dict[str, Any]) -> Any:
        raise NotImplementedError

    def rest(self, seconds: float) -> None:
        """Let time pass, in which messages are heard."""
        raise NotImplementedError

    def until(self, true: Callable[[], object], seconds: float = SOON) -> None:
        """Rest until something is true, which it must be in the end."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it does not come true"
            self.rest(0.005)

    def listening(self, server: Server) -> None:
        """Rest until the server sends messages to this."""
        if not self.asked:
            self.ask()
        channel = f"{{p:}}@{self.store._place.db}/{self.connection.address}"
        self.until(lambda: server.call("PUBSUB", "NUMSUB", channel)[1])
        if not self.listens:  # it is woken as soon as it does: a call was made before
            self.until(lambda: self.woken)
            self.listens = True
        self.woken = 0

    def until_it_works(self, **more: Any) -> Any:
        """Ask until the store is there again."""
        end = time.monotonic() + SOON
        while True:
            try:
                return self.ask(**more)
            except StoreUnavailable:
                assert time.monotonic() < end, "it does not come back"
                self.rest(0.02)

    def away(self) -> str:
        """Why the store cannot be asked."""
        with pytest.raises(StoreUnavailable, match="is away: ") as caught:
            self.ask()
        return str(caught.value)

    def close(self) -> None:
        self.connection.close()


class OfThreads(Asker):
    """One of a thread."""

    def call(self, names: tuple[str, ...], request: dict[str, Any]) -> Any:
        return self.connection.call(names, request, 1.0)

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)


class OfLoop(Asker):
    """One of an event loop of its own, which runs while something is waited for."""

    def __init__(self, store: RedisStore) -> None:
        self.runner = asyncio.Runner()
        super().__init__(store)

    def connect(self) -> Connection:
        async def connect() -> Connection:
            return self.store.connect(self._wake)

        return self.runner.run(connect())

    def call(self, names: tuple[str, ...], request: dict[str, Any]) -> Any:
        return self.runner.run(self.connection.send(names, request))

    def rest(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    def close(self) -> None:
        super().close()
        self.runner.close()


Kind = type[Asker]


@pytest.fixture(params=[OfLoop, OfThreads], ids=["loop", "threads"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What asks."""
    found: Kind = request.param
    return found


@pytest.fixture(params=servers_redis.KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, which is as good as new."""
    with started(request.param) as server:
        if request.param == "given":
            server.call("FLUSHDB")
        yield server


@pytest.fixture
def valkey() -> Iterator[Server]:
    """A server whose kind does not matter."""
    with started("valkey") as server:
        yield server


@pytest.fixture
def asker(kind: Kind, server: Server) -> Iterator[Asker]:
    """Something that asks such a server."""
    with closing(kind(RedisStore(server.url, prefix="p:"))) as asker:
        yield asker


# ------------------------------------------------------------------------------------ the protocol


def test_a_command_is_packed_word_by_word() -> None:
    assert packed(b"A", b"", b"x\r\n") == b"*3\r\n$1\r\nA\r\n$0\r\n\r\n$3\r\nx\r\n\r\n"


ANSWERS = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
    (b"*0\r\n", []),
    (b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", [[1], b"x"]),
]


@given(st.lists(st.sampled_from(ANSWERS)), st.data())
@examples(300)
def test_answers_are_the_same_however_they_are_cut(
    answers: list[tuple[bytes, Any]], data: st.DataObject
) -> None:
    sent = b"".join(text for text, _ in answers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    replies, found = Replies(), []
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        replies.feed(sent[start:end])
        while (reply := replies.take()) is not MISSING:
            found.append(reply)
    assert found == [said for _, said in answers]


def test_an_error_is_an_answer_and_nonsense_is_none() -> None:
    replies = Replies()
    replies.feed(b"*2\r\n:1\r\n-NOPERM no \xff\r\nHTTP/1.1 400\r\n")
    number, error = replies.take()
    assert (number, error.word, str(error)) == (1, "NOPERM", "NOPERM no \ufffd")
    with pytest.raises(Lost):
        replies.take()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("BUSY Redis is busy running a script.", "BUSY"),
        ("MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("ERR max number of clients reached", "ERR"),
        ("ERR Error running script (call to f_1): @user_script:3: -OOM command not", "OOM"),
        ("ERR Error running script (call to f_1): @user_script: 3: -READONLY You", "READONLY"),
        ("ERR Error running script (call to f_1): @user_script:3: attempt to call", ""),
        ("ERR Error compiling script (new function): user_script:1: BUSY ", ""),
        ("NOPERM this user has no permissions", ""),
        ("WRONGTYPE Operation against a key", ""),
        ("WRONGPASS invalid username-password pair", ""),
        ("NOAUTH Authentication required.", ""),
    ],
)
def test_what_is_away_is_told_from_what_is_wrong(text: str, word: str) -> None:
    assert away_word(RedisError(text)) == word


# --------------------------------------------------------------------------------------- it works


def test_a_step_is_applied_to_the_states_under_the_keys(asker: Asker, server: Server) -> None:
    first = asker.ask("chat", "images")
    assert [limit[0] for limit in first["limits"]] == [0, 0]
    assert server.call("EXISTS", "{p:}chat", "{p:}images") == 2
    assert server.call("PTTL", "{p:}chat") > 0


def test_a_script_that_the_server_has_forgotten_is_sent_again(asker: Asker, server: Server) -> None:
    asker.ask()
    server.call("SCRIPT", "FLUSH")
    asker.ask()
    asker.ask()


def test_the_first_call_of_a_new_event_loop_works(server: Server) -> None:
    store = RedisStore(server.url, prefix="p:")
    for _ in range(3):
        with closing(OfLoop(store)) as asker:
            asker.ask()


def test_a_message_wakes_the_connection_that_it_names(asker: Asker, server: Server) -> None:
    asker.listening(server)
    server.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}x", "")
    server.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}", "")
    asker.until(lambda: asker.woken)
    asker.rest(0.02)
    assert asker.woken == 1


def test_who_gives_a_slot_back_wakes_who_waits_for_it(
    asker: Asker, kind: Kind, server: Server
) -> None:
    one_slot = {"code": [NO_RATE, 1, 1, 1, 1, 1, 1, 0], "wants": [[1, [[0, -1, 1]]]]}
    with closing(kind(asker.store)) as other:
        for each in (asker, other):
            each.listening(server)
        assert asker.ask("slot", **one_slot)["wants"] == [[[[0, 1, 0]], 0]]
        assert other.ask("slot", **one_slot)["wants"] == [[[], NEVER]]
        asker.ask("slot", **{**one_slot, "wants": []}, held=0)
        other.until(lambda: other.woken)
        assert other.ask("slot", **one_slot)["wants"] == [[[[0, 1, 0]], 0]]
        assert (asker.woken, other.woken) == (0, 1)


def test_a_database_has_keys_and_channels_of_its_own(kind: Kind, valkey: Server) -> None:
    store = RedisStore(f"{valkey.url}/3?client_name=quota", prefix="p:")
    with closing(kind(store)) as asker:
        asker.ask()
        assert valkey.call("EXISTS", "{p:}chat") == 0
        valkey.call("SELECT", 3)
        assert valkey.call("EXISTS", "{p:}chat") == 1
        asker.listening(valkey)
        assert valkey.call("CLIENT", "LIST").count(b" name=quota ") == 2


def test_a_server_is_reached_through_a_socket(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "a b.sock"
    with started("valkey", "--unixsocket", str(path)):
        store = RedisStore(f"unix://{path}".replace(" ", "%20"))
        with closing(kind(store)) as asker:
            asker.ask()
    assert str(store).startswith("RedisStore('unix:///")


def test_a_connection_of_a_loop_can_be_asked_without_it(valkey: Server) -> None:
    with closing(OfLoop(RedisStore(valkey.url))) as asker:
        asker.ask()
        asker.connection.call(("chat",), asker.request(("chat",)), 1.0)
        asker.ask()


def test_a_connection_that_was_made_in_a_loop_may_be_one_of_threads(valkey: Server) -> None:
    class Inside(OfThreads):
        """One whose first call is made in a loop, which ends."""

        def connect(self) -> Connection:
            async def connect() -> Connection:
                self.connection = self.store.connect(self._wake)
                self.ask()
                return self.connection

            return asyncio.run(connect())

    with closing(Inside(RedisStore(valkey.url, prefix="p:"))) as asker:
        asker.ask()
        asker.listening(valkey)
        valkey.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}", "")
        asker.until(lambda: asker.woken)


def test_a_connection_crosses_no_loops(valkey: Server) -> None:
    with closing(OfLoop(RedisStore(valkey.url))) as asker:
        asker.ask()
        sending = asker.connection.send(("chat",), asker.request(("chat",)))
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(sending)


def test_a_thread_waits_for_another_no_longer_than_it_said(valkey: Server) -> None:
    with closing(OfThreads(RedisStore(valkey.url))) as asker:
        asker.ask()
        valkey.freeze()
        asking = threading.Thread(target=asker.until_it_works)
        asking.start()
        asker.until(lambda: asker.connection._lock.locked())  # type: ignore[attr-defined]
        with pytest.raises(Busy):
            asker.connection.call(("chat",), asker.request(("chat",)), 0.01)
        valkey.thaw()
        asking.join()


def test_threads_that_ask_at_the_same_time_get_their_own_answers(valkey: Server) -> None:
    with closing(OfThreads(RedisStore(valkey.url))) as asker:
        wrong: list[object] = []

        def work(n: int) -> None:
            try:
                for _ in range(30):
                    asker.ask(*["chat"] * n)
            except Exception as error:
                wrong.append(error)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []


def test_callers_that_are_cancelled_take_no_answer_of_others(valkey: Server) -> None:
    with closing(OfLoop(RedisStore(valkey.url))) as asker:
        asker.ask()

        async def play() -> None:
            tasks = []
            for n in range(20):
                names = ("chat",) * (1 + n % 3)
                sending = asker.connection.send(names, asker.request(names))
                tasks.append(asyncio.create_task(sending))
                await asyncio.sleep(0)
                if n % 4 == 1:
                    tasks[-1].cancel()
            for n, reply in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                if n % 4 == 1:
                    assert isinstance(reply, asyncio.CancelledError)
                else:
                    assert not isinstance(reply, BaseException)
                    assert len(reply["limits"]) == 1 + n % 3

        asker.runner.run(play())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here")
def test_a_signal_in_the_middle_leaves_no_answer_to_the_next(valkey: Server) -> None:
    class Signal(Exception):
        """What the handler raises."""

    def handler(*_: object) -> None:
        raise Signal

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with closing(OfThreads(RedisStore(valkey.url))) as asker:
            asker.ask()
            valkey.freeze()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Signal):
                asker.ask("chat", "images", "more")
            valkey.thaw()
            asker.ask()
            asker.ask("chat", "images")
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("home", ["redis", "redis.asyncio"])
def test_a_client_tells_where_the_server_is(kind: Kind, valkey: Server, home: str) -> None:
    client = pytest.importorskip(home).Redis(port=valkey.port, decode_responses=True)
    with closing(kind(RedisStore(client, prefix="p:"))) as asker:
        asker.ask()
    assert valkey.call("EXISTS", "{p:}chat") == 1


# ---------------------------------------------------------------------------------- it is not there


def test_a_link_that_was_cut_while_idle_is_replaced(asker: Asker, server: Server) -> None:
    for _ in range(3):
        asker.ask()
        server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        asker.ask()  # at once, with nothing in between


def test_who_may_have_missed_a_message_is_woken(asker: Asker, server: Server) -> None:
    asker.ask()
    for _ in range(2):
        asker.listening(server)
        server.call("CLIENT", "KILL", "TYPE", "pubsub")
        asker.until(lambda: asker.woken)


def test_a_server_that_is_killed_is_away_until_it_is_back(asker: Asker, server: Server) -> None:
    if server.kind == "given":
        pytest.skip("it is not ours to kill")
    asker.ask()
    asker.listening(server)
    server.kill()
    assert "Connection refused" in asker.away()
    server.restart()
    reply = asker.until_it_works(gen=7, until=4e15, fresh=8)
    assert reply["limits"][0][:2] == [LOST_STATE, 8]
    asker.until(lambda: asker.woken)
    asker.listening(server)


def test_a_server_that_never_was_there_is_away(kind: Kind) -> None:
    port = servers_redis.free_port()
    with closing(kind(RedisStore(f"redis://jo:secret@127.0.0.1:{port}"))) as asker:
        why = asker.away()
    assert f"redis://127.0.0.1:{port}/0 is away" in why
    assert "secret" not in why
    assert "jo" not in why
    with closing(kind(RedisStore("unix:///nowhere/at.all"))) as asker:
        assert "No such file" in asker.away()


def test_a_frozen_server_is_away_until_it_thaws(kind: Kind, valkey: Server) -> None:
    with closing(kind(RedisStore(valkey.url, prefix="p:"))) as asker:
        asker.ask()
        asker.listening(valkey)
        valkey.freeze()
        began = time.monotonic()
        assert "no answer for 1 s" in asker.away()
        assert time.monotonic() - began >= 0.99
        asker.rest(max(0.0, began + 1.5 - time.monotonic()))
        valkey.thaw()
        asker.until_it_works()


class Hole:
    """A network between.

    Attributes:
        black: it keeps all that is sent.
        deaf: what the server sends is lost.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._context = context
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self.black = False
        self.deaf = False
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended:
            with suppress(OSError):
                client, _ = self._door.accept()
                self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._port))
            with client, server, selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ, (client, server))
                selector.register(server, selectors.EVENT_READ, (server, client))
                while not self._ended:
                    for key, _ in [] if self.black else selector.select(0.01):
                        here, there = key.data
                        data = here.recv(65_536)
                        if not data:
                            return
                        if here is client or not self.deaf:
                            there.sendall(data)
                    if self.black:
                        time.sleep(0.005)

    def close(self) -> None:
        self._ended = True
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in self._threads:
            thread.join()


def test_a_black_hole_is_away_until_it_opens(kind: Kind, valkey: Server) -> None:
    with closing(Hole(valkey.port)) as hole:
        store = RedisStore(f"redis://127.0.0.1:{hole.port}?socket_timeout=0.2", prefix="p:")
        with closing(kind(store)) as asker:
            asker.ask()
            asker.listening(valkey)
            hole.black = True
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                assert "no answer for 0.2 s" in asker.away()
            hole.black = False
            asker.until_it_works()


def test_a_step_whose_reply_is_lost_is_applied_once(kind: Kind, valkey: Server) -> None:
    slow = {"code": [BUCKET, 10_000_000, 1_000_000_000, 10_000_000, 0, 1, 100, 0]}
    with closing(Hole(valkey.port)) as hole:
        store = RedisStore(f"redis://127.0.0.1:{hole.port}?socket_timeout=0.2", prefix="p:")
        with closing(kind(store)) as asker:
            asker.ask(**slow)
            hole.deaf = True
            with pytest.raises(StoreUnavailable, match="no answer"):
                asker.ask(**slow)
            hole.deaf = False
            assert round(asker.ask(**slow)["limits"][0][4], -6) == 7_000_000


def test_a_listener_in_a_black_hole_listens_anew(
    kind: Kind, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("async_throttle.stores._redis_client.TICK", 0.1)
    with closing(Hole(valkey.port)) as hole:
        store = RedisStore(f"redis://127.0.0.1:{hole.port}?socket_timeout=0.1", prefix="p:")
        with closing(kind(store)) as asker:
            asker.ask()
            asker.listening(valkey)
            asker.rest(0.4)
            assert asker.woken == 0  # silence alone is no reason
            hole.black = True
            asker.rest(0.4)
            hole.black = False
            asker.until(lambda: asker.woken)


def test_a_server_that_speaks_something_else_is_away(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = door.accept()
                    with client:
                        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        client.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(kind(RedisStore(f"redis://127.0.0.1:{door.getsockname()[1]}"))) as asker:
            assert "no answer of Redis" in asker.away()
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


# ------------------------------------------------------------------------------ it is there, but...


def test_a_state_that_was_evicted_is_told_to_be_lost(kind: Kind, valkey: Server) -> None:
    valkey.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    with closing(kind(RedisStore(valkey.url, prefix="p:"))) as asker:
        assert asker.ask()["limits"][0][0] == 0
        used = re.search(rb"used_memory:(\d+)", valkey.call("INFO", "memory"))
        assert used is not None
        valkey.call("CONFIG", "SET", "maxmemory", int(used[1]) + 100_000)
        for n in range(10_000):
            valkey.call("SET", f"other{n}", "x" * 1_000, "EX", "1000")
            if not valkey.call("EXISTS", "{p:}chat"):
                break
        assert asker.ask(gen=7, until=4e15, fresh=8)["limits"][0][:2] == [LOST_STATE, 8]


def test_full_memory_is_away(asker: Asker, server: Server) -> None:
    if server.kind == "given":
        pytest.skip("it is not ours to configure")
    asker.ask()
    server.call("CONFIG", "SET", "maxmemory", "1")
    assert "OOM" in asker.away()
    server.call("CONFIG", "SET", "maxmemory", "0")
    asker.ask()


def test_a_replica_is_away_and_looked_for_anew(asker: Asker, server: Server) -> None:
    if server.kind == "given":
        pytest.skip("it is not ours to configure")
    asker.ask()
    server.call("REPLICAOF", "127.0.0.1", "1")
    assert "READONLY" in asker.away()
    server.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    assert "MASTERDOWN" in asker.away()
    server.call("REPLICAOF", "NO", "ONE")
    asker.ask()


def test_a_server_that_is_busy_with_a_script_is_away(asker: Asker, server: Server) -> None:
    if server.kind == "given":
        pytest.skip("it is not ours to keep busy")
    asker.ask()
    server.call("CONFIG", "SET", "lua-time-limit", "50")
    with closing(server.wire()) as busy:
        busy.say("EVAL", "while true do end", "0")
        time.sleep(0.1)
        assert "BUSY" in asker.away()
        server.call("SCRIPT", "KILL")
        with pytest.raises(servers_redis.Refused):
            busy.read()
    asker.until_it_works()


def test_a_server_that_takes_nobody_any_more_is_away(kind: Kind, valkey: Server) -> None:
    valkey.call("CONFIG", "SET", "maxclients", "1")
    with closing(kind(RedisStore(valkey.url, prefix="p:"))) as asker:
        assert "max number of clients" in asker.away()
        valkey.call("CONFIG", "SET", "maxclients", "100")
        asker.until_it_works()


def test_mistakes_are_raised_as_they_are(asker: Asker, server: Server) -> None:
    server.call("RPUSH", "{p:}list", "x")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        asker.ask("list")
    asker.ask()


ACL_LINE = (
    "resetchannels ~{p:}* &{p:}* +eval +evalsha +time +get +set +pexpire "
    "+publish +subscribe +unsubscribe"
)


def with_users(server: Server, rights: str) -> str:
    """The URL of a user with some rights; nobody gets in without a password."""
    if server.kind == "given":
        pytest.skip("it is not ours to configure")
    server.call("ACL", "SETUSER", "jo", "on", ">secret", *rights.split())
    server.call("ACL", "SETUSER", "default", ">other")
    return f"redis://jo:secret@127.0.0.1:{server.port}"


def test_the_rights_that_are_documented_suffice(kind: Kind, server: Server) -> None:
    said = " ".join((RedisStore.__doc__ or "").split()).replace("{openai:}", "{p:}")
    assert ACL_LINE in said
    url = with_users(server, ACL_LINE)
    with closing(kind(RedisStore(url, prefix="p:"))) as asker:
        asker.ask()
        asker.listening(server)
        server.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}", "")
        asker.until(lambda: asker.woken)
        asker.rest(0.02)
        asker.ask()
        with pytest.raises(RedisError, match="NOPERM"):
            asker.store.look()
        server.call("ACL", "SETUSER", "jo", "+scan")
        assert list(asker.store.look()) == ["chat"]


@pytest.mark.parametrize("missing", ["+evalsha", "+get", "~{p:}*"])
def test_a_right_that_is_missing_is_told(kind: Kind, server: Server, missing: str) -> None:
    url = with_users(server, ACL_LINE.replace(missing, ""))
    refused = pytest.raises(RedisError, match=r"NOPERM|permission|can't run this command")
    with closing(kind(RedisStore(url, prefix="p:"))) as asker, refused:
        asker.ask()


def test_a_right_to_listen_that_is_missing_is_told_until_it_is_there(
    kind: Kind, server: Server
) -> None:
    url = with_users(server, ACL_LINE.replace("&{p:}*", ""))
    with closing(kind(RedisStore(url, prefix="p:"))) as asker:

        def refused() -> bool:
            try:
                asker.ask()
            except RedisError as error:
                return error.word == "NOPERM"
            return False

        asker.until(refused)
        server.call("ACL", "SETUSER", "jo", "&{p:}*")
        asker.until(lambda: not refused())


def test_a_wrong_password_is_told_but_not_shown(kind: Kind, server: Server) -> None:
    with_users(server, ACL_LINE)
    for user in ("jo:s3cr3t@", ":s3cr3t@"):
        url = f"redis://{user}127.0.0.1:{server.port}"
        with closing(kind(RedisStore(url))) as asker:
            with pytest.raises(RedisError, match="WRONGPASS") as caught:
                asker.ask()
            assert "s3cr3t" not in str(caught.value)
    refused = pytest.raises(RedisError, match="NOAUTH")
    with closing(kind(RedisStore(f"redis://127.0.0.1:{server.port}"))) as asker, refused:
        asker.ask()


# -------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_closes_without_a_word(kind: Kind, valkey: Server) -> None:
    with closing(kind(RedisStore(valkey.url, prefix="p:"))) as asker:
        asker.ask()
        asker.listening(valkey)
        before = ids(valkey)

        def fork() -> int:
            child = os.fork()
            if child:
                return child
            try:
                asker.connection.close()
                gc.collect()
                os._exit(0)
            finally:
                os._exit(1)

        async def fork_in_the_loop() -> int:
            return fork()

        child = asker.runner.run(fork_in_the_loop()) if isinstance(asker, OfLoop) else fork()
        assert os.waitpid(child, 0)[1] == 0
        asker.ask()
        assert ids(valkey) == before
        valkey.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}", "")
        asker.until(lambda: asker.woken)


def ids(server: Server) -> set[bytes]:
    """Those who are connected."""
    return {line.split()[0] for line in server.call("CLIENT", "LIST").splitlines()}


def test_closing_ends_links_and_threads(kind: Kind, valkey: Server) -> None:
    threads = threading.active_count()
    with closing(kind(RedisStore(valkey.url, prefix="p:"))) as asker:
        asker.ask()
        asker.listening(valkey)
        assert len(ids(valkey)) == 3
        asker.close()
        with pytest.raises(StoreUnavailable, match="closed here"):
            asker.ask() if isinstance(asker, OfThreads) else asyncio.run(again(asker))
    deadline = time.monotonic() + SOON
    while len(ids(valkey)) > 1 or threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def again(asker: Asker) -> None:
    """A connection that is closed at once."""
    connection = asker.store.connect(lambda: None)
    connection.close()
    await connection.send(("chat",), asker.request(("chat",)))


def test_a_loop_that_ends_leaves_no_link_open(valkey: Server) -> None:
    store = RedisStore(valkey.url, prefix="p:")

    async def play() -> None:
        connection = store.connect(lambda: None)
        asker = OfThreads.__new__(OfThreads)
        asker.connection, asker.asked = connection, 0
        await connection.send(("chat",), asker.request(("chat",)))

        async def last() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)  # the listener has ended meanwhile
                await connection.send(("chat",), asker.request(("chat",)))

        tasks.append(asyncio.create_task(last()))
        await asyncio.sleep(0.02)

    tasks: list[asyncio.Task[None]] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(play())
        assert tasks.pop().cancelled()
        gc.collect()
    assert [str(each.message) for each in seen] == []
    deadline = time.monotonic() + SOON
    while len(ids(valkey)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-days", "30", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost"]
    try:
        done = subprocess.run(
            [*words, "-keyout", "-", "-out", "-"], capture_output=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as why:
        pytest.skip(f"no certificate can be made here: {why}")
    path.write_bytes(done.stdout)
    return path


def test_tls_is_spoken_to_whom_the_certificate_names(
    kind: Kind, valkey: Server, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with closing(Hole(valkey.port, context)) as hole:
        url = (
            f"rediss://localhost:{hole.port}?ssl_ca_certs={certificate}&ssl_certfile={certificate}"
        )
        with closing(kind(RedisStore(url, prefix="p:"))) as asker:
            asker.ask()
            asker.listening(valkey)
        for other in (f"rediss://localhost:{hole.port}", url.replace("localhost", "127.0.0.1", 1)):
            refused = pytest.raises(ssl.SSLCertVerificationError)
            with closing(kind(RedisStore(other))) as asker, refused:
                asker.ask()


# -------------------------------------------------------------------------- clusters and sentinels


def slot_of(server: Server, key: str) -> int:
    slot: int = server.call("CLUSTER", "KEYSLOT", key)
    return slot


@pytest.fixture
def masters() -> Iterator[list[Server]]:
    """A cluster of three masters."""
    servers: list[Server] = []
    try:
        for _ in range(3):
            bus = str(servers_redis.free_port())
            servers.append(started("valkey", "--cluster-enabled", "yes", "--cluster-port", bus))
            servers[-1].bus = bus  # type: ignore[attr-defined]
        edges = [0, 5461, 10922, 16384]
        for n, server in enumerate(servers):
            server.call("CLUSTER", "ADDSLOTSRANGE", edges[n], edges[n + 1] - 1)
            server.call("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        first = servers[0]
        for other in servers[1:]:
            first.call("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus)  # type: ignore[attr-defined]
        end = time.monotonic() + 20
        while not all(b"cluster_state:ok" in each.call("CLUSTER", "INFO") for each in servers):
            assert time.monotonic() < end, "the cluster does not come up"
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.stop()


def test_in_a_cluster_the_keys_are_found_wherever_they_go(masters: list[Server]) -> None:
    """From each node, by threads and by a loop, while the slot moves and after it has."""
    first, slot = masters[0], slot_of(masters[0], "{p:}chat")
    owner = masters[min(slot // 5461, 2)]
    target = next(each for each in masters if each is not owner)
    names = {each.port: each.call("CLUSTER", "MYID") for each in masters}
    nodes = ",".join(f"127.0.0.1:{each.port}" for each in masters)
    askers: list[Asker] = [
        OfLoop(RedisStore(f"redis+cluster://{nodes}", prefix="p:")),
        OfThreads(RedisStore(f"redis+cluster://127.0.0.1:{target.port}", prefix="p:")),
    ]
    try:
        for asker in askers:
            asker.ask("chat", "images")
            asker.until(
                lambda asker=asker: any(  # type: ignore[misc]
                    each.call("PUBSUB", "NUMSUB", f"{{p:}}@0/{asker.connection.address}")[1]
                    for each in masters
                )
            )
            woken = asker.woken
            owner.call("PUBLISH", f"{{p:}}@0/{asker.connection.address}", "")
            asker.until(lambda asker=asker, woken=woken: asker.woken > woken)  # type: ignore[misc]
        assert owner.call("EXISTS", "{p:}chat") == 1
        assert set(askers[0].store.look()) == {"chat", "images"}

        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner.port])
        owner.call("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        for asker in askers:
            asker.ask("chat", "images")  # both are still there
            asker.ask("new")  # ASK: it begins where it will be
        assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        owner.call("MIGRATE", "127.0.0.1", target.port, "{p:}chat", 0, 1000)
        for asker in askers:
            asker.ask("chat")  # ASK
            with pytest.raises(StoreUnavailable, match="TRYAGAIN"):
                asker.ask("chat", "images")  # one here, one there
        owner.call("MIGRATE", "127.0.0.1", target.port, "{p:}images", 0, 1000)
        for each in masters:
            each.call("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
        for asker in askers:
            asker.ask("chat", "images", "new")  # MOVED
        assert target.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 3

        assert first.port
        owner.kill()  # which has no keys any more
        asker = askers[0]
        asker.ask("chat")
    finally:
        for asker in askers:
            asker.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Server, Server, int]]:
    """A master, its replica, and the port of a sentinel that watches them."""
    master, replica = started("valkey"), started("valkey")
    port = servers_redis.free_port()
    try:
        replica.call("REPLICAOF", "127.0.0.1", master.port)
        end = time.monotonic() + 10
        while b"master_link_status:up" not in replica.call("INFO", "replication"):
            assert time.monotonic() < end, "the replica gets no link"
            time.sleep(0.02)
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor quota 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds quota 300\n"
            "sentinel failover-timeout quota 3000\n"
        )
        program, environment = servers_redis.program("valkey")
        with (tmp_path / "log").open("wb") as log:
            sentinel = subprocess.Popen(
                [program, str(config), "--sentinel"],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                preexec_fn=servers_redis.dies_with_us(),
            )
        try:
            wait_for_replica(port)
            yield master, replica, port
        finally:
            sentinel.kill()
            sentinel.wait()
    finally:
        master.stop()
        replica.stop()


def wait_for_replica(port: int) -> None:
    """Until the sentinel knows that there is a replica."""
    end = time.monotonic() + 15
    while True:
        with suppress(OSError), closing(Wire("127.0.0.1", port)) as wire:
            if wire.call("SENTINEL", "REPLICAS", "quota"):
                return
        assert time.monotonic() < end, "the sentinel does not find the replica"
        time.sleep(0.05)


def role(server: Server) -> bytes:
    """What it says of itself: a server that is promoted hangs up on all."""
    with closing(server.wire()) as wire:
        said: bytes = wire.call("INFO", "replication")
        return said


def test_sentinels_are_asked_where_the_service_is(watched: tuple[Server, Server, int]) -> None:
    master, replica, port = watched
    nobody = servers_redis.free_port()
    url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/quota"
    askers: list[Asker] = [kind(RedisStore(url, prefix="p:")) for kind in (OfLoop, OfThreads)]
    try:
        for asker in askers:
            asker.ask()
            asker.listening(master)
        master.kill()
        for asker in askers:
            assert "is away" in asker.away()
        end = time.monotonic() + 15
        while b"role:master" not in role(replica):
            assert time.monotonic() < end, "no failover"
            time.sleep(0.05)
        for asker in askers:
            asker.until_it_works()
            asker.until(lambda asker=asker: asker.woken, 10)  # type: ignore[misc]
    finally:
        for asker in askers:
            asker.close()
    with closing(OfThreads(RedisStore(url.replace("/quota", "/other")))) as asker:
        assert "know no service 'other'" in asker.away()


# --------------------------------------------------------------------------------------- a look


def test_a_look_shows_the_states_of_this_store_by_name(asker: Asker, server: Server) -> None:
    names = ["chat", "größe/ü", "a b%2F{x}*", "x" * 100]
    for name in names:
        asker.ask(name)
    server.call("SET", "{p:", "x")
    server.call("SET", "other", "x")
    with closing(OfThreads(RedisStore(server.url, prefix="*:"))) as other:
        other.ask("elsewhere")
        assert set(other.store.look()) == {"elsewhere"}
    states = asker.store.look()
    assert set(states) == set(names)
    state = states["chat"]
    assert state["code"] == BUCKET_OF_TEN
    assert state["set"] == BUCKET_OF_TEN
    (session,) = state["sessions"]
    assert session == f"host/1/{asker.connection.address}/1"


def test_a_look_at_many_limits_takes_several_calls(valkey: Server) -> None:
    with closing(OfThreads(RedisStore(valkey.url, prefix="p:"))) as asker:
        assert asker.store.look() == {}
        for n in range(250):
            asker.ask(f"n{n}")
        assert len(asker.store.look()) == 250
