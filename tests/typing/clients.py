"""Only type checkers read this file: a throttled client is what each SDK takes.

The SDKs are those of the extra ``sdks``.
"""

from __future__ import annotations

import cohere
import httpx
import httpx2
from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient
from google import genai
from groq import AsyncGroq
from mistralai.client import Mistral
from openai import AsyncOpenAI, OpenAI

from async_throttle import Throttle, threads
from async_throttle.http import httpx as for_httpx
from async_throttle.http import httpx2 as for_httpx2
from async_throttle.http.anthropic import plain_refusals, sync_plain_refusals

transport = for_httpx2.ThrottledTransport(Throttle(10, 5))
sync_transport = for_httpx2.SyncThrottledTransport(threads.Throttle(10, 5))
client = httpx2.AsyncClient(transport=transport)
old_client = httpx.AsyncClient(transport=for_httpx.ThrottledTransport(Throttle(10, 5)))

AsyncOpenAI(http_client=client)
OpenAI(http_client=httpx2.Client(transport=sync_transport))
AsyncAnthropic(
    http_client=DefaultAsyncHttpxClient(transport=transport), middleware=[plain_refusals]
)
Anthropic(
    http_client=DefaultHttpxClient(transport=sync_transport), middleware=[sync_plain_refusals]
)
Mistral(async_client=client)
genai.Client(http_options=genai.types.HttpOptions(httpx_async_client=client))
genai.Client(http_options=genai.types.HttpOptions(async_client_args={"transport": transport}))
AsyncGroq(http_client=old_client)
cohere.AsyncClientV2(httpx_client=old_client)
