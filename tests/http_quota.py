"""A server with a quota that others use as well, and a client that learns from its answers.

In virtual time. The server counts with the package's own rules, as calls arrive, and says in its
headers what it has left. Latencies are exponential, half of them on the way there. The client wants
more than there is; the outsider takes its share of the quota at random.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from async_throttle import FixedWindow, Throttle, TokenBucket, testing
from async_throttle.http import Learner

LIMIT, PERIOD, SPAN, LATENCY, SLOTS = 100, 10.0, 60.0, 0.3, 20
"""Calls per period, seconds, seconds of the whole, seconds, calls at once."""


@dataclass
class Outcome:
    """What became of the calls of the client, and of all that the server served.

    *together* is the most refusals in one window.
    """

    served: int = 0
    refused: int = 0
    used: int = 0
    together: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        served, refused = self.served + other.served, self.refused + other.refused
        together = max(self.together, other.together)
        return Outcome(served, refused, self.used + other.used, together)


class Server:
    """Counts calls as they arrive, in fixed windows from its start on, or in a bucket."""

    def __init__(self, rule: Any, outcome: Outcome) -> None:
        self.outcome = outcome
        self.throttle = Throttle(LIMIT, period=PERIOD, algorithm=rule)
        self.windows = rule is FixedWindow
        self.began = asyncio.get_running_loop().time()
        self.window = 0
        self.refused = Counter[int]()  # of the client, by window

    def refuses(self) -> None:
        """The client was refused in this window."""
        self.refused[self._window()] += 1
        self.outcome.refused += 1
        self.outcome.together = max(self.refused.values())

    def takes(self) -> bool:
        """Whether a call that arrives now is served."""
        if self.windows and self._window() > self.window:
            self.window = self._window()
            self.throttle = Throttle(LIMIT, period=PERIOD, algorithm=FixedWindow)
        taken = self.throttle.try_acquire()
        self.outcome.used += taken
        return taken

    def _window(self) -> int:
        return int((asyncio.get_running_loop().time() - self.began) / PERIOD)

    def headers(self, taken: bool) -> dict[str, str]:
        """What the server says after a call."""
        now = asyncio.get_running_loop().time() - self.began
        if self.windows:
            left = (self.window + 1) * PERIOD - now
        else:
            left = (LIMIT - self.throttle.level) * PERIOD / LIMIT
        told = {
            "X-RateLimit-Limit": str(LIMIT),
            "X-RateLimit-Remaining": str(max(0, math.floor(self.throttle.level))),
            "X-RateLimit-Reset-After": f"{max(0.0, left):.3f}",
        }
        if not taken:
            told["Retry-After"] = f"{self.throttle.delay():.3f}"
        return told


async def _calls(throttle: Throttle, server: Server, learner: Learner | None, chance: Any) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < server.began + SPAN:
        async with throttle(1) as lease:
            if loop.time() >= server.began + SPAN:
                return
            if learner is not None:
                learner.sent(throttle, lease)
            await asyncio.sleep(chance.expovariate(2 / LATENCY))
            taken = server.takes()
            headers = server.headers(taken)
            if not taken:
                server.refuses()
            await asyncio.sleep(chance.expovariate(2 / LATENCY))
            if learner is not None:
                learner.answered(throttle, lease, 200 if taken else 429, headers)
            elif not taken:  # nothing learnt but from refusals
                throttle.pause(float(headers["Retry-After"]), empty=True)
            server.outcome.served += taken


async def _outsider(server: Server, share: float, chance: random.Random) -> None:
    loop = asyncio.get_running_loop()
    while share and loop.time() < server.began + SPAN:
        await asyncio.sleep(chance.expovariate(share * LIMIT / PERIOD))
        server.takes()


def simulated(
    rule: Any, ours: Any, learner: Learner | None, *, share: float = 0.3, seeds: int = 5
) -> Outcome:
    """What became of the calls in so many runs: *rule* is the server's, *ours* the client's.

    An outsider takes *share* of the quota. Without *learner* the client pauses when it is refused,
    and learns nothing else.
    """

    async def run(seed: int) -> Outcome:
        chance = random.Random(seed)
        server = Server(rule, Outcome())
        throttle = Throttle(LIMIT, SLOTS, PERIOD, algorithm=ours)
        clients = [_calls(throttle, server, learner, chance) for _ in range(2 * SLOTS)]
        await asyncio.gather(_outsider(server, share, chance), *clients)
        return server.outcome

    total = Outcome()
    for seed in range(seeds):
        total += testing.run(run(seed))
    return total


def main() -> None:
    """Show what each way to learn is worth."""
    for rule, ours in (
        (TokenBucket, TokenBucket),
        (FixedWindow, TokenBucket),
        (FixedWindow, FixedWindow),
    ):
        for share in (0.0, 0.3):
            for learner in (None, Learner(), Learner(shared=True)):
                told = simulated(rule, ours, learner, share=share)
                name = "nothing" if learner is None else f"shared={learner._shared}"
                print(f"{rule.__name__:12} {ours.__name__:12} {share:3} {name:13} {told}")


if __name__ == "__main__":
    main()
