"""The benchmark suite still runs: every row, far too small and too seldom to mean anything.

Run as a user runs it, in a process of its own. No number is looked at.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiolimiter", reason="the peers come with the extra 'bench'")

ROOT = Path(__file__).parents[1]
PEERS = ["asyncio.Semaphore", "aiolimiter", "asyncio-throttle", "throttler", "anyio"]
FORMER = "async-throttle 1.0"
GROUPS = 13


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


def test_every_row_is_measured_and_printed_in_two_tables() -> None:
    result = run("--markdown")

    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^\w+: [\d.]+ s$", result.stderr, re.MULTILINE)) == GROUPS
    (head, *promises), (others_head, *others) = tables(result.stdout)
    assert head == ["work", "Throttle", "compared with", "ratio", "target", "verdict"]
    for _, ours, _, ratio, target, verdict in promises:
        assert re.fullmatch(r"[\d.,]+ (ns|us|s|B)", ours)
        assert re.fullmatch(r"-?[\d.]+ \[-?[\d.]+ - -?[\d.]+\]", ratio)
        assert verdict in (("met", "MISSED") if target else ("",))
    assert others_head == ["work", *PEERS, FORMER]
    assert [row[0] for row in others] == [row[0] for row in promises]
    assert len({row[0] for row in promises}) == len(promises), "two rows of one name"


def test_a_peer_that_cannot_be_had_is_said_to_be_missing() -> None:
    result = run("--only", "uncontended")

    assert result.returncode == 0, result.stderr
    assert f"NOT MEASURED: {FORMER}: left out by --offline" in result.stdout
    assert re.search(r"^async with .* not measured$", result.stdout, re.MULTILINE)
    assert "QUICK" in result.stdout
