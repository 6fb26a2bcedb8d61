"""HAProxy with a counter of requests per client, as its manual shows it.

``http_req_rate(P)`` is no window: it is the count of the period that runs, and of the one before
as much as of it is still within P. A client that asks for N at once waits almost two periods until
it gets as many again. The twin is a bucket whose burst is small. Requests that are refused count,
so that whoever insists gets nothing any more.

Beside an outsider who takes 3 per second at random, of 10, nobody who is told nothing gets 95 %
of it. The outsider's calls of a period are 12, and 3.5 more or less: where both ask for 9.5 per
second on average, every fourth look finds too many, and what is refused then takes the place of a
call that would have been served. In virtual time no pace from 6.5 to 9.25 per second, with no pause
from 0.2 s to 4 s after a refusal, used more than nine tenths. So the client is told what the
outsider leaves, 7 per second: that is as good as any, and refused once in a while.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from async_throttle import LeakyBucket, Throttle

from .programs import debian
from .server import Server, Shared, Twin

LIMITS = {"ten": (10, 1), "twenty": (20, 1), "forty": (40, 4)}
"""By path: the most requests, and in how many seconds."""


def _configure(folder: Path, port: int) -> list[str]:
    rules: list[str] = []
    tables: list[str] = []
    for slot, (name, (most, seconds)) in enumerate(LIMITS.items()):
        here = f"{{ path /{name} }}"
        tables.append(f"""\
backend {name}
    stick-table type string len 64 size 10k expire 1m store http_req_rate({seconds}s)
""")
        rules.append(f"""\
    http-request track-sc{slot} req.hdr(x-api-key) table {name} if {here}
    http-request deny deny_status 429 if {here} {{ sc_http_req_rate({slot},{name}) gt {most} }}
""")
    (folder / "haproxy.cfg").write_text(f"""\
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
{"".join(tables)}
frontend all
    bind 127.0.0.1:{port}
{"".join(rules)}
    http-request return status 200 content-type text/plain string ok
""")
    return ["-f", str(folder / "haproxy.cfg")]


HAPROXY = Server(
    "HAProxy",
    partial(debian, "haproxy"),
    _configure,
    (
        Twin("http_req_rate(1s) gt 10", partial(Throttle, 10, algorithm=LeakyBucket), "/ten"),
        Twin("http_req_rate(1s) gt 20", partial(Throttle, 17, burst=4), "/twenty"),
    ),
    (
        Shared(
            "http_req_rate(4s) gt 40",
            partial(Throttle, 28, 8, 4, burst=4, counts="end"),
            "/forty",
            counts_refused=True,
            misses="it says nothing, and counts what it refuses: see haproxy.py",
        ),
    ),
)
