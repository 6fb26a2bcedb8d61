#!/usr/bin/env bash
# hishel 2.0.0 (with httpx2 2.16.2; over httpx it is the same): what says that an answer is cached.
#
# Guess: extensions["hishel_from_cache"], as in 1.x; or else Age, as of any cache; and an answer from
# the cache tells nothing of now.
# 2.0 knows neither that name nor "from_cache" of 0.x. It has a dictionary, extensions["caching"],
# with each answer, cached or not, so that a look whether there is one is true of all. Age comes in
# its mode after the RFC alone, which is not the default. And an answer that the server has confirmed
# (304) is from_cache as well: it was asked for, and its rate headers are those of the 304.
# Seen: the second of two equal calls. The server has 9 left after the first one, 8 after another.
# For users: an answer tells nothing of now if it is from_cache and not revalidated. In 0.x and 1.x
# these two belong together, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check hishel==2.0.0 httpx2==2.16.2
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import httpx2
from hishel import SqliteStorage
from hishel.httpx2 import CacheTransport


def second(mode: str, rfc: bool, lasts: int) -> tuple[object, ...]:
    left = 10

    def server(request: httpx2.Request) -> httpx2.Response:
        nonlocal left
        left -= 1
        told = {"etag": '"a"', "cache-control": f"max-age={lasts}", "ratelimit-remaining": str(left)}
        if "if-none-match" in request.headers:
            return httpx2.Response(304, headers=told)
        return httpx2.Response(200, headers=told, stream=httpx2.ByteStream(b"ok"))

    storage = SqliteStorage(database_path=f"{mode}.db")
    cache = CacheTransport(httpx2.MockTransport(server), storage=storage, rfc=rfc)
    with httpx2.Client(transport=cache) as client:
        first, answer = client.get("http://localhost"), client.get("http://localhost")
    assert list(first.extensions) == list(answer.extensions) == ["caching"], "other names by now"
    said = answer.extensions["caching"]
    remaining, age = (answer.headers.get(name) for name in ("ratelimit-remaining", "age"))
    return said["from_cache"], said["revalidated"], remaining, age


seen = {
    "default": second("default", rfc=False, lasts=60),
    "fresh": second("fresh", rfc=True, lasts=60),
    "confirmed": second("confirmed", rfc=True, lasts=0),
}
print(f"hishel {version('hishel')}: from_cache, revalidated, remaining, Age:", seen)
assert seen["default"] == (True, False, "9", None) and seen["confirmed"][:3] == (True, True, "8")
assert seen["fresh"][:3] == (True, False, "9") and seen["fresh"][3] is not None
PYTHON
