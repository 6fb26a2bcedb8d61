"""What came of the calls: a table, a picture, and the same for machines. No clock, no terminal.

Units: seconds, and tokens (a request that weighs 1 takes one).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, count, zip_longest
from typing import Any, NamedTuple

from async_throttle._demo.api import Limits
from async_throttle._demo.run import Request

LABEL = 8  # columns of the picture for the time
NUMBERS = 8  # and for the numbers beside a bar
LEAST, MOST = 60, 160  # columns: what is narrower wraps, what is wider is hard to read
MOST_ROWS = 10


class Glyphs(NamedTuple):
    """What the picture is drawn with."""

    served: str
    not_served: str
    limit: str
    cut_off: str


BLOCKS = Glyphs("█", "▒", "│", "▶")
ASCII = Glyphs("#", "x", "|", ">")


@dataclass(frozen=True, slots=True)
class Result:
    """A run that is over, and what there is to say of it."""

    name: str
    calls: int
    seconds: float
    requests: Sequence[Request]

    @property
    def served(self) -> int:
        return sum(r.answer.served for r in self.requests)

    @property
    def refused(self) -> int:
        return sum(r.answer.refused for r in self.requests)

    @property
    def failed(self) -> int:
        """Neither served nor refused: no answer, or one that means something else."""
        return len(self.requests) - self.served - self.refused

    @property
    def clean(self) -> bool:
        """Every call was served, and at the first attempt."""
        return self.served == self.calls == len(self.requests)

    @property
    def banned(self) -> float:
        """Seconds during which no request had a chance, as Retry-After told."""
        total = end = 0.0
        for r in sorted(self.requests, key=lambda r: r.done):
            until = r.done + r.answer.retry_after
            total += max(0.0, until - max(r.done, end))
            end = max(end, until)
        return total

    @property
    def sent_per_second(self) -> float:
        return self._per_second(r.weight for r in self.requests)

    @property
    def served_per_second(self) -> float:
        return self._per_second(r.weight for r in self.requests if r.answer.served)

    def _per_second(self, weights: Iterable[float]) -> float:
        return sum(weights) / self.seconds if self.seconds else 0.0  # a coarse clock saw no time

    def most_weight_in(self, window: float) -> float:
        """Sent in any half-open window."""
        most = total = 0.0
        inside: deque[Request] = deque()
        for r in sorted(self.requests, key=lambda r: r.sent):
            inside.append(r)
            total += r.weight
            while inside[0].sent <= r.sent - window:
                total -= inside.popleft().weight
            most = max(most, total)
        return round(most, 9)

    @property
    def most_at_once(self) -> int:
        """Requests in progress; where one ends and one begins, it ends first."""
        edges = sorted(edge for r in self.requests for edge in ((r.sent, 1), (r.done, -1)))
        return max(accumulate(change for _, change in edges), default=0)


def report(
    results: Sequence[Result],
    limits: Limits,
    promised: float,
    unit: str,
    glyphs: Glyphs,
    columns: int,
) -> str:
    """For people: a table, a picture, and what to make of them.

    Args:
        promised: the most weight in a period that the throttle is to let through.
        unit: what the weights count: "requests" if all of them are 1.
        glyphs: `BLOCKS`, or `ASCII` where those cannot be shown.
        columns: of the terminal.
    """
    shown = picture(results, limits, unit, glyphs, columns)
    return "\n\n".join([table(results, limits, promised, unit), shown, verdict(results[-1])])


def as_dict(results: Sequence[Result], limits: Limits) -> dict[str, Any]:
    """For machines; ready for `json.dumps`."""
    step = row_seconds(results)
    return {
        "ok": results[-1].clean,
        "limits": asdict(limits),
        "timeline_step": step,
        "runs": [
            {
                "name": r.name,
                "calls": r.calls,
                "sent": len(r.requests),
                "served": r.served,
                "refused": r.refused,
                "failed": r.failed,
                "seconds": round(r.seconds, 3),
                "seconds_banned": round(r.banned, 3),
                "sent_per_second": round(r.sent_per_second, 3),
                "served_per_second": round(r.served_per_second, 3),
                "most_in_a_period": r.most_weight_in(limits.period),
                "most_at_once": r.most_at_once,
                "timeline": [asdict(row) for row in timeline(r.requests, step)],
            }
            for r in results
        ],
    }


def verdict(result: Result) -> str:
    """One line on the run that counts.

    >>> verdict(Result("throttled", calls=120, seconds=6.0, requests=[]))
    'throttled: 0 of 120 calls served, 0 requests refused, 0 failed'
    """
    line = f"{result.name}: {result.served} of {result.calls} calls served, "
    line += f"{result.refused} requests refused, {result.failed} failed"
    for r in result.requests:
        if not (r.answer.served or r.answer.refused):
            return f"{line}, the first with {r.answer.problem}"
    return line


def table(results: Sequence[Result], limits: Limits, promised: float, unit: str) -> str:
    """The results side by side, and beside them what the limits allow."""
    burst = f", burst {limits.burst:g}" if limits.twin.bursts else ""
    rate = f"{limits.capacity / limits.period:g}{burst}"
    slots = str(limits.concurrency or "any number")
    rows = [
        ("", [r.name for r in results], "the limit"),
        ("requests sent", [str(len(r.requests)) for r in results], ""),
        ("  served", [f"{r.served} of {r.calls}" for r in results], ""),
        ("  refused", [str(r.refused) for r in results], ""),
        ("seconds", [f"{r.seconds:.1f}" for r in results], ""),
        ("seconds banned", [f"{r.banned:.1f}" for r in results], ""),
        (f"{unit} per second", [f"{r.sent_per_second:.1f}" for r in results], rate),
        ("  served", [f"{r.served_per_second:.1f}" for r in results], ""),
        (
            f"most {unit} in {limits.period:g} s",
            [f"{r.most_weight_in(limits.period):g}" for r in results],
            f"{promised:g}",
        ),
        ("most requests at once", [str(r.most_at_once) for r in results], slots),
    ]
    if any(r.failed for r in results):
        rows.insert(4, ("  failed", [str(r.failed) for r in results], ""))
    lines = (f"{a:<23}" + "".join(f"{b:>13}" for b in bs) + f"   {c}" for a, bs, c in rows)
    return "\n".join(line.rstrip() for line in lines)


# The picture.


@dataclass(frozen=True, slots=True)
class Row:
    """The weight that was sent in one stretch of time."""

    served: float
    not_served: float

    @property
    def sent(self) -> float:
        return self.served + self.not_served

    def __str__(self) -> str:
        return f"{self.served:g}" + (f"+{self.not_served:g}" if self.not_served else "")


def row_seconds(results: Iterable[Result]) -> float:
    """The first of 0.1, 0.2, 0.5, 1, 2 ... that needs few rows."""
    last = max((request.sent for r in results for request in r.requests), default=0.0)
    steps = (digit * 10.0**power for power in count(-1) for digit in (1, 2, 5))
    return next(step for step in steps if last < MOST_ROWS * step)


def timeline(requests: Iterable[Request], step: float) -> list[Row]:
    """The weight sent in each stretch of *step* seconds, from 0 to the last request."""
    sums: dict[tuple[int, bool], float] = {}
    for request in requests:
        key = math.floor(request.sent / step), request.answer.served
        sums[key] = round(sums.get(key, 0.0) + request.weight, 9)
    rows = max((n for n, _ in sums), default=-1) + 1
    return [Row(sums.get((n, True), 0.0), sums.get((n, False), 0.0)) for n in range(rows)]


def bar(row: Row, scale: float, allowed: float, width: int, glyphs: Glyphs) -> str:
    """One row, *width* columns for *scale*; whatever is not zero can be seen.

    >>> bar(Row(4, 8), scale=12, allowed=6, width=12, glyphs=ASCII)
    '####xx|xxxxx'
    """
    ends = [math.ceil(min(weight / scale, 1) * width) for weight in (row.served, row.sent)]
    cells = [*(glyphs.served * ends[0] + glyphs.not_served * (ends[1] - ends[0])).ljust(width)]
    if row.sent > scale:
        cells[-1] = glyphs.cut_off
    cells[min(width - 1, round(allowed / scale * width))] = glyphs.limit
    return "".join(cells)


def picture(
    results: Sequence[Result], limits: Limits, unit: str, glyphs: Glyphs, columns: int
) -> str:
    """What each run sent over time, side by side, a bar for each stretch, all to one scale."""
    step = row_seconds(results)
    timelines = [timeline(r.requests, step) for r in results]
    # What a stretch may take: of a bucket its share, beside the burst; of a window everything.
    periods = step / limits.period
    allowed = limits.capacity * (periods if limits.twin.bursts else math.ceil(periods))
    # The last run fits in. Those before may go off the scale, which is their point.
    scale = max([1.5 * allowed, *(row.sent for row in timelines[-1])])
    panel = (max(LEAST, min(MOST, columns)) - LABEL) // len(results)
    width = panel - NUMBERS

    burst = f", burst {limits.burst:g}" if limits.twin.bursts else ""
    lines = [
        f"{unit} in each {step:g} s:  {glyphs.served} served  {glyphs.not_served} not served  "
        f"{glyphs.limit} limit {allowed:g}{burst}",
        " " * LABEL + "".join(f"{r.name:<{panel}}" for r in results),
    ]
    for n, rows in enumerate(zip_longest(*timelines)):
        line = f"{round(n * step, 1):g} s  ".rjust(LABEL)
        for row in rows:
            shown = bar(row or Row(0, 0), scale, allowed, width, glyphs)
            line += f"{shown} {'' if row is None else str(row):<{NUMBERS - 1}}"
        lines.append(line)
    return "\n".join(line.rstrip() for line in lines)
