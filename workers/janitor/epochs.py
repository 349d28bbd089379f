"""Epochs: a copy of the ledger in PostgreSQL, and noticing that an epoch ended."""

import structlog

from shared.accounting import Figures, balance, rewound
from shared.database import Connection, epochs, translated
from shared.run import Runtime
from shared.streams import keeper
from shared.streams.inspect import current_epoch, figures

log = structlog.get_logger()


def keep(runtime: Runtime, connection: Connection, url: str) -> None:
    """Copy the ledger's figures, begin another epoch where writes were lost, and report epochs that ended."""
    name = runtime.pipeline.name
    with translated(url):
        # The copy first: of two janitors' readings only a later one may be compared with what was copied before.
        before = epochs.last_copy(connection, name, current_epoch(runtime.client))
        seen = figures(runtime.client)
        if before is not None and rewound(before, seen):
            _begin_another(runtime, before, seen)
            seen = figures(runtime.client)
        if seen.epoch is not None:
            epochs.copy(connection, name, seen)
        for one in epochs.end_unseen(connection, name, seen.epoch):
            _report(runtime, one)


def _begin_another(runtime: Runtime, before: Figures, seen: Figures) -> None:
    if seen.epoch is not None and keeper.end_epoch(runtime.client, seen.epoch):
        log.error(
            "Redis went back in time: writes were lost; another epoch begins",
            action="epoch",
            accepted_before=before.counters.get("accepted", 0),
            accepted_now=seen.counters.get("accepted", 0),
        )


def _report(runtime: Runtime, one: epochs.EndedEpoch) -> None:
    runtime.metrics.incident("epoch_ended")
    then = balance(runtime.pipeline.name, one.figures)
    log.error(
        "an epoch ended: Redis was flushed or lost writes",
        action="epoch",
        epoch=one.epoch,
        last_seen=one.last_seen.isoformat(),
        accepted=then.accepted,
        loaded=then.loaded,
        dead=then.dead,
        in_flight=then.in_flight,
    )
