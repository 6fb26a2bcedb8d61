#!/usr/bin/env bash
# concurry 0.13.2, update() with more than was requested.
#
# Guess: what a call used beyond its estimate is taken from the limit, so that later calls wait; the
# log says that "excess usage will be constrained by limit capacity".
# It is logged and forgotten: only usage below the request changes anything, as a refund. Estimates
# that are too small let through as much more as they are too small, for ever.
# Seen: 100 tokens per hour, requested as 10 each: 10 calls go at once, which say that they used 90
# each. 900 tokens were used, and 0 (not -800) are left.
# For users: request the most that a call may use, and let update() give back the rest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check concurry==0.13.2
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version

from concurry import LimitSet, RateLimit, RateLimitAlgorithm

logging.disable(logging.WARNING)
bucket = RateLimitAlgorithm.TokenBucket
tokens = RateLimit(key="tokens", window="hour", algorithm=bucket, capacity=100)
limits = LimitSet(limits=[tokens])
used = 0
for _ in range(20):
    with limits.try_acquire(requested={"tokens": 10}) as call:
        if call.successful:
            used += 90
            call.update(usage={"tokens": 90})
left = tokens.get_stats()["available_tokens"]
print(f"concurry {version('concurry')}: {used} used of 100, {left:.0f} left")
assert used == 900 and 0 <= left < 10, "what is used is charged by now"
PYTHON
