"""The dead-letter breaker: a broken deploy stops a stage instead of emptying the input into dead letters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import breaker as watched
from shared.breaker import Breaker
from shared.generate import write_clicks
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Client
from shared.streams.breaker import close_breaker, open_because
from tests import workers
from tests.integration import protocol
from tests.wait import until

EVENTS = 5_000
LEAST = {"[ingest]": "breaker_least_events = 100\nretry_delays_seconds = [0]\n[ingest]"}
REFUSES = """
from bargeline import InvalidEvent

def enrich(event):
    raise InvalidEvent("the deploy is broken")

Click = dict
"""
PASSES = """
def enrich(event):
    return event

Click = dict
"""


@pytest.fixture
def folder(pipeline_name: str, tmp_path: Path) -> Path:
    return workers.make_pipeline(tmp_path / "p", pipeline_name, transform=REFUSES, edits=LEAST)


def test_a_broken_deploy_stops_the_stage_and_one_command_resumes(
    redis_url: str, database_url: str, folder: Path, client: Client
) -> None:
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    write_clicks(folder / "clicks.ndjson", 7, EVENTS)
    small: dict[str, Any] = {"TRANSFORM_BATCH_EVENTS": 50, "INGEST_BATCH_EVENTS": 50, "SAMPLE_SECONDS": 0.1}
    with workers.running("transform", **given, **small) as (broken,):
        assert workers.start("ingest", **given, **small, INGEST_PATH=folder / "clicks.ndjson").wait() == 0
        until(lambda: broken.get("/readyz")[0] == 503, what="the breaker to open")
        assert "bargeline resume transform" in broken.get("/readyz")[1]
        found = protocol.assert_law(client)
        assert 100 <= found.dead < EVENTS / 2, "it stopped long before the input was used up"
        assert found.in_raw == EVENTS - found.dead
        assert broken.records(action="breaker")[0]["level"] == "error"
        until(lambda: 'breaker_open{pipeline="' in broken.get("/metrics")[1], what="the metric")
    (folder / "transform.py").write_text(PASSES)
    with workers.running("loader", **given):
        corrected = workers.start("transform", **given, **small)
        try:
            until(lambda: corrected.records(action="breaker"), what="a new worker to find the breaker open")
            assert protocol.assert_law(client) == found, "a restart does not close it"
            ran = workers.bargeline("resume", **given)
            assert ran.code == 0
            assert "transform goes on; it had stopped at" in ran.out
            assert "reason invalid" in ran.out
            assert "loader had not stopped" in ran.out
            until(lambda: protocol.assert_law(client).loaded == EVENTS - found.dead, what="the rest to be loaded")
            assert corrected.get("/readyz")[0] == 200
            assert corrected.stop() == 0
        finally:
            workers.end(corrected)


def test_the_loader_stops_when_no_table_takes_the_events(
    redis_url: str, database_url: str, folder: Path, client: Client
) -> None:
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    (folder / "transform.py").write_text(PASSES)
    write_clicks(folder / "clicks.ndjson", 7, EVENTS)
    path = folder / "pipeline.toml"
    path.write_text(path.read_text().replace('event_types = ["click"]', 'event_types = ["another"]'))
    small: dict[str, Any] = {"LOADER_BATCH_EVENTS": 50, "TRANSFORM_BATCH_EVENTS": 50, "INGEST_BATCH_EVENTS": 50}
    with workers.running("transform", "loader", **given, **small) as (_, loader):
        assert workers.start("ingest", **given, **small, INGEST_PATH=folder / "clicks.ndjson").wait() == 0
        until(lambda: loader.get("/readyz")[0] == 503, what="the breaker to open")
        assert "no_table" in loader.get("/readyz")[1]
        assert protocol.assert_law(client).dead < EVENTS / 2


class Clock:
    """Seconds that pass when a test says so."""

    seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(watched, "time", found)
    return found


@pytest.fixture
def breaker(redis_url: str, folder: Path) -> Iterator[Breaker]:
    settings = load_settings({"REDIS_URL": redis_url, "CONSUMER_NAME": "one"})
    runtime = Runtime("transform", settings, load_pipeline(str(folder)))
    yield Breaker(runtime, "raw")
    runtime.client.close()


LETTER = protocol.letter()


@pytest.mark.parametrize(
    ("settled", "opens"),
    [
        pytest.param([(0, 99, 99)], False, id="too few to judge"),
        pytest.param([(0, 100, 50)], False, id="at the ratio"),
        pytest.param([(0, 100, 51)], True, id="above it"),
        pytest.param([(0, 60, 60), (30, 40, 1)], True, id="within the window"),
        pytest.param([(0, 60, 60), (30, 400, 1)], False, id="diluted"),
        pytest.param([(0, 99, 99), (62, 40, 40)], False, id="what is older than the window does not count"),
    ],
)
def test_the_ratio_is_that_of_a_sliding_window(
    settled: list[tuple[int, int, int]], opens: bool, breaker: Breaker, clock: Clock, client: Client
) -> None:
    for seconds, events, dead in settled:
        clock.seconds = 1_000 + seconds
        breaker.note(events, [LETTER] * dead)
    assert (open_because(client, "raw") is not None) is opens
    assert breaker.is_open() is opens


def test_after_the_resumption_the_window_begins_anew(breaker: Breaker, clock: Clock, client: Client) -> None:
    breaker.note(100, [LETTER] * 100)
    assert breaker.is_open()
    assert close_breaker(client, "raw")
    clock.seconds += 1
    assert not breaker.is_open()
    breaker.note(50, [LETTER])
    assert open_because(client, "raw") is None
