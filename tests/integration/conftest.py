"""What most tests of workers and commands start from: a pipeline of their own, and a look at its partition."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from bargeline.checking import Report, check_database
from shared.database import migrate
from shared.pipeline import load_pipeline
from shared.streams import Client
from shared.topology import Topology
from tests import workers
from tests.changes import SILENCE_SECONDS, Cdc, SourceDatabase, source_database, source_server
from tests.integration.stored import Stored


@pytest.fixture
def given(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    """What a worker or a command of this test's own copy of the pipeline clickstream is started with."""
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    return {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}


@pytest.fixture
def fitting(
    redis_url: str, empty_database_url: str, pipeline_name: str, tmp_path: Path
) -> Callable[[str], dict[str, Any]]:
    """The same for a copy of another shipped pipeline, by its name; its database fits."""

    def given_for(shipped: str) -> dict[str, Any]:
        folder = workers.make_pipeline(tmp_path / "p", pipeline_name, shipped=shipped)
        pipeline, report = load_pipeline(str(folder)), Report(folder)
        migrate(empty_database_url, pipeline)
        check_database(report, pipeline, empty_database_url)
        assert report.findings == []
        return {"redis_url": redis_url, "database_url": empty_database_url, "pipeline_folder": folder}

    return given_for


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    """A connection to the partition of this test's pipeline."""
    made = Client(redis_url, Topology(pipeline_name))
    yield made
    made.close()


@pytest.fixture
def stored(redis_client: redis.Redis, pipeline_name: str) -> Stored:
    """What the partition of this test's pipeline holds, told by a client of another make."""
    return Stored(redis_client, pipeline_name)


@pytest.fixture(scope="session")
def source_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL whose changes can be read; it gives up readers that are silent for SILENCE_SECONDS."""
    with source_server(tmp_path_factory.mktemp("source"), wal_sender_timeout=f"{SILENCE_SECONDS}s") as url:
        yield url


@pytest.fixture
def source(source_server_url: str, pipeline_name: str) -> Iterator[SourceDatabase]:
    """This test's own database there."""
    with source_database(source_server_url, pipeline_name) as made:
        yield made


@pytest.fixture
def cdc(redis_url: str, pipeline_name: str, tmp_path: Path, source: SourceDatabase) -> Iterator[Cdc]:
    """The pipeline that reads it; workers that still run are ended afterwards."""
    made = Cdc(workers.make_pipeline(tmp_path / "cdc", pipeline_name), redis_url, source)
    yield made
    workers.end(*made.started)
    for worker in made.started:
        # Shown if the test failed.
        sys.stdout.write(f"--- log of {worker}:\n{worker.log_text()[-4_000:]}\n")
