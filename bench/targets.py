"""What the fleet is meant to reach. Ratios within one run: absolute figures are those of a machine."""

import operator
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from bench.result import Result

_HOLDS = {"≥": operator.ge, "≤": operator.le}


class Target(NamedTuple):
    """A figure of a result, and what it has to be; the figure is None where a result does not have it."""

    name: str
    figure: Callable[[Result], float | None]
    sign: Literal["≥", "≤"]
    limit: float
    unit: str = ""


class Judged(NamedTuple):
    """A target beside its figure; ``holds`` is None where nothing was measured."""

    target: Target
    figure: float | None
    holds: bool | None


def _of_floor(contender: str) -> Callable[[Result], float]:
    return lambda result: result.rate(contender) / result.rate("floor")


def _latency(field: str) -> Callable[[Result], float | None]:
    return lambda result: next((float(getattr(one, field)) for one in result.latency if one.per_second == 2_000), None)


def _large_table(result: Result) -> float | None:
    if result.growth is None:
        return None
    rates = result.growth.by_table_rows
    return rates[max(rates)] / rates[0]


def _two_transforms(result: Result) -> float | None:
    if result.growth is None:
        return None
    rates = result.growth.costly_transforms
    return rates[2] / rates[1]


TARGETS = (
    Target("rate ÷ floor, one loader", _of_floor("fleet"), "≥", 0.6),
    Target("rate ÷ floor, two loaders", _of_floor("fleet2"), "≥", 0.8),
    Target("rate ÷ floor, function of plain dicts", _of_floor("plain"), "≥", 0.35),
    Target("rate × naive loop", lambda result: result.rate("fleet") / result.rate("naive"), "≥", 60),
    Target("CPU ÷ floor", lambda result: result.cpu("fleet") / result.cpu("floor"), "≤", 1.7),
    Target("p50 from accepted to committed, 2,000 events/s", _latency("p50_ms"), "≤", 3, "ms"),
    Target("p99 from accepted to committed, 2,000 events/s", _latency("p99_ms"), "≤", 15, "ms"),
    Target("CPU of four idle workers", lambda result: 100 * result.idle.workers, "≤", 2, "% of a core"),
    Target("largest worker, peak", lambda result: max(result.peak_bytes().values()) / 1e6, "≤", 120, "MB"),
    Target("Redis, each event of a backlog", lambda result: result.sizes.default_bytes, "≤", 80, "bytes"),
    Target("rate into 10 million rows ÷ into none", _large_table, "≥", 0.9),
    Target("two transforms ÷ one, 100 µs an event", _two_transforms, "≥", 1.7),
)


def judge(result: Result, targets: Sequence[Target] = TARGETS) -> list[Judged]:
    """Each target with its figure."""
    judged = []
    for target in targets:
        figure = target.figure(result)
        holds = None if figure is None else bool(_HOLDS[target.sign](figure, target.limit))
        judged.append(Judged(target, figure, holds))
    return judged


def shortfalls(judged: list[Judged]) -> list[Judged]:
    """Those that were measured and are not reached."""
    return [one for one in judged if one.holds is False]
