#!/usr/bin/env bash
# stripe 16.1.0, max_network_retries and what the server says of waiting.
#
# Guess: with max_network_retries=3 a refusal (429) is tried again, and a 503 as well, both no sooner
# than Retry-After says.
# A 429 is not tried again: RateLimitError comes from the first one, however many retries are
# allowed. Only Stripe-Should-Retry: true makes it do so. A 503 is tried again, by a pause of its own:
# Retry-After is not looked at.
# Seen: 429: 1 request; 429 that says it should be retried: 4; 503 with Retry-After: 30: 4, within 6 s.
# For users: what tries refusals again has to be around the call, and then around the other retries
# as well. A throttle counts one call where the server counts up to four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check stripe==16.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

import stripe

answer: dict[str, str] = {}
status = 0
asked: list[float] = []


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked.append(time.perf_counter())
        self.send_response(status)
        for name, value in {**answer, "Retry-After": "30", "Content-Length": "13"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b'{"error": {}}')

    def log_message(self, *args: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = {"api": f"http://127.0.0.1:{server.server_port}"}
client = stripe.StripeClient("sk_test_any", max_network_retries=3, base_addresses=url)
seen = []
for status, answer in (429, {}), (429, {"Stripe-Should-Retry": "true"}), (503, {}):
    asked.clear()
    try:
        client.v1.customers.list()
    except stripe.StripeError as error:
        seen.append((error.http_status, len(asked), asked[-1] - asked[0] < 6))
print(f"stripe {version('stripe')}: status, requests, within 6 s:", seen)
assert seen == [(429, 1, True), (429, 4, True), (503, 4, True)], "otherwise by now"
PYTHON
