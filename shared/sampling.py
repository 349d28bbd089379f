"""The sampling thread: asks Redis for lag, pending and the rest, and leaves the answer for scrapes."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import structlog

from shared.accounting import balance
from shared.errors import BargelineError
from shared.metrics import Metrics, Sample
from shared.pipeline import Pipeline
from shared.streams import Client
from shared.streams.breaker import open_because
from shared.streams.inspect import GroupState, figures, group_state, memory_ratio, stream_bytes
from shared.topology import STAGES
from shared.verdicts import WORDS, GroupVerdict, Observation, judge, recent

log = structlog.get_logger()
#: Stage → what was observed of its group within the window.
Seen = dict[str, list[Observation]]


def start(client: Client, metrics: Metrics, seconds: float, stages: Sequence[str], pipeline: Pipeline) -> None:
    """Sample in a daemon thread every so often: the groups of ``stages``, and all there is for all of them."""

    def forever() -> None:
        seen: Seen = {}
        while True:
            try:
                metrics.gauges.replace(sample(client, stages, pipeline, seen))
            except Exception:
                # Without this thread the last sample would be served for ever, as if all stood still.
                metrics.gauges.replace(())
                log.exception("cannot sample", action="sample")
            time.sleep(seconds)

    threading.Thread(target=forever, name="sampler", daemon=True).start()


def sample(client: Client, stages: Sequence[str], pipeline: Pipeline, seen: Seen) -> list[Sample]:
    """One sample; what cannot be asked for now is left out. What was ``seen`` before tells the rates."""
    samples: list[Sample] = []
    for stage in stages:
        with contextlib.suppress(BargelineError):
            newest = observe(client, stage)
            seen[stage] = recent(seen.get(stage, ()), newest)
            samples += _of_group(pipeline, newest.state)
            samples += _of_verdict(pipeline.name, judge(seen[stage]))
            samples.append(Sample("breaker_open", (pipeline.name, stage), newest.paused is not None))
    if set(stages) == set(STAGES):
        with contextlib.suppress(BargelineError):
            samples += _of_pipeline(client, pipeline)
    return samples


def observe(client: Client, stage: str) -> Observation:
    """Look at the group of a stage now. Raises GroupMissing."""
    state = group_state(client, stage)
    return Observation(time.monotonic(), state, open_because(client, stage))


def _of_verdict(pipeline: str, found: GroupVerdict) -> Iterator[Sample]:
    if found.out_per_second is None:
        return  # One look does not tell.
    for word in WORDS:
        yield Sample("group_verdict", (pipeline, found.group, word), word == found.verdict)
    if found.drain_seconds is not None:
        yield Sample("group_drain_seconds", (pipeline, found.group), found.drain_seconds)


def _of_group(pipeline: Pipeline, state: GroupState) -> Iterator[Sample]:
    group, stage = (pipeline.name, state.group), (pipeline.name, state.stage)
    values = {
        "group_added_events": state.added_events,
        "group_settled_events": state.settled_events,
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
