"""A network between client and server: each request and each answer takes as long as it likes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from .http import read_body, read_head

LONGEST = 0.080
"""Seconds that a request, or an answer, takes at most to arrive."""


@contextlib.asynccontextmanager
async def jitter(port: int, *, seed: int = 0) -> AsyncIterator[int]:
    """A port that leads to *port*; messages are delayed by 0 to 80 ms each, at random.

    A connection is kept until the client closes it, before the end of the block. Requests on one
    connection follow each other; of those on different ones, any may overtake any.
    """
    dice = random.Random(seed)
    open_ones = set[asyncio.Task[None]]()

    async def carry(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, forth = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                for source, target in ((client, forth), (server, back)):
                    head = await read_head(source)
                    body = await read_body(head, source)
                    await asyncio.sleep(dice.uniform(0, LONGEST))
                    target.write(head + body)
        finally:
            forth.close()
            back.close()

    async def accept(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        open_ones.add(carrier)
        try:
            # One of the two has closed the connection, and the other one is told by `carry`.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await carry(client, back)
        finally:
            open_ones.discard(carrier)

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
    finally:
        proxy.close()
        await asyncio.gather(*open_ones)
