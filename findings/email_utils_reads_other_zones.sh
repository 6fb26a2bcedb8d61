#!/usr/bin/env bash
# Python's email.utils, which most clients read Retry-After and other dates with.
#
# Guess: a date that it takes is read as what it says, and one that it cannot read is refused.
# A date as JavaScript writes it, which some servers send in X-RateLimit-Reset, is taken without its
# "GMT+0100": it has no zone then, so that timestamp() takes it for a local one. So it is with
# "-0000", which RFC 5322 has for UTC of an unknown zone, and with asctime, the third form of HTTP.
# int(), for the other form of Retry-After, takes more than digits.
# Seen: one instant in four spellings, 2026-11-29 17:58:25 UTC, read five hours west of it.
# For users: take what is in ASCII and of a form that you know; a date without a zone is in UTC.
set -euo pipefail
TZ=EST5 python3 - <<'PYTHON'
import sys
import time
from email.utils import parsedate_to_datetime

time.tzset()
spelt = {
    "IMF": "Sun, 29 Nov 2026 17:58:25 GMT",
    "-0000": "Sun, 29 Nov 2026 17:58:25 -0000",
    "asctime": "Sun Nov 29 17:58:25 2026",
    "JavaScript": "Sun Nov 29 2026 18:58:25 GMT+0100 (Central European Standard Time)",
}
meant = 1795975105
seen = {}
for form, text in spelt.items():
    try:
        seen[form] = round(parsedate_to_datetime(text).timestamp() - meant)
    except ValueError as error:
        seen[form] = str(error)
taken = [int(text) for text in ("\u0665", "1_0", " +5 ")]
print(f"Python {sys.version.split()[0]}: seconds off:", seen, "int():", taken)
assert seen == {"IMF": 0, "-0000": 18_000, "asctime": 18_000, "JavaScript": 21_600}
assert taken == [5, 10, 5]
PYTHON
