"""A server on 127.0.0.1 in the loop of the test, so that it lives in that loop's time.

In virtual time the clients have to live there as well; what is in another thread or process takes
real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from support import now

__all__ = ["LONG", "Answer", "Request", "Server", "serving"]

LONG: Final = 60.0
"""Seconds that nothing takes."""


class Answer(NamedTuple):
    """What is sent back.

    Attributes:
        hold: the body is held back until then.
    """

    status: int = 200
    headers: Mapping[str, str] = {}
    body: str = "{}"
    hold: asyncio.Event | None = None


class Request(NamedTuple):
    """What came.

    Attributes:
        instant: of the loop's clock.
    """

    instant: float
    method: str
    path: str


class Server:
    """Gives *answers* one after the other, and the last one from then on."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.url = ""
        self._came = asyncio.Condition()

    @property
    def instants(self) -> list[float]:
        """When requests came."""
        return [request.instant for request in self.requests]

    async def come(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with self._came, asyncio.timeout(LONG):
            await self._came.wait_for(lambda: len(self.requests) >= count)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
            await reader.readexactly(int(fields.get("content-length", 0)))
            method, path, _ = first.split()
            self.requests.append(Request(now(), method, path))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            async with self._came:
                self._came.notify_all()
            body = answer.body.encode()
            said = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                **answer.headers,
            }
            text = "".join(f"{name}: {value}\r\n" for name, value in said.items())
            writer.write(f"HTTP/1.1 {answer.status} -\r\n{text}\r\n".encode())
            if answer.hold is not None:
                await answer.hold.wait()
            writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    """A server that gives these *answers*."""
    server = Server(answers or [Answer()])
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()
