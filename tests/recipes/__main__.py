"""Test the recipes, each with its library.

What is not installed is skipped, and named at the end, with the command that installs it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

__all__ = ["RECIPES", "main"]

HERE: Final = Path(__file__).parent
ROW: Final = re.compile(r"^\| \[`with_(\w+)\.py`\]\(with_\1\.py\) \| (\S+) (\S+) \|", re.MULTILINE)

RECIPES: Final = {
    name: (package, version)
    for name, package, version in ROW.findall((HERE / "README.md").read_text(encoding="utf-8"))
}
"""By recipe, the package that it is for, and the version with which it is tested."""

TESTS: Final = ("test_recipes.py", "test_recipe_files.py", "test_recipe_table.py")


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def how(name: str) -> str:
    """The command that tests a recipe in an environment of its own."""
    package, version = RECIPES[name]
    folder = f".venv-{name}"
    return (
        f"python3 -m venv {folder} && "
        f"{folder}/bin/pip install --editable '.[test]' {package}=={version} && "
        f"{folder}/bin/python -m tests.recipes {name}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Test the recipes that are named, else all; 0 if all went well that could be tested."""
    parser = argparse.ArgumentParser(prog="python -m tests.recipes", description=__doc__)
    parser.add_argument("recipe", nargs="*", help=f"one of {', '.join(RECIPES)}; unset, all")
    wanted: list[str] = parser.parse_args(arguments).recipe
    for name in wanted:
        if name not in RECIPES:
            parser.error(f"no recipe is called {name!r}: {', '.join(RECIPES)}")
    command = [sys.executable, "-m", "pytest", "-q", "-rs"]
    command += ["-p", "no:looptime_plugin"]  # it leaves event loops open
    command += [str(HERE.parent / test) for test in TESTS]
    if wanted:
        names = {word for name in wanted for word in (name, RECIPES[name][0])}
        command += ["-k", " or ".join(sorted(names))]
    status = subprocess.run(command, cwd=HERE.parent.parent, check=False).returncode
    missing = [name for name in wanted or RECIPES if not installed(RECIPES[name][0])]
    if missing:
        print("\nNOT TESTED, as the library is not installed; each in an environment of its own:")
        print("\n".join(how(name) for name in missing))
    for name in wanted or RECIPES:
        package, version = RECIPES[name]
        if (found := installed(package)) not in (None, version):
            print(f"{package} {found} is installed; the table is of {version}")
    return status or (1 if wanted and missing else 0)


if __name__ == "__main__":
    sys.exit(main())
