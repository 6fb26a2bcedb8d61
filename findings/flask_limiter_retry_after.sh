#!/usr/bin/env bash
# Flask-Limiter 4.1.1 with its headers enabled: Retry-After.
#
# Guess: a refusal says in Retry-After when to come back, and an answer that was served says nothing.
# Retry-After comes with every answer, served or refused. It is the time until the second in which
# the window ends, or the next one, rounded down. A window that ends in the second half of a second
# is told up to a second short: a client that waits for as long is refused again, and told 0, which
# is "at once".
# Seen: 2 calls in 2 s, by a moving window that ends at .75: the served ones say Retry-After, too. A
# third one that comes back after the seconds that it was told is refused again, until it is told 0.
# For users: read Retry-After of refusals alone, and take 0 for a second.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check Flask-Limiter==4.1.1 Flask==3.1.3
"$folder/venv/bin/python" - <<'PYTHON'
import time
from importlib.metadata import version

from flask import Flask
from flask_limiter import Limiter

app = Flask(__name__)
options = {"storage_uri": "memory://", "headers_enabled": True, "strategy": "moving-window"}
limiter = Limiter(lambda: "client", app=app, **options)
app.add_url_rule("/", "answer", limiter.limit("2 per 2 second")(lambda: "ok"))
client = app.test_client()


def ask():
    answer = client.get("/")
    return answer.status_code, answer.headers.get("Retry-After")


time.sleep((0.75 - time.time()) % 1)
seen = [ask(), ask()]
time.sleep(0.5)  # the window has 1.5 s left
while (last := ask())[0] == 429 and len(seen) < 6:
    seen.append(last)
    time.sleep(int(last[1]))
print(f"Flask-Limiter {version('Flask-Limiter')}:", seen)
assert all(told is not None for _, told in seen[:2]), "served answers say nothing by now"
assert (429, "0") in seen, "it is rounded up by now"
PYTHON
