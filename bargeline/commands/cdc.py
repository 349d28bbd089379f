"""The commands that make and drop what INGEST_SOURCE=cdc reads: a publication and a replication slot."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shared.database.replication_slots import PublishedTable
    from shared.settings import Settings


@click.group()
def cdc() -> None:
    """Make or drop the publication and the slot that INGEST_SOURCE=cdc reads changes from.

    They are made in the database of INGEST_CDC_URL, and called INGEST_CDC_SLOT and INGEST_CDC_PUBLICATION
    (bargeline_<pipeline>).
    """


_PIPELINE = click.option(
    "--pipeline", metavar="NAME|FOLDER", help="The pipeline that names them (default: PIPELINE, or the fleet's)."
)


@cdc.command()
@click.argument("tables", nargs=-1, metavar="[TABLE…]")
@click.option("--all", "every", is_flag=True, help="All tables of the database, those made later included.")
@_PIPELINE
def create(tables: tuple[str, ...], every: bool, pipeline: str | None) -> None:
    """Publish these tables, and make a slot; what is there already stays.

    From then on the source server keeps every change until it was read.
    """
    from contextlib import closing

    from shared.database import translated
    from shared.database.replication import VARIABLE
    from shared.database.replication_slots import (
        check_can_decode,
        connect_source,
        create_publication,
        create_slot,
        published_tables,
        server_facts,
    )
    from shared.settings import load_settings

    if bool(tables) == every:
        raise click.UsageError("Name the tables, or --all.")
    settings = load_settings()
    url = settings.require_cdc_url()
    slot, publication = _names(settings, pipeline)
    with closing(connect_source(url, "bargeline-command")) as connection, translated(url, VARIABLE):
        check_can_decode(server_facts(connection))
        done = create_publication(connection, publication, tables)
        click.echo(done or f"publication {publication} is there")
        for table in published_tables(connection, publication) or ():
            _warn(table)
        click.echo(f"making slot {slot}, once the transactions that are open there have ended", err=True)
        made = create_slot(connection, slot)
        click.echo(f"created slot {slot}" if made else f"slot {slot} is there")


@cdc.command()
@_PIPELINE
def drop(pipeline: str | None) -> None:
    """Drop the slot and the publication: the source server keeps no changes any more.

    A reader that starts after they were made again reads the tables anew.
    """
    from contextlib import closing

    from shared.database import translated
    from shared.database.replication import VARIABLE
    from shared.database.replication_slots import connect_source, drop_publication, drop_slot
    from shared.settings import load_settings

    settings = load_settings()
    url = settings.require_cdc_url()
    slot, publication = _names(settings, pipeline)
    with closing(connect_source(url, "bargeline-command")) as connection, translated(url, VARIABLE):
        dropped = drop_slot(connection, slot)
        click.echo(f"dropped slot {slot}" if dropped else f"there is no slot {slot}")
        dropped = drop_publication(connection, publication)
        click.echo(f"dropped publication {publication}" if dropped else f"there is no publication {publication}")


def _warn(table: "PublishedTable") -> None:
    if table.changes_refused:
        click.echo(
            f"warning: {table.readable_name} has no primary key: the server now refuses to update and delete its "
            f"rows. Give it one, or ALTER TABLE {table.full_name} REPLICA IDENTITY FULL.",
            err=True,
        )


def _names(settings: "Settings", pipeline: str | None) -> tuple[str, str]:
    from bargeline.target import chosen_pipeline
    from shared.pipeline import load_pipeline

    name = load_pipeline(pipeline or chosen_pipeline(settings)).name
    return settings.cdc_slot(name), settings.cdc_publication(name)
