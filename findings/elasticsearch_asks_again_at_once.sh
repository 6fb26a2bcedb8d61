#!/usr/bin/env bash
# elasticsearch 9.5.1 (elastic-transport 9.4.2), a server that says 429 and Retry-After: 30.
#
# Guess: max_retries=3, the default, which covers 429, with a growing pause in between; as long as
# retry_backoff_base says, where it is given, and no sooner than Retry-After.
# There is no pause at all: the four requests go within milliseconds to a server that had said that
# it is overloaded. retry_backoff_base is for errors of the connection alone, and Retry-After is
# not looked at.
# Seen: one call is four requests within a second, with retry_backoff_base=10 as well; with
# max_retries=10 it is eleven.
# For users: retry_on_status=() or max_retries=0, and what tries again around the call. A throttle
# around the client counts one call where the server counts four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    elasticsearch==9.5.1 elastic-transport==9.4.2
"$folder/venv/bin/python" - <<'PYTHON'
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

from elasticsearch import ApiError, Elasticsearch

asked: list[float] = []


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        asked.append(time.perf_counter())
        self.send_response(429)
        told = {"X-Elastic-Product": "Elasticsearch", "Retry-After": "30", "Content-Length": "2"}
        for name, value in {**told, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = []
for options in ({}, {"retry_backoff_base": 10}, {"max_retries": 10}):
    asked.clear()
    with Elasticsearch(f"http://127.0.0.1:{server.server_port}", **options) as client:
        try:
            client.get(index="any", id="any")
        except ApiError as error:
            seen.append((error.meta.status, len(asked), asked[-1] - asked[0] < 1))
print(f"elasticsearch {version('elasticsearch')}: status, requests, within a second:", seen)
assert seen == [(429, 4, True), (429, 4, True), (429, 11, True)], "otherwise by now"
PYTHON
