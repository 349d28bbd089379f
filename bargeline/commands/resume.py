"""The command that lets a stage go on after its dead-letter breaker opened."""

import click

KINDS = ("transform", "loader")


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS), metavar="[KIND…]")
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to look at (default: PIPELINE, or the fleet's).")
def resume(kinds: tuple[str, ...], pipeline: str | None) -> None:
    """Let workers go on that stopped because too many events became dead letters; all kinds if none is named."""
    from bargeline.target import find_target
    from shared.streams.breaker import close_breaker
    from shared.topology import STAGE_OF_GROUP

    client = find_target(pipeline).client
    for kind in kinds or KINDS:
        why = close_breaker(client, STAGE_OF_GROUP[kind])
        click.echo(f"{kind} had not stopped" if why is None else f"{kind} goes on; it had stopped at {why}")
