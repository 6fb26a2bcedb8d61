"""A set of limits against a server that enforces all of them (`llm.py`), and that server by itself.

What the server counts is the true usage, which nobody knows before the reply; until then both sides
reckon with an estimate. So that nothing is refused is a promise that can be kept under one
condition: the client knows the truth when the server does. In virtual time it does, as a reply
takes no time to arrive. There the client has the very limits of the server, with nothing to spare
on either side. Where a reply does take time, a debt is known to the server first, and who calls in
between is refused however well it counts. Then the client must leave some slack, and how much can
be told.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import pytest
from llm import Client, Failed, Network, Prompt, Refused, Server, serving
from programs.batches import answer, limits_of
from support import at, now, queued, scaled

from async_throttle import (
    LimitPool,
    LimitSet,
    Throttle,
)

RPM, TPM, AT_ONCE = 500, 200_000, 20  # what the server allows

USERS = scaled(300, least=120)
MINUTES = scaled(4, least=2)


# What is asked.


@dataclass(frozen=True)
class Load:
    """Calls of one kind, and the limit that they run into once the bursts are used up."""

    binds: str
    tokens: tuple[int, int]  # reckoned; on a logarithmic scale all sizes are as likely
    seconds: tuple[float, float]
    usage: tuple[float, float] = (0.6, 1.15)  # of the tokens reckoned: refunds and debts
    failing: float = 0.02

    def prompts(self) -> Iterator[Prompt]:
        """The same ones each time, without end."""
        rng = random.Random(3)
        least, most = map(math.log, self.tokens)
        while True:
            tokens = round(math.exp(rng.uniform(least, most)))
            usage = round(tokens * rng.uniform(*self.usage))
            yield Prompt(tokens, usage, rng.uniform(*self.seconds), rng.random() < self.failing)


QUESTIONS = Load("tokens", tokens=(600, 2_000), seconds=(1, 3))
DOCUMENTS = Load("tokens", tokens=(50, 20_000), seconds=(0.5, 4))
ONE_WORD = Load("requests", tokens=(20, 200), seconds=(0.5, 1.5))
REASONING = Load("concurrency", tokens=(100, 500), seconds=(4, 12))

each_load = pytest.mark.parametrize(
    "load",
    [
        pytest.param(QUESTIONS, id="questions"),
        pytest.param(DOCUMENTS, id="documents"),
        pytest.param(ONE_WORD, id="one word"),
        pytest.param(REASONING, id="reasoning"),
    ],
)


# How it is asked.


def limits(
    requests: float = RPM,
    tokens: float = TPM,
    concurrency: int = AT_ONCE,
    *,
    slack: tuple[float, float] = (0, 0),
) -> LimitSet:
    """The set of limits of a client; *slack* is what its bursts lack of those of the server."""
    fewer_requests, fewer_tokens = slack
    return LimitSet(
        requests=Throttle(requests, period=60, burst=requests - fewer_requests),
        tokens=Throttle(tokens, period=60, burst=tokens - fewer_tokens),
        concurrency=concurrency,
    )


@dataclass(frozen=True)
class Wait:
    """What a call waited, by its own measure and by that of its lease."""

    asked: float
    granted: float
    told: float
    told_for: dict[Any, float]

    @property
    def held_up_by(self) -> set[Any]:
        return {limit for limit, seconds in self.told_for.items() if seconds}


class Asker:
    """Asks within the limits, settles what the reply says was used, and notes the waits."""

    def __init__(self, api: LimitSet, client: Client, *, settling: bool = True) -> None:
        self._api = api
        self._client = client
        self._settling = settling
        self.asked = 0
        self.waits: list[Wait] = []

    async def __call__(self, prompt: Prompt) -> None:
        self.asked += 1
        asked = now()
        async with self._api(tokens=prompt.tokens) as lease:
            self.waits.append(Wait(asked, now(), lease.waited, dict(lease.waited_for)))
            reply = await self._client.chat(prompt)
            if self._settling:
                lease.settle(tokens=reply.usage.total_tokens)


Ask = Callable[[Prompt], Awaitable[object]]


async def some_minutes(
    server: Server, ask: Ask, load: Load, minutes: int = MINUTES
) -> list[dict[str, float]]:
    """Hundreds of users, each of whom asks again as soon as there is a reply.

    Returns:
        The share of each limit that had been used by the end of the first minute, of the first
        two, and so on.
    """
    start = now()
    shares: list[dict[str, float]] = []
    for minute in range(1, minutes + 1):
        at(start + 60 * minute, lambda: shares.append(server.shares()))
    prompts = load.prompts()

    async def user() -> None:
        while now() < start + 60 * minutes:
            try:
                await ask(next(prompts))
            except Failed:
                pass
            except Refused:
                await asyncio.sleep(5)

    async with asyncio.TaskGroup() as users:
        for _ in range(USERS):
            users.create_task(user())
    assert len(shares) == minutes
    assert server.active == 0
    return shares


# The set of limits. Nothing to spare: it has the very limits of the server.


@each_load
async def test_nothing_is_refused_and_the_limit_that_binds_is_used_up_and_waited_for(
    load: Load,
) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    ask = Asker(limits(), server)
    shares = await some_minutes(server, ask, load)
    assert not server.refused
    assert min(share[load.binds] for share in shares) >= 0.95
    assert server.peak == AT_ONCE
    assert len(ask.waits) == server.admitted == server.served + server.failed
    assert min(server.failed, server.refunds, server.debts) > 0
    for wait in ask.waits:
        assert wait.told == pytest.approx(wait.granted - wait.asked, abs=1e-6)
        assert sum(wait.told_for.values()) == pytest.approx(wait.told, abs=1e-6)
    # While the bursts last only the slots are short. What is asked later runs into what binds.
    first = [wait.held_up_by for wait in ask.waits if 0 < wait.granted < 5]
    later = [wait.held_up_by for wait in ask.waits if wait.asked > 60]
    assert first
    assert set().union(*first) == {"concurrency"}
    assert len(later) > 50
    assert set().union(*later) == {load.binds}


@each_load
async def test_without_the_set_the_same_load_is_refused(load: Load) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    await some_minutes(server, server.chat, load)
    assert server.refused[load.binds] > USERS


@pytest.mark.parametrize(
    ("load", "api"),
    [
        pytest.param(QUESTIONS, lambda: limits(tokens=math.inf), id="no tokens"),
        pytest.param(QUESTIONS, lambda: limits(tokens=TPM * 1.01), id="tokens 1 % too fast"),
        pytest.param(ONE_WORD, lambda: limits(requests=math.inf), id="no requests"),
        pytest.param(ONE_WORD, lambda: limits(requests=RPM * 1.01), id="requests 1 % too fast"),
        pytest.param(REASONING, lambda: limits(concurrency=0), id="no concurrency"),
        pytest.param(REASONING, lambda: limits(concurrency=AT_ONCE + 1), id="a slot too many"),
    ],
)
async def test_a_set_of_which_one_limit_is_too_loose_is_refused_by_that_one_alone(
    load: Load, api: Callable[[], LimitSet]
) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    await some_minutes(server, Asker(api(), server), load)
    assert set(server.refused) == {load.binds}


async def test_a_debt_that_is_not_settled_is_refused() -> None:
    load = Load("tokens", tokens=(600, 2_000), seconds=(1, 3), usage=(1.0, 1.1))
    server = Server(RPM, TPM, AT_ONCE)
    await some_minutes(server, Asker(limits(), server, settling=False), load)
    assert set(server.refused) == {"tokens"}


async def test_a_refund_that_is_not_settled_is_lost() -> None:
    load = Load("tokens", tokens=(600, 2_000), seconds=(1, 3), usage=(0.5, 0.7))
    server = Server(RPM, TPM, AT_ONCE)
    *_, used = await some_minutes(server, Asker(limits(), server, settling=False), load)
    assert not server.refused
    assert used["tokens"] < 0.7


async def test_those_who_give_up_leave_nothing_behind() -> None:
    server = Server(RPM, TPM, AT_ONCE)
    api = limits()
    ask = Asker(api, server)
    patience = random.Random(4)

    async def ask_for_a_while(prompt: Prompt) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience.uniform(0.1, 90)):
                await ask(prompt)

    shares = await some_minutes(server, ask_for_a_while, QUESTIONS)
    waiting_in_vain = ask.asked - len(ask.waits)
    served_in_vain = server.admitted - server.served - server.failed
    assert waiting_in_vain > USERS
    assert served_in_vain > 0
    assert not server.refused
    assert min(share["tokens"] for share in shares) >= 0.9  # what was served in vain is not in it
    assert api.waiting == 0
    await asyncio.sleep(60 * 1.2)  # any debt is paid off by then, and the bursts are there again
    assert not api.locked()
    assert api.delay(requests=RPM, tokens=TPM) == 0.0


async def test_the_batches_of_the_programs_keep_to_the_limits() -> None:
    server = Server(RPM, TPM, AT_ONCE)
    rng = random.Random(5)

    asked: dict[str, Prompt] = {}
    number = count()

    class Model:
        async def stream(self, prompt: str, max_tokens: int) -> AsyncIterator[tuple[str, int]]:
            call = replace(asked.pop(prompt), tokens=len(prompt) // 4 + max_tokens)
            reply = await server.chat(replace(call, usage=round(call.tokens * call.usage / 1_000)))
            yield "Here you are.", reply.usage.total_tokens

    pool = LimitPool([limits_of(Model(), RPM, TPM)])

    async def ask(prompt: Prompt) -> None:
        text = f"{next(number)}: " + "word " * rng.randrange(2_000)
        asked[text] = prompt
        await answer(pool, text, 1_000)

    per_mille = replace(QUESTIONS, tokens=(1_000, 1_000))
    shares = await some_minutes(server, ask, per_mille)
    assert not server.refused
    assert min(share["tokens"] for share in shares) >= 0.95
    assert server.peak == AT_ONCE


# With a network in between.

SLOWEST = 0.25  # a message may take so long, and the next one no time at all

UNDERRATED = replace(QUESTIONS, tokens=(600, 1_500), usage=(1.0, 1.2))

each_of_both = pytest.mark.parametrize(
    "load", [pytest.param(UNDERRATED, id="tokens"), pytest.param(ONE_WORD, id="requests")]
)


def slack(load: Load) -> tuple[float, float]:
    """What the budgets of the server can fall short of the client's, at the worst moment.

    A full budget gains nothing: while the first calls are on their way, that of the client fills up
    again and that of the server is still full. And of as many calls as there are slots, the server
    knows a debt that is on its way to the client.
    """
    debts = AT_ONCE * max(load.tokens) * (max(load.usage) - 1)
    return math.ceil(RPM / 60 * SLOWEST), math.ceil(TPM / 60 * SLOWEST + debts)


@each_of_both
async def test_with_a_network_in_between_the_slack_that_can_be_told_is_enough(load: Load) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    ask = Asker(limits(slack=slack(load)), Network(server, SLOWEST))
    shares = await some_minutes(server, ask, load)
    assert not server.refused
    assert min(share[load.binds] for share in shares) >= 0.95


@each_of_both
async def test_with_a_network_in_between_no_slack_is_too_little(load: Load) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    await some_minutes(server, Asker(limits(), Network(server, SLOWEST)), load, minutes=3)
    assert set(server.refused) == {load.binds}


# In real time, as there is a real connection for each call: so no clock is looked at here, and what
# is too early for a busy machine to tell is left to the tests above.


@pytest.mark.real_time
@pytest.mark.parametrize("throttled", [True, False])
def test_over_http_too_it_is_the_set_that_keeps_calls_from_being_refused(throttled: bool) -> None:
    load = Load("tokens", tokens=(100, 400), seconds=(0.02, 0.06))
    prompts = list(islice(load.prompts(), 150))
    failing = sum(prompt.fails for prompt in prompts)

    async def scene() -> Server:
        server = Server(requests=60, tokens=12_000, concurrency=8, period=0.5)
        api = LimitSet(  # a fifth of a second's worth of both is kept back, and the debts
            requests=Throttle(60, period=0.5, burst=36),
            tokens=Throttle(12_000, period=0.5, burst=6_700),
            concurrency=8,
        )
        async with serving(server) as client:
            ask = Asker(api, client) if throttled else client.chat
            outcomes = await asyncio.gather(*map(ask, prompts), return_exceptions=True)
        refused = sum(isinstance(outcome, Refused) for outcome in outcomes)
        assert server.served + server.failed + refused == len(prompts)
        return server

    # Never in debug mode, which takes milliseconds per request.
    server = asyncio.run(scene(), debug=False)
    if throttled:
        assert not server.refused
        assert server.failed == failing > 0
    else:
        assert server.refused["concurrency"] > len(prompts) // 2
    assert server.peak == 8


# The server alone.


async def test_a_budget_is_there_at_once_and_comes_back_at_its_rate_to_the_nanosecond() -> None:
    server = Server(RPM, TPM, AT_ONCE)
    await asyncio.sleep(3600)  # which brings no more than there was
    for _ in range(RPM):
        await server.chat(Prompt(tokens=1, usage=1, seconds=0))
    for too_early in (0.0, 0.06, 0.059999999):
        await asyncio.sleep(too_early)
        with pytest.raises(Refused) as refusal:
            await server.chat(Prompt(tokens=1, usage=1, seconds=0))
        assert refusal.value.limits == ("requests",)
    await asyncio.sleep(1e-9)
    assert now() == 3600 + 60 / RPM
    await server.chat(Prompt(tokens=1, usage=1, seconds=0))
    assert server.admitted == server.served == RPM + 1
    assert server.refused == {"requests": 3}  # and they have cost nothing


@pytest.mark.parametrize(
    ("usage", "left"), [(TPM, 0), (150_000, 50_000), (TPM + 60_000, -60_000), (None, 0)]
)
async def test_the_reply_corrects_what_was_reckoned(usage: int | None, left: int) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    if usage is None:
        with pytest.raises(Failed):
            await server.chat(Prompt(TPM, 0, seconds=0, fails=True))
    else:
        reply = await server.chat(Prompt(TPM, usage, seconds=0))
        assert reply.usage.total_tokens == usage
    assert server.used == TPM - left
    await asyncio.sleep(30 - 1e-9)
    with pytest.raises(Refused):
        await server.chat(Prompt(TPM // 2 + left, 0, seconds=0))
    await asyncio.sleep(1e-9)
    await server.chat(Prompt(TPM // 2 + left, 0, seconds=0))
    assert server.refused == {"tokens": 1}


async def test_until_the_reply_it_is_the_estimate_that_counts() -> None:
    server = Server(RPM, TPM, AT_ONCE)
    call = await queued(server.chat(Prompt(TPM, usage=0, seconds=1)))
    with pytest.raises(Refused):
        await server.chat(Prompt(1, usage=0, seconds=0))
    await call
    await server.chat(Prompt(TPM, usage=0, seconds=0))
    with pytest.raises(Refused):
        await server.chat(Prompt(TPM + 1, usage=0, seconds=0))


async def test_a_call_takes_a_place_until_it_is_over_however_it_ends() -> None:
    server = Server(RPM, TPM, AT_ONCE)
    prompt = Prompt(10, 10, seconds=5)
    hung_up, failing, *_ = [
        await queued(server.chat(each))
        for each in (prompt, replace(prompt, seconds=1, fails=True), *[prompt] * (AT_ONCE - 2))
    ]
    with pytest.raises(Refused) as refusal:
        await server.chat(prompt)
    assert refusal.value.limits == ("concurrency",)
    hung_up.cancel()
    await asyncio.wait([hung_up, failing])
    assert isinstance(failing.exception(), Failed)
    assert (server.active, server.peak) == (AT_ONCE - 2, AT_ONCE)
    await asyncio.sleep(3)
    assert server.shares()["concurrency"] == (4 * (AT_ONCE - 2) + 1 + 0) / (4 * AT_ONCE)


async def test_a_refusal_names_every_limit_that_was_reached() -> None:
    server = Server(requests=1, tokens=10, concurrency=1)
    await queued(server.chat(Prompt(10, 10, seconds=1)))
    with pytest.raises(Refused) as refusal:
        await server.chat(Prompt(10, 10, seconds=1))
    assert refusal.value.limits == ("requests", "tokens", "concurrency")
    assert server.refused == {"requests": 1, "tokens": 1, "concurrency": 1}


@pytest.mark.parametrize(("pace", "refusals"), [(1.0, 0), (0.999, 1)])
async def test_a_client_that_reckons_well_gets_in_and_a_hasty_one_does_not(
    pace: float, refusals: int
) -> None:
    server = Server(RPM, TPM, AT_ONCE)
    await server.chat(Prompt(TPM, TPM, seconds=0))
    for tokens in (1_000, 5_000, 200, 20_000):
        await asyncio.sleep(tokens * 60 / TPM * pace)
        try:
            await server.chat(Prompt(tokens, tokens, seconds=0))
        except Refused:
            break
    assert server.refused.total() == refusals
    assert server.shares()["tokens"] <= 1
