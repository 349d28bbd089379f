"""What a process exports before anything has happened."""

import pytest
from prometheus_client import generate_latest

from shared.metrics import Metrics
from shared.topology import KINDS, STAGE_OF_GROUP


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_begins_at_0_since_what_came_into_being_at_1_would_not_count_as_a_rise(kind: str) -> None:
    metrics = Metrics("p", kind)
    before = _counted(metrics)
    assert set(before.values()) == {0}
    metrics.incident("lost")
    metrics.events("dead" if kind == "ingest" else "lost", 3)
    if kind == "janitor":
        metrics.reclaimed("raw", 1)
    if kind in STAGE_OF_GROUP:
        metrics.step(0.1, 3)
    if kind == "loader":
        metrics.latency(0.2)
    after = _counted(metrics)
    assert after.keys() == before.keys()
    assert sum(after.values()) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_is_told_by_pipeline_and_kind(kind: str) -> None:
    text = generate_latest(Metrics("p", kind).registry).decode()
    assert f'bargeline_build_info{{kind="{kind}",pipeline="p",' in text


def _counted(metrics: Metrics) -> dict[str, float]:
    """Series of counters and histograms → value."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    series = [line.rsplit(" ", 1) for line in lines if line.startswith("bargeline_")]
    return {name: float(value) for name, value in series if not name.startswith("bargeline_build_info")}
