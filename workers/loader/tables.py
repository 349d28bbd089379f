"""Checking, at the start, that the pipeline's tables can take its rows."""

from shared.database import Connection, translated
from shared.database import load as statements
from shared.errors import ConfigurationError
from shared.pipeline import Pipeline, RollupSection, TableSection


def check_tables(url: str, connection: Connection, pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """Column types by table; raises ConfigurationError that names what is missing and how to get it."""
    with translated(url):
        types = {table.name: _check_table(connection, table) for table in pipeline.file.table}
        for rollup in pipeline.file.rollup:
            _check_rollup(connection, rollup)
    return types


def _columns(connection: Connection, table: str, needed: tuple[str, ...]) -> dict[str, str]:
    types = statements.column_types(connection, table)
    if not types:
        raise ConfigurationError(
            f"The database has no table {table!r}. Run `bargeline migrate`, or add a migration that creates it."
        )
    missing = [column for column in needed if column not in types]
    if missing:
        raise ConfigurationError(
            f"Table {table!r} has no column {', '.join(map(repr, missing))}; it has {', '.join(types)}. "
            "Correct the pipeline file, or add a migration."
        )
    return types


def _check_table(connection: Connection, table: TableSection) -> dict[str, str]:
    types = _columns(connection, table.name, tuple(table.columns))
    if table.mode == "insert":
        unique = statements.unique_columns(connection, table.name)
        if not any(table.id_column in columns for columns in unique):
            raise ConfigurationError(
                f"Table {table.name!r} has no unique constraint on {table.id_column!r} that ON CONFLICT can use "
                '(neither partial nor deferrable), which mode "insert" needs. Add one, or use mode "append".'
            )
    return types


def _check_rollup(connection: Connection, rollup: RollupSection) -> None:
    key = ("window_start", *rollup.by)
    _columns(connection, rollup.table, (*key, *rollup.aggregates))
    if frozenset(key) not in statements.unique_columns(connection, rollup.table):
        raise ConfigurationError(
            f"Rollup table {rollup.table!r} needs a primary key or unique constraint on exactly ({', '.join(key)})."
        )
