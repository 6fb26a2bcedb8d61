"""Plant small faults in a module, one at a time, and see whether its tests notice.

    python -m tests.mutants async_throttle/rules/bucket.py
    python -m tests.mutants bucket.py --lines 100-140 --limit 30 --seed 2 --jobs 2

A mutant is *killed* when one of the tests fails or does not end, and *survives* otherwise: then
either a test is missing, or the fault makes no difference. Only a reader can tell the two apart.

The tests of a module are those that ``tests/README.md`` names. Each of their files is run by
itself, the quickest and deadliest first, until one fails; in profile ``mutants``, so that all
examples are the same in each run and none is shrunk. The checkout is never written to: mutants are
planted in a temporary copy of it.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

SIGNS: Final[dict[type[ast.AST], str]] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.And: "and",
    ast.Or: "or",
}
SWAPPED: Final = {
    one: other
    for pair in zip(list(SIGNS)[::2], list(SIGNS)[1::2], strict=True)
    for one, other in (pair, pair[::-1])
}
"""Each sign, and its neighbour in the table."""

DROPPED: Final = (
    *(ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete),
    *(ast.Return, ast.Raise, ast.Break, ast.Continue),
)
"""Statements that are replaced by `pass`; what contains others is not dropped as a whole."""

MEMORY: Final = 4 << 30
"""Bytes a test run may have: a mutant may fill a list for ever."""

PATIENCE: Final = (10.0, 5.0)
"""A test file hangs if it takes so many seconds, and so many times as long as it should."""

PYTEST: Final = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
except (ImportError, OSError, ValueError):
    pass
import pytest
sys.exit(pytest.main(["-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Mutant:
    """The bytes from *start* to *end* of a source, replaced.

    Attributes:
        line: where it is, counted from 1.
        what: which fault, in words.
    """

    line: int
    what: str
    start: int
    end: int
    replacement: str

    def plant(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def diff(self, source: bytes, name: str) -> str:
        before, after = (text.decode().splitlines() for text in (source, self.plant(source)))
        lines = difflib.unified_diff(before, after, name, name, n=0, lineterm="")
        return "\n".join(list(lines)[2:])


def mutants_of(source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}
    for node in _code(ast.parse(source)):
        for what, text in _faults(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            mutant = Mutant(node.lineno, what, start, end, text)
            found.setdefault((start, end, text), mutant)
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end))


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """What may be mutated: neither annotations, nor assertions, nor what only type checkers read.

    Nor what is inside an f-string: before Python 3.12 nobody knows where that is.
    """
    match node:
        case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.FunctionDef() if any(ast.unparse(d) == "overload" for d in node.decorator_list):
            return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for name, child in ast.iter_fields(node):
        if name not in ("annotation", "returns", "type_params"):
            for each in child if isinstance(child, list) else [child]:
                if isinstance(each, ast.AST):
                    yield from _code(each)


def _faults(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str]]:
    """The faults of this node itself, in words and as text that replaces it."""

    def changed(name: str, value: object) -> str:
        copy = deepcopy(node)
        setattr(copy, name, value)
        return ast.unparse(copy)

    def becomes(op: ast.AST, other: ast.AST) -> str:
        return f"{SIGNS[type(op)]} becomes {SIGNS[type(other)]}"

    match node:
        case ast.Compare(ops=ops):
            for n, op in enumerate(ops):
                other = SWAPPED[type(op)]()
                yield becomes(op, other), changed("ops", [*ops[:n], other, *ops[n + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPPED:
            other = SWAPPED[type(op)]()
            yield becomes(op, other), changed("op", other)
        case ast.BoolOp(op=op, values=values):
            other = SWAPPED[type(op)]()
            yield becomes(op, other), changed("op", other)
            for n, operand in enumerate(values):
                rest = [*values[:n], *values[n + 1 :]]
                text = changed("values", rest) if rest[1:] else f"({ast.unparse(rest[0])})"
                yield f"operand dropped: {ast.unparse(operand)}", text
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            yield f"{value} becomes {value + 1}", str(value + 1)
            yield f"{value} becomes {value - 1}", str(value - 1)
        case ast.Call(func=func, args=args):
            if isinstance(func, ast.Name) and func.id in ("min", "max"):
                other_name = "max" if func.id == "min" else "min"
                yield f"{func.id} becomes {other_name}", changed("func", ast.Name(other_name))
            elif not any(isinstance(arg, ast.Starred) for arg in args):
                for n, (one, two) in enumerate(pairwise(args)):
                    if ast.dump(one) != ast.dump(two):
                        what = f"swapped: {ast.unparse(one)}, {ast.unparse(two)}"
                        yield what, changed("args", [*args[:n], two, one, *args[n + 2 :]])
    if isinstance(node, DROPPED) and not _idle(node):
        first, *more = ast.unparse(node).splitlines()
        yield f"dropped: {first}{' ...' if more else ''}", "pass"


def _idle(node: ast.stmt) -> bool:
    """Whether it does nothing, or nothing but save memory or name names."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__" | "__match_args__")]):
            return True
    return False


def table() -> dict[str, list[str]]:
    """The tests of each module, both as paths from the root, as ``tests/README.md`` has them."""
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| ([^|]*) \|", text, re.MULTILINE)
    return {
        f"async_throttle/{module}": [f"tests/test_{name}.py" for name in tests.split()]
        for module, tests in rows
    }


_LEFT_OUT: Final = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis")


class Bench:
    """A copy of the checkout for each job, and how long each test file takes."""

    def __init__(self, scratch: Path, module: str, tests: Sequence[str], jobs: int) -> None:
        self.module = module
        self.source = (ROOT / module).read_bytes()
        self.kills = Counter[str]()
        self.seconds = dict.fromkeys(tests, 60.0)  # until it is known, which is at once
        self.copies = queue.SimpleQueue[Path]()
        copy = scratch / "0"
        for n in range(jobs):
            copy = scratch / str(n)
            shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
            self.copies.put(copy)
        for test in tests:
            seconds, failure = self._run(copy, test)
            if failure:
                raise SystemExit(f"{test} fails without any mutant: {failure}")
            self.seconds[test] = seconds

    def judge(self, mutant: Mutant) -> tuple[float, str]:
        """Seconds, and what killed it; empty if it survives."""
        copy = self.copies.get()
        planted = copy / self.module
        try:
            planted.write_bytes(mutant.plant(self.source))
            for stale in planted.parent.glob(f"__pycache__/{planted.stem}.*"):
                stale.unlink()  # or a mutant of the same size and second would be its predecessor
            total = 0.0
            for test in sorted(self.seconds, key=lambda t: self.seconds[t] / (1 + self.kills[t])):
                seconds, failure = self._run(copy, test)
                total += seconds
                if failure:
                    self.kills[test] += 1
                    return total, failure
            return total, ""
        finally:
            self.copies.put(copy)

    def _run(self, copy: Path, test: str) -> tuple[float, str]:
        least, times = PATIENCE
        began = perf_counter()
        run = subprocess.Popen(
            [sys.executable, "-c", PYTEST, test],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "HYPOTHESIS_PROFILE": "mutants"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = run.communicate(timeout=max(least, times * self.seconds[test]))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            return perf_counter() - began, f"{test} does not end"
        seconds = perf_counter() - began
        if run.returncode == 0:
            return seconds, ""
        names = re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", printed, re.MULTILINE)
        return seconds, names[0] if names else f"{test} exits with {run.returncode}"


def main(arguments: Sequence[str]) -> int:
    about, _, usage = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        "python -m tests.mutants",
        description=about,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="a module of the package; the end of its path will do")
    parser.add_argument("--tests", nargs="+", help="test files, instead of those in README.md")
    parser.add_argument("--lines", default="", help="only these, as in 10-20")
    parser.add_argument("--limit", type=int, help="so many at most, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of that choice")
    parser.add_argument("--jobs", type=int, default=1, help="at the same time")
    options = parser.parse_args(arguments)

    named = Path(options.file).as_posix()
    fitting = [p.relative_to(ROOT).as_posix() for p in (ROOT / "async_throttle").rglob("*.py")]
    modules = [m for m in fitting if f"/{m}".endswith(f"/{named}")]
    if len(modules) != 1:
        parser.error(f"{named} is the end of {modules or 'no path in the package'}")
    [module] = modules
    tests: list[str] = options.tests or table().get(module, [])
    if not tests:
        parser.error(f"tests/README.md names no tests of {module}; give --tests")
    source = (ROOT / module).read_bytes()
    first, _, last = options.lines.partition("-")
    lines = range(int(first or 1), int(last or first or 10**6) + 1)
    mutants = [mutant for mutant in mutants_of(source) if mutant.line in lines]
    if options.limit is not None and options.limit < len(mutants):
        chosen = random.Random(options.seed).sample(range(len(mutants)), options.limit)
        mutants = [mutants[n] for n in sorted(chosen)]

    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        bench = Bench(Path(scratch), module, tests, options.jobs)
        print(f"{module}: {len(mutants)} mutants,", end=" ")
        print(", ".join(f"{test} {seconds:.1f} s" for test, seconds in bench.seconds.items()))
        for n, (mutant, (seconds, killer)) in enumerate(
            zip(mutants, pool.map(bench.judge, mutants), strict=True), 1
        ):
            if not killer:
                survivors.append(mutant)
            fate = f"killed by {killer}" if killer else "SURVIVED"
            print(f"{n:4} line {mutant.line}: {mutant.what}: {fate}, {seconds:.1f} s", flush=True)
    killed = len(mutants) - len(survivors)
    share = f" ({killed / len(mutants):.1%})" if mutants else ""
    print(f"\n{killed} of {len(mutants)} killed{share}, {len(survivors)} survived")
    for mutant in survivors:
        print(f"\nline {mutant.line}: {mutant.what}\n{mutant.diff(source, module)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
