"""slowapi: ten calls per second and client, by two of its strategies; and two limits at once.

And 40 per 4 seconds, told in headers: under ``/told``, also with a date in Retry-After.
"""

from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


def client(request: Request) -> str:
    return request.headers["x-api-key"]


@Limiter(key_func=client, strategy="fixed-window").limit("10/second")
async def fixed(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


@Limiter(key_func=client, strategy="moving-window").limit("10/second")
async def moving(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


@Limiter(key_func=client, strategy="moving-window").limit("10/second;16 per 2 second")
async def both(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def limited(*routes: Route | Mount, limiter: Limiter) -> Starlette:
    """An application whose refusals are written by *limiter*."""
    app = Starlette(routes=routes)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    return app


def told(strategy: str, **options: str) -> Starlette:
    limiter = Limiter(key_func=client, strategy=strategy, headers_enabled=True, **options)

    @limiter.limit("40 per 4 second")
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return limited(Route("/", answer), limiter=limiter)


app = limited(
    Route("/fixed", fixed),
    Route("/moving", moving),
    Route("/both", both),
    Mount("/told/fixed", told("fixed-window")),
    Mount("/told/moving", told("moving-window")),
    Mount("/told/date", told("fixed-window", retry_after="http-date")),
    limiter=Limiter(key_func=client),
)
