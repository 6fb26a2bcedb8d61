"""Batches for a language model: two keys, requests and tokens per minute for each of them.

Each call goes to the key that admits it first. It takes what it may cost at most, and settles what
it did cost once the last piece of the answer is there. Ctrl-C leaves the answers that there are.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TextIO

from async_throttle import LimitPool, LimitSet, Throttle


class Client(Protocol):
    """The API behind one key."""

    def stream(self, prompt: str, max_tokens: int) -> AsyncIterator[tuple[str, int]]:
        """Pieces of the answer, each with the number of tokens used so far."""
        ...


def limits_of(client: Client, requests: float, tokens: float) -> LimitSet:
    """What one key may do in a minute, and 20 calls at once."""
    return LimitSet(
        requests=Throttle(requests, period=60, burst=requests / 10),
        tokens=Throttle(tokens, period=60),
        config={"client": client},
        concurrency=20,
    )


async def answer(pool: LimitPool, prompt: str, max_tokens: int) -> str:
    """The answer of whichever key is free first."""
    async with pool(tokens=len(prompt) // 4 + max_tokens) as lease:
        used = 0
        pieces = []
        try:
            async for piece, so_far in lease.config["client"].stream(prompt, max_tokens):
                pieces.append(piece)
                used = so_far
        finally:
            if pieces:  # also if the stream broke off; a call that failed stays counted
                lease.settle(tokens=used)
        return "".join(pieces)


async def answer_all(
    pool: LimitPool,
    prompts: Sequence[str],
    max_tokens: int,
    done: Callable[[int, str], object],
    progress: TextIO = sys.stderr,
) -> None:
    """Answer the *prompts*; *done* is told of each answer as soon as it is there.

    When this is cancelled, as by Ctrl-C, the calls under way are, and give back their slots.
    """
    finished = 0

    async def one(n: int, prompt: str) -> None:
        nonlocal finished
        done(n, await answer(pool, prompt, max_tokens))
        finished += 1
        bar = "#" * (30 * finished // len(prompts))
        print(f"\r[{bar:30}] {finished}/{len(prompts)}", end="", file=progress, flush=True)

    try:
        async with asyncio.TaskGroup() as group:
            for n, prompt in enumerate(prompts):
                group.create_task(one(n, prompt))
    finally:
        print(file=progress)
