"""What was measured, and how it is kept: one JSON file a measurement."""

import statistics
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.growth import Growth
from bench.http import Http
from bench.idle import Idle
from bench.latency import Latency
from bench.recovery import Recovery
from bench.rolling import Rolling
from bench.selfcheck import SelfCheck
from bench.sizes import Sizes

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")


class Run(msgspec.Struct, frozen=True):
    """One contender in one round; CPU by process, and the most memory that each worker had."""

    contender: str
    events: int
    seconds: float
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, int]


class Result(msgspec.Struct, frozen=True):
    """A whole measurement; only `make bench-full` has growth."""

    at: datetime
    machine: dict[str, Any]
    servers: dict[str, str]
    event_bytes: int
    runs: list[Run]
    checks: list[SelfCheck]
    latency: list[Latency]
    recovery: list[Recovery]
    rolling: list[Rolling]
    idle: Idle
    http: Http
    sizes: Sizes
    growth: Growth | None = None

    def of(self, contender: str) -> list[Run]:
        """The runs of one contender."""
        return [run for run in self.runs if run.contender == contender]

    def rates(self, contender: str) -> list[float]:
        """Events a second of each run."""
        return [run.events / run.seconds for run in self.of(contender)]

    def rate(self, contender: str) -> float:
        """The median of its rates."""
        return statistics.median(self.rates(contender))

    def cpu(self, contender: str) -> float:
        """CPU seconds of servers, workers and tools for a million events, median."""
        return statistics.median(sum(run.cpu_seconds.values()) / run.events * 1e6 for run in self.of(contender))

    def cpu_by_process(self, contender: str) -> Mapping[str, float]:
        """The same for each process."""
        runs = self.of(contender)
        roles = {role for run in runs for role in run.cpu_seconds}
        return {
            role: statistics.median(run.cpu_seconds.get(role, 0.0) / run.events * 1e6 for run in runs) for role in roles
        }

    def peak_bytes(self) -> dict[str, int]:
        """The most memory that a worker of each kind had in any run."""
        peaks: dict[str, int] = {}
        for run in self.runs:
            for name, size in run.peak_bytes.items():
                kind = name.partition("-")[0]
                peaks[kind] = max(peaks.get(kind, 0), size)
        return peaks


def save(result: Result) -> Path:
    """Write it under bench/results/; the name sorts by time."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result.at:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def latest(*, full: bool = False) -> Result | None:
    """The measurement made last, or the last that has growth; None when there is none."""
    return next((one for one in kept(RESULTS, Result) if one.growth is not None or not full), None)


def kept(folder: Path, kind: type[T]) -> Iterator[T]:
    """The measurements in a folder, the last first; those of an older version of this program are left out."""
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            result = msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.ValidationError:
            continue
        yield result
