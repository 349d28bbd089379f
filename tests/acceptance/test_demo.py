"""`bargeline demo`: without a terminal, interrupted, and run again."""

import signal
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, assert_exact, generated
from tests.wait import until

EVENTS = 200_000


@pytest.mark.timeout(240)
def test_interrupted_then_run_again_loads_everything_once(tmp_path: Path) -> None:
    truth = generated(tmp_path / "same.ndjson", seed=1, count=EVENTS)
    found = Fleet(tmp_path / "var")
    try:
        first = found.start("demo", "--events", str(EVENTS))
        until((tmp_path / "var/demo" / f"clicks-{EVENTS}.ndjson").exists, seconds=90, what="the sample")
        until(lambda: found.has_loaded(0), seconds=60, what="events to flow")
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 130, errors

        second = found.run("demo", "--events", str(EVENTS))
        assert "timezone" in second.stdout
        assert "balanced" in second.stdout
        assert "/metrics" in second.stdout
        assert_exact(found, truth, found.url("DATABASE_URL"))

        third = found.run("demo", "--events", str(EVENTS))
        assert "nothing was loaded twice" in third.stdout
        assert_exact(found, truth, found.url("DATABASE_URL"))
    finally:
        found.run("down", "--delete-data")
    assert all(process.pid is None for process in found.processes().values())
