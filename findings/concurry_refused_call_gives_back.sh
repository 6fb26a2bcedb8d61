#!/usr/bin/env bash
# concurry 0.13.2, `with limits.try_acquire() as call:` where the call is refused.
#
# Guess: a block around a call that got nothing gives nothing back. Their own tests enter one
# (test_limit_set_context_manager_on_failed_try_acquire), and look no further.
# At the end of the block it gives back what it had asked for: a slot that somebody else holds. The
# next caller gets it, so that there are two at once.
# Seen: one connection, held throughout. Free before the block: 0, after it: 1, and a call that
# asks for it now is granted.
# For users: look at `successful` before the block, as their documents do, and not within it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check concurry==0.13.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from concurry import LimitSet, ResourceLimit

connections = ResourceLimit(key="connections", capacity=1)
limits = LimitSet(limits=[connections])
held = limits.acquire()
free = [connections.get_stats()["available"]]
with limits.try_acquire() as call:
    assert not call.successful
free.append(connections.get_stats()["available"])
second = limits.try_acquire().successful
print(f"concurry {version('concurry')}: free {free}, a second holder: {second}")
assert free == [0, 1] and second, "a refused call gives nothing back by now"
PYTHON
