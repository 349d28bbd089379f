"""A whole measurement on one ground: the contenders in turn, then everything else."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from bench import growth, http, idle, latency, machine, recovery, rolling, selfcheck, sizes
from bench.contenders import CONTENDERS
from bench.ground import Ground, ground, part, reset, rows, server_versions
from bench.result import Result, Run
from bench.selfcheck import SelfCheck

Found = TypeVar("Found")


class Plan(NamedTuple):
    """How much of everything."""

    events: int
    rounds: int
    rates: Sequence[int] = latency.RATES
    latency_seconds: float = latency.SECONDS
    kills: Sequence[tuple[str, int]] = recovery.CASES
    #: Workers of a kind in the rolling restarts: with one of each, nothing is loaded while it is away.
    rolling_workers: Sequence[int] = (1, 2)
    idle_seconds: float = idle.SECONDS
    http_seconds: float = http.SECONDS
    full: bool = False


#: What there is besides the rounds, under its name in a result.
PARTS: dict[str, Callable[[Ground, Plan], Any]] = {
    "latency": lambda place, plan: latency.medians(
        [_told(place, latency.measure, one, plan.latency_seconds) for _ in range(plan.rounds) for one in plan.rates]
    ),
    "recovery": lambda place, plan: [_told(place, recovery.measure, *case) for case in plan.kills],
    "rolling": lambda place, plan: [_told(place, rolling.measure, workers) for workers in plan.rolling_workers],
    "idle": lambda place, plan: _told(place, idle.measure, plan.idle_seconds),
    "http": lambda place, plan: _told(place, http.measure, plan.http_seconds),
    "sizes": lambda place, _plan: _told(place, sizes.measure),
}


def measure(plan: Plan) -> Result:
    """Everything of a plan."""
    with ground(max(plan.events, *growth.EVENTS) if plan.full else plan.events) as largest:
        place = part(largest, plan.events)
        runs, checks = rounds(place, plan.rounds, tuple(CONTENDERS))
        return Result(
            at=datetime.now(UTC),
            machine=machine.describe(),
            servers=server_versions(place),
            event_bytes=round(place.clicks.stat().st_size / place.events),
            runs=runs,
            checks=checks,
            **{name: measured(place, plan) for name, measured in PARTS.items()},
            growth=growth.measure(largest, plan.rounds) if plan.full else None,
        )


def some(plan: Plan, names: Sequence[str]) -> list[SelfCheck]:
    """Only some contenders and parts, said as they come; nothing is kept but the floor's checks."""
    with ground(plan.events) as place:
        checks = rounds(place, plan.rounds, [name for name in CONTENDERS if name in names])[1]
        for name, measured in PARTS.items():
            if name in names:
                measured(place, plan)
        return checks


def rounds(place: Ground, count: int, names: Sequence[str]) -> tuple[list[Run], list[SelfCheck]]:
    """The contenders in turn, so that whatever the machine does meets all of them."""
    runs, checks = [], []
    for number in range(1, count + 1):
        for name in names:
            run, check = _run(place, name)
            runs.append(run)
            checks += [check] if check else []
            spent = {role: round(seconds / run.events * 1e6, 2) for role, seconds in run.cpu_seconds.items()}
            total = f"{sum(spent.values()):.1f} CPU-s per million"
            say(f"{number}/{count} {name}: {run.events / run.seconds:,.0f} events/s, {total}: {spent}")
    return runs, checks


def _run(ground: Ground, name: str) -> tuple[Run, SelfCheck | None]:
    contender = CONTENDERS[name]
    place = part(ground, max(round(ground.events * contender.share), 1))
    reset(place)
    if name == "floor":
        measured, check = selfcheck.checked(place, contender.measure)
    else:
        measured, check = contender.measure(place), None
    if rows(place) != place.events:
        raise RuntimeError(f"{name}: {place.events} events, but {rows(place)} rows in the table")
    return Run(name, place.events, measured.seconds, measured.cpu_seconds, measured.peak_bytes), check


def _told(place: Ground, measure: Callable[..., Found], *arguments: Any) -> Found:
    """Measure on an empty ground, and say on the way what came out."""
    reset(place)
    found = measure(place, *arguments)
    say(str(found))
    return found


def say(text: str) -> None:
    """Tell whoever waits; the tables alone go to standard output."""
    print(text, file=sys.stderr)
