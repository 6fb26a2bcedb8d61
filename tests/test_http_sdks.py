"""SDKs of language models over throttled clients: what is held until when, and who comes too early.

Each test is an example for each SDK, at the version that the extra ``sdks`` pins; it is skipped
where the SDK is not installed.
"""

from __future__ import annotations

import asyncio
import gc
import tomllib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
from readme import README, ROOT
from sdks import PIECES, SDKS, SYNC_SDKS, TEXT, TRIES, Provider, Sdk, SyncSdk
from support import now, others_run

from async_throttle import StoreUnavailable, Throttle, ThrottleTimeout, threads
from async_throttle.http.anthropic import plain_refusals, sync_plain_refusals

each_sdk = pytest.mark.parametrize("sdk", SDKS, ids=str)

WIRES = ["none", pytest.param("loopback", marks=pytest.mark.virtual_time(False))]
"""How the provider is reached: by a transport, in virtual time, or at a port."""


@asynccontextmanager
async def reached(
    sdk: Sdk,
    provider: Provider,
    limiter: Any,
    wire: str = "none",
    *,
    timeout: Any = None,
    **told: Any,
) -> AsyncIterator[Any]:
    """The API object of *sdk*, as *told*, with *limiter* between it and the *provider*."""
    ours: Any = import_module(f"async_throttle.http.{sdk.family}")
    if wire == "none":
        inner = provider.transport(sdk.family)
        async with ours.ThrottledTransport(limiter, inner, timeout=timeout) as transport:
            yield sdk.api(transport, "http://provider", **told)
    else:
        async with (
            provider.served() as url,
            ours.ThrottledTransport(limiter, timeout=timeout) as transport,
        ):
            yield sdk.api(transport, url, **told)


# ------------------------------------------------------------------------- the slot, until when

LATE = {"google-genai"}
"""Whose stream, when it is closed, leaves the answer open until that is collected."""


async def collected() -> None:
    """The event loop has closed the generators that were left, and what was in cycles is gone."""
    await others_run()
    gc.collect()
    await others_run()


async def first_piece(sdk: Sdk, stream: Any) -> str:
    """The first piece of text, where the *stream* is left."""
    events = aiter(stream)
    while not (text := sdk.piece(await anext(events))):
        pass
    return text


async def rest(sdk: Sdk, stream: Any) -> str:
    return "".join([sdk.piece(event) or "" async for event in stream])


Scene = Callable[[Sdk, Any, Provider, Throttle], Awaitable[None]]
SCENES: dict[str, Scene] = {}


def scene(found: Scene) -> Scene:
    SCENES[found.__name__] = found
    return found


@scene
async def at_once(sdk: Sdk, api: Any, provider: Provider, throttle: Throttle) -> None:
    assert await sdk.ask(api) == TEXT
    assert throttle.active == 0
    assert set(await asyncio.gather(*(sdk.ask(api) for _ in range(5)))) == {TEXT}
    assert (len(provider.came), provider.most) == (6, 1)


@scene
async def streamed(sdk: Sdk, api: Any, provider: Provider, throttle: Throttle) -> None:
    stream = await sdk.stream(api)
    assert await first_piece(sdk, stream) == PIECES[0]
    assert throttle.active == 1, "the provider is still at it"
    provider.go_on.set()
    assert PIECES[0] + await rest(sdk, stream) == TEXT
    assert throttle.active == 0


@scene
async def broken_off_and_closed(sdk: Sdk, api: Any, provider: Provider, throttle: Throttle) -> None:
    stream = await sdk.stream(api)
    async with stream if hasattr(stream, "__aexit__") else aclosing(stream):
        assert await first_piece(sdk, stream) == PIECES[0]
        assert throttle.active == 1
    if sdk.package in LATE:
        assert throttle.active == 1
        await collected()
    assert throttle.active == 0, "though the stream is not collected"


@scene
async def broken_off_and_left(sdk: Sdk, api: Any, provider: Provider, throttle: Throttle) -> None:
    async def leave() -> None:
        async for event in await sdk.stream(api):
            if sdk.piece(event):
                break
        assert throttle.active == 1

    await leave()
    await collected()


@scene
async def cancelled_in_the_middle(
    sdk: Sdk, api: Any, provider: Provider, throttle: Throttle
) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for event in await sdk.stream(api):
            if sdk.piece(event):
                begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    assert throttle.active == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert throttle.active == 0


@scene
async def side_by_side(sdk: Sdk, api: Any, provider: Provider, throttle: Throttle) -> None:
    async def read() -> str:
        return await rest(sdk, await sdk.stream(api))

    provider.go_on.set()
    texts = await asyncio.gather(*(each for _ in range(4) for each in (sdk.ask(api), read())))
    assert set(texts) == {TEXT}
    assert (len(provider.came), provider.most) == (8, 1)


@each_sdk
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", SCENES)
async def test_the_slot_is_there_again(sdk: Sdk, name: str, wire: str) -> None:
    provider, throttle = Provider(travel=0.1), Throttle(1_000, 1)
    async with reached(sdk, provider, throttle, wire) as api:
        await SCENES[name](sdk, api, provider, throttle)
        assert (throttle.active, throttle.waiting) == (0, 0)


@pytest.mark.virtual_time(False)
@pytest.mark.parametrize("sdk", SYNC_SDKS, ids=str)
async def test_the_slot_is_there_again_when_a_thread_asks(sdk: SyncSdk) -> None:
    library: Any = pytest.importorskip(sdk.module)
    ours: Any = import_module(f"async_throttle.http.{sdk.family}")
    provider, throttle = Provider(), threads.Throttle(1_000, 1)
    loop = asyncio.get_running_loop()

    def rest(events: Any) -> str:
        return "".join([sdk.piece(event) or "" for event in events])

    def first(events: Any) -> str | None:
        return next(filter(None, map(sdk.piece, events)))

    def ask(url: str) -> None:
        transport = ours.SyncThrottledTransport(throttle, timeout=60)  # and no hang, if it fails
        with import_module(sdk.family).Client(transport=transport) as client:
            api = sdk.make(library, client, url)
            for _ in range(2):
                assert sdk.ask(api) == TEXT
                assert throttle.active == 0
            broken_off = sdk.stream(api)
            assert first(broken_off) == PIECES[0]
            assert throttle.active == 1, "the provider is still at it"
            leave = getattr(broken_off, "__exit__", None)
            leave(None, None, None) if leave else broken_off.close()
            del broken_off
            gc.collect()
            assert throttle.active == 0
            stream = iter(sdk.stream(api))
            assert first(stream) == PIECES[0]
            loop.call_soon_threadsafe(provider.go_on.set)
            assert PIECES[0] + rest(stream) == TEXT
            assert throttle.active == 0

    async with provider.served() as url:
        v1 = "/v1" if sdk.package == "openai" else ""
        await asyncio.to_thread(ask, url + v1)
    assert (len(provider.came), throttle.waiting) == (4, 0)


# ----------------------------------------------------------------- one request in five is refused


def too_early(provider: Provider) -> int:
    """Requests that were sent after a refusal was known, and came before its time was up."""
    return sum(
        refused + 2 * provider.travel < came < refused + provider.back
        for refused in provider.refused
        for came in provider.came
    )


async def calls(sdk: Sdk, api: Any, count: int) -> int:
    """*count* calls, by turns at once and in pieces, each tried until it is answered.

    Returns:
        How many refusals the SDK did not see to itself.
    """
    told = 0

    async def read() -> str:
        return await rest(sdk, await sdk.stream(api))

    async def call(streamed: bool) -> None:
        nonlocal told
        while True:
            try:
                assert await (read() if streamed else sdk.ask(api)) == TEXT
            except Exception as error:
                if getattr(error, "status_code", 0) != 429:
                    raise
                told += 1
            else:
                return

    await asyncio.gather(*(call(bool(n % 2)) for n in range(count)))
    return told


@each_sdk
async def test_a_refusal_holds_everybody(sdk: Sdk) -> None:
    provider, throttle = Provider(refuses=5, travel=0.1), Throttle(50, 10)
    provider.go_on.set()
    async with reached(sdk, provider, throttle, tries_again=True) as api:
        told = await calls(sdk, api, 200)
    assert len(provider.came) == 200 + len(provider.refused)
    assert len(provider.refused) == 49
    assert too_early(provider) == 0
    assert (throttle.active, provider.open) == (0, 0)
    assert (told > 0) == (sdk.package == "cohere"), "which never tries again what is streamed"


@each_sdk
async def test_without_a_throttle_the_others_go_on(sdk: Sdk) -> None:
    provider, slots = Provider(refuses=5, travel=0.1), asyncio.Semaphore(10)
    provider.go_on.set()
    api = sdk.api(provider.transport(sdk.family), "http://provider", tries_again=True)

    async def call() -> None:
        async with slots:
            await sdk.ask(api)

    await asyncio.gather(*(call() for _ in range(60)))
    assert too_early(provider) > len(provider.refused)


# ------------------------------------------------------------------------- a refusal of our own


async def refused(sdk: Sdk, **told: Any) -> tuple[Exception, int]:
    """What a call ends with that is refused by the throttle, and how often it was tried."""
    provider, throttle = Provider(), Throttle(1, period=3_600)
    await throttle.consume(1)
    tries = 0

    def timeout(request: Any) -> float:
        nonlocal tries
        tries += 1
        return 5

    async with reached(sdk, provider, throttle, timeout=timeout, **told) as api:
        with pytest.raises(Exception) as error:  # noqa: PT011
            await sdk.ask(api)
    assert provider.came == []
    assert (throttle.active, throttle.waiting) == (0, 0)
    return error.value, tries


def row(sdk: Sdk, error: Exception, tries: int) -> str:
    """What the table of the README says of *sdk*, if a refusal arrives so."""
    way = "itself" if isinstance(error, ThrottleTimeout) else f"`{type(error).__name__}`"
    number = "1" if tries == 1 else f"{tries}, in a second or two"
    return f"| {sdk.package} {sdk.version()} | {sdk.family}, `{sdk.hands}=` | {way} | {number} |"


@each_sdk
async def test_a_refusal_arrives_as_the_readme_says(sdk: Sdk) -> None:
    error, tries = await refused(sdk)
    assert row(sdk, error, tries) in README.splitlines()
    assert isinstance(error, ThrottleTimeout) or isinstance(error.__cause__, ThrottleTimeout)
    assert (now() == 0) if tries == 1 else (1 <= now() < 2)


@each_sdk
async def test_a_refusal_arrives_the_same_way_where_an_sdk_is_told_to_try_again(sdk: Sdk) -> None:
    error, tries = await refused(sdk)
    at_last, more = await refused(sdk, tries_again=True)
    assert type(at_last) is type(error)
    assert more == (1 if tries == 1 else TRIES)


def test_the_table_of_the_readme_has_a_row_for_each_sdk_that_is_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = [pin.split("==") for pin in extras["project"]["optional-dependencies"]["sdks"]]
    head = "| SDK | its client | a `ThrottleTimeout` comes as | tries |\n|---|---|---|---|\n"
    rows = README.partition(head)[2].partition("\n\n")[0].splitlines()
    names = [row.strip("| ").split(" | ")[0] for row in rows]
    assert names == [f"{name} {'.'.join(pin.split('.')[:2])}" for name, pin in pins]
    assert [name for name, _ in pins] == [sdk.package for sdk in SDKS]


# ------------------------------------------------------------------- the middleware of anthropic

ANTHROPIC = next(sdk for sdk in SDKS if sdk.package == "anthropic")


@pytest.mark.parametrize("tries_again", [False, True])
async def test_with_its_middleware_anthropic_says_what_the_throttle_said(tries_again: bool) -> None:
    error, tries = await refused(ANTHROPIC, tries_again=tries_again, middleware=[plain_refusals])
    assert (type(error), tries, now()) == (ThrottleTimeout, 1, 0)


async def test_its_middleware_leaves_all_else_to_anthropic() -> None:
    provider, throttle = Provider(refuses=2, travel=0.1), Throttle(50, 10)
    provider.go_on.set()
    how: dict[str, Any] = {"tries_again": True, "middleware": [plain_refusals]}
    async with reached(ANTHROPIC, provider, throttle, **how) as api:
        assert await calls(ANTHROPIC, api, 4) == 0, "refusals of the provider are tried again"
    assert len(provider.refused) == 3
    httpx2 = pytest.importorskip("httpx2")
    error = httpx2.ConnectError("nobody there")
    tried = []

    def fail(request: Any) -> None:
        tried.append(request)
        raise error

    api = ANTHROPIC.api(httpx2.MockTransport(fail), "http://provider", middleware=[plain_refusals])
    with pytest.raises(pytest.importorskip("anthropic").APIConnectionError) as failed:
        await ANTHROPIC.ask(api)
    assert failed.value.__cause__ is error
    assert len(tried) == 3


def test_the_middleware_for_threads_says_what_the_throttle_said() -> None:
    anthropic = pytest.importorskip("anthropic")
    from async_throttle.http.httpx2 import SyncThrottledTransport

    throttle = threads.Throttle(1, period=3_600)
    throttle.consume(1)
    transport = SyncThrottledTransport(throttle, timeout=0)
    client = anthropic.DefaultHttpxClient(transport=transport)
    with (
        anthropic.Anthropic(
            api_key="key", http_client=client, middleware=[sync_plain_refusals]
        ) as api,
        pytest.raises(ThrottleTimeout),
    ):
        api.messages.create(model="any", messages=[], max_tokens=1)


async def test_a_refusal_keeps_its_own_cause() -> None:
    lost = StoreUnavailable("the store is away")
    lost.__cause__ = ConnectionError("refused")

    async def send(request: str) -> None:
        raise RuntimeError(request) from lost

    with pytest.raises(StoreUnavailable) as unavailable:
        await plain_refusals("a request", send)
    assert unavailable.value is lost
    assert isinstance(lost.__cause__, ConnectionError)


@pytest.mark.parametrize("of", ["loops", "threads"])
async def test_a_refusal_keeps_nothing_once_it_was_seen(of: str) -> None:
    def send(request: set[str]) -> Any:
        try:
            raise ThrottleTimeout("too late")
        except ThrottleTimeout as refusal:
            raise ConnectionError("as the SDK says") from refusal

    async def send_later(request: set[str]) -> Any:
        return send(request)

    request = {"a request"}
    gone = weakref.ref(request)
    gc.collect()
    gc.disable()
    try:
        if of == "loops":
            with pytest.raises(ThrottleTimeout):
                await plain_refusals(request, send_later)
        else:
            with pytest.raises(ThrottleTimeout):
                sync_plain_refusals(request, send)
        del request
        assert gone() is None
    finally:
        gc.enable()
