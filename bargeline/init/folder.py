"""The files of a pipeline folder, as text: pure but for the last function."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bargeline.init.columns import Column, Columns
from bargeline.init.names import quoted
from bargeline.init.sampling import Sample
from shared.errors import ConfigurationError
from shared.pipeline import PipelineFile
from shared.text import printable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Design:
    """What was decided: names, the columns, and the path of the id if the user named one."""

    name: str
    table: str
    event_type: str
    columns: Columns
    id: str | None = None


def files(design: Design, sample: Sample) -> dict[str, bytes]:
    """Content by path within the folder."""
    pipeline = _pipeline(design)
    # A mistake here would be ours: better to hear of it before there is a folder.
    PipelineFile.model_validate(tomllib.loads(pipeline))
    texts = {
        "pipeline.toml": pipeline,
        f"migrations/0001_{_file_name(design.table)}.sql": _migration(design, sample),
        "transform.py": _transform(sample),
        ".env": _environment(design),
        ".gitignore": "var/\n.env\n__pycache__/\n",
        "README.md": _readme(design),
    }
    return {name: text.encode() for name, text in texts.items()} | {
        "sample.ndjson": b"".join(line + b"\n" for line in sample.first)
    }


def write(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write the files into a folder that is empty or not there; raises ConfigurationError otherwise."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is not empty" if folder.is_dir() else "is no folder"
            raise ConfigurationError(f"{folder}: {what}, and nothing is overwritten. Name another.")
        for name, body in content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600 if name == ".env" else 0o666)
            path.write_bytes(body)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be written ({error.strerror}).") from None


def _file_name(table: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", table.lower()).strip("_") or "table"


def _ingest(design: Design) -> list[str]:
    """Lines of `[ingest]`; what might be chosen instead is a comment."""
    columns = design.columns
    lines = [_comment(f"type = {toml(design.event_type)}", "of every event; a table takes the types that it names")]
    if columns.time:
        lines.append(_comment(f"time = {{ path = {toml(columns.time)} }}", "when it happened; where absent: arrival"))
    lines += [f"# time = {{ path = {toml(path)} }}" for path in columns.other_times[:3]]
    if design.id:
        lines.append(_comment(f"id = {{ path = {toml(design.id)} }}", "of events with the same one the first is kept"))
    else:
        ids = [f"# id = {{ path = {toml(path)} }}" for path in columns.ids[:3]]
        hint = "# An event is known by its file's path and its place there. By a field instead (of equals the first):"
        lines += [hint, *ids] if ids else []
    return lines


def _pipeline(design: Design) -> str:
    table = [
        f"name = {toml(design.table)}",
        f"event_types = [{toml(design.event_type)}]",
        _comment('mode = "insert"', "an event that comes twice is one row"),
    ]
    filled = [f"{_key(column.name)} = {toml(column.source)}" for column in design.columns.all]
    return "\n".join(
        [
            "[pipeline]",
            f"name = {toml(design.name)}",
            "\n[ingest]",
            *_ingest(design),
            "\n[transform]",
            _comment('function = "transform:transform"', "in transform.py, beside this file"),
            "\n[[table]]",
            *table,
            "\n# column = what fills it: a path into the data, or $id, $type, $source, $time, $key, $data (all of it)",
            "[table.columns]",
            *filled,
            "",
        ]
    )


def _migration(design: Design, sample: Sample) -> str:
    rows = [(_declared(column), _origin(column)) for column in design.columns.all]
    lines = [
        f"    {text}{',' if index < len(rows) - 1 else ''}{f'  -- {origin}' if origin else ''}"
        for index, (text, origin) in enumerate(rows)
    ]
    seen = f"{sample.events:,} {'line' if sample.events == 1 else 'lines'}"
    return (
        f"-- Types as found in {seen} of {printable(Path(sample.name).name)}. Change them here before the first\n"
        "-- `bargeline up`, afterwards by another migration, 0002_what.sql: this one is not applied twice.\n"
        "-- Fractions are double precision: make it numeric where sums must be exact, as for money.\n"
        f"CREATE TABLE {quoted(design.table)} (\n" + "\n".join(lines) + "\n);\n"
    )


def _declared(column: Column) -> str:
    ending = " PRIMARY KEY" if column.source == "$id" else " NOT NULL" if column.not_null else ""
    return f"{quoted(column.name)} {column.type}{ending}"


def _origin(column: Column) -> str:
    """Where a column comes from, if its name does not say so; and what to know of it."""
    return "; ".join(
        part for part in (printable(column.source) if column.source != column.name else "", column.note) if part
    )


def _transform(sample: Sample) -> str:
    cleaning = (
        "    # The sample has U+0000 in texts, which PostgreSQL cannot hold: U+FFFD takes its place.\n"
        "    event.data = without_nul(event.data)\n"
        if sample.with_nul
        else ""
    )
    return (
        '"""What becomes of each event on its way to the table."""\n\n'
        "from typing import Any\n\n"
        f"from bargeline import Event{', without_nul' if sample.with_nul else ''}\n\n\n"
        "def transform(event: Event[dict[str, Any]]) -> Event[dict[str, Any]] | None:\n"
        '    """Pass every event on as it is.\n\n'
        "    Change ``event.data``; return None to leave an event out, or a list of events to make several of one.\n"
        '    ``raise bargeline.InvalidEvent("why")`` makes it a dead letter; any other exception is tried again.\n'
        '    """\n'
        f"{cleaning}"
        '    # if event.data.get("test"):\n'
        "    #     return None\n"
        "    return event\n"
    )


def _environment(design: Design) -> str:
    return f"""\
# Settings of the command `bargeline` when it is run in this folder, and of the fleet that it starts.
# What the environment sets wins. A shell reads this file too: set -a; . ./.env; set +a

PIPELINE=.

# Your own servers. Without these `bargeline up` starts embedded ones, with their data below var/.
# REDIS_URL=redis://127.0.0.1:6379/0
# DATABASE_URL=postgresql://user:password@127.0.0.1:5432/{design.table if design.table.isascii() else "events"}

# Files that the fleet's ingest reads; without it what is put into var/inbox/. Follow: as they grow and are rotated.
# INGEST_PATH='/var/log/app/*.ndjson'
# INGEST_FOLLOW=true

# The first janitor's metrics, with the list of all workers for Prometheus at /targets.
# METRICS_PORT=9400
# LOG_LEVEL=info
"""


def _readme(design: Design) -> str:
    return f"""\
# {design.name}

    bargeline up                           # start the fleet; run it in this folder
    bargeline ingest FILE --wait           # carry a file of events into the table `{printable(design.table)}`
    bargeline status                       # processes, and what was read
    bargeline pipeline check               # after a change: does everything still fit?
    bargeline up && bargeline restart      # bring a change into the running fleet
    bargeline down

| file | holds |
|---|---|
| `pipeline.toml` | which field fills which column |
| `transform.py` | what becomes of each event on its way |
| `migrations/` | the table, as numbered SQL; `bargeline up` applies what is missing |
| `sample.ndjson` | the first lines of the sample: `bargeline pipeline check` runs them through `transform.py` |
| `.env` | settings of this folder |
"""


def toml(text: str) -> str:
    """The text as a TOML string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml(name)


def _comment(line: str, comment: str) -> str:
    return f"{line:<39} # {comment}"


def column_rows(columns: Sequence[Column], time: str | None, events: int) -> list[tuple[str, ...]]:
    """For people: name, type, what fills it, share of events that have it, nulls, and what to know."""
    rows = [("COLUMN", "TYPE", "FROM", "IN", "NULL", "NOTE")]
    for column in columns:
        note = column.note
        if column.source == "$time":
            note = _time_note(columns, time)
        share = "" if column.is_own else _share(column.present, events)
        rows.append((column.name, column.type, column.source, share, f"{column.nulls:,}" if column.nulls else "", note))
    return [tuple(map(printable, row)) for row in rows]


def _time_note(columns: Sequence[Column], time: str | None) -> str:
    if time is None:
        return "the time of arrival: no field is clearly its time in every line"
    local = any(column.source == time and column.type == "timestamp" for column in columns)
    return f"{time}, taken as UTC" if local else time


def _share(part: int, whole: int) -> str:
    """A percentage that says 100 only for all, and 0 only for none."""
    percent = part * 100 / whole
    return "<1 %" if percent < 1 else f"{int(percent)} %"
