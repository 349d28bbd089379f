"""What was measured: as JSON, and as tables."""

import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.contenders import BY_HAND, JOBS, PEERS
from bench.result import kept

#: Below the results of `make bench`, which takes the last file of its own folder.
RESULTS = Path(__file__).parents[1] / "results" / "peers"
US = "Bargeline"
#: Of the same job with more to do, while the others find their events in Redis.
FROM_FILE = "Bargeline, from a file"
#: Shown beside the peers, and none of them.
_BESIDE = (FROM_FILE, BY_HAND.name)
TITLES = {"to_table": "Redis → PostgreSQL", "to_stream": "stream → map → stream"}


class Run(msgspec.Struct, frozen=True):
    """One contender with one job in one round."""

    contender: str
    job: str
    events: int
    seconds: float
    cpu_seconds: dict[str, float]


class Result(msgspec.Struct, frozen=True):
    """A whole measurement; ``versions`` are those of the peers."""

    at: datetime
    machine: dict[str, Any]
    servers: dict[str, str]
    event_bytes: int
    versions: dict[str, str]
    runs: list[Run]


def save(result: Result) -> Path:
    """Write it under bench/results/peers/; the name sorts by time."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result.at:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def latest() -> Result | None:
    """The whole measurement that was made last; None when there is none."""
    return next((one for one in kept(RESULTS, Result) if _is_whole(one)), None)


def _is_whole(result: Result) -> bool:
    return {run.job for run in result.runs} == set(JOBS) and result.versions.keys() == {peer.name for peer in PEERS}


def markdown(result: Result) -> str:
    """A table of medians for each job, the fastest first, and what they were measured on."""
    tables = [_table(result, job) for job in JOBS if any(run.job == job for run in result.runs)]
    return "\n\n".join([*tables, _footnote(result)])


def _table(result: Result, job: str) -> str:
    runs: dict[str, list[Run]] = {}
    for run in result.runs:
        if run.job == job:
            runs.setdefault(run.contender, []).append(run)
    medians = {name: statistics.median(_rates(found)) for name, found in runs.items()}
    best = max(rate for name, rate in medians.items() if name not in (US, *_BESIDE))
    lines = [
        f"| {TITLES[job]} | events/s (lowest-highest) | × best peer | CPU-s per million events |",
        "|---|--:|--:|--:|",
    ]
    for name in sorted(medians, key=lambda name: -medians[name]):
        rates = _rates(runs[name])
        spread = f"{_figure(medians[name])} ({_figure(min(rates))}-{_figure(max(rates))})"
        lines.append(
            f"| {_title(result, name)} | {spread} | {_figure(medians[name] / best)} | {_figure(_cpu(runs[name]))} |"
        )
    return "\n".join(lines)


def _title(result: Result, name: str) -> str:
    plain = {US: f"**{US}**"} | {other: f"*{other}*" for other in _BESIDE}
    return plain.get(name) or f"{name} {result.versions[name]}"


def _rates(runs: Sequence[Run]) -> list[float]:
    return [run.events / run.seconds for run in runs]


def _cpu(runs: Sequence[Run]) -> float:
    return statistics.median(sum(run.cpu_seconds.values()) / run.events * 1e6 for run in runs)


def _footnote(result: Result) -> str:
    machine = result.machine
    servers = ", ".join(f"{name} {version}" for name, version in result.servers.items())
    rounds = sum((run.contender, run.job) == (US, JOBS[0]) for run in result.runs)
    return (
        f"Medians of {rounds} interleaved rounds, {result.at:%Y-%m-%d}: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, {servers}; "
        f"events of {result.event_bytes} bytes, one process of each kind. Method: `bench/README.md`."
    )


def _figure(value: float) -> str:
    """Three digits are what a measurement of seconds is worth."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
