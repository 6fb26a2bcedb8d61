"""The programs that the README shows in part, each against a server that enforces what it says."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import servers_redis
from programs.batches import answer_all, limits_of
from programs.bot import Bot, TooManyRequests
from programs.exchange import Banned, Exchange, Response
from programs.shared import on_many, on_one_host
from support import now, others_run, scaled

from async_throttle import LimitPool, LimitSet

PROGRAMS = Path(__file__).parent / "programs"


class Budget:
    """So much per period at the server: full at first, and filled at the rate."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.seen = burst, now()

    def take(self, weight: float = 1) -> bool:
        self.level = min(self.burst, self.level + self.rate * (now() - self.seen))
        self.seen = now()
        if self.level < weight - 1e-6:
            return False
        self.level -= weight
        return True


# --- what processes share ---


async def spent(limits: list[LimitSet], key: str) -> float:
    """What is left for the second of two processes, when the first has taken half."""
    first, second = limits
    async with first({key: first.capacity[key] / 2}):
        pass
    await first[key].drain()
    await second[key].refresh()
    return float(second.level[key] / second.capacity[key])


def test_the_processes_of_a_host_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "quota.db")
    shared = [on_one_host(path), on_one_host(path)]
    assert 0.5 <= asyncio.run(spent(shared, "chat")) < 0.7


def test_machines_share_a_server() -> None:
    server = servers_redis.started("valkey")
    try:
        shared = [*on_many(server.url), *on_many(server.url)]
        assert 0.5 <= asyncio.run(spent(shared, "tokens")) < 0.6
    finally:
        server.stop()


# --- the bot ---


class Chats:
    """The bot's server; *refusals* are for no reason, by the number of the try."""

    def __init__(self, refusals: dict[int, tuple[float, int | None]]) -> None:
        self.refusals = refusals
        self.everybody = Budget(30, 30)
        self.chats: dict[int, Budget] = {}
        self.groups: dict[int, Budget] = {}
        self.sent: list[tuple[float, int]] = []
        self.refused: list[tuple[float, int]] = []
        self.tries = 0

    async def send(self, chat: int, text: str) -> int:
        self.tries += 1
        if self.tries in self.refusals:
            self.refused.append((now(), chat))
            retry_after, whom = self.refusals[self.tries]
            raise TooManyRequests(retry_after, None if whom is None else chat)
        assert self.everybody.take()
        assert self.chats.setdefault(chat, Budget(1, 3)).take()
        assert chat > 0 or self.groups.setdefault(chat, Budget(20 / 60, 20)).take()
        self.sent.append((now(), chat))
        await asyncio.sleep(0.1)
        return len(self.sent)


async def test_a_bot_reaches_thousands_of_chats_at_the_rate_of_the_server() -> None:
    server = Chats({})
    bot = Bot(server)
    chats = range(1, scaled(3_000) + 1)
    await asyncio.gather(*(bot.send(chat, "Good morning") for chat in chats))
    assert server.tries == len(chats)
    assert now() == pytest.approx((len(chats) - 25) / 30 + 0.1, abs=0.05)


async def test_a_refusal_of_one_chat_holds_that_chat_alone() -> None:
    server = Chats({2: (5.0, 1)})
    bot = Bot(server)
    held = asyncio.create_task(bot.send(9, "one"))
    await others_run()
    refused = asyncio.create_task(bot.send(8, "two"))
    await others_run()
    await asyncio.gather(held, *(bot.send(chat, "hi") for chat in (1, 2, 3, 9)))
    assert now() < 1
    await refused
    assert server.refused == [(0.0, 8)]
    # The chat's bucket is empty when the pause ends: a token of it takes a second more.
    assert server.sent[-1] == (6.0, 8)


async def test_a_refusal_of_all_holds_everybody_and_loses_no_message() -> None:
    server = Chats({4: (2.0, None)})
    bot = Bot(server)
    await asyncio.gather(*(bot.send(chat, "hi") for chat in range(1, 41)))
    assert len(server.sent) == 40
    assert [instant for instant, _ in server.sent if 0 < instant < 2] == []


async def test_a_group_has_a_limit_of_its_own() -> None:
    server = Chats({})
    bot = Bot(server)
    await asyncio.gather(*(bot.send(-5, "hi") for _ in range(30)))
    assert now() == pytest.approx((30 - 18) * 3 + 0.1)


# --- batches ---


class Model:
    """What one key may do; *breaks* is the call whose stream breaks off."""

    def __init__(self, name: str, breaks: int = 0) -> None:
        self.name, self.breaks = name, breaks
        self.requests, self.tokens = Budget(600 / 60, 600), Budget(60_000 / 60, 60_000)
        self.calls = self.running = self.most = 0

    async def stream(self, prompt: str, max_tokens: int) -> AsyncIterator[tuple[str, int]]:
        self.calls += 1
        call = self.calls
        asked = len(prompt) // 4 + max_tokens
        assert self.requests.take()
        assert self.tokens.take(asked)
        self.running += 1
        self.most = max(self.most, self.running)
        used = 0
        try:
            for piece in ("so ", "it ", "is"):
                await asyncio.sleep(0.3)
                used += asked // 4
                yield piece, used
                if call == self.breaks:
                    raise ConnectionResetError
        finally:
            self.running -= 1
            self.tokens.level = min(self.tokens.burst, self.tokens.level + asked - used)


async def test_batches_use_both_keys_to_the_full_and_settle_what_they_used() -> None:
    keys = [Model("a"), Model("b")]
    pool = LimitPool([limits_of(key, 600, 60_000) for key in keys])
    answers: dict[int, str] = {}
    progress = io.StringIO()
    prompts = ["How is it?" * 4] * scaled(400, least=60)
    await answer_all(pool, prompts, 990, answers.__setitem__, progress)
    assert answers == dict.fromkeys(range(len(prompts)), "so it is")
    assert Counter(key.calls > 0 for key in keys) == {True: 2}
    assert max(key.most for key in keys) == 20
    assert progress.getvalue().endswith(f"[{'#' * 30}] {len(prompts)}/{len(prompts)}\n")
    assert sum(len(limits) and limits["concurrency"].active for limits in pool.limit_sets) == 0


async def test_a_stream_that_breaks_off_is_settled_and_gives_its_slot_back() -> None:
    key = Model("a", breaks=1)
    limits = limits_of(key, 600, 60_000)
    with pytest.raises(ExceptionGroup) as error:
        await answer_all(LimitPool([limits]), ["?"], 4_000, print, io.StringIO())
    assert error.group_contains(ConnectionResetError)
    assert limits["concurrency"].active == 0
    assert limits["tokens"].level == 60_000 - 1_000 + 300


async def test_what_ctrl_c_leaves_are_the_answers_that_there_were() -> None:
    key = Model("a")
    limits = limits_of(key, 600, 60_000)
    answers: dict[int, str] = {}
    batch = asyncio.create_task(
        answer_all(LimitPool([limits]), ["?"] * 100, 1_000, answers.__setitem__, io.StringIO())
    )
    await asyncio.sleep(1.5)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert sorted(answers) == list(range(20))
    assert (limits["concurrency"].active, limits.waiting, key.running) == (0, 0, 0)


# --- the exchange ---


class Matching:
    """An exchange, where somebody else uses the account, too."""

    def __init__(self) -> None:
        self.used = 0.0
        self.others = 0.0
        self.orders: list[float] = []
        self.bans: list[float] = []
        self.minute = 0.0

    async def request(self, method: str, path: str) -> Response:
        if self.bans:
            return Response(418, {"Retry-After": str(self.bans.pop())})
        if now() // 60 != self.minute:
            self.minute, self.used, self.others = now() // 60, 0.0, 0.0
        if method == "POST":
            self.orders.append(now())
            assert sum(instant > now() - 10 for instant in self.orders) <= 50
        self.used += 1 if method == "POST" else 50
        assert self.used + self.others <= 1_200
        return Response(200, {"X-Used-Weight": str(self.used + self.others)}, path)


async def test_orders_wait_for_their_limits_and_market_data_passes_them() -> None:
    server = Matching()
    exchange = Exchange(server)
    orders = [asyncio.create_task(exchange.order("BTCUSDT", 1)) for _ in range(120)]
    await others_run()
    assert await exchange.depth("BTCUSDT") == "/depth?symbol=BTCUSDT"
    assert len(server.orders) == 50
    assert now() == 0
    await asyncio.gather(*orders)
    assert now() == 20


async def test_market_data_keeps_to_the_weight_of_a_minute() -> None:
    server = Matching()
    exchange = Exchange(server)
    await asyncio.gather(*(exchange.depth("BTCUSDT") for _ in range(60)))
    assert now() == pytest.approx((60 * 50 - 100) * 60 / 1_100)
    assert exchange.weight.guarantee(60) == 1_200


async def test_what_others_use_of_the_account_is_counted_with_the_next_answer() -> None:
    server = Matching()
    exchange = Exchange(server)
    server.others = 1_140
    await exchange.depth("BTCUSDT")
    assert exchange.weight.level == 10


async def test_a_ban_holds_all_calls_and_is_told_to_the_caller() -> None:
    server = Matching()
    exchange = Exchange(server)
    server.bans.append(120)
    with pytest.raises(Banned):
        await exchange.order("BTCUSDT", 1)
    assert exchange.data.delay() == exchange.trade.delay(weight=1) > 120
    await exchange.order("BTCUSDT", 1)
    assert now() == pytest.approx(120 + 60 / 1_100)


# --- what the README shows of them ---


def test_each_program_is_run_here() -> None:
    names = {path.stem for path in PROGRAMS.glob("[a-z]*.py")}
    assert names == {"bot", "batches", "exchange", "shared"}
