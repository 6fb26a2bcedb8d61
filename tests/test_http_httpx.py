"""Requests of httpx and httpx2 wait for a limit, and hold a slot as long as their answers are open.

The table of leaks: with one slot, after whatever may happen to a request, the slot is there again.
Each scene says where the slot is held, so that no scene can pass in which it never was.
"""

from __future__ import annotations

import asyncio
import gc
import math
import re
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from http_families import FAMILIES, URL, Family, broken_off

import async_throttle.throttle as throttle_module
from async_throttle import (
    AIMD,
    LimitPool,
    LimitSet,
    Outcome,
    RateLimiter,
    SlidingWindow,
    Throttle,
    Throttles,
    ThrottleTimeout,
    testing,
    threads,
)
from async_throttle.http import Learner, _calls, _transport, lease_of
from async_throttle.http._calls import MOST_OPEN

pytestmark = pytest.mark.parametrize("family", FAMILIES)


def held(limiter: Any) -> int:
    """Slots that are held, once all that is garbage is collected."""
    gc.collect()
    found: int = limiter.active
    return found


# ----------------------------------------------------------------------------- the table of leaks

Scene = Callable[[Family, Throttle], Awaitable[None]]
SCENES: dict[str, Scene] = {}


def scene(found: Scene) -> Scene:
    SCENES[found.__name__] = found
    return found


@scene
async def a_body_is_read(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", 0.1, b"b")) as client:
        asked = asyncio.create_task(client.get(URL))
        await asyncio.sleep(0.05)
        assert throttle.active == 1
        assert (await asked).content == b"ab"
        assert throttle.active == 0


@scene
async def no_connection(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.server(family.error("ConnectError"))) as client:
        with pytest.raises(family.lib.ConnectError):
            await client.get(URL)


@scene
async def no_answer_in_time(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.server(family.error("ReadTimeout"))) as client:
        with pytest.raises(family.lib.ReadTimeout):
            await client.get(URL)


async def cancelled_after(family: Family, throttle: Throttle, seconds: float) -> None:
    server = family.streaming(b"a", 0.1, b"b", after=0.05)
    async with family.client(throttle, server) as client:
        asked = asyncio.create_task(client.get(URL))
        await asyncio.sleep(seconds)
        assert throttle.active == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert throttle.active == 0
        assert len(server.requests) == 1


@scene
async def cancelled_as_soon_as_it_began(family: Family, throttle: Throttle) -> None:
    await cancelled_after(family, throttle, 0)


@scene
async def cancelled_before_the_headers(family: Family, throttle: Throttle) -> None:
    await cancelled_after(family, throttle, 0.01)


@scene
async def cancelled_in_the_body(family: Family, throttle: Throttle) -> None:
    await cancelled_after(family, throttle, 0.1)


@scene
async def cancelled_while_it_waits(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a")) as client, throttle(1):
        asked = asyncio.create_task(client.get(URL))
        await asyncio.sleep(0.1)
        assert throttle.waiting == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert throttle.waiting == 0


@scene
async def the_answer_is_made_from_bytes(family: Family, throttle: Throttle) -> None:
    server = family.lib.MockTransport(lambda request: family.lib.Response(200, json={"a": 1}))
    async with family.client(throttle, server) as client:
        for _ in range(3):
            assert (await client.get(URL)).json() == {"a": 1}
        async with client.stream("GET", URL):
            assert throttle.active == 0


@scene
async def an_application_answers(family: Family, throttle: Throttle) -> None:
    async def app(asked: Any, receive: Any, send: Any) -> None:
        assert throttle.active == 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async with family.client(throttle, family.lib.ASGITransport(app)) as client:
        for _ in range(3):
            assert (await client.get(URL)).text == "hello"


@scene
async def an_application_fails(family: Family, throttle: Throttle) -> None:
    async def app(asked: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such page")

    async with family.client(throttle, family.lib.ASGITransport(app)) as client:
        with pytest.raises(LookupError, match="no such page"):
            await client.get(URL)


@scene
async def a_connection_is_upgraded(family: Family, throttle: Throttle) -> None:
    network = object()
    answer = family.lib.Response(
        101, stream=family.stream(), extensions={"network_stream": network}
    )
    async with (
        family.client(throttle, family.server(answer)) as client,
        client.stream("GET", URL) as found,
    ):
        assert found is answer
        assert found.extensions["network_stream"] is network
        assert throttle.active == 1
        await asyncio.sleep(60)
        assert throttle.active == 1


@scene
async def closed_unread(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        async with client.stream("GET", URL):
            assert throttle.active == 1
        assert throttle.active == 0


@scene
async def the_end_without_a_close(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        assert throttle.active == 1
        assert [chunk async for chunk in answer.stream] == [b"a", b"b"]
        assert throttle.active == 0
        await answer.aclose()


@scene
async def the_body_cannot_be_iterated(family: Family, throttle: Throttle) -> None:
    """The stream refuses where an iteration begins, before it is asked for its first chunk."""

    class Spent(family.lib.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __aiter__(self) -> Any:
            raise family.lib.StreamConsumed

    answer = family.lib.Response(200, stream=Spent())
    async with family.client(throttle, family.server(answer)) as client:
        await client.send(client.build_request("GET", URL), stream=True)
        assert throttle.active == 1
        with pytest.raises(family.lib.StreamConsumed):
            _ = [chunk async for chunk in answer.stream]
        assert throttle.active == 0
        await answer.aclose()


@scene
async def broken_off_and_closed(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        async with client.stream("GET", URL) as answer:
            async for _ in answer.aiter_raw():
                break
        assert throttle.active == 0


@scene
async def broken_off_and_left(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        async for _ in answer.aiter_raw():
            assert throttle.active == 1
            break
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0)  # the loop ends what was broken off
        assert throttle.active == 0, "though the answer is still there"
        await answer.aclose()


@scene
async def the_body_comes_too_late(family: Family, throttle: Throttle) -> None:
    server = family.streaming(b"a", family.error("ReadTimeout"))
    async with family.client(throttle, server) as client:
        with pytest.raises(family.lib.ReadTimeout):
            await client.get(URL)
        answer = await client.send(client.build_request("GET", URL), stream=True)
        with pytest.raises(family.lib.ReadTimeout):
            _ = [chunk async for chunk in answer.stream]
        assert throttle.active == 0, "before it is closed"
        await answer.aclose()


@scene
async def the_body_is_no_gzip(family: Family, throttle: Throttle) -> None:
    server = family.streaming(b"this is no gzip", b"b", headers={"content-encoding": "gzip"})
    async with family.client(throttle, server) as client:
        with pytest.raises(family.lib.DecodingError):
            await client.get(URL)
        gc.collect()


@scene
async def read_again_while_the_first_hangs(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        first = answer.stream.__aiter__()
        assert await anext(first) == b"a"
        assert [chunk async for chunk in answer.stream] == [b"a", b"b"]
        assert throttle.active == 0
        assert await anext(first) == b"b"
        await first.aclose()
        await answer.aclose()


@scene
async def dropped_unread(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        assert held(throttle) == 1
        del answer
        assert held(throttle) == 0


@scene
async def dropped_in_another_thread(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a")) as client:
        answers = [await client.send(client.build_request("GET", URL), stream=True)]
        waiting = asyncio.create_task(client.get(URL))
        await asyncio.sleep(0)
        assert (held(throttle), throttle.waiting) == (1, 1)

        def drop() -> None:
            answers.clear()
            gc.collect()

        other = threading.Thread(target=drop)
        other.start()
        other.join()
        assert throttle.active == 1, "the loop gives the slot back, in its own thread"
        assert (await waiting).content == b"a"


@scene
async def dropped_when_no_loop_runs(family: Family, throttle: Throttle) -> None:
    def drop() -> None:
        async def main() -> list[Any]:
            client = family.client(throttle, family.streaming(b"a"))
            return [await client.send(client.build_request("GET", URL), stream=True)]

        answers = testing.run(main())
        assert held(throttle) == 1
        answers.clear()
        assert held(throttle) == 0

    await asyncio.to_thread(drop)


@scene
async def closed_by_another_task(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        assert throttle.active == 1
        await asyncio.create_task(answer.aclose())
        assert throttle.active == 0


@scene
async def the_client_is_closed_first(family: Family, throttle: Throttle) -> None:
    client = family.client(throttle, family.streaming(b"a", b"b"))
    answer = await client.send(client.build_request("GET", URL), stream=True)
    assert throttle.active == 1
    await client.aclose()
    assert throttle.active == 0, "though the answer is open"
    await answer.aclose()
    async with family.client(throttle, family.streaming(b"a", b"b")) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
    assert throttle.active == 0
    await answer.aclose()


@scene
async def closing_fails(family: Family, throttle: Throttle) -> None:
    server = family.streaming(b"a", fails=family.error("CloseError"))
    async with family.client(throttle, server) as client:
        with pytest.raises(family.lib.CloseError):
            await client.get(URL)


@scene
async def cancelled_while_it_is_closed(family: Family, throttle: Throttle) -> None:
    async with family.client(throttle, family.streaming(b"a", closing=5)) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        closing = asyncio.create_task(answer.aclose())
        await asyncio.sleep(1)
        assert throttle.active == 1
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert throttle.active == 0


@scene
async def no_body_at_all(family: Family, throttle: Throttle) -> None:
    for status, method in ((200, "HEAD"), (204, "GET"), (304, "GET")):
        async with family.client(throttle, family.streaming(status=status)) as client:
            assert (await client.request(method, URL)).status_code == status
            assert throttle.active == 0


@scene
async def redirected(family: Family, throttle: Throttle) -> None:
    moved = family.lib.Response(
        302, headers={"location": "https://other.example.com"}, stream=family.stream(b"moved")
    )
    server = family.server(moved, family.lib.Response(200, stream=family.stream(b"here")))
    async with family.client(throttle, server) as client:
        assert (await client.get(URL, follow_redirects=True)).text == "here"
        assert throttle.level == 998, "each hop is a request"


@scene
async def a_round_of_authentication(family: Family, throttle: Throttle) -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
    refused = family.lib.Response(
        401, headers={"www-authenticate": challenge}, stream=family.stream(b"who are you?")
    )
    server = family.server(refused, family.lib.Response(200, stream=family.stream(b"welcome")))
    async with family.client(throttle, server) as client:
        answer = await client.get(URL, auth=family.lib.DigestAuth("me", "secret"))
        assert (answer.text, throttle.level) == ("welcome", 998)


@scene
async def what_is_sent_fails(family: Family, throttle: Throttle) -> None:
    async def upload() -> Any:
        yield b"a"
        raise LookupError("no more of it")

    server = family.lib.MockTransport(lambda request: family.lib.Response(200))
    async with family.client(throttle, server) as client:
        with pytest.raises(LookupError, match="no more of it"):
            await client.post(URL, content=upload())


@scene
async def learning_fails(family: Family, throttle: Throttle) -> None:
    def judge(status: int, headers: Any) -> bool:
        raise LookupError("I cannot judge")

    answer = family.lib.Response(200, stream=family.stream(b"a"))
    client = family.client(throttle, family.server(answer), learn=Learner(judge=judge))
    async with client:
        with pytest.raises(LookupError, match="I cannot judge"):
            await client.get(URL)
        assert answer.is_closed, "or the connection would leak"


@pytest.mark.parametrize("name", SCENES)
async def test_the_slot_is_there_again(family: Family, name: str) -> None:
    throttle = Throttle(1_000, 1, period=1e9)
    await SCENES[name](family, throttle)
    gc.collect()
    await asyncio.sleep(0)
    assert (throttle.active, throttle.waiting) == (0, 0)
    await throttle.acquire(timeout=0)


SYNC_SCENES: dict[str, Callable[[Family, threads.Throttle], None]] = {}


def sync_scene(
    found: Callable[[Family, threads.Throttle], None],
) -> Callable[[Family, threads.Throttle], None]:
    SYNC_SCENES[found.__name__] = found
    return found


@sync_scene
def reads(family: Family, throttle: threads.Throttle) -> None:
    with family.sync_client(throttle, family.streaming(b"a", b"b")) as client:
        assert client.get(URL).content == b"ab"
        with client.stream("GET", URL) as answer:
            assert throttle.active == 1
            assert list(answer.iter_raw()) == [b"a", b"b"]
            assert throttle.active == 0


@sync_scene
def is_answered_from_bytes(family: Family, throttle: threads.Throttle) -> None:
    server = family.lib.MockTransport(lambda request: family.lib.Response(200, text="a"))
    with family.sync_client(throttle, server) as client:
        assert [client.get(URL).text for _ in range(3)] == ["a", "a", "a"]


@sync_scene
def asks_an_application(family: Family, throttle: threads.Throttle) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        assert throttle.active == 1
        start("200 OK", [("content-type", "text/plain")])
        return [b"hello"]

    with family.sync_client(throttle, family.lib.WSGITransport(app)) as client:
        assert [client.get(URL).text for _ in range(3)] == ["hello"] * 3


@sync_scene
def fails(family: Family, throttle: threads.Throttle) -> None:
    for name in ("ConnectError", "ConnectTimeout", "ReadTimeout", "PoolTimeout", "ReadError"):
        error = family.error(name)
        with (
            family.sync_client(throttle, family.server(error)) as client,
            pytest.raises(type(error)),
        ):
            client.get(URL)


@sync_scene
def fails_in_the_body(family: Family, throttle: threads.Throttle) -> None:
    server = family.streaming(b"a", family.error("ReadTimeout"))
    with family.sync_client(throttle, server) as client:
        with pytest.raises(family.lib.ReadTimeout):
            client.get(URL)
        answer = client.send(client.build_request("GET", URL), stream=True)
        with pytest.raises(family.lib.ReadTimeout):
            list(answer.stream)
        assert throttle.active == 0
        answer.close()


@sync_scene
def closes_unread(family: Family, throttle: threads.Throttle) -> None:
    with (
        family.sync_client(throttle, family.streaming(b"a")) as client,
        client.stream("GET", URL),
    ):
        assert throttle.active == 1


@sync_scene
def breaks_off(family: Family, throttle: threads.Throttle) -> None:
    with family.sync_client(throttle, family.streaming(b"a", b"b")) as client:
        answer = client.send(client.build_request("GET", URL), stream=True)
        for _ in answer.iter_raw():
            assert throttle.active == 1
            break
        assert held(throttle) == 0
        answer.close()


@sync_scene
def reads_twice(family: Family, throttle: threads.Throttle) -> None:
    with family.sync_client(throttle, family.streaming(b"a", b"b")) as client:
        answer = client.send(client.build_request("GET", URL), stream=True)
        first = iter(answer.stream)
        assert next(first) == b"a"
        assert list(answer.stream) == [b"a", b"b"]
        assert throttle.active == 0
        answer.close()


@sync_scene
def drops(family: Family, throttle: threads.Throttle) -> None:
    with family.sync_client(throttle, family.streaming(b"a")) as client:
        answer = client.send(client.build_request("GET", URL), stream=True)
        assert held(throttle) == 1
        del answer
        assert held(throttle) == 0


@sync_scene
def drops_in_another_thread(family: Family, throttle: threads.Throttle) -> None:
    with family.sync_client(throttle, family.streaming(b"a")) as client:
        answers = [client.send(client.build_request("GET", URL), stream=True)]
        found: list[bytes] = []
        asking = threading.Thread(target=lambda: found.append(client.get(URL).content))
        asking.start()
        while throttle.waiting == 0:
            time.sleep(0.001)

        def drop() -> None:
            answers.clear()
            gc.collect()

        dropping = threading.Thread(target=drop)
        dropping.start()
        asking.join()
        dropping.join()
        assert found == [b"a"]


@sync_scene
def closes_the_client_first(family: Family, throttle: threads.Throttle) -> None:
    client = family.sync_client(throttle, family.streaming(b"a"))
    answer = client.send(client.build_request("GET", URL), stream=True)
    assert throttle.active == 1
    client.close()
    assert throttle.active == 0
    answer.close()
    with family.sync_client(throttle, family.streaming(b"a")) as client:
        answer = client.send(client.build_request("GET", URL), stream=True)
    assert throttle.active == 0
    answer.close()


@sync_scene
def fails_to_close(family: Family, throttle: threads.Throttle) -> None:
    server = family.streaming(b"a", fails=family.error("CloseError"))
    with family.sync_client(throttle, server) as client, pytest.raises(family.lib.CloseError):
        client.get(URL)


@sync_scene
def fails_to_learn(family: Family, throttle: threads.Throttle) -> None:
    def judge(status: int, headers: Any) -> bool:
        raise LookupError("I cannot judge")

    answer = family.lib.Response(200, stream=family.stream(b"a"))
    client = family.sync_client(throttle, family.server(answer), learn=Learner(judge=judge))
    with client, pytest.raises(LookupError, match="I cannot judge"):
        client.get(URL)
    assert answer.is_closed


@pytest.mark.parametrize("name", SYNC_SCENES)
def test_the_slot_is_there_again_when_a_thread(family: Family, name: str) -> None:
    throttle = threads.Throttle(1_000, 1, period=1e9)
    SYNC_SCENES[name](family, throttle)
    assert (held(throttle), throttle.waiting) == (0, 0)
    throttle.acquire(timeout=0)


def at_instruction(moment: int, call: Callable[[], object], what: Callable[[], object]) -> bool:
    """Whether *what* came in at instruction *moment* of what *call* does in our modules."""
    left = moment

    def count(frame: Any, event: str, arg: object) -> Any:
        nonlocal left
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                what()
        return count

    def begin(frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        frame.f_trace = count  # 3.13 wants it before the next line
        frame.f_trace_opcodes = True
        return count

    # 3.12 tells of instructions only where a frame had asked for them before.
    sys._getframe().f_trace_opcodes = True
    before = sys.gettrace()
    try:
        sys.settrace(begin)
        call()
    finally:
        sys.settrace(before)
    return left < 0


TRACED = {_calls.__file__, _transport.__file__, throttle_module.__file__}


def test_a_thread_that_is_interrupted_as_it_gives_its_slot_back_loses_none(family: Family) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    throttle = threads.Throttle(1e6, 1)
    moment = 0
    with family.sync_client(throttle, family.streaming(b"a")) as client:
        while True:
            answer = client.send(client.build_request("GET", URL), stream=True)
            try:
                came_in = at_instruction(moment, answer.close, interrupt)
            except KeyboardInterrupt:
                came_in = True
            del answer
            gc.collect()
            assert throttle.active == 0, f"the slot is lost at instruction {moment}"
            if not came_in:
                break
            moment += 1
    assert moment > 20


def test_two_threads_that_give_back_one_slot_tell_one_outcome(family: Family) -> None:
    outcomes: list[Outcome] = []

    class Law(AIMD):
        def sample(
            self, now: int, began: int, in_flight: int, weight: float, outcome: Outcome
        ) -> None:
            outcomes.append(outcome)

    throttle = threads.Throttle(1e6, 2, adapt=Law(maximum=2))
    moment = 0
    with family.sync_client(throttle, family.streaming(b"a"), learn=False) as client:
        while True:
            answer = client.send(client.build_request("GET", URL), stream=True)
            calls, (lease,) = client._transport._calls, client._transport._calls.open
            outcomes.clear()
            came_in = at_instruction(moment, answer.close, partial(calls.release, lease))
            assert (throttle.active, outcomes) == (0, [Outcome.OK]), moment
            if not came_in:
                break
            moment += 1
    assert moment > 20


@pytest.mark.parametrize("limits", ["throttle", "to the end", "set", "pool", "threads"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
async def test_a_request_may_be_broken_off_wherever_it_waits(
    family: Family, limits: str, error: type[BaseException]
) -> None:
    """An explorer: the same request again and again, which ends one wait later each time."""
    makers: dict[str, Callable[[], Any]] = {
        "throttle": lambda: Throttle(1_000, 1),
        "to the end": lambda: Throttle(1_000, 1, counts="end"),
        "set": lambda: LimitSet(requests=Throttle(1_000), concurrency=1),
        "pool": lambda: LimitPool([LimitSet(requests=Throttle(1_000), concurrency=1)]),
        "threads": lambda: threads.Throttle(1_000, 1),
    }
    ends: list[int] = []
    for at in range(1, 30):
        limiter = makers[limits]()
        server = family.streaming(b"a", 0.0, b"b", 0.0, closing=0.1, after=0.0)
        async with family.client(limiter, server) as client:
            if limits == "threads":
                first = await limiter.lease_async()
            else:
                first = await limiter.lease()
            asyncio.get_running_loop().call_later(1, first.release)  # so that it waits here, too
            try:
                waits, answer = await broken_off(client.get(URL), at, error)
            except KeyboardInterrupt:
                waits, answer = at, None
            ends.append(waits)
            await asyncio.sleep(2)
            gc.collect()
            await limiter.drain_async() if limits == "threads" else await limiter.drain()
            assert limiter.try_acquire(), f"at wait {at}"
            if answer is not None:
                assert answer.content == b"ab"
                break
    else:
        pytest.fail("it never came to its end")
    assert len(ends) >= 6, "the limit, the server, two chunks, the close, and to the end"
    assert ends[-1] == len(ends) - 1, "each wait was broken off once"


# ---------------------------------------------------------------------------- limits and requests


def answers(family: Family, *statuses: int, **headers: str) -> Any:
    """A server that gives answers of these *statuses* in turn, made from bytes."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}

    def answering(status: int) -> Callable[[Any], Any]:
        return lambda request: family.lib.Response(status, headers=told if status != 200 else {})

    return family.server(*map(answering, statuses))


async def test_requests_wait_for_the_rate_and_each_hop_is_one(family: Family) -> None:
    loop = asyncio.get_running_loop()
    went: list[float] = []

    def answer(request: Any) -> Any:
        went.append(loop.time())
        if request.url.path == "/there":
            return family.lib.Response(200)
        return family.lib.Response(307, headers={"location": "/there"})

    async with family.client(Throttle(1, burst=1), family.server(answer)) as client:
        await client.get(URL, follow_redirects=True)
        await client.get("https://example.com/there")
    assert went == [0, 1, 2]


async def test_a_refusal_holds_everybody_and_is_handed_on_unrepeated(family: Family) -> None:
    loop = asyncio.get_running_loop()
    server = answers(family, 429, 200, retry_after="7")
    async with family.client(Throttle(100, 5), server) as client:
        assert (await client.get(URL)).status_code == 429
        assert len(server.requests) == 1
        await asyncio.gather(*(client.get(URL) for _ in range(3)))
        assert 7 <= loop.time() <= 8.1, "whole seconds may have been rounded down"
        assert len(server.requests) == 4


async def test_a_judge_sees_the_headers_as_the_client_has_them(family: Family) -> None:
    throttle = Throttle(1_000)
    server = family.streaming(b"a", headers={"X-Throttled": "Yes"})
    judge = Learner(judge=lambda status, headers: headers.get("x-throttled") == "Yes")
    async with family.client(throttle, server, learn=judge) as client:
        await client.get(URL)
    assert throttle.paused_for > 0


async def test_without_learning_answers_mean_nothing(family: Family) -> None:
    throttle = Throttle(100, 5)
    async with family.client(throttle, answers(family, 503), learn=False) as client:
        assert (await client.get(URL)).status_code == 503
    assert throttle.paused_for == 0


@pytest.mark.parametrize("confirmed", [False, True], ids=["stored", "confirmed"])
@pytest.mark.parametrize("version", [0, 1, 2])
async def test_an_answer_from_a_cache_says_nothing_of_now_unless_the_server_has_confirmed_it(
    family: Family, version: int, confirmed: bool
) -> None:
    said = {"from_cache": True, "revalidated": confirmed}
    of_hishel: list[dict[str, Any]] = [
        said,
        {f"hishel_{name}": value for name, value in said.items()},
        {"caching": said},
    ]
    throttle = Throttle(100, 5)
    old = family.lib.Response(429, headers={"retry-after": "7"}, extensions=of_hishel[version])
    async with family.client(throttle, family.server(old)) as client:
        await client.get(URL)
    assert throttle.paused_for == (8 if confirmed else 0), "confirmed, it has the headers of now"


@pytest.mark.parametrize(
    "extensions",
    [
        {"from_cache": False, "revalidated": False},
        {"hishel_from_cache": False, "hishel_revalidated": False},
        {"caching": {"from_cache": False, "revalidated": False, "stored": True}},
        {"caching": "of something else"},
    ],
    ids=["hishel 0", "hishel 1", "hishel 2", "another"],
)
async def test_an_answer_that_a_cache_has_fetched_is_of_now(
    family: Family, extensions: dict[str, Any]
) -> None:
    throttle = Throttle(100, 5)
    new = family.lib.Response(429, headers={"retry-after": "7"}, extensions=extensions)
    async with family.client(throttle, family.server(new)) as client:
        await client.get(URL)
    assert throttle.paused_for == 8


async def test_a_refusal_of_ours_comes_unchanged_and_nothing_is_sent(family: Family) -> None:
    server = answers(family, 200)
    throttle = Throttle(1, period=60)
    async with family.client(throttle, server, timeout=5) as client:
        await client.get(URL)
        with pytest.raises(ThrottleTimeout) as refusal:
            await client.get(URL)
    assert refusal.value.retry_after == pytest.approx(60, abs=1)
    assert len(server.requests) == 1
    assert asyncio.get_running_loop().time() == 0, "it was known at once"


async def test_weights_timeouts_and_priorities_may_depend_on_the_request(family: Family) -> None:
    server = answers(family, 200)
    throttle = Throttle(100, period=1e9)
    went: list[str] = []
    async with family.client(
        throttle,
        server,
        weight=lambda request: len(request.content),
        timeout=lambda request: float(request.headers["patience"]),
        priority=lambda request: int(request.headers["rank"]),
    ) as client:

        async def post(size: int, patience: str = "inf", rank: str = "0") -> None:
            headers = {"patience": patience, "rank": rank}
            await client.post(URL, content=b"x" * size, headers=headers)
            went.append(rank)

        await post(90)
        assert throttle.level == pytest.approx(10)
        with pytest.raises(ThrottleTimeout):
            await post(11, "3")
        waiting = [asyncio.create_task(post(20, rank=rank)) for rank in ("2", "1", "3")]
        await asyncio.sleep(0)
        throttle.capacity = 1e11
        await asyncio.gather(*waiting)
    assert went == ["0", "1", "2", "3"] or went == ["0", "2", "1", "3"]


async def test_a_set_takes_weights_by_limit(family: Family) -> None:
    limits = LimitSet(
        requests=Throttle(10, period=1e9), tokens=Throttle(900, period=1e9), concurrency=2
    )
    server = answers(family, 200)
    async with family.client(limits, server, weight=lambda _: {"tokens": 300}) as client:
        await client.get(URL)
    async with family.client(limits, server, weight={"tokens": 100, "requests": 0}) as client:
        await client.get(URL)
    async with family.client(limits, server) as client:
        await client.get(URL)
    level = {name: round(left) for name, left in limits.level.items() if left < 1e9}
    assert level == {"requests": 8, "tokens": 499}


@pytest.mark.parametrize("chunks", [(), (b'{"tokens": 300}',)], ids=["bytes", "stream"])
async def test_what_a_request_took_is_settled_once_that_is_known(
    family: Family, chunks: tuple[bytes, ...]
) -> None:
    limits = LimitSet(requests=Throttle(10, period=1e9), tokens=Throttle(900, period=1e9))
    server = family.streaming(*chunks) if chunks else answers(family, 200)
    async with family.client(limits, server, weight={"tokens": 500}) as client:
        answer = await client.get(URL)
        assert round(limits["tokens"].level) == 400
        lease = lease_of(answer)
        assert lease is not None
        lease.settle(tokens=300)
    assert {name: round(left) for name, left in limits.level.items()} == {
        "requests": 9,
        "tokens": 600,
    }
    assert lease_of(family.lib.Response(200)) is None
    assert lease_of(object()) is None


async def test_each_host_has_a_limit_of_its_own(family: Family) -> None:
    loop = asyncio.get_running_loop()
    hosts = Throttles[str, Throttle](lambda host: Throttle(1, burst=1, name=host))
    server = answers(family, 200)
    async with family.client(hosts, server) as client:
        for host in ("a", "b", "a", "B"):
            await client.get(f"https://{host}.example.com/")
    assert loop.time() == 1
    assert set(hosts) == {"a.example.com", "b.example.com"}
    by_path = Throttles(lambda path: Throttle(1, burst=1))
    async with family.client(by_path, server, key=lambda request: request.url.path) as client:
        await client.get("https://a.example.com/1")
        await client.get("https://b.example.com/2")
    assert set(by_path) == {"/1", "/2"}


async def test_hosts_are_forgotten_though_they_were_paused_and_their_limits_were_learnt(
    family: Family,
) -> None:
    hosts = Throttles[str, Throttle](
        lambda host: Throttle(10, 5, period=60, algorithm=SlidingWindow)
    )
    policy = {"ratelimit-policy": '"a";q=3;w=60', "ratelimit": '"a";r=1;t=60'}
    server = family.server(
        lambda request: family.lib.Response(
            429 if request.url.host.startswith("busy") else 200, headers=policy
        )
    )
    learner = Learner(adopt=True)
    async with family.client(hosts, server, learn=learner) as client:
        for n in range(50):
            await client.get(f"https://busy{n}.example.com/")
            await client.get(f"https://calm{n}.example.com/")
        assert {hosts[host].capacity for host in hosts} == {3}
        assert hosts["busy0.example.com"].paused_for > 0
        assert round(hosts["calm0.example.com"].level) == 1
        seen = {*hosts}
        assert len(seen) == 100
        await asyncio.sleep(600)
        gc.collect()  # a response of httpx is a cycle, and has the lease of its request
        for n in range(60):
            hosts[f"new{n}"]
        assert not seen & {*hosts}


async def test_limits_are_gone_with_the_transport_that_had_them(family: Family) -> None:
    sets = [LimitSet(requests=Throttle(1)) for _ in range(2)]
    limiters: list[Any] = [Throttle(1), sets.pop(), LimitPool([sets.pop()])]
    while limiters:
        limiter = limiters.pop()
        transport = family.ours.ThrottledTransport(limiter, family.streaming(b"a"))
        answer = await transport.handle_async_request(family.lib.Request("GET", URL))
        await answer.aread()
        gone = weakref.ref(limiter)
        gc.collect()
        gc.disable()
        try:
            del transport, answer, limiter
            assert gone() is None
        finally:
            gc.enable()


async def test_a_function_may_say_the_limit(family: Family) -> None:
    reads, writes = Throttle(10, period=1e9), RateLimiter(1e-9, burst=10)
    server = answers(family, 200)

    def limit(request: Any) -> Any:
        return {"GET": reads, "POST": writes}.get(request.method)

    async with family.client(limit, server) as client:
        await client.get(URL)
        await client.post(URL)
        assert (round(reads.level), round(writes.level)) == (9, 9)
        with pytest.raises(TypeError, match=r"throttle must return .*, got None for <Request"):
            await client.delete(URL)
    assert len(server.requests) == 2


async def test_of_a_pool_the_account_that_was_refused_is_paused_and_the_next_try_goes_elsewhere(
    family: Family,
) -> None:
    one, two = (LimitSet(requests=Throttle(100), config={"name": n}) for n in (1, 2))
    pool = LimitPool([one, two])
    server = answers(family, 429, 200, retry_after="30")
    async with family.client(pool, server) as client:
        assert (await client.get(URL)).status_code == 429
        paused = [each.paused_for or each["requests"].paused_for for each in pool]
        assert paused[0] >= 30
        assert paused[1] == 0
        assert (await client.get(URL)).status_code == 200
    assert asyncio.get_running_loop().time() == 0
    assert [round(each.level["requests"]) for each in pool][1] == 99


# ------------------------------------------------------------------------------ keys of accounts

ACCOUNTS = ("Bearer one", "Bearer two")
ORIGINS = ["https://api.example.com"]


def accounts(name: str = "authorization") -> LimitPool[Any]:
    return LimitPool(
        [LimitSet(requests=Throttle(100), config={"headers": {name: key}}) for key in ACCOUNTS],
        "RoundRobin",
    )


async def test_a_request_carries_the_key_of_the_account_that_granted_it(family: Family) -> None:
    server = answers(family, 200)
    mine = {"Authorization": "Bearer mine", "x-other": "stays"}
    async with family.client(accounts(), server, origins=ORIGINS) as client:
        for _ in range(3):
            answer = await client.get(URL, headers=mine)
            assert answer.request.headers["authorization"] == "Bearer mine", "what is shown"
        await client.get(URL)
        assert (await client.post(URL, headers=mine, json=[1])).request.content == b"[1]"
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Bearer one", "Bearer two", "Bearer one", None, "Bearer one"]
    assert {request.headers.get("x-other") for request in server.requests} == {"stays", None}
    assert await server.requests[-1].aread() == b"[1]"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "https://api.example.com:8443/v1",
        "https://api.example.com.evil.example/v1",
        "https://evil.example/v1",
    ],
)
async def test_a_key_goes_to_its_origins_alone(family: Family, url: str) -> None:
    server = answers(family, 200)
    async with family.client(accounts("x-api-key"), server, origins=ORIGINS) as client:
        await client.get(url, headers={"x-api-key": "mine"})
        await client.get("https://API.example.com:443/v1", headers={"x-api-key": "mine"})
    sent = [request.headers["x-api-key"] for request in server.requests]
    assert sent == ["mine", "Bearer two"]


@pytest.mark.parametrize("host", ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example"])
async def test_an_origin_may_be_written_in_letters_or_not(family: Family, host: str) -> None:
    server = answers(family, 200)
    pool = accounts("x-api-key")
    async with family.client(pool, server, origins=[f"https://{host}"]) as client:
        await client.get("https://bücher.example/v1", headers={"x-api-key": "mine"})
        await client.get("https://xn--bcher-kva.example/v1", headers={"x-api-key": "mine"})
    sent = [request.headers["x-api-key"] for request in server.requests]
    assert sent == ["Bearer one", "Bearer two"]


async def test_whoever_redirects_does_not_get_the_key(family: Family) -> None:
    moved = family.lib.Response(307, headers={"location": "https://evil.example/"})
    server = family.server(moved, family.lib.Response(200))
    async with family.client(accounts("x-api-key"), server, origins=ORIGINS) as client:
        await client.get(URL, headers={"x-api-key": "mine"}, follow_redirects=True)
    sent = [request.headers["x-api-key"] for request in server.requests]
    assert sent == ["Bearer one", "mine"]


async def test_keys_are_in_no_error_and_no_repr(family: Family) -> None:
    pool = accounts("x-api-key")
    error = family.error("ConnectError")
    async with family.client(pool, family.server(error), origins=ORIGINS) as client:
        with pytest.raises(family.lib.ConnectError) as refusal:
            await client.get(URL, headers={"x-api-key": "mine"})
        shown = repr(client._transport) + repr(pool) + repr(pool[0])
        assert refusal.value.request.headers["x-api-key"] == "mine"
        assert "Bearer" not in shown + repr(refusal.value) + repr(refusal.value.request.headers)


async def test_keys_need_origins(family: Family) -> None:
    with pytest.raises(ValueError, match="origins must be given where config has headers"):
        family.ours.ThrottledTransport(accounts())
    server = answers(family, 200)
    async with family.client(lambda request: accounts(), server) as client:
        with pytest.raises(ValueError, match="origins must be given where config has headers"):
            await client.get(URL)
    assert server.requests == []


@pytest.mark.parametrize(
    "origin",
    [
        "api.example.com",
        "https://",
        "https://a:port",
        "https://a:70000",
        "https://a/path",
        "https://a?b",
        "https://me@a",
        "ftp://a",
        "",
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(family: Family, origin: str) -> None:
    with pytest.raises(ValueError, match=r"origins must be like .*, got "):
        family.ours.ThrottledTransport(accounts(), origins=[origin])


# ----------------------------------------------------------------------------- counting to the end


async def test_a_call_ends_at_the_headers_and_its_slot_is_held_for_the_body(family: Family) -> None:
    throttle = Throttle(10, 5, period=1, counts="end")
    async with family.client(throttle, family.streaming(b"a", after=0.5)) as client:
        async with client.stream("GET", URL):
            assert (throttle.active, throttle.statistics().in_flight) == (1, 0)
        assert throttle.active == 0


@pytest.mark.parametrize(
    ("name", "lingers"),
    [
        ("ConnectTimeout", False),
        ("PoolTimeout", False),
        ("ConnectError", False),
        ("UnsupportedProtocol", False),
        ("RemoteProtocolError", False),
        ("ReadTimeout", True),
        ("WriteTimeout", True),
    ],
)
@pytest.mark.parametrize("learn", [True, False])
async def test_what_may_have_been_sent_lingers_and_else_the_call_has_ended(
    family: Family, name: str, lingers: bool, learn: bool
) -> None:
    for throttle in (
        Throttle(10, 5, period=10, counts="end", linger=5),
        threads.Throttle(10, 5, period=10, counts="end", linger=5),
    ):
        error = family.error(name)
        client = (
            family.client(throttle, family.server(error), learn=learn)
            if isinstance(throttle, Throttle)
            else family.sync_client(throttle, family.server(error), learn=learn)
        )
        with pytest.raises(type(error)) as raised:
            await client.get(URL) if isinstance(throttle, Throttle) else client.get(URL)
        assert raised.value is error
        statistics = throttle.statistics()
        assert (statistics.in_flight, statistics.lingering) == (lingers, lingers)
        assert throttle.active == 0
        await client.aclose() if isinstance(throttle, Throttle) else client.close()


async def test_a_request_that_is_cancelled_before_the_headers_lingers(family: Family) -> None:
    throttle = Throttle(10, 5, period=10, counts="end", linger=5)
    async with family.client(throttle, family.streaming(b"a", after=1)) as client:
        asked = asyncio.create_task(client.get(URL))
        await asyncio.sleep(0.5)
        asked.cancel()
        await asyncio.wait([asked])
    assert throttle.statistics().lingering == 1


# --------------------------------------------------------------------- a slot that it holds itself


async def test_a_task_is_warned_once_that_waits_for_its_own_slot(family: Family) -> None:
    throttle = Throttle(1_000, 1)
    async with family.client(throttle, family.streaming(b"a")) as client:

        async def retries(times: int) -> None:
            for _ in range(times):  # as a retry layer does that keeps what it tries again
                kept.append(await client.send(client.build_request("GET", URL), stream=True))

        kept: list[Any] = []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            asked = asyncio.create_task(retries(3))
            for n in range(3):
                await asyncio.sleep(1)
                assert len(kept) == n + 1
                await kept[n].aclose()
            await asked
        (warning,) = told
        assert warning.category is RuntimeWarning
        assert "waits for a slot of <async_throttle.Throttle" in str(warning.message)
        assert "holds one itself" in str(warning.message)


async def test_where_warnings_are_errors_such_a_request_is_refused(family: Family) -> None:
    for limiter in (
        Throttle(1_000, 1),
        LimitSet(requests=Throttle(1_000), concurrency=1),
        LimitPool([LimitSet(Throttle(1_000, 1))]),
    ):
        async with family.client(limiter, family.streaming(b"a")) as client:
            async with client.stream("GET", URL):
                with pytest.raises(RuntimeWarning):
                    await client.get(URL)
            assert (await client.get(URL)).content == b"a"


async def test_nobody_is_warned_who_waits_for_others_or_for_time(family: Family) -> None:
    hosts = Throttles(lambda host: Throttle(1, 1, burst=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with family.client(hosts, family.streaming(b"a")) as client:

            async def hold(host: str) -> None:
                async with client.stream("GET", f"https://{host}/"):
                    await asyncio.sleep(5)

            other = asyncio.create_task(hold("b"))
            await asyncio.sleep(0)
            async with client.stream("GET", "https://a/"):
                await client.get("https://b/")  # full, by another task
                await client.get("https://c/")
                await client.get("https://c/")  # waits for time
            await other
        two = Throttle(1, 2, burst=1)
        async with (
            family.client(two, family.streaming(b"a")) as client,
            client.stream("GET", URL),
        ):
            await client.get(URL)  # there is another slot


async def test_of_many_open_answers_none_is_looked_for(family: Family) -> None:
    """A request that waits costs the same, however many answers are open."""
    for others, warned in ((MOST_OPEN - 1, True), (MOST_OPEN, False)):
        throttle = Throttle(1_000, others + 1)
        async with family.client(throttle, family.streaming(b"a")) as client:

            async def hold(client: Any = client) -> None:
                async with client.stream("GET", URL):
                    await asyncio.sleep(5)

            tasks = [asyncio.create_task(hold()) for _ in range(others)]
            await asyncio.sleep(1)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                async with client.stream("GET", URL):
                    await client.get(URL)
            assert bool(told) is warned
            await asyncio.gather(*tasks)


def test_a_thread_is_warned_too(family: Family) -> None:
    throttle = threads.Throttle(1_000, 1)
    with family.sync_client(throttle, family.streaming(b"a")) as client:
        with client.stream("GET", URL), pytest.raises(RuntimeWarning, match="holds one itself"):
            client.get(URL)
        assert client.get(URL).content == b"a"


# -------------------------------------------------------------------------------------- bad input


async def test_a_transport_of_the_other_family_is_refused_before_anything_is_sent(
    family: Family,
) -> None:
    other = next(each.values[0] for each in FAMILIES if each.values[0].name != family.name)
    theirs = answers(other, 200)
    for kind in (family.ours.ThrottledTransport, family.ours.SyncThrottledTransport):
        throttle = Throttle(5) if kind is family.ours.ThrottledTransport else threads.Throttle(5)
        advice = f"take ThrottledTransport from async_throttle.http.{other.name}"
        with pytest.raises(TypeError, match=f"transport must be of {family.name}, got .*{advice}"):
            kind(throttle, theirs)
    server = answers(family, 200)
    throttle = Throttle(5)
    wrong = family.ours.ThrottledTransport(throttle, server)
    async with other.lib.AsyncClient(transport=wrong) as client:
        with pytest.raises(TypeError, match=f"for clients of {family.name}, and was asked to send"):
            await client.get(URL)
    sync = threads.Throttle(5)
    with (
        other.lib.Client(transport=family.ours.SyncThrottledTransport(sync, server)) as client,
        pytest.raises(TypeError, match=f"async_throttle.http.{other.name}"),
    ):
        client.get(URL)
    assert server.requests == []
    assert (throttle.level, sync.level) == (5, 5)


async def test_a_transport_of_the_other_kind_of_client_is_refused(family: Family) -> None:
    server = answers(family, 200)
    loops = family.ours.ThrottledTransport(Throttle(5), server)
    blocking = family.ours.SyncThrottledTransport(threads.Throttle(5), server)
    client, sync = family.lib.AsyncClient(transport=blocking), family.lib.Client(transport=loops)
    with pytest.raises(AttributeError, match=r"AsyncClient must be a ThrottledTransport, got <"):
        await client.get(URL)
    with pytest.raises(AttributeError, match=r"Client must be a SyncThrottledTransport, got <"):
        sync.get(URL)
    again = family.lib.Client(transport=loops)
    with (
        pytest.raises(AttributeError, match=r"Client must be a SyncThrottledTransport, got <"),
        again,
    ):
        pass
    with pytest.raises(TypeError, match="transport must have a method handle_async_request"):
        family.ours.ThrottledTransport(Throttle(5), blocking)
    with pytest.raises(TypeError, match="transport must have a method handle_request"):
        family.ours.SyncThrottledTransport(threads.Throttle(5), loops)
    assert server.requests == []
    assert not hasattr(loops, "handle_request"), "by which wrappers tell one kind from the other"
    assert not hasattr(blocking, "handle_async_request")
    with pytest.raises(AttributeError, match=r"^'ThrottledTransport' object has no attribute 'x'$"):
        loops.x  # noqa: B018


async def test_a_transport_need_not_be_of_the_family_s_class(family: Family) -> None:
    class Plain:
        async def handle_async_request(self, request: Any) -> Any:
            return family.lib.Response(200, text="hello")

        async def aclose(self) -> None: ...

    client = family.client(Throttle(5), Plain())
    assert (await client.get(URL)).text == "hello"
    await client.aclose()


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"throttle": 5}, TypeError, r"throttle must be a Throttle, a set or a pool.*, got 5"),
        ({"throttle": Throttle}, TypeError, "throttle must be a Throttle"),
        ({"key": len}, TypeError, "key must go with Throttles, got <built-in function len>"),
        ({"throttle": Throttles(Throttle), "key": 5}, TypeError, "key must be a function"),
        ({"weight": {"tokens": 5}}, TypeError, "weight must be a number for <.*, got {"),
        ({"weight": -1}, ValueError, "weight must be .*, got -1"),
        ({"weight": "5"}, TypeError, "weight must be .*, got '5'"),
        ({"throttle": Throttles(Throttle), "weight": math.nan}, ValueError, "weight .*, got nan"),
        ({"timeout": "5"}, TypeError, "timeout must be a number, got '5'"),
        ({"timeout": math.nan}, ValueError, "timeout must be a number, got nan"),
        ({"throttle": LimitSet(Throttle(5)), "weight": 2}, TypeError, "weight must be a mapping"),
        ({"throttle": LimitSet(Throttle(5)), "weight": {"x": 2}}, ValueError, "x"),
        ({"priority": 0.5}, ValueError, "priority must be .*, got 0.5"),
        ({"learn": "yes"}, TypeError, "learn must be True, False or a Learner, got 'yes'"),
        ({"origins": "https://a"}, TypeError, "origins must be a list of texts, got 'https://a'"),
        ({"origins": [5]}, TypeError, r"origins must be a list of texts, got \[5\]"),
        ({"transport": 5}, TypeError, "transport must have a method handle_async_request, got 5"),
    ],
)
def test_what_makes_no_transport_is_named(
    family: Family, given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        family.ours.ThrottledTransport(**{"throttle": Throttle(5), **given})


@pytest.mark.parametrize(
    "limiter",
    [
        Throttle(5),
        RateLimiter(5),
        LimitSet(Throttle(5)),
        LimitPool([LimitSet(Throttle(5))]),
    ],
)
def test_threads_take_limits_for_threads(family: Family, limiter: Any) -> None:
    with pytest.raises(TypeError, match="throttle must be for threads"):
        family.ours.SyncThrottledTransport(limiter)
    with pytest.raises(TypeError, match="throttle must be for threads"):
        family.sync_client(lambda request: limiter, answers(family, 200)).get(URL)


def test_threads_take_sets_pools_and_tables_as_well(family: Family) -> None:
    api = LimitSet(requests=threads.Throttle(5, period=1e9))
    for limiter in (api, LimitPool([api]), Throttles(lambda host: api)):
        with family.sync_client(limiter, answers(family, 200)) as client:
            client.get(URL)
    assert round(api.level["requests"]) == 2


# ------------------------------------------------------------------------------- around the request


async def test_the_inner_transport_is_opened_and_closed_with_the_client(family: Family) -> None:
    calls: Counter[str] = Counter()

    class Inner(family.lib.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        async def __aenter__(self) -> Any:
            calls["opened"] += 1
            return self

        async def __aexit__(self, *error: object) -> None:
            calls["left"] += 1

        async def aclose(self) -> None:
            calls["closed"] += 1

    async with family.client(Throttle(5), Inner()):
        assert calls == {"opened": 1}
    assert calls == {"opened": 1, "left": 1}
    await family.client(Throttle(5), Inner()).aclose()
    assert calls["closed"] == 1


async def test_no_limit_to_connections_lets_requests_wait_after_they_were_granted(
    family: Family,
) -> None:
    for transport in (
        family.ours.ThrottledTransport(Throttle(5)),
        family.ours.SyncThrottledTransport(threads.Throttle(5)),
    ):
        assert transport._inner._pool._max_connections == sys.maxsize
    assert re.fullmatch(
        rf"<async_throttle\.http\.{family.name}\.SyncThrottledTransport of <async_throttle"
        r"\.Throttle .*> over <.*HTTPTransport object at .*>>",
        repr(transport),
    )


async def test_a_transport_tells_what_learns(family: Family) -> None:
    learner = Learner()
    assert family.ours.ThrottledTransport(Throttle(5), learn=learner).learner is learner
    assert family.ours.ThrottledTransport(Throttle(5), learn=False).learner is None
    ours = family.ours.SyncThrottledTransport(threads.Throttle(5), answers(family, 429))
    with family.lib.Client(transport=ours) as client:
        client.get(URL)
    assert ours.learner.refusals == 1


async def test_the_answer_is_the_one_that_came(family: Family) -> None:
    answer = family.lib.Response(
        200,
        stream=family.stream(b"a"),
        extensions={"http_version": b"HTTP/2", "reason_phrase": b"Fine", "network_stream": 5},
    )
    async with family.client(Throttle(5), family.server(answer)) as client:
        found = await client.get(URL)
    assert found is answer
    assert (found.http_version, found.reason_phrase) == ("HTTP/2", "Fine")


async def test_one_limit_for_threads_and_loops(family: Family) -> None:
    throttle = threads.Throttle(1_000, 1)
    server = family.streaming(b"a")

    def ask() -> None:
        with family.sync_client(throttle, server) as client:
            client.get(URL)

    async with family.client(throttle, server) as client:
        answer = await client.send(client.build_request("GET", URL), stream=True)
        other = threading.Thread(target=ask)
        other.start()
        await answer.aclose()
        other.join()
    assert throttle.active == 0


def test_what_is_broken_off_is_told_to_the_stream_beneath(family: Family) -> None:
    closed: list[str] = []

    class Stream(family.lib.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            try:
                yield b"a"
                yield b"b"
            finally:
                closed.append("at once")

    async def main() -> None:
        answer = family.lib.Response(200, stream=Stream())
        async with family.client(Throttle(5), family.server(answer)) as client:
            found = await client.send(client.build_request("GET", URL), stream=True)
            chunks = found.stream._stream.__aiter__()
            await anext(chunks)
            await chunks.aclose()
            assert closed == ["at once"]
            await found.aclose()

    asyncio.run(main())
