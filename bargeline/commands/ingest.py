"""The command that carries files into the fleet."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bargeline.carrying import Carried


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--pipeline",
    metavar="NAME|FOLDER",
    help="The pipeline to carry them into (default: PIPELINE, or the fleet's).",
)
@click.option("--wait", is_flag=True, help="Return when every event is loaded, filtered or a dead letter.")
def ingest(files: tuple[Path, ...], pipeline: str | None, wait: bool) -> None:
    """Carry files (lines of JSON; plain, gzip or zstd) into the running fleet.

    Run again it loads nothing twice: a file goes on where its checkpoint is. Exit 1 if events of it became
    dead letters.
    """
    from bargeline.carrying import carry, require_files, require_workers
    from bargeline.progress import progress
    from bargeline.target import find_target

    found = require_files(files)
    target = find_target(pipeline)
    require_workers(target)
    with progress() as show:
        carried = carry(target, found, wait=wait, show=show)
    click.echo(summary(carried, wait))
    if carried.dead:
        click.echo(f"{carried.dead:,} dead-lettered; look at them with `bargeline tail dead`", err=True)
        sys.exit(1)


def summary(carried: "Carried", waited: bool) -> str:
    """One line on what was new and what was known."""
    known = f", {carried.already_read:,} lines were read before" if carried.already_read else ""
    return f"{carried.new_events:,} events accepted{known}{'; all settled' if waited else ''}"
