"""``python -m async_throttle quota``: limits in a store, as they stand, and by hand.

::

    quota [STORE]                       what there is, live; Ctrl-C ends it
    quota [STORE] pause NAME [SECONDS]  nobody goes; without a number, until `resume`
    quota [STORE] resume NAME
    quota [STORE] set NAME capacity=200 period=60 burst=50 concurrency=8
    quota [STORE] reset NAME

`--json` prints an object; live, one in each line:

store       the store, as repr() has it
now         its time, in seconds since 1970
limits      a list, by name, of `Reading.as_dict`

Keys are added in later versions, and none is taken away.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO

from async_throttle.exceptions import ResourceError, StoreUnavailable
from async_throttle.stores import Store
from async_throttle.stores._operator import Operator
from async_throttle.stores._reading import Reading
from async_throttle.stores._view import ASCII, BLOCKS, Glyphs, cut, frame, line, plain, view

__all__ = ["main"]

URL_VARIABLE: Final = "ASYNC_THROTTLE_REDIS_URL"
PREFIX: Final = "async_throttle:"
COMMANDS: Final = ("show", "pause", "resume", "set", "reset")
PARAMETERS: Final = ("capacity", "period", "burst", "concurrency")

HOME, TO_LINE_END, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
ALL: Final = "\x1b[2J"
"""What a terminal is told: cursor to the corner; clear the rest of the line, of the screen; all."""


class Mistake(Exception):
    """What is wrong, in one sentence."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Attributes:
        store: a file or a URL; None to go by the environment.
        command: "show", "pause", "resume", "set" or "reset"; name: of the limit.
        seconds: of a pause.
        parameters: to be set.
    """

    store: str | None
    command: str
    name: str
    seconds: float
    parameters: dict[str, float]
    prefix: str
    once: bool
    json: bool
    every: float


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m async_throttle quota",
        usage="%(prog)s [STORE] [options]\n"
        "       %(prog)s [STORE] pause NAME [SECONDS]\n"
        "       %(prog)s [STORE] resume NAME\n"
        "       %(prog)s [STORE] set NAME capacity=200 period=60 ...\n"
        "       %(prog)s [STORE] reset NAME",
        description="Shows the limits that processes share in a store, and who uses them; or "
        "changes one by hand, for all. What is set holds until the programs say another value, or "
        "until it is reset: parameters as the programs say them, all there, and no pause.",
        epilog=f"Without STORE, the URL is that of the environment variable {URL_VARIABLE}, which "
        "is the place for a password. Exit status: 0, or 1 if something is wrong, which is said "
        "in one sentence.",
    )
    parser.add_argument(
        "words", nargs="*", metavar="STORE", help="the file of a SQLiteStore, or the URL of Redis"
    )
    parser.add_argument("--prefix", default=PREFIX, help="of the RedisStore (default %(default)s)")
    parser.add_argument("--once", action="store_true", help="show it once")
    parser.add_argument("--json", action="store_true", help="for machines, one object in a line")
    parser.add_argument(
        "--every", type=float, default=1.0, metavar="SECONDS", help="how often (default 1)"
    )
    return parser


def parse(argv: Sequence[str]) -> Options:
    """What the arguments mean.

    Raises:
        SystemExit: after ``--help``, and with status 2 if they mean nothing.
    """
    parser = _parser()
    given = parser.parse_intermixed_args(argv)
    if not 0.05 <= given.every <= 86_400:
        parser.error(f"argument --every: must be between 0.05 and 86400, not {given.every:g}")
    words: list[str] = given.words
    store = words.pop(0) if words and words[0] not in COMMANDS else None
    command, *rest = words or ["show"]
    seconds, parameters, most = math.inf, dict[str, float](), 1
    if command not in COMMANDS:
        parser.error(f"{command!r} must be one of {', '.join(COMMANDS)}")
    if command == "show":
        most = 0
    elif not rest:
        parser.error(f"{command}: the name of a limit is missing")
    if command == "pause" and len(rest) == 2:
        seconds = _number(parser, "seconds", rest.pop())
    elif command == "set":
        parameters = _parameters(parser, rest[1:])
        rest = rest[:1]
    if len(rest) > most:
        parser.error(f"{command}: {rest[-1]!r} is too much")
    name = rest[0] if rest else ""
    settings = given.prefix, given.once, given.json, given.every
    return Options(store, command, name, seconds, parameters, *settings)


def _number(parser: argparse.ArgumentParser, what: str, text: str) -> float:
    value = math.nan
    with suppress(ValueError):
        value = float(text)
    if math.isnan(value):
        parser.error(f"{what} must be a number, not {text!r}")
    return value


def _parameters(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, float]:
    told = {}
    for word in words:
        what, _, value = word.partition("=")
        if what not in PARAMETERS:
            parser.error(f"set: {word!r} must be NAME=NUMBER, with {', '.join(PARAMETERS)}")
        told[what] = _number(parser, what, value)
    if not told:
        parser.error(f"set: one of {', '.join(PARAMETERS)} is missing, such as capacity=200")
    return told


# -- the store --------------------------------------------------------------------------------


def opened(text: str | None, prefix: str) -> Store:
    """The store that is meant; nothing is asked of it yet.

    Raises:
        Mistake: it is none.
    """
    if text is None:
        text = os.environ.get(URL_VARIABLE)
        if not text:
            raise Mistake(f"say which store: a file, a URL, or {URL_VARIABLE} in the environment")
    try:
        if "://" in text:
            from async_throttle.stores.redis import RedisStore

            return RedisStore(text, prefix=prefix)
        from async_throttle.stores.sqlite import SQLiteStore

        if not os.path.exists(text):
            raise Mistake(f"there is no file {text!r}")
        if not os.path.isfile(text):
            raise Mistake(f"{text!r} is not a file")
        if not os.path.exists(text + ".lock"):  # its guard; the file itself is SQLite's alone
            raise Mistake(f"{text!r} is not the file of a store: there is no {text + '.lock'!r}")
        return SQLiteStore(text)
    except (ValueError, OSError) as error:
        raise Mistake(str(error)) from None


# -- what is shown ----------------------------------------------------------------------------


def document(store: Store, now: float, limits: Sequence[Reading]) -> dict[str, Any]:
    """For machines; see the module."""
    return {"store": repr(store), "now": now, "limits": [limit.as_dict() for limit in limits]}


class Screen:
    """Where it is shown: a terminal, on which the last picture is drawn over, or no terminal."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.encoding = getattr(out, "encoding", None) or "utf-8"  # StringIO has none
        self.terminal = out.isatty()
        self._drawn = False

    @property
    def glyphs(self) -> Glyphs:
        """What can be shown here."""
        return BLOCKS if plain("".join(BLOCKS), self.encoding) == "".join(BLOCKS) else ASCII

    @property
    def columns(self) -> int:
        """The width."""
        return shutil.get_terminal_size().columns  # COLUMNS, or 80 where there is no terminal

    def frame(self, store: Store, limits: Sequence[Reading]) -> list[str]:
        """All of it."""
        clock = time.strftime("%H:%M:%S")
        return frame(repr(store), clock, limits, self.columns, self.glyphs, self.encoding)

    def say(self, lines: Sequence[str]) -> None:
        """Print lines."""
        print(*lines, sep="\n", file=self.out, flush=True)

    def log(self, limits: Sequence[Reading]) -> None:
        """Print a line for each limit."""
        clock = time.strftime("%H:%M:%S")
        lines = [f"{clock} {line(limit, self.encoding)}" for limit in limits]
        self.say(lines or [f"{clock} no limit is in use"])

    def draw(self, lines: Sequence[str]) -> None:
        """Print lines over those before, as many as there is room for."""
        rows = shutil.get_terminal_size().lines - 1
        if len(lines) > rows > 0:
            more = len(lines) - rows + 1
            lines = [*lines[: rows - 1], cut(f"{more} lines more", self.columns, self.glyphs)]
        start = HOME if self._drawn else ALL + HOME
        self._drawn = True
        shown = "".join(f"{text}{TO_LINE_END}\n" for text in lines)
        self.out.write(f"{start}{shown}{TO_END}")
        self.out.flush()


def show(options: Options, store: Store, operator: Operator, screen: Screen) -> None:
    """Show all limits, once or until it is interrupted."""
    while True:
        try:
            now, readings = operator.readings()
        except StoreUnavailable as error:
            if options.once or not screen.terminal or options.json:
                raise
            told = cut(plain(str(error), screen.encoding), screen.columns, screen.glyphs)
            screen.draw([told, "It will be asked again."])
        else:
            limits = list(readings.values())
            if options.json:
                screen.say([json.dumps(document(store, now, limits))])
            elif options.once:
                screen.say(screen.frame(store, limits))
            elif screen.terminal:
                screen.draw(screen.frame(store, limits))
            else:
                screen.log(limits)
        if options.once:
            return
        time.sleep(options.every)


def change(options: Options, store: Store, operator: Operator, screen: Screen) -> None:
    """Do what the command says, and show the limit."""
    name = options.name
    if options.command == "pause":
        operator.pause(name, options.seconds)
    elif options.command == "resume":
        operator.resume(name)
    elif options.command == "reset":
        operator.reset(name)
    else:
        operator.set(name, **options.parameters)
    now, readings = operator.readings()
    limits = [readings[name]] if name in readings else []  # or nothing is kept of it any more
    if options.json:
        screen.say([json.dumps(document(store, now, limits))])
    elif limits:
        screen.say(view(limits[0], screen.columns, screen.glyphs, screen.encoding))
    else:
        screen.say([f"{plain(name, screen.encoding)}: all is there, and nobody uses it"])


def main(argv: Sequence[str], out: TextIO | None = None) -> int:
    """Run the command; its exit status.

    Raises:
        SystemExit: after ``--help``, and with status 2 if the arguments mean nothing.
    """
    options = parse(argv)
    screen = Screen(out or sys.stdout)
    try:
        store = opened(options.store, options.prefix)
        with Operator(store) as operator:
            (show if options.command == "show" else change)(options, store, operator, screen)
    except KeyboardInterrupt:
        return 0  # as everybody leaves it
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else its last flush complains
        return 0
    except (Mistake, LookupError, ValueError, TypeError, ResourceError) as error:
        print(f"quota: {plain(str(error))}", file=sys.stderr)
        return 1
    return 0
