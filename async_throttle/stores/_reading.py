"""How a limit in a store stands: its state, as people and programs read it. No clock, no store.

Units: seconds, and tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Final

from async_throttle.stores._state import (
    BUCKET,
    BURST,
    CAPACITY,
    CLOCK,
    ENDS,
    FIXED,
    FLYING,
    HELD,
    KIND,
    NO_RATE,
    PERIOD,
    SEEN,
    SLIDING,
    SLOTS,
    TTL,
    WAITING,
    State,
    step,
)

__all__ = ["Parameters", "Reading", "SessionReading", "entry", "reading", "request"]

MILLION: Final = 1_000_000
"""Microseconds in a second, and millionths in a token."""

ALGORITHMS: Final = {
    NO_RATE: None,
    BUCKET: "bucket",
    SLIDING: "sliding window",
    FIXED: "fixed window",
    CLOCK: "clock window",
}
"""What the kinds of rates are called."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a limit allows.

    Attributes:
        capacity, period, burst: None without a rate.
        concurrency: None without a number of slots.
    """

    capacity: float | None
    period: float | None
    burst: float | None
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class SessionReading:
    """What a store knows of a throttle in a process.

    Attributes:
        name: unique; ``host/pid/address/number``.
        host, pid: of the process; the pid is None if the name does not say it.
        held: slots.
        in_flight: what its calls hold that have not ended, where calls count to their ends.
        waiting: callers that wait, as it said when it last came.
        seen: seconds since it last came.
        ttl: seconds after which what it holds comes back, if it does not come.
    """

    name: str
    host: str
    pid: int | None
    held: float
    in_flight: float
    waiting: int
    seen: float
    ttl: float


@dataclass(frozen=True, slots=True)
class Reading:
    """How a limit stands.

    Attributes:
        name: of the limit.
        algorithm: "bucket", "sliding window", "fixed window", "clock window"; None without a rate.
        now: what holds: `Parameters`.
        code: what the programs say. It differs from *now* where that was set by hand.
        level: tokens that are left, less what is in flight; negative in debt; None without a rate.
        active: slots that are held.
        in_flight: what calls hold that have not ended, where calls count to their ends.
        counts: "start" or "end".
        waiting: callers that wait, in all processes.
        paused: seconds until the pause ends; 0.0 without one, math.inf without an end.
        empties: whether nothing is left then.
        held_back: seconds for which no slots are granted, after the store has lost its state.
        sessions: those that live, by name.
    """

    name: str
    algorithm: str | None
    now: Parameters
    code: Parameters
    level: float | None
    active: float
    in_flight: float
    counts: str
    waiting: int
    paused: float
    empties: bool
    held_back: float
    sessions: tuple[SessionReading, ...]

    @property
    def by_hand(self) -> bool:
        """Whether somebody has set what the programs say differently."""
        return self.now != self.code

    def as_dict(self) -> dict[str, Any]:
        """For machines; ready for `json.dumps`, which knows no infinity.

        As the fields, but for these: the parameters are keys of their own; *by_hand* is added; and
        *pause* stands for *paused* and *empties*: None, or a dictionary of *left* (seconds, None
        without an end) and *empties*.
        """
        told = asdict(self)
        now, paused, empties = told.pop("now"), told.pop("paused"), told.pop("empties")
        left = None if paused == math.inf else paused
        told["pause"] = {"left": left, "empties": empties} if paused else None
        told["by_hand"] = self.by_hand
        return {"name": told.pop("name"), **now, **told}


def reading(name: str, state: State, now: float) -> Reading:
    """How the limit *name* stands by its state, at *now* by the clock of the store.

    Args:
        now: microseconds since 1970.
    """
    state = deepcopy(state)
    reply, _, _ = step(now, request([entry(state, [])], 0), [state])
    (told,) = reply["limits"]
    _, _, _, _, level, paused, _, active, flying, *_ = told
    set_ = state["set"]
    sessions = [_session(name, said, now) for name, said in sorted(state["sessions"].items())]
    return Reading(
        name=name,
        algorithm=ALGORITHMS.get(set_[KIND]),
        now=_parameters(set_),
        code=_parameters(state["code"]),
        level=None if set_[KIND] == NO_RATE else level / MILLION,
        active=active,
        in_flight=flying / MILLION,
        counts="end" if set_[ENDS] else "start",
        waiting=sum(session.waiting for session in sessions),
        paused=math.inf if paused < 0 else paused / MILLION,
        empties=bool(state["empties"]),
        held_back=max(0.0, (state["shy"] - now) / MILLION),
        sessions=tuple(sessions),
    )


def _parameters(set_: Sequence[float]) -> Parameters:
    slots = int(set_[SLOTS]) or None
    if set_[KIND] == NO_RATE:
        return Parameters(None, None, None, slots)
    capacity, period, burst = [set_[place] / MILLION for place in (CAPACITY, PERIOD, BURST)]
    return Parameters(capacity, period, burst, slots)


def _session(name: str, told: Sequence[float], now: float) -> SessionReading:
    host, _, rest = name.partition("/")
    pid = rest.partition("/")[0]
    return SessionReading(
        name=name,
        host=host,
        pid=int(pid) if pid.isascii() and pid.isdigit() else None,
        held=told[HELD],
        in_flight=told[FLYING] / MILLION,
        waiting=int(told[WAITING]),
        seen=max(0.0, (now - told[SEEN]) / MILLION),
        ttl=told[TTL] / MILLION,
    )


def request(entries: list[dict[str, Any]], grace: float) -> dict[str, Any]:
    """A request of somebody who wants nothing."""
    return {"horizon": 0, "grace": grace, "limits": entries, "wants": []}


def entry(state: State, operations: list[list[Any]], fresh: int = 1) -> dict[str, Any]:
    """What an operator, who holds nothing, says of a limit; see `_state._enter`.

    Args:
        fresh: the generation with which the state would begin, if it has gone meanwhile.
    """
    nothing = ("seq", "since", "gen", "until", "open", "initial", "ttl", "held", "flying")
    return {
        **dict.fromkeys((*nothing, "waiting", "first", "ahead"), 0),
        "id": "",
        "fresh": fresh,
        "code": state["code"],
        "version": state["version"],
        "ops": operations,
        "edges": _edges(state["set"], state["rate"]),
    }


def _edges(set_: Sequence[float], rate: Mapping[str, Any]) -> list[list[float]]:
    """The windows on the clock in which something may still count.

    Where they really begin is known to the programs alone: a day may have 23 hours.
    """
    if set_[KIND] != CLOCK:
        return []
    edges = [[rate["opens"], rate["ends"], rate["ends"]]]
    for n in range(math.ceil(rate["used"] / set_[CAPACITY])):
        opens = rate["ends"] + n * set_[PERIOD]
        edges.append([opens, opens + set_[PERIOD], opens + set_[PERIOD]])
    return edges
