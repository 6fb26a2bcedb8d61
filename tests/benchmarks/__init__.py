"""What a call through `Throttle` costs, as ratios to `asyncio.Semaphore` and to its peers.

Run it from the top of the checkout, with the extra `bench` installed::

    python -m tests.benchmarks              # some minutes
    python -m tests.benchmarks --quick      # every row, small and noisy: does it still run?
    python -m tests.benchmarks --markdown   # the tables of the README

The map: `measure` takes the samples, `peers` finds the other libraries, `rows` says what is
compared with what, `tables` prints it.

A ratio is taken within one process between runs that follow each other within a fraction of a
second, because wall-clock times of different runs, days and machines cannot be compared. A verdict
is printed and never asserted: a busy machine must not turn a build red.
"""
