"""The benchmark runs, checks what it counts, and leaves no process behind."""

import psutil
import pytest

from bench import __main__ as bench
from bench.report import CONTENDERS, markdown


@pytest.mark.acceptance
def test_a_small_measurement() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    result = bench._measure(events=2_000, naive_events=20, rounds=1, rolling_workers=[1])
    assert [run.contender for run in result.runs] == list(CONTENDERS)
    assert all(run.seconds > 0 and run.cpu_seconds > 0 for run in result.runs)
    (restarted,) = result.rolling
    assert (restarted.workers, restarted.restarts) == (1, 4)
    assert restarted.longest_pause_seconds > restarted.calm_pause_seconds > 0
    assert "**Bargeline**" in markdown(result)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
