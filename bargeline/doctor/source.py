"""The source database of INGEST_SOURCE=cdc: whether its changes can be read, and what its slot holds back."""

from contextlib import closing
from dataclasses import dataclass

from bargeline.doctor.report import Finding, Verdict
from shared.database import translated
from shared.database.replication import VARIABLE
from shared.database.replication_slots import (
    PublishedTable,
    ServerFacts,
    SlotFacts,
    connect_source,
    published_tables,
    server_facts,
    slot_facts,
)

#: So much WAL is no burst any more that a reader is about to catch up with.
RETAINED_BYTES_HIGH = 2**30


@dataclass(frozen=True)
class CdcSource:
    """A source database, and the names of what is read there."""

    url: str
    slot: str
    publication: str


@dataclass(frozen=True)
class SourceFacts:
    """What was found there; None where there is no such slot or publication."""

    names: CdcSource
    server: ServerFacts
    slot: SlotFacts | None
    tables: list[PublishedTable] | None


def read_source(names: CdcSource) -> SourceFacts:
    """Ask the source database. Raises like ``connect``."""
    with closing(connect_source(names.url, "bargeline-doctor")) as connection, translated(names.url, VARIABLE):
        slot = slot_facts(connection, names.slot)
        tables = published_tables(connection, names.publication)
        return SourceFacts(names, server_facts(connection), slot, tables)


def decoding(facts: SourceFacts) -> Verdict:
    """Whether the server decodes changes, and lets this role read them."""
    server, found = facts.server, []
    if server.wal_level != "logical":
        found.append(
            Finding(
                "cdc_wal_level",
                "error",
                f"The source's wal_level is {server.wal_level}.",
                "Its WAL holds too little to tell changes of rows from; ingest ends with exit code 2.",
                "ALTER SYSTEM SET wal_level = logical, and restart that server.",
                {"wal_level": server.wal_level},
            )
        )
    if not server.may_replicate:
        found.append(
            Finding(
                "cdc_no_right",
                "error",
                f"Role {server.user} of the source may not read changes.",
                "Ingest ends with exit code 2.",
                f"ALTER ROLE {server.user} REPLICATION.",
            )
        )
    return Verdict(f"wal_level logical, {server.user} may read changes", found)


def publication(facts: SourceFacts) -> Verdict:
    """Whether the publication is there, and its tables can be updated."""
    name = facts.names.publication
    if facts.tables is None:
        return Verdict("", [_missing("publication", name)])
    found = [
        Finding(
            "cdc_no_identity",
            "warning",
            f"Table {table.readable_name} of the source is published and has no primary key.",
            "The source refuses to update and delete its rows: nothing would tell which row is meant.",
            f"Give it a primary key, or ALTER TABLE {table.full_name} REPLICA IDENTITY FULL.",
        )
        for table in facts.tables
        if table.changes_refused
    ]
    return Verdict(f"{name}, {len(facts.tables)} tables", found)


def slot(facts: SourceFacts) -> Verdict:
    """Whether the slot is there and read, and how much WAL it holds back."""
    one = facts.slot
    if one is None:
        return Verdict("", [_missing("slot", facts.names.slot)])
    retained = one.retained_bytes or 0
    good = f"{one.name} is read, {retained / 2**20:,.0f} MiB of WAL kept for it"
    return Verdict(good, [finding for finding in (_danger(one), _inactive(one), _growth(one)) if finding is not None])


def _missing(what: str, name: str) -> Finding:
    return Finding(
        f"cdc_no_{what}",
        "error",
        f"The source has no {what} {name}.",
        "Ingest ends with exit code 2.",
        "`bargeline cdc create` makes it.",
    )


def _danger(one: SlotFacts) -> Finding | None:
    if one.wal_status == "lost":
        return Finding(
            "cdc_slot_lost",
            "error",
            f"The source has removed WAL that slot {one.name} needed.",
            "Changes are lost; ingest ends with exit code 2.",
            "Start over: `bargeline cdc drop`, `bargeline cdc create`. The tables are then read anew; rows that were "
            "deleted meanwhile stay in yours.",
        )
    if one.wal_status == "unreserved":
        return Finding(
            "cdc_slot_unreserved",
            "error",
            f"The source removes WAL that slot {one.name} needs at its next checkpoint.",
            "Changes are then lost, and all tables have to be read anew.",
            "Let ingest catch up now, or raise max_slot_wal_keep_size there.",
            {"retained_bytes": one.retained_bytes},
        )
    return None


def _inactive(one: SlotFacts) -> Finding | None:
    if one.active_pid is not None or one.wal_status == "lost":
        return None
    return Finding(
        "cdc_slot_inactive",
        "warning",
        f"Nobody reads slot {one.name}.",
        "The source keeps all WAL from here on, until its disk is full or max_slot_wal_keep_size is reached.",
        "Start an ingest worker with INGEST_SOURCE=cdc, or `bargeline cdc drop`.",
        {"retained_bytes": one.retained_bytes},
    )


def _growth(one: SlotFacts) -> Finding | None:
    if one.retained_bytes is None or one.retained_bytes < RETAINED_BYTES_HIGH:
        return None
    return Finding(
        "cdc_slot_growth",
        "warning",
        f"The source keeps {one.retained_bytes / 2**30:,.1f} GiB of WAL for slot {one.name}.",
        "It grows until its disk is full, or max_slot_wal_keep_size is reached and changes are lost.",
        "See whether ingest waits (`bargeline status`), and look there for a transaction that has been open for long: "
        "a slot keeps WAL from its beginning on.",
        {"retained_bytes": one.retained_bytes, "safe_bytes": one.safe_bytes},
    )
