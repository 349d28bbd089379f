"""The only package that talks to PostgreSQL."""

from shared.database.connection import (
    Connection,
    RowError,
    UniqueViolation,
    application_name,
    connect,
    reconnected,
    translated,
)
from shared.database.migrate import migrate, sql_files

__all__ = [
    "Connection",
    "RowError",
    "UniqueViolation",
    "application_name",
    "connect",
    "migrate",
    "reconnected",
    "sql_files",
    "translated",
]
