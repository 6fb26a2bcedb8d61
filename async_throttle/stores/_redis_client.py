"""How a script is run on a server of Redis, and how its messages are listened to.

Nothing is tried again but for two reasons: a link that was idle had been cut, which shows only when
it is used; and a server of a cluster, or one without the script, said what to do instead. All else
is `StoreUnavailable` at once: who asked knows for how long to try.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from typing import Any, Final

from async_throttle.exceptions import StoreUnavailable
from async_throttle.stores._redis_url import Address, Place, shown
from async_throttle.stores._redis_wire import Link, Lost, RedisError, packed

__all__ = ["Client", "Listener", "away_word"]

AWAY: Final = {
    *("BUSY", "LOADING", "OOM", "READONLY", "MASTERDOWN", "MISCONF", "CLUSTERDOWN", "TRYAGAIN"),
    *("NOREPLICAS", "MOVED", "ASK"),
}
"""First words of errors that pass by themselves, or when the server is helped."""

ELSEWHERE: Final = {"READONLY", "MASTERDOWN", "CLUSTERDOWN", "LOADING"}
"""Those after which another server may be the right one."""

_WITHIN = re.compile(rf"[-\s:]({'|'.join(sorted(AWAY))})\s")
_TOO_MANY = "ERR max number of clients reached"
_HOPS: Final = 5
"""Servers of a cluster that may send on to the next, for one question."""

TICK: Final = 5.0
"""Seconds of silence after which a listener asks whether its link still works."""

LEAST_REST, MOST_REST = 0.05, 1.0
"""Seconds between two attempts to listen."""


def away_word(error: RedisError) -> str:
    """What says that the server is away, in its error; "" if the question itself is wrong.

    Redis 6.2 tells what a command in a script has met in the middle of a message of its own.

    >>> away_word(RedisError("OOM command not allowed when used memory > 'maxmemory'."))
    'OOM'
    >>> away_word(RedisError("ERR Error running script (call to f_0): @user_script:1: -OOM no"))
    'OOM'
    >>> away_word(RedisError("NOPERM this user has no permissions to run the 'eval' command"))
    ''
    """
    text = str(error)
    if error.word in AWAY:
        return error.word
    if text.startswith(_TOO_MANY):
        return "ERR"
    found = _WITHIN.search(text) if "Error running script" in text else None
    return found[1] if found else ""


class Client:
    """Runs one script on the server that has its keys, over one link that is opened when needed.

    Args:
        place: of the server.
        kind: of its links. With those of a thread, every coroutine here runs through at once.
        script: in Lua.
    """

    def __init__(self, place: Place, kind: type[Link], script: bytes) -> None:
        self.place = place
        self.kind = kind
        self.link: Link | None = None
        self.closed = False
        self._script = script
        self._digest = sha1(script, usedforsecurity=False).hexdigest().encode()
        self._context: ssl.SSLContext | None = None
        self._owner: Address | None = None
        self._nodes = list(place.addresses)

    # -- asking ---------------------------------------------------------------------------

    async def run(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """The answer of the script.

        Raises:
            StoreUnavailable: the server is away; the script may have run.
            RedisError: the server refuses to run it.
        """
        words = (b"%d" % len(keys), *keys, *arguments)
        try:
            return await self.ask(b"EVALSHA", self._digest, *words)
        except RedisError as error:
            if error.word != "NOSCRIPT":
                raise
        return await self.ask(b"EVAL", self._script, *words)

    async def ask(self, *words: bytes) -> Any:
        """The answer to a command, from the server that is the right one for its keys."""
        command = packed(*words)
        for _ in range(_HOPS):
            reply = await self._tell(command)
            if not isinstance(reply, RedisError):
                return reply
            if reply.word == "MOVED" and (there := self._told(reply)):
                self._owner = there
                self._remember(there)
                self.drop()
            elif reply.word == "ASK" and (there := self._told(reply)):
                if words[0] == b"EVALSHA":  # the server there may not have the script
                    command = packed(b"EVAL", self._script, *words[2:])
                reply = await self._tell_once(there, command)
                if not isinstance(reply, RedisError):
                    return reply
                raise self._judged(reply)
            else:
                raise self._judged(reply)
        raise self._away(f"more than {_HOPS} servers sent on to another")

    async def _tell(self, command: bytes) -> Any:
        """The answer of the server that is linked, whatever it says."""
        again = self.link is not None and not self.link.lost  # it may be cut: that shows only now
        while True:
            link = await self._linked()
            try:
                return await link.ask(command, self.place.patience)
            except Lost as error:
                self.drop(link)
                if not again:
                    raise self._away(str(error)) from None
                again = False
            except TimeoutError:
                self.drop(link)
                raise self._away(f"no answer for {self.place.patience:g} s") from None

    async def _tell_once(self, there: Address, command: bytes) -> Any:
        """The answer of a server to which keys are being moved."""
        link = await self._open(there)
        try:
            await link.ask(packed(b"ASKING"), self.place.patience)
            return await link.ask(command, self.place.patience)
        except (Lost, OSError) as error:
            raise self._away(_why(error, self.place)) from None
        finally:
            link.close()

    def _judged(self, error: RedisError) -> Exception:
        """What an answer means for who asked."""
        word = away_word(error)
        if not word:
            return error
        if word in ELSEWHERE:
            self._owner = None
            self.drop()
        return self._away(str(error))

    def _away(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.place} is away: {why}")

    # -- links ----------------------------------------------------------------------------

    async def _linked(self) -> Link:
        if self.link is None or self.link.lost:
            link = None if self.closed else await self.connect()
            if link is None or self.closed:
                self.drop(link)
                raise self._away("the connection was closed here")
            if self.link is None or self.link.lost:
                self.drop()
                self.link = link
            else:  # another caller was faster
                link.close()
        return self.link

    async def connect(self) -> Link:
        """A link of its own to the server that is the right one, as far as is known.

        Raises:
            StoreUnavailable: the server is away.
            RedisError: it does not let us in. ssl.SSLCertVerificationError: it is another one.
        """
        if self.place.kind == "sentinel":
            return await self._open(await self._watched())
        nodes = dict.fromkeys([self._owner, *self._nodes] if self._owner else self._nodes)
        failed: StoreUnavailable | None = None
        for address in nodes:
            try:
                return await self._open(address)
            except StoreUnavailable as error:
                failed = failed or error
                if address == self._owner:
                    self._owner = None
        assert failed is not None, "a place has an address"
        raise failed

    async def _watched(self) -> Address:
        """The address of the service that the sentinels watch."""
        place, failed, answered = self.place, self._away("no sentinel is known"), False
        names = ("sentinel_username", "sentinel_password")
        credentials = [place.options[name] for name in names if name in place.options]
        question = packed(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", place.service.encode())
        for address in self._nodes:
            try:
                link = await self._open(address, credentials, sentinel=True)
                try:
                    found = await link.ask(question, place.patience)
                finally:
                    link.close()
            except StoreUnavailable as error:
                failed = error
            except (Lost, OSError) as error:
                failed = self._away(f"{shown(address)}: {_why(error, place)}")
            else:
                if isinstance(found, RedisError):
                    raise self._judged(found)
                if found:
                    # Those that answer are asked first.
                    self._nodes = [address, *(node for node in self._nodes if node != address)]
                    return found[0].decode(), int(found[1])
                answered = True
        if answered:
            raise self._away(f"its sentinels know no service {place.service!r}")
        raise failed

    async def _open(
        self, address: Address, credentials: Sequence[str] | None = None, *, sentinel: bool = False
    ) -> Link:
        """A link to a server that has let us in."""
        place = self.place
        if self._context is None:
            self._context = place.context()
        try:
            link = await self.kind.open(address, self._context, place.patience)
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise self._away(f"{shown(address)}: {_why(error, place)}") from None
        try:
            if credentials is None:
                credentials = place.credentials()
            greetings = []
            if credentials:
                greetings.append([b"AUTH", *(each.encode() for each in credentials)])
            if place.db and not sentinel:
                greetings.append([b"SELECT", b"%d" % place.db])
            if "client_name" in place.options:
                greetings.append([b"CLIENT", b"SETNAME", place.options["client_name"].encode()])
            for greeting in greetings:
                reply = await link.ask(packed(*greeting), place.patience)
                if isinstance(reply, RedisError):
                    raise self._judged(reply)
        except (Lost, OSError) as error:
            link.close()
            raise self._away(f"{shown(address)}: {_why(error, place)}") from None
        except BaseException:
            link.close()
            raise
        return link

    def _told(self, error: RedisError) -> Address | None:
        """The address that a server of a cluster names in its error."""
        host, _, port = str(error).split(" ")[-1].rpartition(":")
        if not port.isdigit() or host == "?":
            return None
        if not host and self.link is not None:
            host = self.link.address[0]
        return host, int(port)

    def _remember(self, address: Address) -> None:
        """Nodes that a cluster has named are asked if the others are gone."""
        if address not in self._nodes:
            told = self._nodes[len(self.place.addresses) :]
            self._nodes = [*self.place.addresses, *told[-20:], address]

    def drop(self, link: Link | None = None) -> None:
        """Let a link go, or the one that there is."""
        link = link or self.link
        if link is self.link:
            self.link = None
        if link is not None:
            link.close()

    def close(self) -> None:
        """Let the link go for good."""
        self.closed = True
        self.drop()


def _why(error: BaseException, place: Place) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {place.patience:g} s"
    if isinstance(error, ConnectionError | FileNotFoundError | PermissionError) and error.errno:
        return os.strerror(error.errno)  # asyncio has words of its own for some
    return str(error) or type(error).__name__


# -- listening ----------------------------------------------------------------------------


class Listener:
    """Listens to a channel on the server of *client*, over a link of its own.

    Args:
        heard: called for each message, and when the channel is listened to from now on: messages
            may have been lost before.
        failing: told why the server does not let us listen, or None.
        rest: waits for so many seconds.
    """

    def __init__(
        self,
        client: Client,
        channel: bytes,
        heard: Callable[[], None],
        failing: Callable[[Exception | None], None],
        rest: Callable[[float], Awaitable[object]],
    ) -> None:
        self._client = client
        self._subscribe = packed(b"SUBSCRIBE", channel)
        self._heard = heard
        self._failing = failing
        self._rest = rest
        self._link: Link | None = None
        self._closed = False

    async def listen(self) -> None:
        """Listen until it is closed, over one link after the other."""
        pause = LEAST_REST
        while not self._closed:
            try:
                self._link = await self._client.connect()
                self._link.write(self._subscribe)
                await self._hear_one(self._link)
                self._failing(None)
                self._heard()
                pause = LEAST_REST
                while not self._closed:
                    await self._hear(self._link)
            except (Lost, OSError, StoreUnavailable):
                self._failing(None)
            except Exception as error:
                away = isinstance(error, RedisError) and away_word(error)
                self._failing(None if away else error)
            finally:
                if self._link is not None:
                    self._link.close()
            if not self._closed:
                await self._rest(pause)
                pause = min(MOST_REST, 2 * pause)

    async def _hear(self, link: Link) -> None:
        try:
            message = await link.read(TICK)
        except TimeoutError:
            now = self._client.link
            if self._client.place.kind == "sentinel" and now and now.address != link.address:
                raise Lost("the service has moved") from None  # and tells nothing to its old server
            link.write(self._subscribe)  # once more, as PING needs a right of its own
            await self._hear_one(link)
        else:
            self._take(message)

    async def _hear_one(self, link: Link) -> None:
        """What is heard when the server has to say something."""
        self._take(await link.read(self._client.place.patience))

    def _take(self, message: Any) -> None:
        if isinstance(message, RedisError):
            raise message
        if message[0] == b"message":
            self._heard()

    def close(self) -> None:
        """Listen no longer."""
        self._closed = True
        if self._link is not None:
            self._link.close()
