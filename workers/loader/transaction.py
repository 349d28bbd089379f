"""One transaction: load ledger first, then rows, then rollups.

Direct: COPY straight into the table, the fast way for first deliveries. Staged: COPY into a temporary
table and insert what is new; after a violation, and for whatever was delivered before. Rows that
PostgreSQL refuses are found by bisection; their neighbours land.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from uuid import UUID

from shared.database import Connection, RowError, translated
from shared.database import load as statements
from shared.database.load import Claim, DeadRow, Recorded
from shared.pipeline import PipelineFile, TableSection
from workers.loader.clean import CleanEvent
from workers.loader.rollups import Rollup
from workers.loader.rows import Prepared, Row


@dataclass(frozen=True)
class Loader:
    """What every transaction of this process needs to know."""

    url: str
    stream: str
    file: PipelineFile
    rollups: Sequence[Rollup]
    types: Mapping[str, Mapping[str, str]]


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
        if staged:
            _load_staged(loader, connection, fresh)
        else:
            _load_direct(loader, connection, fresh)
    return [known.get(one.claim.key) or _recorded(one.claim) for one in batch]


def _recorded(claim: Claim) -> Recorded:
    return Recorded(claim.loaded, claim.duplicates, claim.unrouted, list(claim.dead))


def _load_direct(loader: Loader, connection: Connection, fresh: Sequence[Prepared]) -> None:
    """All rows straight into their tables, in the order of the tables' names: either all are new, or none land."""
    for table in _tables(loader):
        rows = [one.rows[table.name].copy for one in fresh if table.name in one.rows]
        if rows:
            statements.copy_direct(connection, table.name, tuple(table.columns), rows)
    if any(one.dead for one in fresh):
        statements.correct(connection, loader.stream, [one.claim for one in fresh])
    loaded = [rows for one in fresh for rows in one.rows.values()]
    events = list(chain.from_iterable(rows.events for rows in loaded))
    data = list(chain.from_iterable(rows.data for rows in loaded))
    for rollup in loader.rollups:
        _add_to_rollup(loader, connection, rollup, events, data)


def _load_staged(loader: Loader, connection: Connection, fresh: Sequence[Prepared]) -> None:
    """What is new, by way of temporary tables; rows that PostgreSQL refuses are marked as dead."""
    inserted: list[Placed] = []
    for table in _tables(loader):
        rows = [(one, row) for one in fresh for row in one.rows.get(table.name, ())]
        if rows:
            inserted += _insert_staged(loader, connection, table, rows)
    _record(fresh, inserted)
    statements.correct(connection, loader.stream, [one.claim for one in fresh])
    for rollup in loader.rollups:
        if not _add_all_or_bury(loader, connection, rollup, inserted):
            raise _Refused


def _tables(loader: Loader) -> list[TableSection]:
    return sorted(loader.file.table, key=lambda one: one.name)


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
    prepared.dead.append(DeadRow(row.place, "bad_row", f"{message} (SQLSTATE {error.sqlstate})"))
    for table, rows in prepared.rows.items():
        prepared.rows[table] = rows.without(row.place)


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


def _canonical(event: CleanEvent) -> str:
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


def _add_all_or_bury(loader: Loader, connection: Connection, rollup: Rollup, rows: Sequence[Placed]) -> bool:
    """Add rows to a rollup; when PostgreSQL refuses, halve them until each that it refuses is marked as dead."""
    try:
        with translated(loader.url), connection.transaction():
            _add_to_rollup(loader, connection, rollup, [row.event for _, row in rows], [row.data for _, row in rows])
    except RowError as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            first = _add_all_or_bury(loader, connection, rollup, rows[:middle])
            return _add_all_or_bury(loader, connection, rollup, rows[middle:]) and first
        _bury(rows[0], error)
        return False
    return True


def _add_to_rollup(
    loader: Loader, connection: Connection, rollup: Rollup, events: Sequence[CleanEvent], data: Sequence[Any]
) -> None:
    rows = [(row.window_start, *row.keys, *row.deltas) for row in rollup.deltas(events, data)]
    if rows:
        table, key = rollup.section.table, ("window_start", *rollup.section.by)
        types = {name: loader.types[table][name] for name in (*key, *rollup.section.aggregates)}
        statements.add_to_rollup(connection, table, types, key, rows)
