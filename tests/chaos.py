"""`make chaos`: a fleet under load while a seeded schedule strikes; it ends by stating the count.

Strikes: SIGKILL, SIGTERM and SIGSTOP/SIGCONT of workers (a frozen one wakes after its entries were
reclaimed), SIGKILL of Valkey and of PostgreSQL. The truth is kept beside Redis.
"""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from shared.errors import BargelineError
from tests.acceptance.fleet import Fleet, assert_exact, fleet, generated
from tests.wait import until

#: Zombies find what kills do not, so they are frequent. Longer than a lease, so that entries are reclaimed.
STRIKES = ("freeze", "freeze", "kill", "kill", "term", "valkey", "postgres")
FROZEN_SECONDS = 14
WORKERS = ("ingest-01", "transform-01", "transform-02", "loader-01", "loader-02", "janitor-01")


def _strike(found: Fleet, chance: random.Random, frozen: dict[int, float]) -> str:
    strike = chance.choice(STRIKES)
    name = strike if strike in ("valkey", "postgres") else chance.choice(WORKERS)
    pid = found.processes()[name].pid
    if pid is None or pid in frozen:
        return f"{name} does not run"
    signals = {"freeze": signal.SIGSTOP, "term": signal.SIGTERM}
    try:
        os.kill(pid, signals.get(strike, signal.SIGKILL))
    except ProcessLookupError:
        return f"{name} has just ended"
    if strike == "freeze":
        frozen[pid] = time.monotonic() + FROZEN_SECONDS
    return f"{signals.get(strike, signal.SIGKILL).name} {name}"


def _after_thawing(frozen: dict[int, float], condition: Callable[[], bool]) -> bool:
    """Wake who was frozen long enough, then ask."""
    now = time.monotonic()
    for pid in [pid for pid, wakes in frozen.items() if wakes <= now]:
        del frozen[pid]
        # It may have ended by a stop signal that it received while it was frozen.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return condition()


def run(folder: Path, seed: int, strikes: int, events: int) -> None:
    """Strike so often while so many events flow; raises AssertionError unless the count ends exact."""
    chance = random.Random(seed)
    truth = generated(folder / "clicks.ndjson", seed, events)
    frozen: dict[int, float] = {}
    with fleet(folder / "var", "--transform", "2", "--loader", "2") as found:
        (folder / "clicks.ndjson").rename(folder / "var" / "inbox" / "clicks.ndjson")
        for number in range(strikes):
            reached = partial(found.has_loaded, number * events // (2 * strikes))
            until(partial(_after_thawing, frozen, reached), 180, "events to flow")
            click.echo(f"{number + 1:3} {_strike(found, chance, frozen)}")
        until(partial(_after_thawing, frozen, lambda: not frozen), 60, "frozen workers to wake")
        assert_exact(found, truth, found.url("DATABASE_URL"), seconds=240)
        done = found.balance()
    click.echo(f"accepted {done.accepted:,}, loaded {done.loaded:,}, dead 0, lost 0, duplicates in tables 0,")
    click.echo(f"rollups equal to a recount, ledger balanced, nothing pending; seed {seed}")


@click.command()
@click.option("--seed", type=int, help="Repeat a schedule (default: another each time).")
@click.option("--strikes", type=int, default=25, show_default=True)
@click.option("--events", type=int, default=400_000, show_default=True)
def main(seed: int | None, strikes: int, events: int) -> None:
    """Run the fault schedule once."""
    chosen = random.randrange(1_000_000) if seed is None else seed
    click.echo(f"seed {chosen}")
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        try:
            run(Path(folder), chosen, strikes, events)
        except (AssertionError, BargelineError) as error:
            raise click.ClickException(f"seed {chosen}: {error}") from error


if __name__ == "__main__":
    main()
