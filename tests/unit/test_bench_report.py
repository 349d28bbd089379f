"""The table of a measurement, and its place in the README."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.report import END, START, Result, Run, capacity, markdown, write_between_markers
from bench.rolling import Rolling
from bench.sizes import Sizes

MACHINE = {"cores": 2, "cpu": "a CPU", "memory_gib": 4, "system": "Linux x86_64", "python": "3.11.0", "fsync_ms": 0.5}


def _runs(contender: str, events: int, *seconds: float) -> list[Run]:
    return [Run(contender=contender, events=events, seconds=one, cpu_seconds=2 * one) for one in seconds]


def _result() -> Result:
    return Result(
        at=datetime(2026, 1, 2, tzinfo=UTC),
        machine=MACHINE,
        servers={"Valkey": "9.1.2", "PostgreSQL": "18.6"},
        event_bytes=280,
        runs=[
            *_runs("floor", 100_000, 1, 0.5, 2),
            *_runs("fleet", 100_000, 2, 1.9, 9),
            *_runs("naive", 1_000, 1, 1, 1),
        ],
        rolling=[Rolling(1, 4, 9_000, 0.0123, 1.256), Rolling(2, 7, 9_000, 0.0123, 0.1)],
        sizes=Sizes(100_000, {"json": 312.4, "zstd": 61.2}, 455.1, {"loader": 64 << 20}),
    )


def test_medians_spread_and_ratios() -> None:
    rows = markdown(_result()).splitlines()
    assert rows[2] == "| floor | 100,000 (50,000-200,000) | 1 | 100 | 20 |"
    assert rows[3] == "| **Bargeline** | 50,000 (11,100-52,600) | 0.5 | 50 | 40 |"
    assert rows[4] == "| naive loop | 1,000 (1,000-1,000) | 0.01 | 1 | 2,000 |"


def test_rolling_restarts() -> None:
    rows = markdown(_result()).splitlines()[:-2]
    assert rows[-2] == "| one of each kind | 4 | 1.26 s | 0.0123 s |"
    assert rows[-1] == "| 2 of each kind, one janitor | 7 | 0.1 s | 0.0123 s |"


def test_figures_to_plan_with() -> None:
    rows = capacity(_result()).splitlines()
    assert rows[2:8] == [
        "| one worker of each kind, file to table | 50,000 events/s |",
        "| CPU of workers and servers together | 40 s per million events |",
        "| Redis, an event that waits, `INGEST_CODEC=json` | 312 bytes |",
        "| Redis, an event that waits, `INGEST_CODEC=zstd` | 61.2 bytes |",
        "| PostgreSQL, a row of `clicks` with its index and the whole event | 455 bytes |",
        "| memory of the loader worker | 64 MiB |",
    ]


def test_the_footnote_names_what_it_was_measured_on() -> None:
    (footnote,) = [line for line in markdown(_result()).splitlines() if line.startswith("Medians")]
    assert footnote.startswith("Medians of 3 interleaved rounds, 2026-01-02: 2 cores (a CPU), 4 GiB")
    assert "Valkey 9.1.2, PostgreSQL 18.6" in footnote


def test_only_the_place_between_the_markers_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_between_markers(readme, "new")
    write_between_markers(readme, "newer")
    assert readme.read_text() == f"before\n{START}\nnewer\n{END}\nafter\n"


def test_a_readme_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no place\n")
    with pytest.raises(ValueError, match=r"README\.md has no"):
        write_between_markers(readme, "new")
    assert readme.read_text() == "no place\n"
