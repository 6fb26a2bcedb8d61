"""concurry's own tests of its limits, unchanged but for the lines that import them.

    python -m tests.concurry_suite

Fetches the source archive of concurry from the package index, takes its tests of limits, and lets
them import ours. What concurry has and `async_throttle.limits` has not (workers, sets across
processes) they import from concurry still. Nothing of concurry is kept here.

A test that does not pass has a reason in `REASONS`. The exit status is 1 where fewer pass than
`AT_LEAST`, where one fails that has no reason, and where one passes that has; it is 2 where the
tests cannot be run.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from async_throttle import limits

ROOT: Final = Path(__file__).resolve().parents[1]

RELEASE: Final = "concurry==0.13.2"

FILES: Final = ("limit", "limit_set", "limit_pool", "float_capacity", "async_acquire")
"""Those of its tests that are of limits. Two more are of its workers, with limits."""

AT_LEAST: Final = 150

MADE_BY_A_FUNCTION: Final = {"InMemorySharedLimitSet": "LimitSet", "NoOpLimitSet": "LimitSet"}
"""What concurry's function `LimitSet` makes within one process. Ours is a class."""

REASONS: Final[Mapping[str, tuple[str, ...]]] = {
    "looks at what is private: _impl, _current_usage, _limits_by_key, _lock, _released": (
        "float_capacity::TestFloatCapacityWithBucketAlgorithms::*",
        "float_capacity::TestCountingAlgorithmsRejectFractionalTokens::*",
        "float_capacity::TestIEEESurprises::*",
        "limit::TestResourceLimit::test_resource_limit_creation",
        "limit::TestResourceLimit::test_resource_limit_can_acquire",
        "limit::TestResourceLimit::test_resource_limit_get_stats",
        "limit::TestLimitThreadSafety::test_ratelimit_not_thread_safe",
        "limit_set::TestLimitSet::test_limit_set_creation",
        "limit_set::TestLimitSetSharedModes::test_limitset_thread_safety_non_shared",
        "async_acquire::TestAsyncContextManager::test_async_with_pattern",
    ),
    "starts concurry's workers, which take concurry's sets alone": (
        "async_acquire::TestAsyncAcquireWorkerIntegration::*",
        "async_acquire::TestAsyncAcquireSharedLimitsAcrossWorkers::*",
        "async_acquire::TestAsyncAcquireSharedCapacityEnforcement::*",
    ),
    "asks for a set across processes, or on ray": (
        "limit_set::TestLimitSetSharedModes::test_limitset_shared_process_mode",
        "limit_set::TestLimitSetSharedModes::test_limitset_acquire_works_across_modes",
        "async_acquire::TestAsyncAcquireDirectImplementations::*",
    ),
    "expects a misspelt name in a request to be left out: that limit would not hold": (
        "limit_set::TestUnknownLimitKeys::*",
    ),
    "expects RuntimeError where update() was forgotten or comes late: it hides the body's error": (
        "limit::TestLimitValidationEdgeCases::test_call_limit_explicit_request_missing_update_fails",
        "limit_set::TestLimitSet::test_limit_set_missing_updates",
        "limit_set::TestLimitSet::test_limit_set_update_after_release",
    ),
    "contradicts concurry's documents: window_seconds is no old name, validate_usage() raises, "
    "acquire() needs no amounts": (
        "limit::TestRateLimit::test_window_seconds_deprecated_alias",
        "limit::TestRateLimit::test_rate_limit_validate_usage",
        "float_capacity::TestLimitSetValidationWithFloatCapacity::test_validate_usage_warns_with_float",
        "limit_set::TestLimitSet::test_limit_set_missing_rate_limit_requested",
    ),
    "looks for other words in an error of the same kind": (
        "limit::TestResourceLimit::test_resource_limit_capacity_validation",
        "limit_set::TestLimitSet::test_limit_set_duplicate_keys",
        "limit_set::TestLimitSetSharedModes::test_limitset_non_shared_must_be_sync",
        "limit_set::TestLimitSetSharedModes::test_limitset_shared_invalid_mode",
        "limit_pool::TestLimitPoolCreation::test_limitpool_empty_raises_error",
        "async_acquire::TestAsyncAcquireBasicCorrectness::test_async_acquire_timeout_raises",
    ),
    "expects what pydantic does: text is read as a number, assignments raise its ValidationError": (
        "float_capacity::TestFloatCapacityConstruction::test_string_numeric_coerces",
        "limit_pool::TestLimitPoolCreation::test_limitpool_immutability",
    ),
    "expects LeastActiveLoad to be refused by pools, which can do it": (
        "limit_pool::TestLimitPoolCreation::test_limitpool_unsupported_algorithm_raises_error",
    ),
    "expects acquire() to block the event loop until it times out": (
        "async_acquire::TestAsyncAcquireDeadlockPrevention::test_sync_acquire_deadlocks_over_capacity",
    ),
}
"""Why tests of concurry do not pass: reason, and patterns of file::class::test."""


class CannotRun(Exception):
    """The tests cannot be run here; says why."""


def ours(source: str) -> str:
    """*source*, which imports from here what is here, and from concurry the rest.

    >>> print(ours("from concurry import LimitSet, Worker"))
    from async_throttle.limits import LimitSet; from concurry import Worker
    """
    lines = source.split("\n")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    for node in sorted(imports, key=lambda node: -node.lineno):
        if (node.module or "").split(".")[0] != "concurry":
            continue
        wanted = {name.name: MADE_BY_A_FUNCTION.get(name.name, name.name) for name in node.names}
        here = [
            name if name == there else f"{name} as {there}"
            for there, name in wanted.items()
            if name in limits.__all__
        ]
        rest = [there for there, name in wanted.items() if name not in limits.__all__]
        imported = [f"from async_throttle.limits import {', '.join(here)}"] * bool(here)
        imported += [f"from {node.module} import {', '.join(rest)}"] * bool(rest)
        lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + "; ".join(imported)]
    return "\n".join(lines)


def fetch(folder: Path) -> Path:
    """concurry's tests, from its source archive, unpacked in *folder*."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    try:
        subprocess.run([*pip, "--dest", str(folder), RELEASE], check=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        raise CannotRun(f"the source archive of {RELEASE} cannot be fetched: {error}") from None
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "tests"


def run(tests: Path, folder: Path) -> dict[str, bool]:
    """Whether each of the tests passes, by file::class::test."""
    folder.mkdir()
    shutil.copy(tests / "conftest.py", folder)
    for name in FILES:
        source = (tests / "core" / "limit" / f"test_{name}.py").read_text(encoding="utf-8")
        (folder / f"test_{name}.py").write_text(ours(source), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    report = folder / "report.xml"
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=no", "--no-summary"),
            *("--execution-modes", "sync,asyncio,thread,process", f"--junitxml={report}"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=600,
    )
    return dict(outcomes(report))


def outcomes(report: Path) -> Iterator[tuple[str, bool]]:
    """Of each test in the *report* of pytest, what it is called, and whether it passed."""
    for case in ElementTree.parse(report).iter("testcase"):
        where = case.get("classname", "").removeprefix("test_").replace(".", "::")
        yield f"{where}::{case.get('name')}", case.find("*") is None


def reason(test: str) -> str | None:
    """Why *test* does not pass, if that is known."""
    for why, patterns in REASONS.items():
        if any(fnmatchcase(test, pattern) for pattern in patterns):
            return why
    return None


def told(passed: Mapping[str, bool]) -> tuple[str, bool]:
    """What is to be said of the outcomes, and whether all is as it should be."""
    wrong = [
        f"FAILED, and there is no reason: {t}" for t, ok in passed.items() if not (ok or reason(t))
    ]
    wrong += [
        f"passed, though there is a reason: {t}" for t, ok in passed.items() if ok and reason(t)
    ]
    count = sum(passed.values())
    if count < AT_LEAST:
        wrong.append(f"FAILED: at least {AT_LEAST} were to pass")
    lines = [f"{count} of {len(passed)} tests of {RELEASE} pass unchanged. Of the others each"]
    for why in REASONS:
        others = sum(reason(test) == why for test, ok in passed.items() if not ok)
        lines.append(f"  {others:3}  {why}")
    return "\n".join([*lines, *wrong]), not wrong


def main() -> int:
    """Run them, and say what became of them."""
    if find_spec("concurry") is None:
        raise CannotRun("concurry is not installed: it comes with the extra 'bench'")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, well = told(run(fetch(folder), folder / "ours"))
    print(text)
    return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotRun as missing:
        print(f"CANNOT RUN: {missing}", file=sys.stderr)
        sys.exit(2)
