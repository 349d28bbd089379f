"""One transaction: load ledger first, then rows, then rollups.

Direct: COPY straight into the table, binary where that can be, the fast way for first deliveries. Staged:
COPY into a temporary table and insert what is new; after a violation, and for whatever was delivered before. Rows that
PostgreSQL refuses are found by bisection; their neighbours land.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from shared.database import Connection, RowError, at_once, translated
from shared.database import load as statements
from shared.database.load import Claim, DeadRow, Recorded
from shared.database.rollups import Average, Combine, RollupTable, State, add_to_rollup
from shared.database.upsert import UpsertTable, upsert
from shared.entries import Entry
from shared.pipeline import PipelineFile, RollupSection, TableSection
from workers.loader.clean import CleanEvent
from workers.loader.columns import copy_order
from workers.loader.rollups import Counts, Rollup
from workers.loader.rows import Prepared, Row


@dataclass(frozen=True)
class Loader:
    """What every transaction of this process needs to know."""

    url: str
    stream: str
    file: PipelineFile
    rollups: Sequence[Rollup]
    types: Mapping[str, Mapping[str, str]]
    #: Tables whose rows can be binary.
    binary: AbstractSet[str] = frozenset()

    @cached_property
    def at_once(self) -> bytes | None:
        """The statement for small transactions.

        None for what it is not made for: a table of one column, whose line may be empty and is no line then, and
        upserts.
        """
        if any(len(table.columns) == 1 or table.mode == "upsert" for table in self.file.table):
            return None
        tables = [
            at_once.Target(table.name, {name: self.types[table.name][name] for name in self.columns[table.name]})
            for table in self.tables
        ]
        return at_once.statement([*tables, *self.rollup_tables])

    @cached_property
    def tables(self) -> list[TableSection]:
        """In the order in which they are written."""
        return sorted(self.file.table, key=lambda one: one.name)

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Names of a table's columns, in the order of its rows' cells."""
        return {table.name: copy_order(table) for table in self.file.table}

    @cached_property
    def upserts(self) -> dict[str, UpsertTable]:
        """The tables in which the newest event wins, by name."""
        return {
            table.name: UpsertTable(table.name, self.columns[table.name], table.key, table.time_column, table.id_column)
            for table in self.tables
            if table.mode == "upsert" and table.time_column is not None
        }

    @cached_property
    def rollup_tables(self) -> list[RollupTable]:
        """The tables of the rollups, in their order."""
        return [self._rollup_table(rollup.section) for rollup in self.rollups]

    def _rollup_table(self, section: RollupSection) -> RollupTable:
        types = self.types[section.table]
        return RollupTable(
            section.table,
            tuple((name, types[name]) for name in ("window_start", *section.by)),
            tuple(State(kept.column, types[kept.column], _COMBINED[kept.function]) for kept in section.kept),
            tuple(Average(name, *parts) for name, parts in section.averages.items()),
        )


Placed = tuple[Prepared, Row]
Prepare = Callable[[Entry], Prepared]


class AnyPrepare(Protocol):
    """Makes the rows of an entry; binary, if that is asked for, where they can be."""

    def __call__(self, entry: Entry, *, binary: bool = False) -> Prepared:
        """Rows, unrouted events and dead ones."""


Claimed = tuple[Claim, Entry]
_MESSAGE_LENGTH = 2_000
_COMBINED: dict[str, Combine] = {"count": "add", "sum": "add", "min": "least", "max": "greatest"}
#: What has so few events goes as one statement: 250 took as long with COPY, 100 a third less.
_AT_ONCE_EVENTS = 200
_AT_ONCE_BYTES = 262_144


class ColumnsChanged(Exception):
    """A table has other columns than the loader knows: its binary rows may mean something else. Nothing landed."""


class _Refused(Exception):
    """A rollup refuses rows that were inserted: they are marked as dead, and all begins anew without them."""


def run(
    loader: Loader, connection: Connection, entries: Sequence[Entry], prepare: AnyPrepare, *, staged: bool
) -> list[Recorded]:
    """Load entries in one transaction; returns the figures of each, in order.

    Entries that were committed before are skipped, and their recorded figures returned. Raises
    RowError (direct only) when they have to go the staged way, ColumnsChanged when the tables have to be looked at
    again, TransientError to try again.
    """
    made: dict[str, Prepared] = {}

    def once(entry: Entry) -> Prepared:
        # What an attempt finds out is known in the next.
        if entry.id not in made:
            made[entry.id] = prepare(entry)
        return made[entry.id]

    def binary(entry: Entry) -> Prepared:
        # Nothing but passed on: what an attempt finds out ends it.
        return prepare(entry, binary=True)

    small = sum(entry.events for entry in entries) <= _AT_ONCE_EVENTS
    if small and not staged and (figures := _run_at_once(loader, connection, entries, once)) is not None:
        return figures
    while True:
        try:
            return _run(loader, connection, entries, once if staged or small else binary, staged=staged)
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
    if loader.at_once is None:
        return None
    batch = [prepare(entry) for entry in entries]
    pieces = [[rows.copy for one in batch if (rows := one.rows.get(table.name))] for table in loader.tables]
    lines = [text for some in pieces if (text := _unescaped(b"".join(some))) is not None]
    if len(lines) < len(pieces):
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


def _unescaped(copy: bytes) -> str | None:
    """Lines of COPY's text format as ``at_once`` takes them; None where an escape stands for more than itself."""
    text = copy.decode().removesuffix("\n")
    if len(text) > _AT_ONCE_BYTES or at_once.NULL in text or "\0" in text:
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
    first = loader.tables[0]
    written = _Form(first.name, first.name in loader.binary)
    held: dict[_Form, list[tuple[Claim, bytes]]] = {}
    counts: list[list[Counts]] = []
    with _writing(loader, connection, written) as write:
        for claim, entry in fresh:
            prepared = prepare(entry)
            for name, rows in prepared.rows.items():
                for form, copy in ((_Form(name, True), rows.binary), (_Form(name, False), rows.copy)):
                    if copy and form == written and write is not None:
                        write(copy)
                    elif copy:
                        held.setdefault(form, []).append((claim, copy))
                counts += rows.counts
            _note(claim, prepared, sum(map(len, prepared.rows.values())))
    for form in sorted(held):
        _write_held(loader, connection, form, held[form])
    _check_columns(loader, connection, {form.table for form in (written, *held) if form.binary})
    for place in range(len(loader.rollups)):
        _add_to_rollup(loader, connection, place, [of_all[place] for of_all in counts])


def _check_columns(loader: Loader, connection: Connection, tables: AbstractSet[str]) -> None:
    """Whether the types of binary rows still are those of their columns: four bytes of an integer are a real, too.

    Afterwards, since from its COPY on to the end of the transaction nobody can change a table.
    """
    for table in tables:
        if statements.column_types(connection, table) != loader.types[table]:
            raise ColumnsChanged(table)


class _Form(NamedTuple):
    """A table, and how rows are written for it."""

    table: str
    binary: bool


@contextmanager
def _writing(loader: Loader, connection: Connection, form: _Form) -> Iterator[Callable[[bytes], None] | None]:
    """What takes rows for a table as they come; None where all of them are needed first."""
    if form.table in loader.upserts:
        yield None
        return
    with statements.copying(connection, form.table, loader.columns[form.table], binary=form.binary) as write:
        yield write


def _write_held(loader: Loader, connection: Connection, form: _Form, held: Sequence[tuple[Claim, bytes]]) -> None:
    with _writing(loader, connection, form) as write:
        if write is not None:
            for _, copy in held:
                write(copy)
            return
    lines = [(claim, line) for claim, copy in held for line in copy.splitlines(keepends=True)]
    written = upsert(connection, loader.upserts[form.table], [line for _, line in lines])
    for place, (claim, _) in enumerate(lines):
        if place not in written:
            claim.loaded -= 1
            claim.duplicates += 1


def _load_staged(loader: Loader, connection: Connection, fresh: Sequence[Claimed], prepare: Prepare) -> None:
    """What is new, by way of temporary tables; rows that PostgreSQL refuses are marked as dead."""
    inserted: list[Placed] = []
    batch = [prepare(entry) for _, entry in fresh]
    for table in loader.tables:
        rows = [(one, row) for one in batch for row in one.rows.get(table.name, ())]
        if rows:
            inserted += _insert_staged(loader, connection, table, rows)
    loaded = Counter(prepared.entry.id for prepared, _ in inserted)
    for (claim, entry), prepared in zip(fresh, batch, strict=True):
        _note(claim, prepared, loaded[entry.id])
    for place in range(len(loader.rollups)):
        if not _add_all_or_bury(loader, connection, place, inserted):
            raise _Refused


def _insert_staged(loader: Loader, connection: Connection, table: TableSection, rows: Sequence[Placed]) -> list[Placed]:
    """Insert what is new; halve a part that PostgreSQL refuses until the bad row stands alone."""
    try:
        with translated(loader.url), connection.transaction():
            if table.name in loader.upserts:
                written = upsert(connection, loader.upserts[table.name], [row.line for _, row in rows])
                return [rows[place] for place in sorted(written)]
            ids = statements.copy_staged(
                connection,
                table.name,
                loader.columns[table.name],
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


def _add_all_or_bury(loader: Loader, connection: Connection, place: int, rows: Sequence[Placed]) -> bool:
    """Add rows to a rollup; when PostgreSQL refuses, halve them until each that it refuses is marked as dead."""
    try:
        with translated(loader.url), connection.transaction():
            counts = loader.rollups[place].count([row.event for _, row in rows], [row.data for _, row in rows])
            _add_to_rollup(loader, connection, place, [counts])
    except RowError as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            first = _add_all_or_bury(loader, connection, place, rows[:middle])
            return _add_all_or_bury(loader, connection, place, rows[middle:]) and first
        _bury(rows[0], error)
        return False
    return True


def _add_to_rollup(loader: Loader, connection: Connection, place: int, counts: Sequence[Counts]) -> None:
    rows = _rollup_rows(loader.rollups[place], counts)
    if rows:
        add_to_rollup(connection, loader.rollup_tables[place], rows)


def _rollup_rows(rollup: Rollup, counts: Sequence[Counts]) -> list[tuple[Any, ...]]:
    return [(row.window_start, *row.keys, *row.deltas) for row in rollup.deltas(counts)]
