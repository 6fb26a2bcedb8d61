#!/usr/bin/env bash
# langgraph 1.2.24, RetryPolicy without retry_on.
#
# Guess: it retries timeouts, which pass, and leaves errors alone that it does not know.
# It is the other way round: whatever is no subclass of a list of builtins is retried, and the
# builtin TimeoutError is an OSError, which is on that list. A limiter that refuses with a subclass of
# TimeoutError ("come back in 2 s") is given up at once; one that was closed for good is tried again.
# Seen: calls of a node that always fails, by error: TimeoutError 1, ConnectionError 3, Custom 3.
# For users: pass retry_on=(...) by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check langgraph==1.2.24
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy


class Custom(Exception):
    pass


class State(TypedDict):
    done: bool


async def calls_until_it_gives_up(error):
    calls = 0

    async def node(state):
        nonlocal calls
        calls += 1
        raise error("refused")

    graph = StateGraph(State)
    policy = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=False)
    graph.add_node("node", node, retry_policy=policy)
    graph.add_edge(START, "node")
    try:
        await graph.compile().ainvoke({"done": False})
    except error:
        pass
    return calls


errors = TimeoutError, ConnectionError, Custom
seen = {error.__name__: asyncio.run(calls_until_it_gives_up(error)) for error in errors}
print("langgraph", version("langgraph"), seen)
assert seen == {"TimeoutError": 1, "ConnectionError": 3, "Custom": 3}
PYTHON
