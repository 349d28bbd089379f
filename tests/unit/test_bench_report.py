"""The tables of a measurement, its targets, and their place in the pages."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from bench import report, result, tables, targets
from bench.growth import Drain, Growth
from bench.http import Http
from bench.idle import Idle
from bench.latency import Latency, medians, percentile
from bench.recovery import Recovery
from bench.result import Result, Run
from bench.rolling import Rolling
from bench.selfcheck import SelfCheck, failures
from bench.sizes import Sizes

MACHINE = {"cores": 2, "cpu": "a CPU", "memory_gib": 4, "system": "Linux x86_64", "python": "3.11.0", "fsync_ms": 0.5}
CHECK = SelfCheck(10.2, 10.0, 8.0, 9.0, 2.0, 2.5, 1.0)
GROWTH = Growth(
    by_events={100_000: 50_000, 5_000_000: 45_000},
    by_table_rows={0: 50_000, 1_000_000: 48_000, 10_000_000: 40_000},
    light_transforms={1: 100_000, 2: 180_000},
    costly_transforms={1: 9_000, 2: 17_100, 4: 17_200},
    drain=Drain(10_000, 60, 400_000, 40 << 20, {"loader-1": 64 << 20}, 12.34),
)


def _runs(contender: str, events: int, *seconds: float) -> list[Run]:
    peaks = {"ingest-1": 50 << 20, "loader-1": 64 << 20} if contender.startswith("fleet") else {}
    return [Run(contender, events, one, {"postgres": one, "tools": one}, peaks) for one in seconds]


def _result(grown: Growth | None = None) -> Result:
    return Result(
        at=datetime(2026, 1, 2, tzinfo=UTC),
        machine=MACHINE,
        servers={"Valkey": "9.1.2", "PostgreSQL": "18.6"},
        event_bytes=280,
        runs=[
            *_runs("floor", 100_000, 1, 0.5, 2),
            *_runs("fleet", 100_000, 2, 1.9, 9),
            *_runs("fleet2", 50_000, 0.6),
            *_runs("plain", 50_000, 2),
            *_runs("naive", 1_000, 1, 1, 1),
        ],
        checks=[CHECK],
        latency=[Latency(2_000, 1_999.0, 20_000, 0.5, 2.5, 16.04, 30), Latency(20_000, 12_345.0, 99, 0.5, 90, 91, 92)],
        recovery=[Recovery("loader", 1, 1.234, 4.5), Recovery("loader", 2, 0.05, 4.4)],
        rolling=[Rolling(1, 4, 9_000, 0.0123, 1.256), Rolling(2, 7, 9_000, 0.0123, 0.1)],
        idle=Idle(0.0199, {"ingest": 0.0199}),
        http=Http(64, 100_000, 9_999.5, 5.25, 12.345),
        sizes=Sizes(100_000, {"default": 61.2, "json": 312.4}, 81, 455.1),
        growth=grown,
    )


def test_medians_spread_and_ratios() -> None:
    rows = report.readme(_result()).splitlines()
    assert rows[2] == "| floor | 100,000 (50,000-200,000) | 1 | 100 | 20 |"
    assert rows[3] == "| **Bargeline** | 50,000 (11,100-52,600) | 0.5 | 50 | 40 |"
    assert rows[4] == "| Bargeline, two loaders | 83,300 (83,300-83,300) | 0.833 | 83.3 | 24 |"
    assert rows[6] == "| naive loop | 1,000 (1,000-1,000) | 0.01 | 1 | 2,000 |"


def test_cpu_time_by_process() -> None:
    assert tables.cpu(_result())[3] == "| **Bargeline** |  |  |  |  |  | 20 | 20 |"


def test_targets_beside_their_figures() -> None:
    rows = tables.targets(_result())
    assert rows[2:] == [
        "| rate ÷ floor, one loader | ≥ 0.6 | 0.5 | **short** |",
        "| rate ÷ floor, two loaders | ≥ 0.8 | 0.833 | reached |",
        "| rate ÷ floor, function of plain dicts | ≥ 0.35 | 0.25 | **short** |",
        "| rate × naive loop | ≥ 60 | 50 | **short** |",
        "| CPU ÷ floor | ≤ 1.7 | 2 | **short** |",
        "| p50 from accepted to committed, 2,000 events/s | ≤ 3 ms | 2.5 ms | reached |",
        "| p99 from accepted to committed, 2,000 events/s | ≤ 15 ms | 16 ms | **short** |",
        "| CPU of four idle workers | ≤ 2 % of a core | 1.99 % of a core | reached |",
        "| largest worker, peak | ≤ 120 MB | 67.1 MB | reached |",
        "| Redis, each event of a backlog | ≤ 80 bytes | 81 bytes | **short** |",
        "| rate into 10 million rows ÷ into none | ≥ 0.9 | `make bench-full` | not measured here |",
        "| two transforms ÷ one, 100 µs an event | ≥ 1.7 | `make bench-full` | not measured here |",
    ]


def test_targets_of_growth() -> None:
    rows = tables.targets(_result(GROWTH))
    assert rows[-2] == "| rate into 10 million rows ÷ into none | ≥ 0.9 | 0.8 | **short** |"
    assert rows[-1] == "| two transforms ÷ one, 100 µs an event | ≥ 1.7 | 1.9 | reached |"


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_a_figure_at_its_limit_is_reached(target: targets.Target) -> None:
    (judged,) = targets.judge(_result(), [target._replace(figure=lambda _result: target.limit)])
    assert judged.holds


def test_what_falls_short_is_said() -> None:
    (said,) = tables.short(_result())
    assert said.startswith("6 of 12 targets fall short: rate ÷ floor, one loader; ")
    assert said.endswith(" 2 were not measured: `make bench-full`.")
    assert tables.short(_result(GROWTH))[0].startswith("7 of 12 targets fall short")


def test_the_floor_is_checked_in_each_of_three_ways() -> None:
    assert failures([CHECK]) == []
    assert failures([]) == [], "of a run without the floor there is nothing to say"
    broken = {
        "executed_seconds": "all commands ÷ the floor's own",
        "postgres_cpu_seconds": "PostgreSQL, CPU ÷ pg_stat_statements",
        "valkey_cpu_seconds": "Valkey, CPU ÷ event loop",
    }
    for field, name in broken.items():
        bad = msgspec.structs.replace(CHECK, **{field: 20.0})
        assert failures([CHECK, bad, CHECK]) == []
        (failure,) = failures([CHECK, bad, bad])
        assert failure.startswith(f"{name} = ")
    assert tables.check([CHECK])[-1] == "| both, CPU ÷ commandstats and pg_stat_statements | 1 | told |"


def test_percentiles_are_values_by_nearest_rank() -> None:
    values = [float(number) for number in range(1, 1_001)]
    assert [percentile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1_000]
    assert percentile([7.0], 0.5) == 7


def test_the_round_in_the_middle_counts_whole() -> None:
    rounds = [Latency(2_000, 2_000.0, 20_000, 0.5, p50, 100 - p50, 100) for p50 in (9.0, 3.0, 4.0)]
    other = Latency(100, 100.0, 1_000, 0.5, 5, 6, 7)
    assert medians([*rounds, other]) == [other, rounds[2]]
    assert medians(rounds[:2]) == [rounds[0]]


def test_latency_and_a_rate_that_was_not_taken() -> None:
    rows = tables.latency(_result())
    assert rows[2] == "| 2,000 events/s | 2.5 | 16 | 30 |"
    assert rows[-1] == "Asked for 20,000 events/s, 12,300 were taken."


def test_http() -> None:
    rows = tables.http(_result())
    assert rows[0] == "| `POST /events`, 64 connections, an event each | requests/s | p50 | p99 |"
    assert rows[2:] == ["| answered when it is in Redis | 10,000 | 5.25 ms | 12.3 ms |"]
    assert "\n".join(rows) in report.readme(_result())


def test_recovery() -> None:
    assert tables.recovery(_result())[2:] == [
        "| loader, the only one | 1.23 s | 4.5 s |",
        "| loader, one of 2 | 0.05 s | 4.4 s |",
    ]


def test_rolling_restarts() -> None:
    assert tables.rolling(_result().rolling)[2:] == [
        "| one of each kind | 4 | 1.26 s | 0.0123 s |",
        "| 2 of each kind, one janitor | 7 | 0.1 s | 0.0123 s |",
    ]


def test_growth() -> None:
    rows = report.growth(_result(GROWTH)).splitlines()
    assert "| 5,000,000 events | 45,000 events/s |" in rows
    assert "| 10,000,000 rows in the table before | 40,000 events/s |" in rows
    assert "| 4 transforms alone, 100 µs of CPU an event | 17,200 events/s |" in rows
    assert "| no loader for 60 s at 10,000 events/s: events in Redis | 400,000 |" in rows
    with pytest.raises(ValueError, match="--full"):
        report.growth(_result())


def test_figures_to_plan_with() -> None:
    rows = report.capacity(_result()).splitlines()
    assert rows[2:10] == [
        "| one worker of each kind, file to table | 50,000 events/s |",
        "| CPU of workers and servers together | 40 s per million events |",
        "| Redis, an event that waits in raw, by default | 61.2 bytes |",
        "| Redis, an event that waits in raw, `INGEST_CODEC=json` | 312 bytes |",
        "| Redis, an event that waits in clean, by default | 81 bytes |",
        "| PostgreSQL, a row of `clicks` with its index and the whole event | 455 bytes |",
        "| memory of the ingest worker, peak | 50 MiB |",
        "| memory of the loader worker, peak | 64 MiB |",
    ]


def test_the_footnote_names_what_it_was_measured_on() -> None:
    (footnote,) = tables.footnote(_result())
    assert footnote.startswith("Medians of 3 interleaved rounds, 2026-01-02: 2 cores (a CPU), 4 GiB")
    assert "Valkey 9.1.2, PostgreSQL 18.6" in footnote
    assert "(floor 100,000, fleet 100,000, fleet2 50,000, plain 50,000, naive 1,000)" in footnote


def test_what_was_kept_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "RESULTS", tmp_path)
    assert result.latest() is None
    full = _result(GROWTH)
    later = msgspec.structs.replace(_result(), at=datetime(2026, 1, 3, tzinfo=UTC))
    for one in (full, later):
        result.save(one)
    (tmp_path / "20270101T000000Z.json").write_text('{"at": "of another version"}')
    assert result.latest() == later
    assert result.latest(full=True) == full


def test_only_the_place_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    start, end = report.markers("growth")
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    report.write_between_markers(page, "new", "growth")
    report.write_between_markers(page, "newer", "growth")
    assert page.read_text() == f"before\n{start}\nnewer\n{end}\nafter\n"


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("no place\n")
    with pytest.raises(ValueError, match=r"README\.md has no"):
        report.write_between_markers(page, "new")
    assert page.read_text() == "no place\n"
