"""The states of a call, from the question to the release.

::

    FRESH ──► ENTERING ──► HELD ──► EARLY ──► RELEASED      entered with a block
      │                     └─────────────────►┘
      └─ ASKING ─► LEASED ─► HELD                           granted without, then perhaps entered
                     └────────────────────────► RELEASED
      └─────► REFUSED                                       asked for at once, and not had

Tasks or threads may enter the same call again meanwhile: the first entry is the lease itself,
every further entry has a lease of its own (`Lease._twin`). The first lease is SHARED then instead
of HELD, so that the end of a block looks for the lease of that block.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "ASKING",
    "EARLY",
    "ENTERING",
    "FRESH",
    "HELD",
    "LEASED",
    "REFUSED",
    "RELEASED",
    "SHARED",
    "LeaseState",
]


class LeaseState(Enum):
    """The state of a call."""

    FRESH = 0, "fresh"
    ENTERING = 1, "waiting"
    LEASED = 2, "held"
    HELD = 3, "held"
    SHARED = 4, "held"
    EARLY = 5, "released"
    RELEASED = 6, "released"
    REFUSED = 7, "refused"
    ASKING = 8, "waiting"

    @property
    def told(self) -> str:
        """The word of repr."""
        return self.value[1]


FRESH, ENTERING, LEASED, HELD, SHARED, EARLY, RELEASED, REFUSED, ASKING = LeaseState
