"""nginx with ``limit_req`` and ``limit_conn``. How it counts, since the twins rest on it:

``limit_req rate=R burst=N nodelay`` keeps one number per client, in thousandths of a request, and
the time in whole milliseconds::

    excess = max(0, excess - R * elapsed + 1), and the request is refused if that is above N

A new client starts at 0, so N + 1 requests may come at once: this is a token bucket of rate R and
burst N + 1. A refused request is not counted. Without ``nodelay`` the same requests are admitted,
and held inside nginx until the rate allows them.

As it floors its clock before it subtracts, two requests that are 33.4 ms apart may look like 33: a
client that sends one per 1/30 s is refused at ``30r/s``. Where a millisecond is no whole number of
requests, the twin has one millisecond's worth of slack. ``r/m`` becomes thousandths of a request
per second, rounded down: 500r/m are 8.333 per second.

``limit_conn N`` counts the requests whose header has been read and whose response has not been
sent to its last byte. It is asked after ``limit_req``, and what it refuses has cost a token there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from async_throttle import LeakyBucket, Throttle

from .programs import debian
from .server import Server, Shared, Twin

TOO_MANY_REQUESTS, TOO_MANY_CONNECTIONS = 429, 503

# A slow response is one chunk and one byte: nginx sends the chunk, waits for chunk / rate = 50 ms,
# and sends the byte. Without sendfile_max_chunk it would send a whole second's allowance at once.
CHUNK, LIMIT_RATE = 5_000, 100_000


@dataclass(frozen=True)
class Location:
    """A path with limits of its own, in nginx's words."""

    path: str
    rate: str = ""  # "10r/s"
    burst: str = ""  # "burst=5 nodelay"
    connections: int = 0  # requests in flight, each of which takes 50 ms; 0: no limit, no delay

    @property
    def zone(self) -> str:
        """What nginx is to remember of each client."""
        if not self.rate:
            return ""
        return f"limit_req_zone $http_x_api_key zone={self.path[1:]}:1m rate={self.rate};"

    def __str__(self) -> str:
        if self.connections:
            return f"limit_conn {self.connections}"
        return f"limit_req {self.rate} {self.burst}".strip()

    @property
    def block(self) -> str:
        rules: list[str] = []
        if self.rate:
            rules.append(f"limit_req zone={self.path[1:]} {self.burst};")
        if self.connections:
            rules.append(f"limit_conn connections {self.connections};")
            rules.append(f"limit_rate {LIMIT_RATE}; sendfile_max_chunk {CHUNK};")
        # The answer is a file, because `return` would answer before the limits are asked.
        rules.append(f"alias {'slow' if self.connections else 'fast'};")
        return f"location = {self.path} {{ {' '.join(rules)} }}"


def nginx(
    locations: Sequence[Location],
    twins: tuple[Twin, ...] = (),
    shared: tuple[Shared, ...] = (),
) -> Server:
    """An nginx that has these limits and no others; one process."""
    return Server("nginx", partial(debian, "nginx"), partial(_configure, locations), twins, shared)


def _configure(locations: Sequence[Location], folder: Path, port: int) -> list[str]:
    (folder / "scratch").mkdir(exist_ok=True)
    (folder / "fast").write_bytes(b"ok\n")
    (folder / "slow").write_bytes(b"." * (CHUNK + 1))
    # Relative paths start at the prefix. What is not set here would lie in directories of the
    # system, which the user who runs the tests may not write.
    (folder / "nginx.conf").write_text(f"""\
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{
    worker_connections 1024;
}}
http {{
    access_log off;
    client_body_temp_path scratch/body;
    proxy_temp_path scratch/proxy;
    fastcgi_temp_path scratch/fastcgi;
    uwsgi_temp_path scratch/uwsgi;
    scgi_temp_path scratch/scgi;
    keepalive_requests 100000;
    limit_req_status {TOO_MANY_REQUESTS};
    limit_conn_status {TOO_MANY_CONNECTIONS};
    limit_conn_zone $http_x_api_key zone=connections:1m;
    {" ".join(location.zone for location in locations)}
    server {{
        listen 127.0.0.1:{port};
        {" ".join(location.block for location in locations)}
    }}
}}
""")
    return ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


LIMITS = (
    (Location("/even", "10r/s"), partial(Throttle, 10, algorithm=LeakyBucket)),
    (Location("/bucket", "10r/s", "burst=5 nodelay"), partial(Throttle, 10, burst=6)),
    (Location("/held", "10r/s", "burst=5"), partial(Throttle, 10, burst=6)),
    (Location("/fast", "30r/s"), partial(Throttle, 1, period=0.034)),
    (Location("/fast-bucket", "30r/s", "burst=10 nodelay"), partial(Throttle, 30, burst=10.97)),
    (Location("/minute", "500r/m", "burst=5 nodelay"), partial(Throttle, 8.333, burst=5)),
    (Location("/connections", connections=3), partial(Throttle, math.inf, 3)),
)

SHARED = Location("/shared", "10r/s", "burst=39 nodelay")

NGINX = nginx(
    [*(location for location, _ in LIMITS), SHARED],
    tuple(Twin(str(location), throttle, location.path) for location, throttle in LIMITS),
    (
        Shared(
            str(SHARED),
            partial(Throttle, 40, 8, 4, burst=39.99, counts="end"),
            SHARED.path,
            burst=40,
            together=3,
        ),
    ),
)
