"""CPython as WebAssembly, in Node: no threads, no select, and the event loop of the host.

Node and npm must be there; the interpreter is fetched once and kept beside what pytest keeps from
one run to the next.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PYODIDE = "pyodide@314.0.7"  # CPython 3.14
ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache/d" / PYODIDE


@pytest.fixture(scope="module")
def node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on the path (Debian, Ubuntu: apt-get install nodejs npm)")
    return node


@pytest.fixture(scope="module")
def pyodide(node: str) -> Path:
    """The directory of the interpreter."""
    if not CACHE.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"no npm on the path to fetch {PYODIDE}")
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
            installed = Path(scratch) / "installed"
            options = ("--prefix", str(installed), "--ignore-scripts", "--no-audit", "--no-fund")
            try:
                subprocess.run(
                    [npm, "install", *options, PYODIDE],
                    check=True,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
            except (OSError, subprocess.SubprocessError) as error:
                complaint = getattr(error, "stderr", None) or error
                pytest.skip(f"npm cannot fetch {PYODIDE}: {str(complaint).strip()[:200]}")
            # In one step: of two test runs side by side, neither sees the half of it.
            with contextlib.suppress(OSError):
                installed.rename(CACHE)
    return CACHE / "node_modules/pyodide"


def test_nobody_hangs_where_the_loop_refuses_an_instant_that_has_come(
    node: str, pyodide: Path
) -> None:
    script = Path(__file__).with_name("pyodide_smoke.mjs")
    done = subprocess.run(
        [node, str(script), str(pyodide), str(ROOT)],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.stdout.strip(), done.returncode) == ("nothing went wrong", 0), done.stderr[-4000:]
