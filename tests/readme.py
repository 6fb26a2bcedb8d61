"""The blocks of the README: those that are run, those that are shown in part, and the commands.

    python -m tests.readme FOLDER

writes each program of the README to a file of its own, for type checkers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["BLOCKS", "EXCERPTS", "PYTHON", "README", "ROOT", "Block"]

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        source: the file of which it is an excerpt; None if it is whole.
        code: without the fences.
        shown: what the README shows below as its output; None for nothing.
    """

    source: str | None
    language: str
    code: str
    shown: str | None

    def __str__(self) -> str:
        return self.source or f"line {README[: README.index(self.code)].count(chr(10)) + 1}"


FENCED: Final = re.compile(
    r"(?:^<!-- from (\S+) -->\n)?^```(\w+)\n(.*?)^```$\n(?:^```text\n(.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
BLOCKS: Final = [Block(*match.groups()) for match in FENCED.finditer(README)]
PYTHON: Final = [block for block in BLOCKS if block.language == "python" and not block.source]
EXCERPTS: Final = [block for block in BLOCKS if block.source]


def main() -> None:
    """Write the programs."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(PYTHON, 1):
        (folder / f"block_{number}.py").write_text(block.code, encoding="utf-8")


if __name__ == "__main__":
    main()
