"""Slots and publications of a source database: what there is, making them, dropping them.

Errors of the server are psycopg's: call these functions within ``translated(url, VARIABLE)``.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from shared.database.connection import Connection, connect
from shared.database.replication import SESSION, VARIABLE, quoted_name
from shared.errors import ConfigurationError, Refused

# On Amazon RDS membership in a role stands for the attribute.
SERVER = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,
       current_setting('wal_level'), current_user::text,
       (SELECT bool_or(rolreplication OR rolsuper OR rolname = 'rds_replication') FROM pg_roles
        WHERE rolname = current_user OR (rolname = 'rds_replication' AND pg_has_role(current_user, oid, 'MEMBER'))),
       current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_replication_slots)
"""
WAL_PLACE = """
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0')::int8,
       extract(epoch FROM clock_timestamp())::float8
"""
SLOT = """
SELECT slot_name::text, coalesce(plugin::text, ''), coalesce(database::text, ''), active_pid,
       coalesce(wal_status, 'lost'), (confirmed_flush_lsn - '0/0')::int8,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::int8,
       safe_wal_size::int8
FROM pg_replication_slots WHERE slot_name = %(slot)s
"""
PUBLICATION = "SELECT puballtables FROM pg_publication WHERE pubname = %(publication)s"
# PostgreSQL 14 knows neither lists of columns nor filters of rows; before 18 no generated column is published, though
# 15 lists them.
TABLES = """
SELECT n.nspname::text, c.relname::text, c.oid::int8, c.relkind::text, c.relreplident::text,
       to_jsonb(p) ->> 'rowfilter', columns.names, columns.types, coalesce(keys.names, '{}')
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
           coalesce(array_agg(a.atttypid::int8 ORDER BY a.attnum), '{}') AS types
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)
      AND (NOT to_jsonb(p) ? 'attnames' OR to_jsonb(p) -> 'attnames' ? a.attname::text)
) columns
CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum = ANY ((
        SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i
        WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
        ORDER BY i.indisprimary DESC LIMIT 1)::int2[])
) keys
WHERE p.pubname = %(publication)s
ORDER BY n.nspname, c.relname
"""
KEY = """
SELECT a.attname::text FROM pg_attribute a
WHERE a.attrelid = %(oid)s::int8::oid AND a.attnum = ANY ((
    SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i
    WHERE i.indrelid = %(oid)s::int8::oid AND (i.indisprimary OR i.indisreplident)
    ORDER BY i.indisprimary DESC LIMIT 1)::int2[])
ORDER BY a.attnum
"""
CREATE_SLOT = "SELECT pg_create_logical_replication_slot(%(slot)s, 'pgoutput')"
DROP_SLOT = "SELECT pg_drop_replication_slot(%(slot)s)"
LOCK = "SELECT pg_try_advisory_lock(%(number)s)"


class ServerFacts(msgspec.Struct, frozen=True):
    """The source server and this role."""

    system: str
    database: str
    wal_level: str
    user: str
    may_replicate: bool
    most_slots: int
    slots: int


class SlotFacts(msgspec.Struct, frozen=True):
    """A replication slot; ``confirmed`` is the place in the WAL before which it has forgotten everything.

    ``retained_bytes`` of WAL are kept for it; ``safe_bytes`` more may be written before it is in danger, None where
    the server sets no limit. ``wal_status`` is reserved, extended, unreserved or lost.
    """

    name: str
    plugin: str
    database: str
    active_pid: int | None
    wal_status: str
    confirmed: int | None
    retained_bytes: int | None
    safe_bytes: int | None


class PublishedTable(msgspec.Struct, frozen=True):
    """A table of a publication, with the columns and rows of it that are published.

    ``kind`` is that of pg_class: r(elation) or p(artitioned). ``identity`` is the replica identity, ``key`` the
    columns of the primary key, or else of the index that is the replica identity, in the order of the table.
    """

    schema: str
    name: str
    oid: int
    kind: str
    identity: str
    row_filter: str | None
    columns: list[str]
    types: list[int]
    key: list[str]

    @property
    def full_name(self) -> str:
        """Schema and name, quoted."""
        return f"{quoted_name(self.schema)}.{quoted_name(self.name)}"

    @property
    def readable_name(self) -> str:
        """Name, with the schema before it where that is not public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def changes_refused(self) -> bool:
        """Whether the server refuses updates and deletes of it: nothing would tell which row they are about."""
        return self.identity == "n" or (self.identity == "d" and not self.key)


def connect_source(url: str, name: str) -> Connection:
    """An ordinary connection to the source database. Raises like ``connect``."""
    return connect(url, name, VARIABLE, SESSION, client_encoding="UTF8")


def server_facts(connection: Connection) -> ServerFacts:
    """Ask the server about itself."""
    return ServerFacts(*_rows(connection, SERVER)[0])


def wal_place(connection: Connection) -> tuple[int, float]:
    """Where the WAL ends now, and the server's clock in seconds since 1970."""
    place, clock = _rows(connection, WAL_PLACE)[0]
    return int(place), float(clock)


def slot_facts(connection: Connection, slot: str) -> SlotFacts | None:
    """The slot, or None where there is none."""
    rows = _rows(connection, SLOT, slot=slot)
    return SlotFacts(*rows[0]) if rows else None


def published_tables(connection: Connection, publication: str) -> list[PublishedTable] | None:
    """The tables of a publication by name, or None where there is no such publication."""
    if not _rows(connection, PUBLICATION, publication=publication):
        return None
    return [PublishedTable(*row) for row in _rows(connection, TABLES, publication=publication)]


def key_columns(connection: Connection, oid: int) -> list[str]:
    """Columns of the key that a table has now, like those of PublishedTable."""
    return [name for (name,) in _rows(connection, KEY, oid=oid)]


def lock_slot(connection: Connection, slot: str) -> bool:
    """Whether this connection is now the one that reads snapshots for a slot; it is until it ends."""
    digest = hashlib.blake2b(f"bargeline cdc {slot}".encode(), digest_size=8).digest()
    return bool(_rows(connection, LOCK, number=int.from_bytes(digest, "big", signed=True))[0][0])


def check_can_decode(facts: ServerFacts) -> None:
    """Raise ConfigurationError where this server, or this role, cannot read changes."""
    if facts.wal_level != "logical":
        raise ConfigurationError(
            f"The source server's wal_level is {facts.wal_level}; changes need wal_level = logical. "
            "Set it (ALTER SYSTEM SET wal_level = logical) and restart that server."
        )
    if not facts.may_replicate:
        raise ConfigurationError(
            f"Role {facts.user} of {VARIABLE} may not read changes. Grant it: ALTER ROLE {facts.user} REPLICATION."
        )


def check_slot(slot: SlotFacts, facts: ServerFacts) -> None:
    """Raise ConfigurationError where the slot is none of ours, or cannot be read any more."""
    if slot.plugin != "pgoutput" or slot.database != facts.database:
        raise ConfigurationError(
            f"INGEST_CDC_SLOT={slot.name}: there is a slot of this name for {slot.plugin or 'physical replication'} in "
            f"database {slot.database or '(all)'}. Choose another name."
        )
    if slot.wal_status == "lost":
        raise ConfigurationError(
            f"INGEST_CDC_SLOT={slot.name}: the server has removed changes that this slot needed "
            "(max_slot_wal_keep_size). Start over: `bargeline cdc drop`, `bargeline cdc create`; the tables are then "
            "read anew."
        )


def create_publication(connection: Connection, publication: str, tables: Sequence[str]) -> str | None:
    """Make a publication of these tables (as SQL writes them), of all if none is named, or add those that it lacks.

    Returns what was done, None where it was so already. Raises ConfigurationError.
    """
    name = quoted_name(publication)
    existing = _rows(connection, PUBLICATION, publication=publication)
    wanted = dict(_resolve(connection, table) for table in tables)
    if not existing:
        what = f"TABLE {', '.join(wanted.values())}" if wanted else "ALL TABLES"
        # Changes of partitions then carry the name of the table that they are part of.
        _run(connection, f"CREATE PUBLICATION {name} FOR {what} WITH (publish_via_partition_root = true)")
        return f"created publication {publication} for {what.lower() if not wanted else ', '.join(tables)}"
    of_all = bool(existing[0][0])
    if not tables and not of_all:
        raise ConfigurationError(
            f"Publication {publication} is there, for some tables only. Name tables to add to it, or drop it first "
            "(`bargeline cdc drop`)."
        )
    has = {one.oid for one in published_tables(connection, publication) or ()}
    missing = {oid: quoted for oid, quoted in wanted.items() if oid not in has}
    if of_all or not missing:
        return None
    _run(connection, f"ALTER PUBLICATION {name} ADD TABLE {', '.join(missing.values())}")
    return f"added {', '.join(missing.values())} to publication {publication}"


def create_slot(connection: Connection, slot: str) -> bool:
    """Make a slot, once the transactions that are open have ended; False where it was there already.

    Raises ConfigurationError.
    """
    facts = server_facts(connection)
    check_can_decode(facts)
    existing = slot_facts(connection, slot)
    if existing is not None:
        check_slot(existing, facts)
        return False
    if facts.slots >= facts.most_slots:
        raise ConfigurationError(
            f"The source server has {facts.slots} replication slots and may have no more. Drop one that nobody reads "
            "(pg_replication_slots lists them), or raise max_replication_slots and restart that server."
        )
    _run(connection, "SET lock_timeout = 0")
    _rows(connection, CREATE_SLOT, slot=slot)
    return True


def drop_slot(connection: Connection, slot: str) -> bool:
    """Drop a slot; False where there was none. Raises Refused while somebody reads it."""
    existing = slot_facts(connection, slot)
    if existing is None:
        return False
    if existing.active_pid is not None:
        raise Refused(f"Slot {slot} is being read (server process {existing.active_pid}). Stop that reader first.")
    _rows(connection, DROP_SLOT, slot=slot)
    return True


def drop_publication(connection: Connection, publication: str) -> bool:
    """Drop a publication; False where there was none."""
    if not _rows(connection, PUBLICATION, publication=publication):
        return False
    _run(connection, f"DROP PUBLICATION {quoted_name(publication)}")
    return True


def _resolve(connection: Connection, table: str) -> tuple[int, str]:
    found = _rows(connection, "SELECT to_regclass(%(table)s)::oid::int8, to_regclass(%(table)s)::text", table=table)[0]
    if found[0] is None:
        raise ConfigurationError(f"There is no table {table} in the source database.")
    return int(found[0]), str(found[1])


def _rows(connection: Connection, statement: str, **parameters: Any) -> list[Any]:
    return connection.execute(statement.encode(), parameters or None).fetchall()


def _run(connection: Connection, statement: str) -> None:
    connection.execute(statement.encode())
