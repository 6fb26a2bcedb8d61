"""The results as text: what is promised and what was found, and the others at the same work."""

import math
import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TypeAlias

from .measure import Ratio, Samples
from .peers import Peers
from .rows import Answer, Chapter, Finding, Growth, Row

Table: TypeAlias = Sequence[Sequence[str]]
"""Rows of cells; the first row is the head."""


NOTES = """\
- Full and half full: checked on `level` before and after each run, not assumed.
- aiolimiter takes a weight by `await limiter.acquire(n)` only, which is compared as it is.
- Rate-limited waiters: 20,000 per second, burst 1,000, all started at once, on the real loop;
  the time that the process sleeps does not count.
- "Flat" and "the same cost" are taken to be met up to a ratio of 1.25, and 1.1 for weights
  and for memory behind a head that waits.
- Memory is what tracemalloc counts; net is less that of a task on a future made before.
- Quadratic: left out where one run would take minutes. Hangs: still waiting after that time.
- Late is against the instant at which each is due, at 50 a second; the share of a core is that of
  all threads or tasks meanwhile. Those due at once wait for the interpreter to switch to each
  of them, which is why they stand beside bare locks.
- Chats that wait have a limit each, and one in common; a message to an idle chat passes them all.
- With a store on a server: time on the clock, one connection of redis-py or more for the peers, and
  quotas that refuse nobody, checked on each call. limits counts by its fixed window, its cheapest;
  throttled-py by GCRA; self-limiters takes and gives back a slot, as its bucket always sleeps.
- Bucket full: permits of the upper half of the burst are fetched ahead. Half full, where another
  process has the same limit: each call, or each batch of 64 tasks, asks. Alone, a process fetches
  ahead until the bucket is empty. Requests are scripts that the server was asked to run.
- Steps grow alike on every machine. Not yet: the slope is known to be steeper than promised. Met by
  now: it no longer is, and the mark in `growth.NOT_YET` may go, unless the run is a quick one."""


def report(
    found: Sequence[tuple[Chapter, Sequence[Finding]]],
    peers: Peers,
    *,
    markdown: bool,
    quick: bool,
) -> str:
    show = _markdown if markdown else _text
    blocks = ["\n".join(_circumstances(peers, quick))]
    for chapter, findings in found:
        growths = [finding for finding in findings if isinstance(finding, Growth)]
        if growths:
            blocks += [
                f"{chapter.subject}: steps (lines of code and calls) of one event, by how many "
                "wait, and the slope: 0 is flat, 1 linear, 2 quadratic.",
                show(_growths(growths, picture=not markdown)),
            ]
            continue
        rows = [finding for finding in findings if isinstance(finding, Row)]
        answers = [finding for finding in findings if isinstance(finding, Answer)]
        blocks += [
            f"{chapter.subject}, and what it promises: medians of paired runs, with quartiles.",
            show(_promises(chapter.subject, rows)),
        ]
        compared = [row for row in rows if row.others]
        if chapter.peers and compared:
            blocks += [
                f"{chapter.subject}'s cost divided by that of the others (and theirs): "
                "below 1 it is cheaper.",
                show(_others(compared, chapter.peers)),
            ]
        if answers:
            blocks += ["What happens:", show(_answers(chapter.subject, answers))]
    return "\n\n".join([*blocks, NOTES])


def _circumstances(peers: Peers, quick: bool) -> list[str]:
    """Without these the numbers say nothing."""
    lines = [
        f"{date.today()}, async-throttle {_version()}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} CPUs",
        ", ".join(f"{peer.name}: {peer.says}" for peer in peers if peer.module is not None),
    ]
    lines += [f"NOT MEASURED: {peer.name}: {peer.says}" for peer in peers if peer.module is None]
    if quick:
        lines.append("QUICK: too small and too few runs for the numbers to mean anything.")
    return lines


def _promises(subject: str, rows: Sequence[Row]) -> Table:
    return [
        ["work", subject, "compared with", "ratio", "target", "verdict"],
        *map(_promise, rows),
    ]


def _promise(row: Row) -> Sequence[str]:
    if isinstance(row.ours, str):
        return [row.work, row.ours, row.baseline, "", _target(row), "NOT MEASURED"]
    ours = _cost(row.ours, row.unit)
    theirs, spread, met = row.baseline, str(row.theirs), None
    if row.most is not None:
        met = median(row.ours) <= row.most
    if not isinstance(row.theirs, str):
        theirs = f"{row.baseline}: {_cost(row.theirs, row.unit)}"
        ratio = Ratio.of(row.ours, row.theirs)
        spread = f"{ratio.median:.3f} [{ratio.low:.3f} - {ratio.high:.3f}]"
        if row.target is not None:
            met = ratio.median <= row.target
    return [row.work, ours, theirs, spread, _target(row), _verdict(met)]


def _target(row: Row) -> str:
    if row.most is not None:
        return f"<= {_cost([row.most], row.unit)}"
    return "" if row.target is None else f"<= {row.target:g}"


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "MISSED"


def _answers(subject: str, answers: Sequence[Answer]) -> Table:
    return [
        ["question", subject, answers[0].peer, "wanted", "verdict"],
        *(
            [each.question, each.ours, each.theirs, each.wanted, _verdict(each.ours == each.wanted)]
            for each in answers
        ),
    ]


SLOPE = 10
"""Columns of a picture for a slope of 1."""


def _growths(growths: Sequence[Growth], picture: bool) -> Table:
    width = max(len(each.counts) for each in growths)
    blank = [""] * width
    head = ["event", *blank, "slope", *(["0 to 2, | promised"] if picture else []), "verdict"]
    table = [head]
    crowd = ""
    for each in growths:
        if each.crowd != crowd:
            crowd = each.crowd
            sizes = [f"n = {size:,}" for size in each.counts]
            table.append([f"{crowd}:", *sizes, *[""] * (len(head) - 1 - width)])
        table.append(
            [
                f"- {each.event}",
                *(f"{count:,}" for count in each.counts.values()),
                f"{each.slope:.2f} <= {each.most:g}",
                *([_slope(each)] if picture else []),
                _judged(each),
            ]
        )
    return table


def _judged(each: Growth) -> str:
    if each.not_yet:
        return "met by now" if each.kept else "not yet"
    return _verdict(each.kept)


def _slope(each: Growth) -> str:
    cells = [*("#" * round(min(2, each.slope) * SLOPE)).ljust(2 * SLOPE + 1)]
    cells[math.ceil(each.most * SLOPE)] = "|"
    return "".join(cells)


def _others(rows: Sequence[Row], names: Sequence[str]) -> Table:
    return [
        ["work", *names],
        *([row.work, *(_other(row, row.others.get(name, "")) for name in names)] for row in rows),
    ]


def _other(row: Row, theirs: Samples | str) -> str:
    if isinstance(theirs, str):
        return theirs
    if isinstance(row.ours, str):
        return row.ours
    return f"{Ratio.of(row.ours, theirs).median:.3f} ({_cost(theirs, row.unit)})"


_SCALES = {
    "s": (1.0, 3),
    "ms": (1e3, 2),
    "us": (1e6, 2),
    "ns": (1e9, 0),
    "B": (1.0, 0),
    "%": (1e2, 1),
    "requests": (1.0, 3),
}


def _cost(samples: Samples, unit: str) -> str:
    scale, digits = _SCALES[unit]
    return f"{median(samples) * scale:,.{digits}f} {unit}"


def _text(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _markdown(table: Table) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in table)
    return "\n".join([head, "|---" * len(table[0]) + "|", *body])


def _version() -> str:
    try:
        return metadata.version("async-throttle")
    except metadata.PackageNotFoundError:
        return "from this checkout"


def _processor() -> str:
    """The processor's name; `platform.processor` has none on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
