"""slowapi: ten calls per second and client, by two of its strategies; and two limits at once."""

from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


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


app = Starlette(routes=[Route("/fixed", fixed), Route("/moving", moving), Route("/both", both)])
app.state.limiter = Limiter(key_func=client)
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
