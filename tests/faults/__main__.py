"""`python -m tests.faults`: run the fault kit once; exit 0 if nothing was lost, nothing came twice."""

import random
import sys
from typing import Any

import click

from shared.errors import BargelineError
from tests.faults.places import run_folder
from tests.faults.run import Options, run
from tests.faults.strikes import STRIKES


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(value.split(",")) if value else ()
    unknown = [name for name in names if name not in STRIKES]
    if unknown:
        raise click.BadParameter(f"no strike {', '.join(unknown)}; there are {', '.join(STRIKES)}")
    return names


@click.command()
@click.option("--seed", type=int, help="Repeat a schedule (default: another each time).")
@click.option("--strikes", type=int, default=Options.strikes, show_default=True)
@click.option("--events", type=int, default=Options.events, show_default=True, help="In files; more come by XADD.")
@click.option("--seconds", type=float, default=Options.seconds, show_default=True, help="Length of the schedule.")
@click.option("--poison", type=int, default=Options.poison, show_default=True, help="Events that kill their worker.")
@click.option("--only", callback=_names, help=f"Some of {','.join(STRIKES)}.")
@click.option("--keep", is_flag=True, help="Keep the folder with logs also when all is well.")
def main(*, seed: int | None, keep: bool, **chosen: Any) -> None:
    """Strike a fleet under load by a seeded schedule, and count outside Redis what became of every event."""
    options = Options(seed=random.randrange(1_000_000) if seed is None else seed, **chosen)
    click.echo(f"seed {options.seed}: {options.strikes} strikes in {options.seconds:g} s")
    sys.exit(0 if _run(options, keep=keep) else 1)


def _run(options: Options, *, keep: bool) -> bool:
    try:
        with run_folder(keep=keep) as folder:
            report = run(options, folder)
            click.echo(f"\n{report}")
            assert not report.violations, f"seed {options.seed}: {len(report.violations)} violations, see above"
    except (AssertionError, BargelineError) as error:
        click.echo("\n".join((f"VIOLATION {error}", *getattr(error, "__notes__", ()))), err=True)
        return False
    return True


if __name__ == "__main__":
    main()
