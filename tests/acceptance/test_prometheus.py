"""A real Prometheus and a real Alertmanager watch a real fleet, with the files of deploy/."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.prometheus.render import THRESHOLDS
from tests.acceptance.fleet import Fleet, fleet, generated
from tests.acceptance.monitoring import Monitoring, fetch, monitoring
from tests.wait import until

pytestmark = pytest.mark.timeout(180)

#: As shipped → in seconds.
SCALED = {
    '{ age_seconds = 60, window = "1m", for = "1m" }': '{ age_seconds = 3, window = "3s", for = "1s" }',
    '{ age_seconds = 300, window = "5m", for = "1m" }': '{ age_seconds = 4, window = "3s", for = "1s" }',
    '{ age_seconds = 60, for = "2m" }': '{ age_seconds = 2, for = "1s" }',
}
STALLED = ("BargelineNoProgress", "critical", "loader")
LATE = ("BargelineOldestEvent", "warning", "loader")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    var = tmp_path_factory.mktemp("fleet") / "var"
    with fleet(var, "--transform", "2", environment={"SAMPLE_SECONDS": "0.5"}) as running:
        yield running


@pytest.fixture(scope="module")
def watching(found: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    thresholds = THRESHOLDS.read_text()
    for shipped, scaled in SCALED.items():
        assert shipped in thresholds
        thresholds = thresholds.replace(shipped, scaled)
    with monitoring(tmp_path_factory.mktemp("monitoring"), _address(found, "janitor-01"), thresholds) as running:
        yield running


def _address(found: Fleet, name: str) -> str:
    address = found.processes()[name].address
    assert address
    return address


def _value(watching: Monitoring, expression: str) -> float | None:
    series = watching.query(expression)
    return float(series[0]["value"][1]) if series else None


@pytest.mark.needs_program("promtool")
def test_promtool_has_no_complaint_about_the_metrics(found: Fleet) -> None:
    for name in ("ingest-01", "transform-01", "loader-01", "janitor-01"):
        metrics = fetch(f"http://{_address(found, name)}/metrics")
        assert b"bargeline_build_info" in metrics
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False, timeout=30
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), name


@pytest.mark.needs_program("prometheus")
@pytest.mark.needs_program("prometheus-alertmanager")
def test_prometheus_scrapes_every_worker_and_knows_it_again_after_a_restart(found: Fleet, watching: Monitoring) -> None:
    workers = {process.consumer for process in found.processes().values() if process.consumer}
    until(lambda: watching.healthy() == workers, seconds=60, what=f"{workers} to be scraped")
    until(lambda: len(watching.query("pipeline_group:bargeline_group_lag_seconds:max")) == 2, what="both groups")
    assert all("janitor-01" in one["metric"]["instance"] for one in watching.query("bargeline_dead_letter_events"))
    assert watching.query('bargeline_incidents_total{kind="epoch_ended"}'), "the label of the target hides the metric's"
    mine = 'bargeline_consumer_pending_entries{consumer=~".*-loader-01"}'
    until(lambda: watching.query(mine), what="the metrics' own label of the consumer")
    address = _address(found, "janitor-01")
    started = 'process_start_time_seconds{instance=~".*-janitor-01"}'
    before = _value(watching, started)
    found.run("restart", "janitor")
    assert _address(found, "janitor-01") == address, "Prometheus would lose the list of workers"
    until(lambda: _value(watching, started) not in (before, None), what="the new janitor to be scraped")
    assert _value(watching, f"changes({started}[1m])") == 1


@pytest.mark.needs_program("prometheus")
@pytest.mark.needs_program("prometheus-alertmanager")
def test_a_stalled_loader_is_told_and_its_going_on_too(found: Fleet, watching: Monitoring, tmp_path: Path) -> None:
    generated(tmp_path / "clicks.ndjson", 1, 2_000)
    told = watching.notified.told
    with psycopg.connect(found.url("DATABASE_URL")) as locking:
        locking.execute("LOCK TABLE clicks IN SHARE MODE")
        found.run("ingest", str(tmp_path / "clicks.ndjson"))
        until(lambda: watching.alerts().get(STALLED) == "active", seconds=60, what="the alert at Alertmanager")
        until(lambda: watching.alerts().get(LATE) == "suppressed", what="its consequence to be kept quiet")
        until(lambda: [one for one in told("firing") if one["severity"] == "critical"], what="the webhook to be told")
    critical = {
        "alertname": "BargelineNoProgress",
        "severity": "critical",
        "pipeline": "clickstream",
        "group": "loader",
    }
    assert all(one == critical for one in told("firing") if one["severity"] == "critical")
    until(lambda: critical in told("resolved"), seconds=60, what="the webhook to be told that it is over")
    until(lambda: not watching.alerts(), what="Alertmanager to have nothing left")
    assert found.settled(2_000)
