#!/usr/bin/env bash
# google-genai 3.6.1 over httpx2 2.16.2, an answer in pieces that is closed before its end.
#
# Guess: generate_content_stream() gives an async generator, so `async with aclosing(stream)`, or
# await stream.aclose(), closes the answer, and its connection, as with the streams of openai,
# anthropic, mistralai, groq and cohere.
# The outermost of several generators is closed. Those within it are part of a cycle of references,
# and hold the answer until the garbage collector comes by.
# Seen: after aclose() the connection is open; after gc.collect() it is closed.
# For users: each answer that is left early keeps its connection, and the server writes on to nobody,
# for as long as Python happens to collect nothing. The object has no other method that would close.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    google-genai==3.6.1 httpx2==2.16.2
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import gc
import json
from importlib.metadata import version

from google import genai

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}}]}


async def main() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        event = f"data: {json.dumps(PIECE)}\n\n"
        writer.write(f"{HEAD}{len(event):x}\r\n{event}\r\n".encode())
        while await reader.read(65_536):  # the question, and then nothing until it is closed
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    api = genai.Client(api_key="any", http_options={"base_url": url})
    gc.disable()
    stream = await api.aio.models.generate_content_stream(model="any", contents="hello?")
    first = await anext(stream)
    await stream.aclose()
    del stream
    await asyncio.sleep(2)
    seen = [first.text, gone.is_set()]
    gc.collect()
    await asyncio.wait_for(gone.wait(), 10)
    print(f"google-genai {version('google-genai')}: {seen[0]!r}; closed by aclose(): {seen[1]}")
    assert seen == ["hello", False], "otherwise by now"


asyncio.run(main())
PYTHON
