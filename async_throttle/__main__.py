"""``python -m async_throttle``: what the library is for, shown in about a quarter of a minute."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration and returns its exit status: see `_demo/program.py`."""
    print("async_throttle: starting ...", file=sys.stderr, flush=True)  # a slow disk takes seconds
    from async_throttle._demo import program

    return program.main(argv)


if __name__ == "__main__":
    sys.exit(main())
