"""Run the contenders in turn, measure what else there is, print tables and targets, and keep every figure."""

import argparse
import signal
import sys
from collections.abc import Sequence

from bench import measuring, report, selfcheck
from bench.contenders import CONTENDERS
from bench.measuring import PARTS, Plan, say
from bench.result import latest, save
from bench.selfcheck import SelfCheck


def main() -> int:
    """Measure; or with --write-readme put the last measurement into README.md and the docs."""
    options = _options()
    if options.write_readme:
        return _write_pages()
    # A terminated benchmark ends its processes like an interrupted one.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    plan = Plan(options.events, options.rounds, full=options.full)
    try:
        if options.only:
            return _complain(measuring.some(plan, options.only))
        result = measuring.measure(plan)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    print(report.everything(result))
    say(f"\nEvery run: {save(result)}")
    return _complain(result.checks)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = (*CONTENDERS, *PARTS)
    parser.add_argument("--events", type=int, default=1_000_000, help="for the floor and the fleet (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--only", nargs="+", choices=names, help="some contenders and parts; nothing is kept")
    parser.add_argument("--full", action="store_true", help="growth too; takes 20 to 40 minutes")
    parser.add_argument("--write-readme", action="store_true", help="put the last measurement into README and docs")
    return parser.parse_args()


def _complain(checks: Sequence[SelfCheck]) -> int:
    """The exit code: a floor that is not what it should be makes every ratio worthless, and 1."""
    failures = selfcheck.failures(checks)
    for failure in failures:
        say(f"THE FLOOR'S CHECK FAILED, {failure}: what is set in relation to it is worth nothing")
    return 1 if failures else 0


def _write_pages() -> int:
    result, full = latest(), latest(full=True)
    if result is None:
        say("no measurement yet: run `make bench` first")
        return 1
    report.write_between_markers(report.README, report.readme(result))
    report.write_between_markers(report.CAPACITY, report.capacity(result))
    report.write_between_markers(report.METHOD, report.detail(result))
    if full is not None:
        report.write_between_markers(report.METHOD, report.growth(full), "growth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
