"""What a call costs, as ratios to `asyncio.Semaphore` and to the peers; and how that grows.

Run it from the top of the checkout, with the extras `test` and `bench` installed::

    python -m tests.benchmarks                   # some minutes
    python -m tests.benchmarks --only concurry   # limit sets and threads, beside concurry's
    python -m tests.benchmarks --only growth     # steps of an event among few and among many
    python -m tests.benchmarks --only redis_alone  # a call through a store, beside its peers
    python -m tests.benchmarks --quick           # every row, small and noisy: does it still run?
    python -m tests.benchmarks --markdown        # the tables of its README

The map: `measure` takes the samples, `peers` finds the other libraries, `rows` says what a row is,
`tables` prints it. What is compared with what is in `calls` (nobody waits), `waits` and `shut`
(somebody does, and for ever), `windows` (many calls inside one), `limits` (several limits at once,
and threads), `crowds` (many that wait for limits in common), `making` (limiters, and imports), and
`stores` (a quota on a server or in a file, of one process or several).

A limiter is made anew for each sample, and what a sample claims is checked next to the stopwatch:
that the bucket was half full, that everybody waited, that everybody got through.

`growth` has no stopwatch. It counts the steps of one event among few and among many, and the run
fails if they grow faster than promised.

A ratio is taken within one process between runs that follow each other within a fraction of a
second, because wall-clock times of different runs, days and machines cannot be compared. Its
verdict is printed and never asserted: a busy machine must not turn a build red.
"""
