"""``python -m async_throttle``: what the library is for, shown in about ten seconds.

An API with limits is called without a throttle, then through one; the table and the picture at
the end say how that went.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TextIO
from urllib.parse import urlsplit

from async_throttle import GCRA, FixedWindow, LeakyBucket, SlidingWindow, Throttle, TokenBucket
from async_throttle._demo.api import BAN, TOLERANCE, Limits, serving
from async_throttle._demo.report import ASCII, BLOCKS, Glyphs, Result, as_dict, report
from async_throttle._demo.run import TRIES, Run

ALGORITHMS = {
    "token-bucket": TokenBucket,
    "gcra": GCRA,
    "leaky-bucket": LeakyBucket,
    "sliding-window": SlidingWindow,
    "fixed-window": FixedWindow,
}
BURSTS = {"token-bucket": 5.0, "gcra": 5.0, "leaky-bucket": 1.0}  # the windows have none
MOST_REQUESTS = 10_000  # a demonstration, not a load generator

# The options.


@dataclass(frozen=True, slots=True)
class Options:
    limits: Limits
    weights: tuple[float, ...]  # one for each call
    seed: int
    url: str | None  # None: an API of our own
    both: bool  # unthrottled, then throttled; otherwise throttled only
    json: bool

    def throttle(self) -> Throttle:
        """A new throttle that keeps these limits."""
        limits = self.limits
        return Throttle(
            limits.capacity,
            limits.concurrency,
            limits.period,
            burst=limits.burst,
            algorithm=ALGORITHMS[limits.algorithm],
        )

    @property
    def unit(self) -> str:
        return "requests" if set(self.weights) == {1.0} else "tokens"

    def __str__(self) -> str:
        """What is about to happen."""
        limits, calls = self.limits, len(self.weights)
        numbers = f"{limits.capacity:g}, {limits.concurrency}, {limits.period:g}"
        burst = "" if limits.burst is None else f", burst={limits.burst:g}"
        rule = ALGORITHMS[limits.algorithm].__name__
        lines = []
        if self.url is None:
            rate = f"{limits.capacity:g} {self.unit} per {limits.period:g} s"
            at_once = f"{limits.concurrency or 'any number'} at once"
            lines += [
                f"An API on loopback allows {rate} and {at_once}. It forgives",
                f"{TOLERANCE * 1e3:g} ms of jitter, and bans for {BAN:g} s whoever breaks a limit.",
            ]
        if self.both:
            lines += [
                f"  unthrottled: {calls} calls at once; each obeys Retry-After, tries {TRIES} times"
            ]
        lines += [f"  throttled: {calls} calls via Throttle({numbers}{burst}, algorithm={rule})"]
        return "\n".join(lines)


def positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) <= most:
                return value
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")

    return parse


def algorithm(text: str) -> str:
    """The name in `ALGORITHMS`; SlidingWindow, sliding_window and sliding-window are the same."""
    for name in ALGORITHMS:
        if text.replace("-", "").replace("_", "").lower() == name.replace("-", ""):
            return name
    raise argparse.ArgumentTypeError(f"must be one of {', '.join(ALGORITHMS)}, not {text!r}")


def weights(text: str) -> list[float]:
    return [positive(weight) for weight in text.split(",")]


def http_url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if known and "@" not in parts.netloc and all("!" <= c <= "~" for c in text):
            return text
    raise argparse.ArgumentTypeError(f"must be like http://host:port/path, not {text!r}")


def parse(argv: Sequence[str] | None) -> Options:
    """Exits with status 2 if a value is bad, and says which one, before anything is sent."""
    parser = argparse.ArgumentParser(
        prog="python -m async_throttle",
        description="Calls an API that limits how much per period and how many at once, first "
        "without a throttle, then through one, and shows the difference.",
        epilog=f"The API is started on loopback and bans for {BAN:g} s whoever breaks a limit. It "
        f"forgives {TOLERANCE * 1e3:g} ms of jitter (a bucket holds that much more, a window "
        "forgets that much early), not one call too many at once. Exit status: 0 if all calls "
        "through the throttle were served and none was refused, 1 if not, 2 for a bad value.",
    )
    names = ", ".join(ALGORITHMS)
    for name, kind, default, text in (
        ("capacity N", positive, 20.0, "tokens per period (default 20)"),
        ("concurrency N", whole(0), 4, "requests at once, 0 for any number (default 4)"),
        ("period SECONDS", positive, 1.0, "length of the period (default 1)"),
        ("burst N", positive, None, "tokens at once (default 5, leaky-bucket 1, windows none)"),
        ("algorithm NAME", algorithm, "token-bucket", f"{names} (default the first)"),
        ("requests N", whole(1, MOST_REQUESTS), 120, "calls to make (default 120)"),
        (
            "weights N,N,...",
            weights,
            [1.0],
            "tokens of each call, in turn; the header X-Weight (default 1)",
        ),
        ("seed N", whole(0), 0, "of the API's service times (default 0)"),
        ("url URL", http_url, None, "GET this http or https URL instead, throttled only"),
    ):
        option, metavar = name.split()
        parser.add_argument(f"--{option}", type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--both",
        action="store_true",
        help="with --url: unthrottled first, which really breaks the limits of that server",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no report")
    given = parser.parse_args(argv)

    burst = BURSTS.get(given.algorithm) if given.burst is None else given.burst
    if given.algorithm not in BURSTS and burst is not None:
        parser.error(f"argument --burst: {given.algorithm} has none, got {burst:g}")
    most = given.capacity if burst is None else burst
    if max(given.weights) > most:
        name = "--capacity" if burst is None else "--burst"
        parser.error(f"argument --weights: {max(given.weights):g} never fits a {name} of {most:g}")
    if given.both and given.url is None:
        parser.error("argument --both: only with --url")
    options = Options(
        Limits(given.capacity, given.concurrency, given.period, burst, given.algorithm),
        tuple(islice(cycle(given.weights), given.requests)),
        given.seed,
        given.url,
        given.both or given.url is None,
        given.json,
    )
    try:
        options.throttle()
    except ValueError as error:  # such as a period below a nanosecond
        parser.error(str(error))
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
    for name in ("unthrottled", "throttled") if options.both else ("throttled",):
        if options.url and results:
            rest = limits.period * max(1.0, (limits.burst or 0.0) / limits.capacity)
            print(f"waiting {rest:g} s for the server to recover", file=out, flush=True)
            await asyncio.sleep(rest)
        api = contextlib.nullcontext(options.url) if options.url else serving(limits, options.seed)
        with api as url:
            run = Run(name, url, options.weights)
            async with live(run, out):
                if name == "throttled":
                    await run.throttled(options.throttle())
                else:
                    await run.unthrottled()
            results.append(Result(name, len(run.weights), run.seconds, run.requests))
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
    if options.url and options.both:
        print(f"warning: about to break the limits of {options.url}", file=sys.stderr)
    if not options.json:
        print(options, end="\n\n", flush=True)
    try:
        results = asyncio.run(demonstrate(options, sys.stderr))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if options.json:
        asked = {"url": options.url, "seed": options.seed}
        print(json.dumps(asked | as_dict(results, limits)))
    else:
        promised = options.throttle().guarantee(limits.period)
        print("\n" + report(results, limits, promised, options.unit, glyphs_for(sys.stdout)))
    return 0 if results[-1].clean else 1


def glyphs_for(out: TextIO) -> Glyphs:
    """Block characters if *out* can take them."""
    try:
        "".join(BLOCKS).encode(out.encoding or "utf-8")  # StringIO has none
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


if __name__ == "__main__":
    sys.exit(main())
