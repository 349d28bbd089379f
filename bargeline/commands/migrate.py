"""The command that applies migrations."""

import click


@click.command()
@click.option(
    "--pipeline",
    metavar="NAME|FOLDER",
    help="The pipeline whose tables to make (default: PIPELINE, or the fleet's).",
)
def migrate(pipeline: str | None) -> None:
    """Apply the migrations that are missing, of the core and of the pipeline.

    Safe to run at any time, by any number of processes at once.
    """
    from bargeline.fleet.control import urls
    from bargeline.target import chosen_pipeline
    from shared.database import migrate as apply
    from shared.pipeline import load_pipeline
    from shared.settings import load_settings

    settings = load_settings()
    applied = apply(urls(settings)["DATABASE_URL"], load_pipeline(pipeline or chosen_pipeline(settings)))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to apply")
