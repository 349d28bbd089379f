"""What most tests of workers and commands start from: a pipeline of their own, and a look at its partition."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.streams import Client
from shared.topology import Topology
from tests import workers


@pytest.fixture
def given(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    """What a worker or a command of this test's own copy of the pipeline clickstream is started with."""
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name)
    return {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    """A connection to the partition of this test's pipeline."""
    made = Client(redis_url, Topology(pipeline_name))
    yield made
    made.close()
