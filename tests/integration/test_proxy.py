"""The fault proxy does what it says, or the tests that lean on it prove nothing."""

import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import trustme

from tests.proxy import Proxy, through


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    parts = urlsplit(redis_url)
    with Proxy(parts.hostname or "", parts.port or 6379) as found:
        yield found


@pytest.fixture
def client(redis_url: str, proxy: Proxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(through(redis_url, proxy), socket_timeout=0.5, retry=None) as found:
        assert found.ping()
        yield found


def test_a_black_hole_swallows_and_healing_gives_back(proxy: Proxy, client: redis.Redis) -> None:
    proxy.black_hole()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    proxy.heal()
    assert client.ping()


def test_reset_breaks_what_is_open_and_new_connections_pass(proxy: Proxy, client: redis.Redis) -> None:
    with client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe("nothing")
        assert listener.get_message(timeout=1)
        proxy.reset()
        with pytest.raises(redis.ConnectionError):
            listener.get_message(timeout=5)
    assert redis.Redis.from_url(f"redis://127.0.0.1:{proxy.port}").ping()


def test_refused_connections_are_reset_until_healed(proxy: Proxy, client: redis.Redis) -> None:
    proxy.refuse()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.ping()
    proxy.heal()
    assert client.ping()


def test_what_a_mute_proxy_holds_back_is_lost_by_a_reset(
    proxy: Proxy, client: redis.Redis, redis_client: redis.Redis, pipeline_name: str
) -> None:
    key = f"{{{pipeline_name}}}:n"
    proxy.mute()
    with pytest.raises(redis.TimeoutError):
        client.incr(key)
    assert redis_client.get(key) == b"1"
    proxy.reset()
    proxy.heal()
    assert client.incr(key) == 2


def test_slowness_delays_and_loses_nothing(proxy: Proxy, client: redis.Redis) -> None:
    proxy.slow(0.6)
    with pytest.raises(redis.TimeoutError):
        client.ping()
    proxy.heal()
    assert client.echo("x" * 1_000_000) == b"x" * 1_000_000


def test_tls_before_a_plain_server(redis_url: str, database_server_url: str) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    database = urlsplit(database_server_url)
    plain = urlsplit(redis_url)
    with (
        authority.cert_pem.tempfile() as certificate,
        Proxy(plain.hostname or "", plain.port or 6379, tls=context) as redis_proxy,
        Proxy(database.hostname or "", database.port or 5432, tls=context, postgres=True) as database_proxy,
    ):
        secure = through(redis_url, redis_proxy).replace("redis://", "rediss://")
        with redis.Redis.from_url(f"{secure}?ssl_ca_certs={certificate}") as client:
            assert client.ping()
        url = f"{through(database_server_url, database_proxy)}?sslmode=verify-full&sslrootcert={certificate}"
        with psycopg.connect(url) as connection:
            assert connection.pgconn.ssl_in_use
