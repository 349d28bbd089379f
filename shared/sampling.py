"""The sampling thread: asks Redis for lag, pending and the rest, and leaves the answer for scrapes."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from shared.accounting import balance
from shared.errors import BargelineError
from shared.metrics import Metrics, Sample
from shared.pipeline import Pipeline
from shared.streams import Client
from shared.streams.breaker import open_because
from shared.streams.inspect import GroupState, figures, group_state, memory_ratio, stream_bytes
from shared.topology import STAGES


def start(client: Client, metrics: Metrics, seconds: float, stages: Sequence[str], pipeline: Pipeline) -> None:
    """Sample in a daemon thread every so often: the groups of ``stages``, and all there is for all of them."""

    def forever() -> None:
        while True:
            metrics.gauges.replace(sample(client, stages, pipeline))
            time.sleep(seconds)

    threading.Thread(target=forever, name="sampler", daemon=True).start()


def sample(client: Client, stages: Sequence[str], pipeline: Pipeline) -> list[Sample]:
    """One sample; what cannot be asked for now is left out."""
    samples: list[Sample] = []
    for stage in stages:
        with contextlib.suppress(BargelineError):
            samples += _of_group(pipeline, group_state(client, stage))
            stopped = open_because(client, stage) is not None
            samples.append(Sample("breaker_open", (pipeline.name, stage), stopped))
    if set(stages) == set(STAGES):
        with contextlib.suppress(BargelineError):
            samples += _of_pipeline(client, pipeline)
    return samples


def _of_group(pipeline: Pipeline, state: GroupState) -> Iterator[Sample]:
    group, stage = (pipeline.name, state.group), (pipeline.name, state.stage)
    values = {
        "group_lag_events": state.lag_events,
        "group_lag_entries": state.lag_entries,
        "group_lag_seconds": state.lag_seconds,
        "group_pending_entries": state.pending_entries,
        "group_pending_events": state.pending_events,
    }
    for name, value in values.items():
        if value is not None:
            yield Sample(name, group, value)
    yield Sample("stream_entries", stage, state.stream_entries)
    yield Sample("stream_events", stage, state.unsettled_events)
    yield Sample("backpressure_active", stage, state.unsettled_events >= pipeline.file.pipeline.high_water_events)
    for consumer in state.consumers:
        yield Sample("consumer_pending_entries", (*group, consumer.name), consumer.pending_entries)
        yield Sample("consumer_idle_seconds", (*group, consumer.name), consumer.idle_seconds)
    for kind in ("live", "idle", "dead"):
        yield Sample("consumers", (*group, kind), sum(consumer.state == kind for consumer in state.consumers))


def _of_pipeline(client: Client, pipeline: Pipeline) -> Iterator[Sample]:
    found = figures(client)
    yield Sample("dead_letter_events", (pipeline.name,), found.dead)
    yield Sample("retry_events", (pipeline.name,), found.retry)
    yield Sample("ledger_imbalance_events", (pipeline.name,), balance(pipeline.name, found).imbalance)
    memory = memory_ratio(client)
    if memory is not None:
        yield Sample("redis_memory_ratio", (pipeline.name,), memory)
    for stage in STAGES:
        used = stream_bytes(client, stage)
        if used is not None:
            yield Sample("stream_bytes", (pipeline.name, stage), used)
