"""INGEST_CODEC=auto: plain lines while the stream is short, compressed ones while events wait in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.codec import COMPRESS_FROM_EVENTS, COMPRESS_UNTIL_EVENTS, Codec
from shared.generate import clicks, write_clicks
from shared.streams import Client
from tests import workers
from tests.integration import protocol
from tests.integration.stored import Start, Stored, starting
from tests.wait import until

COUNT = 6_000
BATCH = 250


@pytest.fixture
def start(redis_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Start]:
    with starting(redis_url, tmp_path / "pipeline", pipeline_name) as begin:
        yield begin


def _codecs(stored: Stored) -> list[bytes]:
    return [entry.fields[b"c"] for entry in stored.entries()]


@pytest.mark.parametrize("codec", ["json", "zstd"])
def test_one_that_is_asked_for_is_used_whatever_waits(tmp_path: Path, stored: Stored, start: Start, codec: str) -> None:
    write_clicks(tmp_path / "a.ndjson", seed=1, count=COUNT)
    assert start(tmp_path / "a.ndjson", INGEST_CODEC=codec).wait() == 0
    assert set(_codecs(stored)) == {codec.encode()}
    assert [event["data"] for event in stored.events()] == list(clicks(1, COUNT))


def test_it_compresses_while_events_wait_and_no_longer_once_they_went(
    tmp_path: Path, stored: Stored, client: Client, given: dict[str, Any]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source: dict[str, Any] = {"INGEST_PATH": folder / "*.ndjson", "INGEST_WATCH": "true", "INGEST_WATCH_SECONDS": 0.05}

    def bring(name: str, seed: int, count: int) -> None:
        write_clicks(tmp_path / name, seed, count)
        (tmp_path / name).rename(folder / name)

    with workers.running("ingest", **given, **source, INGEST_BATCH_EVENTS=BATCH):
        bring("a.ndjson", 1, COUNT)
        until(lambda: stored.counter("accepted") == COUNT, what="a backlog")
        plain = COMPRESS_FROM_EVENTS // BATCH
        found = _codecs(stored)
        assert (set(found[:plain]), set(found[plain:])) == ({b"json"}, {b"zstd"})
        assert [event["data"] for event in stored.events()] == list(clicks(1, COUNT))
        with workers.running("transform", "loader", **given):
            until(lambda: protocol.assert_law(client).loaded == COUNT, what="it to be loaded")
        before = len(stored.entries())
        bring("b.ndjson", 2, 3 * BATCH)
        until(lambda: stored.counter("accepted") == COUNT + 3 * BATCH, what="some more")
        # The first one went by what the last one of the backlog met.
        assert _codecs(stored)[before:] == [b"zstd", b"json", b"json"]
        with workers.running("transform", "loader", **given):
            until(lambda: protocol.assert_law(client).loaded == COUNT + 3 * BATCH, what="that to be loaded")
    with psycopg.connect(given["database_url"]) as connection:
        loaded = {row[0] for row in connection.execute("SELECT click_id::text FROM clicks").fetchall()}
    assert loaded == {one["click_id"] for seed, count in ((1, COUNT), (2, 3 * BATCH)) for one in clicks(seed, count)}


def test_it_does_not_change_its_mind_with_every_batch() -> None:
    codec = Codec("auto")
    found = []
    for in_flight in (COMPRESS_FROM_EVENTS - 1, COMPRESS_FROM_EVENTS, COMPRESS_UNTIL_EVENTS, COMPRESS_UNTIL_EVENTS - 1):
        codec.note(in_flight)
        found.append(codec.name)
    codec.note(COMPRESS_UNTIL_EVENTS)
    assert [*found, codec.name] == ["json", "zstd", "zstd", "json", "json"]
