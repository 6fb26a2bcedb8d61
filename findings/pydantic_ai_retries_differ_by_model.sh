#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0 (openai 3.57.0, anthropic 2.14.0): its retries, as documented, around httpx2.
#
# Guess: stop_after_attempt(5) in the transport is five requests, whichever model is behind it; or
# fifteen, as both SDKs try each call three times.
# It depends on the SDK. What the transport raises after its last try passes through that of OpenAI
# untouched; that of Anthropic takes it for a broken connection and calls the transport again, twice.
# Seen: one run against a server that says 429 each time: 5 requests, and 15. The SDK's own pauses
# come between, without a look at Retry-After, which it never sees.
# For users: give the provider an SDK client with max_retries=0 beside such a transport. A token of
# a throttle outside of it is five requests, or fifteen: the throttle belongs inside, as `wrapped`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    'pydantic-ai-slim[retries]==2.68.0' openai==3.57.0 anthropic==2.14.0 httpx2==2.16.2 tenacity==9.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version

import httpx2
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig
from tenacity import retry_if_exception_type, stop_after_attempt


async def requests(model, provider) -> tuple[int, int]:
    asked = 0

    def server(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(429, json={"error": {"message": "too many"}})

    again = retry_if_exception_type(httpx2.HTTPStatusError)
    config = RetryConfig(retry=again, stop=stop_after_attempt(5), reraise=True)
    transport = AsyncHTTPX2TenacityTransport(
        config, httpx2.MockTransport(server), lambda response: response.raise_for_status()
    )
    async with httpx2.AsyncClient(transport=transport) as client:
        try:
            await Agent(model("any", provider=provider(api_key="any", http_client=client))).run("how?")
        except ModelHTTPError as error:
            return asked, error.status_code


pairs = [(OpenAIChatModel, OpenAIProvider), (AnthropicModel, AnthropicProvider)]
seen = [asyncio.run(requests(*pair)) for pair in pairs]
print(f"pydantic-ai {version('pydantic-ai-slim')}: requests and status, OpenAI, Anthropic:", seen)
assert seen == [(5, 429), (15, 429)], "otherwise by now"
PYTHON
