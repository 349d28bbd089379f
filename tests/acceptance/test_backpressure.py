"""No loader at full input: every stage fills to its mark, nobody dies, and on return the count is exact."""

from pathlib import Path

import pytest

from bargeline.embedded import throwaway
from shared.settings import Settings
from shared.streams import Client
from shared.streams.client import info
from shared.topology import STAGES, Topology
from tests import workers
from tests.acceptance.fleet import generated, loaded
from tests.integration import protocol
from tests.wait import until
from tests.workers import Worker

EVENTS = 150_000
HIGH_WATER = 20_000
#: What a stage below its mark gets at once: the step of a worker. Its size goes by that of entries before.
SLACK = 2 * Settings.model_fields["transform_batch_events"].default
#: An event of 280 bytes, wrapped, and as much again for what is settled and waits for the next trim, and buffers.
BYTES_PER_EVENT = 1_000


def _pressed(worker: Worker) -> bool:
    return bool(worker.records(action="pressure"))


@pytest.mark.timeout(200)
def test_without_a_loader_memory_stays_within_its_bound_and_everything_arrives(
    database_url: str, pipeline_name: str, tmp_path: Path
) -> None:
    # Nothing settled is kept, so that memory is that of what waits.
    edits = {"[ingest]": f"high_water_events = {HIGH_WATER}\nretention_events = 0\n[ingest]"}
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name, edits=edits)
    truth = generated(tmp_path / "clicks.ndjson", seed=5, count=EVENTS)
    process, redis_url = throwaway.start_valkey(tmp_path / "valkey")
    client = Client(redis_url, Topology(pipeline_name))
    given = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    try:
        before = int(info(client, "memory")["used_memory"])
        with workers.running("transform", "transform", "janitor", **given) as (first, second, _):  # type: ignore[arg-type]
            ingest = workers.start("ingest", **given, INGEST_PATH=tmp_path / "clicks.ndjson")  # type: ignore[arg-type]
            until(lambda: _pressed(ingest) and _pressed(first) and _pressed(second), 60, what="pressure up to ingest")
            peak = 0
            for _ in range(100):  # They go on trying: 50 ms between two attempts of each.
                found = protocol.assert_law(client)
                assert max(found.in_raw, found.in_clean) < HIGH_WATER + SLACK
                peak = max(peak, int(info(client, "memory")["used_memory"]) - before)
            assert peak < len(STAGES) * (HIGH_WATER + SLACK) * BYTES_PER_EVENT
            assert ingest.alive
            with workers.running("loader", **given):  # type: ignore[arg-type]
                assert ingest.wait(100) == 0, ingest.log_text()
                until(lambda: protocol.assert_law(client).loaded == EVENTS, 60, what="everything to be loaded")
        assert protocol.assert_law(client).in_flight == 0
        assert loaded(database_url) == truth
    finally:
        client.close()
        throwaway.stop(process)
