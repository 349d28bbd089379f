"""The transform stage alone: raw is filled before, and no other worker runs, so that cores are measured."""

from bench.fleet import PIPELINES, fleet, patience, worker_names
from bench.ground import Ground, client, reset
from bench.processes import poll, stopwatch
from shared.streams.inspect import ledger

#: Both are the clickstream pipeline with a high-water mark that is never met; one takes 100 µs of CPU an event.
LIGHT, COSTLY = str(PIPELINES / "light"), str(PIPELINES / "costly")


def measure(ground: Ground, transforms: int, pipeline: str) -> float:
    """Events a second that so many transforms settle, from when all are ready until raw is empty."""
    reset(ground)
    fill(ground, pipeline)
    names = worker_names(ingest=0, transform=transforms, loader=0, janitor=0)
    with fleet(ground, {}, names, pipeline), client(ground) as found:
        begun = ledger(found).get("mapped", 0)
        if begun > ground.events / 2:
            raise RuntimeError(f"{begun:,} of {ground.events:,} events were settled before all workers were ready")
        measured = stopwatch()
        poll(lambda: ledger(found).get("mapped", 0) >= ground.events, patience(ground.events), "raw settled")
        return (ground.events - begun) / measured().seconds


def fill(ground: Ground, pipeline: str) -> None:
    """Put all events into raw."""
    source = {"INGEST_PATH": str(ground.clicks), "INGEST_WATCH": "true"}
    with fleet(ground, source, ["ingest-1"], pipeline), client(ground) as found:
        poll(lambda: ledger(found).get("accepted", 0) >= ground.events, patience(ground.events), "raw filled")
