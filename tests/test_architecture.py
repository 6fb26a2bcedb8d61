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
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

import async_throttle
from async_throttle import buckets, exceptions, http, keyed, limits, resources, testing, threads

PACKAGE = Path(async_throttle.__file__).parent
ROOT = PACKAGE.parent

TIERS: list[set[str]] = [
    {"exceptions", "_units", "_decorator"},
    {"rules", "adaptive"},
    {"_engine"},
    {"_shell"},
    {"stores"},
    {"statistics"},
    {"_base", "_limiter"},
    {"throttle"},
    {"threads"},
    {"resources", "buckets", "limits", "keyed", "schedule", "testing"},
    {"http"},
    {"__init__", "pytest_plugin"},
    {"_demo"},
    {"__main__"},
]
"""Modules and subpackages from the bottom up: each may import its own parts, and tiers below."""

PURE = {"exceptions", "_units", "rules", "adaptive", "_engine"}
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

WITHIN = {
    "_engine": [
        *["lane", "overtaking", "patience", "backfill", "index", "decide", "queue"],
        *["foresight", "profile", "timetable", "bounds", "forecast", "check"],
        "__init__",
    ],
    "_shell": [
        *["states", "single", "alarm", "clock", "tally", "waiting", "fast", "refusals", "door"],
        *[
            "admission",
            "scheduler",
            "loop",
            "thread",
            "readings",
            "wall",
            "core",
            "following",
            "lease",
            "count",
            "quick",
            "flights",
            "__init__",
        ],
    ],
    "adaptive": ["_law", "_concurrency", "aimd", "gradient", "backoff", "__init__"],
    "limits": [
        *["_window", "_single", "_refusals", "_tokens", "_core", "_acquisition", "_face", "_set"],
        *["_pool", "_concurry"],
        "__init__",
    ],
    "http": [
        *["_scan", "_answer", "_families", "headers", "_known", "learner", "_leases", "__init__"],
        *["_calls", "_transport", "httpx", "httpx2", "aiohttp", "anthropic"],
    ],
    "resources": ["_call", "_limiters", "_timeouts", "_group", "_adaptive", "__init__"],
}
"""Modules of a subpackage from the bottom up; what only type checkers read may point up."""

WAITS = {
    "sleep": {"schedule", "stores"},
    "call_later": {"_shell", "stores"},
    "call_at": set[str](),
    "call_soon": {"_shell", "stores"},
    "call_soon_threadsafe": {"_shell", "stores", "http"},
    "create_task": {"schedule", "stores"},
    "ensure_future": set[str](),
    "run_in_executor": set[str](),
}
"""What takes time, or turns it into something else, and who calls it."""

BESIDE = {"testing", "pytest_plugin", "_demo", "__main__"}
"""What is no limiter."""

PUBLIC = [async_throttle, limits, resources, keyed, buckets, threads, exceptions, testing, http]

EXTRAS = {"pytest_plugin": {"pytest"}}
"""What a part that is there for another library may import of it."""

CLIENTS = {f"async_throttle.http.{name}": {name} for name in ("httpx", "httpx2", "aiohttp")}
"""What a module of a part may that is there for another library, where the rest is for all."""

DOCUMENTED = {("asyncio", "_get_running_loop"), ("sys", "_getframe")}
DOCUMENTED |= {(name, "_replace") for name in ("want", "booking")}
"""What Python documents in spite of its name."""

_MADE = "a lease is made without a call of __init__, which is half the cost of a block"
_WAITS = "a lease without a block is what the throttle's own lease() returns"
_BLOCK = "a block of a set or a measured throttle ends as that of the call it was made for"
REACHES = {
    ("limits._acquisition", "_lease"): "acquire() of concurry waits with a thread or not at all",
    ("limits._acquisition", "_epoch"): _MADE,
    ("limits._acquisition", "_timeout"): _MADE,
    ("_shell.count", "_in_flight"): "a lease says what its call holds to its own limits alone",
    ("_shell.admission", "_hold"): "a lease is filled in by the shell, not by its holder",
    ("_shell.fast", "_current_tasks"): "asyncio.current_task costs as much as a block in 3.11",
    ("_shell.fast", "_hold"): "a lease is filled in by the shell, not by its holder",
    ("_shell.fast", "_receipts"): "a shortcut of the lease of a set, kept with all others",
    ("limits._face", "_exit_again"): _BLOCK,
    ("limits._face", "_quit"): _BLOCK,
    ("limits._face", "_lease"): _WAITS,
    ("limits._face", "_wait"): _WAITS,
    ("throttle", "_exit"): _BLOCK,
    ("threads", "_lease"): _WAITS,
    ("threads", "_lease_async"): _WAITS,
    ("throttle", "_lease_async"): _WAITS,
    ("threads", "_of"): _MADE,
    ("throttle", "_epoch"): _MADE,
    ("throttle", "_state"): _MADE,
    ("throttle", "_timeout"): _MADE,
}
"""Names with an underscore that a module takes from another one, and why."""

LARGE = {
    "_shell.core.Core": "what a throttle is: each part that can stand alone does",
    "_shell.door.Door": "what comes in and what goes out: all that the one mark guards",
    "_engine.queue.Queue": "each method keeps invariants of one state; what only reads it is apart",
    "limits._acquisition.LimitSetAcquisition": "a lease on many limits, each settled by itself",
    "_engine.backfill.obstacle": "the proof is of the whole: two looks at the same claims",
    "_engine.queue.Queue._next_in_rank": "one pass over the lanes, in which each adds to the next",
    "_shell.fast.grab": "flattened: calls of methods of rules are most of its cost",
    "_shell.fast.FastLease.__aenter__": "flattened: a call would be a place to be interrupted at",
    "_shell.fast.grant_behind": "one grant, in the order in which an interrupt finds it undone",
    "_shell.fast.queue_behind": "flattened: five calls less for each caller that waits",
    "_base.BaseThrottle": "what both kinds of throttles have in common is said here, once",
    "_base.BaseThrottle.__init__": "a parameter a line",
    "_shell.core.Core.__init__": "a field a line",
    "stores._account.Account": "the units of both sides, and nothing else, are known here",
    "stores._session.Feeder": "what is asked, and what comes of it: two halves of one state",
    "stores._state.step": "what a request and a reply are is told there, once",
    "_demo.program.parse": "a list of the options, with their help",
    "http.aiohttp.throttled": "one statement; what each parameter means is told above it",
}
"""Classes and functions that are longer than others may be, and why."""


INTEGRATIONS = {*EXTRAS, "stores", "http"}
"""Parts that are there for another library: nothing else imports them."""

ASKS = {"async_throttle.limits._concurry": {"stores"}}
"""Who has one nevertheless, when it is needed: sets of mode "process" or "ray" live in a store."""


def part_of(path: Path) -> str:
    """The module or subpackage of the package that *path* belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """The name by which *path* is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


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
    for name in imports(parsed(path)):
        package, _, rest = name.partition(".")
        if package == PACKAGE.name:
            part = rest.split(".")[0]
            found.add(part if part in PARTS else "__init__")
    return found


def at_run_time(tree: ast.Module) -> ast.Module:
    """The same, without what only type checkers read."""

    class Without(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST:
            return ast.Pass() if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return cast(ast.Module, Without().visit(deepcopy(tree)))


def own_names(tree: ast.Module) -> set[str]:
    """Every name that *tree* defines: of functions, classes, variables, attributes and slots."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=slots):
                found = (each.value for each in ast.walk(slots) if isinstance(each, ast.Constant))
                names.update(name for name in found if isinstance(name, str))
    return names


def reaches(tree: ast.Module) -> Iterator[str]:
    """The private names of others that *tree* reaches for."""
    own = own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                continue
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if (name, attr) in DOCUMENTED:
                continue
            case ast.Attribute(attr=name) if name not in own:
                names = [name]
            case ast.ImportFrom(names=aliases, module=str(module)) if module != PACKAGE.name:
                names = [alias.name for alias in aliases]
            case _:
                continue
        yield from (name for name in names if name.startswith("_") and not name.startswith("__"))


def lengths(tree: ast.AST, within: str) -> Iterator[tuple[str, ast.AST, int]]:
    """Each class and function in *tree*, with its dotted name and its lines."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{within}.{node.name}"
            yield name, node, (node.end_lineno or 0) - node.lineno + 1
            yield from lengths(node, name)
        else:
            yield from lengths(node, within)


def called(tree: ast.AST) -> set[str]:
    """The last name of everything that is called anywhere in *tree*."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {ast.unparse(call).rpartition(".")[2] for call in calls}


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


def test_what_is_looked_for_is_seen() -> None:
    with pytest.raises(AssertionError, match="relative"):
        list(imports(ast.parse("from . import throttle")))
    tree = ast.parse("if TYPE_CHECKING:\n    import time\nif limits:\n    import ast")
    assert set(imports(at_run_time(tree))) == {"ast"}
    tree = ast.parse("x.y.sleep(1)\nfor _ in a: call_at()\nsoon = loop.call_soon\ng()(f(2))")
    assert called(tree) == {"sleep", "call_at", "f", "g", "g()"}


def test_the_files_are_found() -> None:
    assert {"_engine", "_shell", "_base", "_units", "throttle", "threads", "keyed"} <= PARTS
    assert {"rules", "limits", "exceptions", "__init__"} <= PARTS
    assert {"bucket", "window", "slots"} <= {path.stem for path in PACKAGE.glob("rules/*.py")}
    assert parts_imported(PACKAGE / "_engine" / "queue.py") == {"_engine", "_units", "rules"}
    assert "__init__" in parts_imported(PACKAGE / "_demo" / "run.py")


# ------------------------------------------------------------------------------- what imports what


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in PURE], ids=dotted)
def test_what_computes_and_what_decides_knows_no_clock_no_loop_and_no_thread(path: Path) -> None:
    found = list(imports(parsed(path)))
    assert not {name.split(".")[0] for name in found} & CLOCKS_AND_LOOPS
    # A date would do as a clock: only spans. The calendar makes dates of what it is told.
    if dotted(path) != "async_throttle.rules.clock":
        assert {name for name in found if name.startswith("datetime")} <= {"datetime.timedelta"}
    assert not called(parsed(path)) & {"now", "today", "utcnow"}


@pytest.mark.parametrize("facade", ["buckets.py", "resources/_limiters.py"])
def test_a_facade_has_no_waiting_and_no_timing_of_its_own(facade: str) -> None:
    tree = parsed(PACKAGE / facade)
    assert not {name.split(".")[0] for name in imports(tree)} & {*CLOCKS_AND_LOOPS, "heapq"}
    # It is made of throttles; _shell.single refuses to be copied, and has no state.
    below = {"__init__", "_units", "_decorator", "_shell", "exceptions", "throttle", "resources"}
    below |= {"statistics", "stores"}  # to name what its throttle tells, and where it lives
    assert parts_imported(PACKAGE / facade) <= below
    shell = {name for name in imports(tree) if "._shell" in name}
    assert {name.split(".")[2] for name in shell} <= {"single"}
    assert not any(isinstance(node, ast.While | ast.AsyncFor) for node in ast.walk(tree))
    if facade == "resources/_limiters.py":  # what it keeps is its throttle, and nothing is counted
        stored = [
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        ]
        assert set(stored) == {"_throttle", "_limiter"}
        assert not any(isinstance(node, ast.AugAssign) for node in ast.walk(tree))


def test_there_is_one_engine() -> None:
    """Sets, pools and throttles for threads have no queue of their own."""
    makers = {path for path in FILES if called(parsed(path)) & {"Queue", "_Future"}}
    assert {dotted(path).partition(".")[2] for path in makers} == {
        "_engine.foresight",
        "_shell.door",
    }


@pytest.mark.parametrize("call", WAITS)
def test_nothing_polls_and_a_timer_is_set_in_one_place(call: str) -> None:
    callers = {part_of(path) for path in FILES if call in called(parsed(path))}
    assert callers - BESIDE == WAITS[call]


def test_whatever_reads_the_clock_follows_the_virtual_one() -> None:
    readers = {dotted(path) for path in FILES if "time.monotonic_ns" in imports(parsed(path))}
    assert readers == {module.__name__ for module in testing.READ_THE_CLOCK}


@each_file
def test_the_arrows_only_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in TIER, f"{part} has no place in TIERS yet"
    for imported in parts_imported(path) - {part}:
        assert TIER[imported] < TIER[part], f"{part} imports {imported}"


@pytest.mark.parametrize("package", WITHIN)
def test_the_arrows_only_point_down_within_a_subpackage(package: str) -> None:
    height = {name: n for n, name in enumerate(WITHIN[package])}
    files = {path.stem: path for path in FILES if path.parent.name == package}
    assert set(files) == set(height)
    prefix = f"{PACKAGE.name}.{package}."
    for name, path in files.items():
        for found in imports(at_run_time(parsed(path))):
            if found.startswith(prefix):
                imported = found.removeprefix(prefix).split(".")[0]
                assert height[imported] < height[name], f"{name} imports {imported}"


def test_the_protocol_of_a_rule_does_not_know_the_rules() -> None:
    assert parts_imported(PACKAGE / "rules" / "__init__.py") <= {"_units"}


CORE = [path for path in FILES if part_of(path) not in INTEGRATIONS | {"_demo", "__main__"}]


@pytest.mark.parametrize("path", CORE, ids=dotted)
def test_the_core_imports_no_integration(path: Path) -> None:
    tree = at_run_time(parsed(path))  # it names them, to type checkers
    parts = {name.split(".")[1] for name in imports(tree) if name.startswith(f"{PACKAGE.name}.")}
    assert parts & INTEGRATIONS <= ASKS.get(dotted(path), set())


@each_file
def test_nothing_is_imported_that_python_does_not_bring(path: Path) -> None:
    allowed = {PACKAGE.name, *sys.stdlib_module_names, *EXTRAS.get(part_of(path), set())}
    allowed |= CLIENTS.get(dotted(path), set())
    assert {name.split(".")[0] for name in imports(at_run_time(parsed(path)))} <= allowed
    # Type checkers bring typing_extensions along.
    found = {name.split(".")[0] for name in imports(parsed(path))}
    assert found <= {*allowed, "typing_extensions"}


def test_there_is_no_runtime_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == []


def test_the_package_imports_where_nothing_is_installed() -> None:
    modules = [dotted(path) for path in FILES if part_of(path) not in EXTRAS]
    modules = [module for module in modules if module not in CLIENTS]
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


each_public_name = pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param(module, name, id=f"{module.__name__}.{name}")
        for module in PUBLIC
        for name in module.__all__
    ],
)


@pytest.mark.parametrize("name", async_throttle.__all__)
def test_what_is_exported_at_the_top_says_so(name: str) -> None:
    assert getattr(async_throttle, name).__module__ == "async_throttle"


LATER = {"adaptive", "limits", "resources", "keyed", "schedule", "testing", "buckets", "threads"}
"""The parts of the package that a throttle does without."""


def parts_loaded(script: str) -> set[str]:
    """The parts of the package that a new interpreter has imported after *script*."""
    script += "; import sys; print(*(name for name in sys.modules if name.startswith('async_')))"
    command = [sys.executable, "-W", "error", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    return {name.split(".")[1] for name in run.stdout.split() if "." in name}


def test_a_part_is_imported_when_it_is_first_asked_for() -> None:
    assert parts_loaded("import async_throttle") == set()
    assert parts_loaded("import async_throttle; async_throttle.ResourceError") == {"exceptions"}
    assert not parts_loaded("from async_throttle import Throttle; Throttle(1, 2)") & LATER
    assert parts_loaded("from async_throttle import *") > LATER - {"testing", "buckets"}
    for part in LATER:
        assert part in parts_loaded(f"import async_throttle; async_throttle.{part}")


def test_each_name_at_the_top_is_asked_for_where_type_checkers_find_it() -> None:
    found = set[tuple[str, str]]()
    for node in ast.walk(parsed(PACKAGE / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name):
            home = str(node.module).removeprefix(f"{PACKAGE.name}.")
            found.update((alias.name, home) for alias in node.names)
    assert found == set(async_throttle._HOMES.items())
    assert {name for name, _ in found} == set(async_throttle.__all__) <= set(dir(async_throttle))


def test_a_name_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(AttributeError, match="'async_throttle' has no attribute 'Trottle'"):
        async_throttle.Trottle  # type: ignore[attr-defined]  # noqa: B018


@each_public_name
def test_a_public_name_says_what_it_is_for_and_where_it_is_imported_from(
    module: ModuleType, name: str
) -> None:
    public = getattr(module, name)
    assert public.__doc__
    assert public.__doc__.strip()
    assert public.__qualname__ == name
    assert public.__module__ in {"async_throttle", module.__name__}
    assert getattr(importlib.import_module(public.__module__), name) is public


@each_public_name
def test_every_public_member_of_a_public_name_says_what_it_is_for(
    module: ModuleType, name: str
) -> None:
    public = getattr(module, name)
    if not inspect.isclass(public):
        return
    for attribute, member in inspect.getmembers(public):
        ours = attribute in {key for cls in public.__mro__ for key in vars(cls) if is_ours(cls)}
        described = inspect.isroutine(member) or isinstance(member, property)
        if ours and described and not attribute.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def test_the_map_of_the_package_shows_all_of_it() -> None:
    listed = async_throttle.__doc__ or ""
    missing = {
        part
        for part in PARTS - {"__init__"}
        if f"{part}.py" not in listed and f"{part}/" not in listed
    }
    assert missing == set()


def test_the_map_of_a_subpackage_shows_all_of_it() -> None:
    for package in (*WITHIN, "rules"):
        listed = importlib.import_module(f"async_throttle.{package}").__doc__ or ""
        for name in WITHIN.get(package, []):
            assert name == "__init__" or f"{name}.py" in listed


def is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == PACKAGE.name


@each_file
def test_what_a_module_lists_as_its_own_is_there_once_and_described(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    assert module.__doc__, "the first line says what it is for"
    names = list(getattr(module, "__all__", ()))
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


# ------------------------------------------------------------------- what is private, and how long


def test_a_private_name_of_another_module_is_seen() -> None:
    source = """
        import asyncio
        from async_throttle.limits import _hidden, shown
        class Here(Base):
            __slots__ = ("_slot",)
            def __init__(self):
                self._own = cls._at_all
                other._own, other._slot, other._method
                super()._inherited
                other._reached._again
                asyncio._get_running_loop()
                other.__class__
            def _method(self): ...
    """
    found = sorted(reaches(ast.parse(textwrap.dedent(source))))
    assert found == ["_again", "_hidden", "_reached"]


def test_no_module_reaches_for_the_private_names_of_another_but_for_a_reason() -> None:
    found: list[tuple[str, str]] = []
    for path in FILES:
        module = dotted(path).partition(".")[2]
        found += [(module, name) for name in reaches(parsed(path))]
    assert set(found) == set(REACHES)
    assert len(found) <= 27


def test_what_is_longer_than_the_rest_has_a_reason() -> None:
    tree = ast.parse("class A:\n  def b(): pass\n  if c:\n    d = 1")
    assert [(name, lines) for name, _, lines in lengths(tree, "m")] == [("m.A", 4), ("m.A.b", 1)]
    long = set()
    for path in FILES:
        module = dotted(path).partition(".")[2]
        for name, node, lines in lengths(parsed(path), module):
            if lines > (350 if isinstance(node, ast.ClassDef) else 50):
                long.add(name)
    assert long == set(LARGE)


# ------------------------------------------------------------------------------------- the examples


def examples(path: Path) -> list[doctest.DocTest]:
    """Every docstring of *path* that holds an example.

    Read from the source: a class that says another module as its own is passed over by doctest.
    """
    globs = vars(importlib.import_module(dotted(path)))
    found = []
    for node in ast.walk(parsed(path)):
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
    assert "async_throttle.throttle.Throttle" in names
    assert sum(len(examples(path)) for path in FILES) >= 10
