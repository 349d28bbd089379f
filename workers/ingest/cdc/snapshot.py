"""The tables as they are before their changes are read.

They are read in a snapshot that shows exactly what commits before a place in the WAL, and there the stream begins. One
that is cut off, or that has to be read again since Redis or the slot has lost something, goes on in a new snapshot:

    a table read to its end   is left alone
    one not begun yet         is read; of its changes those count that this snapshot does not show
    one that was told of      with a key: its rows are told again, then over them all its changes since, in order;
                              without one: first that it was emptied, so that nothing of it counts twice
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from shared.database import Connection, translated
from shared.database.replication import VARIABLE, lsn_text
from shared.database.replication_slots import PublishedTable, connect_source, wal_place
from shared.database.replication_snapshot import (
    TextRow,
    begin_reading,
    connect_exporter,
    export_snapshot,
    read_rows,
)
from shared.events import AnyEvent, Event, SourceIds, uuid7
from shared.run import Runtime
from workers.ingest.cdc.batch import Batches
from workers.ingest.cdc.changes import columns_of, key_text, row_values
from workers.ingest.cdc.patience import patience
from workers.ingest.cdc.place import Place, Snapshot

log = structlog.get_logger()


@dataclass(frozen=True)
class Tables:
    """What is to be read, and in whose name."""

    runtime: Runtime
    url: str
    source: str
    published: Sequence[PublishedTable]

    def read(self, stored: str, begun: Place | None, system: str, again_from: int | None) -> Place:
        """Read all tables, or those that ``begun`` has not; returns where the stream begins.

        With ``again_from`` all were told of before, and their changes are told from that place on. Raises
        TransientError, StaleSource, Stopped.
        """
        name = f"bargeline-{self.runtime.name}-snapshot"
        batches = Batches(self.runtime, self.source, stored)
        with translated(self.url, VARIABLE), closing(connect_source(self.url, name)) as connection:
            log.info("taking a snapshot, once the open transactions have ended", action="snapshot", source=self.source)
            taken = self._take_snapshot(connection, name)
            if begun is not None:
                place = _at(begun, attempt=taken.attempt, rows=0)
            elif again_from is not None:
                place = Place(system, again_from, snapshot=msgspec.structs.replace(taken, again=True))
            else:
                place = Place(system, taken.lsn, snapshot=taken)
            log.info("reading the tables", action="snapshot", source=self.source, lsn=lsn_text(taken.lsn))
            batches.send(place)
            for table in self.published:
                if table.readable_name not in _snapshot(place).done:
                    place = self._read_table(connection, batches, self._begin(table, place, taken, batches), table)
            place = msgspec.structs.replace(place, snapshot=None)
            batches.send(place)
            batches.confirm()
        log.info("read the tables", action="snapshot", source=self.source, events=batches.events)
        return place

    def _take_snapshot(self, connection: Connection, name: str) -> Snapshot:
        # The clock is asked first: what the snapshot does not show commits later than that.
        _, clock = wal_place(connection)
        with closing(connect_exporter(self.url, name)) as exporter:
            with patience(self.runtime, exporter) as wait:
                wait.now = True
                exported = export_snapshot(exporter)
            begin_reading(connection, exported.name)
        return Snapshot(exported.lsn, datetime.fromtimestamp(clock, UTC), uuid7())

    def _begin(self, table: PublishedTable, place: Place, taken: Snapshot, batches: Batches) -> Place:
        """The place at the beginning of a table: what its rows carry, and from where on its changes count."""
        name, before = table.readable_name, _snapshot(place)
        if before.table == name and table.key:
            return place
        told = before.again or before.table == name
        place = _at(place, table=name, lsn=taken.lsn, time=taken.time)
        if told and not table.key:
            batches.add(self._emptied(table, taken))
        if (told and table.key) or taken.lsn <= place.lsn:
            return place
        return msgspec.structs.replace(place, later={**place.later, name: taken.lsn})

    def _read_table(self, connection: Connection, batches: Batches, place: Place, table: PublishedTable) -> Place:
        with closing(self._rows(connection, table)) as rows:
            for event in self._events(rows, _snapshot(place), table):
                place = _at(place, rows=_snapshot(place).rows + 1)
                if batches.add(event):
                    self.runtime.beat()
                    self.runtime.check_stop()
                    if batches.send(place):
                        batches.confirm()
        place = _at(place, done=(*_snapshot(place).done, table.readable_name))
        batches.send(place)
        return place

    def _events(self, rows: Iterator[TextRow], snapshot: Snapshot, table: PublishedTable) -> Iterator[AnyEvent]:
        # A row that is still the same at the same place has the same id when the table has to be read once more.
        ids = self._ids(table, snapshot)
        columns = tuple(columns_of(zip(table.columns, table.types, strict=True)))
        for row in rows:
            new = row_values(columns, row[2:])
            yield Event(
                id=ids.id(_place_of(row), msgspec.json.encode(row[1:])),
                type=f"{table.readable_name}.created",
                source=self.source,
                time=snapshot.time,
                data={**_data(table, snapshot, -1), "new": new},
                key=key_text(table.key, new),
            )

    def _rows(self, connection: Connection, table: PublishedTable) -> Generator[TextRow, None, None]:
        with closing(read_rows(connection, table)) as rows, patience(self.runtime, connection) as wait:
            while True:
                wait.now = True
                row = next(rows, None)
                wait.now = False
                if row is None:
                    return
                yield row

    def _emptied(self, table: PublishedTable, snapshot: Snapshot) -> AnyEvent:
        return Event(
            id=self._ids(table, snapshot).id(0, b""),
            type=f"{table.readable_name}.truncated",
            source=self.source,
            time=snapshot.time,
            data=_data(table, snapshot, -2),
        )

    def _ids(self, table: PublishedTable, snapshot: Snapshot) -> SourceIds:
        return SourceIds(f"{self.source}\0{table.schema}.{table.name}\0{snapshot.lsn}")


def _data(table: PublishedTable, snapshot: Snapshot, index: int) -> dict[str, Any]:
    """The index is below those of a transaction, which may commit at this very place."""
    data = {"schema": table.schema, "table": table.name, "lsn": lsn_text(snapshot.lsn)}
    return {**data, "index": index, "snapshot": True}


def _snapshot(place: Place) -> Snapshot:
    assert place.snapshot is not None
    return place.snapshot


def _at(place: Place, **changed: Any) -> Place:
    return msgspec.structs.replace(place, snapshot=msgspec.structs.replace(_snapshot(place), **changed))


def _place_of(row: TextRow) -> int:
    """Where a row lies in its table, "(block,offset)", in the 48 bits of a position: 32 and 16."""
    block, offset = (row[0] or "").strip("()").split(",")
    return int(block) << 16 | int(offset)
