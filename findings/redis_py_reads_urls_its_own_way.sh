#!/usr/bin/env bash
# redis-py 8.1.0, from_url().
#
# Guess: what is said in a URL is taken as it stands, or refused.
# A flag of which redis-py knows no type stays text, and every text is true: decode_responses=false
# turns decoding on, while retry_on_timeout=no is False. A database that is no number is left out
# without a word, which is database 0; slashes within the number are dropped, so that /1/2 is 12. An
# option that does not exist is kept until the first connection is made.
# Seen: as printed below; no server is asked.
# For users: RedisStore reads URLs by itself, and refuses what it does not know, by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check redis==8.1.0
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import redis


def read(url: str, name: str) -> object:
    told = redis.from_url(url).connection_pool.connection_kwargs
    return told.get(name, "left out")


seen = {
    "decode_responses=false": read("redis://localhost/0?decode_responses=false", "decode_responses"),
    "retry_on_timeout=no": read("redis://localhost/0?retry_on_timeout=no", "retry_on_timeout"),
    "database abc": read("redis://localhost/abc", "db"),
    "database 1/2": read("redis://localhost/1/2", "db"),
    "no such option": read("redis://localhost/0?no_such_option=1", "no_such_option"),
}
print(f"redis {version('redis')}:", seen)
assert seen == {
    "decode_responses=false": "false",
    "retry_on_timeout=no": False,
    "database abc": "left out",
    "database 1/2": 12,
    "no such option": "1",
}, "URLs are read otherwise by now"
PYTHON
