"""The changes of a PostgreSQL database: its tables as they are, then every change as it is committed.

One process at a time reads a slot; others wait, and take over where it was.
"""

from contextlib import closing
from dataclasses import dataclass

import structlog

from shared.database import Connection, translated
from shared.database.replication import VARIABLE, ReplicationStream, lsn_text
from shared.database.replication_slots import (
    PublishedTable,
    ServerFacts,
    SlotFacts,
    check_can_decode,
    check_slot,
    connect_source,
    key_columns,
    lock_slot,
    published_tables,
    server_facts,
    slot_facts,
    wal_place,
)
from shared.errors import ConfigurationError, TransientError
from shared.run import Runtime, Step
from shared.streams import checkpoint as stored_checkpoint
from workers.ingest.cdc.batch import Batches
from workers.ingest.cdc.changes import Changes
from workers.ingest.cdc.lag import Progress, start_sampling
from workers.ingest.cdc.place import Place, decode_place
from workers.ingest.cdc.receiver import Receiver
from workers.ingest.cdc.snapshot import Tables
from workers.ingest.cdc.stream import Follower
from workers.ingest.sender import StaleSource

log = structlog.get_logger()
_PAUSE_SECONDS = 0.5
#: Tables of ours: whoever reads them makes events of what events make.
_OWN_TABLES = {"load_ledger", "bargeline_migrations"}


@dataclass(frozen=True)
class Found:
    """The source as it was found, with the connection that holds the lock on its slot."""

    connection: Connection
    server: ServerFacts
    slot: SlotFacts
    tables: list[PublishedTable]
    #: Where the WAL ends.
    end: int


def start(runtime: Runtime) -> Step:
    """Return the step that reads INGEST_CDC_URL until the connection is lost, or for ever."""
    return Source(runtime).step


class Source:
    """One slot of one database."""

    def __init__(self, runtime: Runtime) -> None:
        settings, pipeline = runtime.settings, runtime.pipeline.name
        self._runtime = runtime
        self._url = settings.require_cdc_url()
        self._slot = settings.cdc_slot(pipeline)
        self._publication = settings.cdc_publication(pipeline)
        self._progress = Progress()
        #: Whether this process has read changes before: then there is something that they may change.
        self._has_read = False
        start_sampling(runtime, self._url, self._slot, self._progress)

    def step(self) -> None:
        """Read until the source is away or somebody else reads it; the next step looks again."""
        found = self._runtime.hold(self._find)
        with closing(found.connection):
            try:
                self._read(found)
            except TransientError as error:
                log.warning("the source is away", action="source", reason=str(error))
            except StaleSource as error:
                log.info("the checkpoint is another one now", action="source", checkpoint=error.checkpoint)
            finally:
                self._progress.lsn = self._progress.commit_time = None
        # What fails behind a connection that works would else be tried hundreds of times a second.
        self._runtime.stop.wait(_PAUSE_SECONDS)

    def _find(self) -> Found:
        connection = connect_source(self._url, f"bargeline-{self._runtime.name}")
        try:
            with translated(self._url, VARIABLE):
                return self._look(connection)
        except BaseException:
            connection.close()
            raise

    def _look(self, connection: Connection) -> Found:
        server = server_facts(connection)
        check_can_decode(server)
        has_lock = lock_slot(connection, self._slot)
        slot = slot_facts(connection, self._slot)
        tables = published_tables(connection, self._publication)
        if slot is None or tables is None:
            missing = f"slot {self._slot}" if slot is None else f"publication {self._publication}"
            raise ConfigurationError(
                f"The source database {server.database} has no {missing}. Make it: `bargeline cdc create`."
            )
        check_slot(slot, server)
        refuse_own(tables, self._publication)
        if not has_lock or slot.active_pid is not None:
            raise TransientError(
                f"Another process reads slot {self._slot} (server process {slot.active_pid}); waiting to take over."
            )
        return Found(connection, server, slot, tables, wal_place(connection)[0])

    def _read(self, found: Found) -> None:
        runtime, server = self._runtime, found.server
        source = runtime.settings.ingest_source_name or f"postgres:{server.database}/{self._slot}"
        # After the slot was looked at: its place is never ahead of the checkpoint, unless something was lost.
        stored = runtime.hold(lambda: stored_checkpoint(runtime.client, source))
        place, gap = self._usable(decode_place(stored), found, source)
        again_from = found.slot.confirmed if gap or self._has_read else None
        self._has_read = True
        if place is None or place.snapshot is not None:
            place = self._first_place(found, source, stored, place, again_from)
            stored = place.encode()
        self._follow(found, source, stored, place)

    def _usable(self, place: Place | None, found: Found, source: str) -> tuple[Place | None, bool]:
        """The place if its changes can still be had, and whether changes are missing."""
        if place is None:
            if self._has_read:
                self._runtime.metrics.incident("checkpoint_lost")
                log.error("Redis lost the checkpoint; reading the tables again", action="source", source=source)
            return None, False
        if place.system != found.server.system:
            raise ConfigurationError(
                f"The checkpoint of {source} belongs to another server (system {place.system}; {VARIABLE} leads to "
                f"{found.server.system}). For a new source set INGEST_SOURCE_NAME."
            )
        confirmed = found.slot.confirmed or 0
        if confirmed <= place.lsn <= found.end:
            return place, False
        self._runtime.metrics.incident("source_gap")
        log.error(
            "changes between the checkpoint and the slot are gone: rows deleted there stay; starting over",
            action="source",
            source=source,
            checkpoint=lsn_text(place.lsn),
            slot=lsn_text(confirmed),
            end=lsn_text(found.end),
        )
        return None, True

    def _first_place(
        self, found: Found, source: str, stored: str, begun: Place | None, again_from: int | None
    ) -> Place:
        runtime = self._runtime
        if runtime.settings.ingest_cdc_snapshot:
            tables = Tables(runtime, self._url, source, found.tables)
            return tables.read(stored, begun, found.server.system, again_from)
        place = Place(found.server.system, found.slot.confirmed or found.end)
        batches = Batches(runtime, source, stored)
        batches.send(place)
        batches.confirm()
        return place

    def _follow(self, found: Found, source: str, stored: str, place: Place) -> None:
        runtime = self._runtime
        stream = ReplicationStream(
            self._url, f"bargeline-{runtime.name}-stream", self._slot, self._publication, place.lsn
        )
        log.info("reading changes", action="source", source=source, lsn=lsn_text(place.lsn))
        changes = Changes(source, lambda oid: key_columns(found.connection, oid))
        with closing(Receiver(stream, place.lsn)) as receiver:
            batches = Batches(runtime, source, stored)
            with translated(self._url, VARIABLE):
                Follower(runtime, receiver, batches, changes, place, self._progress).run()


def refuse_own(tables: list[PublishedTable], publication: str) -> None:
    """Raise ConfigurationError where a publication holds the tables that a fleet writes to for every batch."""
    for schema in {table.schema for table in tables}:
        if {table.name for table in tables if table.schema == schema} >= _OWN_TABLES:
            raise ConfigurationError(
                f"INGEST_CDC_PUBLICATION={publication}: it holds Bargeline's own tables, so every batch that is loaded "
                "would make more events. Name the tables: `bargeline cdc drop`, `bargeline cdc create TABLE…`."
            )
