"""What a store does: one pure step, applied to the states of some limits at once.

A store keeps a state for each limit. It reads its clock, calls `step` with the states of the limits
that a request names, and keeps what comes back; nothing else happens in between. SQLite, Ray and
stores of your own run this module. Redis runs `redis.lua`, its twin: the same functions in the same
order. tests/test_store_twins.py holds the two together.

Instants and spans are microseconds, weights are millionths of a token. All numbers are doubles, as
Lua has no others. Python's integers will do below 2**53, where sums of doubles are exact; what may
come to more is a float here, so that the twins agree to the bit.

The words:

limit       what one name stands for: a rate (bucket, sliding, fixed or clock window), slots, pause.
session     a throttle of one process. It asks for what its waiters want, in their order.
want        a number of equal calls, and what one of them takes of which limits: all or nothing.
booking     what a session may take, and the instant from which on. It is used by that instant plus
            the grace, or given back. A window stamps a booking with the end of its grace.
horizon     how far ahead is booked. A weight that takes longer to come back is booked as far ahead
            as it takes: lighter ones of other sessions would always be there first.
stock       what is booked besides, for callers that are to come: only where there is plenty.
operation   what has happened at a session since its last request: given back, charged, ended.
            They are numbered, so that none is applied twice when a reply was lost.
turn        the place of a session that lacks a slot, or the end of a call, in the queue for those.

What a session holds is *set* by each request, not added up: the next request heals a reply that was
lost. A request that is no later than the last of its session has been delayed on its way, and
changes nothing.
"""

# mypy: disable-error-code="no-any-return"
# What JSON has said is Any.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = [
    "BUCKET",
    "CLOCK",
    "FIXED",
    "LOST_LEASE",
    "LOST_STATE",
    "MISMATCH",
    "NO_RATE",
    "SLIDING",
    "STALE",
    "State",
    "step",
    "ticks",
]

State = dict[str, Any]
"""The state of a limit: see `blank`. JSON can say it."""

KIND, CAPACITY, PERIOD, BURST, SLOTS, SCALE, GRAIN, ENDS = range(8)
"""The places of the parameters of a limit: `ticks` tells what scale and grain are; slots are 0
without a bound; ends is 1 if calls count to their ends. The burst of a window is its capacity."""

SEQ, DONE, SEEN, TTL, HELD, FLYING, WAITING, TURN, LACKS_SLOTS, LACKS_WEIGHT, WOKEN = range(11)
"""The places of what is known of a session: numbers of its last request, and of its last operation
that was applied; when it came last, and for how long it holds what it holds without coming again;
its slots; what its calls hold that have not ended; its callers that wait, for those who look; its
place in the queue, 0 without one, and what it lacks there; when it was woken and has not come."""

NO_RATE, BUCKET, SLIDING, FIXED, CLOCK = range(5)
"""The kinds of rates."""

STALE: Final = 1
"""A mark: the request was delayed on its way, and has changed nothing."""
LOST_LEASE: Final = 2
"""A mark: the session had not come for its time to live, and others have what it held."""
LOST_STATE: Final = 3
"""A mark: the store has lost the state."""
MISMATCH: Final = 4
"""A mark: the limit has other parameters, and the session insists on its own."""

MOST_GROUPS: Final = 200
"""Instants that the reply to one want tells; who wants more asks again."""
MOST_LOWS: Final = 6
"""Minima that a bucket remembers, so that refunds mint nothing: see `_merge`."""
PARTS: Final = 1_000
"""A sliding window keeps what goes within such a part of its period as one entry."""
PATIENCE: Final = 250_000
"""For so long room is kept for a session that was woken."""
LONG: Final = 30 * 86_400 * 1_000_000
"""For so long a state is kept that somebody has set, or paused without end."""
FOREVER: Final = 4e15
"""The end of a pause without an end."""
NEVER: Final = -1
"""Instead of an instant: the session will be woken."""
BEHIND: Final = -2
"""Instead of an instant: after the wants before it."""


def ticks(capacity: int, period: int) -> tuple[int, int]:
    """How many ticks a microsecond has, and how many of them a weight of 1 takes.

    >>> ticks(10_000_000, 1_000_000)  # ten tokens a second: a millionth takes a tenth of one
    (10, 1)
    """
    common = math.gcd(capacity, period)
    return capacity // common, period // common


def step(
    now: float, request: Mapping[str, Any], states: Sequence[State | None]
) -> tuple[dict[str, Any], list[State | None], list[str]]:
    """Apply *request* to the states of the limits that it names.

    Args:
        now: the time of the store, in microseconds since 1970.
        request: what a session asks::

            horizon, grace  spans; a horizon of -1 is now or never
            limits          by limit, see `_enter`
            wants           [count, [[limit, weight, slots], ...]], in the order of the waiters; a
                            limit is a place in *limits*; a weight of -1 does without the rate

        states: by limit; None where there is none. They are changed in place.

    Returns:
        The reply, the states that are to be kept (None: nothing needs to be kept), and the names
        of the sessions that are to be woken. The reply::

            now             the time of the store
            limits          by limit, see `_tell`; then its stock: receipt and weight, or 0 and 0
            wants           by want: groups of calls, [instant - now, count, receipts by limit], and
                            in how long to ask for the rest, so that several are booked at once:
                            NEVER, BEHIND, or 0 if all are booked
    """
    asked = request["limits"]
    every = range(len(asked))
    marks = [_mark(now, asked[n], states[n]) for n in every]
    refused = STALE in marks or MISMATCH in marks
    known: list[State] = []
    sums: list[State] = []
    wakes: dict[str, bool] = {}
    wants: list[Any] = []
    stocks: list[list[float]] = [[0, 0] for _ in every]
    for n in every:
        state = states[n]
        if state is None:
            state = blank(now, asked[n]["code"], asked[n]["fresh"])
        if not refused:
            _keep_time(now, asked[n], state, request["grace"])
            if states[n] is None and asked[n]["initial"] > 0:
                _charge(now, asked[n], state, asked[n]["initial"])
            marks[n] = _enter(now, asked[n], state, marks[n])
            _apply(now, asked[n], state, wakes)
        known.append(state)
        sums.append(_sums(state))
    if not refused:
        if request["wants"]:
            wants = _book(now, request, known, sums, stocks)
        else:
            _line_up(asked, known, {})
        for n in every:
            if sums[n]["queue"]:
                _wake_heads(now, asked[n], known[n], sums[n], wakes)
    told: list[Any] = []
    kept: list[State | None] = []
    for n in every:
        lasting = _lasts_until(now, known[n], sums[n])
        told.append(_tell(now, asked[n], known[n], sums[n], marks[n], lasting) + stocks[n])
        kept.append(states[n] if refused else known[n] if lasting > now else None)
    return {"now": now, "limits": told, "wants": wants}, kept, sorted(wakes)


# -- sessions come in ---------------------------------------------------------------------


def blank(now: float, code: Sequence[float], generation: float) -> State:
    """The state of a limit of which nothing was taken.

    gen         made by the session that came first: another one means that the state was lost
    code, set   parameters as the program says them, and as they were set since (the same if not)
    version     how often the parameters were changed
    last        instant of the last step
    rate        see `_begin`
    pause       when it ends; empties: 1 if the rate is emptied then
    shy         no slots are granted before this instant
    turns       turns given out
    sessions    by name, see `SEQ`
    """
    return {
        "gen": generation,
        "code": list(code),
        "set": list(code),
        "version": 1,
        "last": now,
        "rate": _begin(code, now),
        "pause": 0,
        "empties": 0,
        "shy": 0,
        "turns": 0,
        "sessions": {},
    }


def _mark(now: float, asked: Mapping[str, Any], state: State | None) -> int:
    """What is to be told of a request before all else; STALE and MISMATCH refuse all of it."""
    if state is not None:
        mine = state["sessions"].get(asked["id"])
        if mine is not None and asked["seq"] <= mine[SEQ]:
            return STALE
        if asked["open"] == 2 and asked["code"] != state["code"]:
            return MISMATCH
        if asked["gen"] == state["gen"]:
            return 0
    return LOST_STATE if asked["gen"] and now < asked["until"] else 0


def _enter(now: float, asked: Mapping[str, Any], state: State, mark: int) -> int:
    """A session comes in, with what it says of a limit; the mark.

    id          name of the session; "" is an operator, who holds nothing
    seq, since  number of the request, and microseconds since the last one that was answered, by the
                session's clock; 0 at first
    gen, until  the generation it knows, 0 at first, and the instant until which that lasts
    fresh       the generation to begin with
    open        1 if it begins with its *code*; 2 if it insists on that; 0 later
    code        parameters as the program says them; version: of those it knows
    initial     weight that is taken already where the state is blank
    ttl         see `SEQ`; held, flying, waiting too
    first, ops  how many operations came before, and the operations: see `_apply`
    edges       of windows on the clock: [opens, closes, ends], those around now
    ahead       weight that its callers to come will take soon: see `_stock`
    """
    name, sessions = asked["id"], state["sessions"]
    if asked["open"] and asked["code"] != state["code"]:
        _configure(now, asked, state, asked["code"])
        state["code"] = list(asked["code"])
    if mark == LOST_STATE and state["shy"] <= now:  # nobody knows what was taken, or is held
        _empty(now, asked, state)
        state["shy"] = now + asked["ttl"] // 3
    _bury(now, asked, state)
    if name == "":
        return mark
    mine = sessions.get(name)
    if mine is None:
        if mark == 0 and asked["gen"] and (asked["held"] > 0 or asked["flying"] > 0):
            mark = LOST_LEASE
        mine = sessions[name] = [0, asked["first"], 0, 0, 0, 0, 0, 0, 0, 0, 0]
    elif asked["held"] < mine[HELD]:
        mine[TURN] = 0  # it has had its share
    mine[SEQ] = asked["seq"]
    mine[SEEN] = now
    mine[TTL] = asked["ttl"]
    mine[HELD] = asked["held"]
    mine[FLYING] = float(asked["flying"])
    mine[WAITING] = asked["waiting"]
    mine[WOKEN] = 0
    return mark


def _keep_time(now: float, asked: Mapping[str, Any], state: State, grace: float) -> None:
    """Move the state along if the clock of the store was set; forget what no longer counts.

    Back: it reads less than at the last step. Forward: by more than the session's own clock and a
    third of its time to live. What looks like that and is a request that was on its way for long
    costs what has come back meanwhile; the other way round, it would be a gift.
    """
    by = now - state["last"]
    if by >= 0:
        by = 0
        mine = state["sessions"].get(asked["id"])
        if mine is not None and asked["since"] > 0:
            by = now - mine[SEEN] - asked["since"]
            if by <= asked["ttl"] / 3:
                by = 0
    if by != 0:
        _shift(state, by)
    state["last"] = now
    if state["set"][KIND] == SLIDING:
        entries, period = state["rate"]["entries"], state["set"][PERIOD]
        while entries and entries[0][0] + period <= now:
            del entries[0]
    elif state["set"][KIND] == FIXED:
        state["rate"]["grace"] = grace


def _shift(state: State, by: float) -> None:
    rate, kind = state["rate"], state["set"][KIND]
    if kind == BUCKET:
        rate["at"] += by
    elif kind == SLIDING:
        for entry in rate["entries"]:
            entry[0] += by
    elif kind == FIXED:
        rate["opens"] += by
        rate["ends"] += by
    if 0 < state["pause"] < FOREVER:
        state["pause"] = max(0, state["pause"] + by)
    if state["shy"] > 0:
        state["shy"] = max(0, state["shy"] + by)
    for other in state["sessions"].values():
        other[SEEN] += by
        other[WOKEN] = 0


def _bury(now: float, asked: Mapping[str, Any], state: State) -> None:
    """Take back what sessions hold that have not come for their time to live."""
    sessions = state["sessions"]
    dead: list[str] = []
    for name, other in sessions.items():
        if other[SEEN] + other[TTL] <= now:
            dead.append(name)
    for name in dead:
        other = sessions.pop(name)
        if name != asked["id"] and other[FLYING] > 0:  # who has come says it for himself
            _charge(now, asked, state, other[FLYING])


# -- operations ---------------------------------------------------------------------------


def _apply(now: float, asked: Mapping[str, Any], state: State, wakes: dict[str, bool]) -> None:
    """Apply the operations that were not applied yet.

    ["back", receipt, weight]       of what was booked, so much is given back
    ["charge", weight]              taken, into debt if need be
    ["end", weight]                 a call has ended that was in flight
    ["lower", level, said, span]    at most *level* is left: see `Rule.lower`; -1 is a period
    ["empty"]                       nothing is left; a debt stays
    ["pause", span, empties]        nobody goes before *span* from now; -1 is without end
    ["resume"]                      the pause ends now
    ["set", parameters]             other parameters
    ["reset"]                       parameters as the program says them, nothing taken, no pause
    """
    if state["empties"]:
        _end_pause(now, asked, state)
    if not asked["ops"]:
        return
    mine = state["sessions"].get(asked["id"])
    done = asked["first"] if mine is None else mine[DONE]
    number = asked["first"]
    for op in asked["ops"]:
        number += 1
        if number > done:
            what = op[0]
            if what == "back":
                _refund(state, op[1], op[2])
            elif what == "charge" or what == "end":
                _charge(now, asked, state, op[1])
            elif what == "lower":
                _lower(now, asked, state, op[1], op[2], op[3])
            elif what == "empty":
                _empty(now, asked, state)
            else:
                _govern(now, asked, state, op)
                for name in state["sessions"]:
                    if name != asked["id"]:
                        wakes[name] = True
    if mine is not None:
        mine[DONE] = max(done, number)


def _govern(now: float, asked: Mapping[str, Any], state: State, op: Sequence[Any]) -> None:
    """Apply an operation that all sessions are told of."""
    what = op[0]
    if what == "pause":
        until = FOREVER if op[1] < 0 else now + op[1]
        state["pause"] = max(state["pause"], until)
        state["empties"] = max(state["empties"], op[2])
    elif what == "resume":
        state["pause"] = min(state["pause"], now)
    elif what == "set":
        _configure(now, asked, state, op[1])
    elif what == "reset":
        _configure(now, asked, state, state["code"])
        _refill(now, state)
        state["pause"] = state["empties"] = 0
    _end_pause(now, asked, state)


def _end_pause(now: float, asked: Mapping[str, Any], state: State) -> None:
    """Empty the rate if the pause has ended that says so."""
    if state["empties"] and state["pause"] <= now:
        _empty(state["pause"], asked, state)
        state["empties"] = 0


def _configure(
    now: float, asked: Mapping[str, Any], state: State, parameters: Sequence[float]
) -> None:
    """Have other parameters from now on; the level stays, cut to the new burst.

    What has left a window by the old period does not come back; of a sliding one, `_keep_time` has
    forgotten it. Another kind of rate begins with nothing left, as nobody has counted for it.
    """
    old, new, rate = state["set"], list(parameters), state["rate"]
    state["set"] = new
    state["version"] += 1
    if old[KIND] != new[KIND]:
        state["rate"] = _begin(new, now)
        if old[KIND] != NO_RATE:
            _empty(now, asked, state)
    elif new[KIND] == BUCKET:
        level = old[BURST] - float(math.ceil(max(0, _missing(old, rate, now)) / old[GRAIN]))
        rate["missing"] = max(0.0, new[BURST] - level) * new[GRAIN]
        rate["at"] = now
        rate["dead"] = rate["issued"]
        rate["lows"] = []
    elif new[KIND] == FIXED:
        if rate["ends"] <= now:
            rate["used"] = _used(asked, old, rate, now)
            rate["opens"] = now
            rate["ends"] = now + old[PERIOD] + rate["grace"]
        rate["ends"] += new[PERIOD] - old[PERIOD]


def _refill(now: float, state: State) -> None:
    """Have nothing taken; what is given back later of what was taken before is worth nothing.

    But for a window on the clock, which has no other receipts: there it is worth what was taken
    since, at most.
    """
    rate = state["rate"]
    if state["set"][KIND] == BUCKET:
        rate["missing"] = 0.0
        rate["at"] = now
        rate["dead"] = rate["issued"]
        rate["lows"] = []
    else:
        state["rate"] = _begin(state["set"], now)


# -- rates --------------------------------------------------------------------------------


def _begin(set_: Sequence[float], now: float) -> State:
    """A rate of which nothing was taken.

    bucket      missing: ticks that are missing at the instant *at*; issued, dead: receipts, and
                those of them that are worth nothing any more; lows: pairs of a receipt and the
                least that was missing at any later take
    sliding     entries: pairs of a stamp and a weight, ascending
    fixed       opens, ends: the window, a period and the grace long; used: what counts in it, and
                beyond it in the next ones; grace: as it was told last
    clock       the same, without a grace; the windows are those of the request
    """
    if set_[KIND] == BUCKET:
        return {"missing": 0.0, "at": now, "issued": 0, "dead": 0, "lows": []}
    if set_[KIND] == SLIDING:
        return {"entries": []}
    if set_[KIND] == FIXED:
        return {"opens": 0, "ends": 0, "used": 0.0, "grace": 0}
    if set_[KIND] == CLOCK:
        return {"opens": 0, "ends": 0, "used": 0.0}
    return {}


def _room(set_: Sequence[float]) -> float:
    """The ticks of a bucket's burst."""
    return float(set_[BURST] * set_[GRAIN])


def _missing(set_: Sequence[float], rate: State, at: float) -> float:
    """The ticks that are missing of a bucket; a fraction of a microsecond may be to its credit."""
    missing: float = rate["missing"] - (at - rate["at"]) * set_[SCALE]
    return 0.0 if missing <= -set_[SCALE] else missing


def _used(asked: Mapping[str, Any], set_: Sequence[float], rate: State, at: float) -> float:
    """What counts in a window at an instant."""
    kind, used = set_[KIND], 0.0
    if kind == SLIDING:
        for stamp, weight in rate["entries"]:
            if stamp + set_[PERIOD] > at:
                used += weight
        return used
    used = rate["used"]
    if kind == FIXED:
        if used > 0 and rate["ends"] <= at:
            used -= (math.floor((at - rate["ends"]) / set_[PERIOD]) + 1) * set_[CAPACITY]
    else:
        for opens, _, _ in asked["edges"]:
            if rate["opens"] < opens <= at:
                used -= set_[CAPACITY]
    return max(0.0, used)


def _next_change(
    asked: Mapping[str, Any], set_: Sequence[float], rate: State, at: float, over: float
) -> float:
    """The next instant at which at least *over* less counts in a window, or a part of that.

    At an instant at which nothing is known of the next window on the clock, it is FOREVER.
    """
    kind = set_[KIND]
    if kind == SLIDING:
        for stamp, weight in rate["entries"]:
            if stamp + set_[PERIOD] > at:
                over -= weight
                if over <= 0:
                    return stamp + set_[PERIOD]
        return FOREVER
    if kind == FIXED:
        ends: float = rate["ends"]
        windows = math.ceil(over / set_[CAPACITY]) - 1
        if ends <= at:
            windows += math.floor((at - ends) / set_[PERIOD]) + 1
        return min(FOREVER, ends + windows * set_[PERIOD])
    for opens, _, _ in asked["edges"]:
        if opens > at:
            return opens
    return FOREVER


def _open_at(asked: Mapping[str, Any], set_: Sequence[float], rate: State, at: float) -> float:
    """The first instant, not before *at*, at which a window is open, as far as is known."""
    kind = set_[KIND]
    if kind == FIXED:
        if at <= rate["opens"]:  # what went in windows before it is forgotten
            return rate["opens"]
        # What is booked later could be used when another window is open already at the server.
        if rate["used"] > 0 and at + rate["grace"] >= rate["opens"] + set_[PERIOD]:
            return max(at, rate["ends"])
    if kind == CLOCK:
        for opens, closes, _ in asked["edges"]:
            if opens >= rate["opens"] and at < closes:
                return max(at, opens)
        return FOREVER
    return at


def _ready_at(
    asked: Mapping[str, Any], state: State, at: float, weight: float, flying: float
) -> float:
    """The first instant, not before *at*, at which *weight* may go.

    NEVER if an end is missing; FOREVER if the session has told too little of the windows to come.
    """
    set_, rate = state["set"], state["rate"]
    kind = set_[KIND]
    if kind == NO_RATE or weight < 0:
        return at
    wanted = flying + weight
    if wanted > set_[BURST]:
        return NEVER
    if kind == BUCKET:
        excess = _missing(set_, rate, at) + wanted * set_[GRAIN] - _room(set_)
        return at if excess <= 0 else min(FOREVER, at + math.ceil(excess / set_[SCALE]))
    at = _open_at(asked, set_, rate, at)
    while at < FOREVER:
        over = _used(asked, set_, rate, at) + wanted - set_[CAPACITY]
        if over <= 0:
            break
        at = _open_at(asked, set_, rate, _next_change(asked, set_, rate, at, over))
    return at


def _fitting(
    asked: Mapping[str, Any], state: State, at: float, weight: float, flying: float
) -> float:
    """How many calls of *weight* may go at an instant at which one may."""
    set_, rate = state["set"], state["rate"]
    if set_[KIND] == NO_RATE or weight <= 0:
        return FOREVER
    if set_[KIND] == BUCKET:
        room = _room(set_) - max(0, _missing(set_, rate, at)) - flying * set_[GRAIN]
        return max(1, math.floor(room / (weight * set_[GRAIN])))
    room = set_[CAPACITY] - _used(asked, set_, rate, at) - flying
    return max(1, math.floor(room / weight))


def _take(asked: Mapping[str, Any], state: State, at: float, weight: float, grace: float) -> float:
    """Take *weight* at an instant, which may lie ahead; the receipt."""
    set_, rate = state["set"], state["rate"]
    kind = set_[KIND]
    if kind == BUCKET:
        missing = _missing(set_, rate, at)
        _note(rate, missing)
        rate["missing"] = missing + weight * set_[GRAIN]
        rate["at"] = at
        rate["issued"] += 1
        return rate["issued"]
    if kind == NO_RATE or weight <= 0:
        return 0
    if kind == SLIDING:
        return _stamp(set_, rate, at + grace, weight)
    used = _used(asked, set_, rate, at)
    if kind == FIXED and (used <= 0 or rate["ends"] <= at):
        rate["opens"] = at
        rate["ends"] = at + set_[PERIOD] + rate["grace"]
    if kind == CLOCK:
        for opens, _, ends in asked["edges"]:
            if rate["opens"] < opens <= at:
                rate["opens"] = opens
                rate["ends"] = ends
    rate["used"] = used + weight
    return rate["opens"]


def _stamp(set_: Sequence[float], rate: State, stamp: float, weight: float) -> float:
    """Enter *weight* into a sliding window, as gone at *stamp* or a little later."""
    part = max(1, set_[PERIOD] // PARTS)
    stamp = math.ceil(stamp / part) * part
    entries = rate["entries"]
    n = len(entries)
    while n > 0 and entries[n - 1][0] > stamp:
        n -= 1
    if n > 0 and entries[n - 1][0] == stamp:
        entries[n - 1][1] += weight
    else:
        entries.insert(n, [stamp, float(weight)])
    return stamp


def _charge(now: float, asked: Mapping[str, Any], state: State, weight: float) -> None:
    """Take *weight* now, into debt if need be."""
    if state["set"][KIND] == CLOCK:  # after a window has closed, a server counts it in the next
        now = _open_at(asked, state["set"], state["rate"], now)
    if weight > 0:
        _take(asked, state, now, weight, 0)


def _refund(state: State, receipt: float, weight: float) -> None:
    """Give back *weight* of what was taken with *receipt*: as if less had been taken then."""
    set_, rate = state["set"], state["rate"]
    kind = set_[KIND]
    if kind == BUCKET and rate["dead"] < receipt <= rate["issued"]:
        worth = weight * set_[GRAIN]
        for low in rate["lows"]:
            if receipt <= low[0]:
                worth = min(worth, low[1])
        worth = max(0, worth)
        rate["missing"] -= worth
        for low in rate["lows"]:
            if receipt <= low[0]:
                low[1] -= worth
    elif kind == SLIDING:
        for entry in rate["entries"]:
            if entry[0] == receipt:
                entry[1] = max(0.0, entry[1] - weight)
    elif kind in (FIXED, CLOCK) and receipt == rate["opens"]:
        rate["used"] = max(0.0, rate["used"] - weight)


def _note(rate: State, missing: float) -> None:
    """Remember that a refund of what was taken so far is worth at most *missing* ticks."""
    if missing <= 0:
        rate["dead"] = rate["issued"]
        rate["lows"] = []
        return
    lows = rate["lows"]
    while lows and lows[-1][1] >= missing:
        del lows[-1]
    last = lows[-1][0] if lows else rate["dead"]
    if rate["issued"] > last:
        lows.append([rate["issued"], missing])
        if len(lows) > MOST_LOWS:
            _merge(lows)


def _merge(lows: list[list[float]]) -> None:
    """Have the lower of two minima cover the receipts of both: of those that differ least.

    Refunds may have left the later one as the lower: then nothing is lost at all.
    """
    n = 1
    for m in range(2, len(lows)):
        if lows[m][1] - lows[m - 1][1] < lows[n][1] - lows[n - 1][1]:
            n = m
    lows[n][1] = min(lows[n - 1][1], lows[n][1])
    del lows[n - 1]


def _lower(
    now: float, asked: Mapping[str, Any], state: State, level: float, said: float, span: float
) -> None:
    """Have at most *level* left: a server has counted more."""
    set_, rate = state["set"], state["rate"]
    kind = set_[KIND]
    if set_[ENDS]:
        for mine in state["sessions"].values():
            level += mine[FLYING]
            said += mine[FLYING]
    if kind == BUCKET:
        missing = max(_missing(set_, rate, now), _room(set_) - level * set_[GRAIN])
        _note(rate, missing - max(0, _room(set_) - said * set_[GRAIN]))
        rate["missing"] = missing
        rate["at"] = now
    elif kind != NO_RATE:
        more = set_[CAPACITY] - _used(asked, set_, rate, now) - level
        if more > 0 and kind == SLIDING and span >= 0:
            _stamp(set_, rate, now + span - set_[PERIOD], more)
        elif more > 0:
            _take(asked, state, now, more, 0)


def _empty(now: float, asked: Mapping[str, Any], state: State) -> None:
    """Leave nothing; a debt stays."""
    _lower(now, asked, state, 0, 0, NEVER)


# -- who gets what ------------------------------------------------------------------------


def _sums(state: State) -> State:
    """What the sessions of a limit come to.

    held, flying    of all
    queue           names of those that lack something, in the order of their turns
    lasts           the instant until which one of them lives
    """
    held, flying, lasts = 0, 0.0, 0
    queue: list[str] = []
    for name, each in state["sessions"].items():
        held += each[HELD]
        flying += each[FLYING]
        if each[SEEN] + each[TTL] > lasts:
            lasts = each[SEEN] + each[TTL]
        if each[TURN] > 0:
            queue.append(name)
    if len(queue) > 1:
        queue.sort(key=lambda name: state["sessions"][name][TURN])
    return {"held": held, "flying": flying, "queue": queue, "lasts": lasts}


def _is_deaf(now: float, each: Sequence[float]) -> bool:
    """Whether a session was woken and does not come."""
    return each[WOKEN] > 0 and now - each[WOKEN] >= PATIENCE


def _share(now: float, asked: Mapping[str, Any], state: State, sums: State) -> list[float]:
    """The slots that a session may have, and the weight that is in flight, or is kept for others.

    Those are kept whose turn comes before its own.
    """
    set_ = state["set"]
    free = (set_[SLOTS] if set_[SLOTS] > 0 else FOREVER) - sums["held"]
    flying = sums["flying"] if set_[ENDS] else 0.0
    for name in sums["queue"]:
        if name == asked["id"]:
            break
        other = state["sessions"][name]
        if not _is_deaf(now, other):
            free -= other[LACKS_SLOTS]
            flying += other[LACKS_WEIGHT]
    return [free, flying]


def _book(
    now: float,
    request: Mapping[str, Any],
    known: Sequence[State],
    sums: Sequence[State],
    stocks: list[list[float]],
) -> list[Any]:
    """Book as many of the wants as the horizon and the slots let go, and *stocks*; see `step`."""
    asked, horizon, grace = request["limits"], request["horizon"], request["grace"]
    shares = [_share(now, asked[n], known[n], sums[n]) for n in range(len(asked))]
    blocked: dict[int, bool] = {}
    lacking: dict[int, list[float]] = {}
    replies: list[Any] = []
    for count, amounts in request["wants"]:
        groups: list[Any] = []
        left, when = count, 0.0
        for n, _, _ in amounts:
            if n in blocked:
                when = BEHIND
        while left > 0 and when == 0:
            at = _soonest(now, asked, known, shares, amounts, lacking)
            if at == NEVER:
                when = NEVER
            elif at >= FOREVER:
                when = PATIENCE
            elif len(groups) >= MOST_GROUPS or (
                at > now and at > now + _reach(now, request, known, shares, amounts)
            ):
                early = max(0, min(horizon, _reach(now, request, known, shares, amounts)))
                early = early * (0.5 if groups else 0.75)  # who got nothing is to come first
                when = max(1, math.ceil(at - now - early))
            else:
                fitting = _fit(asked, known, shares, amounts, at, left)
                group = [at - now, fitting]
                for n, weight, slots in amounts:
                    taken = weight * fitting, slots * fitting
                    receipt = _grant(asked[n], known[n], sums[n], shares[n], at, *taken, grace)
                    group.append(receipt)
                groups.append(group)
                left -= fitting
        if when != 0:
            for n, _, _ in amounts:
                blocked[n] = True
        replies.append([groups, when])
    for n in range(len(asked)):
        if n not in blocked and asked[n]["ahead"] > 0:
            stocks[n] = _stock(now, asked[n], known[n], grace)
    if horizon >= 0:  # who asks for now or never takes no turn, and leaves those that there are
        _line_up(asked, known, lacking)
    return replies


def _stock(now: float, asked: Mapping[str, Any], state: State, grace: float) -> list[float]:
    """Book for callers of a session that are to come, so that they need not ask.

    Where there are other sessions, of the upper half of the burst alone: what is left is enough for
    them to find something too.
    """
    set_ = state["set"]
    if set_[KIND] == NO_RATE or set_[ENDS] or state["pause"] > now:
        return [0, 0]
    rest = set_[BURST] / 2 if len(state["sessions"]) > 1 else 0
    weight = min(asked["ahead"], math.floor(_level(now, asked, state, 0) - rest))
    if weight < 1 or _ready_at(asked, state, now, weight, 0) != now:
        return [0, 0]
    return [_take(asked, state, now, weight, grace), weight]


def _soonest(
    now: float,
    asked: Sequence[Mapping[str, Any]],
    known: Sequence[State],
    shares: Sequence[Sequence[float]],
    amounts: Sequence[Sequence[Any]],
    lacking: dict[int, list[float]],
) -> float:
    """The first instant at which one call may go that takes *amounts*.

    NEVER if it lacks a slot, or the end of another call, which goes into *lacking*; and in a pause
    without end. FOREVER if the session has told too little of the windows to come.
    """
    at = now
    missing = False
    for n, _, slots in amounts:
        if known[n]["pause"] > at:
            at = known[n]["pause"]
        if slots > 0:
            if known[n]["shy"] > at:
                at = known[n]["shy"]
            if slots > shares[n][0]:
                lacking[n] = [slots, 0]
                missing = True
    if missing or at >= FOREVER:
        return NEVER
    before: float = NEVER
    while at != before and at < FOREVER:  # a window may close while another limit is waited for
        before = at
        for n, weight, _ in amounts:
            at = _ready_at(asked[n], known[n], at, weight, shares[n][1])
            if at == NEVER:
                lacking[n] = [0, weight]
                return NEVER
        if len(amounts) == 1:
            return at
    return at


def _reach(
    now: float,
    request: Mapping[str, Any],
    known: Sequence[State],
    shares: Sequence[Sequence[float]],
    amounts: Sequence[Sequence[Any]],
) -> float:
    """How far ahead a call may be booked that takes *amounts*."""
    reach = request["horizon"]
    if reach < 0:
        return 0
    for n, weight, _ in amounts:
        set_ = known[n]["set"]
        if set_[KIND] != NO_RATE and weight > 0:
            lasts = math.ceil(float(weight) * set_[PERIOD] / set_[CAPACITY])
            if lasts > request["horizon"]:  # lighter ones of others may reach as far as the horizon
                reach = max(reach, request["horizon"] + lasts)
    for n, _, slots in amounts:
        state = known[n]
        if (state["empties"] and state["pause"] > now) or (slots > 0 and state["shy"] > now):
            return 0  # what will be left then is known then
        if slots > 0 and slots * 2 > shares[n][0]:  # the last slot is not kept idle until then
            reach = min(reach, request["grace"])
    return reach


def _fit(
    asked: Sequence[Mapping[str, Any]],
    known: Sequence[State],
    shares: Sequence[Sequence[float]],
    amounts: Sequence[Sequence[Any]],
    at: float,
    left: float,
) -> float:
    """How many of *left* calls may go at an instant at which one may."""
    fitting = left
    for n, weight, slots in amounts:
        if slots > 0 and slots * fitting > shares[n][0]:
            fitting = math.floor(shares[n][0] / slots)
        if fitting > 1:
            fitting = min(fitting, _fitting(asked[n], known[n], at, weight, shares[n][1]))
    return fitting


def _grant(
    asked: Mapping[str, Any],
    state: State,
    sums: State,
    share: list[float],
    at: float,
    weight: float,
    slots: float,
    grace: float,
) -> float:
    """Book what some calls take of a limit; the receipt, 0 without one."""
    if slots > 0 or state["set"][ENDS]:
        mine = state["sessions"][asked["id"]]
        if slots > 0:
            share[0] -= slots
            sums["held"] += slots
            mine[HELD] += slots
            mine[TURN] = 0
        if weight > 0 and state["set"][ENDS]:
            share[1] += weight
            sums["flying"] += weight
            mine[FLYING] += weight
            return 0
    return _take(asked, state, at, weight, grace) if weight >= 0 else 0


def _line_up(
    asked: Sequence[Mapping[str, Any]],
    known: Sequence[State],
    lacking: Mapping[int, Sequence[float]],
) -> None:
    """Give a turn to the session in each limit of which it lacks something, and in no other."""
    for n in range(len(asked)):
        mine = known[n]["sessions"].get(asked[n]["id"])
        if mine is not None:
            if n not in lacking:
                mine[TURN] = 0
            else:
                if mine[TURN] == 0:
                    known[n]["turns"] += 1
                    mine[TURN] = known[n]["turns"]
                mine[LACKS_SLOTS], mine[LACKS_WEIGHT] = lacking[n]


def _wake_heads(
    now: float, asked: Mapping[str, Any], state: State, sums: State, wakes: dict[str, bool]
) -> None:
    """Wake the sessions whose turn it is, as far as there is room for them."""
    set_ = state["set"]
    free = (set_[SLOTS] if set_[SLOTS] > 0 else FOREVER) - sums["held"]
    flying = sums["flying"]
    for name in sums["queue"]:
        other = state["sessions"][name]
        if other[TURN] > 0 and not _is_deaf(now, other):
            free -= other[LACKS_SLOTS]
            flying += other[LACKS_WEIGHT]
            if free < 0 or flying > set_[BURST] or now < state["shy"]:
                return
            if name != asked["id"] and other[WOKEN] == 0:
                other[WOKEN] = now
                wakes[name] = True


# -- what is told -------------------------------------------------------------------------


def _lasts_until(now: float, state: State, sums: State) -> float:
    """The instant until which the state is to be kept: after that it is as good as none."""
    set_, rate, until = state["set"], state["rate"], sums["lasts"]
    kind = set_[KIND]
    if state["shy"] > until:
        until = state["shy"]
    if state["pause"] > until:
        until = state["pause"]
    if until >= FOREVER or set_ != state["code"]:
        return now + LONG
    if kind == BUCKET:
        if rate["missing"] - (until - rate["at"]) * set_[SCALE] > 0:
            until = rate["at"] + math.ceil(rate["missing"] / set_[SCALE])
    elif kind == SLIDING:
        if rate["entries"]:
            until = max(until, rate["entries"][-1][0] + set_[PERIOD])
    elif kind != NO_RATE and rate["used"] > 0:
        windows = math.ceil(rate["used"] / set_[CAPACITY])
        until = max(until, rate["ends"] + (windows - 1) * set_[PERIOD])
    return until if until < now + LONG else now + LONG


def _level(now: float, asked: Mapping[str, Any], state: State, flying: float) -> float:
    """The weight that is left, less what is in flight; negative in debt."""
    set_, rate = state["set"], state["rate"]
    if set_[KIND] == NO_RATE:
        return 0
    if set_[KIND] == BUCKET:
        lacking = float(math.ceil(_missing(set_, rate, now) / set_[GRAIN]))
        left = set_[BURST] - (lacking if lacking > 0 else 0)
    else:
        left = set_[CAPACITY] - _used(asked, set_, rate, now)
    return left - flying if set_[ENDS] else left


def _tell(
    now: float, asked: Mapping[str, Any], state: State, sums: State, mark: int, lasting: float
) -> list[Any]:
    """What a session is told of a limit.

    mark; gen; done: the number of its last operation that was applied; lasts: for how long; level;
    paused: the rest of the pause, 0 without one, -1 without end; held: its slots; active: those of
    all; flying: of all; live: the number of sessions; others: of those that lack something; and
    version, code, set: if it knows another version, else 0, [], []
    """
    mine = state["sessions"].get(asked["id"])
    others, queue = 0, sums["queue"]
    if queue:
        others = len(queue) - 1 if asked["id"] in queue else len(queue)
    paused = 0
    if state["pause"] > now:
        paused = NEVER if state["pause"] >= FOREVER else state["pause"] - now
    news = asked["version"] != state["version"] or mark != 0
    return [
        mark,
        state["gen"],
        asked["first"] if mine is None else mine[DONE],
        lasting - now if lasting > now else 0,
        _level(now, asked, state, sums["flying"]),
        paused,
        0 if mine is None else mine[HELD],
        sums["held"],
        sums["flying"],
        len(state["sessions"]),
        others,
        state["version"] if news else 0,
        state["code"] if news else [],
        state["set"] if news else [],
    ]
