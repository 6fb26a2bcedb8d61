#!/usr/bin/env bash
# uvicorn 0.54.0 and slowapi 0.1.10: Date, and what is left until X-RateLimit-Reset.
#
# Guess: the Date of an answer is the server's clock when it answered, to the second; the reset of a
# limit that is told as an instant, less Date, is the time that is left, or a second more at most.
# uvicorn writes Date once a second, by a timer of its own, so it is up to two seconds old; and
# slowapi tells the end of a window a second late, with six decimals.
# Seen: 1 call per 4 s. Of 12 answers, some have a Date that is more than a second old, and a reset
# that is more than 6 s later than Date.
# For users: compare instants with a clock of one's own, unless Date says that it is off by seconds.
# Needs curl, beside Python.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    uvicorn==0.54.0 slowapi==0.1.10 starlette==1.10.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import subprocess
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import uvicorn
from slowapi import Limiter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

limiter = Limiter(key_func=lambda request: request.headers["key"], headers_enabled=True)
answer = limiter.limit("1 per 4 second")
app = Starlette(routes=[Route("/", answer(lambda request: PlainTextResponse("ok")))])
app.state.limiter = limiter
config = uvicorn.Config(app, uds="socket", log_level="error")
config.load()
time.sleep((0.6 - time.time()) % 1)  # its timer starts in the middle of a second
threading.Thread(target=uvicorn.Server(config).run, daemon=True).start()
while not Path("socket").exists():
    time.sleep(0.01)

ages, told = [], []
for key in range(12):  # each of them a client of its own, whose window begins now
    command = f"curl --silent --dump-header - --header key:{key} --unix-socket socket http://a/"
    head = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
    now = time.time()
    said = dict(line.lower().split(": ", 1) for line in head.splitlines() if ": " in line)
    date = parsedate_to_datetime(said["date"].strip()).timestamp()
    ages.append(now - date)
    told.append(float(said["x-ratelimit-reset"]) - date)
    time.sleep(0.29)
print(f"Date was {max(ages):.2f} s old at most; the reset was {max(told):.2f} s later than Date")
assert max(ages) > 1.1, "Date is renewed for each answer by now"
assert max(told) > 6, "the reset is that of the window by now"
PYTHON
