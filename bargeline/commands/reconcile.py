"""The command that proves that nothing is missing."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shared.accounting import Balance


@click.command()
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to look at (default: PIPELINE).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reconcile(pipeline: str | None, as_json: bool) -> None:
    """Show where every accepted event of the current epoch is; exit 1 if the sum is not 0."""
    import msgspec

    from bargeline.target import find_target
    from shared.accounting import balance
    from shared.streams.inspect import figures

    target = find_target(pipeline)
    found = balance(target.pipeline.name, figures(target.client))
    click.echo(msgspec.json.encode(found) if as_json else summary(found))
    if found.imbalance or found.findings:
        sys.exit(1)


def summary(found: "Balance") -> str:
    """The balance for people: the law with figures in it."""
    came = {"accepted": found.accepted, "foreign": found.foreign, "fanned out": found.fanned_out}
    left = {
        "loaded": found.loaded,
        "duplicates": found.duplicates,
        "filtered": found.filtered,
        "unrouted": found.unrouted,
        "dead": found.dead,
        "purged": found.purged,
        "lost": found.lost,
        "in flight": found.in_flight,
    }
    always = {"accepted", "loaded", "dead", "in flight"}

    def side(figures: dict[str, int]) -> str:
        return " + ".join(f"{count:,} {name}" for name, count in figures.items() if count or name in always)

    verdict = "balanced" if not found.imbalance else f"IMBALANCE OF {found.imbalance:,} EVENTS"
    if found.epoch is None:
        verdict = "no epoch yet: nothing was ever accepted, or Redis was flushed"
    lines = [f"{found.pipeline}: {side(came)} = {side(left)}: {verdict}"]
    return "\n".join([*lines, *(f"  does not hold: {finding}" for finding in found.findings)])
