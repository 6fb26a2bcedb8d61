"""flask-limiter: ten calls per second and client, by each of its three strategies.

And 40 per 4 seconds, told in headers: under ``/told``, also with a date in Retry-After.
"""

from a2wsgi import WSGIMiddleware
from flask import Flask, request
from flask_limiter import Limiter
from werkzeug.middleware.dispatcher import DispatcherMiddleware


def client() -> str:
    return request.headers["x-api-key"]


STRATEGIES = {
    "fixed": "fixed-window",
    "moving": "moving-window",
    "counter": "sliding-window-counter",
}


def told(strategy: str, **options: str) -> Flask:
    flask = Flask(__name__)
    options = {"storage_uri": "memory://", "strategy": strategy, **options}
    limiter = Limiter(client, app=flask, headers_enabled=True, **options)
    flask.add_url_rule("/", "answer", limiter.limit("40 per 4 second")(lambda: "ok"))
    return flask


flask = Flask(__name__)
for name, strategy in STRATEGIES.items():
    limiter = Limiter(client, app=flask, storage_uri="memory://", strategy=strategy)
    flask.add_url_rule(f"/{name}", name, limiter.limit("10/second")(lambda: "ok"))

others = {f"/told/{name}": told(strategy) for name, strategy in STRATEGIES.items()}
others["/told/date"] = told("fixed-window", retry_after="http-date")
app = WSGIMiddleware(DispatcherMiddleware(flask, others))
