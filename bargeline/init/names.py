"""Names of tables and columns out of names of files and fields: pure."""

import re
import unicodedata
from collections.abc import Collection, Sequence

from shared.pipeline import IDENTIFIER_BYTES

#: What PostgreSQL 18 takes as no column's name unless it is quoted (`SELECT user` would even mean something else).
RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true
    union unique user using variadic verbose when where window with
    """.split()  # noqa: SIM905
)
#: Every table has these; they cannot be declared, quoted or not.
SYSTEM_COLUMNS = frozenset({"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"})
#: Tables of Bargeline's own.
CORE_TABLES = frozenset({"bargeline_migrations", "epochs", "load_ledger", "load_totals"})
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_FILE_ENDINGS = re.compile(r"(\.(ndjson|jsonl|ldjson|json|log|txt|gz|gzip|zst|zstd))+$", re.IGNORECASE)
#: A date or a number at the end of a file's name says nothing about what is in it.
_FILE_NUMBER = re.compile(r"(?<=[^-_. 0-9])[-_. ]+[0-9][-_.0-9TtZz:]*$")


def column_name(keys: Sequence[str], taken: Collection[str] = ()) -> str:
    """Name of the column for the field at these keys: `customer_email`; with a number if it is taken."""
    name = "_".join(filter(None, map(_words, keys))) or "field"
    if name[0].isdigit():
        name = f"_{name}"
    if name in RESERVED or name in SYSTEM_COLUMNS:
        name = f"{name}_"
    return _free(name, taken)


def table_name(text: str) -> str:
    """Name of a table out of any text; `events` if there is nothing in it."""
    name = column_name([text]) if _words(text) else "events"
    return f"{name}_events" if name in CORE_TABLES else name


def stem(file_name: str) -> str:
    """What a file's name says of its content: without folder, endings, date and number."""
    name = _FILE_ENDINGS.sub("", file_name.rpartition("/")[2])
    return _FILE_NUMBER.sub("", name) or name


def pipeline_name(text: str) -> str:
    """Name of a pipeline out of any text: ASCII letters, digits, `_` and `-`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:64] or "pipeline"


def quoted(name: str) -> str:
    """The name as SQL takes it: with quotes only where it needs them."""
    plain = _PLAIN.fullmatch(name) and name not in RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def _words(text: str) -> str:
    """Small letters and digits of any script, `_` between words."""
    text = _CAMEL.sub("_", unicodedata.normalize("NFC", text))
    # Combining marks belong to the letters of many scripts.
    letters = "".join(one if one.isalnum() or unicodedata.category(one)[0] == "M" else "_" for one in text)
    return re.sub(r"_+", "_", letters.lower()).strip("_")


def _free(name: str, taken: Collection[str]) -> str:
    number, found = 1, _cut(name, IDENTIFIER_BYTES)
    while found in taken:
        number += 1
        ending = f"_{number}"
        found = _cut(name.rstrip("_"), IDENTIFIER_BYTES - len(ending)) + ending
    return found


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")
