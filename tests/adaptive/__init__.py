"""What adaptive limits do on simulated servers: the limit over time, as a picture.

Run it from the top of the checkout::

    python -m tests.adaptive                                # every rule
    python -m tests.adaptive --rule Gradient --clients 2    # two that share a server

Somebody who has always one more call to make meets a server whose capacity drops to a quarter
after a third of the time, and rises to four times that of the start after two thirds. Each line
is a stretch of time: a bar for the limit, all clients together, and a mark for the best fixed
one, the smallest that would have kept the server busy. Beside it what was served, as a part of
what the server could do; the mean latency, as a multiple of that where nobody queues; and how
many calls were dropped.

The map: `queueing` has the servers, the clients, and a time of its own, which nobody waits for.
"""
