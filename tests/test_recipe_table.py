"""How often libraries ask for one call, and whether they wait as long as they are told.

The table in `recipes/README.md` is what is seen here: a server refuses everything, and one call is
made with each library as it comes. A row is looked at where its version is installed.
"""

from __future__ import annotations

import asyncio
import re
import time
import tomllib
from collections.abc import Awaitable, Callable
from importlib import import_module, metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import pytest
from loopback import Answer, Server, serving
from recipes.__main__ import RECIPES
from support import now
from test_recipe_files import TOO_FAST, bot, dynamodb, exchange, output_of

FOLDER: Final = Path(__file__).parent / "recipes"
README: Final = FOLDER / "README.md"

RETRY_AFTER: Final = 30
"""Seconds that the server says: within what all of them would wait."""

Call = Callable[[Server], Awaitable[object]]
CALLS: dict[str, Call] = {}
"""By the name of the row, one call; the error that comes of it is of no interest."""

REAL_TIME: Final[set[str]] = set()
"""Rows of libraries that do not live in the time of the loop."""


class Row(NamedTuple):
    """What the table says."""

    library: str
    version: str
    made: str
    requests: str
    honoured: str


ROWS: Final = {
    f"{row.library} {row.made}".strip(): row
    for cells in re.findall(r"^\| (.+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    if len(parts := [cell.strip().replace("`", "") for cell in cells.split("|")]) == 6
    and parts[0] != "library"
    and not parts[0].startswith("---")
    for row in [Row(*parts[:5])]
}


def row(name: str, *, real_time: bool = False) -> Callable[[Call], Call]:
    def named(call: Call) -> Call:
        CALLS[name] = call
        if real_time:
            REAL_TIME.add(name)
        return call

    return named


def seen(instants: list[float]) -> tuple[str, str]:
    """The number of requests, and whether all but the first waited as they were told."""
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    honoured = "yes" if min(gaps, default=0) >= RETRY_AFTER else "no"
    return str(len(instants)), honoured if gaps else "-"


def load(module: str) -> Any:
    return pytest.importorskip(module)


# ---------------------------------------------------------------------------------- clients


@row("httpx")
async def httpx(server: Server) -> None:
    async with load("httpx").AsyncClient() as client:
        await client.get(server.url)


@row("httpx2")
async def httpx2(server: Server) -> None:
    async with load("httpx2").AsyncClient() as client:
        await client.get(server.url)


@row("aiohttp")
async def aiohttp(server: Server) -> None:
    async with load("aiohttp").ClientSession() as session, session.get(server.url):
        pass


@row("requests")
async def requests(server: Server) -> None:
    with load("requests").Session() as session:
        await asyncio.to_thread(session.get, server.url)


@row("requests HTTPAdapter(max_retries=Retry(3, status_forcelist=[429]))")
async def requests_with_retry(server: Server) -> None:
    library = load("requests")
    retry = import_module("urllib3").Retry(3, status_forcelist=[429])
    with library.Session() as session:
        session.mount("http://", library.adapters.HTTPAdapter(max_retries=retry))
        await asyncio.to_thread(session.get, server.url)


@row("niquests", real_time=True)
async def niquests(server: Server) -> None:
    async with load("niquests").AsyncSession() as session:
        await session.get(server.url)


@row("curl_cffi", real_time=True)
async def curl_cffi(server: Server) -> None:
    async with load("curl_cffi").AsyncSession() as session:
        await session.get(server.url)


# ----------------------------------------------------------------------------- what retries


@row("httpx-retries RetryTransport()")
async def httpx_retries(server: Server) -> None:
    transport = load("httpx_retries").RetryTransport()
    async with load("httpx").AsyncClient(transport=transport) as client:
        await client.get(server.url)


@row("stamina retry(on=HTTPStatusError)")
async def stamina(server: Server) -> None:
    library = load("httpx")

    async def get() -> None:
        (await client.get(server.url)).raise_for_status()

    async with library.AsyncClient() as client:
        await load("stamina").retry(on=library.HTTPStatusError)(get)()


@row("aiohttp-retry ExponentialRetry(statuses={429})")
async def aiohttp_retry(server: Server) -> None:
    library = load("aiohttp_retry")
    options = library.ExponentialRetry(statuses={429})
    async with library.RetryClient(retry_options=options) as client, client.get(server.url):
        pass


# -------------------------------------------------------------------------------- services


def boto(mode: str) -> Call:
    async def call(server: Server) -> None:
        load("aioboto3")
        clock = import_module("botocore.retries.bucket").Clock
        with mock.patch.object(clock, "current_time", side_effect=now):
            async with dynamodb(server, mode) as client:
                await client.list_tables()

    return call


row("aioboto3 DynamoDB, as it comes")(boto("legacy"))
row('aioboto3 retries={"mode": "standard"}')(boto("standard"))
row('aioboto3 retries={"mode": "adaptive"}')(boto("adaptive"))


@row("azure-core AsyncRetryPolicy()")
async def azure(server: Server) -> None:
    core = load("azure.core")
    policy = import_module("azure.core.pipeline.policies").AsyncRetryPolicy()
    request = import_module("azure.core.rest").HttpRequest("GET", server.url)
    async with core.AsyncPipelineClient(base_url=server.url, policies=[policy]) as client:
        await client.send_request(request)


@row("ccxt")
async def ccxt(server: Server) -> None:
    load("ccxt")
    async with exchange(server) as found:
        await found.fetch_time()


@row("python-telegram-bot")
async def telegram(server: Server) -> None:
    load("telegram")
    async with bot(server, None) as found:
        await found.send_message(1, "hello")


SPIDER: Final = """
import json, sys
import scrapy
from scrapy.crawler import AsyncCrawlerProcess

class Spider(scrapy.Spider):
    name = "spider"
    start_urls = [sys.argv[1]]

    def parse(self, response):
        pass

process = AsyncCrawlerProcess({"LOG_LEVEL": "CRITICAL", "TELNETCONSOLE_ENABLED": False})
process.crawl(Spider)
process.start()
print(json.dumps("done"))
"""


@row("scrapy", real_time=True)
async def scrapy(server: Server) -> None:
    load("scrapy")
    assert await output_of(SPIDER, server.url) == "done"


# --------------------------------------------------------------------------- language models

QUESTION: Final = [{"role": "user", "content": "how?"}]


@row("openai")
async def openai(server: Server) -> None:
    async with load("openai").AsyncOpenAI(api_key="key", base_url=server.url) as client:
        await client.chat.completions.create(model="m", messages=QUESTION)


@row("anthropic")
async def anthropic(server: Server) -> None:
    async with load("anthropic").AsyncAnthropic(api_key="key", base_url=server.url) as client:
        await client.messages.create(model="m", messages=QUESTION, max_tokens=9)


@row("groq")
async def groq(server: Server) -> None:
    async with load("groq").AsyncGroq(api_key="key", base_url=server.url) as client:
        await client.chat.completions.create(model="m", messages=QUESTION)


@row("cohere")
async def cohere(server: Server) -> None:
    async with load("cohere").AsyncClientV2(api_key="key", base_url=server.url) as client:
        await client.chat(model="m", messages=QUESTION)


@row("mistralai")
async def mistralai(server: Server) -> None:
    async with load("mistralai.client").Mistral(api_key="key", server_url=server.url) as client:
        await client.chat.complete_async(model="m", messages=QUESTION)


@row("google-genai")
async def google_genai(server: Server) -> None:
    library = load("google.genai")
    options = {"base_url": server.url}
    client = library.Client(api_key="key", http_options=options)
    try:
        await client.aio.models.generate_content(model="m", contents="how?")
    finally:
        await client.aio.aclose()


# ----------------------------------------------------------------------------------- the test


def test_the_table_has_a_row_for_each_call() -> None:
    assert set(ROWS) == set(CALLS)


def test_each_recipe_has_a_row_and_one_version() -> None:
    assert set(RECIPES) == {path.stem.removeprefix("with_") for path in FOLDER.glob("with_*.py")}
    versions = dict(RECIPES.values())
    for said in ROWS.values():
        assert said.version == versions.get(said.library, said.version)
    project = tomllib.loads((FOLDER.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    pins = dict(pin.split("==") for pin in project["project"]["optional-dependencies"]["recipes"])
    versions |= {said.library: said.version for said in ROWS.values()}
    assert {name: pin for name, pin in pins.items() if versions.get(name, pin) != pin} == {}


async def compare(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the call, and compare what came of it with the row."""
    said = ROWS[name]
    try:
        version = metadata.version(said.library)
    except metadata.PackageNotFoundError:
        version = "nothing"
    if version != said.version:
        pytest.skip(f"NO LIBRARY {said.library}=={said.version}: {version} is installed")
    monkeypatch.setenv("PTB_TIMEDELTA", "1")
    refusal = Answer(429, {"retry-after": str(RETRY_AFTER)}, TOO_FAST)
    ended: object = None
    async with serving(refusal) as server:
        try:
            ended = await CALLS[name](server)
        except Exception as error:
            ended = error
    found = Row(said.library, version, said.made, *seen(server.instants))
    assert found == said, f"the call ended with {ended!r}; instants {server.instants}"


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")  # of google-genai
@pytest.mark.parametrize("name", [name for name in CALLS if name not in REAL_TIME])
async def test_the_table_says_what_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    def sleep(seconds: float) -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(seconds), loop).result()

    monkeypatch.setattr(time, "sleep", sleep)  # threads sleep in the time of the loop
    await compare(name, monkeypatch)


@pytest.mark.virtual_time(False)
@pytest.mark.parametrize("name", sorted(REAL_TIME))
async def test_the_table_says_what_is_seen_in_real_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compare(name, monkeypatch)
