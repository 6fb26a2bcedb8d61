"""Where a server of Redis is, and how to get in: said by a URL, or by a client of redis-py.

::

    redis://[user:password@]host[:port][/db]                    rediss:// is the same over TLS
    unix://[user:password@]/path/of/the/socket[?db=1]
    redis+cluster://[user:password@]host:port[,host:port...]    rediss+cluster://
    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]  rediss+sentinel://

A URL of redis-py means the same here, but what cannot be read is refused, and by name what is not
known: redis-py takes a database that is no number for 0, and ``decode_responses=false`` for true.

Nothing here tells a user or a password, and no error repeats what may be a part of one.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

__all__ = ["Address", "Place", "place_of", "read"]

Address = tuple[str, int]
"""Host and port; of a socket its path and 0."""

SERVER, SOCKET, CLUSTER, SENTINEL = "server", "socket", "cluster", "sentinel"

SCHEMES: Final = {
    "redis": (SERVER, False),
    "rediss": (SERVER, True),
    "unix": (SOCKET, False),
    "redis+cluster": (CLUSTER, False),
    "rediss+cluster": (CLUSTER, True),
    "redis+sentinel": (SENTINEL, False),
    "rediss+sentinel": (SENTINEL, True),
}

SECRET: Final = {"ssl_password", "sentinel_username", "sentinel_password"}
"""Options that are shown and pickled as little as the password."""

TLS_OPTIONS: Final = {
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers", "ssl_min_version"),
}

OPTIONS: Final = {
    *("client_name", "socket_timeout", "sentinel_username", "sentinel_password"),
    *TLS_OPTIONS,
}

REFUSED: Final = {
    *("redis_connect_func", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"),
    *("ssl_ocsp_context", "ssl_ocsp_expected_cert"),
    *("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
}
"""What a client may have been told that changes how it gets in, and cannot be said in a URL."""

PATIENCE: Final = 1.0
"""Seconds for an answer, if the URL does not say."""

_ENCODE: Final = "in a user, a password or an option, / ? # and @ are written %2F %3F %23 and %40"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Place:
    """A server, a cluster, or a service that sentinels watch; and how to get in.

    Attributes:
        kind: "server", "socket", "cluster" or "sentinel".
        addresses: of the server; of some nodes of the cluster, or of the sentinels.
        db: the number of the database.
        service: as the sentinels call it.
        tls: over TLS, the sentinels too.
        username, password: "" without one.
        options: as text, as a URL says them; see `OPTIONS`.
        provider: tells user and password anew for each connection: see redis-py.

    >>> place = read("redis://jo:secret@10.0.0.1/2?client_name=quota")
    >>> str(place), place.username, place.options["client_name"]
    ('redis://10.0.0.1:6379/2', 'jo', 'quota')
    """

    kind: str
    addresses: tuple[Address, ...]
    db: int = 0
    service: str = ""
    tls: bool = False
    username: str = ""
    password: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    provider: Any = None

    def __str__(self) -> str:
        scheme = next(name for name, said in SCHEMES.items() if said == (self.kind, self.tls))
        if self.kind == SOCKET:
            return f"unix://{quote(self.addresses[0][0])}" + (f"?db={self.db}" if self.db else "")
        hosts = ",".join(shown(address) for address in self.addresses)
        service = f"/{quote(self.service, safe='')}" if self.service else ""
        return f"{scheme}://{hosts}{service}" + ("" if self.kind == CLUSTER else f"/{self.db}")

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    @property
    def secret(self) -> bool:
        """Whether it takes a user or a password to get in."""
        known = self.username or self.password or self.provider is not None
        return bool(known) or not SECRET.isdisjoint(self.options)

    @property
    def patience(self) -> float:
        """Seconds that a server has for an answer."""
        return float(self.options.get("socket_timeout", PATIENCE))

    def url(self, *, secrets: bool) -> str:
        """The URL that says all of it, or all but user and password."""
        scheme, _, rest = str(self).partition("://")
        names = sorted(self.options if secrets else set(self.options) - SECRET)
        said = [f"{name}={quote(self.options[name], safe='')}" for name in names]
        user = ""
        if secrets and (self.username or self.password):
            password = f":{quote(self.password, safe='')}" if self.password else ""
            user = f"{quote(self.username, safe='')}{password}@"
        mark = "&" if "?" in rest else "?"
        return f"{scheme}://{user}{rest}" + (mark + "&".join(said) if said else "")

    def credentials(self) -> tuple[str, ...]:
        """What AUTH is to be told; nothing if it is not needed."""
        if self.provider is not None:
            return tuple(str(each) for each in self.provider.get_credentials())
        if self.username:
            return self.username, self.password
        return (self.password,) if self.password else ()

    def context(self) -> ssl.SSLContext | None:
        """How TLS is to be spoken.

        Raises:
            OSError: a file cannot be read; ssl.SSLError: it is none of a certificate.
        """
        if not self.tls:
            return None
        told = self.options.get
        context = ssl.create_default_context(
            cafile=told("ssl_ca_certs"), capath=told("ssl_ca_path"), cadata=told("ssl_ca_data")
        )
        needed = told("ssl_cert_reqs", "required")
        context.check_hostname = needed != "none" and _yes(told("ssl_check_hostname", "true"))
        context.verify_mode = ssl.VerifyMode[f"CERT_{needed.upper()}"]
        certificate = told("ssl_certfile")
        if certificate is not None:
            context.load_cert_chain(certificate, told("ssl_keyfile"), told("ssl_password"))
        if "ssl_ciphers" in self.options:
            context.set_ciphers(self.options["ssl_ciphers"])
        if "ssl_min_version" in self.options:
            context.minimum_version = ssl.TLSVersion(int(self.options["ssl_min_version"]))
        return context


def shown(address: Address) -> str:
    """An address, as a URL says it."""
    host, port = address
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- from a URL ---------------------------------------------------------------------------


def read(url: str) -> Place:
    """The place that *url* says; see the module.

    Raises:
        ValueError: it cannot be read. The message repeats no part of it that may be a secret.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in SCHEMES:
        raise ValueError(f"the URL of a Redis server begins with one of {', '.join(SCHEMES)} ://")
    kind, tls = SCHEMES[scheme]
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in tail or "#" in tail or "@" in userinfo:
        raise ValueError(_ENCODE)
    username, _, password = map(unquote, userinfo.partition(":"))
    path, _, query = tail.partition("?")
    options = dict(_options(query))
    unused = sorted(name for name in options if name in TLS_OPTIONS and not tls)
    if unused:
        raise ValueError(f"{unused[0]} is for rediss://, and the URL begins with {scheme}://")
    numbers = [options.pop("db")] if "db" in options else []
    addresses, service, number = _where(kind, hosts, path)
    return Place(
        kind=kind,
        addresses=addresses,
        db=_database(kind, numbers + number),
        service=service,
        tls=tls,
        username=username,
        password=password,
        options=_checked(options),
    )


def _where(kind: str, hosts: str, path: str) -> tuple[tuple[Address, ...], str, list[str]]:
    """Addresses, the service that is watched, and what else stands in the path."""
    if kind == SOCKET:
        if hosts or not path.strip("/"):
            raise ValueError("unix:// is followed by the path of the socket: unix:///tmp/redis")
        return ((unquote(path), 0),), "", []
    port = 26379 if kind == SENTINEL else 6379
    addresses = tuple(_address(host, port) for host in hosts.split(","))
    parts = [unquote(part) for part in path.split("/") if part]
    if kind == SENTINEL:
        if not parts:
            raise ValueError("redis+sentinel://host:port/service: the service is missing")
        return addresses, parts[0], parts[1:]
    if kind == SERVER and len(addresses) > 1:
        raise ValueError(
            "more than one host is for redis+cluster:// or redis+sentinel://host,host/service"
        )
    return addresses, "", parts


def _address(text: str, port: int) -> Address:
    host, colon, number = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, number = text, str(port)
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536):
        raise ValueError("the port of a Redis server is a whole number from 1 to 65535")
    host = unquote(host.removeprefix("[").removesuffix("]"))
    return host or "localhost", int(number)


def _database(kind: str, numbers: list[str]) -> int:
    if not numbers:
        return 0
    if len(numbers) > 1:
        raise ValueError("the URL of a Redis server says its database twice, or has a path")
    (number,) = numbers
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise ValueError("the database of a Redis server is a whole number, as in redis://host/0")
    if kind == CLUSTER and int(number):
        raise ValueError("a cluster of Redis servers has no database but 0")
    return int(number)


def _options(query: str) -> Iterator[tuple[str, str]]:
    """The options that a URL names, each once."""
    seen = set[str]()
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in OPTIONS and name != "db":
            known = ", ".join(sorted({*OPTIONS, "db"}))
            raise ValueError(
                f"unknown option {name!r} in the URL of a Redis server; known: {known}"
            )
        if name in seen:
            raise ValueError(f"the option {name} is said twice in the URL of a Redis server")
        seen.add(name)
        yield name, unquote(value)


def _checked(options: dict[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if name == "socket_timeout":
            try:
                good = 0 < float(value) <= 60
            except ValueError:
                good = False
            if not good:
                raise ValueError("socket_timeout is a number of seconds, at most 60")
        elif name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
            raise ValueError("ssl_cert_reqs is none, optional or required")
        elif name == "ssl_min_version" and value not in ("771", "772"):
            raise ValueError("ssl_min_version is 771 or 772: TLS 1.2 or 1.3")
        elif name == "ssl_check_hostname":
            _yes(value)
    return options


def _yes(value: str) -> bool:
    if value.lower() not in ("1", "0", "true", "false", "yes", "no"):
        raise ValueError("ssl_check_hostname is true or false")
    return value.lower() in ("1", "true", "yes")


# -- from a client ------------------------------------------------------------------------


def place_of(client: Any) -> Place:
    """The place that a client of redis-py, or of valkey-py, talks to. The client is only read.

    Raises:
        TypeError: it is no such client.
        ValueError: it gets in by means that this package does not have.
    """
    if hasattr(client, "nodes_manager"):
        return _place_of_cluster(client)
    pool: Any = getattr(client, "connection_pool", None)
    kwargs = getattr(pool, "connection_kwargs", None)
    if kwargs is None:
        raise TypeError(f"a URL or a client of redis-py is needed, got {type(client).__name__}")
    kind = pool.connection_class
    if kind.__module__.partition(".")[0] not in ("redis", "valkey"):
        raise ValueError(f"connections of {kind.__qualname__} are not known here: give a URL")
    tls = "SSL" in kind.__name__
    if not hasattr(pool, "sentinel_manager"):
        if kwargs.get("path"):
            return _with(kwargs, kind=SOCKET, addresses=((str(kwargs["path"]), 0),), tls=False)
        return _with(kwargs, kind=SERVER, addresses=(_of(kwargs),), tls=tls)
    if not pool.is_master:
        raise ValueError("a client of a replica cannot keep a quota: take master_for()")
    watchers = [each.connection_pool for each in pool.sentinel_manager.sentinels]
    if any(("SSL" in each.connection_class.__name__) != tls for each in watchers):
        raise ValueError("the sentinels and the service must both be reached over TLS, or neither")
    first = watchers[0].connection_kwargs
    known = {
        f"sentinel_{name}": str(first[name]) for name in ("username", "password") if first.get(name)
    }
    addresses = tuple(_of(each.connection_kwargs) for each in watchers)
    service = str(pool.service_name)
    return _with(kwargs, known, kind=SENTINEL, addresses=addresses, service=service, tls=tls)


def _place_of_cluster(client: Any) -> Place:
    manager = client.nodes_manager
    if getattr(manager, "address_remap", None) is not None:
        raise ValueError("a cluster with address_remap cannot be reached by what its client says")
    kwargs = client.get_connection_kwargs()
    nodes = [*manager.startup_nodes.values(), *manager.nodes_cache.values()]
    addresses = tuple(dict.fromkeys((str(node.host), int(node.port)) for node in nodes))
    kind = kwargs.get("connection_class")
    tls = bool(kwargs.get("ssl")) or (kind is not None and "SSL" in kind.__name__)
    return _with({**kwargs, "db": 0}, kind=CLUSTER, addresses=addresses, tls=tls)


def _of(kwargs: Mapping[str, Any]) -> Address:
    return str(kwargs.get("host") or "localhost"), int(kwargs.get("port") or 6379)


def _with(kwargs: Mapping[str, Any], known: Mapping[str, str] | None = None, **said: Any) -> Place:
    """A place with the parameters of a connection."""
    for name in sorted(REFUSED):
        if kwargs.get(name):
            raise ValueError(f"a client with {name} gets in by means that are not known here")
    options = dict(known or {})
    for name in ("client_name", *sorted(TLS_OPTIONS if said["tls"] else ())):
        value = kwargs.get(name)
        if name == "ssl_cert_reqs" and name in kwargs:
            value = "none" if value is None else getattr(value, "name", str(value))
            value = value.lower().removeprefix("cert_")
        elif name == "ssl_min_version" and value is not None:
            value = int(value)
        if value is not None:
            options[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return Place(
        db=int(kwargs.get("db") or 0),
        username=str(kwargs.get("username") or ""),
        password=str(kwargs.get("password") or ""),
        provider=kwargs.get("credential_provider"),
        options=_checked(options),
        **said,
    )
