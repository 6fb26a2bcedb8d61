"""`python -m tests.adaptive`: draw the limit over time."""

import argparse
from collections.abc import Sequence

from async_throttle.adaptive import AIMD, BackOff, Gradient

from . import __doc__ as about
from .queueing import Caller, Client, Pacer, RateServer, Server, World, exponential

RULES = {"AIMD": AIMD, "Gradient": Gradient, "BackOff": BackOff}

WIDTH = 48  # columns of a bar
ROWS = 30
TIME = {"AIMD": 90.0, "Gradient": 90.0, "BackOff": 600.0}
CAPACITY = (20, 5, 80)  # of the server in each third of the time
SERVICE = 0.1  # mean seconds that a worker is busy with a call
DELAY = 0.01  # seconds that the network takes


def play(rule: str, clients: int) -> list[Caller]:
    """The clients, after all of their time."""
    world = World()
    third = TIME[rule] / 3
    callers: list[Caller]
    if rule == "BackOff":
        paced = RateServer(world, CAPACITY[0], burst=CAPACITY[0], delay=SERVICE)
        world.at(third, lambda: paced.resize(CAPACITY[1]))
        world.at(2 * third, lambda: paced.resize(CAPACITY[2]))
        # It begins far too high, since nobody knows what the server will bear.
        callers = [Pacer(paced, BackOff(), 10 * CAPACITY[0]) for _ in range(clients)]
    else:
        # A queue that is full refuses, and AIMD needs that; Gradient never sees it.
        server = Server(world, CAPACITY[0], exponential(SERVICE), room=20, delay=DELAY)
        world.at(third, lambda: server.resize(CAPACITY[1]))
        world.at(2 * third, lambda: server.resize(CAPACITY[2]))
        chosen = AIMD if rule == "AIMD" else Gradient
        callers = [Client(server, chosen(), chosen.start) for _ in range(clients)]
    world.run(TIME[rule])
    return callers


def picture(rule: str, callers: Sequence[Caller]) -> str:
    """A line for each stretch of time."""
    rate = rule == "BackOff"
    step = TIME[rule] / ROWS
    rows = []
    for n in range(ROWS):
        since, until = n * step, (n + 1) * step
        capacity = CAPACITY[3 * n // ROWS]
        able = capacity if rate else capacity / SERVICE
        alone = SERVICE if rate else SERVICE + DELAY
        best = capacity if rate else capacity * alone / SERVICE
        served = sum(c.rate(since, until) for c in callers)
        late = sum(c.rate(since, until) * c.latency(since, until) for c in callers) / (served or 1)
        drops = sum(c.drop_rate(since, until) for c in callers) * step
        limit = sum(c.mean_limit(since, until) for c in callers)
        rows.append((since, limit, best, served / able, late / alone, drops))
    scale = 1.25 * max(best for _, _, best, _, _, _ in rows)
    unit = "tokens per second" if rate else "slots"
    lines = [
        f"{rule}: the limit in {unit}, {len(callers)} client(s);  # limit  | best fixed",
        f"{'':>7}{'':{WIDTH + 1}}{'limit':>6}{'served':>8}{'latency':>9}{'drops':>7}",
    ]
    for since, limit, best, share, late, drops in rows:
        cells = [*("#" * round(min(1, limit / scale) * WIDTH)).ljust(WIDTH)]
        cells[min(WIDTH - 1, round(best / scale * WIDTH))] = "|"
        if limit > scale:
            cells[-1] = ">"
        lines.append(
            f"{since:>5.0f} s {''.join(cells)}{limit:>6.1f}{share:>8.0%}{late:>9.2f}{drops:>7.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.adaptive",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rule", choices=RULES, help="only this one")
    parser.add_argument("--clients", type=int, default=1, help="so many share the server")
    given = parser.parse_args()
    if given.clients < 1:
        parser.error(f"--clients must be at least 1, got {given.clients}")
    rules = [given.rule] if given.rule else list(RULES)
    print("\n\n".join(picture(rule, play(rule, given.clients)) for rule in rules))


if __name__ == "__main__":
    main()
