#!/usr/bin/env bash
# langchain-core 1.8.3, InMemoryRateLimiter.
#
# Guess: requests_per_second=50 admits 50 calls per second, whoever waits.
# It sleeps check_every_n_seconds (default 0.1) between two looks, and keeps at most max_bucket_size
# (default 1) tokens meanwhile: a single caller never gets more than 10 per second. Many callers do
# not help, as they look at the same instants.
# Seen: 15 calls at 50/s in one task take 1.5 s, not 0.3 s; the same with check_every_n_seconds=0.001
# take 0.3 s.
# For users: leave it out where another limiter is in front, or set check_every_n_seconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check langchain-core==1.8.3
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import time
from importlib.metadata import version

from langchain_core.rate_limiters import InMemoryRateLimiter


async def seconds(callers, **options):
    limiter = InMemoryRateLimiter(requests_per_second=50, **options)
    began = time.perf_counter()

    async def caller():
        for _ in range(15 // callers):
            await limiter.aacquire()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - began


alone, crowd = asyncio.run(seconds(1)), asyncio.run(seconds(15))
often = asyncio.run(seconds(1, check_every_n_seconds=0.001))
print(f"langchain-core {version('langchain-core')}: {alone:.2f} s alone, {crowd:.2f} s for 15, {often:.2f} s")
assert alone > 1.2 and crowd > 1.2, "it polls no longer"
assert often < 1.0
PYTHON
