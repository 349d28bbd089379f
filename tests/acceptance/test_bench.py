"""The benchmark runs, checks what it counts, and leaves no process behind."""

from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from bench import growth, measuring, report, stage
from bench.contenders import CONTENDERS
from bench.ground import ground, part
from bench.targets import TARGETS
from shared.topology import KINDS

SERVERS = {"postgres", "valkey"}


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.acceptance
def test_a_small_measurement() -> None:
    plan = measuring.Plan(
        # So many that the floor's COPY takes some ticks of 10 ms, the kernel's unit of CPU time, on any machine.
        events=20_000,
        rounds=1,
        rates=(2_000,),
        latency_seconds=0.5,
        kills=(("loader", 1),),
        rolling_workers=(1,),
        idle_seconds=0.5,
        http_seconds=0.5,
    )
    result = measuring.measure(plan)
    assert [run.contender for run in result.runs] == list(CONTENDERS)
    assert [run.events for run in result.runs] == [20_000, 20_000, 10_000, 10_000, 60]
    (floor,) = result.of("floor")
    assert floor.cpu_seconds["postgres"] > 0
    (fleet,) = result.of("fleet2")
    assert fleet.cpu_seconds.keys() == {*KINDS, *SERVERS, "tools"}
    assert Counter(name.partition("-")[0] for name in fleet.peak_bytes) == {**dict.fromkeys(KINDS, 1), "loader": 2}
    (latency,) = result.latency
    assert 0 < latency.sync_ms < latency.p50_ms <= latency.p99_ms <= latency.p999_ms
    (recovered,) = result.recovery
    assert recovered.next_seconds > 0
    (restarted,) = result.rolling
    assert (restarted.workers, restarted.restarts) == (1, 4)
    assert restarted.longest_pause_seconds > restarted.calm_pause_seconds > 0
    assert result.http.requests > 0
    assert 0 < result.http.p50_ms <= result.http.p99_ms
    assert 0 < result.sizes.raw_bytes["zstd"] < result.sizes.raw_bytes["json"]
    page = report.everything(result)
    assert all(target.name in page for target in TARGETS)


@pytest.mark.acceptance
@pytest.mark.slow
def test_a_little_growth() -> None:
    with ground(40_000) as place:
        rates = growth.by_table_rows(part(place, 2_000), sizes=(0, 4_000), events=1_000, rounds=2)
        assert rates.keys() == {0, 4_000}
        assert 0 < stage.measure(place, 2, stage.COSTLY) < 20_000
        drained = growth.drain(place, per_second=500, stopped_seconds=0.5)
        assert drained.waiting_events > 0
