"""Every code block of the README is run, and its output compared to what the README shows."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from readme import BLOCKS, EXCERPTS, PYTHON, README, ROOT, Block
from sdks import TEXT, Provider

import async_throttle
from async_throttle import testing
from async_throttle._demo.twins import TWINS, Said, Twin


def run_in_virtual_time(main: Coroutine[Any, Any, Any]) -> Any:
    return testing.run(main)


def names_of(block: Block) -> dict[str, Any]:
    """Run *block*: the names that it leaves."""
    if re.search(r"^from openai ", block.code, re.MULTILINE):
        pytest.importorskip("openai")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block.code, "README.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever uses OpenAI's SDK."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_prints_what_the_readme_shows(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "run", run_in_virtual_time)
    printed = StringIO()
    with redirect_stdout(printed):
        names_of(block)
    assert printed.getvalue() == (block.shown or "")


def block_with(code: str) -> Block:
    (found,) = [block for block in PYTHON if code in block.code]
    return found


@pytest.mark.virtual_time(False)
async def test_the_clients_of_the_readme_hold_everybody_after_a_refusal() -> None:
    names = names_of(block_with("def session()"))
    client, crawler, throttle = names["client"], names["crawler"], names["throttle"]
    provider = Provider(refuses=2, back=600)

    async def by_httpx(url: str) -> int:
        return int((await client.get(url)).status_code)

    async def by_crawler(url: str) -> int:
        return int((await crawler.get(url)).status_code)

    async def by_aiohttp(url: str) -> int:
        async with names["session"]() as session, session.get(url) as answer:
            return int(answer.status)

    async def by_hand(url: str) -> int:
        return int((await asyncio.to_thread(names["get"], url)).status_code)

    ways: dict[Callable[[str], Awaitable[int]], Callable[[], Any]] = {
        by_httpx: lambda: throttle,
        by_crawler: lambda: names["hosts"]["127.0.0.1"],
        by_aiohttp: lambda: throttle,
        by_hand: lambda: names["for_threads"],
    }
    async with provider.served() as url, client, crawler:
        for ask, limiter in ways.items():
            assert await ask(f"{url}/v2/chat") == 200
            assert limiter().paused_for == 0
            assert await ask(f"{url}/v2/chat") == 429
            assert limiter().paused_for > 0
            limiter().resume()
    assert len(provider.came) == 8


@pytest.mark.virtual_time(False)
async def test_the_client_for_openai_of_the_readme_holds_everybody_after_a_refusal() -> None:
    names = names_of(block_with("from openai"))
    openai: Any = pytest.importorskip("openai")
    limits, provider = names["limits"], Provider(refuses=2, back=600)
    question: Any = [{"role": "user", "content": "how?"}]
    async with provider.served() as url, names["api"].with_options(max_retries=0) as api:
        api.base_url = f"{url}/v1"
        answer = await api.chat.completions.create(model="any", messages=question)
        assert answer.choices[0].message.content == TEXT
        assert limits.paused_for == 0
        assert round(limits.level["tokens"]) >= 199_998, "what it took is settled"
        with pytest.raises(openai.RateLimitError):
            await api.chat.completions.create(model="any", messages=question)
        assert limits.paused_for > 0
    request = names["httpx2"].Request("POST", "https://api.openai.com", content=b"x" * 400)
    assert names["weights"](request) == {"tokens": 1_100}


@pytest.mark.parametrize("block", EXCERPTS, ids=str)
def test_an_excerpt_stands_in_the_program_that_the_tests_run(block: Block) -> None:
    source = Path(str(block.source))
    assert source.parent.as_posix() == "tests/programs"
    assert block.code in (ROOT / source).read_text(encoding="utf-8")


def test_every_block_is_of_a_kind_that_is_run() -> None:
    fences = README.count("\n```") // 2
    shown = sum(block.shown is not None for block in BLOCKS)
    assert len(BLOCKS) + shown == fences
    assert {block.language for block in BLOCKS} == {"python", "sh"}


def test_the_commands_are_run_by_the_checks_from_the_readme_itself() -> None:
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [block.code for block in BLOCKS if block.language == "sh"]
    marks = re.findall(r"^<!-- (the .*?) -->\n```sh$", README, re.MULTILINE)
    assert len(marks) == len(commands) == 2
    for mark in marks:
        assert f'readme "{mark}"' in checks


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.names[0])
@pytest.mark.parametrize("said", [Said(10, 1, 5), Said(20, 1, 1), Said(500, 1, 50)], ids=str)
def test_the_table_of_servers_shows_each_twin_as_a_program_says_it(twin: Twin, said: Said) -> None:
    table = README.partition("<!-- the twins -->\n")[2].partition("\n\n")[0]
    _, _, *rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    assert len(rows) == len(TWINS)
    servers, counts, shown = rows[TWINS.index(twin)]
    code, _, also = shown.removeprefix("`").partition("`")
    assert (servers, counts, also.removeprefix("; ")) == (twin.servers, twin.counts, twin.also)
    names: dict[str, Any] = {name: getattr(async_throttle, name) for name in async_throttle.__all__}
    told = eval(code, {**names, "N": said.capacity, "P": said.period, "B": said.burst})
    throttle = twin.throttle(said)
    for what in ("capacity", "period", "burst", "algorithm"):
        assert getattr(told, what) == getattr(throttle, what)
    assert twin.settings(said)["counts"] == "end"
    assert 'counts="end"' in code


@pytest.mark.skipif(sys.platform == "win32", reason="the checks are a shell script")
def test_the_table_of_algorithms_says_what_guarantee_says() -> None:
    import math

    from async_throttle import LeakyBucket, SlidingWindow, Throttle

    rows = {
        "39": Throttle(20),
        "24": Throttle(20, burst=5),
        "20": Throttle(20, algorithm=SlidingWindow),
    }
    for whole_calls, throttle in rows.items():
        most = throttle.guarantee(1)
        if throttle.algorithm is not SlidingWindow:
            most = math.ceil(most) - 1  # half-open windows, whole calls
        assert str(int(most)) == whole_calls
        assert whole_calls in README
    assert math.ceil(Throttle(20, algorithm=LeakyBucket).guarantee(1)) - 1 == 20
