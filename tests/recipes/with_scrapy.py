"""Scrapy: each request waits for its host, and a refusal holds that host, for all requests::

    DOWNLOADER_MIDDLEWARES = {"project.with_scrapy.ThrottleMiddleware": 950}
    THROTTLES = Throttles(lambda host: Throttle(2, burst=1, name=host))

Scrapy's RetryMiddleware sends a refused request again at once, three times in all, whatever
Retry-After says; each of these is a request here, and waits for the end of the pause. 950 is inside
of it, and of the cache: answers from there cost nothing. Leave DOWNLOAD_DELAY and AutoThrottle
alone, as the slower brake counts; slots are CONCURRENT_REQUESTS_PER_DOMAIN. DOWNLOAD_TIMEOUT begins
after the wait.
"""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.http import Response

from async_throttle import Throttle, Throttles
from async_throttle.http import learn


class ThrottleMiddleware:
    def __init__(self, hosts: Throttles[Any]) -> None:
        self.hosts = hosts

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler.settings["THROTTLES"])

    def limit(self, request: Request) -> Throttle:
        limit: Throttle = self.hosts[urlsplit(request.url).hostname]
        return limit

    async def process_request(self, request: Request) -> None:
        await self.limit(request).consume()

    def process_response(self, request: Request, response: Response) -> Response:
        if "cached" not in response.flags:
            headers = response.headers.to_unicode_dict().items()
            learn(self.limit(request), response.status, headers)
        return response
