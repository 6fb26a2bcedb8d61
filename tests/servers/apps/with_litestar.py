"""litestar's middleware: ten calls per second and client."""

from litestar import Litestar, Request, get
from litestar.middleware.rate_limit import RateLimitConfig


@get("/")
async def answer() -> str:
    return "ok"


def client(request: Request) -> str:
    return request.headers["x-api-key"]


limit = RateLimitConfig(rate_limit=("second", 10), identifier_for_request=client)
app = Litestar([answer], middleware=[limit.middleware])
