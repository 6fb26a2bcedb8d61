#!/usr/bin/env bash
# concurry 0.13.2, LimitPool over several accounts.
#
# Guess: a call goes to an account that has room, and is refused when none has.
# The balancer picks one set without a look at its limits, and that one is asked alone: try_acquire()
# is refused, and acquire() waits until its timeout, while another account is idle. Which one is
# asked next depends on how many calls went before, so that the same call succeeds a moment later.
# Seen: two accounts of one connection each, the first in use: of four calls in a row, each of which
# lets go at once, every other one is refused.
# For users: go round the pool yourself, once for each of its sets, before a call counts as refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check concurry==0.13.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from concurry import LimitPool, LimitSet, LoadBalancingAlgorithm, ResourceLimit

accounts = [LimitSet(limits=[ResourceLimit(key="connections", capacity=1)]) for _ in range(2)]
pool = LimitPool(limit_sets=accounts, load_balancing=LoadBalancingAlgorithm.RoundRobin)
held = accounts[0].acquire()

seen = []
for _ in range(4):
    call = pool.try_acquire()
    seen.append(call.successful)
    if call.successful:
        call.release()
held.release()
print(f"concurry {version('concurry')}:", seen)
assert seen == [False, True, False, True], "the idle account is asked by now"
PYTHON
