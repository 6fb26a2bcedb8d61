"""Envoy with its local rate limit, one bucket per client. The bucket fills continuously."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from async_throttle import Throttle

from .programs import envoy
from .server import Server, Twin

_TYPES = "type.googleapis.com/envoy.extensions.filters"


def _bucket(tokens: int, interval: str) -> dict[str, object]:
    return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": interval}


def _configure(folder: Path, port: int) -> list[str]:
    every = {"numerator": 100, "denominator": "HUNDRED"}
    limit = {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": f"{_TYPES}.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "filter_enabled": {"default_value": every},
            "filter_enforced": {"default_value": every},
            # Calls of all clients together, which are not limited.
            "token_bucket": _bucket(1_000_000, "1s"),
            "always_consume_default_token_bucket": False,
            "rate_limits": [
                {
                    "actions": [
                        {
                            "request_headers": {
                                "header_name": "x-api-key",
                                "descriptor_key": "client",
                            }
                        }
                    ]
                }
            ],
            # An entry without a value has a bucket for each value that comes.
            "descriptors": [{"entries": [{"key": "client"}], "token_bucket": _bucket(10, "1s")}],
        },
    }
    answers = {"status": 200, "body": {"inline_string": "ok"}}
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": answers}],
    }
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "all",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [
            limit,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
            },
        ],
    }
    listener = {
        "name": "all",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    configuration = {"static_resources": {"listeners": [listener]}}
    (folder / "envoy.json").write_text(json.dumps(configuration, indent=1))
    return [
        *("--config-path", str(folder / "envoy.json")),
        # Without it, only one Envoy may run on a machine.
        "--disable-hot-restart",
        *("--concurrency", "1"),
    ]


ENVOY = Server(
    "Envoy", envoy, _configure, (Twin("local_ratelimit 10 per 1s", partial(Throttle, 10)),)
)
