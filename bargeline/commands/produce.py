"""The command that emits events, one by one or a stream of lines."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bargeline.emitting import Sent


@click.command()
@click.argument("events", nargs=-1, metavar="[EVENT|@FILE|-]…")
@click.option("--file", "files", multiple=True, metavar="FILE", help="Lines of JSON; the same as @FILE.")
@click.option("--type", "event_type", metavar="TYPE", help="Type of the events (default: by the pipeline's [ingest]).")
@click.option("--key", metavar="KEY", help="Key of the events.")
@click.option("--channel", metavar="NAME", help="PUBLISH each event's JSON to this channel instead.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait while the pipeline is full or Redis is away.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each line: its place, and its id or error.")
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to emit to (default: PIPELINE, or the fleet's).")
def produce(
    *,
    events: tuple[str, ...],
    files: tuple[str, ...],
    event_type: str | None,
    key: str | None,
    channel: str | None,
    timeout: float,
    as_json: bool,
    pipeline: str | None,
) -> None:
    """Emit events: JSON objects as arguments, or as lines of files or (with -, or nothing) of standard input.

    Prints the id of each event once it is accepted. A line that is no event is named, and the others go on; exit 1
    then, and if nobody listens to a channel. There is no checkpoint: what is produced again is another event, unless
    the pipeline takes ids from the data. `bargeline ingest` carries whole files, once.
    """
    from bargeline.emitting import STANDARD_INPUT, emitter, find_destination, lines_of, publisher

    if channel is not None and (event_type or key):
        raise click.UsageError("--channel publishes the JSON as it is: --type and --key have no meaning there.")
    given = [*events, *(f"@{name}" for name in files)]
    if not given and sys.stdin.isatty():
        raise click.UsageError("Give an event, as in '{\"n\": 1}', or @FILE, or lines on standard input.")
    to = find_destination(pipeline)
    send = publisher(to.client, channel) if channel is not None else emitter(to, event_type, key, timeout)
    well = True
    for lines in lines_of(given or [STANDARD_INPUT], to.settings.ingest_max_event_bytes):
        for sent in send(lines):
            well = _show(sent, as_json) and well
    if not well:
        sys.exit(1)


def _show(sent: "Sent", as_json: bool) -> bool:
    """Print what became of a line; False if that is not what was wanted."""
    import msgspec

    from shared.text import printable

    if as_json:
        click.echo(msgspec.json.encode(sent))
    elif sent.error is not None:
        click.echo(printable(f"{sent.place}: {sent.error}"), err=True)
    elif sent.receivers == 0:
        click.echo(printable(f"{sent.place}: nobody listens to the channel"), err=True)
    else:
        click.echo(sent.id or f"{sent.place}: received by {sent.receivers}")
    return sent.error is None and sent.receivers != 0
