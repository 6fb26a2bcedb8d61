#!/usr/bin/env bash
# cohere 7.3.1, max_retries and an answer in pieces.
#
# Guess: the client's max_retries (2 by default) is for all requests. It is, in the SDKs of openai,
# anthropic and groq: a streamed request is refused before its first piece, so that it can be sent
# again as any other.
# The generated client sends streamed requests by a method of its own, which has no retries.
# Seen, with max_retries=3 and a server that says 429 and Retry-After: 1 each time: chat() is sent
# four times, chat_stream() once. Both raise TooManyRequestsError.
# For users: a call that survives a refusal ends by the first one as soon as stream is wanted. What
# tries again has to be around chat_stream(), and then around chat() there are two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check cohere==7.3.1
"$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import cohere

asked = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(429)
        self.send_header("retry-after", "1")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
api = cohere.ClientV2(api_key="any", base_url=url, max_retries=3)
question = [{"role": "user", "content": "how?"}]
seen = {}
for name in ("chat", "chat_stream"):
    del asked[:]
    try:
        list(getattr(api, name)(model="any", messages=question))
    except Exception as error:
        seen[name] = (len(asked), type(error).__name__)
server.shutdown()
print(f"cohere {cohere.__version__}:", seen)
refusal = "TooManyRequestsError"
assert seen == {"chat": (4, refusal), "chat_stream": (1, refusal)}, "otherwise by now"
PYTHON
