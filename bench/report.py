"""What was measured: as JSON, as a table, and in the README."""

import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.rolling import EVENTS_PER_SECOND, Rolling
from bench.sizes import Sizes

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
CAPACITY = README.parent / "docs" / "capacity.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
CONTENDERS = {"floor": "floor", "fleet": "**Bargeline**", "naive": "naive loop"}


class Run(msgspec.Struct, frozen=True):
    """One contender in one round."""

    contender: str
    events: int
    seconds: float
    cpu_seconds: float


class Result(msgspec.Struct, frozen=True):
    """A whole measurement."""

    at: datetime
    machine: dict[str, Any]
    servers: dict[str, str]
    event_bytes: int
    runs: list[Run]
    rolling: list[Rolling]
    sizes: Sizes


def save(result: Result) -> Path:
    """Write it under bench/results/; the name sorts by time."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result.at:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def latest() -> Result:
    """The measurement made last; raises FileNotFoundError when there is none."""
    paths = sorted(RESULTS.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no measurement in {RESULTS}: run `make bench` first")
    return msgspec.json.decode(paths[-1].read_bytes(), type=Result)


def markdown(result: Result) -> str:
    """A table of medians, and what they were measured on."""
    rates = {name: statistics.median(_rates(result.runs, name)) for name in CONTENDERS}
    lines = [
        "| file → Redis → PostgreSQL | events/s (lowest-highest) | ÷ floor | × naive | CPU-s per million events |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, title in CONTENDERS.items():
        measured = _rates(result.runs, name)
        spread = f"{_figure(rates[name])} ({_figure(min(measured))}-{_figure(max(measured))})"
        figures = (rates[name] / rates["floor"], rates[name] / rates["naive"], _cpu(result.runs, name))
        lines.append(f"| {title} | {spread} | {' | '.join(map(_figure, figures))} |")
    return "\n".join([*lines, "", *_rolling(result.rolling), "", _footnote(result)])


def capacity(result: Result) -> str:
    """A table of what to plan with, by this measurement."""
    rate = statistics.median(_rates(result.runs, "fleet"))
    sizes = result.sizes
    rows = [
        ("one worker of each kind, file to table", f"{_figure(rate)} events/s"),
        ("CPU of workers and servers together", f"{_figure(_cpu(result.runs, 'fleet'))} s per million events"),
        *(
            (f"Redis, an event that waits, `INGEST_CODEC={codec}`", f"{_figure(size)} bytes")
            for codec, size in sizes.redis_bytes.items()
        ),
        ("PostgreSQL, a row of `clicks` with its index and the whole event", f"{_figure(sizes.table_bytes)} bytes"),
        *((f"memory of the {kind} worker", f"{size / 2**20:.0f} MiB") for kind, size in sizes.worker_bytes.items()),
    ]
    lines = ["| | |", "|---|--:|", *(f"| {what} | {figure} |" for what, figure in rows)]
    return "\n".join([*lines, "", *_rolling(result.rolling), "", _footnote(result)])


def _rolling(restarts: Sequence[Rolling]) -> list[str]:
    lines = [
        f"| rolling restart at {EVENTS_PER_SECOND:,} events/s | restarts | longest pause | without restarts |",
        "|---|--:|--:|--:|",
    ]
    for one in restarts:
        kinds = "one of each kind" if one.workers == 1 else f"{one.workers} of each kind, one janitor"
        pauses = f"{_figure(one.longest_pause_seconds)} s | {_figure(one.calm_pause_seconds)} s"
        lines.append(f"| {kinds} | {one.restarts} | {pauses} |")
    return lines


def write_between_markers(page: Path, table: str) -> None:
    """Put the table between the markers; raises ValueError when they are not there."""
    text = page.read_text()
    if START not in text or END not in text:
        raise ValueError(f"{page.name} has no {START} … {END}")
    head, _, rest = text.partition(START)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{START}\n{table}\n{END}{tail}")


def _footnote(result: Result) -> str:
    machine = result.machine
    servers = ", ".join(f"{name} {version}" for name, version in result.servers.items())
    rounds = len(_rates(result.runs, "fleet"))
    return (
        f"Medians of {rounds} interleaved rounds, {result.at:%Y-%m-%d}: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, {servers}; "
        f"events of {result.event_bytes} bytes, one process of each kind, one fsync takes {machine['fsync_ms']} ms. "
        "Method: `bench/README.md`."
    )


def _rates(runs: Sequence[Run], name: str) -> list[float]:
    return [run.events / run.seconds for run in runs if run.contender == name]


def _cpu(runs: Sequence[Run], name: str) -> float:
    return statistics.median(run.cpu_seconds / run.events * 1e6 for run in runs if run.contender == name)


def _figure(value: float) -> str:
    """Three digits are what a measurement of seconds is worth."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
