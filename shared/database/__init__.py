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
from shared.database.migrate import migrate

__all__ = [
    "Connection",
    "RowError",
    "UniqueViolation",
    "application_name",
    "connect",
    "migrate",
    "reconnected",
    "translated",
]
