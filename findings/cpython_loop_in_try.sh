#!/usr/bin/env bash
# CPython 3.12 and later, shown with 3.14.2 as Pyodide 314.0.7 carries it: a jump back of a loop may
# lie outside of the try, or the with, that the loop stands in.
#
# Guessed: whatever is raised between "try:" and "finally:" passes through the finally block.
# Seen: CPython looks for signals at the jump back of a loop, and from 3.12 on the exception table
# leaves some of these jumps out. So a KeyboardInterrupt, or what a handler of SIGALRM raises, that
# comes there passes by finally, by except BaseException and by the __exit__ of a with. In 3.11 all
# of them are inside: (4, 52) covers 50, where 3.12.1 has (4, 44) for 44.
#
# What follows for code that must undo something: call a function from within the try, and let the
# loop turn there. The exception of a call comes at the call, which is inside.
#
# Output when it was written (is each jump back of the function inside?):
#   3.14 for in try: [False, True]
#   3.14 call in try: []
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
console.log(python.runPython(`
import dis, sys

def with_for(items):
    try:
        for item in items:
            if item:
                item()
    finally:
        items.append(0)

def with_call(items):
    try:
        with_for(items)
    finally:
        items.append(0)

def inside(function):
    covered = [(e.start, e.end) for e in dis.Bytecode(function).exception_entries if not e.lasti]
    jumps = [i.offset for i in dis.get_instructions(function) if "JUMP_BACKWARD" in i.opname]
    return [any(start <= jump < end for start, end in covered) for jump in jumps]

version = "%d.%d" % sys.version_info[:2]
f"{version} for in try: {inside(with_for)}\\n{version} call in try: {inside(with_call)}"
`));
process.exit(0);
PROGRAM
seen=$(node program.mjs)
echo "$seen"
[ "$seen" = "3.14 for in try: [False, True]
3.14 call in try: []" ]
