#!/usr/bin/env bash
# The RateLimit-Policy of Hugging Face's Hub, as huggingface_hub 2.4.0 has it in its documentation.
#
# Guess: the Hub follows draft 09 of the IETF, as its client says, where the header is a list of
# structured fields: "api";q=500;w=300. Whatever parses these (RFC 9651) reads it.
# It says the kind of its window first, as a value, and the name of the limit where a parameter has
# to be: "fixed window";"api";q=500;w=300. That is malformed as a whole, and the draft wants malformed
# headers ignored; so limit and window are lost, while RateLimit beside it, which is well-formed, is
# read. The Hub's own client finds q and w by a pattern, wherever they are.
# Seen: http-sf 1.5.0 reads RateLimit, and refuses the policy; the client reads both.
# For users: take the last string before the parameters for the name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    huggingface_hub==2.4.0 http-sf==1.5.0
"$folder/venv/bin/python" - <<'PYTHON'
import re
from importlib.metadata import version

import http_sf
from huggingface_hub.utils import parse_ratelimit_headers

said = dict(re.findall(r'"(ratelimit[a-z-]*)": \'(.*)\'', parse_ratelimit_headers.__doc__ or ""))
seen = {}
for name, text in said.items():
    try:
        seen[name] = http_sf.parse(text.encode(), tltype="list")
    except http_sf.StructuredFieldError as error:
        seen[name] = error
its_own = parse_ratelimit_headers(said)
print(f"huggingface_hub {version('huggingface_hub')}:", said, seen, its_own)
assert seen["ratelimit"] == [("api", {"r": 0, "t": 55})]
assert isinstance(seen["ratelimit-policy"], Exception), "the policy is a list by now"
assert its_own is not None and (its_own.limit, its_own.window_seconds) == (500, 300)
PYTHON
