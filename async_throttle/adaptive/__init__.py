"""Adaptive limits: samples in, a new limit out. No clock, no chance, no waiting.

Each call that is over is a sample: when it began, when it ended, how many were in flight when
it was let through, and how it ended. Three laws make a limit of them:

===============  ===========  =============================================================
aimd.py          concurrency  `AIMD` grows until calls are dropped: for servers that refuse
gradient.py      concurrency  `Gradient` keeps a short queue at the server, as the latencies
                              show it: for all
backoff.py       rate         `BackOff` backs off from refusals, and remembers at which rate
                              they came
_concurrency.py               bounds and the cut of the first two
_law.py                       `Adaptive`, to bring your own; `Outcome`, how a call ended
===============  ===========  =============================================================

===========================  ==========  ================================================
the server                   take        what it sets
===========================  ==========  ================================================
becomes slow when it has     `Gradient`  `concurrency`: keeps a short queue there, with no
too much                                 refusal
refuses, or does not answer  `AIMD`      `concurrency`: grows until calls are dropped
in time
refuses above some rate      `BackOff`   `capacity`: backs off, and comes back to where it was
                                         refused
===========================  ==========  ================================================

A server of eight workers, and then of 24, each of whose calls takes 0.1 s:

>>> import asyncio, math
>>> from async_throttle import Throttle, testing
>>> async def main() -> None:
...     loop, workers = asyncio.get_running_loop(), asyncio.Semaphore(8)
...     throttle = Throttle(math.inf, adapt=Gradient())
...     served = 0
...     async def client() -> None:
...         nonlocal served
...         while loop.time() < until:
...             async with throttle:
...                 async with workers:  # the call
...                     await asyncio.sleep(0.1)
...                 served += 1
...     for _ in range(2):
...         until, served = loop.time() + 60, 0
...         await asyncio.gather(*(client() for _ in range(100)))
...         print(f"{throttle.concurrency} at once, {served / 60:.0f} calls per second")
...         for _ in range(16):
...             workers.release()
>>> testing.run(main())
12 at once, 79 calls per second
32 at once, 235 calls per second

Blocks tell by themselves how they end: well, dropped (a timeout, a 429 or 503, see
`Adaptive.judge`), or for reasons of their own; `Lease.ok`, `Lease.ignore` and `Lease.dropped` tell
what exceptions do not. Timeouts belong inside of the block: from outside they are cancellations,
which say nothing (but if they took longer than the *timeout* of `AIMD`). Throttles in a `LimitSet`
adapt as well. Processes on one machine that share a server measure it together; on several
machines, where they cannot, set the *maximum* of `Gradient`. From a checkout, ``python -m
tests.adaptive`` draws the limit over time.

Simulated servers in the tests are constant, noisy, overloaded, or change their capacity: once
settled, a limit serves at least 90 % of what the best fixed one would, does not creep over a day,
and gives two clients fair shares.

The three laws agree on this. A limit grows only while it is used, which is to say nearly reached
(by half, while it doubles). It is cut once for all calls that were on their way together: a hundred
refusals at once are one event. What cut it is how many were in flight, not how many could have
been, so the cut is taken from there, as RFC 5681 does; but from no less than half the limit, since
a single call that fails among few says little about many. It never leaves *minimum* to *maximum*.

`Gradient` in full, since its design is the least usual one. With L calls in flight, mean latency R
and the latency B that a call has where nobody queues, Little's law says that L * B / R calls
are being worked on and the rest, ::

    queue = L * (1 - B / R)

stand in a queue, whatever the latencies are distributed like, as long as both are means. The
limit is set to what is being worked on, and the square root of L more: that much queue keeps
the server busy, drowns the noise of a mean over some L calls, and is concave, so that those who
share a server end up with equal shares.

All hangs on B. What is measured under load drifts up with the load. So the limit is lowered now
and then, to a half or less, and the calls that begin thereafter are measured. But one client that
drains *its* queue still stands in those of the others: it takes that for service time, and grows;
so do they, in turn, for ever. Therefore all of them drain at once, at the instants of a grid: whole
seconds, a power of four apart, of the clock that all processes of a machine share.

Sources, and roads not taken. Netflix's concurrency-limits: its AIMD adds 1 for each sample, and
so doubles with each round trip; its Gradient2 takes a long average for B, which creeps up under
load; its Vegas takes a minimum for B, so that one lucky call makes a queue of all others.
failsafe-go adds correlations of throughput and latency: they tell who is alone that more does
not help, but for one of several more always helps, at the cost of the others. Envoy drains as
here, but each client at an instant of its own. TCP BBR drains all at once (ProbeRTT): its clients
find the instant by a minimum that each of them sees, which the mean of ten calls would not show.
TCP FAST has the law of `Gradient`, CUBIC the curve of `BackOff`; botocore has it, too, and
loses the ceiling when it is refused several times in a row.

Units: instants are nanoseconds; the limits are slots, or tokens per second.
"""

from async_throttle.adaptive._law import Adaptive, Outcome
from async_throttle.adaptive.aimd import AIMD
from async_throttle.adaptive.backoff import BackOff
from async_throttle.adaptive.gradient import Gradient

__all__ = ["AIMD", "Adaptive", "BackOff", "Gradient", "Outcome"]
