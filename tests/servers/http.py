"""As much of HTTP/1.1 as a client and a proxy of these tests need: messages with a length."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from time import perf_counter
from typing import Self


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request or answer.

    Raises:
        asyncio.IncompleteReadError: the peer has closed the connection instead.
    """
    return await reader.readuntil(b"\r\n\r\n")


async def read_body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body that follows *head*.

    Raises:
        asyncio.IncompleteReadError: the peer has closed the connection within it.
        RuntimeError: an answer does not say how long it is.
    """
    length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    if length is None and not head.startswith(b"GET "):
        raise RuntimeError(f"an answer that does not say how long it is: {head!r}")
    return await reader.readexactly(int(length[1]) if length else 0)


class Client:
    """The least HTTP client that keeps its connections; to the server, each is another customer."""

    _keys = itertools.count(1)

    def __init__(self, port: int, *, opened: int = 0) -> None:
        """*opened* connections are made in advance, others when a call needs one."""
        self.key = f"client-{next(self._keys)}"
        self._port = port
        self._opened = opened
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._opened):
            self._idle.append(await self._connect())
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return reader, writer

    async def get(self, path: str) -> tuple[int, float]:
        """The status with which the server answers, and the instant; the body is read, too."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                break
        else:
            reader, writer = await self._connect()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {self.key}\r\n\r\n"
        writer.write(request.encode())
        head = await read_head(reader)
        answered = perf_counter()
        await read_body(head, reader)
        self._idle.append((reader, writer))
        return int(head.split(maxsplit=2)[1]), answered
