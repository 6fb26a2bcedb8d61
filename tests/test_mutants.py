"""The mutator: which faults it plants, and that it tells the dead from the living."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")


def faults(source: str) -> list[str]:
    """What becomes of the source."""
    source = textwrap.dedent(source).strip()
    old = source.encode()
    planted = [mutant.plant(old).decode() for mutant in mutants.mutants_of(old)]
    for text in planted:
        compile(text, "mutant", "exec")
    return planted


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("f(a < b)", ["pass", "f(a <= b)"]),
        ("f(a == b is c)", ["pass", "f(a != b is c)", "f(a == b is not c)"]),
        ("f(a not in b)", ["pass", "f(a in b)"]),
        ("f(a >= b)", ["pass", "f(a > b)"]),
        ("f(1)", ["pass", "f(2)", "f(0)"]),
        ("f(a + b)", ["pass", "f(a - b)"]),
        ("a -= b", ["pass", "a += b"]),
        ("f(a and b)", ["pass", "f(a or b)", "f((b))", "f((a))"]),
        ("f(a, b, c=d)", ["pass", "f(b, a, c=d)"]),
        ("f(max(a, b))", ["pass", "f(min(a, b))"]),
    ],
)
def test_each_kind_of_fault_is_planted(source: str, expected: list[str]) -> None:
    assert sorted(faults(source)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        '"""What it is."""',
        "def f(a: Literal[1]) -> Literal[2]: pass",
        "a: int",
        "__slots__ = ()",
        "assert a < b",
        "if TYPE_CHECKING:\n    a = 1",
        "import a, b",
        "from a import b",
        "@overload\ndef f(a, b=1): ...",
    ],
)
def test_what_tells_nothing_is_left_alone(source: str) -> None:
    assert faults(source) == []


def test_a_fault_changes_its_own_line_and_no_other_one() -> None:
    source = 'é = "ü"  # first\nif é < x:  # second\n    f()  # third\n'.encode()
    [mutant] = [each for each in mutants.mutants_of(source) if each.line == 2]
    assert mutant.what == "< becomes <="
    assert mutant.diff(source, "m.py") == (
        "@@ -2 +2 @@\n-if é < x:  # second\n+if é <= x:  # second"
    )


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small one, in which a test looks at one half of a module."""
    files = {
        "async_throttle/__init__.py": "",
        "async_throttle/wait.py": """
            import time

            def more(n):
                while n < 3:
                    time.sleep(0.01)
                    n = n.__add__(one)
                return n

            def unseen(a, b):
                print(max(a, b))

            one = 1
            """,
        "tests/test_wait.py": """
            from async_throttle.wait import more

            def test_more():
                assert more(1) == 3
            """,
        "tests/README.md": "| `wait.py` | wait | counting | 1 |",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "PATIENCE", (2.0, 8.0))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which takes half a second each time
    return tmp_path


def test_the_killed_are_told_from_the_survivors(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (checkout / "async_throttle/wait.py").read_bytes()
    assert mutants.main(["wait.py", "--lines", "7-11"]) == 1
    told = capsys.readouterr().out
    for fate in (
        "line 7: dropped: n = n.__add__(one): killed by tests/test_wait.py does not end",
        "line 8: dropped: return n: killed by tests/test_wait.py::test_more",
        "line 11: dropped: print(max(a, b)): SURVIVED",
        "line 11: max becomes min: SURVIVED",
        "2 of 4 killed (50.0%), 2 survived",
        "-    print(max(a, b))\n+    print(min(a, b))",
    ):
        assert fate in told
    assert (checkout / "async_throttle/wait.py").read_bytes() == before


def test_tests_that_fail_without_a_fault_are_not_used(checkout: Path) -> None:
    (checkout / "tests/test_wait.py").write_text("def test_red(): assert False")
    with pytest.raises(SystemExit, match="fails without any mutant"):
        mutants.main(["wait.py"])


# ----------------------------------------------------------------------------------- the table


def test_every_module_has_its_tests_in_the_table_and_no_other_has() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "async_throttle").rglob("*.py")
        if re.search(r"^(?:async )?(?:def|class) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(mutants.table()) == modules


def test_every_test_file_stands_in_the_tables() -> None:
    written = {f"tests/test_{name}.py" for name in re.findall(r"[a-z_]+", README)}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py")}
    assert files <= written
    for tests in mutants.table().values():
        assert set(tests) <= files
