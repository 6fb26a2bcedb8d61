"""SDKs of language models over throttled clients, and a local stand-in for what they talk to.

`SDKS` says of each SDK how it is handed a client of its family, how it asks for an answer at once,
and for one in pieces. `Provider` answers them all: it knows by the path in whose words to answer.
It can be reached without a network, by a transport of either family, and at a port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

import aiohttp.web
import pytest

__all__ = ["PIECES", "SDKS", "SYNC_SDKS", "TEXT", "TRIES", "Provider", "Sdk", "SyncSdk"]

PIECES: Final = ("slow", "ly does", " it")
TEXT: Final = "".join(PIECES)

TRIES: Final = 8
"""Tries of a call, where an SDK is told to try again."""

QUESTION: Final = [{"role": "user", "content": "how?"}]
LIMIT: Final = 100


Told = dict[str, Any]
"""Parameters of an API object."""


@dataclass(frozen=True)
class Sdk:
    """How one SDK is used.

    Attributes:
        package: its name on the index.
        module: what is imported of it.
        family: what its client must be of.
        hands: the parameter that takes a client.
        make: the API object, of its module, that parameter, a URL, and whether it is to try again;
            if not, it does what it does by itself.
        ask: the text of an answer.
        stream: an answer in pieces.
        piece: the text of a piece.
    """

    package: str
    module: str
    family: str
    hands: str
    make: Callable[[Any, Told, str, bool], Any]
    ask: Callable[[Any], Awaitable[str]]
    stream: Callable[[Any], Awaitable[Any]]
    piece: Callable[[Any], str | None]

    def __str__(self) -> str:
        return self.package

    def api(self, transport: Any, url: str, *, tries_again: bool = False, **told: Any) -> Any:
        """The API object, over a client with this *transport*; the test is skipped without it.

        Args:
            told: more of its parameters.
        """
        library: Any = pytest.importorskip(self.module)
        client = import_module(self.family).AsyncClient(transport=transport)
        return self.make(library, {self.hands: client, **told}, url, tries_again)

    def version(self) -> str:
        """Of what is installed, as ``2.14``."""
        return ".".join(version(self.package).split(".")[:2])


def retries(tries_again: bool) -> dict[str, int]:
    return {"max_retries": TRIES - 1} if tries_again else {}


# ------------------------------------------------------------------- openai, and what is made of it


def make_openai(openai: Any, told: Told, url: str, tries_again: bool) -> Any:
    told |= retries(tries_again)
    return openai.AsyncOpenAI(api_key="key", base_url=f"{url}/v1", **told)


def make_groq(groq: Any, told: Told, url: str, tries_again: bool) -> Any:
    return groq.AsyncGroq(api_key="key", base_url=url, **told, **retries(tries_again))


async def ask_openai(api: Any) -> str:
    answer = await api.chat.completions.create(model="any", messages=QUESTION)
    return str(answer.choices[0].message.content)


async def stream_openai(api: Any) -> Any:
    return await api.chat.completions.create(model="any", messages=QUESTION, stream=True)


def piece_openai(event: Any) -> str | None:
    text: str | None = event.choices[0].delta.content
    return text


# ------------------------------------------------------------------------------------ anthropic


def make_anthropic(anthropic: Any, told: Told, url: str, tries_again: bool) -> Any:
    told |= retries(tries_again)
    return anthropic.AsyncAnthropic(api_key="key", base_url=url, **told)


async def ask_anthropic(api: Any) -> str:
    answer = await api.messages.create(model="any", messages=QUESTION, max_tokens=LIMIT)
    return str(answer.content[0].text)


async def stream_anthropic(api: Any) -> Any:
    return await api.messages.create(model="any", messages=QUESTION, max_tokens=LIMIT, stream=True)


def piece_anthropic(event: Any) -> str | None:
    text: str | None = event.delta.text if event.type == "content_block_delta" else None
    return text


# ------------------------------------------------------------------------------------ mistralai


def make_mistral(mistral: Any, told: Told, url: str, tries_again: bool) -> Any:
    if tries_again:
        utils: Any = import_module("mistralai.client.utils")
        backoff = utils.BackoffStrategy(500, 60_000, 1.5, 3_600_000)  # milliseconds
        told["retry_config"] = utils.RetryConfig("backoff", backoff, True)
    return mistral.Mistral(api_key="key", server_url=url, **told)


async def ask_mistral(api: Any) -> str:
    answer = await api.chat.complete_async(model="any", messages=QUESTION)
    return str(answer.choices[0].message.content)


async def stream_mistral(api: Any) -> Any:
    return await api.chat.stream_async(model="any", messages=QUESTION)


def piece_mistral(event: Any) -> str | None:
    return piece_openai(event.data)


# --------------------------------------------------------------------------------- google-genai


def make_google(genai: Any, told: Told, url: str, tries_again: bool) -> Any:
    options = {"base_url": url, **told}
    if tries_again:
        options["retry_options"] = {"attempts": TRIES}
    return genai.Client(api_key="key", http_options=options)


async def ask_google(api: Any) -> str:
    answer = await api.aio.models.generate_content(model="any", contents="how?")
    return str(answer.text)


async def stream_google(api: Any) -> Any:
    return await api.aio.models.generate_content_stream(model="any", contents="how?")


def piece_google(event: Any) -> str | None:
    text: str | None = event.text
    return text


# --------------------------------------------------------------------------------------- cohere


def make_cohere(cohere: Any, told: Told, url: str, tries_again: bool) -> Any:
    return cohere.AsyncClientV2(api_key="key", base_url=url, **told, **retries(tries_again))


async def ask_cohere(api: Any) -> str:
    answer = await api.chat(model="any", messages=QUESTION)
    return str(answer.message.content[0].text)


async def stream_cohere(api: Any) -> Any:
    return api.chat_stream(model="any", messages=QUESTION)


def piece_cohere(event: Any) -> str | None:
    text: str | None = event.delta.message.content.text if event.type == "content-delta" else None
    return text


SDKS: Final = (
    Sdk(
        *("openai", "openai", "httpx2", "http_client"),
        *(make_openai, ask_openai, stream_openai, piece_openai),
    ),
    Sdk(
        *("anthropic", "anthropic", "httpx2", "http_client"),
        *(make_anthropic, ask_anthropic, stream_anthropic, piece_anthropic),
    ),
    Sdk(
        *("mistralai", "mistralai.client", "httpx2", "async_client"),
        *(make_mistral, ask_mistral, stream_mistral, piece_mistral),
    ),
    Sdk(
        *("google-genai", "google.genai", "httpx2", "httpx_async_client"),
        *(make_google, ask_google, stream_google, piece_google),
    ),
    Sdk(
        *("groq", "groq", "httpx", "http_client"),
        *(make_groq, ask_openai, stream_openai, piece_openai),
    ),
    Sdk(
        *("cohere", "cohere", "httpx", "httpx_client"),
        *(make_cohere, ask_cohere, stream_cohere, piece_cohere),
    ),
)


@dataclass(frozen=True)
class SyncSdk:
    """How one SDK is used in threads.

    Attributes:
        package, module, family, piece: as those of `Sdk`.
        make: the API object, of its module, a client and a URL.
        ask: the text of an answer.
        stream: an answer in pieces.
    """

    package: str
    module: str
    family: str
    make: Callable[[Any, Any, str], Any]
    ask: Callable[[Any], str]
    stream: Callable[[Any], Any]
    piece: Callable[[Any], str | None]

    def __str__(self) -> str:
        return self.package


def of_openai(kind: str) -> dict[str, Callable[..., Any]]:
    """The same of OpenAI's SDK, and of one that is made of it, whose class is *kind*."""

    def make(library: Any, client: Any, url: str) -> Any:
        return getattr(library, kind)(api_key="key", base_url=url, http_client=client)

    def create(api: Any, **more: Any) -> Any:
        return api.chat.completions.create(model="any", messages=QUESTION, **more)

    return {
        "make": make,
        "ask": lambda api: create(api).choices[0].message.content,
        "stream": lambda api: create(api, stream=True),
        "piece": piece_openai,
    }


def create_anthropic(api: Any, **more: Any) -> Any:
    return api.messages.create(model="any", messages=QUESTION, max_tokens=LIMIT, **more)


SYNC_SDKS: Final = (
    SyncSdk("openai", "openai", "httpx2", **of_openai("OpenAI")),
    SyncSdk("groq", "groq", "httpx", **of_openai("Groq")),
    SyncSdk(
        *("anthropic", "anthropic", "httpx2"),
        lambda lib, client, url: lib.Anthropic(api_key="key", base_url=url, http_client=client),
        lambda api: str(create_anthropic(api).content[0].text),
        lambda api: create_anthropic(api, stream=True),
        piece_anthropic,
    ),
    SyncSdk(
        *("mistralai", "mistralai.client", "httpx2"),
        lambda lib, client, url: lib.Mistral(api_key="key", server_url=url, client=client),
        lambda api: str(
            api.chat.complete(model="any", messages=QUESTION).choices[0].message.content
        ),
        lambda api: api.chat.stream(model="any", messages=QUESTION),
        piece_mistral,
    ),
    SyncSdk(
        *("google-genai", "google.genai", "httpx2"),
        lambda lib, client, url: lib.Client(
            api_key="key", http_options={"base_url": url, "httpx_client": client}
        ),
        lambda api: str(api.models.generate_content(model="any", contents="how?").text),
        lambda api: api.models.generate_content_stream(model="any", contents="how?"),
        piece_google,
    ),
    SyncSdk(
        *("cohere", "cohere", "httpx"),
        lambda lib, client, url: lib.ClientV2(api_key="key", base_url=url, httpx_client=client),
        lambda api: str(api.chat(model="any", messages=QUESTION).message.content[0].text),
        lambda api: api.chat_stream(model="any", messages=QUESTION),
        piece_cohere,
    ),
)


# ----------------------------------------------------------------------------------- the provider

Words = Callable[[str], dict[str, Any]]


def openai_answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "any",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def openai_events() -> Iterator[dict[str, Any]]:
    for text in PIECES:
        choice = {"index": 0, "finish_reason": None, "delta": {"content": text}}
        yield {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "any",
            "choices": [choice],
        }


def anthropic_answer(text: str) -> dict[str, Any]:
    return {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "any",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def anthropic_events() -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": anthropic_answer("")}
    block = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for text in PIECES:
        delta = {"type": "text_delta", "text": text}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_stop"}


def google_answer(text: str) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}


def google_events() -> Iterator[dict[str, Any]]:
    yield from map(google_answer, PIECES)


def cohere_answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"id": "1", "finish_reason": "COMPLETE", "message": message}


def cohere_events() -> Iterator[dict[str, Any]]:
    yield {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant"}}}
    for text in PIECES:
        delta = {"message": {"content": {"text": text}}}
        yield {"type": "content-delta", "index": 0, "delta": delta}
    yield {"type": "message-end", "id": "1", "delta": {"finish_reason": "COMPLETE"}}


SPOKEN: Final[dict[str, tuple[Words, Callable[[], Iterator[dict[str, Any]]], bool]]] = {
    "/chat/completions": (openai_answer, openai_events, True),
    "/v1/messages": (anthropic_answer, anthropic_events, False),
    "GenerateContent": (google_answer, google_events, False),
    "generateContent": (google_answer, google_events, False),
    "/v2/chat": (cohere_answer, cohere_events, False),
}
"""By a part of the path: an answer, the events of one, and whether it ends with ``[DONE]``."""


@dataclass(eq=False)
class Provider:
    """Answers every SDK in its words.

    Args:
        refuses: of how many requests it refuses one, and says to come back in *back* seconds; 0
            for none.
        back: whole seconds.
        travel: seconds that a request is on its way; without a network alone.

    Attributes:
        came: the instants at which requests came.
        refused: those of requests that it refused.
        most: requests and answers that were open at once, at most.
        go_on: an answer in pieces waits for it after the first one.
    """

    refuses: int = 0
    back: int = 2
    travel: float = 0.0
    came: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    most: int = 0
    open: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, path: str, sent: bytes) -> tuple[int, dict[str, str], AsyncIterator[bytes]]:
        """The status, the headers and the body of what is answered to what was *sent* there."""
        now = asyncio.get_running_loop().time()
        self.came.append(now)
        self.open += 1
        self.most = max(self.most, self.open)
        if self.refuses and not len(self.came) % self.refuses:
            self.refused.append(now)
            body = {"error": {"message": "too many requests"}, "message": "too many requests"}
            headers = {"content-type": "application/json", "retry-after": str(self.back)}
            return 429, headers, self.at_once(body)
        answer, events, done = next(SPOKEN[part] for part in SPOKEN if part in path)
        if "stream" in path or (sent and json.loads(sent).get("stream")):
            return 200, {"content-type": "text/event-stream"}, self.pieces(events(), done)
        return 200, {"content-type": "application/json"}, self.at_once(answer(TEXT))

    async def at_once(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield json.dumps(body).encode()

    async def pieces(self, events: Iterator[dict[str, Any]], done: bool) -> AsyncIterator[bytes]:
        """The *events*; after the first piece of text it waits until it may go on."""
        for event in events:
            named = f"event: {event['type']}\n" if "type" in event else ""
            text = json.dumps(event)
            yield f"{named}data: {text}\n\n".encode()
            if PIECES[0] in text:
                await self.go_on.wait()
        if done:
            yield b"data: [DONE]\n\n"

    def transport(self, family: str) -> Any:
        """What an answer comes from without a network, for clients of *family*."""
        lib: Any = import_module(family)
        provider = self

        class Stream(lib.AsyncByteStream):  # type: ignore[misc]
            def __init__(self, body: AsyncIterator[bytes]) -> None:
                self.body = body
                self.open = True

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for chunk in self.body:
                    yield chunk

            async def aclose(self) -> None:
                self.over()

            def over(self) -> None:
                if self.open:
                    self.open = False
                    provider.open -= 1

            __del__ = over

        class Wire(lib.AsyncBaseTransport):  # type: ignore[misc]
            async def handle_async_request(self, request: Any) -> Any:
                await asyncio.sleep(provider.travel)
                sent = await request.aread()
                status, headers, body = provider.answer(request.url.path, sent)
                return lib.Response(status, headers=headers, stream=Stream(body))

        return Wire()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The URL of a server on 127.0.0.1 that answers so."""

        async def handle(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            sent = await request.read()
            status, headers, body = self.answer(request.path, sent)
            response = aiohttp.web.StreamResponse(status=status, headers=headers)
            try:
                with suppress(ConnectionResetError):  # whoever asked has gone
                    await response.prepare(request)
                    async for chunk in body:
                        await response.write(chunk)
                    await response.write_eof()
            finally:
                self.open -= 1
            return response

        app = aiohttp.web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{port}"
        finally:
            self.go_on.set()
            await runner.cleanup()
