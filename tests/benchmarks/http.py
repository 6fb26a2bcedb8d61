"""Requests by the clients for HTTP, with a throttle and without.

httpx and httpx2 are answered by a transport that makes a stream of one chunk, and aiohttp by a
server in the same loop that parses nothing: what is measured is the client, and not the network.
Answers have the headers of a usual server, or also those that tell how much of a quota is left.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from async_throttle import Throttle

from .measure import Contender, cpu_time, traced, undisturbed
from .rows import Bench, Finding

URL = "http://127.0.0.1/v1/items"
PLAIN = {
    "date": "Mon, 30 Nov 2026 12:00:00 GMT",
    "content-type": "application/json",
    "server": "test",
    "x-request-id": "0123456789abcdef",
    "cache-control": "no-store",
    "vary": "accept-encoding",
}
LIMITED = {
    **PLAIN,
    "x-ratelimit-limit": "1000000",
    "x-ratelimit-remaining": "999999",
    "x-ratelimit-reset": "30",
}
CHUNK = b'{"id": 1}'
EXTENSIONS = {"http_version": b"HTTP/1.1", "reason_phrase": b"OK", "network_stream": None}
"""What the transports of httpx say of each answer besides."""

Get = Callable[[], Awaitable[object]]
"""Makes one request, and reads its answer."""


def wide() -> Throttle:
    """It lets everything through at once."""
    return Throttle(1e9, 10_000)


async def requests(get: Get, count: int) -> float:
    """Processor time of one request."""
    with undisturbed():
        start = cpu_time()
        for _ in range(count):
            await get()
        return (cpu_time() - start) / count


def answering(family: Any, headers: dict[str, str]) -> Any:
    """A transport of *family* that answers at once."""

    class Stream(family.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield CHUNK

    class Server(family.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: object) -> Any:
            return family.Response(200, headers=headers, stream=Stream(), extensions={**EXTENSIONS})

    return Server()


async def costs_of(bench: Bench, name: str, target: float) -> list[Finding]:
    """Of *name*, httpx or httpx2."""
    family, ours = import_module(name), import_module(f"async_throttle.http.{name}")
    calls, rounds = bench.pick((300, 61), (20, 3))
    found: list[Finding] = []
    for headers, told in ((PLAIN, ""), (LIMITED, ", answers with rate limit headers")):
        bare = family.AsyncClient(transport=answering(family, headers))
        throttled = family.AsyncClient(
            transport=ours.ThrottledTransport(wide(), answering(family, headers))
        )
        async with bare, throttled:
            group = await bench.group(
                rounds,
                {
                    name: partial(requests, partial(bare.get, URL), calls),
                    "ours": partial(requests, partial(throttled.get, URL), calls),
                },
            )
        asked = None if told else target
        found.append(group.row(f"a request of {name}{told}", "us", "ours", name, asked))
    return found


class Answers(asyncio.Protocol):
    """A server that answers whatever comes at once."""

    answer: bytes

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer)


def answers(headers: dict[str, str]) -> type[Answers]:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(CHUNK)}", *lines, "", ""])
    return type("Answers", (Answers,), {"answer": head.encode() + CHUNK})


async def costs_of_aiohttp(bench: Bench, target: float) -> list[Finding]:
    import aiohttp

    from async_throttle.http.aiohttp import throttled

    calls, rounds = bench.pick((300, 61), (20, 3))
    found: list[Finding] = []
    for headers, told in ((PLAIN, ""), (LIMITED, ", answers with rate limit headers")):
        loop = asyncio.get_running_loop()
        server = await loop.create_server(answers(headers), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/items"

        def getting(session: aiohttp.ClientSession, url: str = url) -> Contender:
            async def get() -> None:
                async with session.get(url) as answer:
                    await answer.read()

            return lambda: requests(get, calls)

        async with (
            server,
            aiohttp.ClientSession() as bare,
            aiohttp.ClientSession(middlewares=[throttled(wide())]) as ours,
        ):
            group = await bench.group(rounds, {"aiohttp": getting(bare), "ours": getting(ours)})
        asked = None if told else target
        found.append(group.row(f"a request of aiohttp{told}", "us", "ours", "aiohttp", asked))
    return found


async def requesting(bench: Bench) -> Sequence[Finding]:
    return [
        *await costs_of(bench, "httpx", 1.10),
        *await costs_of(bench, "httpx2", 1.15),
        *await costs_of_aiohttp(bench, 1.12),
    ]


async def bytes_open(make: Callable[[], Any], family: Any, count: int) -> float:
    """Bytes of an answer that is open, each of a task of its own that goes on."""
    async with family.AsyncClient(transport=make()) as client:
        over = asyncio.Event()

        async def hold() -> None:
            async with client.stream("GET", URL):
                await over.wait()

        await client.get(URL)
        with traced() as held:
            before = held()
            tasks = [asyncio.create_task(hold()) for _ in range(count)]
            for _ in range(20):
                await asyncio.sleep(0)
            cost = (held() - before) / count
        assert not any(task.done() for task in tasks), "they were to be open"
        over.set()
        await asyncio.gather(*tasks)
    assert not tracemalloc.is_tracing()
    return cost


async def keeping_open(bench: Bench) -> Sequence[Finding]:
    """What an open answer costs more: the bare client is taken away from both."""
    count, rounds = bench.pick((2_000, 3), (50, 1))
    found: list[Finding] = []
    for name in ("httpx", "httpx2"):
        family, ours = import_module(name), import_module(f"async_throttle.http.{name}")

        def bare(family: Any = family) -> Any:
            return answering(family, PLAIN)

        def throttled(family: Any = family, ours: Any = ours) -> Any:
            return ours.ThrottledTransport(wide(), answering(family, PLAIN))

        group = await bench.group(
            rounds,
            {
                name: partial(bytes_open, bare, family, count),
                "ours": partial(bytes_open, throttled, family, count),
            },
        )
        found.append(
            group.less(name).row(f"an open answer of {name}, more", "B", "ours", "ours", None, 400)
        )
    return found
