"""Connections to PostgreSQL, and what its errors mean."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from shared.errors import BargelineError, ConfigurationError, TransientError
from shared.urls import ESCAPE_HINT, is_ambiguous, without_password

Connection = psycopg.Connection[tuple[object, ...]]
CONNECT_TIMEOUT_SECONDS = 5
_NAME_BYTES = 63
_VARIABLE = "DATABASE_URL"
#: A statement that waits longer for a lock fails, is held and tried again.
LOCK_TIMEOUT_MS = 10_000
#: SQLSTATE classes of a server that is away, overloaded, full or shutting down.
_TRANSIENT_CLASSES = ("08", "40", "53", "55", "57", "58", "XX")
#: Data that this row can never get past: 22 data, 23 integrity, 54 limits (deep JSON, wide keys).
_ROW_CLASSES = ("22", "23", "54")
#: 23514 without a constraint's name: a partitioned table has no partition for the row.
_UNIQUE_VIOLATION = "23505"


class RowError(Exception):
    """A row that PostgreSQL refuses; ``sqlstate`` says why."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class UniqueViolation(RowError):
    """A row that is there already."""


def application_name(instance: str, pipeline: str) -> str:
    """What a process calls itself in pg_stat_activity: its instance and pipeline, in the 63 bytes that there are."""
    if len(instance) + 1 + len(pipeline) > _NAME_BYTES:
        digest = hashlib.blake2b(pipeline.encode(), digest_size=4).hexdigest()
        pipeline = f"{pipeline[: _NAME_BYTES - len(instance) - 2 - len(digest)]}~{digest}"
    return f"{instance} {pipeline}"


def connect(
    url: str, name: str, variable: str = _VARIABLE, session: Mapping[str, str] | None = None, **more: Any
) -> Connection:
    """Connect; raises TransientError when the server is away, ConfigurationError for a wrong URL, user or database.

    ``variable`` is the setting that the URL comes from; ``session`` are more settings of the server for this
    connection, ``more`` parameters of libpq.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"{variable}={without_password(url)}: it has to begin with postgresql://.")
    _check_readable(url, variable)
    given = {"lock_timeout": LOCK_TIMEOUT_MS, "timezone": "UTC", **(session or {})}
    with translated(url, variable):
        connection: Connection = psycopg.connect(
            url,
            autocommit=True,
            application_name=name[:_NAME_BYTES],
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            # A half-open connection is noticed within about 20 s instead of hours.
            keepalives_idle=5,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=20_000,
            options=" ".join(f"-c {setting}={value}" for setting, value in given.items()),
            **more,
        )
    return connection


def reconnected(connection: Connection | None, url: str, name: str) -> Connection:
    """The connection while it is open, else another one. Raises like ``connect``."""
    return connect(url, name) if connection is None or connection.closed else connection


def _check_readable(url: str, variable: str) -> None:
    """Raise ConfigurationError here: libpq's own text would quote the part it stumbles over, such as the password."""
    try:
        ports = str(conninfo_to_dict(url).get("port") or 0).split(",")
        readable = all(port.isdigit() or not port for port in ports) and not is_ambiguous(url)
    except psycopg.ProgrammingError:
        readable = False
    if not readable:
        raise ConfigurationError(f"{variable}={without_password(url)}: it cannot be read as a URL. {ESCAPE_HINT}")


@contextmanager
def translated(url: str, variable: str = _VARIABLE) -> Iterator[None]:
    """Turn errors of psycopg into TransientError, RowError, UniqueViolation or ConfigurationError."""
    try:
        yield
    except psycopg.Error as error:
        raise _translate(url, variable, error) from error


def _translate(url: str, variable: str, error: psycopg.Error) -> Exception:
    state = error.sqlstate
    text = str(error).strip() or type(error).__name__
    where = f"PostgreSQL at {without_password(url)}"
    if state is None:
        return _without_sqlstate(where, variable, text, error)
    if state == _UNIQUE_VIOLATION:
        return UniqueViolation(text, state)
    if state == "23514" and error.diag.constraint_name is None:
        return ConfigurationError(f"{where}: {text} Create the partition that the rows need.")
    if state.startswith(_ROW_CLASSES):
        return RowError(text, state)
    if state.startswith(_TRANSIENT_CLASSES):
        return TransientError(f"{where}: {text}")
    if state.startswith(("28", "3D")):
        return ConfigurationError(f"{where}: {text} Check user, password and database name in {variable}.")
    if state.startswith("42"):
        hint = (
            " Check that the pipeline's tables match its file (`bargeline migrate`)." if variable == _VARIABLE else ""
        )
        return ConfigurationError(f"{where}: {text}{hint}")
    return BargelineError(f"{where}: {text} (SQLSTATE {state})")


def _without_sqlstate(where: str, variable: str, text: str, error: psycopg.Error) -> Exception:
    # libpq reports a refused login without a SQLSTATE when it happens while connecting.
    final = (
        "password authentication failed",
        "does not exist",
        "no password supplied",
        "no pg_hba.conf entry",
        "invalid ",
        "server does not support SSL",
    )
    if isinstance(error, psycopg.OperationalError) and "certificate" in text:
        return ConfigurationError(
            f"{where}: {text}. In {variable} sslrootcert has to name a file with the CA that issued the server's "
            "certificate, the host has to be one of its names (sslmode=verify-full), and sslcert and sslkey are needed "
            "where the server asks for a client certificate."
        )
    if isinstance(error, psycopg.OperationalError) and not any(part in text for part in final):
        return TransientError(f"{where}: {text}")
    if isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError):
        return ConfigurationError(f"{where}: {text}. Check {variable}.")
    if isinstance(error, psycopg.DataError):
        return RowError(text, "22000")
    return TransientError(f"{where}: {text}")
