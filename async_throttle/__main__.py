"""``python -m async_throttle``: what the library is for, shown in about a quarter of a minute.

``python -m async_throttle quota``: the limits that processes share, as they stand.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration, or a command, and returns its exit status.

    See `_demo/program.py` and `stores/_quota.py`.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["quota"]:
        from async_throttle.stores._quota import main as quota

        return quota(given[1:])
    print("async_throttle: starting ...", file=sys.stderr, flush=True)  # a slow disk takes seconds
    from async_throttle._demo import program

    return program.main(given)


if __name__ == "__main__":
    sys.exit(main())
