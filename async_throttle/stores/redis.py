"""One quota over machines: a store on a server of Redis or Valkey, a cluster, or behind sentinels.

Each limit has a key of its own, so that any set of limits may share it. All keys of a store carry
one hash tag: a cluster keeps them together, as a call changes several at once. What is done to them
is `redis.lua`, the twin of `_state.step`.

The server is talked to by `_redis_client`, which needs nothing to be installed. redis-py is needed
only by those who have a client of it, and hand it over: its parameters are read, and no more.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from json import JSONEncoder, loads
from typing import Any, Final, Literal
from urllib.parse import quote_from_bytes, unquote

from async_throttle.stores import Busy, Connection, Reply, Request, Store
from async_throttle.stores._redis_client import Client, Listener
from async_throttle.stores._redis_url import Place, place_of, read
from async_throttle.stores._redis_wire import Link, LoopLink, RedisError, ThreadLink, run

__all__ = ["RedisError", "RedisStore"]

URL_VARIABLE: Final = "ASYNC_THROTTLE_REDIS_URL"
"""Where a child process finds the password that was not pickled."""

LONGEST_KEY: Final = 200
"""Bytes of a key: each call sends it."""

AT_ONCE: Final = 100
"""Keys that one script looks at."""

_written: Final = JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode
"""JSON; `dumps` would make an encoder for each call, which takes a third of its time."""

_PLAIN: Final = "!$'()+,/:;=@"
"""What is left as it is in a key, beside letters and digits: no braces, as in hash tags, and none
of what patterns of keys are made of."""


@cache
def script() -> bytes:
    """The twin of `_state.step`."""
    return files("async_throttle.stores").joinpath("redis.lua").read_bytes()


class RedisStore(Store):
    """A quota on a server of Redis (6.2 or newer) or Valkey.

    Args:
        url_or_client: ``redis://[user:password@]host[:port][/db]``, ``rediss://`` over TLS,
            ``unix:///path``, ``redis+cluster://host:port,host:port`` (some of its nodes) or
            ``redis+sentinel://host:port,host:port/service[/db]``; or a client of redis-py,
            synchronous or not, whose parameters are read. It is not used otherwise.
            Options follow as ``?name=value&...``: *client_name*, *socket_timeout* (seconds for an
            answer, 1 by default), *sentinel_username*, *sentinel_password*, and of TLS those that
            redis-py has: *ssl_ca_certs*, *ssl_certfile*, *ssl_keyfile*, *ssl_cert_reqs*, ...
        prefix: of all keys and channels. It is put in braces, unless it has a hash tag already:
            the keys of ``"openai:"`` begin with ``{openai:}``.
        pickle_credentials: whether a copy in another process is given user and password. Else a
            child process takes the URL of ``ASYNC_THROTTLE_REDIS_URL``, if there is a password.
        ttl, horizon, grace, on_error, on_mismatch: see `Store`.

    Raises:
        ValueError: the URL cannot be read, or another argument is out of range.
        TypeError: it is neither a URL nor a client.

    A user needs no more rights than these, written for ``prefix="openai:"``; and ``+select`` for
    another database than 0, ``+asking`` in a cluster, ``+scan`` for `look`::

        ACL SETUSER jo on >secret resetchannels ~{openai:}* &{openai:}*
            +eval +evalsha +time +get +set +pexpire +publish +subscribe +unsubscribe

    A server that evicts keys when its memory is full forgets quotas: ``noeviction`` is the policy
    for it. Keys expire by themselves when nothing needs to be known of a limit any more.

    >>> RedisStore("redis://jo:secret@10.0.0.1/2", prefix="openai:")
    RedisStore('redis://10.0.0.1:6379/2', prefix='openai:')
    """

    def __init__(
        self,
        url_or_client: Any,
        *,
        prefix: str = "async_throttle:",
        ttl: float = 30.0,
        horizon: float = 0.25,
        grace: float = 0.02,
        on_error: Literal["wait", "local", "open", "raise"] = "wait",
        on_mismatch: Literal["replace", "raise"] = "replace",
        pickle_credentials: bool = False,
    ) -> None:
        super().__init__(
            ttl=ttl, horizon=horizon, grace=grace, on_error=on_error, on_mismatch=on_mismatch
        )
        text = isinstance(url_or_client, str)
        self._place: Place = read(url_or_client) if text else place_of(url_or_client)
        self._prefix = prefix
        self._begin = _tagged(prefix)
        self._pickles_credentials = pickle_credentials

    def __repr__(self) -> str:
        return f"RedisStore({str(self._place)!r}, prefix={self._prefix!r})"

    def key(self, name: str) -> bytes:
        """The key under which the state of a limit is kept.

        Raises:
            ValueError: the name is too long.

        >>> RedisStore("redis://localhost", prefix="openai:").key("chat/größe")
        b'{openai:}chat/gr%C3%B6%C3%9Fe'
        """
        key = self._begin + quote_from_bytes(name.encode("utf-8", "surrogatepass"), _PLAIN).encode()
        if len(key) > LONGEST_KEY:
            shown = repr(name) if len(name) <= 40 else repr(name[:40]) + "..."
            raise ValueError(
                f"the name {shown} makes a key of {len(key)} bytes: at most {LONGEST_KEY}"
            )
        return key

    def connect(self, wake: Callable[[], None]) -> Connection:
        """See `Store.connect`. The server is first asked by the first call."""
        return _RedisConnection(self, wake)

    def look(self) -> dict[str, Any]:
        """See `Store.look`. It blocks; the user needs the right ``+scan``.

        Raises:
            StoreUnavailable: the server is away.
            RedisError: it refuses to tell.
        """
        client = Client(self._place, ThreadLink, script())
        try:
            return run(self._look(client))
        finally:
            client.close()

    async def _look(self, client: Client) -> dict[str, Any]:
        await client.ask(b"GET", self._begin)  # now the server that has the keys is linked
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._begin) + b"*"
        keys, cursor = set[bytes](), b"0"
        while True:
            cursor, found = await client.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
            keys.update(found)
            if cursor == b"0":
                break
        states: dict[str, Any] = {}
        ordered = sorted(keys)
        for at in range(0, len(ordered), AT_ONCE):
            some = ordered[at : at + AT_ONCE]
            for key, state in zip(some, loads(await client.run(some, [b""])), strict=True):
                if state:
                    states[_name(key[len(self._begin) :])] = state
        return states

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pickles_credentials and self._place.provider is not None:
            raise TypeError(f"{self!r} asks its client for passwords, which cannot be pickled")
        url = self._place.url(secrets=self._pickles_credentials)
        wanting = self._place.secret and not self._pickles_credentials
        parameters = {
            "prefix": self._prefix,
            "ttl": self.ttl,
            "horizon": self.horizon,
            "grace": self.grace,
            "on_error": self.on_error,
            "on_mismatch": self.on_mismatch,
            "pickle_credentials": self._pickles_credentials,
        }
        return _unpickled, (url, wanting, parameters)


def _unpickled(url: str, wanting: bool, parameters: dict[str, Any]) -> RedisStore:
    """A store from a pickle; *wanting* says that user and password were left out."""
    if wanting:
        known = os.environ.get(URL_VARIABLE)
        if known is None:
            raise ValueError(
                f"the password of {read(url)} was not pickled: set {URL_VARIABLE} in this process, "
                "or make the store with pickle_credentials=True"
            )
        url = known
    return RedisStore(url, **parameters)


def _name(quoted: bytes) -> str:
    """The name of a limit, from what follows the prefix in its key."""
    return unquote(quoted.decode(), errors="surrogatepass")


def _tagged(prefix: str) -> bytes:
    """A prefix that has a hash tag.

    >>> _tagged("openai:"), _tagged("app:{quota}:")
    (b'{openai:}', b'app:{quota}:')
    """
    if not prefix or not prefix.isprintable() or len(prefix.encode()) > 100:
        raise ValueError(f"prefix must be printable text of 1 to 100 bytes, got {prefix!r}")
    if re.fullmatch(r"[^{}]*\{[^{}]+\}[^{}]*", prefix):
        return prefix.encode()
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"prefix must have one hash tag in braces, or no braces, got {prefix!r}")
    return b"{%b}" % prefix.encode()


class _RedisConnection(Connection):
    """A connection that has what its first callers need: for an event loop, or for threads.

    Whether an event loop runs where it is made tells nothing: a throttle for threads may be used
    there first.
    """

    def __init__(self, store: RedisStore, wake: Callable[[], None]) -> None:
        self.address = secrets.token_hex(6)
        self._store = store
        self._wake = wake
        # Channels know no databases.
        self._channels = b"%b@%d/" % (store._begin, store._place.db)
        self._lock = threading.Lock()
        self._of_loop: _OfLoop | None = None
        self._of_threads: _OfThreads | None = None
        self._closed = False

    def call(self, names: Sequence[str], request: Request, patience: float) -> Reply:
        if not self._lock.acquire(timeout=max(0.0, patience)):
            raise Busy
        try:
            if self._of_threads is None:
                self._of_threads = _OfThreads(self)
                self._ready(self._of_threads, listen=self._of_loop is None)
            return run(self._step(self._of_threads, names, request))
        finally:
            self._lock.release()

    async def send(self, names: Sequence[str], request: Request) -> Reply:
        if self._of_loop is None:
            self._of_loop = _OfLoop(self)
            self._ready(self._of_loop, listen=True)
        elif asyncio.get_running_loop() is not self._of_loop.loop:
            raise RuntimeError("this connection is one of another event loop")
        try:
            return await self._step(self._of_loop, names, request)
        finally:
            if self._of_loop.has_ended():
                self._of_loop.client.drop()

    async def _step(self, end: _End, names: Sequence[str], request: Request) -> Reply:
        if end.fault is not None:
            raise end.fault.with_traceback(None)
        keys = [self._store.key(name) for name in names]
        words = [_written(request).encode(), b"", self._channels]
        reply: Reply = loads(await end.client.run(keys, words))
        return reply

    def _ready(self, end: _End, *, listen: bool) -> None:
        if self._closed:
            end.close()  # it refuses to ask
        elif listen:
            end.start()

    def close(self) -> None:
        self._closed = True
        for end in (self._of_loop, self._of_threads):
            if end is not None:
                end.close()

    def listener(self, client: Client, end: _End) -> Listener:
        """What wakes the session of this connection."""
        channel = self._channels + self.address.encode()

        def heard() -> None:
            if not client.closed:
                self._wake()

        return Listener(client, channel, heard, end.failing, end.rest)

    def client(self, kind: type[Link]) -> Client:
        """What asks the server."""
        return Client(self._store._place, kind, script())


class _End(ABC):
    """Our end of a connection: what asks, and what listens."""

    def __init__(self, connection: _RedisConnection, kind: type[Link]) -> None:
        self.pid = os.getpid()
        self.client = connection.client(kind)
        self.listener = connection.listener(self.client, self)
        self.fault: Exception | None = None

    def failing(self, why: Exception | None) -> None:
        """Why the server does not let us listen: that is told to those who ask."""
        self.fault = why

    @abstractmethod
    def start(self) -> None:
        """Begin to listen. As a call is made meanwhile, its session is woken when that works."""

    @abstractmethod
    async def rest(self, seconds: float) -> None:
        """Wait for so long."""

    @abstractmethod
    def close(self) -> None:
        """See `Connection.close`."""


class _OfThreads(_End):
    """That of threads, one of which asks at a time; another one listens."""

    def __init__(self, connection: _RedisConnection) -> None:
        self._closed = threading.Event()
        super().__init__(connection, ThreadLink)

    def start(self) -> None:
        threading.Thread(target=self._listen, name="async_throttle: redis", daemon=True).start()

    def _listen(self) -> None:
        run(self.listener.listen())

    async def rest(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def close(self) -> None:
        if os.getpid() == self.pid:  # else a thread that is not here may hold the event's lock
            self._closed.set()
        self.client.close()
        self.listener.close()


class _OfLoop(_End):
    """That of the running event loop."""

    def __init__(self, connection: _RedisConnection) -> None:
        self.loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        super().__init__(connection, LoopLink)

    def start(self) -> None:
        self._task = self.loop.create_task(self._listen(), name="async_throttle: redis")

    async def _listen(self) -> None:
        try:
            await self.listener.listen()
        finally:
            # The loop cancels its tasks when it ends: links that are open then would be left over.
            self.client.drop()

    def has_ended(self) -> bool:
        """Whether the loop is about to end, and a link that is opened now must be closed."""
        return self._task is not None and self._task.done()

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        ours = os.getpid() == self.pid
        if ours and self.loop.is_running() and _running() is not self.loop:
            self.loop.call_soon_threadsafe(self.close)
            return
        self.client.close()
        self.listener.close()
        if ours and self._task is not None and not self.loop.is_closed():
            self._task.cancel()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
