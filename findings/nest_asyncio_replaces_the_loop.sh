#!/usr/bin/env bash
# nest_asyncio 1.6.0 on CPython 3.11 to 3.13: what becomes of a loop class of one's own.
#
# In asyncio `run_until_complete` calls `run_forever`, so a subclass that overrides `run_forever`
# (to set something up while the loop runs) has a hold on both. `nest_asyncio.apply()`
#
# 1. gives the class of the current loop a `run_until_complete` that does not call `run_forever`.
#    Subclasses inherit it: after `apply()` on a plain loop their `run_forever` is passed by.
# 2. called while a loop of the subclass runs, replaces the methods that the subclass itself
#    defines: for that loop and for each one that is made later.
#
# What asyncio sets on every way in and out is the loop's `_thread_id`, and so does nest_asyncio.
#
# Output seen:
#   before apply(): run_forever called 1 time
#   after apply() on a loop of the subclass, run_forever is of nest_asyncio
#   after apply() on a plain loop: called 0 times; _thread_id set: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nest_asyncio==1.6.0

cat > "$work/program.py" <<'PROGRAM'
import asyncio
import nest_asyncio

def new_class():
    class Own(asyncio.SelectorEventLoop):
        def run_forever(self):
            calls.append(self)
            super().run_forever()
    return Own

def run(loop):
    async def main():
        return loop._thread_id is not None
    calls.clear()
    return loop.run_until_complete(main())

calls = []
Own, Patched = new_class(), new_class()
run(Own())
print("before apply(): run_forever called", len(calls), "time")
nest_asyncio.apply(Patched())
print("after apply() on a loop of the subclass, run_forever is of", Patched.run_forever.__module__)
nest_asyncio.apply(asyncio.SelectorEventLoop())
marked = run(Own())
print(f"after apply() on a plain loop: called {len(calls)} times; _thread_id set: {marked}")
PROGRAM

"$work/venv/bin/python" "$work/program.py" | tee "$work/seen"
diff - "$work/seen" <<'EXPECTED'
before apply(): run_forever called 1 time
after apply() on a loop of the subclass, run_forever is of nest_asyncio
after apply() on a plain loop: called 0 times; _thread_id set: True
EXPECTED
