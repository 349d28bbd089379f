"""A loader that is frozen in mid-transaction: whoever waits for its locks is not kept waiting for ever."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.database import Connection, application_name, connect
from shared.database.blockers import BLOCKERS
from shared.generate import write_clicks
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Client
from tests import locked, workers
from tests.integration import protocol
from tests.wait import until
from workers.janitor import blockers

EVENTS = 20_000


def test_a_frozen_loader_does_not_block_its_successor(given: dict[str, Any], client: Client, tmp_path: Path) -> None:
    write_clicks(tmp_path / "clicks.ndjson", 5, EVENTS)
    frozen = workers.start("loader", **given)
    with (
        psycopg.connect(given["database_url"], autocommit=True) as database,
        workers.running("janitor", "transform", **given),
    ):
        frozen.until_started()
        try:
            ingest = workers.start("ingest", **given, INGEST_PATH=tmp_path / "clicks.ndjson")
            with locked.waiting(given["database_url"], client.topology.partition):
                frozen.kill(signal.SIGSTOP)
            with workers.running("loader", **given):
                until(lambda: protocol.assert_law(client).loaded == EVENTS, 60, "the successor to load everything")
                frozen.kill(signal.SIGCONT)
                assert ingest.wait() == 0
            assert frozen.stop() == 0, frozen.log_text()
        finally:
            workers.end(frozen)
        assert database.execute("SELECT count(*), count(DISTINCT event_id) FROM clicks").fetchone() == (EVENTS, EVENTS)
        assert protocol.assert_law(client).in_flight == 0


def _insert(connection: Connection, event_id: str) -> None:
    connection.execute(
        "INSERT INTO clicks (event_id, occurred_at, click_id, os_name, os_timezone, device_type, device_is_mobile,"
        " user_domain_id, payload) VALUES (%s, now(), 'c', 'o', 't', 'd', true, 'u', '{}')",
        [event_id],
    )


@pytest.mark.parametrize("whose", ["a live worker", "another pipeline's", "another program's"])
def test_only_processes_that_are_gone_lose_their_locks(
    whose: str, given: dict[str, Any], client: Client, pipeline_name: str
) -> None:
    url = given["database_url"]
    settings = load_settings({"REDIS_URL": given["redis_url"], "CONSUMER_NAME": "janitor"})
    runtime = Runtime("janitor", settings, load_pipeline(str(given["pipeline_folder"])))
    live = protocol.hold_lease(client, "clean", "loader-1").lease.instance
    client.call("PERSIST", client.topology.lease("loader", "loader-1"))
    names = {
        "a live worker": application_name(live, pipeline_name),
        "another pipeline's": application_name("0" * 36, f"{pipeline_name}-2"),
        "another program's": "psql",
    }
    event_id = "01900000-0000-7000-8000-000000000001"
    with connect(url, names[whose]) as holder, connect(url, "waiting") as waiting, connect(url, "janitor") as looking:
        holder.execute("BEGIN")
        _insert(holder, event_id)
        with pytest.raises(psycopg.errors.UniqueViolation):
            _wait_for(holder, waiting, looking, event_id, lambda: blockers.terminate(runtime, looking, url))
    runtime.client.close()


def _wait_for(
    holder: Connection, waiting: Connection, looking: Connection, event_id: str, keep: Callable[[], None]
) -> None:
    """Insert the same row while the holder has it; commit once the janitor had its chance to end the holder."""
    errors: list[BaseException] = []

    def insert() -> None:
        try:
            _insert(waiting, event_id)
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=insert)
    thread.start()
    until(lambda: looking.execute(BLOCKERS).fetchall(), what="somebody to wait")
    keep()
    holder.execute("COMMIT")
    thread.join()
    for error in errors:
        raise error
