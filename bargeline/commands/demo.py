"""The command that shows the main job on real servers."""

import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bargeline.carrying import Carried
    from bargeline.target import Target

#: What it shows, whatever PIPELINE says.
PIPELINE = "clickstream"
_BIGGEST = """
SELECT os_timezone, sum(num_mobile_users)::bigint, sum(events)::bigint
FROM mobile_users_by_timezone
GROUP BY os_timezone
ORDER BY 2 DESC, 1
LIMIT 10
"""


@click.command()
@click.option("--events", type=click.IntRange(min=1), default=200_000, show_default=True, help="Clicks to generate.")
def demo(events: int) -> None:
    """Start a fleet (2 transforms, 1 loader), load generated clicks, and show the result.

    Run again it loads nothing twice; interrupted, the next run goes on where this one was.
    """
    from bargeline.carrying import carry
    from bargeline.fleet import control
    from bargeline.progress import progress
    from bargeline.target import find_target
    from shared.settings import load_settings

    settings = load_settings()
    if settings.pipeline != PIPELINE:
        settings = settings.model_copy(update={"pipeline": PIPELINE})
    control.up(settings, {"ingest": 1, "transform": 2, "loader": 1, "janitor": 1}, click.echo)
    file = _sample(settings.var / "demo", events)
    target = find_target(PIPELINE)
    click.echo(f"carrying {file} ({file.stat().st_size / 1e6:.0f} MB, {events:,} clicks) into PostgreSQL")
    began = time.monotonic()
    with progress() as show:
        carried = carry(target, [file], wait=True, show=show)
    _report(target, carried, time.monotonic() - began)


def _sample(folder: Path, events: int) -> Path:
    """The generated file, made once: the same seed gives the same clicks."""
    from shared.generate import SEED, write_clicks

    path = folder / f"clicks-{events}.ndjson"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write_clicks(unfinished, SEED, events)
        unfinished.rename(path)
    return path


def _report(target: "Target", carried: "Carried", seconds: float) -> None:
    from bargeline.commands.reconcile import summary
    from shared.accounting import balance
    from shared.streams import live_workers
    from shared.streams.inspect import figures

    click.echo("\n" + _biggest_timezones(target.database_url))
    click.echo("\n" + summary(balance(target.pipeline.name, figures(target.client))))
    if carried.new_events:
        rate = carried.new_events / seconds
        click.echo(f"{carried.new_events:,} events in {seconds:.1f} s: {rate:,.0f} events/s, from file to committed")
    else:
        click.echo("nothing was loaded twice: every line of this file was read before")
    query = "SELECT * FROM clicks LIMIT 5"
    click.echo(f'\nlook further:  eval "$(.venv/bin/bargeline env)" && {_psql(target)} "$DATABASE_URL" -c "{query}"')
    for lease in live_workers(target.client):
        click.echo(f"metrics:       http://{lease.metrics}/metrics  ({lease.name})")
    click.echo("stop:          make down   (the data stays; make clean removes it)")


def _psql(target: "Target") -> str:
    """The psql on PATH, else the one that comes with the embedded PostgreSQL."""
    from bargeline.embedded.servers import prepare

    if shutil.which("psql") or target.settings.database_url:
        return "psql"
    return shlex.quote(str(prepare(target.settings.var).psql))


def _biggest_timezones(database_url: str) -> str:
    from shared.database import connect

    with connect(database_url, "bargeline-demo") as connection:
        rows = connection.execute(_BIGGEST).fetchall()
    lines = [f"{'timezone':<30} {'mobile users':>12} {'clicks':>10}"]
    lines += [f"{zone:<30} {mobile:>12,} {clicks:>10,}" for zone, mobile, clicks in rows]
    return "\n".join(lines)
