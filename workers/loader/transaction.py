"""One transaction: load ledger first, then rows, then rollups.

Direct: COPY straight into the table, the fast way for first deliveries. Staged: COPY into a temporary
table and insert what is new; after a violation, and for whatever was delivered before. Rows that
PostgreSQL refuses are found by bisection; their neighbours land.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.database import Connection, RowError, translated
from shared.database import load as statements
from shared.database.load import Claim, DeadRow, Recorded
from shared.events import AnyEvent
from shared.pipeline import PipelineFile, RollupSection, TableSection
from workers.loader import rollups
from workers.loader.rows import Prepared, Row


@dataclass(frozen=True)
class Loader:
    """What every transaction of this process needs to know."""

    url: str
    stream: str
    file: PipelineFile


Placed = tuple[Prepared, Row]
_MESSAGE_LENGTH = 2_000


class _Refused(Exception):
    """A rollup refuses rows that were inserted: they are marked as dead, and all begins anew without them."""


def run(loader: Loader, connection: Connection, batch: Sequence[Prepared], *, staged: bool) -> list[Recorded]:
    """Load the entries of a batch in one transaction; returns the figures of each, in order.

    Entries that were committed before are skipped, and their recorded figures returned. Raises
    RowError (direct only) when the batch has to go the staged way, TransientError to try again.
    """
    while True:
        try:
            return _run(loader, connection, batch, staged=staged)
        except _Refused:
            continue


def _run(loader: Loader, connection: Connection, batch: Sequence[Prepared], *, staged: bool) -> list[Recorded]:
    ordered = sorted(batch, key=lambda one: one.claim.key)
    with translated(loader.url), connection.transaction():
        claims = [one.claim for one in ordered]
        new = statements.claim(connection, loader.stream, claims)
        known = (
            statements.recall(connection, loader.stream, [one for one in claims if one.key not in new])
            if len(new) < len(claims)
            else {}
        )
        fresh = [one for one in ordered if one.claim.key in new]
        inserted = _load_tables(loader, connection, fresh, staged=staged)
        if staged or any(one.dead for one in fresh):
            _record(fresh, inserted)
            statements.correct(connection, loader.stream, [one.claim for one in fresh])
        _roll_up(loader, connection, inserted, staged=staged)
    return [known.get(one.claim.key) or _recorded(one.claim) for one in batch]


def _recorded(claim: Claim) -> Recorded:
    return Recorded(claim.loaded, claim.duplicates, claim.unrouted, list(claim.dead))


def _load_tables(loader: Loader, connection: Connection, fresh: Sequence[Prepared], *, staged: bool) -> list[Placed]:
    """Rows really inserted, of all tables, in the order of the tables' names."""
    inserted: list[Placed] = []
    for table in sorted(loader.file.table, key=lambda one: one.name):
        rows = [(one, row) for one in fresh for row in one.rows.get(table.name, ())]
        if not rows:
            continue
        if staged:
            inserted += _insert_staged(loader, connection, table, rows)
        else:
            statements.copy_direct(connection, table.name, tuple(table.columns), [row.line for _, row in rows])
            inserted += rows
    return inserted


def _insert_staged(loader: Loader, connection: Connection, table: TableSection, rows: Sequence[Placed]) -> list[Placed]:
    """Insert what is new; halve a part that PostgreSQL refuses until the bad row stands alone."""
    try:
        with translated(loader.url), connection.transaction():
            ids = statements.copy_staged(
                connection,
                table.name,
                tuple(table.columns),
                table.id_column if table.mode == "insert" else None,
                [row.line for _, row in rows],
            )
    except RowError as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            return _insert_staged(loader, connection, table, rows[:middle]) + _insert_staged(
                loader, connection, table, rows[middle:]
            )
        _bury(rows[0], error)
        return []
    return list(rows) if ids is None else _first_of_each(rows, ids)


def _bury(placed: Placed, error: RowError) -> None:
    """Mark a row as dead and leave it out from now on."""
    prepared, row = placed
    # PostgreSQL's text quotes the value whole, however long it is.
    message = str(error)[:_MESSAGE_LENGTH].replace("\0", "\\0")
    prepared.dead.append(DeadRow(row.index, "bad_row", f"{message} (SQLSTATE {error.sqlstate})"))
    for table, rows in prepared.rows.items():
        prepared.rows[table] = [one for one in rows if one is not row]


def _first_of_each(rows: Sequence[Placed], ids: set[str]) -> list[Placed]:
    """The rows whose ids were inserted; of two rows with one id, the first."""
    left = set(ids)
    found = []
    for prepared, row in rows:
        event_id = _canonical(row.event)
        if event_id in left:
            left.remove(event_id)
            found.append((prepared, row))
    return found


def _canonical(event: AnyEvent) -> str:
    """The id as PostgreSQL writes a uuid; an id that is none stays as it is."""
    try:
        return str(UUID(event.id))
    except ValueError:
        return event.id


def _record(fresh: Sequence[Prepared], inserted: Sequence[Placed]) -> None:
    loaded = dict.fromkeys((one.claim.entry_id for one in fresh), 0)
    for prepared, _ in inserted:
        loaded[prepared.claim.entry_id] += 1
    for one in fresh:
        claim = one.claim
        claim.loaded = loaded[claim.entry_id]
        claim.dead = one.dead
        claim.duplicates = claim.events - claim.loaded - claim.unrouted - len(one.dead)


def _roll_up(loader: Loader, connection: Connection, inserted: Sequence[Placed], *, staged: bool) -> None:
    for rollup in sorted(loader.file.rollup, key=lambda one: one.table):
        if not staged:
            _add_to_rollup(connection, rollup, [row.event for _, row in inserted])
        elif not _add_all_or_bury(loader, connection, rollup, inserted):
            raise _Refused


def _add_all_or_bury(loader: Loader, connection: Connection, rollup: RollupSection, rows: Sequence[Placed]) -> bool:
    """Add rows to a rollup; when PostgreSQL refuses, halve them until each that it refuses is marked as dead."""
    try:
        with translated(loader.url), connection.transaction():
            _add_to_rollup(connection, rollup, [row.event for _, row in rows])
    except RowError as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            first = _add_all_or_bury(loader, connection, rollup, rows[:middle])
            return _add_all_or_bury(loader, connection, rollup, rows[middle:]) and first
        _bury(rows[0], error)
        return False
    return True


def _add_to_rollup(connection: Connection, rollup: RollupSection, events: Sequence[AnyEvent]) -> None:
    rows = [row.values for row in rollups.deltas(rollup, events)]
    if rows:
        statements.add_to_rollup(connection, rollup.table, rollup.by, tuple(rollup.aggregates), rows)
