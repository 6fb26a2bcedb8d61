"""flask-limiter: ten calls per second and client, by each of its three strategies."""

from a2wsgi import WSGIMiddleware
from flask import Flask, request
from flask_limiter import Limiter

flask = Flask(__name__)


def client() -> str:
    return request.headers["x-api-key"]


for name, strategy in {
    "fixed": "fixed-window",
    "moving": "moving-window",
    "counter": "sliding-window-counter",
}.items():
    limiter = Limiter(client, app=flask, storage_uri="memory://", strategy=strategy)
    flask.add_url_rule(f"/{name}", name, limiter.limit("10/second")(lambda: "ok"))

app = WSGIMiddleware(flask)
