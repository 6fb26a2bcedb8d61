"""The other limiters, and asyncio's own: found where installed, or said to be missing.

async-throttle 1.0 has the import name of the package that is measured. It is therefore fetched from
the package index into a temporary directory and imported from there under another name.
"""

import asyncio
import importlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from .measure import Contender, NoAnswer

SEMAPHORE = "asyncio.Semaphore"
AIOLIMITER = "aiolimiter"
ASYNCIO_THROTTLE = "asyncio-throttle"
THROTTLER = "throttler"
ANYIO = "anyio"
FORMER = "async-throttle 1.0"
CONCURRY = "concurry"
LIMITS = "limits"
PYRATE_LIMITER = "pyrate-limiter"
THROTTLED = "throttled-py"
SELF_LIMITERS = "self-limiters"
SERVER = "a server of Redis"

TESTS = Path(__file__).parents[1]

NOT_MEASURED = "not measured"
"""What a cell says of a peer that is not installed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another library, or the reason why it cannot be had."""

    name: str
    says: str
    """Its version; or the reason."""
    module: ModuleType | None = None


class Peers:
    """All of them."""

    def __init__(self, *, offline: bool) -> None:
        self._peers = (
            Peer(SEMAPHORE, f"Python {platform.python_version()}", asyncio),
            *(_installed(name) for name in (AIOLIMITER, ASYNCIO_THROTTLE, THROTTLER, ANYIO)),
            Peer(FORMER, "left out by --offline") if offline else _former("1.0.0"),
            *(_installed(name) for name in (LIMITS, PYRATE_LIMITER)),
            _installed(THROTTLED, "throttled"),
            _installed(SELF_LIMITERS),
        )
        self._concurry = _installed(CONCURRY)
        self.server = _server()
        """Its module is `servers_redis`, which can `start` its name."""

    def __iter__(self) -> Iterator[Peer]:
        return iter((*self._peers, self._concurry, self.server))

    @property
    def concurry(self) -> ModuleType | None:
        """The only one that takes several limits at once, and so in tables of its own."""
        return self._concurry.module

    def contenders(
        self,
        samples: Mapping[str, Callable[[Any], Awaitable[float]]],
        otherwise: str = "",
        patience: float | None = None,
    ) -> dict[str, Contender]:
        """Who is compared with `Throttle`: a sample, which is given the module; or why none.

        Args:
            samples: by the peer's name.
            otherwise: why the other peers have none.
            patience: seconds after which a sample is said to hang; None is no limit.
        """
        return {
            peer.name: _contender(peer, samples.get(peer.name), otherwise, patience)
            for peer in self._peers
        }


def _contender(
    peer: Peer,
    sample: Callable[[Any], Awaitable[float]] | None,
    otherwise: str,
    patience: float | None,
) -> Contender:
    if sample is None:
        return otherwise
    if peer.module is None:
        return NOT_MEASURED

    async def run() -> float:
        try:
            async with asyncio.timeout(patience):
                return await sample(peer.module)
        except TimeoutError:
            raise NoAnswer(f"hangs (> {patience} s)") from None

    return run


def _installed(name: str, imported: str = "") -> Peer:
    try:
        module = importlib.import_module(imported or name.replace("-", "_"))
        return Peer(name, metadata.version(name), module)
    except ImportError:  # PackageNotFoundError is one, too
        return Peer(name, "not installed")


def _server() -> Peer:
    """The first of the servers that can be had, of those that tests start."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    try:
        servers = importlib.import_module("servers_redis")
        importlib.import_module("redis")  # the peers' client
    except ImportError as why:
        return Peer(SERVER, f"{why}; it comes with the extra 'test'")
    reasons = []
    for kind in ("valkey", "redis"):
        try:
            program, environment = servers.program(kind)
        except servers.Missing as why:
            reasons.append(f"{kind}: {why}")
            continue
        said = subprocess.run(
            [program, "--version"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        version = re.search(r"v=(\S+)", said.stdout)
        return Peer(kind, version[1] if version else said.stdout.strip(), servers)
    return Peer(SERVER, "; ".join(reasons))


def _former(version: str) -> Peer:
    """async-throttle *version* from the package index, imported as `async_throttle_former`."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    with tempfile.TemporaryDirectory() as directory:
        fetched = subprocess.run(
            [*pip, "--no-deps", "--dest", directory, f"async-throttle=={version}"],
            capture_output=True,
            text=True,
        )
        wheels = list(Path(directory).glob("*.whl"))
        if not wheels:
            reason = fetched.stderr.strip().splitlines() or ["pip fetched no wheel"]
            return Peer(FORMER, reason[-1])
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(directory)
        # Its modules import each other relatively, so that the package may go by any name.
        Path(directory, "async_throttle").rename(Path(directory, "async_throttle_former"))
        sys.path.insert(0, directory)
        try:
            return Peer(FORMER, version, importlib.import_module("async_throttle_former"))
        finally:
            sys.path.remove(directory)
