"""What there is to pay before the first call: importing, and making a limiter."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from async_throttle import LimitSet, Throttle

from .measure import cpu_time, traced, undisturbed
from .peers import AIOLIMITER, ANYIO, ASYNCIO_THROTTLE, FORMER, SEMAPHORE, THROTTLER
from .rows import SLOTS, Bench, Row

MAKERS: dict[str, Callable[[Any], Callable[[], object]]] = {
    SEMAPHORE: lambda lib: lambda: lib.Semaphore(SLOTS),
    AIOLIMITER: lambda lib: lambda: lib.AsyncLimiter(20, 1),
    ASYNCIO_THROTTLE: lambda lib: lambda: lib.Throttler(20, 1),
    THROTTLER: lambda lib: lambda: lib.Throttler(20, 1),
    ANYIO: lambda lib: lambda: lib.CapacityLimiter(SLOTS),
    FORMER: lambda lib: lambda: lib.Throttle(20, SLOTS),
}


async def cost_of(make: Callable[[], object], count: int) -> float:
    with undisturbed():
        start = cpu_time()
        kept = [make() for _ in range(count)]
        cost = (cpu_time() - start) / count
    del kept
    return cost


async def bytes_of(make: Callable[[], object], count: int) -> float:
    kept = [make()]
    with traced() as held:
        kept += [make() for _ in range(count)]
        return held() / count


async def making(bench: Bench) -> list[Row]:
    count, rounds = bench.pick((1_000, 21), (50, 2))

    def throttle() -> Throttle:
        return Throttle(20, SLOTS)

    def peers(
        sample: Callable[[Callable[[], object], int], Awaitable[float]],
    ) -> dict[str, Callable[[Any], Awaitable[float]]]:
        return {
            name: lambda lib, make=make: sample(make(lib), count)  # type: ignore[misc]
            for name, make in MAKERS.items()
        }

    cost = await bench.group(rounds, {"throttle": lambda: cost_of(throttle, count)}, peers(cost_of))
    memory = await bench.group(1, {"throttle": lambda: bytes_of(throttle, count)}, peers(bytes_of))
    return [
        cost.row("making a Throttle", "us", "throttle", SEMAPHORE, None),
        memory.row("memory of a Throttle", "B", "throttle", SEMAPHORE, None, most=3_700),
    ]


async def making_again(bench: Bench) -> list[Row]:
    """A set over the same throttles, made for each call; and the one that is kept."""
    calls, rounds = bench.pick((1_000, 21), (50, 2))
    both = Throttle(1e9), Throttle(1e9)
    kept = LimitSet(*both)

    async def through_sets(of: Callable[[], LimitSet]) -> float:
        with undisturbed():
            start = cpu_time()
            for _ in range(calls):
                async with of():
                    pass
            return (cpu_time() - start) / calls

    group = await bench.group(
        rounds,
        {
            "again": lambda: through_sets(lambda: LimitSet(*both)),
            "kept": lambda: through_sets(lambda: kept),
        },
    )
    return [group.row("async with LimitSet(a, b), made for each call", "us", "again", "kept", None)]


IMPORTED = {
    AIOLIMITER: "aiolimiter",
    ASYNCIO_THROTTLE: "asyncio_throttle",
    THROTTLER: "throttler",
    ANYIO: "anyio",
}


async def importing(bench: Bench) -> list[Row]:
    """In a process of its own each; that of asyncio, which all of them import, is left out."""
    rounds = bench.pick(9, 1)
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        async def run(code: str) -> str:
            ran = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", code],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            return ran.stdout

        async def cost(name: str, before: str = "asyncio") -> float:
            clock = "from time import process_time as t; s = t()"
            return float(await run(f"import {before}; {clock}; import {name}; print(t() - s)"))

        await run(  # from now on all of it is compiled
            "import contextlib, importlib\n"
            f"for name in {['asyncio', 'async_throttle', *IMPORTED.values()]}:\n"
            "    with contextlib.suppress(ImportError): importlib.import_module(name)"
        )
        group = await bench.group(
            rounds,
            {
                "package": lambda: cost("async_throttle"),
                "asyncio": lambda: cost("asyncio", "sys"),
            },
            {
                name: lambda lib, module=module: cost(module)  # type: ignore[misc]
                for name, module in IMPORTED.items()
            },
            otherwise="left out",
        )
    return [group.row("import async_throttle, after asyncio", "ms", "package", "asyncio", 0.25)]
