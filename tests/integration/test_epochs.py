"""Epochs: what was last seen of one that ended stays known, in PostgreSQL."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from prometheus_client import generate_latest

from shared.database import Connection, connect
from shared.database import epochs as copies
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Client
from shared.streams.inspect import figures
from tests import workers
from tests.integration import protocol
from tests.wait import until
from workers.janitor import epochs


@dataclass
class Kept:
    """A partition and the part of a janitor that copies its ledger."""

    client: Client
    runtime: Runtime
    connection: Connection
    given: dict[str, Any]
    dumped: dict[str, Any] = field(default_factory=dict)

    def keep(self) -> None:
        epochs.keep(self.runtime, self.connection, self.given["database_url"])

    def unseen_for_a_minute(self) -> None:
        self.connection.execute("UPDATE epochs SET last_seen = now() - interval '1 minute'")

    def flush(self) -> None:
        self.client.call("DEL", *self.client.topology.script_keys())

    def epoch(self) -> str | None:
        return figures(self.client).epoch

    def reported(self) -> float:
        text = generate_latest(self.runtime.metrics.registry).decode()
        lines = [line for line in text.splitlines() if 'kind="epoch_ended"' in line]
        return float(lines[0].rpartition(" ")[2]) if lines else 0

    def reconcile(self) -> dict[str, Any]:
        ran = workers.bargeline("reconcile", "--json", **self.given)
        assert ran.code == 0, ran
        found: dict[str, Any] = msgspec.json.decode(ran.out)
        return found


@pytest.fixture
def kept(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Kept]:
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    given = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    settings = load_settings({"REDIS_URL": redis_url, "DATABASE_URL": database_url, "CONSUMER_NAME": "janitor"})
    runtime = Runtime("janitor", settings, load_pipeline(str(folder)))
    with protocol.partition(redis_url, pipeline_name) as client, connect(database_url, "test") as connection:
        yield Kept(client, runtime, connection, given)
    runtime.client.close()


def test_a_flush_ends_the_epoch_and_what_was_in_flight_is_told(kept: Kept) -> None:
    protocol.added(kept.client, 1, 2, 3)
    kept.keep()
    kept.flush()
    kept.unseen_for_a_minute()
    kept.keep()
    assert kept.reported() == 1
    protocol.added(kept.client, 4)
    kept.keep()
    assert kept.reported() == 1, "it is reported once"
    found = kept.reconcile()
    assert (found["accepted"], found["imbalance"]) == (1, 0)
    (earlier,) = found["earlier"]
    assert (earlier["balance"]["accepted"], earlier["balance"]["in_flight"]) == (3, 3)
    text = workers.bargeline("reconcile", **kept.given).out
    assert "last seen with 3 accepted, 0 loaded, 0 dead and 3 in flight" in text


def test_a_server_that_went_back_in_time_begins_another_epoch(kept: Kept) -> None:
    protocol.added(kept.client, 1)
    before = protocol.snapshot(kept.client)
    protocol.added(kept.client, 2, 3)
    kept.keep()
    ended = kept.epoch()
    for key, value in before.items():
        if value is not None:
            kept.client.call("RESTORE", key, 0, value, "REPLACE")
    kept.keep()
    assert kept.epoch() not in (None, ended)
    kept.connection.execute("UPDATE epochs SET last_seen = now() - interval '1 minute' WHERE epoch = %s", [ended])
    kept.keep()
    assert kept.reported() == 1
    (earlier,) = kept.reconcile()["earlier"]
    assert earlier["balance"]["accepted"] == 3


def test_a_fleet_of_the_same_name_elsewhere_keeps_its_own_epoch(kept: Kept) -> None:
    protocol.added(kept.client, 1)
    kept.keep()
    theirs = figures(kept.client)
    kept.flush()
    protocol.added(kept.client, 2)
    for _ in range(2):
        kept.keep()
        copies.copy(kept.connection, kept.runtime.pipeline.name, theirs)
    assert kept.reported() == 0
    rows = kept.connection.execute("SELECT count(*) FROM epochs WHERE ended_at IS NULL").fetchone()
    assert rows == (2,)


def test_reconcile_says_that_earlier_epochs_are_unknown_without_postgresql(kept: Kept) -> None:
    protocol.added(kept.client, 1)
    ran = workers.bargeline("reconcile", **(kept.given | {"database_url": "postgresql://nobody:secret@127.0.0.1:1/x"}))
    assert ran.code == 0
    assert "balanced" in ran.out
    assert "earlier epochs cannot be told" in ran.out
    assert "secret" not in ran.out + ran.err


def test_a_running_janitor_copies_the_ledger(kept: Kept) -> None:
    protocol.added(kept.client, 1, 2)
    arguments = {**kept.given, "JANITOR_SWEEP_SECONDS": 0.05}
    with workers.running("janitor", **arguments), psycopg.connect(kept.given["database_url"]) as connection:
        connection.autocommit = True
        statement = "SELECT figures->'counters'->>'accepted' FROM epochs"
        until(lambda: connection.execute(statement).fetchall() == [("2",)], what="the copy")
