"""The pipeline sensors as a whole: files and plain XADD, through real workers, into rows, minutes and dead letters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis

from shared.generate import HOT, sensors
from shared.streams import Client
from shared.streams.inspect import entries
from tests import workers
from tests.integration import protocol
from tests.wait import until

#: Minutes as they follow from the rows, in which the same readings stand.
RECOUNT = """
SELECT date_trunc('minute', occurred_at, 'UTC'), sensor_id, count(*),
       sum(t), count(t), round(avg(t), 9), min(t), max(t), sum(h), count(h), round(avg(h), 9), min(h), max(h)
FROM (SELECT *, temp::numeric AS t, humidity::numeric AS h FROM readings) AS decimals GROUP BY 1, 2 ORDER BY 1, 2
"""
MINUTES = """
SELECT window_start, sensor_id, readings,
       temp_sum, temp_count, round(temp, 9), temp_min, temp_max,
       humidity_sum, humidity_count, round(humidity, 9), humidity_min, humidity_max
FROM sensor_minutes ORDER BY 1, 2
"""


@pytest.fixture
def given(fitting: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return fitting("sensors")


def _rows(given: dict[str, Any], query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(given["database_url"]) as connection:
        return connection.execute(query.encode()).fetchall()


def _until_settled(client: Client, accepted: int) -> None:
    def settled() -> bool:
        found = protocol.assert_law(client)
        return found.accepted == accepted and not found.in_flight

    until(settled, what=f"{accepted} readings to be settled")


def _dead(client: Client) -> list[dict[str, Any]]:
    """Data and reason of each dead letter."""
    letters = [fields for _, fields in entries(client, client.topology.dead, "-", 1_000)]
    return [msgspec.json.decode(one[b"event"])["data"] | {"reason": one[b"reason"].decode()} for one in letters]


def test_files_become_rows_and_minutes_and_what_is_too_hot_dead_letters(
    given: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    sample = given["pipeline_folder"] / "sample.ndjson"
    made = list(sensors(seed=5, count=900))
    hot = [reading for reading in made if reading["temp"] >= HOT]
    shutil.copy(sample, tmp_path / "one.ndjson")
    (tmp_path / "two.ndjson").write_text("".join(json.dumps(reading) + "\n" for reading in made))
    # Small batches, so that a minute is added to by many transactions.
    ingest = workers.start("ingest", **given, INGEST_PATH=tmp_path / "*.ndjson", INGEST_BATCH_EVENTS=20)
    with workers.running("transform", "loader", **given):
        assert ingest.wait() == 0
        _until_settled(client, 1_000)
    good = [json.loads(line) for line in sample.read_text().splitlines()]
    good += [reading for reading in made if reading not in hot]
    rows = _rows(given, "SELECT sensor_id, temp, humidity FROM readings")
    assert sorted(rows) == sorted(tuple(reading.values()) for reading in good)
    minutes = _rows(given, MINUTES)
    assert minutes == _rows(given, RECOUNT)
    assert len({row[1] for row in minutes}) == 24
    assert max(row[2] for row in minutes) > 10, "there are minutes of many readings"
    assert hot
    assert sorted(map(str, _dead(client))) == sorted(str(reading | {"reason": "invalid"}) for reading in hot)


def test_plain_entries_of_another_stream_whose_fields_are_all_text(
    given: dict[str, Any], client: Client, redis_client: redis.Redis, pipeline_name: str
) -> None:
    stream = f"{{{pipeline_name}}}:app:event"
    readings = [
        ("7", "21.5", "40"),
        ("7", "22.1", "41.5"),
        ("007", "-3", "100"),
        ("7", "104.9", "40"),
        ("8", "20", "x"),
    ]
    # Without a time the entry's own counts.
    redis_client.xadd(stream, {"sensor_id": "9", "temp": "1e1", "humidity": "50"}, id="1763719200000-0")
    for number, (sensor, temp, humidity) in enumerate(readings):
        moment = f"2026-11-21T10:00:{number:02d}Z"
        redis_client.xadd(stream, {"sensor_id": sensor, "temp": temp, "humidity": humidity, "time": moment})
    more: dict[str, Any] = {"INGEST_SOURCE": "stream", "INGEST_STREAM": stream}
    with workers.running("ingest", "transform", "loader", **given, **more):
        _until_settled(client, 6)
    rows = _rows(given, "SELECT sensor_id, temp, humidity FROM readings ORDER BY 1, 2")
    assert rows == [("007", -3.0, 100.0), ("7", 21.5, 40.0), ("7", 22.1, 41.5), ("9", 10.0, 50.0)]
    minutes = (
        "SELECT window_start::text, temp::text, temp_min, temp_max, readings FROM sensor_minutes WHERE sensor_id = "
    )
    ((window, average, *others),) = _rows(given, minutes + "'7'")
    assert (window, float(average), *map(float, others)) == ("2026-11-21 10:00:00+00", 21.8, 21.5, 22.1, 2)
    assert _rows(given, minutes + "'9'")[0][0] == "2025-11-21 10:00:00+00"
    assert [(one["temp"], one["reason"]) for one in _dead(client)] == [("104.9", "invalid"), ("20", "schema")]
