"""Requests of aiohttp wait for a limit, and hold a slot as long as their answers are open.

A server on 127.0.0.1 that says what it is told to; nobody looks at a clock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import aiohttp.web
import pytest
from http_families import broken_off
from support import others_run

from async_throttle import (
    Lease,
    LimitPool,
    LimitSet,
    Throttle,
    Throttles,
    ThrottleTimeout,
    threads,
)
from async_throttle.http import Learner, lease_of
from async_throttle.http.aiohttp import throttled

pytestmark = pytest.mark.virtual_time(False)

LONG = 60.0
"""Seconds that nothing takes."""


class Server:
    """Answers as the path says, and lists the requests.

    - ``/``: hello. ``/STATUS?header=value``: that status, with those headers.
    - ``/slow``: headers and a first chunk; the rest after `go_on`.
    - ``/never``: nothing until `go_on`. ``/hang-up``: closes the connection instead.
    - ``/echo``: a websocket, if nothing else.
    """

    def __init__(self) -> None:
        self.requests: list[aiohttp.web.Request] = []
        self.headers: list[dict[str, str]] = []
        self.came = asyncio.Condition()
        self.go_on = asyncio.Event()
        self.url = ""
        self.port = 0

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        self.requests.append(request)
        self.headers.append(dict(request.headers))
        async with self.came:
            self.came.notify_all()
        match request.path.strip("/"):
            case "slow":
                response = aiohttp.web.StreamResponse(headers={"content-length": "2"})
                await response.prepare(request)
                await response.write(b"a")
                await self.go_on.wait()
                await response.write(b"b")
                return response
            case "never":
                await self.go_on.wait()
            case "hang-up":
                assert request.transport is not None
                request.transport.close()
            case "moved":
                return aiohttp.web.Response(status=307, headers={"location": request.query["to"]})
            case "echo":
                socket = aiohttp.web.WebSocketResponse()
                await socket.prepare(request)
                async for message in socket:
                    await socket.send_str(message.data)
                return socket
            case path if path.isdigit():
                return aiohttp.web.Response(status=int(path), headers=request.query, text="hello")
        return aiohttp.web.Response(text="hello", headers={"connection": "close"})

    async def come(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with self.came, asyncio.timeout(LONG):
            await self.came.wait_for(lambda: len(self.requests) >= count)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    import aiohttp.web

    server = Server()
    app = aiohttp.web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0, lingering_time=0)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{server.port}"
        yield server
    finally:
        server.go_on.set()
        await runner.cleanup()


def session(throttle: Any, **how: Any) -> aiohttp.ClientSession:
    timeout = how.pop("total", LONG)
    return aiohttp.ClientSession(
        middlewares=[throttled(throttle, **how)], timeout=aiohttp.ClientTimeout(total=timeout)
    )


async def until(what: Callable[[], bool]) -> None:
    """Let the loop run until that is so."""
    async with asyncio.timeout(LONG):
        while not what():
            await others_run()


# ----------------------------------------------------------------------------- the table of leaks

Scene = Callable[[Server, Throttle], Awaitable[None]]
SCENES: dict[str, Scene] = {}


def scene(found: Scene) -> Scene:
    SCENES[found.__name__] = found
    return found


@scene
async def a_body_is_read(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client, client.get(server.url + "/slow") as answer:
        assert throttle.active == 1
        server.go_on.set()
        assert await answer.read() == b"ab"
        assert throttle.active == 0


@scene
async def all_of_it_is_there_at_once(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        for _ in range(3):
            async with client.get(server.url + "/200") as answer:
                assert await answer.text() == "hello"


@scene
async def there_is_no_body(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        for method, path in (("HEAD", "/200"), ("GET", "/204"), ("GET", "/304")):
            async with client.request(method, server.url + path):
                await until(lambda: throttle.active == 0)


@scene
async def nobody_listens(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get("http://127.0.0.1:1/")


@scene
async def the_server_hangs_up(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.get(server.url + "/hang-up")
    assert len(server.requests) == 1000 - round(throttle.level), "aiohttp's second try is a call"


@scene
async def cancelled_before_the_headers(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        asked = asyncio.ensure_future(client.get(server.url + "/never"))
        await server.come(1)
        assert throttle.active == 1
        asked.cancel()
        await asyncio.wait([asked])
        assert throttle.active == 0


@scene
async def cancelled_as_soon_as_it_began(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        asked = asyncio.ensure_future(client.get(server.url + "/never"))
        await asyncio.sleep(0)
        assert throttle.active == 1
        asked.cancel()
        await asyncio.wait([asked])
        assert throttle.active == 0


@scene
async def cancelled_while_it_waits(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client, throttle(1):
        asked = asyncio.ensure_future(client.get(server.url))
        await others_run()
        assert throttle.waiting == 1
        asked.cancel()
        await asyncio.wait([asked])
        assert throttle.waiting == 0
    assert server.requests == []


@scene
async def cancelled_in_the_body(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:

        async def get() -> None:
            async with client.get(server.url + "/slow") as answer:
                await answer.read()

        asked = asyncio.create_task(get())
        await server.come(1)
        assert throttle.active == 1
        asked.cancel()
        await asyncio.wait([asked])
        assert throttle.active == 0


@scene
async def no_answer_in_time(server: Server, throttle: Throttle) -> None:
    timeout = aiohttp.ClientTimeout(sock_read=0.05)
    async with session(throttle) as client:
        with pytest.raises(aiohttp.SocketTimeoutError):
            await client.get(server.url + "/never", timeout=timeout)
        assert throttle.active == 0
        async with client.get(server.url + "/slow", timeout=timeout) as answer:
            assert throttle.active == 1
            with pytest.raises(aiohttp.SocketTimeoutError):
                await answer.read()


@scene
async def the_total_is_over_before_the_headers(server: Server, throttle: Throttle) -> None:
    async with session(throttle, total=0.05) as client:
        with pytest.raises(TimeoutError):
            await client.get(server.url + "/never")
        assert throttle.active == 0


@scene
async def the_total_is_over_while_it_waits(server: Server, throttle: Throttle) -> None:
    async with session(throttle, total=0.05) as client, throttle(1):
        with pytest.raises(TimeoutError):
            await client.get(server.url)
        assert throttle.waiting == 0
    assert server.requests == []


@scene
async def closed_unread(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        answer = await client.get(server.url + "/slow")
        assert throttle.active == 1
        answer.close()
        assert throttle.active == 0


@scene
async def left_unread(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        async with client.get(server.url + "/slow"):
            assert throttle.active == 1
        assert throttle.active == 0


@scene
async def released_by_another_task(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        answer = await client.get(server.url + "/slow")
        assert throttle.active == 1

        async def other() -> None:
            answer.close()

        await asyncio.create_task(other())
        assert throttle.active == 0


@scene
async def broken_off_in_the_body(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        async with client.get(server.url + "/slow") as answer:
            async for _ in answer.content.iter_any():
                assert throttle.active == 1
                break
        assert throttle.active == 0


@scene
async def the_body_is_short(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client, client.get(server.url + "/slow") as answer:
        assert throttle.active == 1
        transport = server.requests[0].transport
        assert transport is not None
        transport.abort()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
        assert throttle.active == 0


@scene
async def dropped_unread(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        answer = await client.get(server.url + "/slow")
        assert throttle.active == 1
        del answer
        server.go_on.set()  # aiohttp reads the rest first
        gc.collect()
        await until(lambda: throttle.active == 0)


@scene
async def dropped_in_another_thread(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        answers = [await client.get(server.url + "/slow")]
        waiting = asyncio.ensure_future(client.get(server.url))
        await others_run()
        assert throttle.waiting == 1
        server.go_on.set()

        def drop() -> None:
            answers.clear()
            gc.collect()

        other = threading.Thread(target=drop)
        other.start()
        other.join()
        (await waiting).close()


@scene
async def the_session_is_closed_first(server: Server, throttle: Throttle) -> None:
    client = session(throttle)
    answer = await client.get(server.url + "/slow")
    await client.close()
    assert throttle.active == 1, "aiohttp tells nobody: it is said in the docstring"
    answer.close()


@scene
async def a_websocket(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client, client.ws_connect(server.url + "/echo") as socket:
        assert throttle.active == 1
        await socket.send_str("a")
        assert (await socket.receive()).data == "a"
        assert throttle.active == 1, "for its life"


@scene
async def a_websocket_that_is_refused(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(server.url + "/403")


@scene
async def redirected(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        answer = await client.get(server.url + "/moved", params={"to": "/200"})
        assert await answer.text() == "hello"
    assert round(throttle.level) == 998, "each hop is a request"


@scene
async def an_error_is_raised_for_the_status(server: Server, throttle: Throttle) -> None:
    async with session(throttle) as client:
        with pytest.raises(aiohttp.ClientResponseError):
            await client.get(server.url + "/500", raise_for_status=True)


@scene
async def what_is_sent_fails(server: Server, throttle: Throttle) -> None:
    async def upload() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("no more of it")

    async with session(throttle) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.post(server.url + "/never", data=upload())


@scene
async def learning_fails(server: Server, throttle: Throttle) -> None:
    def judge(status: int, headers: Any) -> bool:
        raise LookupError("I cannot judge")

    async with session(throttle, learn=Learner(judge=judge)) as client:
        with pytest.raises(LookupError, match="I cannot judge"):
            await client.get(server.url + "/slow")
        assert throttle.active == 0
        connector: Any = client.connector
        assert not connector._acquired, "or the connection would leak"


@pytest.mark.parametrize("name", SCENES)
async def test_the_slot_is_there_again(name: str) -> None:
    throttle = Throttle(1_000, 1, period=1e9)
    async with serving() as server:
        await SCENES[name](server, throttle)
    gc.collect()
    await until(lambda: throttle.active == 0)
    assert throttle.waiting == 0
    await throttle.acquire(timeout=0)


# ---------------------------------------------------------------------------- limits and requests


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as found:
        yield found


async def get(client: aiohttp.ClientSession, url: str, **how: Any) -> int:
    async with client.get(url, **how) as answer:
        await answer.read()
        return answer.status


async def test_a_refusal_holds_everybody_and_is_handed_on_unrepeated(server: Server) -> None:
    throttle = Throttle(100, 5)
    async with session(throttle) as client:
        assert await get(client, server.url + "/429?retry-after=600") == 429
    assert len(server.requests) == 1
    assert throttle.paused_for > 590
    other = Throttle(100, 5)
    async with session(other, learn=False) as client:
        assert await get(client, server.url + "/429?retry-after=600") == 429
    assert other.paused_for == 0


async def test_of_the_total_a_request_is_refused_early_where_it_tells_its_timeout(
    server: Server,
) -> None:
    """As aiohttp 3.15 does: its requests have an attribute `timeout`."""
    throttle = Throttle(1, period=1e6)

    async def tells(request: Any, handler: Any) -> Any:
        request.timeout = SimpleNamespace(total=totals.pop())
        return await handler(request)

    totals: list[float | None] = [0, None, 600.0]
    async with aiohttp.ClientSession(middlewares=[tells, throttled(throttle)]) as client:
        await get(client, server.url)
        totals.append(600.0)
        with pytest.raises(ThrottleTimeout) as refusal:
            await get(client, server.url)
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after > 1e5
        for _ in range(2):  # None and 0 are no timeout for aiohttp
            asked = asyncio.create_task(get(client, server.url))
            await others_run()
            assert throttle.waiting == 1
            asked.cancel()
            await asyncio.wait([asked])
    async with aiohttp.ClientSession(
        middlewares=[tells, throttled(throttle, timeout=10)]
    ) as client:
        totals.append(1e9)
        with pytest.raises(ThrottleTimeout):
            await get(client, server.url)
    assert len(server.requests) == 1


async def test_each_host_has_a_limit_of_its_own(server: Server) -> None:
    hosts = Throttles[str, Throttle](lambda host: Throttle(10, period=1e9, name=host))
    async with session(hosts) as client:
        await get(client, f"http://127.0.0.1:{server.port}/")
        await get(client, f"http://localhost:{server.port}/")
        await get(client, server.url)
    assert {host: round(hosts[host].level) for host in hosts} == {"127.0.0.1": 8, "localhost": 9}


async def test_weights_may_depend_on_the_request(server: Server) -> None:
    limits = LimitSet(requests=Throttle(10, period=1e9), tokens=Throttle(900, period=1e9))

    def weight(request: aiohttp.ClientRequest) -> dict[str, float]:
        return {"tokens": float(request.headers["content-length"])}

    async with session(limits, weight=weight) as client:
        answer = await client.post(server.url, data=b"x" * 300)
        await answer.read()
    assert {name: round(left) for name, left in limits.level.items()} == {
        "requests": 9,
        "tokens": 600,
    }


@pytest.mark.parametrize("path", ["/200", "/slow"])
async def test_what_a_request_took_is_settled_once_that_is_known(server: Server, path: str) -> None:
    throttle = Throttle(900, period=1e9)
    async with session(throttle, weight=500) as client:
        async with client.get(server.url + path) as answer:
            server.go_on.set()
            await answer.read()
        lease = lease_of(answer)
        assert isinstance(lease, Lease)
        lease.settle(300)
    assert round(throttle.level) == 600


async def test_of_a_pool_the_account_that_was_refused_is_paused_and_its_key_stays_with_it(
    server: Server,
) -> None:
    pool = LimitPool(
        [
            LimitSet(requests=Throttle(100), config={"headers": {"x-api-key": key}})
            for key in ("one", "two")
        ]
    )
    with pytest.raises(ValueError, match="origins must be given where config has headers"):
        throttled(pool)
    async with session(pool, origins=[server.url]) as client:
        mine = {"X-Api-Key": "mine"}
        async with client.get(server.url + "/429?retry-after=600", headers=mine) as answer:
            assert answer.request_info.headers["x-api-key"] == "mine", "what is shown"
        await get(client, server.url + "/200", headers=mine)
        await get(client, server.url + "/200")
        await get(client, f"http://localhost:{server.port}/200", headers=mine)
        there = f"http://localhost:{server.port}/200"
        await get(client, server.url + "/moved", headers=mine, params={"to": there})
    folded = [{name.lower(): value for name, value in sent.items()} for sent in server.headers]
    sent = [headers.get("x-api-key") for headers in folded]
    assert sent == ["one", "two", None, "mine", "two", "mine"]
    paused = [each.paused_for or each["requests"].paused_for for each in pool]
    assert [left > 0 for left in paused] == [True, False]


@pytest.mark.parametrize(
    ("path", "timeout", "lingers"),
    [("/never", {"sock_read": 0.05}, 1), ("/never", {"total": 0.05}, 1), (None, {}, 0)],
)
async def test_what_may_have_been_sent_lingers_and_else_the_call_has_ended(
    server: Server, path: str | None, timeout: dict[str, float], lingers: int
) -> None:
    throttle = Throttle(10, 5, period=1e6, counts="end", linger=1e5)
    url = "http://127.0.0.1:1/" if path is None else server.url + path
    async with session(throttle) as client:
        with pytest.raises((TimeoutError, aiohttp.ClientConnectorError)):
            await get(client, url, timeout=aiohttp.ClientTimeout(**timeout))
    statistics = throttle.statistics()
    assert (statistics.in_flight, statistics.lingering, throttle.active) == (lingers, lingers, 0)


async def test_who_cannot_connect_in_time_has_sent_nothing(server: Server) -> None:
    """`ConnectionTimeoutError` is a TimeoutError, and yet the call has ended."""
    throttle = Throttle(10, 5, period=1e6, counts="end", linger=1e5)
    connector = aiohttp.TCPConnector(limit=1)
    timeout = aiohttp.ClientTimeout(connect=0.05)
    async with (
        aiohttp.ClientSession(
            connector=connector, middlewares=[throttled(throttle)], timeout=timeout
        ) as client,
        client.get(server.url + "/slow"),
    ):
        assert throttle.statistics().in_flight == 0, "it ended at the headers"
        assert throttle.active == 1
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await client.get(server.url)
        statistics = throttle.statistics()
        assert (statistics.in_flight, statistics.lingering) == (0, 0)


async def test_a_task_is_warned_that_waits_for_its_own_slot(server: Server) -> None:
    throttle = Throttle(1_000, 1)
    async with session(throttle) as client, client.get(server.url + "/slow"):
        with pytest.raises(RuntimeWarning, match="holds one itself"):
            await client.get(server.url)
        with warnings.catch_warnings():  # once
            warnings.simplefilter("error")
            again = asyncio.ensure_future(client.get(server.url))
            await others_run()
            assert throttle.waiting == 1
            again.cancel()
            await asyncio.wait([again])


async def test_limits_for_threads_serve_a_loop(server: Server) -> None:
    throttle = threads.Throttle(1_000, 1)
    async with session(throttle) as client:
        assert await asyncio.gather(*(get(client, server.url) for _ in range(5))) == [200] * 5
    assert throttle.active == 0


async def test_what_learning_needs_comes_in_full(server: Server) -> None:
    """Two lines of one name are two readings, though ``headers[name]`` gives the first alone."""
    seen: list[Any] = []

    class Listens(Learner):
        def answered(self, limiter: Any, lease: Any, status: int, headers: Any, **how: Any) -> Any:
            seen.append((status, headers.getall("server")))
            return super().answered(limiter, lease, status, headers, **how)

    async with session(Throttle(5), learn=Listens()) as client:
        await get(client, server.url + "/200")
    (status, found), *_ = seen
    assert status == 200
    assert found
    assert json.dumps(found[0])


@pytest.mark.parametrize("limits", ["throttle", "to the end", "pool"])
async def test_a_request_may_be_broken_off_wherever_it_waits(server: Server, limits: str) -> None:
    """An explorer: the same request again and again, which ends one wait later each time."""
    makers: dict[str, Callable[[], Any]] = {
        "throttle": lambda: Throttle(1_000, 1),
        "to the end": lambda: Throttle(1_000, 1, counts="end"),
        "pool": lambda: LimitPool([LimitSet(requests=Throttle(1_000), concurrency=1)]),
    }
    server.go_on.set()
    for at in range(1, 60):
        limiter = makers[limits]()
        async with session(limiter) as client:
            first = await limiter.lease()
            asyncio.get_running_loop().call_soon(first.release)  # so that it waits here, too
            waits, status = await broken_off(
                get(client, server.url + "/slow"), at, asyncio.CancelledError
            )
            await limiter.drain()
            assert limiter.try_acquire(), f"at wait {at}"
        if status is not None:
            break
    else:
        pytest.fail("it never came to its end")
    assert status == 200
    assert at >= 4, "the limit, the connection, the headers, and to the end"
    assert waits == at - 1


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"throttle": 5}, TypeError, "throttle must be a Throttle, a set or a pool.*, got 5"),
        ({"key": len}, TypeError, "key must go with Throttles, got <built-in function len>"),
        ({"weight": {"tokens": 5}}, TypeError, "weight must be a number for <.*, got {"),
        ({"learn": None}, TypeError, "learn must be True, False or a Learner, got None"),
        ({"origins": ["a"]}, ValueError, "origins must be like 'https://api.example.com', got 'a'"),
    ],
)
def test_what_makes_no_middleware_is_named(
    given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        throttled(**{"throttle": Throttle(5), **given})
