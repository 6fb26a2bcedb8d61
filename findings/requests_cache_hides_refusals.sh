#!/usr/bin/env bash
# requests-cache 1.3.3, stale_if_error=True, and a server that refuses (429).
#
# Guess: an error is what RFC 5861 says: 500, 502, 503, 504, or no answer at all. A refusal comes to
# the caller, who slows down.
# Whatever has another status than 200 is an error, 401 and 404 as well. The caller gets the stored
# answer, with the headers of then: status 200, and as many calls left as there were. The server is
# asked again by each call all the same.
# Seen: one call is served, with 9 left; it is stale at once. Each of three more is refused, with
# Retry-After: 30, and the caller sees 200 and 9 left.
# For users: what learns from answers belongs beneath the cache, into an adapter. A response hook of
# the session is called with both, the refusal and then the stored answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    requests-cache==1.3.3 requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import requests_cache

logging.disable(logging.WARNING)
said: list[int] = []


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said.append(429 if said else 200)
        self.send_response(said[-1])
        self.send_header("X-RateLimit-Remaining", "0" if said[1:] else "9")
        self.send_header("Retry-After", "30")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen, hooked = [], []
options = {"backend": "memory", "expire_after": 0.1, "stale_if_error": True}
with requests_cache.CachedSession(**options) as session:
    session.hooks["response"].append(lambda answer, **_: hooked.append(answer.status_code))
    for _ in range(4):
        answer = session.get(f"http://127.0.0.1:{server.server_port}")
        seen.append((answer.status_code, answer.headers["X-RateLimit-Remaining"]))
        time.sleep(0.2)
print(f"requests-cache {version('requests-cache')}: server {said}, hook {hooked}, caller {seen}")
assert said == [200, 429, 429, 429], "the server is left alone by now"
assert seen == [(200, "9")] * 4, "refusals are told by now"
assert hooked[-2:] == [429, 200], "hooks are called otherwise by now"
PYTHON
