"""The only package that talks to PostgreSQL."""

from shared.database.connection import (
    Connection,
    RowError,
    UniqueViolation,
    connect,
    translated,
)
from shared.database.migrate import migrate

__all__ = [
    "Connection",
    "RowError",
    "UniqueViolation",
    "connect",
    "migrate",
    "translated",
]
