#!/usr/bin/env bash
# Pyodide 314.0.7 (CPython 3.14.2) in Node: timers of its event loop.
#
# asyncio's own loops, and uvloop, take an instant that has passed for "as soon as possible", and
# end no sleep early by more than the resolution of the clock. Pyodide's loop
#
# 1. raises ValueError from `call_at` for an instant that has passed. Whoever computes an instant
#    and then asks for it can be too late by the microseconds in between.
# 2. calls at once whatever is 2 ms away or less: `asyncio.sleep(0.0019)` takes some 0.1 ms. So a
#    caller that sleeps until an instant, and looks again, looks dozens of times in the last 2 ms.
# 3. returns a Handle from `call_later` and `call_at`, not a TimerHandle: it has no `when()`.
#
# Output seen:
#   call_at: ValueError: Can't schedule in the past
#   sleeps of 1.9 ms that end within half of it: more than half
#   call_later: Handle, when(): False
#
# Needs Node and npm, beside Python.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --ignore-scripts --no-audit --no-fund pyodide@314.0.7 >/dev/null

cat > program.mjs <<'PROGRAM'
import { loadPyodide } from "pyodide";
const python = await loadPyodide();
console.log(await python.runPythonAsync(`
import asyncio
loop, lines = asyncio.get_running_loop(), []

try:
    loop.call_at(loop.time() - 0.001, print)
    lines.append("call_at: accepted")
except ValueError as error:
    lines.append(f"call_at: ValueError: {error}")

early = 0
for _ in range(100):
    began = loop.time()
    await asyncio.sleep(0.0019)
    early += loop.time() - began < 0.0019 / 2
share = "more" if early > 50 else "less"
lines.append(f"sleeps of 1.9 ms that end within half of it: {share} than half")

handle = loop.call_later(0.01, int)
lines.append(f"call_later: {type(handle).__name__}, when(): {hasattr(handle, 'when')}")
"\\n".join(lines)
`));
process.exit(0);
PROGRAM

node program.mjs > seen
cat seen
diff - seen <<'EXPECTED'
call_at: ValueError: Can't schedule in the past
sleeps of 1.9 ms that end within half of it: more than half
call_later: Handle, when(): False
EXPECTED
