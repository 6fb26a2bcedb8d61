"""A judge that was written elsewhere: nginx with ``limit_req`` and ``limit_conn``, on the loopback.

A limiter that is checked by its own arithmetic alone can be wrong together with it. Here nginx does
the counting. Each :class:`Case` is an agreement, kept by a throttle on the client's side and
enforced by nginx on the other; :func:`measure` says how many requests were refused, and how much of
the allowed throughput was used.

How nginx counts, since the limits written below rest on it:

``limit_req rate=R burst=N nodelay`` keeps one number per key, in thousandths of a request, and the
time in whole milliseconds::

    excess = max(0, excess - R * elapsed + 1), and the request is refused if that is above N

    A new key starts at 0, so N + 1 requests may come at once: this is a token bucket of rate R and
    burst N + 1. A refused request is not counted.

``limit_conn N`` counts the requests whose header has been read and whose response has not been
sent to its last byte. It is asked after ``limit_req``, and what it refuses has cost a token there.
"""

import asyncio
import contextlib
import itertools
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import perf_counter, sleep
from typing import Any, Self, TypeVar

from async_throttle import LeakyBucket, SlidingWindow, Throttle

T = TypeVar("T")

OK, TOO_MANY_REQUESTS, TOO_MANY_CONNECTIONS = 200, 429, 503

# The server lets so many more go at once than the client believes. Everybody who throttles for a
# server needs such a margin: it sees the gaps between requests as the network and its own
# scheduling left them. If one request comes late by L and the next one does not, the gap between
# them has narrowed by L, and that takes rate * L requests of burst. One part of L is known: a
# throttle makes up for a late timer, by 5 ms at most. At 50 per second, two requests are 40 ms. On
# a busy machine a process may be kept off its core for longer; see `Figures.disturbed`.
# Connections get no margin: this nginx is one process, and has ended a response before it reads the
# request that follows it. With several worker processes they would need one, too.
SLACK = 2

# Beside what pytest keeps from one run to the next, which git does not see either.
CACHE = Path(__file__).parents[1] / ".pytest_cache/d/nginx"

# A slow response is one chunk and one byte: nginx sends the chunk, waits for chunk / rate = 50 ms,
# and sends the byte. Without sendfile_max_chunk it would send a whole second's allowance at once.
CHUNK, LIMIT_RATE = 5_000, 100_000


@dataclass(frozen=True)
class Case:
    """An agreement between client and server: so many per second, at once, and in flight.

    *rate*, *burst* and *slots* are written out beside the throttle that must keep to them, not read
    from it: what the server allows must not follow a mistake of the client.
    """

    name: str
    throttle: Callable[[], Throttle]
    calls: Sequence[int]  # their weights; nginx knows none: weight 5 is five requests at once
    rate: float = math.inf  # requests per second
    burst: int = 1  # requests at once
    slots: int = 0  # calls in flight, each of which then takes 50 ms; 0: no limit and no delay

    @property
    def path(self) -> str:
        return "/" + self.name.replace(" ", "-")

    @property
    def zone(self) -> str:
        """What nginx is to remember of each client, as it is configured."""
        if math.isinf(self.rate):
            return ""
        per_minute = math.ceil(self.rate * 60)  # the directive takes whole numbers only
        return f"limit_req_zone $http_x_api_key zone={self.path[1:]}:1m rate={per_minute}r/m;"

    @property
    def location(self) -> str:
        """The limits that nginx is to enforce, as they are configured."""
        rules: list[str] = []
        if self.zone:
            burst = self.burst - 1 + SLACK  # nginx lets one more than this go at once
            rules.append(f"limit_req zone={self.path[1:]} burst={burst} nodelay;")
        if self.slots:
            rules.append(f"limit_conn connections {self.slots};")
            rules.append(f"limit_rate {LIMIT_RATE}; sendfile_max_chunk {CHUNK};")
        # The answer is a file, because `return` would answer before the limits are asked.
        rules.append(f"alias {'slow' if self.slots else 'fast'};")
        return f"location = {self.path} {{ {' '.join(rules)} }}"

    @property
    def patience(self) -> float:
        """Seconds for which a request may be on its way to the server, given SLACK.

        Half a request of the slack is for what the throttle makes up for, and for a server that
        counts in milliseconds.
        """
        return (SLACK - 0.5) / self.rate if self.zone else math.inf

    def shortest(self, service: float) -> float:
        """Seconds from the first grant to the last, if each goes at the first instant allowed.

        That of a sliding window is that of a bucket, if the calls fill its last period completely.

        Args:
            service: seconds for which a call holds its slot.
        """
        by_rate = (sum(self.calls) - self.burst) / self.rate
        by_slots = (math.ceil(len(self.calls) / self.slots) - 1) * service if self.slots else 0.0
        return max(by_rate, by_slots)


CASES = (
    Case(
        "token bucket",
        lambda: Throttle(50, burst=20),
        rate=50,
        burst=20,
        calls=(1,) * 120,
    ),
    Case(
        "leaky bucket",  # evenly spaced, and counted by the minute
        lambda: Throttle(1500, period=60, algorithm=LeakyBucket),
        rate=25,
        burst=1,
        calls=(1,) * 51,
    ),
    Case(
        "sliding window",  # 25 at once, each half second
        lambda: Throttle(25, period=0.5, algorithm=SlidingWindow),
        rate=50,
        burst=25,
        calls=(1,) * 125,
    ),
    Case(
        "weights",
        lambda: Throttle(50, burst=10),
        rate=50,
        burst=10,
        calls=(1, 4, 2, 10, 3) * 5,
    ),
    Case(
        "concurrency",
        lambda: Throttle(math.inf, 8),
        slots=8,
        calls=(1,) * 320,
    ),
    Case(
        "both limits",  # while the burst lasts, the slots are what holds back: 4 / 50 ms = 80/s
        lambda: Throttle(50, 4, burst=20),
        rate=50,
        burst=20,
        slots=4,
        calls=(1,) * 120,
    ),
)


class NginxMissing(Exception):
    """There is no nginx here, and none could be fetched; the message says what to do."""


@dataclass(frozen=True)
class Nginx:
    """A program that runs, and the environment in which it does."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def find_nginx(cache: Path = CACHE) -> Nginx:
    """The machine's own nginx, or else Debian's, unpacked into *cache*.

    Raises:
        NginxMissing: neither is to be had.
    """
    if os.name != "posix":
        raise NginxMissing("nginx is run on POSIX systems only")
    # Debian keeps it in a directory that is not on the path of every user.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which("nginx", path=path):
        return Nginx(Path(found))
    root = cache / "root"
    if not root.exists():
        try:
            _unpack_debian_packages(root, cache)
        except OSError as error:
            raise NginxMissing(
                f"no nginx on the path, and no place for Debian's: {error}"
            ) from None
    # Libraries that the machine lacks have come along. They lie next to each other.
    libraries = {str(library.parent) for library in root.rglob("lib*.so.*")}
    nginx = Nginx(
        root / "usr/sbin/nginx",
        {"LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))} if libraries else {},
    )
    try:
        _run([str(nginx.path), "-v"], env={**os.environ, **nginx.environment})
    except NginxMissing:
        shutil.rmtree(root)  # the next run shall try again
        raise
    return nginx


def _unpack_debian_packages(root: Path, cache: Path) -> None:
    """Fetch nginx and the packages it needs, and unpack them into *root*.

    No package is installed, and no privilege needed: apt-get is given package lists of its own, so
    that the system's, which may be missing or out of date, are neither used nor changed, and dpkg
    only unpacks. Hence no service is started either. apt-get verifies the signatures as always.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise NginxMissing(
                f"no nginx on the path, and no {tool} to fetch Debian's: install nginx "
                "(Debian, Ubuntu: apt-get install nginx; macOS: brew install nginx)"
            )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch)
        (work / "lists/partial").mkdir(parents=True)
        (work / "unpacked").mkdir()
        apt = [
            *("apt-get", "--quiet"),
            *("-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work}"),
            *("-o", "APT::Sandbox::User=root", "-o", "APT::Update::Error-Mode=any"),
            *("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15"),
        ]
        _run([*apt, "update"])
        plan = _run([*apt, "--simulate", "--no-install-recommends", "install", "nginx"])
        packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
        _run([*apt, "download", *packages], cwd=work)
        for package in work.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(work / "unpacked")])
        # In one step: of two test runs side by side, neither sees the half of it.
        with contextlib.suppress(OSError):
            (work / "unpacked").rename(root)


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> str:
    """What *command* prints; NginxMissing if it fails or is not done in a minute."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**env, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NginxMissing(f"no nginx on the path, and Debian's cannot be had: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NginxMissing(
            "no nginx on the path, and Debian's cannot be had: "
            f"`{command[0]} {command[-1]}` says {lines[0]!r}; apt-get install nginx may help"
        )
    return done.stdout


def _configuration(port: int) -> str:
    # Relative paths start at the prefix. What is not set here would lie in directories of the
    # system, which the user who runs the tests may not write.
    return f"""\
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{
    worker_connections 1024;
}}
http {{
    access_log access.log;
    client_body_temp_path scratch/body;
    proxy_temp_path scratch/proxy;
    fastcgi_temp_path scratch/fastcgi;
    uwsgi_temp_path scratch/uwsgi;
    scgi_temp_path scratch/scgi;
    keepalive_requests 100000;
    limit_req_status {TOO_MANY_REQUESTS};
    limit_conn_status {TOO_MANY_CONNECTIONS};
    limit_conn_zone $http_x_api_key zone=connections:1m;
    {" ".join(case.zone for case in CASES)}
    server {{
        listen 127.0.0.1:{port} reuseport;
        {" ".join(case.location for case in CASES)}
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running nginx."""

    port: int
    log: Path

    def complaints(self) -> str:
        """The end of its error log, which tells for each refusal by how much it was too early."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])


@contextlib.contextmanager
def serve(nginx: Nginx, prefix: Path) -> Iterator[Server]:
    """Run nginx for the length of the block, as one process, and with all its files in *prefix*."""
    (prefix / "scratch").mkdir(parents=True)
    (prefix / "fast").write_bytes(b"ok\n")
    (prefix / "slow").write_bytes(b"." * (CHUNK + 1))
    configuration = prefix / "nginx.conf"
    with socket.socket() as reserved:
        # Bound and never listening, it keeps the port from everybody but nginx, which shares it.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        configuration.write_text(_configuration(port))
        with (prefix / "output.log").open("wb") as output:
            process = subprocess.Popen(
                [nginx.path, "-p", prefix, "-c", configuration],
                env={**os.environ, **nginx.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            deadline = perf_counter() + 10
            while not _answers(port):
                if process.poll() is not None or perf_counter() > deadline:
                    logs = "".join(log.read_text(errors="replace") for log in prefix.glob("*.log"))
                    raise RuntimeError(f"{nginx.path} does not answer:\n{logs}")
                sleep(0.01)
            yield Server(port, prefix / "error.log")
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Client:
    """The least HTTP client that keeps its connections; to the server, each is another customer."""

    _keys = itertools.count(1)

    def __init__(self, server: Server) -> None:
        self._key = f"client-{next(self._keys)}"
        self._server = server
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        # Opened in advance, as a handshake would add to the jitter. More are opened if need be.
        for _ in range(64):
            self._idle.append(await self._connect())
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers.append(writer)
        return reader, writer

    async def get(self, path: str) -> tuple[int, float]:
        """The status with which the server answers, and the instant; the body is read, too."""
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {self._key}\r\n\r\n"
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        answered = perf_counter()
        length = re.search(r"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
        status = int(head.split()[1])
        if status not in (OK, TOO_MANY_REQUESTS, TOO_MANY_CONNECTIONS) or length is None:
            raise RuntimeError(f"an answer that nobody asked for: {head}")
        await reader.readexactly(int(length[1]))
        self._idle.append((reader, writer))
        return status, answered


@dataclass(frozen=True)
class Figures:
    """What one client got."""

    requests: int
    refused: Counter[int]  # by status
    seconds: float  # from the start to the last grant
    shortest: float  # the same, had every call gone at the first instant allowed
    slowest: float  # the longest that a request took to be answered, from its grant on
    late: float  # seconds for which timers that had rung were not heard, all in all
    patience: float  # the most that a request may be late, for the server's margin to make up for

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for these figures to say what the throttle does.

        A refusal says nothing where a request may have met the server later than its margin
        allows; throughput says nothing where timers were late for a part of the time that counts.
        """
        too_late = self.slowest + self.late > self.patience
        return too_late or self.late > 0.01 * self.shortest

    @property
    def share(self) -> float:
        """The part of the allowed throughput that was used.

        The burst is left out on both sides, so this asks for more than served / (burst + rate *
        seconds) would.
        """
        return self.shortest / self.seconds

    def __str__(self) -> str:
        refused = ", ".join(f"{count} x {status}" for status, count in sorted(self.refused.items()))
        return (
            f"{self.requests} requests in {self.seconds:.3f} s, {self.share:.1%} of the allowed "
            f"throughput, refused: {refused or 'none'}; answered within "
            f"{self.slowest * 1000:.1f} ms, timers {self.late * 1000:.1f} ms late"
        )


async def measure(client: Client, case: Case, throttle: Throttle | None) -> Figures:
    """Make all calls of *case* at once, and let *throttle* hold them back; None: nothing does."""
    statuses = Counter[int]()
    services: list[float] = []
    last_grant = slowest = late = 0.0

    async def requests(weight: int) -> None:
        nonlocal last_grant, slowest
        last_grant = granted = perf_counter()
        answers = await asyncio.gather(*(client.get(case.path) for _ in range(weight)))
        statuses.update(status for status, _ in answers)
        slowest = max(slowest, *(answered - granted for _, answered in answers))
        services.append(perf_counter() - granted)

    async def call(weight: int) -> None:
        if throttle is None:
            await requests(weight)
        elif weight == 1:
            async with throttle:
                await requests(weight)
        else:
            async with throttle(weight):
                await requests(weight)

    async def listen() -> None:
        nonlocal late
        while True:
            rings = perf_counter() + 0.002
            await asyncio.sleep(0.002)
            delay = perf_counter() - rings
            late += delay if delay > 0.002 else 0.0  # timers wake up to 1 ms late in any case

    async with asyncio.timeout(30):
        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)  # from here on it hears whatever stops this thread
        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for weight in case.calls:
                group.create_task(call(weight))
        listener.cancel()
    return Figures(
        requests=statuses.total(),
        refused=Counter({status: n for status, n in statuses.items() if status != OK}),
        seconds=last_grant - start,
        shortest=case.shortest(fmean(services)),
        slowest=slowest,
        late=late,
        patience=case.patience,
    )


async def visit(server: Server, case: Case, throttle: Throttle | None) -> Figures:
    """The figures of a client that nginx has not seen before."""
    async with Client(server) as client:
        return await measure(client, case, throttle)


def run(visits: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own, and never in debug mode, which takes milliseconds per request.

    That would come between a grant and the request, where the server's margin has to make up for
    it.
    """
    return asyncio.run(visits, debug=False)
