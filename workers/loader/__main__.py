"""The loader worker: clean entries into PostgreSQL, then settled."""

import time
from collections.abc import Sequence
from functools import partial

import structlog

from shared import run
from shared.attributes import Attributes
from shared.database import Connection, RowError, application_name, reconnected
from shared.database.load import DeadRow, Recorded
from shared.database.tables import check_tables
from shared.entries import Entry, Fields, dead_letter
from shared.errors import InvalidEvent
from shared.events import source_of
from shared.missing import settle_missing
from shared.reading import Reader
from shared.run import Runtime, Step
from shared.streams import Loaded, portions, settle_clean
from workers.loader import native, transaction
from workers.loader.rows import Prepared, Router

log = structlog.get_logger()
#: After a violation the staged way, until so many transactions in a row had neither duplicates nor bad rows.
#: A late duplicate costs the direct way 16 µs a row, the staged way 8.7; all new rows 6.4 and 14.
_CLEAN_BEFORE_DIRECT = 8
#: What PostgreSQL says of a binary cell of another length than its type's.
_INVALID_BINARY = "22P03"


def start(runtime: Runtime) -> Step:
    """Connect, check the tables, join the group, and return the step."""
    worker = Worker(runtime)
    worker.reader.join()
    return worker.step


class Worker:
    """The loader's connection and what it learnt of the input."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._url = runtime.settings.require_database_url()
        self._connection: Connection | None = None
        self._staged_left = 0
        self.reader = Reader(runtime, "clean", runtime.settings.loader_batch_events)
        runtime.hold(self._learn)
        if runtime.settings.loader_native and not native.AVAILABLE:
            log.info("there was no C compiler: all rows are made by Python, at half the speed", action="native")
        else:
            log.info("tables whose rows are made by C", action="native", tables=sorted(self._router.binary))

    def _learn(self) -> None:
        """Look at the tables, and plan how to fill them. Raises TransientError."""
        pipeline, stream = self._runtime.pipeline, self.reader.consumer.stream
        types = check_tables(self._url, self._connected(), pipeline)
        attributes, with_c = Attributes(pipeline.file.ingest, pipeline.name), self._runtime.settings.loader_native
        self._router = Router(pipeline.file, types, stream, attributes, with_c=with_c)
        rollups, binary = self._router.rollups, self._router.binary
        self._plan = transaction.Loader(self._url, stream, pipeline.file, rollups, types, binary)

    def _connected(self) -> Connection:
        name = application_name(self._runtime.instance, self._runtime.pipeline.name)
        self._connection = reconnected(self._connection, self._url, name)
        return self._connection

    def step(self) -> None:
        """One suspect alone, or one transaction of new entries."""
        suspect = self.reader.take()
        if suspect is not None:
            if suspect.fields:
                self._load([suspect], suspect=True)
            else:
                self._missing(suspect.id)
            return
        entries = self.reader.read()
        if entries:
            self._load(entries, suspect=False)

    def _missing(self, entry_id: str) -> None:
        """Somebody deleted the entry; it may have been committed before."""
        events = self._runtime.hold(
            lambda: settle_missing(self._runtime.client, self._connected(), self._url, entry_id)
        )
        self._runtime.note_lost(self.reader.consumer.stage, entry_id, events)

    def _load(self, entries: Sequence[Entry], *, suspect: bool) -> None:
        began = time.monotonic()
        runtime = self._runtime

        def on_hold() -> None:
            self.reader.consumer.hold(entries)

        figures = runtime.hold(lambda: self._commit(entries, suspect=suspect), on_hold)
        committed = time.time()
        self.reader.took(time.monotonic() - began, sum(entry.events for entry in entries))
        results = [self._result(entry, recorded) for entry, recorded in zip(entries, figures, strict=True)]
        for part in portions(results):
            self._count(part, runtime.hold(partial(settle_clean, runtime.client, part), on_hold))
        for entry in entries:
            runtime.metrics.latency(committed - entry.accepted_ms / 1000)
        runtime.metrics.step(time.monotonic() - began, sum(entry.events for entry in entries))

    def _prepare(self, entry: Entry, *, binary: bool = False) -> Prepared:
        """Rows of an entry; an entry that was in hand whenever a loader ended is looked at no more."""
        if not entry.reclaimed or entry.deliveries < self._runtime.pipeline.file.pipeline.max_deliveries:
            return self._router.prepare(entry, binary=binary)
        log.error("an entry was in hand whenever a worker ended; dead-lettering it", action="poison", entry=entry.id)
        text = f"delivered {entry.deliveries} times, and each time the loader that had it ended before it was done"
        return self._router.unseen(entry, InvalidEvent(text, "deliveries"))

    def _commit(self, entries: Sequence[Entry], *, suspect: bool) -> list[Recorded]:
        """Commit; if the columns of a table changed since they were looked at, look at them again first."""
        try:
            return self._attempt(entries, suspect=suspect)
        except transaction.ColumnsChanged as changed:
            log.info("a table has other columns than before", action="columns", table=str(changed))
            self._learn()
            return self._attempt(entries, suspect=suspect)

    def _attempt(self, entries: Sequence[Entry], *, suspect: bool) -> list[Recorded]:
        """Prepare and commit; prepared anew at each attempt, since an attempt fills in what it found."""
        connection = self._connected()
        if not suspect and self._staged_left == 0:
            try:
                return transaction.run(self._plan, connection, entries, self._prepare, staged=False)
            except RowError as error:
                self._staged_left = _CLEAN_BEFORE_DIRECT
                log.info("going the staged way", action="staged", because=str(error).splitlines()[0])
                if error.sqlstate == _INVALID_BINARY:
                    raise transaction.ColumnsChanged(str(error)) from None
        figures = transaction.run(self._plan, connection, entries, self._prepare, staged=True)
        if any(one.duplicates or one.dead for one in figures):
            self._staged_left = _CLEAN_BEFORE_DIRECT
        elif not suspect:
            self._staged_left = max(self._staged_left - 1, 0)
        return figures

    def _result(self, entry: Entry, recorded: Recorded) -> Loaded:
        lines = self._router.lines(entry) if recorded.dead else []
        dead = [self._dead_letter(entry, lines[row.index], row) for row in recorded.dead]
        return Loaded(
            entry.id,
            entry.foreign,
            entry.events,
            recorded.loaded,
            recorded.duplicates,
            recorded.unrouted,
            dead,
        )

    def _dead_letter(self, entry: Entry, line: bytes, row: DeadRow) -> Fields:
        malformed = row.reason == "malformed"
        stream = self.reader.consumer.stream
        return dead_letter(
            "loader",
            InvalidEvent(row.message, row.reason),
            event=None if malformed else line,
            raw=line if malformed else None,
            origin={"stream": stream, "address": f"{entry.id}/{row.index}", "source": source_of(line)},
            consumer=self._runtime.name,
            history=entry.history,
        )

    def _count(self, results: Sequence[Loaded], first: Sequence[bool]) -> None:
        metrics = self._runtime.metrics
        for result, is_first in zip(results, first, strict=True):
            if not is_first:
                metrics.incident("settled_before")
                continue
            metrics.events("loaded", result.loaded)
            metrics.events("duplicate", result.duplicates)
            metrics.events("unrouted", result.unrouted)
            metrics.events("dead", len(result.dead))
            self.reader.breaker.note(result.events, result.dead)


if __name__ == "__main__":
    run.main("loader", start, sampled_stages=("clean",))
