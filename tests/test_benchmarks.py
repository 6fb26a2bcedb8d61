"""The benchmark suite still runs: every row, far too small and too seldom to mean anything.

Run as a user runs it, in a process of its own. No number of seconds is looked at.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import servers_redis
from benchmarks import __main__ as suite
from benchmarks import growth
from support import QUICK

from async_throttle import Throttle

pytest.importorskip("aiolimiter", reason="the peers come with the extra 'bench'")

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[1]
PEERS = ["asyncio.Semaphore", "aiolimiter", "asyncio-throttle", "throttler", "anyio"]
FORMER = "async-throttle 1.0"
CONCURRY = "concurry"
STORES = ["limits", "pyrate-limiter", "throttled-py", "self-limiters"]
GROUPS = 35


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--offline", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each table: a head, then rows."""
    blocks = re.findall(r"(?:^\|.*\n?)+", markdown, re.MULTILINE)
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in block.splitlines()
            if not line.startswith("|---")
        ]
        for block in blocks
    ]


@pytest.mark.skipif(QUICK, reason="takes a quarter of a minute: not in profile quick")
def test_every_row_is_measured_and_printed_in_its_table() -> None:
    result = run("--markdown")

    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^\w+: [\d.]+ s$", result.stderr, re.MULTILINE)) == GROUPS
    throttle, others, limit_set, answers, crowds, stores, *beside = tables(result.stdout)
    chapters = ((throttle, "Throttle"), (limit_set, "LimitSet"), (stores, "Stores"))
    for (head, *promises), subject in chapters:
        assert head == ["work", subject, "compared with", "ratio", "target", "verdict"]
        for _, ours, _, ratio, target, verdict in promises:
            if verdict == "NOT MEASURED":  # there is no server
                assert ours == "not measured"
                assert "NOT MEASURED: a server of Redis: " in result.stdout
                continue
            assert re.fullmatch(r"[\d.,]+ (ns|us|ms|s|B|%|requests)", ours)
            measured = ratio != "not measured"
            assert not measured or re.fullmatch(r"-?[\d.]+ \[-?[\d.]+ - -?[\d.]+\]", ratio)
            absolute = target.endswith(("ms", "%", "B", "requests"))
            assert verdict in (("met", "MISSED") if target and (measured or absolute) else ("",))
        assert len({row[0] for row in promises}) == len(promises), "two rows of one name"
    assert others[0] == ["work", *PEERS, FORMER]
    assert [row[0] for row in others[1:]] == [row[0] for row in throttle[1:]]
    for head, *compared in beside:
        assert head == ["work", *STORES]
        assert {row[0] for row in compared} < {row[0] for row in stores}
    assert answers[0] == ["question", "LimitSet", CONCURRY, "wanted", "verdict"]
    assert [row[-1] for row in answers[1:]] == ["met"] * 3
    assert crowds[0] == ["event", "", "", "slope", "verdict"]
    assert {row[-1] for row in crowds[1:]} <= {"", "met", "met by now", "not yet"}


def test_a_peer_that_cannot_be_had_is_said_to_be_missing() -> None:
    result = run("--only", "uncontended")

    assert result.returncode == 0, result.stderr
    assert f"NOT MEASURED: {FORMER}: left out by --offline" in result.stdout
    assert re.search(r"^async with .* not measured$", result.stdout, re.MULTILINE)
    assert "QUICK" in result.stdout


def test_rows_without_a_server_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(kind: str) -> None:
        raise servers_redis.Missing("not today")

    monkeypatch.setattr(servers_redis, "program", missing)
    names = ["redis_alone", "redis_rate"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--offline", "--only", *names])
    suite.main()
    printed = capsys.readouterr().out
    why = "valkey: not today; redis: not today"
    assert f"NOT MEASURED: a server of Redis: {why}\n" in printed
    assert len(re.findall(r"^Redis.* not measured .* NOT MEASURED$", printed, re.MULTILINE)) == 2


@pytest.mark.parametrize("not_yet", [False, True])
def test_a_slope_that_is_steeper_than_promised_fails_the_run(
    not_yet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def crowd(n: int) -> growth.Counts:
        counts: growth.Counts = {}
        Throttle(1).try_acquire()  # what the first one makes for all
        with growth.counted(counts, "grant"):
            Throttle(1).try_acquire()
        with growth.counted(counts, "release"):
            for _ in range(n):
                Throttle(1).try_acquire()
        return counts

    monkeypatch.setattr(growth, "CROWDS", {"loops": crowd})
    monkeypatch.setattr(growth, "NOT_YET", {"release": ["loops"]} if not_yet else {})
    monkeypatch.setattr(suite, "Peers", lambda offline: ())
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--only", "growth"])
    if not_yet:
        suite.main()
    else:
        with pytest.raises(SystemExit, match=r"than promised: release among loops$"):
            suite.main()
    printed = capsys.readouterr().out
    assert re.search(r"- grant .* 0\.00 <= 0\.15 +\|  .* met", printed)
    assert re.search(r"- release .* 1\.00 <= 0\.15 +##\|####### ", printed)
