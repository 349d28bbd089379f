"""The command that proves that nothing is missing."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bargeline.earlier import Earlier
    from shared.accounting import Balance


@click.command()
@click.option("--pipeline", metavar="NAME|FOLDER", help="The pipeline to look at (default: PIPELINE, or the fleet's).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reconcile(pipeline: str | None, as_json: bool) -> None:
    """Show where every accepted event of the current epoch is; exit 1 if the sum is not 0.

    An epoch ends when Redis is flushed or loses writes. What the janitor last saw of earlier ones is shown too.
    """
    import msgspec

    from bargeline.earlier import earlier_epochs
    from bargeline.target import find_target
    from shared.accounting import balance
    from shared.streams.inspect import figures

    target = find_target(pipeline)
    found = balance(target.pipeline.name, figures(target.client))
    earlier, unknown = earlier_epochs(target, found.epoch)
    if as_json:
        whole = msgspec.to_builtins(found) | {"earlier": msgspec.to_builtins(earlier), "earlier_unknown": unknown}
        click.echo(msgspec.json.encode(whole))
    else:
        click.echo("\n".join([summary(found), *map(ended, earlier), *([unknown] if unknown else [])]))
    if found.imbalance or found.findings:
        sys.exit(1)


def ended(one: "Earlier") -> str:
    """What can still be said of an epoch that ended."""
    then = one.balance
    return (
        f"an earlier epoch ended at {one.last_seen}: last seen with {then.accepted:,} accepted, "
        f"{then.loaded:,} loaded, {then.dead:,} dead and {then.in_flight:,} in flight. "
        "Files are read again; what else was in flight then, or was accepted afterwards, can no longer be shown"
    )


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
