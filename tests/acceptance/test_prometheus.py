"""A real Prometheus finds and scrapes every worker; promtool has no complaint."""

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bargeline.embedded.ports import choose_port
from tests.acceptance.fleet import Fleet, fleet
from tests.wait import until


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        content: bytes = answer.read()
    return content


def _address(found: Fleet, name: str) -> str:
    address = found.processes()[name].address
    assert address
    return address


def _after_restart(found: Fleet) -> str:
    found.run("restart", "janitor")
    return _address(found, "janitor-01")


def _healthy(port: int) -> set[str]:
    try:
        found: dict[str, Any] = json.loads(_get(f"http://127.0.0.1:{port}/api/v1/targets"))
    except OSError:
        return set()
    return {target["labels"]["consumer"] for target in found["data"]["activeTargets"] if target["health"] == "up"}


@pytest.mark.needs_program("prometheus")
@pytest.mark.timeout(180)
def test_prometheus_scrapes_every_worker_through_http_sd(tmp_path: Path) -> None:
    with fleet(tmp_path / "var", "--transform", "2") as found:
        workers = {process.consumer for process in found.processes().values() if process.consumer}
        config = tmp_path / "prometheus.yml"
        shipped = (Path(__file__).parents[2] / "deploy" / "prometheus.yml").read_text()
        config.write_text(shipped.replace("127.0.0.1:9400", _address(found, "janitor-01")).replace("5s", "1s"))
        port = choose_port(set())
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        with (tmp_path / "prometheus.log").open("wb") as log:
            server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            until(lambda: _healthy(port) == workers, seconds=60, what=f"{workers} to be scraped")
            assert _address(found, "janitor-01") == _after_restart(found), "Prometheus would lose the list of workers"
            query = urllib.parse.quote("max by (pipeline, group) (bargeline_group_lag_events)")
            until(
                lambda: (
                    len(json.loads(_get(f"http://127.0.0.1:{port}/api/v1/query?query={query}"))["data"]["result"]) == 2
                ),
                what="lag of both groups",
            )
        finally:
            server.terminate()
            server.wait(30)


@pytest.mark.needs_program("promtool")
def test_promtool_has_no_complaint(tmp_path: Path) -> None:
    with fleet(tmp_path / "var") as found:
        for name in ("ingest-01", "transform-01", "loader-01", "janitor-01"):
            metrics = _get(f"http://{_address(found, name)}/metrics")
            assert b"bargeline_build_info" in metrics
            done = subprocess.run(
                ["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False, timeout=30
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), name
