"""Run this fleet and the peers in turn, print the medians as tables, and keep every figure."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from bench import machine
from bench.ground import Ground, ground, reset, server_versions
from bench.peers import report, run
from bench.peers.contenders import BY_HAND, JOBS, PEERS, Peer
from bench.report import METHOD, write_between_markers
from bench.stage import LIGHT
from shared.pipeline import load_pipeline


def main() -> int:
    """Measure; or with --write-readme put the last measurement into bench/README.md."""
    options = _options()
    if options.write_readme:
        return _write_page()
    if not run.PYTHON.exists():
        print("no .venv-peers: run `make bench-peers`", file=sys.stderr)
        return 2
    # A terminated benchmark ends its processes like an interrupted one.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    peers = [peer for peer in PEERS if peer.package in options.peers]
    try:
        result = _measure(options.events, options.rounds, peers, options.jobs)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.markdown(result))
    print(f"\nEvery run: {report.save(result)}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    packages = [peer.package for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="for Bargeline (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--peers", nargs="+", choices=packages, default=packages, help="only these (%(default)s)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="only these (%(default)s)")
    parser.add_argument("--write-readme", action="store_true", help="put the last whole measurement into the README")
    options = parser.parse_args()
    mark = load_pipeline(LIGHT).file.pipeline.high_water_events
    if options.events >= mark:
        parser.error(f"--events {options.events}: ingest would wait for ever at its high-water mark of {mark} events")
    return options


def _write_page() -> int:
    result = report.latest()
    if result is None:
        print("no measurement of all peers yet: run `make bench-peers` first", file=sys.stderr)
        return 1
    write_between_markers(METHOD, report.markdown(result), "peers")
    return 0


def _measure(events: int, rounds: int, peers: Sequence[Peer], jobs: Sequence[str]) -> report.Result:
    runs = []
    with ground(events) as place:
        # Not counted: the first run on new servers pays for their log files, too.
        reset(place)
        run.ours_from_file(place)
        for number in range(1, rounds + 1):
            for job in jobs:
                for name, measure in _contenders(place, job, peers).items():
                    reset(place)
                    runs.append(_row(name, job, measure()))
                    rate = runs[-1].events / runs[-1].seconds
                    print(f"round {number}/{rounds}: {job} {runs[-1].contender} {rate:,.0f} events/s", file=sys.stderr)
        return report.Result(
            at=datetime.now(UTC),
            machine=machine.describe(),
            servers=server_versions(place),
            event_bytes=round(place.clicks.stat().st_size / events),
            versions={peer.name: _version(peer.package) for peer in peers},
            runs=runs,
        )


def _contenders(place: Ground, job: str, peers: Sequence[Peer]) -> dict[str, Callable[[], run.Watched]]:
    ours: dict[str, Callable[[], run.Watched]] = {report.US: partial(run.ours, place, job)}
    if job == "to_table":
        ours[report.FROM_FILE] = partial(run.ours_from_file, place)
    return ours | {peer.name: partial(run.peer, place, peer, job) for peer in (BY_HAND, *peers)}


def _row(name: str, job: str, watched: run.Watched) -> report.Run:
    seconds, cpu_seconds = watched.measured.seconds, watched.measured.cpu_seconds
    return report.Run(contender=name, job=job, events=watched.events, seconds=seconds, cpu_seconds=cpu_seconds)


def _version(package: str) -> str:
    ask = f"from importlib.metadata import version; print(version('{package}'))"
    return subprocess.run([run.PYTHON, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
