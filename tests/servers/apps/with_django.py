"""Django: ten calls per second and client, by django-ratelimit and by the REST framework."""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of no use",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # which says how long an answer is
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
    # One cache per process, which is what there is here, is enough for its counts.
    SILENCED_SYSTEM_CHECKS=["django_ratelimit.E003", "django_ratelimit.W001"],
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django_ratelimit.decorators import ratelimit  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.throttling import SimpleRateThrottle  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


@ratelimit(key="header:x-api-key", rate="10/s")  # answers with 403
def ratelimited(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


class Ten(SimpleRateThrottle):
    rate = "10/s"

    def get_cache_key(self, request: HttpRequest, view: APIView) -> str:
        return request.headers["x-api-key"]


class Throttled(APIView):
    throttle_classes = (Ten,)

    def get(self, request: HttpRequest) -> Response:
        return Response("ok")


urlpatterns = [path("ratelimit", ratelimited), path("rest", Throttled.as_view())]
app = get_asgi_application()
