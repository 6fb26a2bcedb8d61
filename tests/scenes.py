"""Small scenes that are played twice: by tasks (`explorer`) and by threads (`thread_explorer`).

A scene is a throttle, whose period is one second, and up to three parts; what it says is the same
for both. The explorers play it in every order in which its parts could run, and each judges it in
its own way: the one for tasks by a ledger, also where tasks are cancelled; the one for threads by
the instants at which calls may begin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from async_throttle import (
    SlidingWindow,
    ThrottleClosed,
    ThrottleFull,
    ThrottleTimeout,
    WeightTooLarge,
)


@dataclass(frozen=True)
class Visit:
    """A call that holds what it got for some seconds."""

    weight: int = 1
    hold: float = 0
    timeout: float | None = None
    form: Literal["block", "acquire", "consume"] = "block"


@dataclass(frozen=True)
class Wait:
    """Seconds pass; 0 lets others run."""

    seconds: float


@dataclass(frozen=True)
class HoldUp:
    """A pause, resumed *until* seconds later, whether it is over by then or not."""

    seconds: float
    until: float
    empty: bool = False


@dataclass(frozen=True)
class Slots:
    """There are so many from now on."""

    number: int


@dataclass(frozen=True)
class Rate:
    """From now on."""

    capacity: int
    burst: int


@dataclass(frozen=True)
class Charge:
    """Tokens are taken unasked."""

    weight: int


@dataclass(frozen=True)
class Close:
    """Newcomers are refused, and maybe those who wait."""

    drop_waiting: bool


@dataclass(frozen=True)
class Drain:
    """Wait until all others are gone."""


Step = Visit | Wait | HoldUp | Slots | Rate | Charge | Close | Drain
Part = tuple[Step, ...]


@dataclass(frozen=True)
class Scene:
    """Attributes:
    throttle: how it is made.
    parts: what each of those who take part does.
    may_raise: which refusals end a part.
    began: the instants at which calls may begin if nobody is cancelled; None is any.
    switches: how often one thread may go on though the one that runs could.
    """

    throttle: dict[str, Any]
    parts: tuple[Part, ...]
    began: tuple[tuple[float, ...], ...] | None = None
    may_raise: tuple[type[Exception], ...] = ()
    switches: float = 1


ONE: Final[Part] = (Visit(),)
LONG: Final[Part] = (Visit(hold=1),)
TWO: Final[Part] = (Visit(2),)
PATIENT: Final[Part] = (Visit(timeout=2),)
HURRIED: Final[Part] = (Visit(timeout=1),)
WITHOUT_BLOCK: Final[Part] = (Visit(form="acquire"),)
TOKENS_ALONE: Final[Part] = (Visit(form="consume"),)
IN_TURN: Final = ((0, 1, 2),)


def rate(capacity: float = 1, concurrency: int = 0, **more: Any) -> dict[str, Any]:
    return {"capacity": capacity, "concurrency": concurrency, **more}


SLOT: Final = rate(math.inf, 1)
BOTH: Final = rate(1, 1)
SHARED: Final = {
    "slots_only": Scene(SLOT, (ONE, ONE, ONE), ((0, 0, 0),), switches=math.inf),
    "rate_only": Scene(rate(), (ONE, ONE, ONE), IN_TURN, switches=2),
    "a_slot_and_a_token_come_at_one_instant": Scene(BOTH, (LONG, ONE, ONE), IN_TURN, switches=2),
    "heavy_and_light": Scene(rate(burst=2), (ONE, TWO, ONE), ((0, 1, 2), (0, 0, 2))),
    "a_sliding_window": Scene(
        rate(2, algorithm=SlidingWindow), (ONE, TWO, ONE), ((0, 1, 2), (0, 0, 1), (0, 1, 1))
    ),
    "acquire_and_release_without_a_block": Scene(
        rate(2, 1), (WITHOUT_BLOCK, WITHOUT_BLOCK, WITHOUT_BLOCK), ((0, 0, 0.5),)
    ),
    # The timers of the grant and of the deadline ring at 2 s; the last caller is granted.
    "timeout_at_the_instant_of_the_grant": Scene(rate(), (PATIENT, PATIENT, PATIENT), IN_TURN),
    "now_or_never": Scene(
        BOTH, (ONE, ONE, (Visit(timeout=0),)), ((0, 1), *IN_TURN), (ThrottleTimeout,)
    ),
    "one_too_many_waiting": Scene(
        rate(1, 1, max_waiting=1), (ONE, ONE, ONE), ((0, 1),), (ThrottleFull,)
    ),
    # There is enough for all: only the order is at stake.
    "a_newcomer_behind_one_about_to_start": Scene(
        rate(3), ((HoldUp(math.inf, until=0),), ONE, ONE), ((0, 0),)
    ),
    "pause_and_resume": Scene(BOTH, (ONE, ONE, (HoldUp(math.inf, until=1),)), ((0, 1), (1, 2))),
    "pause_resumed_as_it_ends": Scene(rate(), (ONE, ONE, (HoldUp(1, until=1),)), ((0, 1), (1, 2))),
    "pause_that_empties": Scene(
        rate(), (ONE, ONE, (HoldUp(2, until=1, empty=True),)), ((0, 2), (2, 3))
    ),
    "pause_longer_than_a_timeout": Scene(
        rate(), (HURRIED, HURRIED, (HoldUp(3, until=2),)), ((), (0,)), (ThrottleTimeout,)
    ),
    "more_slots_and_fewer": Scene(
        SLOT, ((Visit(hold=2),), ONE, (Slots(2), Wait(1), Slots(1))), ((0, 0),)
    ),
    "more_slots_and_fewer_at_once": Scene(
        SLOT, (ONE, ONE, (Slots(2), Wait(0), Slots(1))), ((0, 0),)
    ),
    "more_rate_and_less_burst": Scene(
        rate(burst=2), (TWO, TWO, (Rate(4, 2), Wait(0), Rate(4, 1))), ((), (0,)), (WeightTooLarge,)
    ),
    "close": Scene(BOTH, (ONE, ONE, (Close(drop_waiting=True),)), ((), (0,)), (ThrottleClosed,)),
    "close_and_let_them_go": Scene(
        BOTH,
        (ONE, ONE, (Close(drop_waiting=False), Drain())),
        ((), (0,), (0, 1)),
        (ThrottleClosed,),
    ),
    "drain": Scene(SLOT, (ONE, ONE, (Drain(),)), ((0, 0),)),
    "drain_by_two": Scene(rate(), (LONG, (Drain(),), (Drain(),)), ((0,),)),
    "drain_behind_one_who_holds_nothing": Scene(rate(), (ONE, TOKENS_ALONE, (Drain(),)), ((0, 1),)),
    "consume_beside_those_who_lack_a_slot": Scene(BOTH, (LONG, ONE, TOKENS_ALONE), IN_TURN),
    "heavy_consume_beside_a_heavy_block": Scene(
        rate(1, 1, burst=2), (LONG, TWO, (Visit(2, form="consume"),))
    ),
    "a_charge": Scene(rate(), (ONE, (Visit(0),), (Charge(2),))),
}
