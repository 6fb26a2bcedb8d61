"""Each recipe of `recipes/`, with its library, against a server on 127.0.0.1.

Libraries that live in the test's loop live in its time, so that instants are exact; with the others
it is counted who asks, who waits, and who asks no more.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import LONG, Answer, Server, serving
from support import now

from async_throttle import Throttle, threads
from async_throttle.http.httpx import ThrottledTransport

REFUSED = Answer(429, {"retry-after": "300"})
PAUSED = 301.0
"""Seconds of the pause that follows: whole seconds may be rounded down."""

ROOT = Path(__file__).parent.parent


def recipe(library: str, *, module: str | None = None) -> Any:
    """The recipe for *library*; the test is skipped where that is not installed."""
    pytest.importorskip(module or library)
    return import_module(f"recipes.with_{library}")


async def until(true: Callable[[], object]) -> None:
    """Wait, in real time, for what other threads do."""
    async with asyncio.timeout(LONG):
        while not true():  # noqa: ASYNC110 - no other thread tells
            await asyncio.sleep(0.001)


# ------------------------------------------------------------- requests, niquests, curl_cffi

Get = Callable[[str], Awaitable[int]]
"""Asks for a URL; the status of the answer."""


@asynccontextmanager
async def requests_client() -> AsyncIterator[tuple[threads.Throttle, Get]]:
    found = recipe("requests")
    throttle = threads.Throttle(1_000, 1, period=86_400)
    with import_module("requests").Session() as session:
        session.mount("http://", found.ThrottledAdapter(throttle))

        async def get(url: str) -> int:
            answer = await asyncio.to_thread(session.get, url, timeout=LONG)
            return int(answer.status_code)

        yield throttle, get


@asynccontextmanager
async def niquests_client() -> AsyncIterator[tuple[Throttle, Get]]:
    found = recipe("niquests")
    throttle = Throttle(1_000, 1, period=86_400)
    async with import_module("niquests").AsyncSession() as session:
        session.mount("http://", found.ThrottledAdapter(throttle))

        async def get(url: str) -> int:
            return int((await session.get(url, timeout=LONG)).status_code)

        yield throttle, get


@asynccontextmanager
async def curl_cffi_client() -> AsyncIterator[tuple[Throttle, Get]]:
    found = recipe("curl_cffi")
    throttle = Throttle(1_000, 1, period=86_400)
    async with found.ThrottledSession(throttle, timeout=LONG) as session:

        async def get(url: str) -> int:
            return int((await session.get(url)).status_code)

        yield throttle, get


CLIENTS: dict[str, Callable[[], Any]] = {
    "requests": requests_client,
    "niquests": niquests_client,
    "curl_cffi": curl_cffi_client,
}

each_client = pytest.mark.parametrize("library", CLIENTS)


@each_client
@pytest.mark.virtual_time(False)
async def test_a_slot_is_held_until_the_body_is_there(library: str) -> None:
    hold = asyncio.Event()
    async with (
        CLIENTS[library]() as (throttle, get),
        serving(Answer(hold=hold), Answer()) as server,
    ):
        first = asyncio.ensure_future(get(server.url))
        await server.come(1)
        second = asyncio.ensure_future(get(server.url))
        await until(lambda: throttle.waiting)
        for _ in range(20):  # the headers arrive, and nothing is to come of that
            await asyncio.sleep(0.001)
        assert (throttle.active, throttle.waiting, len(server.requests)) == (1, 1, 1)
        hold.set()
        assert await first == await second == 200
        assert (throttle.active, len(server.requests)) == (0, 2)


@each_client
@pytest.mark.virtual_time(False)
async def test_each_redirect_counts(library: str) -> None:
    moved = Answer(302, {"location": "/there"})
    async with CLIENTS[library]() as (throttle, get), serving(moved, moved, Answer()) as server:
        assert await get(server.url) == 200
        assert len(server.requests) == 3
        assert round(throttle.level) == 1_000 - 3
        assert throttle.active == 0


@each_client
@pytest.mark.virtual_time(False)
async def test_one_refusal_holds_everybody(library: str) -> None:
    async with CLIENTS[library]() as (throttle, get), serving(REFUSED, Answer()) as server:
        assert await get(server.url) == 429  # asked once: nothing retries below
        assert PAUSED - LONG < throttle.paused_for <= PAUSED
        others = [asyncio.ensure_future(get(server.url)) for _ in range(2)]
        await until(lambda: throttle.waiting == 2)
        assert len(server.requests) == 1
        throttle.resume()
        throttle.capacity, throttle.period = 1_000, 1  # which is empty after a pause
        assert await asyncio.gather(*others) == [200, 200]


@each_client
@pytest.mark.virtual_time(False)
async def test_a_slot_comes_back_where_no_answer_does(library: str) -> None:
    async with CLIENTS[library]() as (throttle, get):
        async with serving() as server:
            url = server.url
        with pytest.raises(Exception, match=r"(?i)connect"):
            await get(url)
        assert throttle.active == 0


# -------------------------------------------------------------------------------- aioboto3

TOO_FAST = json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException"})


@asynccontextmanager
async def dynamodb(server: Server, mode: str = "standard") -> AsyncIterator[Any]:
    library: Any = pytest.importorskip("aioboto3")
    config = import_module("aiobotocore.config").AioConfig(retries={"mode": mode})
    session = library.Session(
        aws_access_key_id="key", aws_secret_access_key="secret", region_name="eu-west-1"
    )
    async with session.client("dynamodb", endpoint_url=server.url, config=config) as client:
        yield client


async def test_aioboto3_takes_a_token_for_each_attempt() -> None:
    found = recipe("aioboto3")
    throttle = Throttle(1, period=1_000, burst=5, initial=5)
    answers = [Answer(500), Answer(500), Answer(body='{"TableNames": []}')]
    async with serving(*answers) as server, dynamodb(server) as client:
        found.throttle_client(client, throttle)
        assert (await client.list_tables())["TableNames"] == []
    assert len(server.requests) == 3
    assert throttle.level == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("status", [400, 429])
async def test_aioboto3_pauses_for_as_long_as_it_is_told(status: int) -> None:
    found = recipe("aioboto3")
    throttle = Throttle(10, burst=1)
    refused = Answer(status, {"retry-after": "300"}, TOO_FAST)
    async with serving(refused, Answer()) as server, dynamodb(server) as client:
        found.throttle_client(client, throttle)
        await asyncio.gather(client.list_tables(), client.list_tables())
    first, *others = server.instants
    assert [instant - first for instant in others] == pytest.approx([301.1, 301.2])


async def test_aioboto3_lives_through_an_answer_that_never_comes() -> None:
    found = recipe("aioboto3")
    throttle = Throttle(100, burst=1)
    async with serving() as server:
        pass
    async with dynamodb(server) as client:
        found.throttle_client(client, throttle)
        with pytest.raises(Exception, match="Could not connect"):
            await client.list_tables()
    assert throttle.paused_for == 0


# ------------------------------------------------------------------------------------ ccxt


@asynccontextmanager
async def exchange(server: Server) -> AsyncIterator[Any]:
    library = import_module("ccxt.async_support")
    found = library.binance({"urls": {"api": {"public": f"{server.url}/v3"}}})
    try:
        yield found
    finally:
        await found.close()


async def test_ccxt_takes_what_a_call_costs_from_the_limit_of_all_objects() -> None:
    found = recipe("ccxt")
    limit = Throttle(20, burst=50)
    answer = Answer(headers={"x-mbx-used-weight-1m": "900"}, body='{"serverTime": 1}')
    async with (
        serving(answer) as server,
        exchange(server) as one,
        exchange(server) as other,
    ):
        for each in (one, other):
            found.throttle_exchange(each, limit)
        await one.fetch_time()
        assert limit.level == pytest.approx(50 - 0.2)
        await other.publicGetDepth({"symbol": "BTCUSDT", "limit": 1_000})
        assert limit.level == pytest.approx(50 - 0.2 - 10)
        began = now()
        await one.publicGetDepth({"symbol": "BTCUSDT", "limit": 5_000})
        assert now() - began == pytest.approx(10.2 / 20)
        await one.throttle(0)
        assert now() - began == pytest.approx(10.2 / 20)
        await one.throttle()  # what has no cost costs 1
        assert now() - began == pytest.approx(11.2 / 20)


async def test_ccxt_pauses_all_objects_after_a_refusal() -> None:
    found = recipe("ccxt")
    limit = Throttle(20, burst=50)
    async with (
        serving(REFUSED, Answer(body='{"serverTime": 1}')) as server,
        exchange(server) as one,
        exchange(server) as other,
    ):
        for each in (one, other):
            found.throttle_exchange(each, limit)
        with pytest.raises(Exception, match="429"):
            await one.fetch_time()
        assert limit.paused_for == pytest.approx(PAUSED)
        assert await other.fetch_time() == 1
        assert server.instants[1] - server.instants[0] == pytest.approx(PAUSED, abs=0.1)


# --------------------------------------------------------------------- python-telegram-bot

SENT = Answer(
    body=json.dumps(
        {"ok": True, "result": {"message_id": 1, "date": 0, "chat": {"id": 1, "type": "private"}}}
    )
)
FLOOD = Answer(
    status=429,
    body=json.dumps(
        {
            "ok": False,
            "error_code": 429,
            "description": "Too Many Requests: retry after 30",
            "parameters": {"retry_after": 30},
        }
    ),
)


@pytest.fixture
def timedeltas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTB_TIMEDELTA", "1")


@asynccontextmanager
async def bot(server: Server, limiter: Any) -> AsyncIterator[Any]:
    request = import_module("telegram.request").HTTPXRequest(connection_pool_size=100)
    ext = import_module("telegram.ext")
    yield ext.ExtBot("1:a", base_url=f"{server.url}/bot", request=request, rate_limiter=limiter)
    await request.shutdown()


async def test_a_chat_of_telegram_that_is_full_holds_nobody_else() -> None:
    limiter = recipe("telegram").RateLimiter()
    async with serving(SENT) as server, bot(server, limiter) as telegram:
        began = now()
        sent: list[tuple[int | str, int]] = []

        async def send(chat: int | str) -> None:
            await telegram.send_message(chat, "hello")
            sent.append((chat, round(now() - began)))

        chats: list[int | str] = [*["-5"] * 7, "@news", 1]
        await asyncio.gather(*map(send, chats))
        assert sent == [*[("-5", 0)] * 5, ("@news", 0), (1, 0), ("-5", 3), ("-5", 6)]
        assert limiter.everybody.guarantee(1) == 30


@pytest.mark.usefixtures("timedeltas")
async def test_a_refusal_of_telegram_pauses_the_bot_and_is_sent_again() -> None:
    limiter = recipe("telegram").RateLimiter()
    async with serving(FLOOD, SENT) as server, bot(server, limiter) as telegram:
        await asyncio.gather(*(telegram.send_message(chat, "hello") for chat in (1, 2, 3)))
    instants = [instant - server.instants[0] for instant in server.instants]
    # The second was on its way when the first was refused.
    assert instants == pytest.approx([0, 0, 30 + 1 / 28, 30 + 2 / 28])


@pytest.mark.usefixtures("timedeltas")
@pytest.mark.parametrize(("argument", "tries"), [(None, 3), (1, 1), (2, 2)])
async def test_telegram_is_asked_no_more_often_than_it_says(
    argument: int | None, tries: int
) -> None:
    limiter = recipe("telegram").RateLimiter()
    error = import_module("telegram.error").RetryAfter
    async with serving(FLOOD) as server, bot(server, limiter) as telegram:
        with pytest.raises(error):
            await telegram.send_message(1, "hello", rate_limit_args=argument)
    assert len(server.requests) == tries


async def test_calls_of_telegram_without_a_chat_wait_for_nobody() -> None:
    limiter = recipe("telegram").RateLimiter()
    limiter.everybody.pause(300)
    yes = Answer(body='{"ok": true, "result": true}')
    async with serving(yes) as server, bot(server, limiter) as telegram:
        await telegram.answer_callback_query("1")
        assert limiter.everybody.paused_for == 300


# ------------------------------------------------------------------------------- LangChain


def model(limiter: Any, *answers: Any) -> Any:
    """A chat model that gives these answers, or raises them."""
    fakes = import_module("langchain_core.language_models.fake_chat_models")

    class Model(fakes.GenericFakeChatModel):  # type: ignore[misc, name-defined]
        def _generate(self, *args: Any, **options: Any) -> Any:
            with suppress(StopIteration):
                if isinstance(wrong := next(wrongs), Exception):
                    raise wrong
            return super()._generate(*args, **options)

    wrongs = iter(answers)
    return Model(messages=iter(["hello"] * 100), rate_limiter=limiter)


async def test_langchain_waits_in_event_loops() -> None:
    throttle = threads.Throttle(50, burst=1)
    chat = model(recipe("langchain", module="langchain_core").RateLimiter(throttle))
    began = now()
    await chat.abatch(["hello"] * 11)
    assert now() - began == pytest.approx(10 / 50)
    assert throttle.active == 0


async def test_langchain_asks_again_for_each_try() -> None:
    throttle = threads.Throttle(1, burst=1)
    limiter = recipe("langchain", module="langchain_core").RateLimiter(throttle)
    chat = model(limiter, LookupError("no"), LookupError("no"))
    retrying = chat.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    began = now()
    assert (await retrying.ainvoke("hello")).content == "hello"
    assert now() - began == 2


def test_langchain_waits_in_threads() -> None:
    throttle = threads.Throttle(1, period=86_400, burst=3)
    limiter = recipe("langchain", module="langchain_core").RateLimiter(throttle)
    chat = model(limiter)
    chat.invoke("hello")
    assert round(throttle.level) == 2
    assert [limiter.acquire(blocking=False) for _ in range(3)] == [True, True, False]


async def test_langchain_is_told_at_once_whether_there_is_a_token() -> None:
    throttle = threads.Throttle(1, burst=1)
    limiter = recipe("langchain", module="langchain_core").RateLimiter(throttle)
    assert await limiter.aacquire(blocking=False)
    assert not await limiter.aacquire(blocking=False)
    assert await limiter.aacquire()
    assert now() == 1


# ---------------------------------------------------------------------------------- Scrapy

SPIDER = """
import asyncio, json, sys
import scrapy
from scrapy.crawler import AsyncCrawlerProcess
from async_throttle import Throttle, Throttles

hosts = Throttles(lambda host: Throttle(1_000, burst=1, name=host))
seen = []

async def until(true):
    while not true():
        await asyncio.sleep(0.001)

class Spider(scrapy.Spider):
    name = "spider"

    async def start(self):
        limit = hosts["127.0.0.1"]
        yield scrapy.Request(sys.argv[1] + "/first")
        await until(lambda: limit.paused_for)
        yield scrapy.Request(sys.argv[1] + "/second")
        await until(lambda: limit.waiting == 2)
        seen.append([limit.paused_for, self.crawler.stats.get_value("downloader/response_count")])
        limit.resume()

    def parse(self, response):
        seen.append(response.status)

process = AsyncCrawlerProcess({
    "DOWNLOADER_MIDDLEWARES": {"recipes.with_scrapy.ThrottleMiddleware": 950},
    "THROTTLES": hosts,
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
})
process.crawl(Spider)
process.start()
print(json.dumps(seen))
"""
"""Sends one request, waits until it was refused and is to be sent again, and sends another."""


async def output_of(program: str, *arguments: str) -> Any:
    """What a program of Python prints, which is JSON."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
    )
    try:
        async with asyncio.timeout(LONG):
            out, _ = await run.communicate()
    finally:
        with suppress(ProcessLookupError):
            run.kill()
    return json.loads(out)


@pytest.mark.virtual_time(False)
async def test_scrapy_waits_for_a_host_that_has_refused() -> None:
    pytest.importorskip("scrapy")
    async with serving(REFUSED, Answer(body="<html></html>")) as server:
        (paused, answers), *statuses = await output_of(SPIDER, server.url)
    assert PAUSED - LONG < paused <= PAUSED
    assert answers == 1
    assert statuses == [200, 200]
    assert len(server.requests) == 3


# ----------------------------------------------------- the retry outside, the throttle inside


async def tries(throttle: Throttle, get: Get, server: Server) -> list[float]:
    """When each try came, of one call that is refused once and another that is not."""
    asked = asyncio.ensure_future(get(server.url))
    await server.come(1)
    assert [await get(server.url), await asked] == [200, 200]
    assert throttle.active == 0
    return [instant - server.instants[0] for instant in server.instants]


async def test_httpx_retries_waits_for_its_turn_at_each_try() -> None:
    found = recipe("httpx_retries")
    throttle = Throttle(1, 1, burst=1)
    async with serving(REFUSED, Answer()) as server, found.client(throttle) as http:

        async def get(url: str) -> int:
            return int((await http.get(url)).status_code)

        assert await tries(throttle, get, server) == [0, PAUSED + 1, PAUSED + 2]


@pytest.mark.parametrize("library", ["stamina", "tenacity"])
async def test_what_retries_outside_waits_for_its_turn_at_each_try(library: str) -> None:
    found = recipe(library)
    throttle = Throttle(1, 1, burst=1)
    transport = ThrottledTransport(throttle)
    async with (
        serving(REFUSED, Answer()) as server,
        httpx.AsyncClient(transport=transport) as http,
    ):

        async def get(url: str) -> int:
            return int((await found.get(http, url)).status_code)

        assert await tries(throttle, get, server) == [0, PAUSED + 1, PAUSED + 2]


@pytest.mark.parametrize("library", ["stamina", "tenacity"])
@pytest.mark.parametrize(("status", "times"), [(503, 4), (404, 1)])
async def test_what_retries_outside_gives_up(library: str, status: int, times: int) -> None:
    found = recipe(library)
    throttle = Throttle(1_000, 1)
    transport = ThrottledTransport(throttle)
    async with (
        serving(Answer(status)) as server,
        httpx.AsyncClient(transport=transport) as http,
    ):
        with pytest.raises(httpx.HTTPStatusError, match=str(status)):
            await found.get(http, server.url)
    assert len(server.requests) == times
    assert throttle.active == 0
