"""Plain numbered SQL, each file once, in one transaction with the row that records it.

An advisory lock makes ten processes that start at once take turns; it ends with its connection, so a
kill leaves nothing behind. A file and its record commit together, so a kill in the middle leaves
neither.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

import psycopg

from shared.database.connection import Connection, RowError, connect, translated
from shared.errors import ConfigurationError
from shared.pipeline import Pipeline

#: Any number, the same for every process that migrates: the digits spell nothing.
_LOCK = 7_246_015_338
_FILE_NAME = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS bargeline_migrations (
    component text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, name)
)
"""
APPLIED = "SELECT component, name, digest FROM bargeline_migrations"
_INSERT = "INSERT INTO bargeline_migrations (component, name, digest) VALUES (%s, %s, %s)"


def core_migrations() -> Path:
    """The folder of the core's migrations."""
    spec = importlib.util.find_spec("migrations")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("The package `migrations` is missing from this installation.")
    return Path(next(iter(spec.submodule_search_locations)))


def migrate(database_url: str, pipeline: Pipeline) -> list[str]:
    """Apply what is missing, of the core and of the pipeline; returns the names that were applied.

    Raises ConfigurationError for a file that fails, that was changed after it was applied, or that
    is not named like ``0001_what.sql``; TransientError when the server is away.
    """
    files = [("core", path) for path in sql_files(core_migrations())]
    files += [(pipeline.name, path) for path in sql_files(pipeline.migrations)]
    with connect(database_url, "bargeline-migrate") as connection:
        with translated(database_url):
            # Waiting for another migration is no fault, however long that one takes.
            connection.execute("SET lock_timeout = 0")
            # Else a statement of a process that was killed goes on, with the lock, for as long as it takes.
            connection.execute("SET client_connection_check_interval = '1s'")
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            connection.execute(_CREATE_TABLE)
            rows = connection.execute(APPLIED).fetchall()
        applied = {(row[0], row[1]): str(row[2]) for row in rows}
        return [
            f"{component}/{path.name}"
            for component, path in files
            if _apply(database_url, connection, component, path, applied.get((component, path.name)))
        ]


def sql_files(folder: Path) -> list[Path]:
    """The migrations in a folder, in their order; raises ConfigurationError for a name that gives none."""
    files = sorted(folder.glob("*.sql")) if folder.is_dir() else []
    for path in files:
        if not _FILE_NAME.match(path.name):
            raise ConfigurationError(f"{path}: a migration is named like 0001_what.sql, four digits first.")
    return files


def _apply(url: str, connection: Connection, component: str, path: Path, known_digest: str | None) -> bool:
    text = path.read_text()
    digest = digest_of(text)
    if known_digest is not None:
        if known_digest != digest:
            raise ConfigurationError(
                f"{path}: it was changed after it was applied. Restore it, and put the change into a new one."
            )
        return False
    try:
        with translated(url), connection.transaction():
            connection.execute(text.encode())
            connection.execute(_INSERT, (component, path.name, digest))
    except (ConfigurationError, RowError) as error:
        raise ConfigurationError(f"{path}: {_first_line(error)}") from error
    return True


def digest_of(text: str) -> str:
    """What tells a migration that was changed after it was applied."""
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        return f"{cause.diag.message_primary} (SQLSTATE {cause.sqlstate})."
    return str(error)
