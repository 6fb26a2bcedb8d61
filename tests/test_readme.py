"""Every code block of the README is run, and its output compared to what the README shows."""

import asyncio
import re
import sys
from collections.abc import Coroutine
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from async_throttle import testing

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$\n(?:^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
BLOCKS = [match.groups() for match in BLOCK.finditer(README)]
PYTHON = [(code, shown) for language, code, shown in BLOCKS if language == "python"]


def line_of(code: str) -> str:
    return f"line {README[: README.index(code)].count(chr(10)) + 1}"


def run_in_virtual_time(main: Coroutine[Any, Any, Any]) -> Any:
    return testing.run(main)


@pytest.mark.parametrize(("code", "shown"), PYTHON, ids=[line_of(code) for code, _ in PYTHON])
def test_python_block_prints_what_the_readme_shows(
    code: str, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "run", run_in_virtual_time)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == (shown or "")


def test_every_block_is_of_a_kind_that_is_run() -> None:
    fences = README.count("\n```") // 2
    shown = sum(1 for _, _, text in BLOCKS if text is not None)
    assert len(BLOCKS) + shown == fences
    assert {language for language, _, _ in BLOCKS} == {"python", "sh"}


def test_the_commands_are_run_by_the_checks_from_the_readme_itself() -> None:
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [code for language, code, _ in BLOCKS if language == "sh"]
    marks = re.findall(r"^<!-- (the .*?) -->\n```sh$", README, re.MULTILINE)
    assert len(marks) == len(commands) == 2
    for mark in marks:
        assert f'readme "{mark}"' in checks


@pytest.mark.skipif(sys.platform == "win32", reason="the checks are a shell script")
def test_the_table_of_algorithms_says_what_guarantee_says() -> None:
    import math

    from async_throttle import LeakyBucket, SlidingWindow, Throttle

    rows = {
        "39": Throttle(20),
        "24": Throttle(20, burst=5),
        "20": Throttle(20, algorithm=SlidingWindow),
    }
    for whole_calls, throttle in rows.items():
        most = throttle.guarantee(1)
        if throttle.algorithm is not SlidingWindow:
            most = math.ceil(most) - 1  # half-open windows, whole calls
        assert str(int(most)) == whole_calls
        assert whole_calls in README
    assert math.ceil(Throttle(20, algorithm=LeakyBucket).guarantee(1)) - 1 == 20
