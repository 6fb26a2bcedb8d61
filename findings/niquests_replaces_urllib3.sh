#!/usr/bin/env bash
# niquests 3.21.2 beside requests 2.34.2, in one environment.
#
# Guess: a client with other dependencies than requests leaves those of requests alone; pip, which
# lists urllib3 2.8.0 before and after, says so.
# Its dependency urllib3-future writes a package urllib3 of its own over the one that is there, so
# that requests, botocore and whoever else imports urllib3 run on a fork, under a higher version.
# Seen: the list says 2.8.0, and `import urllib3` is 2.25.904 in every later process, also where
# requests imports it.
# For users: give niquests an environment of its own, or check versions by `urllib3.__version__`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" --quiet --disable-pip-version-check install --no-compile "$@"; }
pip requests==2.34.2 urllib3==2.8.0
cat > "$folder/look.py" <<'PYTHON'
from importlib.metadata import version

from requests.compat import urllib3_version  # what requests itself imports

print("listed", version("urllib3"), "imported", urllib3_version)
PYTHON
before=$("$folder/venv/bin/python" "$folder/look.py")
pip niquests==3.21.2 urllib3-future==2.25.904
after=$("$folder/venv/bin/python" "$folder/look.py")
printf 'before: %s\nafter:  %s\n' "$before" "$after"
[ "$before" = "listed 2.8.0 imported 2.8.0" ] &&
    [ "$after" = "listed 2.8.0 imported 2.25.904" ] || {
    echo "niquests leaves urllib3 alone by now"
    exit 1
}
