"""Run the contenders in turn, print the medians as a table, and keep every figure."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from bench import fleet, floor, machine, naive, report, rolling, sizes
from bench.ground import Ground, ground, reset, rows, server_versions
from bench.processes import Measured

#: Workers of a kind in the rolling restarts: with one of each, nothing is loaded while it is away.
ROLLING_WORKERS = (1, 2)


def main() -> int:
    """Measure, or with --write-readme put the last measurement into README.md and docs/capacity.md."""
    options = _options()
    if options.write_readme:
        latest = report.latest()
        report.write_between_markers(report.README, report.markdown(latest))
        report.write_between_markers(report.CAPACITY, report.capacity(latest))
        return 0
    # A terminated benchmark ends its processes like an interrupted one.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        result = _measure(options.events, options.naive_events, options.rounds, ROLLING_WORKERS)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.markdown(result))
    print(f"\nEvery run: {report.save(result)}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="for the floor and the fleet (%(default)s)")
    parser.add_argument("--naive-events", type=int, default=3_000, help="for the naive loop (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--write-readme", action="store_true", help="put the last measurement into README and docs")
    return parser.parse_args()


def _measure(events: int, naive_events: int, rounds: int, rolling_workers: Sequence[int]) -> report.Result:
    runs, restarts = [], []
    with ground(events) as place:
        contenders: dict[str, tuple[int, Callable[[], Measured]]] = {
            "floor": (events, lambda: floor.measure(place)),
            "fleet": (events, lambda: fleet.measure(place)),
            "naive": (naive_events, lambda: naive.measure(place, naive_events)),
        }
        for number in range(1, rounds + 1):
            for name, (count, measure) in contenders.items():
                runs.append(_run(place, name, count, measure))
                rate = runs[-1].events / runs[-1].seconds
                print(f"round {number}/{rounds}: {name} {rate:,.0f} events/s", file=sys.stderr)
        for workers in rolling_workers:
            reset(place)
            restarts.append(rolling.measure(place, workers))
            seconds = restarts[-1].longest_pause_seconds
            print(f"rolling restart, {workers} of a kind: longest pause {seconds:.2f} s", file=sys.stderr)
        return report.Result(
            sizes=sizes.measure(place),
            at=datetime.now(UTC),
            machine=machine.describe(),
            servers=server_versions(place),
            event_bytes=round(place.clicks.stat().st_size / events),
            runs=runs,
            rolling=restarts,
        )


def _run(place: Ground, name: str, events: int, measure: Callable[[], Measured]) -> report.Run:
    reset(place)
    measured = measure()
    loaded = rows(place)
    if loaded != events:
        raise RuntimeError(f"{name}: {events} events, but {loaded} rows in the table")
    return report.Run(contender=name, events=events, seconds=measured.seconds, cpu_seconds=measured.cpu_seconds)


if __name__ == "__main__":
    sys.exit(main())
