"""A server that is away, hangs or lost the group: workers hold what they have, however long, and blame nobody."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from shared.errors import TransientError
from shared.generate import write_clicks
from shared.pipeline import load_pipeline
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Client, ensure_group
from shared.topology import GROUP_OF_STAGE, STAGES, Topology
from tests import locked, workers
from tests.integration import protocol
from tests.proxy import Proxy, through
from tests.wait import until
from tests.workers import Worker

EVENTS = 2_000


class Ground:
    """A pipeline whose workers reach both servers through proxies, and the truth past them."""

    def __init__(self, stack: ExitStack, redis_url: str, database_url: str, folder: Path) -> None:
        self.redis = stack.enter_context(_proxy(redis_url))
        self.database = stack.enter_context(_proxy(database_url))
        self.database_url = database_url
        self.client = Client(redis_url, Topology(load_pipeline(str(folder)).name))
        stack.callback(self.client.close)
        for stage, group in GROUP_OF_STAGE.items():
            ensure_group(self.client, stage, group)
        self.folder = folder
        self.given: dict[str, Any] = {
            "redis_url": through(redis_url, self.redis),
            "database_url": through(database_url, self.database),
            "pipeline_folder": folder,
        }

    def ingest(self, name: str = "clicks.ndjson") -> None:
        write_clicks(self.folder / name, 7, EVENTS)
        worker = workers.start("ingest", **self.given, INGEST_PATH=self.folder / name)
        assert worker.wait() == 0, worker.log_text()

    def loaded(self) -> int:
        return protocol.assert_law(self.client).loaded

    def rows(self) -> int:
        with psycopg.connect(self.database_url) as connection:
            (count,) = connection.execute("SELECT count(*) FROM clicks").fetchone() or (0,)
            return int(count)


def _proxy(url: str) -> Proxy:
    parts = urlsplit(url)
    return Proxy(parts.hostname or "", parts.port or 0)


@pytest.fixture
def ground(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Ground]:
    with ExitStack() as stack:
        # Few deliveries: the watchdog may blame an event once, an outage never.
        edits = {"[ingest]": "max_deliveries = 3\n[ingest]"}
        yield Ground(stack, redis_url, database_url, workers.make_pipeline(tmp_path / "p", pipeline_name, edits=edits))


def _not_ready(worker: Worker, text: str) -> bool:
    status, reason = worker.get("/readyz")
    return status == 503 and text in reason


def test_redis_swallows_everything_and_comes_back(ground: Ground) -> None:
    with workers.running("transform", "loader", **ground.given) as (transform, loader):
        ground.redis.black_hole()
        for worker in (transform, loader):
            until(lambda worker=worker: _not_ready(worker, "Redis"), what="a half-open socket to be noticed")  # type: ignore[misc]
        ground.redis.heal()
        ground.ingest()
        until(lambda: ground.loaded() == EVENTS, what="everything to be loaded")
    assert len(transform.records(action="hold", level="warning")) == 1, "an outage is one line, not one an attempt"


def test_postgresql_swallows_everything_and_the_watchdog_ends_the_loader(ground: Ground) -> None:
    with workers.running("transform", **ground.given):
        stuck = workers.start("loader", **ground.given, STALL_SECONDS=3, CONSUMER_NAME="the-one").until_started()
        try:
            ground.database.black_hole()
            ground.ingest()
            assert stuck.wait() == 1
            assert "workers/loader" in stuck.log_text()
        finally:
            workers.end(stuck)
        ground.database.heal()
        with workers.running("loader", **ground.given, CONSUMER_NAME="the-one"):
            until(lambda: ground.loaded() == EVENTS, what="everything to be loaded")
    assert ground.rows() == EVENTS


def test_dying_again_and_again_while_postgresql_is_away_blames_no_event(ground: Ground) -> None:
    most = load_pipeline(str(ground.folder)).file.pipeline.max_deliveries
    with workers.running("transform", **ground.given):
        ground.ingest()
        until(lambda: protocol.assert_law(ground.client).in_clean == EVENTS, what="clean entries")
        for round_ in range(most + 1):
            # The tables are checked at the start, so PostgreSQL goes away afterwards.
            with _loader_with_entries_in_hand(ground) as loader:
                until(lambda loader=loader: _not_ready(loader, "PostgreSQL"), what=f"a loader that holds, {round_}")  # type: ignore[misc]
                until(lambda: set(_deliveries(ground)) <= {0}, what="the deliveries to be taken back")
        ground.database.heal()
        with workers.running("loader", **ground.given, CONSUMER_NAME="the-one"):
            until(lambda: ground.loaded() == EVENTS, what="everything to be loaded")
    assert protocol.assert_law(ground.client).dead == 0


@contextmanager
def _loader_with_entries_in_hand(ground: Ground) -> Iterator[Worker]:
    """A loader that is in the middle of a transaction when PostgreSQL goes away; killed in the end."""
    ground.database.heal()
    loader = workers.start("loader", **ground.given, CONSUMER_NAME="the-one")
    try:
        with locked.waiting(ground.database_url, ground.client.topology.partition):
            ground.database.refuse()
        yield loader
    finally:
        workers.end(loader)


def _deliveries(ground: Ground) -> list[int]:
    """How often each entry in the loader's hand was delivered."""
    found = protocol.pending(ground.client, "clean").values()
    return [deliveries for name, deliveries in found if name == "the-one"]


def test_groups_and_streams_destroyed_under_running_workers(ground: Ground) -> None:
    with workers.running("transform", "loader", "janitor", **ground.given) as (transform, *_):
        for stage in STAGES:
            ground.client.call("XGROUP", "DESTROY", ground.client.topology.stream(stage), GROUP_OF_STAGE[stage])
        ground.ingest()
        until(lambda: ground.loaded() == EVENTS, what="everything to be loaded")
        for stage in STAGES:
            ground.client.call("DEL", ground.client.topology.stream(stage), ground.client.topology.open(stage))
        ground.client.call("DEL", ground.client.topology.ledger, ground.client.topology.checkpoint)
        ground.ingest("more.ndjson")
        until(lambda: ground.loaded() == EVENTS, what="everything to be loaded in the new epoch")
        assert re.search(r'incidents_total{kind="group_missing".*} [1-9]', transform.get("/metrics")[1])
    assert ground.rows() == 2 * EVENTS


def test_pauses_grow_are_jittered_and_begin_anew_after_a_success(
    redis_url: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings({"REDIS_URL": redis_url, "CONSUMER_NAME": "one"})
    runtime = Runtime("transform", settings, load_pipeline(str(ground.folder)))
    pauses: list[float] = []
    monkeypatch.setattr(runtime, "_pause", lambda seconds, in_hand: pauses.append(seconds))  # noqa: ARG005

    def fails(times: int) -> None:
        left = iter(range(times))

        def operation() -> None:
            if next(left, None) is not None:
                raise TransientError("away")

        runtime.hold(operation)

    fails(12)
    assert pauses[0] < pauses[3] < pauses[6] <= max(pauses) < 5.1
    assert len({round(pause, 6) for pause in pauses[-4:]}) > 1, "many workers must not come back at once"
    first = len(pauses)
    fails(1)
    assert pauses[first] < 0.2
    runtime.client.close()
