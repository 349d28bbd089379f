"""The transform worker: raw entries through the user's function into clean ones."""

import time
from collections.abc import Sequence

import structlog

from shared import run
from shared.attributes import Attributes
from shared.codec import Codec
from shared.entries import MOST_BYTES, MOST_EVENTS, Entry
from shared.errors import InvalidEvent
from shared.reading import Reader
from shared.run import Runtime, Step
from shared.streams import Outcome, Settled, portions, settle, split
from workers.transform.deadline import Deadline
from workers.transform.function import load_decoder, load_function
from workers.transform.handler import Handler, handle, singles, unseen

log = structlog.get_logger()
#: So often is looked whether a slow function gets on, which is no stall, and whether the process is to end.
_TICKS_A_STALL = 6
_TICK_SECONDS = 2


def start(runtime: Runtime) -> Step:
    """Load the user's code, join the group, and return the step."""
    pipeline, settings = runtime.pipeline, runtime.settings
    reader = Reader(runtime, "raw", settings.transform_batch_events)
    handler = Handler(
        decode=load_decoder(pipeline),
        function=load_function(pipeline),
        batch=pipeline.file.transform.batch,
        deadline=Deadline(
            settings.transform_timeout_seconds,
            runtime.beat,
            min(settings.stall_seconds / _TICKS_A_STALL, _TICK_SECONDS),
            runtime.stop,
        ),
        attributes=Attributes(pipeline.file.ingest, pipeline.name),
        limits=pipeline.file.pipeline,
        stream=reader.consumer.stream,
        consumer=runtime.name,
        codec=Codec(settings.transform_codec),
    )
    reader.join()

    def step() -> None:
        suspect = reader.take()
        if suspect is not None:
            _suspect(runtime, reader, handler, suspect)
            return
        entries = reader.read()
        if entries:
            _process(runtime, reader, handler, entries)

    return step


def _process(runtime: Runtime, reader: Reader, handler: Handler, entries: Sequence[Entry]) -> None:
    began = time.monotonic()
    # The codec that they are written in: settling a part may choose another for what comes next.
    codec = handler.codec.name
    outcomes = []
    for entry in entries:
        runtime.beat()
        outcomes.append(handle(handler, entry))
    events = sum(entry.events for entry in entries)
    reader.took(time.monotonic() - began, events)
    for part in portions(outcomes):
        handler.codec.note(_settle(runtime, reader, codec, part).in_flight)
    runtime.metrics.step(time.monotonic() - began, events)


def _suspect(runtime: Runtime, reader: Reader, handler: Handler, entry: Entry) -> None:
    """A suspect is in hand alone, so a crash blames only it."""
    if not entry.fields:
        reader.lost(entry.id)
    elif entry.deliveries >= 2 and entry.events > 1:
        _split(runtime, reader, handler, entry)
    elif entry.reclaimed and entry.deliveries >= handler.limits.max_deliveries:
        log.error(
            "an event was in hand whenever a worker ended; dead-lettering it unseen",
            action="poison",
            entry=entry.id,
        )
        _settle(runtime, reader, handler.codec.name, [unseen(handler, entry)])
    else:
        _process(runtime, reader, handler, [entry])


def _split(runtime: Runtime, reader: Reader, handler: Handler, entry: Entry) -> None:
    try:
        fields = singles(handler, entry)
    except InvalidEvent:
        _process(runtime, reader, handler, [entry])
        return
    runtime.hold(lambda: split(runtime.client, entry, fields), lambda: reader.consumer.hold([entry]))
    log.warning("split a batch whose holder ended", action="split", entry=entry.id, events=entry.events)


def _settle(runtime: Runtime, reader: Reader, codec: str, outcomes: Sequence[Outcome]) -> Settled:
    """Settle from held arguments until it is done; while the next stage is full or Redis is away, hold."""
    entries = [outcome.entry for outcome in outcomes]
    settled = runtime.until_accepted(
        lambda: settle(
            runtime.client,
            outcomes,
            high_water=runtime.pipeline.file.pipeline.high_water_events,
            codec=codec,
            most_events=MOST_EVENTS,
            most_bytes=MOST_BYTES,
        ),
        lambda: reader.consumer.hold(entries),
    )
    for outcome, is_first in zip(outcomes, settled.first, strict=True):
        if not is_first:
            # Somebody else settled it (or this call did, and its reply was lost): nothing was written twice.
            runtime.metrics.incident("settled_before")
            continue
        runtime.metrics.events("mapped", outcome.mapped)
        runtime.metrics.events("filtered", outcome.filtered)
        runtime.metrics.events("retried", len(outcome.retries) - outcome.put_back)
        runtime.metrics.events("dead", len(outcome.dead))
        reader.breaker.note(outcome.entry.events, outcome.dead)
        if outcome.put_back:
            log.info("put back what it had not begun with", action="stop", events=outcome.put_back)
    return settled


if __name__ == "__main__":
    run.main("transform", start, sampled_stages=("raw",))
