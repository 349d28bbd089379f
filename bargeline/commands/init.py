"""The command that makes a pipeline folder out of a sample of events."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bargeline.init.columns import Columns
    from bargeline.init.folder import Design
    from bargeline.init.sampling import Sample

_WIDEST = 60
_SHOWN = 5


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--sample", "path", metavar="FILE", required=True, help="Events, one JSON object a line; - reads a pipe.")
@click.option("--name", help="Name of the pipeline (default: the folder's).")
@click.option("--table", help="Name of the table (default: the sample's).")
@click.option("--type", "event_type", help="Type of the events (default: the table's name).")
@click.option("--id", "id_path", metavar="PATH", help="Field that tells one event from another (default: none).")
@click.option("--time", "time_path", metavar="PATH", help="Field with the time of an event (default: found, or none).")
@click.option("--lines", type=click.IntRange(min=0), help="Look at so many lines of the sample; 0: at all of them.")
def init(
    *,
    folder: Path,
    path: str,
    name: str | None,
    table: str | None,
    event_type: str | None,
    id_path: str | None,
    time_path: str | None,
    lines: int | None,
) -> None:
    """Make a pipeline folder out of a sample of your events: a table with types that fit, ready to run.

    Prints what was decided for each column. The folder is yours to edit.
    """
    from bargeline.init import folder as content
    from bargeline.init import names

    sample, columns = _look(path, lines, id_path, time_path)
    place = folder.absolute().resolve().name
    table = names.table_name(table or (place if path == "-" else names.stem(path)))
    design = content.Design(
        name=names.pipeline_name(name or place),
        table=table,
        event_type=event_type or table,
        columns=columns,
        id=id_path,
    )
    content.write(folder, content.files(design, sample))
    _report(folder, path, design, sample)


def _look(path: str, lines: int | None, id_path: str | None, time_path: str | None) -> tuple["Sample", "Columns"]:
    """The sample, and columns for it."""
    from bargeline.init import sampling
    from bargeline.init.columns import choose
    from bargeline.init.fields import Field
    from shared.errors import ConfigurationError
    from shared.settings import load_settings

    root = Field()
    timed = 0

    def see(number: int, data: dict[str, Any]) -> None:
        nonlocal timed
        _check_id(number, data, id_path)
        timed += _has_time(number, data, time_path)
        root.note(data)

    most = sampling.MOST_LINES if lines is None else lines
    sample = sampling.read_sample(path, most, load_settings().ingest_max_event_bytes, see)
    if time_path and not timed:
        raise ConfigurationError(f"--time {time_path}: no line of the sample has anything there.")
    return sample, choose(root, time_path)


def _check_id(number: int, data: dict[str, Any], path: str | None) -> None:
    """Raise ConfigurationError for a path that the user named and that leads to no id in this line."""
    from shared.errors import ConfigurationError
    from shared.events import find

    if path and not isinstance(find(data, path), str | int):
        raise ConfigurationError(f"--id {path}: line {number} of the sample has no text or number there.")


def _has_time(number: int, data: dict[str, Any], path: str | None) -> bool:
    """Whether there is a time at the path that the user named; raises ConfigurationError if it is something else."""
    from shared.errors import ConfigurationError, InvalidEvent
    from shared.events import find, parse_time

    value = find(data, path) if path else None
    try:
        return value is not None and bool(parse_time(value))
    except InvalidEvent as error:
        raise ConfigurationError(f"--time {path}: line {number} of the sample: {error}.") from None


def _report(folder: Path, path: str, design: "Design", sample: "Sample") -> None:
    from bargeline.init.folder import column_rows
    from shared.text import printable

    found = design.columns
    rows = column_rows(found.all, found.time, sample.events)
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*rows, strict=True)]
    click.echo(_looked_at(sample) + "\n")
    for row in rows:
        cells = [cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…" for cell in row]
        click.echo("  ".join(map(str.ljust, cells, widths)).rstrip())
    for note in _notes(found, sample):
        click.echo(f"\n{printable(note, lines=True)}")
    where = shlex.quote(os.path.relpath(path, folder)) if path != "-" else "FILE"
    click.echo(
        f"\nThe pipeline {design.name!r} is in {printable(str(folder))}, with the table {design.table!r}. Next:\n"
        f"  cd {printable(shlex.quote(str(folder)))} && bargeline up\n  bargeline ingest {printable(where)} --wait"
    )


def _looked_at(sample: "Sample") -> str:
    from shared.text import printable

    name = "standard input" if sample.name == "-" else printable(sample.name)
    what = f"Looked at {_lines(sample.events)} of {name}"
    if sample.is_all:
        return f"{what}, all that there are."
    return (
        f"{what} ({sample.bytes / 1e6:.0f} MB): there are more, and one that fits none of this becomes a dead letter. "
        "With --lines 0 all of them are looked at."
    )


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _notes(found: "Columns", sample: "Sample") -> list[str]:
    from shared.text import printable

    notes = []
    if sample.bad:
        shown = "\n".join(f"  line {number}: {printable(reason)}" for number, reason in sample.bad[:_SHOWN])
        more = f"\n  and {len(sample.bad) - _SHOWN:,} more" if len(sample.bad) > _SHOWN else ""
        notes.append(f"No JSON objects, of which ingest makes dead letters: {_lines(len(sample.bad))}.\n{shown}{more}")
    if found.left_out:
        some = ", ".join(found.left_out[:_SHOWN])
        more = f" and {len(found.left_out) - _SHOWN:,} more" if len(found.left_out) > _SHOWN else ""
        notes.append(f"Only in the payload, to keep the table within bounds: {some}{more}.")
    if sample.with_nul:
        notes.append(
            f"U+0000, which PostgreSQL cannot hold, in {_lines(sample.with_nul)}: transform.py puts U+FFFD there."
        )
    if found.ids:
        notes.append(
            f"Different in every line, so perhaps ids: {', '.join(found.ids[:3])}. See [ingest] in pipeline.toml."
        )
    return notes
