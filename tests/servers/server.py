"""One way to start a server; and what is known of each: its limits, and a throttle for each."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from async_throttle import LimitSet, Throttle

from .programs import Program


@dataclass(frozen=True)
class Twin:
    """One limit of a server, and the throttle that asks for as much as this limit allows.

    A server may have many limits. Each has a path of its own, and counts every client by itself.
    """

    limit: str  # in the words of the server's configuration
    throttle: partial[Throttle]
    path: str = "/"
    period: float = 1.0  # seconds
    also: partial[Throttle] | None = None  # a limit that allows more in the long run
    window: bool = False  # the server counts in windows: a whole batch may meet the wrong one

    @property
    def slots(self) -> bool:
        """Whether the server counts nothing but calls in flight."""
        return math.isinf(self.throttle().capacity)


@dataclass(frozen=True)
class Shared:
    """A limit of a server that a client and an outsider share: so much per period."""

    limit: str  # in the words of the server's configuration
    limiter: Callable[[], Throttle | LimitSet[Any]]
    path: str = "/"
    most: int = 40
    period: float = 4.0  # seconds
    burst: int = 0  # of a bucket: what it holds at the start, besides
    together: int = 1  # the most refusals within a period: those of a server that says nothing
    blocks: float = 0.0  # seconds for which it serves nobody, once it has refused anybody
    counts_refused: bool = False  # calls that it refuses take of the limit, too
    misses: str = ""  # why less is to be expected than of the others


@dataclass(frozen=True)
class Server:
    """A program, how it is called, and its limits."""

    name: str
    program: Callable[[], Program]
    arguments: Callable[[Path, int], Sequence[str]]
    """Writes its configuration into a folder that is its own, and says how it then listens to a
    port of the loopback interface."""
    twins: tuple[Twin, ...] = ()
    shared: tuple[Shared, ...] = ()


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    folder: Path

    def last_words(self) -> str:
        """The end of what it has logged."""
        logs = sorted(self.folder.glob("*.log"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-8:]]
        return "\n".join(lines)


@contextlib.contextmanager
def serve(server: Server, folder: Path) -> Iterator[Running]:
    """Run *server* for the length of the block, with all its files in *folder*, its own.

    Raises:
        Missing: its program is not to be had.
        RuntimeError: it does not answer within 20 s.
    """
    program = server.program()
    folder.mkdir(parents=True, exist_ok=True)
    for attempts_left in (2, 1, 0):
        # Nobody keeps the port until the server has it: if another process comes first, the server
        # ends at once, and gets another port.
        running = Running(_free_port(), folder)
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(
                [*program.command, *server.arguments(folder, running.port)],
                cwd=folder,
                env={**os.environ, **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            if _answers(process, running.port):
                yield running
                return
            if not attempts_left or process.poll() is None:
                raise RuntimeError(f"{server.name} does not answer:\n{running.last_words()}")
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether *process* listens to *port*; waited for until it does, or ends, or 20 s are over."""
    deadline = perf_counter() + 20
    while perf_counter() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process.poll() is None
        if process.poll() is not None:
            return False
        sleep(0.02)
    return False
