"""aioboto3 and aiobotocore: each attempt of a call waits for a limit, and refusals pause all::

    config = AioConfig(retries={"mode": "standard"})
    async with aioboto3.Session().client("dynamodb", config=config) as client:
        throttle_client(client, Throttle(100))

Around a call, a throttle would see one request where botocore sends up to ten, and hold a slot
while botocore sleeps. Say "standard": "legacy", the default, sends ten to DynamoDB, and "adaptive"
is a second brake. botocore does not look at Retry-After; the pause does.

These are tokens only. A slot would have to be held around the call: set ``max_pool_connections``
of the AioConfig instead.
"""

from __future__ import annotations

from typing import Any

from async_throttle import Throttle
from async_throttle.http import learn

THROTTLED = {
    "EC2ThrottledException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Codes of errors that are refusals, whatever the status is: mostly it is 400."""


def throttle_client(client: Any, throttle: Throttle) -> None:
    """Have each attempt of each call of *client* take a token."""

    async def before_send(**_: Any) -> None:
        await throttle.consume()

    async def response_received(response_dict: Any, parsed_response: Any, **_: Any) -> None:
        if response_dict is None:  # no answer came
            return
        code = (parsed_response or {}).get("Error", {}).get("Code")
        status = 429 if code in THROTTLED else response_dict["status_code"]
        learn(throttle, status, response_dict["headers"])

    client.meta.events.register("before-send", before_send)
    client.meta.events.register("response-received", response_received)
