"""URLs of Redis servers, clients whose parameters are read; and that no secret is told."""

from __future__ import annotations

import copy
import pickle
import ssl
import sys
from typing import Any

import pytest

from async_throttle.stores import Store
from async_throttle.stores._redis_url import Place, place_of, read
from async_throttle.stores.redis import RedisStore

SECRET = "s3cr3t"
USER = "us3r"


def place(url: str) -> dict[str, Any]:
    """What differs from the place of ``redis://localhost``."""
    usual = read("redis://localhost")
    found = read(url)
    names = Place.__dataclass_fields__
    return {
        name: getattr(found, name) for name in names if getattr(found, name) != getattr(usual, name)
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", {}),
        ("redis://localhost:6379/0", {}),
        ("redis://localhost/", {}),
        ("redis://10.1.2.3", {"addresses": (("10.1.2.3", 6379),)}),
        ("redis://h:65535", {"addresses": (("h", 65535),)}),
        ("redis://[::1]", {"addresses": (("::1", 6379),)}),
        ("redis://[::1]:7000/3", {"addresses": (("::1", 7000),), "db": 3}),
        ("redis://:p%40ss%2F@localhost", {"password": "p@ss/"}),
        ("redis://jo@localhost", {"username": "jo"}),
        ("redis://jo:a:b@localhost", {"username": "jo", "password": "a:b"}),
        ("redis://localhost?db=4", {"db": 4}),
        ("redis://localhost?client_name=a%26b", {"options": {"client_name": "a&b"}}),
        ("rediss://localhost", {"tls": True}),
        (
            "rediss://localhost?ssl_cert_reqs=none",
            {"tls": True, "options": {"ssl_cert_reqs": "none"}},
        ),
        ("unix:///run/redis.sock", {"kind": "socket", "addresses": (("/run/redis.sock", 0),)}),
        (
            "unix://jo:pw@/run/a%20b?db=2",
            {
                "kind": "socket",
                "addresses": (("/run/a b", 0),),
                "db": 2,
                "username": "jo",
                "password": "pw",
            },
        ),
        (
            "redis+cluster://a:1,b:2,[::1]",
            {"kind": "cluster", "addresses": (("a", 1), ("b", 2), ("::1", 6379))},
        ),
        ("rediss+cluster://a/0", {"kind": "cluster", "tls": True, "addresses": (("a", 6379),)}),
        (
            "redis+sentinel://:pw@a,b:5/my%2Fown/7?sentinel_password=x",
            {
                "kind": "sentinel",
                "addresses": (("a", 26379), ("b", 5)),
                "service": "my/own",
                "db": 7,
                "password": "pw",
                "options": {"sentinel_password": "x"},
            },
        ),
    ],
)
def test_a_url_says_where_and_how(url: str, said: dict[str, Any]) -> None:
    assert place(url) == said
    again = read(url)
    assert read(again.url(secrets=True)) == again


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:6379", "begins with"),
        ("redis", "begins with"),
        (f"redis://localhost/#{SECRET}", "%23"),
        (f"{SECRET}", "begins with"),
        (f"http://{SECRET}@localhost", "begins with"),
        (f"redis://:{SECRET}/x@localhost", "%2F"),
        (f"redis://:{SECRET}?x@localhost", "%3F"),
        (f"redis://:{SECRET}#x@localhost", "%23"),
        (f"redis://:{SECRET}@x@localhost", "%40"),
        (f"redis://{USER}:{SECRET}", "port"),
        (f"redis://localhost:{SECRET}", "port"),
        ("redis://localhost:0", "port"),
        ("redis://localhost:²", "port"),
        ("redis://localhost:65536", "port"),
        (f"redis://localhost/{SECRET}", "database of a Redis server"),
        ("redis://localhost/-1", "database"),
        ("redis://localhost/1/2", "twice"),
        ("redis://localhost/1?db=1", "twice"),
        ("redis://a,b", "more than one host"),
        ("redis+cluster://a/1", "no database but 0"),
        ("redis+sentinel://a", "service"),
        ("unix://tmp/x", "path of the socket"),
        ("unix://", "path of the socket"),
        (f"redis://localhost?decode_responses={SECRET}", "unknown option 'decode_responses'"),
        ("redis://localhost?client_name=a&client_name=b", "client_name is said twice"),
        ("redis://localhost?ssl_cert_reqs=none", "for rediss://"),
        (f"rediss://localhost?ssl_cert_reqs={SECRET}", "none, optional or required"),
        (f"rediss://localhost?ssl_check_hostname={SECRET}", "true or false"),
        (f"rediss://localhost?ssl_min_version={SECRET}", "771"),
        (f"redis://localhost?socket_timeout={SECRET}", "seconds"),
        ("redis://localhost?socket_timeout=0", "seconds"),
        ("redis://localhost?socket_timeout=nan", "seconds"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_and_not_repeated(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        RedisStore(url)
    assert SECRET not in str(caught.value)
    assert USER not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://{USER}:{SECRET}@h:1/2?client_name=x",
        f"rediss://{USER}:{SECRET}@h?ssl_password={SECRET}&ssl_certfile=a",
        f"unix://{USER}:{SECRET}@/tmp/x?db=1",
        f"redis+cluster://:{SECRET}@h,i",
        f"redis+sentinel://h,i/s/1?sentinel_username={USER}&sentinel_password={SECRET}",
    ],
)
def test_no_secret_is_shown_or_pickled(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNC_THROTTLE_REDIS_URL", raising=False)
    store = RedisStore(url, prefix="p:", ttl=5)
    shown = [repr(store), str(store), repr(read(url)), str(read(url)), f"{store!r:s}"]
    shown += [read(url).url(secrets=False), repr(pickle.dumps(store)), repr(store.__reduce__())]
    for text in shown:
        assert SECRET not in text
        assert USER not in text
    with pytest.raises(ValueError, match="ASYNC_THROTTLE_REDIS_URL") as caught:
        pickle.loads(pickle.dumps(store))
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("ASYNC_THROTTLE_REDIS_URL", "redis://:other@elsewhere")
    copied = pickle.loads(pickle.dumps(store))
    assert repr(copied) == "RedisStore('redis://elsewhere:6379/0', prefix='p:')"
    assert copied.ttl == 5


def test_credentials_are_pickled_if_asked_for() -> None:
    url = f"redis://{USER}:{SECRET}@h/2?client_name=x"
    store = RedisStore(url, pickle_credentials=True, horizon=1, grace=0, on_error="raise")
    for copied in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert copied._place == read(url)
        assert (copied.horizon, copied.grace, copied.on_error) == (1, 0, "raise")
        assert pickle.dumps(copied) == pickle.dumps(store)


def test_without_a_password_the_url_is_that_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNC_THROTTLE_REDIS_URL", "redis://elsewhere")
    store = RedisStore("redis://h:5/2?socket_timeout=0.3", on_mismatch="raise")
    copied = pickle.loads(pickle.dumps(store))
    assert repr(copied) == repr(store)
    assert copied._place.patience == 0.3
    assert copied.on_mismatch == "raise"


def test_tls_is_as_the_options_say() -> None:
    assert read("redis://h").context() is None
    context = read("rediss://h").context()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    context = read("rediss://h?ssl_cert_reqs=none&ssl_min_version=772").context()
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    context = read("rediss://h?ssl_check_hostname=false").context()
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLError, match="cipher"):
        read("rediss://h?ssl_ciphers=none-of-them").context()
    with pytest.raises(FileNotFoundError):
        read("rediss://h?ssl_ca_certs=/nowhere/at/all").context()


# ------------------------------------------------------------------------------- keys and prefixes


def test_all_keys_of_a_store_have_one_hash_tag() -> None:
    store = RedisStore("redis://h", prefix="openai:")
    assert store.key("chat") == b"{openai:}chat"
    assert store.key("a{b}c *?[]\\%\n\0é") == (
        b"{openai:}a%7Bb%7Dc%20%2A%3F%5B%5D%5C%25%0A%00%C3%A9"
    )
    assert RedisStore("redis://h", prefix="app:{x}:").key("chat") == b"app:{x}:chat"


def test_a_name_that_is_too_long_is_refused_and_named() -> None:
    store = RedisStore("redis://h", prefix="p:")
    assert len(store.key("x" * 196)) == 200
    with pytest.raises(ValueError, match=r"'xxxx.*a key of 201 bytes: at most 200"):
        store.key("x" * 197)
    with pytest.raises(ValueError, match=r"'é{40}'"):
        store.key("é" * 40)


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "{}", "{a}{b}", "a\n", "x" * 101])
def test_a_prefix_that_makes_no_hash_tag_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix must"):
        RedisStore("redis://h", prefix=prefix)


def test_it_is_a_store_whose_parameters_are_checked() -> None:
    assert isinstance(RedisStore("redis://h"), Store)
    with pytest.raises(ValueError, match="ttl must"):
        RedisStore("redis://h", ttl=0)


# ----------------------------------------------------------------------------------------- clients


@pytest.fixture
def redis() -> Any:
    """redis-py, which need not be installed."""
    for part in ("asyncio.cluster", "asyncio.sentinel", "cluster", "credentials", "sentinel"):
        pytest.importorskip(f"redis.{part}")
    return sys.modules["redis"]


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_the_parameters_of_a_client_are_read(redis: Any, kind: str) -> None:
    home = redis if kind == "sync" else redis.asyncio
    client = home.Redis(host="h", port=5, db=2, username="jo", password="pw", client_name="x")
    found = place_of(client)
    assert found == read("redis://jo:pw@h:5/2?client_name=x")
    assert place_of(home.Redis()) == read("redis://localhost")
    assert place_of(home.Redis(unix_socket_path="/tmp/x", db=1)) == read("unix:///tmp/x?db=1")
    client = home.Redis(ssl=True, ssl_cert_reqs="none", ssl_ca_certs="/x", decode_responses=True)
    assert place_of(client).options["ssl_cert_reqs"] == "none"
    assert place_of(client).options["ssl_ca_certs"] == "/x"
    assert place_of(client).tls
    client = home.Redis(ssl=True, ssl_cert_reqs=ssl.CERT_OPTIONAL)
    assert place_of(client).options["ssl_cert_reqs"] == "optional"
    store = RedisStore(home.Redis(host="h", password=SECRET))
    assert SECRET not in repr(store)
    assert pickle.dumps(store) == pickle.dumps(RedisStore(f"redis://:{SECRET}@h"))


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_the_parameters_of_a_client_behind_sentinels_are_read(redis: Any, kind: str) -> None:
    home = redis.sentinel if kind == "sync" else redis.asyncio.sentinel
    sentinel = home.Sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "x"})
    client = sentinel.master_for("quota", db=3, password="pw")
    assert place_of(client) == read("redis+sentinel://:pw@a:1,b:2/quota/3?sentinel_password=x")
    with pytest.raises(ValueError, match="replica"):
        place_of(sentinel.slave_for("quota"))


async def test_the_parameters_of_a_client_of_a_cluster_are_read(redis: Any) -> None:
    nodes = [redis.asyncio.cluster.ClusterNode(host, 7000) for host in ("a", "b")]
    client = redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, password="pw")
    assert place_of(client) == read("redis+cluster://:pw@a:7000,b:7000")
    client = redis.asyncio.cluster.RedisCluster(host="a", ssl=True)
    assert place_of(client).tls


def test_a_client_that_gets_in_by_other_means_is_refused(redis: Any) -> None:
    with pytest.raises(TypeError, match="got dict"):
        RedisStore({})
    with pytest.raises(ValueError, match="redis_connect_func"):
        RedisStore(redis.Redis(redis_connect_func=print))

    class Connection(redis.connection.Connection):  # type: ignore[misc]
        """One of the user's own."""

    Connection.__module__ = "mine"
    with pytest.raises(ValueError, match="give a URL"):
        RedisStore(redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Connection)))


def test_a_provider_of_passwords_is_asked_for_each_connection(redis: Any) -> None:
    class Provider(redis.credentials.CredentialProvider):  # type: ignore[misc]
        """Another password each time."""

        asked = 0

        def get_credentials(self) -> tuple[str, str]:
            self.asked += 1
            return "jo", f"{SECRET}{self.asked}"

    found = place_of(redis.Redis(credential_provider=Provider()))
    assert found.credentials() == ("jo", f"{SECRET}1")
    assert found.credentials() == ("jo", f"{SECRET}2")
    assert found.secret
    assert SECRET not in repr(found)
    store = RedisStore(redis.Redis(credential_provider=Provider()), pickle_credentials=True)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(store)
