"""The demonstration: its options, and the order of events.

An API that counts as some server does is called with nothing, with what most programs have, and
with the throttle that is the server's twin. The table and the picture at the end say how that went.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from textwrap import wrap
from typing import TextIO
from urllib.parse import urlsplit

from async_throttle import Throttle
from async_throttle._demo.api import BAN, TRAVEL, Limits, serving
from async_throttle._demo.processes import Failed, Shared, in_processes
from async_throttle._demo.report import ASCII, BLOCKS, Glyphs, Result, as_dict, report
from async_throttle._demo.run import TRIES, Run
from async_throttle._demo.twins import TWINS, twin_of
from async_throttle.exceptions import ResourceError

SERVERS = [name for twin in TWINS for name in twin.names]
MOST_REQUESTS = 10_000  # a demonstration, not a load generator
MOST_PROCESSES = 32
URL_VARIABLE = "ASYNC_THROTTLE_REDIS_URL"

# The options.


@dataclass(frozen=True, slots=True)
class Options:
    limits: Limits
    weights: tuple[float, ...]  # one for each call
    seed: int
    url: str | None  # None: an API of our own
    all: bool  # unthrottled and plain first; otherwise throttled only
    json: bool
    processes: int  # with one, there is nothing to share
    store: str  # "sqlite", or a URL

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs, in order."""
        if self.processes > 1:
            return ("apart", "shared") if self.all else ("shared",)
        return ("unthrottled", "plain", "throttled") if self.all else ("throttled",)

    def throttle(self) -> Throttle:
        """A new throttle, which the server does not refuse."""
        return self.limits.twin.throttle(self.limits.said, self.limits.concurrency)

    def code(self, shared: bool = False) -> str:
        """The throttle as a program says it."""
        settings = self.limits.twin.settings(self.limits.said)
        numbers = f"{settings.pop('capacity'):g}, {self.limits.concurrency}"
        period = settings.pop("period", 1)
        numbers += f", {period:g}" if period != 1 else ""
        for name, value in settings.items():
            if isinstance(value, type):
                told = value.__name__
            else:
                told = repr(value) if isinstance(value, str) else f"{value:g}"
            numbers += f", {name}={told}"
        return f"Throttle({numbers}{', store=store, name=' + repr('api') if shared else ''})"

    @property
    def store_code(self) -> str:
        """The store as a program says it."""
        if self.store == "sqlite":
            return 'SQLiteStore("quota.db")'
        from async_throttle.stores.redis import RedisStore

        return repr(RedisStore(self.store))  # without any password

    @property
    def unit(self) -> str:
        return "requests" if set(self.weights) == {1.0} else "tokens"

    def __str__(self) -> str:
        """What is about to happen."""
        limits, calls = self.limits, len(self.weights)
        lines = []
        if self.url is None:
            rate = f"{limits.capacity:g} {self.unit} per {limits.period:g} s"
            burst = f", burst {limits.burst:g}," if limits.twin.bursts else ""
            counts = f"It counts as {limits.server} does"
            if limits.server == limits.twin.ledger:
                counts = "It keeps"
            at_once = f"{limits.concurrency or 'any number'} at once"
            about = (
                f"An API on loopback allows {rate}{burst} and {at_once}. {counts}: "
                f"{limits.twin.counts}. Calls travel for {TRAVEL[0]:g} to {TRAVEL[1] * 1e3:g} ms "
                f"each way. Whoever breaks a limit is banned for {BAN:g} s."
            )
            lines += wrap(about, 79)
        if self.processes > 1:
            lines += [f"{self.processes} processes make {calls} calls, each through"]
            lines += [f"               {self.code()}"]
            lines += ["  apart        each with a quota of its own"] if self.all else []
            lines += ["  shared       all with one quota, in", f"               {self.store_code}"]
            return "\n".join(lines)
        if self.all:
            lines += [
                f"  unthrottled  {calls} calls at once; each heeds Retry-After, {TRIES} times",
                "  plain        the same through a semaphore and a token bucket as usual",
            ]
        return "\n".join([*lines, f"  throttled    through {self.code()}"])

    def next(self) -> str:
        """What to do once this has been seen."""
        if self.processes > 1:
            begin, _, end = self.code(shared=True).partition("store=")
            code = [f"    throttle = {begin}store={end}"]
            if len(code[0]) > 79:
                code = [f"    throttle = {begin.rstrip()}", f"        store={end}"]
            lines = [
                "In a program of yours, once in each process, and around each call:",
                f"    store = {self.store_code}",
                *code,
                "    async with throttle: ...",
                "What they share, live: python -m async_throttle quota STORE",
            ]
            return "\n".join(lines)
        others = ", ".join([twin.names[0] for twin in TWINS if twin is not self.limits.twin][:4])
        lines = [
            "In a program of yours, once, and around each call:",
            f"    throttle = {self.code()}",
            "    async with throttle: ...",
            f"Other servers: --server {others} ...; yours: --url URL",
        ]
        return "\n".join(lines)


def positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")


def at_least_0(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text!r}")


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) <= most:
                return value
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")

    return parse


def server(text: str) -> str:
    """A name of `SERVERS`, however it is written."""
    plain = text.replace("_", "-").lower()
    if plain in SERVERS:
        return plain
    raise argparse.ArgumentTypeError(f"must be one of {', '.join(SERVERS)}, not {text!r}")


def weights(text: str) -> list[float]:
    return [positive(weight) for weight in text.split(",")]


def http_url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if known and "@" not in parts.netloc and all("!" <= c <= "~" for c in text):
            return text
    raise argparse.ArgumentTypeError(f"must be like http://host:port/path, not {text!r}")


def store(text: str) -> str:
    """Where processes may share a quota: "sqlite", or a URL."""
    if text == "redis":
        text = os.environ.get(URL_VARIABLE, "")
        if not text:
            raise argparse.ArgumentTypeError(f"must be a URL: there is no {URL_VARIABLE}")
    elif text != "sqlite" and "://" not in text:
        raise argparse.ArgumentTypeError(f"must be sqlite, redis, or a URL, not {text!r}")
    if text != "sqlite":
        from async_throttle.stores.redis import RedisStore

        try:
            RedisStore(text)
        except ValueError as error:  # which shows no password
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if a value is bad, and says which one, before anything is sent."""
    parser = argparse.ArgumentParser(
        prog="python -m async_throttle",
        description="Calls an API that limits how much per period and how many at once: with "
        "nothing, with a semaphore and a plain token bucket, and with the throttle that is the "
        "twin of the server; and shows the difference.",
        epilog="The API is started on loopback, counts exactly as the server does that is named, "
        f"and bans for {BAN:g} s whoever breaks a limit. Calls are on their way for up to "
        f"{TRAVEL[1] * 1e3:g} ms, and back. Exit status: 0 if all calls through the throttle were "
        "served and none was refused, 1 if not, 2 for a bad value.",
    )
    names = "; ".join(", ".join(twin.names) for twin in TWINS)
    for name, kind, default, text in (
        ("capacity N", positive, 20.0, "tokens per period (default 20)"),
        ("concurrency N", whole(0), 4, "requests at once, 0 for any number (default 4)"),
        ("period SECONDS", positive, 1.0, "length of the period (default 1)"),
        ("burst N", at_least_0, None, "as the server says it; windows have none (default 5)"),
        ("server NAME", server, "bucket", f"how it counts: {names} (default the first)"),
        ("requests N", whole(1, MOST_REQUESTS), 60, "calls to make (default 60)"),
        (
            "weights N,N,...",
            weights,
            [1.0],
            "tokens of each call, in turn; the header X-Weight (default 1)",
        ),
        ("seed N", whole(0), 0, "of the times that calls take (default 0)"),
        ("url URL", http_url, None, "GET this http or https URL instead, throttled only"),
    ):
        option, metavar = name.split()
        parser.add_argument(f"--{option}", type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--processes",
        type=whole(1, MOST_PROCESSES),
        metavar="N",
        help="make the calls in N processes: each with a throttle, then all with one quota",
    )
    parser.add_argument(
        "--store",
        type=store,
        metavar="STORE",
        help="where that is: sqlite, a file of its own (default); the URL of Redis; or redis, with "
        f"the URL of {URL_VARIABLE}; in 4 processes, if that is not said",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="with --url: the other two first, which really break the limits of that server",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no report")
    given = parser.parse_args(argv)

    if given.burst is not None and not twin_of(given.server).bursts:
        parser.error(f"argument --burst: {given.server} has none, got {given.burst:g}")
    if given.all and given.url is None:
        parser.error("argument --all: only with --url")
    if given.store is not None and given.processes == 1:
        parser.error("argument --store: one process shares with nobody")
    processes = given.processes or (1 if given.store is None else 4)
    burst = min(5.0, given.capacity) if given.burst is None else given.burst
    options = Options(
        Limits(given.capacity, given.concurrency, given.period, burst, given.server),
        tuple(islice(cycle(given.weights), given.requests)),
        given.seed,
        given.url,
        given.all or given.url is None,
        given.json,
        processes,
        given.store or "sqlite",
    )
    try:
        most = options.throttle().burst
    except ValueError as error:  # such as a period below a nanosecond
        parser.error(str(error))
    if max(given.weights) > most:
        heaviest = f"{max(given.weights):g}"
        parser.error(f"argument --weights: {heaviest} never fits into a burst of {most:g}")
    return options


# The order of events.


@contextlib.asynccontextmanager
async def live(run: Run, out: TextIO) -> AsyncIterator[None]:
    """Shows how *run* gets on: a line that moves, or two plain ones if *out* is no terminal."""

    def line() -> str:
        now = Result(run.name, len(run.weights), run.seconds, run.requests)
        done = f"{'#' * (20 * now.served // now.calls):.<20}"
        return (
            f"{now.name:<11} [{done}] {now.served}/{now.calls} served, {now.refused} refused, "
            f"{f'{now.failed} failed, ' if now.failed else ''}{now.seconds:.1f} s"
        )

    async def redraw() -> None:
        while True:
            print(f"\r{line():<79.79}", end="", file=out, flush=True)
            await asyncio.sleep(0.1)

    terminal = out.isatty()
    if not terminal:
        print(line(), file=out, flush=True)
    drawing = asyncio.create_task(redraw()) if terminal else None
    try:
        yield
    finally:
        if drawing:
            drawing.cancel()
        print(f"\r{line():<79.79}" if terminal else line(), file=out, flush=True)


async def demonstrate(options: Options, out: TextIO) -> list[Result]:
    """The runs that the options ask for, one after the other, with an API for each of its own."""
    limits, results = options.limits, list[Result]()
    if options.processes > 1 and options.store != "sqlite":
        await asyncio.to_thread(Shared(options.store, "").store().readings)  # it is there
    for name in options.runs:
        if options.url and results:
            rest = limits.period * max(1.0, limits.burst / limits.capacity)
            print(f"waiting {rest:g} s for the server to recover", file=out, flush=True)
            await asyncio.sleep(rest)
        api = contextlib.nullcontext(options.url) if options.url else serving(limits, options.seed)
        with api as url, tempfile.TemporaryDirectory() as folder:
            run = Run(name, url, options.weights)
            where = os.path.join(folder, "quota.db") if options.store == "sqlite" else options.store
            async with live(run, out):
                if options.processes > 1:
                    shared = Shared(where, secrets.token_hex(8)) if name == "shared" else None
                    await in_processes(run, limits, options.processes, shared)
                elif name == "throttled":
                    await run.throttled(options.throttle())
                elif name == "plain":
                    await run.plain(limits)
                else:
                    await run.unthrottled()
            took = run.seconds if options.processes == 1 else run.last_answer
            results.append(Result(name, len(run.weights), took, run.requests))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration and returns its exit status.

    Args:
        argv: the arguments; those of the process if None.

    Raises:
        SystemExit: after ``--help``, and with status 2 for a bad value.
    """
    options = parse(argv)
    limits = options.limits
    if options.url and options.all:
        print(f"warning: about to break the limits of {options.url}", file=sys.stderr)
    if not options.json:
        print(options, end="\n\n", flush=True)
    try:
        results = asyncio.run(demonstrate(options, sys.stderr))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Failed, ResourceError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        asked = {"url": options.url, "seed": options.seed, "processes": options.processes}
        print(json.dumps(asked | as_dict(results, limits)))
    else:
        promised = options.throttle().guarantee(limits.period)
        columns = shutil.get_terminal_size().columns  # COLUMNS, or 80 where there is no terminal
        glyphs = glyphs_for(sys.stdout)
        print("\n" + report(results, limits, promised, options.unit, glyphs, columns))
        print("\n" + options.next())
    return 0 if results[-1].clean else 1


def glyphs_for(out: TextIO) -> Glyphs:
    """Block characters if *out* can take them."""
    try:
        "".join(BLOCKS).encode(out.encoding or "utf-8")  # StringIO has none
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS
