"""TLS to both servers: a whole pipeline over it, and certificates that are refused with a clear error."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import trustme

from shared.database import connect
from shared.errors import BargelineError, ConfigurationError
from shared.generate import write_clicks
from shared.streams import Client
from shared.topology import Topology
from tests import workers
from tests.proxy import Proxy, through
from tests.wait import until

CA = trustme.CA()
OTHER_CA = trustme.CA()
#: (REDIS_URL, DATABASE_URL)
Urls = tuple[str, str]
Before = Callable[..., Urls]


@pytest.fixture
def before(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Before]:
    """Puts TLS before both servers, with a certificate for ``name``; returns URLs that trust ``ca``."""
    with ExitStack() as stack:

        def terminate(name: str = "127.0.0.1", ca: trustme.CA = CA, *, clients: trustme.CA | None = None) -> Urls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            CA.issue_cert(name).configure_cert(context)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                clients.configure_trust(context)
            trusted = tmp_path / "ca.pem"
            ca.cert_pem.write_to_path(trusted)
            redis_proxy = stack.enter_context(_proxy(redis_url, 6379, context))
            database_proxy = stack.enter_context(_proxy(database_url, 5432, context, postgres=True))
            return (
                f"{through(redis_url, redis_proxy).replace('redis://', 'rediss://')}?ssl_ca_certs={trusted}",
                f"{through(database_url, database_proxy)}?sslmode=verify-full&sslrootcert={trusted}",
            )

        yield terminate


@contextmanager
def _proxy(url: str, port: int, context: ssl.SSLContext, **options: bool) -> Iterator[Proxy]:
    parts = urlsplit(url)
    with Proxy(parts.hostname or "", parts.port or port, tls=context, **options) as proxy:
        yield proxy


def _refusals(urls: Urls) -> list[str]:
    """What each of the two says when it is connected to."""
    texts = []
    client = Client(urls[0], Topology("p"))
    for call in (lambda: client.call("PING"), lambda: connect(urls[1], "test")):
        with pytest.raises(BargelineError) as raised:
            call()
        assert raised.type is ConfigurationError, raised.value
        texts.append(str(raised.value))
    client.close()
    return texts


def test_a_whole_pipeline_runs_over_tls(before: Before, pipeline_name: str, tmp_path: Path) -> None:
    redis_url, database_url = before()
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    write_clicks(folder / "in.ndjson", seed=3, count=400)
    with (
        workers.running("transform", "loader", "janitor", **given),
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        assert connection.pgconn.ssl_in_use
        assert workers.start("ingest", **given, INGEST_PATH=folder / "in.ndjson").wait() == 0
        until(lambda: connection.execute("SELECT count(*) FROM clicks").fetchone() == (400,), what="the clicks to land")
        assert workers.bargeline("reconcile", **given).code == 0


def test_a_certificate_of_another_ca_is_refused(before: Before) -> None:
    redis_text, database_text = _refusals(before(ca=OTHER_CA))
    assert "REDIS_URL=rediss://" in redis_text
    assert "certificate verify failed" in redis_text
    assert "ssl_ca_certs has to name a file with the CA" in redis_text
    assert "certificate verify failed" in database_text
    assert "In DATABASE_URL sslrootcert has to name a file with the CA" in database_text
    assert ":***@" in database_text


def test_a_certificate_for_another_host_is_refused(before: Before) -> None:
    redis_text, database_text = _refusals(before("elsewhere.test"))
    assert "not valid for '127.0.0.1'" in redis_text
    assert "the host has to be one of its names" in redis_text
    assert 'server certificate for "elsewhere.test" does not match host name "127.0.0.1"' in database_text


def test_a_file_that_is_not_there_or_no_certificate_is_refused(before: Before, tmp_path: Path) -> None:
    urls = before()
    (tmp_path / "ca.pem").write_text("nothing")
    _refusals(urls)
    (tmp_path / "ca.pem").unlink()
    _refusals(urls)


def test_a_client_certificate_where_the_server_asks_for_one(before: Before, tmp_path: Path) -> None:
    urls = before(clients=OTHER_CA)
    client = Client(urls[0], Topology("p"))
    with pytest.raises(BargelineError):
        client.call("PING")
    client.close()
    with pytest.raises(BargelineError):
        connect(urls[1], "test")
    mine = OTHER_CA.issue_cert("worker")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "mine.pem")
    (tmp_path / "mine.key").touch(0o600)
    mine.private_key_pem.write_to_path(tmp_path / "mine.key")
    redis_url = f"{urls[0]}&ssl_certfile={tmp_path}/mine.pem&ssl_keyfile={tmp_path}/mine.key"
    client = Client(redis_url, Topology("p"))
    assert client.call("PING") == b"PONG"
    client.close()
    with connect(f"{urls[1]}&sslcert={tmp_path}/mine.pem&sslkey={tmp_path}/mine.key", "test") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_worker_ends_with_the_reason_instead_of_waiting_for_ever(
    before: Before, redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path
) -> None:
    tls_redis, tls_database = before(ca=OTHER_CA)
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    for urls, variable in (((tls_redis, database_url), "REDIS_URL"), ((redis_url, tls_database), "DATABASE_URL")):
        given: dict[str, Any] = {"redis_url": urls[0], "database_url": urls[1], "pipeline_folder": folder}
        worker = workers.start("loader", **given)
        assert worker.wait() == 2
        assert variable in worker.log_text()
        assert "Traceback" not in worker.log_text()


def test_a_parameter_that_does_not_exist_is_refused(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"REDIS_URL=.*it cannot be read"):
        Client(f"{redis_url}?ssl_bogus=1", Topology("p"))
