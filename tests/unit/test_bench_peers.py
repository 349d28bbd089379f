"""The tables of the peers, and what counts as a run of one."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import redis

from bench.peers import report
from bench.peers.contenders import BY_HAND, JOBS, PEERS, Peer
from bench.peers.report import Result, Run, markdown
from bench.peers.run import PROGRAMS, _length, _watch
from bench.processes import Process

MACHINE = {"cores": 2, "cpu": "a CPU", "memory_gib": 4, "system": "Linux x86_64", "python": "3.11.0"}
REQUIREMENTS = (Path(__file__).parents[2] / "requirements" / "peers.txt").read_text()


def _runs(contender: str, *seconds: float, jobs: Sequence[str] = JOBS) -> list[Run]:
    return [Run(contender, job, 100_000, one, {"postgres": one, "tools": one}) for job in jobs for one in seconds]


def _result() -> Result:
    return Result(
        at=datetime(2026, 1, 2, tzinfo=UTC),
        machine=MACHINE,
        servers={"Valkey": "9.1.2"},
        event_bytes=280,
        versions={"walrus": "0.9", "Celery": "5.6"},
        runs=[
            *_runs("Celery", 100, 100, 100),
            *_runs(report.US, 1, 0.5, 2),
            *_runs(report.FROM_FILE, 2, 2, 2, jobs=["to_table"]),
            *_runs(BY_HAND.name, 4, 4, 4),
            *_runs("walrus", 5, 5, 10),
        ],
    )


def test_the_fastest_first_and_the_best_peer_is_neither_ours_nor_by_hand() -> None:
    lines = markdown(_result()).splitlines()
    assert lines[0].startswith("| Redis → PostgreSQL |")
    assert lines[2:7] == [
        "| **Bargeline** | 100,000 (50,000-200,000) | 5 | 20 |",
        "| *Bargeline, from a file* | 50,000 (50,000-50,000) | 2.5 | 40 |",
        f"| *{BY_HAND.name}* | 25,000 (25,000-25,000) | 1.25 | 80 |",
        "| walrus 0.9 | 20,000 (10,000-20,000) | 1 | 100 |",
        "| Celery 5.6 | 1,000 (1,000-1,000) | 0.05 | 2,000 |",
    ]
    assert lines[8].startswith("| stream → map → stream |")
    assert lines[9:14] == [*lines[1:3], *lines[4:7]], "from a file there is no way to a stream"


def test_the_footnote_names_what_it_was_measured_on() -> None:
    footnote = markdown(_result()).splitlines()[-1]
    assert footnote.startswith("Medians of 3 interleaved rounds, 2026-01-02: 2 cores (a CPU), 4 GiB")


def test_results_lie_where_the_other_benchmark_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "peers")
    path = report.save(_result())
    assert path == tmp_path / "peers" / "20260102T000000Z.json"
    assert not list(tmp_path.glob("*.json"))


def test_the_last_whole_measurement_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.latest() is None
    result = _result()
    whole = msgspec.structs.replace(result, versions={peer.name: "1.0" for peer in PEERS})
    for day, one in enumerate((whole, msgspec.structs.replace(whole, runs=result.runs[:1]), result), start=1):
        report.save(msgspec.structs.replace(one, at=datetime(2026, 1, day, tzinfo=UTC)))
    found = report.latest()
    assert found is not None
    assert found.at.day == 1


@pytest.mark.parametrize("peer", [*PEERS, BY_HAND], ids=lambda peer: peer.program)
def test_every_peer_has_its_program_and_is_pinned(peer: Peer) -> None:
    assert (PROGRAMS / f"{peer.program}.py").exists()
    assert f"\n{peer.package}==" in REQUIREMENTS


def _counts(*values: int) -> Callable[[], int]:
    source: Iterator[int] = iter(values)
    return lambda: next(source)


@contextmanager
def _process(code: str) -> Iterator[Process]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.communicate()


def test_only_what_comes_after_the_first_results_counts(tmp_path: Path) -> None:
    with _process("import sys; sys.stdin.read()") as process:
        assert _watch(_counts(0, 0, 30, 30, 70, 100), 100, process, tmp_path / "log").events == 70


def test_results_are_counted_in_streams_and_lists(redis_url: str, pipeline_name: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        stream, queue = f"{{{pipeline_name}}}:stream", f"{{{pipeline_name}}}:list"
        assert _length(client, stream) == 0
        client.xadd(stream, {"n": 1})
        client.lpush(queue, 1, 2)
        assert [_length(client, key) for key in (stream, queue)] == [1, 2]


@pytest.mark.parametrize("counts", [(0, 30, 30, 101), (0, 100, 100)], ids=["too many", "all at once"])
def test_results_that_say_nothing_are_refused(counts: tuple[int, ...], tmp_path: Path) -> None:
    with _process("import sys; sys.stdin.read()") as process, pytest.raises(RuntimeError, match="100 events, but"):
        _watch(_counts(*counts), 100, process, tmp_path / "log")


def test_a_worker_that_ended_is_named(tmp_path: Path) -> None:
    log = tmp_path / "with_peer.log"
    log.write_text("what it said last")
    with _process("raise SystemExit(3)") as process:
        process.wait()
        with pytest.raises(RuntimeError, match=r"ended with 3, with_peer:\nwhat it said last"):
            _watch(_counts(0), 100, process, log)
