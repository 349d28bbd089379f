"""One transaction: load ledger first, then rows, then rollups.

Direct: COPY straight into the table, the fast way for first deliveries. Staged: COPY into a temporary
table and insert what is new; after a violation, and for whatever was delivered before. Rows that
PostgreSQL refuses are found by bisection; their neighbours land.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any
from uuid import UUID

from shared.database import Connection, RowError, at_once, translated
from shared.database import load as statements
from shared.database.at_once import Target
from shared.database.load import Claim, DeadRow, Recorded
from shared.entries import Entry
from shared.pipeline import PipelineFile, TableSection
from workers.loader.clean import CleanEvent
from workers.loader.rollups import Counts, Rollup
from workers.loader.rows import Prepared, Row, copy_order


@dataclass(frozen=True)
class Loader:
    """What every transaction of this process needs to know."""

    url: str
    stream: str
    file: PipelineFile
    rollups: Sequence[Rollup]
    types: Mapping[str, Mapping[str, str]]

    @cached_property
    def at_once(self) -> bytes | None:
        """The statement for small transactions; None where a line may be empty, which is no line there."""
        if any(len(table.columns) == 1 for table in self.file.table):
            return None
        tables = [self._target(table.name, copy_order(table)) for table in _tables(self)]
        rollups = [
            self._target(section.table, section.aggregates, ("window_start", *section.by))
            for section in (rollup.section for rollup in self.rollups)
        ]
        return at_once.statement(tables, rollups)

    def _target(self, table: str, columns: Iterable[str], key: tuple[str, ...] = ()) -> Target:
        return Target(table, {name: self.types[table][name] for name in (*key, *columns)}, key)


Placed = tuple[Prepared, Row]
Prepare = Callable[[Entry], Prepared]
Claimed = tuple[Claim, Entry]
_MESSAGE_LENGTH = 2_000
#: What has so few events goes as one statement: 250 took as long with COPY, 100 a third less.
_AT_ONCE_EVENTS = 200


class _Refused(Exception):
    """A rollup refuses rows that were inserted: they are marked as dead, and all begins anew without them."""


def run(
    loader: Loader, connection: Connection, entries: Sequence[Entry], prepare: Prepare, *, staged: bool
) -> list[Recorded]:
    """Load entries in one transaction; returns the figures of each, in order.

    Entries that were committed before are skipped, and their recorded figures returned. Raises
    RowError (direct only) when they have to go the staged way, TransientError to try again.
    """
    made: dict[str, Prepared] = {}

    def once(entry: Entry) -> Prepared:
        # What an attempt finds out is known in the next.
        if entry.id not in made:
            made[entry.id] = prepare(entry)
        return made[entry.id]

    small = sum(entry.events for entry in entries) <= _AT_ONCE_EVENTS
    if small and not staged and (figures := _run_at_once(loader, connection, entries, once)) is not None:
        return figures
    while True:
        try:
            return _run(loader, connection, entries, once if staged or small else prepare, staged=staged)
        except _Refused:
            continue


def _run(
    loader: Loader, connection: Connection, entries: Sequence[Entry], prepare: Prepare, *, staged: bool
) -> list[Recorded]:
    by_key = {statements.entry_key(entry.id): entry for entry in entries}
    claims = {key: _claim(by_key[key]) for key in sorted(by_key)}
    with translated(loader.url), connection.transaction():
        new = statements.claim(connection, loader.stream, list(claims.values()))
        old = [claim for key, claim in claims.items() if key not in new]
        known = statements.recall(connection, loader.stream, old) if old else {}
        fresh = [(claim, by_key[key]) for key, claim in claims.items() if key in new]
        if fresh:
            (_load_staged if staged else _load_direct)(loader, connection, fresh, prepare)
        special = [claim for claim, _ in fresh if claim.loaded != claim.events]
        if special:
            statements.correct(connection, loader.stream, special)
    return [known.get(key) or _recorded(claims[key]) for key in by_key]


def _run_at_once(
    loader: Loader, connection: Connection, entries: Sequence[Entry], prepare: Prepare
) -> list[Recorded] | None:
    """Load entries by one statement; None, and nothing has happened, when something in them is in its way."""
    batch = [prepare(entry) for entry in entries]
    lines = [
        _unescaped([rows.copy for one in batch if (rows := one.rows.get(table.name))]) for table in _tables(loader)
    ]
    if loader.at_once is None or None in lines:
        return None
    claims = [_claim(entry) for entry in entries]
    for claim, prepared in zip(claims, batch, strict=True):
        _note(claim, prepared, sum(map(len, prepared.rows.values())))
    counts = [of_all for one in batch for rows in one.rows.values() for of_all in rows.counts]
    deltas = [_rollup_rows(rollup, [of_all[place] for of_all in counts]) for place, rollup in enumerate(loader.rollups)]
    in_order = sorted(claims, key=attrgetter("key"))
    try:
        with translated(loader.url):
            at_once.load(connection, loader.at_once, loader.stream, at_once.Batch(in_order, lines, deltas))
    except RowError:
        return None
    return [_recorded(claim) for claim in claims]


def _unescaped(pieces: Sequence[bytes]) -> str | None:
    """Lines of COPY's text format as ``at_once`` takes them; None where an escape stands for more than itself."""
    text = b"".join(pieces).decode().removesuffix("\n")
    if at_once.NULL in text or "\0" in text:
        return None
    text = text.replace("\\\\", "\0").replace("\\N", at_once.NULL)
    return None if "\\" in text else text.replace("\0", "\\")


def _claim(entry: Entry) -> Claim:
    digest = hashlib.blake2b(entry.fields.get(b"d") or repr(entry.fields).encode(), digest_size=16).digest()
    return Claim(entry.id, digest, entry.events, entry.events)


def _note(claim: Claim, prepared: Prepared, loaded: int) -> None:
    claim.loaded, claim.unrouted, claim.dead = loaded, prepared.unrouted, prepared.dead
    claim.duplicates = claim.events - loaded - prepared.unrouted - len(prepared.dead)


def _recorded(claim: Claim) -> Recorded:
    return Recorded(claim.loaded, claim.duplicates, claim.unrouted, list(claim.dead))


def _load_direct(loader: Loader, connection: Connection, fresh: Sequence[Claimed], prepare: Prepare) -> None:
    """All rows straight into their tables, in the order of the tables' names: either all are new, or none land.

    PostgreSQL takes the rows of one entry in while the next is prepared; nothing of an entry but its counts is kept,
    so that the next finds the processor's cache as it left it.
    """
    first, *others = _tables(loader)
    held: dict[str, list[bytes]] = {table.name: [] for table in others}
    counts: list[list[Counts]] = []
    with statements.copying(connection, first.name, copy_order(first)) as write:
        for claim, entry in fresh:
            prepared = prepare(entry)
            for name, rows in prepared.rows.items():
                (write if name == first.name else held[name].append)(rows.copy)
                counts += rows.counts
            _note(claim, prepared, sum(map(len, prepared.rows.values())))
    for table in others:
        if held[table.name]:
            with statements.copying(connection, table.name, copy_order(table)) as write:
                for lines in held[table.name]:
                    write(lines)
    for place, rollup in enumerate(loader.rollups):
        _add_to_rollup(loader, connection, rollup, [of_all[place] for of_all in counts])


def _load_staged(loader: Loader, connection: Connection, fresh: Sequence[Claimed], prepare: Prepare) -> None:
    """What is new, by way of temporary tables; rows that PostgreSQL refuses are marked as dead."""
    inserted: list[Placed] = []
    batch = [prepare(entry) for _, entry in fresh]
    for table in _tables(loader):
        rows = [(one, row) for one in batch for row in one.rows.get(table.name, ())]
        if rows:
            inserted += _insert_staged(loader, connection, table, rows)
    loaded = Counter(prepared.entry.id for prepared, _ in inserted)
    for (claim, entry), prepared in zip(fresh, batch, strict=True):
        _note(claim, prepared, loaded[entry.id])
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
                copy_order(table),
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


def _add_all_or_bury(loader: Loader, connection: Connection, rollup: Rollup, rows: Sequence[Placed]) -> bool:
    """Add rows to a rollup; when PostgreSQL refuses, halve them until each that it refuses is marked as dead."""
    try:
        with translated(loader.url), connection.transaction():
            counts = rollup.count([row.event for _, row in rows], [row.data for _, row in rows])
            _add_to_rollup(loader, connection, rollup, [counts])
    except RowError as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            first = _add_all_or_bury(loader, connection, rollup, rows[:middle])
            return _add_all_or_bury(loader, connection, rollup, rows[middle:]) and first
        _bury(rows[0], error)
        return False
    return True


def _add_to_rollup(loader: Loader, connection: Connection, rollup: Rollup, counts: Sequence[Counts]) -> None:
    rows = _rollup_rows(rollup, counts)
    if rows:
        table, key = rollup.section.table, ("window_start", *rollup.section.by)
        types = {name: loader.types[table][name] for name in (*key, *rollup.section.aggregates)}
        statements.add_to_rollup(connection, table, types, key, rows)


def _rollup_rows(rollup: Rollup, counts: Sequence[Counts]) -> list[tuple[Any, ...]]:
    return [(row.window_start, *row.keys, *row.deltas) for row in rollup.deltas(counts)]
