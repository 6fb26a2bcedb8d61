"""How the package is built, checked on its own source: what may import what, and what is public.

Rules compute, one queue decides, shells wait; the arrows only point down.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import async_throttle

PACKAGE = Path(async_throttle.__file__).parent
ROOT = PACKAGE.parent

TIERS: list[set[str]] = [
    {"exceptions", "_units"},
    {"rules"},
    {"_queue", "_alarm", "stores"},
    {"throttle", "threads"},
    {"resources", "buckets", "limits", "testing"},
    {"__init__", "pytest_plugin"},
    {"_demo"},
    {"__main__"},
]
"""Modules and subpackages from the bottom up: each may import its own parts, and tiers below."""

PURE = {"exceptions", "_units", "rules", "_queue"}
"""What is told the time: it reads no clock, runs in no event loop, starts no thread."""

CLOCKS_AND_LOOPS = {
    "asyncio",
    "concurrent",
    "multiprocessing",
    "sched",
    "select",
    "selectors",
    "signal",
    "threading",
    "_thread",
    "time",
}

EXTRAS = {"pytest_plugin": {"pytest"}}
"""What a module that is there for another library may import of it."""


def part_of(path: Path) -> str:
    """The module or subpackage of the package that *path* belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The name by which *path* is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted name of everything that is imported anywhere in *tree*, names included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    """The parts of this package that *path* imports."""
    found = set()
    for name in imports(ast.parse(path.read_text("utf-8"))):
        package, _, rest = name.partition(".")
        if package == PACKAGE.name:
            part = rest.split(".")[0]
            found.add(part if part in PARTS else "__init__")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = {part_of(path) for path in FILES}
TIER = {part: height for height, tier in enumerate(TIERS) for part in tier}

each_file = pytest.mark.parametrize("path", FILES, ids=[dotted(path) for path in FILES])


# --------------------------------------------------------------------- the checks can fail


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import time as t, math",
        "from time import monotonic_ns",
        "from time import *",
        "def read():\n    import time",
        "if TYPE_CHECKING:\n    from time import struct_time",
        "try:\n    import time\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_an_import_is_seen(source: str) -> None:
    assert "time" in {name.split(".")[0] for name in imports(ast.parse(source))}


def test_a_relative_import_is_refused() -> None:
    with pytest.raises(AssertionError, match="relative"):
        list(imports(ast.parse("from . import throttle")))


def test_the_files_are_found() -> None:
    assert {"rules", "_queue", "_units", "throttle", "exceptions", "__init__"} <= PARTS
    assert {"bucket", "window", "slots"} <= {path.stem for path in PACKAGE.glob("rules/*.py")}
    assert parts_imported(PACKAGE / "_queue.py") == {"_units", "rules"}
    assert "__init__" in parts_imported(PACKAGE / "_demo" / "run.py")


# ------------------------------------------------------------------------------- what imports what


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in PURE], ids=dotted)
def test_what_computes_and_what_decides_knows_no_clock_no_loop_and_no_thread(path: Path) -> None:
    found = list(imports(ast.parse(path.read_text("utf-8"))))
    assert not {name.split(".")[0] for name in found} & CLOCKS_AND_LOOPS
    # A date would do as a clock: only spans.
    assert {name for name in found if name.startswith("datetime")} <= {"datetime.timedelta"}


@each_file
def test_the_arrows_only_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in TIER, f"{part} has no place in TIERS yet"
    for imported in parts_imported(path) - {part}:
        assert TIER[imported] < TIER[part], f"{part} imports {imported}"


def test_the_protocol_of_a_rule_does_not_know_the_rules() -> None:
    assert parts_imported(PACKAGE / "rules" / "__init__.py") <= {"_units"}


@each_file
def test_nothing_is_imported_that_python_does_not_bring(path: Path) -> None:
    allowed = {PACKAGE.name, *sys.stdlib_module_names, *EXTRAS.get(part_of(path), set())}
    found = {name.split(".")[0] for name in imports(ast.parse(path.read_text("utf-8")))}
    assert found <= allowed


def test_there_is_no_runtime_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == []


def test_the_package_imports_where_nothing_is_installed() -> None:
    modules = [dotted(path) for path in FILES if part_of(path) not in EXTRAS]
    script = f"""
        import importlib, sys
        sys.path.insert(0, {str(ROOT)!r})
        for name in {modules!r}:
            importlib.import_module(name)
    """
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", textwrap.dedent(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# ----------------------------------------------------------------------------------- what is public


@pytest.mark.parametrize("name", async_throttle.__all__)
def test_a_public_name_says_what_it_is_for_and_where_it_is_imported_from(name: str) -> None:
    public = getattr(async_throttle, name)
    assert public.__doc__
    assert public.__doc__.strip()
    assert public.__module__ == "async_throttle"
    assert public.__qualname__ == name


@pytest.mark.parametrize("name", async_throttle.__all__)
def test_every_public_member_of_a_public_name_says_what_it_is_for(name: str) -> None:
    public = getattr(async_throttle, name)
    for attribute, member in inspect.getmembers(public):
        ours = attribute in {key for cls in public.__mro__ for key in vars(cls) if is_ours(cls)}
        described = inspect.isroutine(member) or isinstance(member, property)
        if ours and described and not attribute.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == PACKAGE.name


@each_file
def test_what_a_module_lists_as_its_own_is_there_once_and_described(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    assert module.__doc__, "the first line says what it is for"
    names = list(getattr(module, "__all__", ()))
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


# ------------------------------------------------------------------------------------- the examples


def examples(path: Path) -> list[doctest.DocTest]:
    """Every docstring of *path* that holds an example.

    Read from the source: a class that says another module as its own is passed over by doctest.
    """
    globs = vars(importlib.import_module(dotted(path)))
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            name = f"{dotted(path)}.{getattr(node, 'name', '')}".removesuffix(".")
            line = getattr(node, "lineno", 1) - 1
            if text and ">>>" in text:
                parser = doctest.DocTestParser()
                found.append(parser.get_doctest(text, globs, name, str(path), line))
    return found


@each_file
def test_the_examples_in_docstrings_do_what_they_say(path: Path) -> None:
    for example in examples(path):
        assert example.examples
        report = list[str]()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        failed, tried = runner.run(example, out=report.append)
        assert failed == 0, "".join(report)
        assert tried == len(example.examples)


def test_examples_are_found_where_doctest_alone_does_not_look() -> None:
    names = {example.name for example in examples(PACKAGE / "throttle.py")}
    assert {"async_throttle.throttle.Throttle", "async_throttle.throttle.guarantee"} <= names
    assert sum(len(examples(path)) for path in FILES) >= 10
