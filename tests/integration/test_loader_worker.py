"""The loader as a process: an entry that it never survives, and a transform's output while it is away."""

from typing import Any

import msgspec
import psycopg
import pytest

from shared.events import SourceIds
from shared.generate import clicks
from shared.pipeline import load_pipeline
from shared.streams import Client, Outcome, ensure_group
from shared.streams.inspect import entries
from tests import locked, workers
from tests.integration import protocol
from tests.wait import until
from workers.loader import native

IDS = SourceIds("s")

#: More than a transaction of a single statement takes.
MANY = 300


def _clean(client: Client, count: int, first: int = 0) -> None:
    """One clean entry of clicks."""
    lines = [
        msgspec.json.encode({"id": IDS.id(number, b""), "type": "click", "source": "s",
                             "time": "2026-11-21T10:00:00Z", "data": data})
        for number, data in enumerate(clicks(1, count), first)
    ]  # fmt: skip
    body = b"".join(line + b"\n" for line in lines)
    ensure_group(client, "raw", "transform")
    protocol.added(client, *range(first, first + count))
    (entry,) = protocol.read(client)
    protocol.settle_raw(client, Outcome(entry, mapped=count, segments=[(count, body)]))


def _kill_in_mid_transaction(client: Client, given: dict[str, Any]) -> None:
    loader = workers.start("loader", **given, CONSUMER_NAME="the-one")
    try:
        with locked.waiting(given["database_url"], client.topology.partition):
            loader.kill()
            loader.wait()
    finally:
        workers.end(loader)


def test_an_entry_that_no_loader_survives_is_a_dead_letter_in_the_end(given: dict[str, Any], client: Client) -> None:
    _clean(client, MANY)
    most = load_pipeline(str(given["pipeline_folder"])).file.pipeline.max_deliveries
    for _ in range(most - 1):
        _kill_in_mid_transaction(client, given)
    with workers.running("loader", **given, CONSUMER_NAME="the-one") as (loader,):
        until(lambda: not protocol.assert_law(client).in_flight, what="the entry to be settled")
        assert loader.records(action="poison")
    assert protocol.assert_law(client).dead == MANY
    letters = [fields for _, fields in entries(client, client.topology.dead, "-", MANY)]
    assert {letter[b"reason"] for letter in letters} == {b"deliveries"}
    found = {msgspec.json.decode(letter[b"event"])["data"]["click_id"] for letter in letters}
    assert found == {click["click_id"] for click in clicks(1, MANY)}
    with psycopg.connect(given["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (0,)


def test_one_that_was_killed_less_often_is_loaded(given: dict[str, Any], client: Client) -> None:
    _clean(client, MANY)
    _kill_in_mid_transaction(client, given)
    with workers.running("loader", **given, CONSUMER_NAME="the-one"):
        until(lambda: protocol.assert_law(client).loaded == MANY, what="the entry to be loaded")


def test_a_small_transaction_that_its_loader_does_not_live_to_see_committed_counts_once(
    given: dict[str, Any], client: Client
) -> None:
    """It is a single statement: the server brings it to its end, and the next loader finds it in the ledger."""
    _clean(client, 3)
    _kill_in_mid_transaction(client, given)
    with workers.running("loader", **given, CONSUMER_NAME="the-one"):
        until(lambda: not protocol.assert_law(client).in_flight, what="the entry to be settled")
    assert (protocol.assert_law(client).loaded, protocol.assert_law(client).duplicates) == (3, 0)
    with psycopg.connect(given["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (3,)
        rollup = connection.execute("SELECT sum(events) FROM mobile_users_by_timezone").fetchone()
    assert rollup == (3,)


@pytest.mark.parametrize(
    ("asked", "tables"),
    [("true", ["clicks"] if native.AVAILABLE else None), ("false", [])],
)
def test_it_says_what_c_makes_and_can_do_without(
    given: dict[str, Any], client: Client, asked: str, tables: list[str] | None
) -> None:
    _clean(client, MANY)
    with workers.running("loader", **given, LOADER_NATIVE=asked) as (loader,):
        until(lambda: protocol.assert_law(client).loaded == MANY, what="the entry to be loaded")
        (record,) = loader.records(action="native")
    assert record.get("tables") == tables


@pytest.mark.parametrize("change", ["TYPE varchar(200)", "TYPE uuid USING md5(click_id)::uuid"])
def test_a_column_that_changes_while_it_runs(given: dict[str, Any], client: Client, change: str) -> None:
    """Rows are written for its new type."""
    _clean(client, MANY)
    with workers.running("loader", **given) as (loader,):
        until(lambda: protocol.assert_law(client).loaded == MANY, what="the entry to be loaded")
        with psycopg.connect(given["database_url"]) as connection:
            connection.execute(f"ALTER TABLE clicks ALTER COLUMN click_id {change}".encode())
        _clean(client, MANY, MANY)
        until(lambda: not protocol.assert_law(client).in_flight, what="the next to be settled")
        assert len(loader.records(action="columns")) == native.AVAILABLE
    with psycopg.connect(given["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (2 * MANY,)
