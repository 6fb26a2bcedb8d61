"""Real servers that limit rates, started from pinned packages, and throttles that ask for all.

::

    programs.py     where programs come from          http.py      a client of HTTP/1.1
    server.py       one way to start them; twins      jitter.py    a network that takes its time
    nginx.py haproxy.py envoy.py frameworks.py        saturate.py  what a client gets at most
    apps/           programs in Python and Node       visits.py    all of them, side by side
    __main__.py     all of them, as a table           sharing.py   a client that learns, and an
                                                                   outsider that has its key

``python -m tests.servers`` measures all of them; ``test_servers.py`` some.
"""

from __future__ import annotations

from .envoy import ENVOY
from .frameworks import EXPRESS, OTHERS, SLOWAPI
from .haproxy import HAPROXY
from .nginx import NGINX

FEW = (NGINX, HAPROXY, ENVOY, SLOWAPI, EXPRESS)
"""One of each kind, for tests that are run at every change."""

ALL = (*FEW, *OTHERS)
