"""Every query of every dashboard returns data from a real Prometheus that scrapes real workers in trouble."""

import json
import math
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bargeline.embedded import throwaway
from bargeline.embedded.ports import choose_port
from deploy.grafana.build import FOLDER
from shared.generate import write_clicks
from shared.streams import Client
from shared.topology import Topology
from tests import workers
from tests.acceptance.monitoring import DEPLOY, fetch_json
from tests.wait import until
from tests.workers import Worker

PIPELINE = "dashboards"
EVENTS = 30_000
#: Without a loader this much makes ingest wait.
HIGH_WATER = 5_000
SCRAPE_SECONDS = 1
#: Half a dozen processes start, beside those of other tests.
PATIENCE_SECONDS = 60
#: As Grafana has it: at least four scrapes.
RATE_INTERVAL = f"{4 * SCRAPE_SECONDS}s"
TRANSFORM = """
import os
import time
from pathlib import Path

from bargeline import InvalidEvent

HELD = Path(__file__).with_name("held")


def treacherous(event):
    match event.data["click_id"]:
        case "hangs" if not HELD.exists():
            HELD.write_text(str(os.getpid()))
            time.sleep(60)
        case "fails":
            raise RuntimeError("never")
        case "invalid":
            raise InvalidEvent("not this one")
        case "bot":
            return None
    return event
"""
#: What shows 0 throughout, in health and here: the books balance, the breaker was not needed.
ZERO_IS_RIGHT = {"Imbalance", "Imbalance of the ledger", "Breaker", "Garbage collections", "Objects collected"}


@dataclass(frozen=True)
class Prometheus:
    """A server that runs, and since when it scrapes."""

    url: str
    since: float

    def asked(self, path: str, **parameters: Any) -> Any:
        found = fetch_json(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        return found["data"] if found else None

    def healthy(self) -> set[str]:
        targets = (self.asked("targets") or {"activeTargets": ()})["activeTargets"]
        return {target["labels"]["instance"] for target in targets if target["health"] == "up"}

    def course(self, expression: str) -> list[dict[str, Any]]:
        """What a panel over the whole test shows: series with their finite values."""
        found = self.asked("query_range", query=expression, start=self.since, end=time.time(), step=SCRAPE_SECONDS)
        for series in found["result"]:
            series["values"] = [float(text) for _, text in series["values"] if math.isfinite(float(text))]
        return [series for series in found["result"] if series["values"]]

    def present(self, expression: str) -> list[dict[str, Any]]:
        """What a panel of the present value shows."""
        result: list[dict[str, Any]] = self.asked("query", query=expression)["result"]
        return [series for series in result if math.isfinite(float(series["value"][1]))]


@contextmanager
def prometheus(folder: Path, targets: str) -> Iterator[Prometheus]:
    """A Prometheus with the scrape configuration that is shipped, once a second."""
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    text = yaml.safe_dump({key: shipped[key] for key in ("global", "scrape_configs")})
    config = folder / "prometheus.yml"
    config.write_text(text.replace("127.0.0.1:9400", targets).replace(": 5s", f": {SCRAPE_SECONDS}s"))
    url = f"127.0.0.1:{choose_port(set())}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'series'}"]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address={url}"], stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://{url}", time.time())
    finally:
        server.terminate()
        server.wait(30)


def _pipeline(folder: Path) -> Path:
    limits = f"high_water_events = {HIGH_WATER}\nretention_events = 0\nmax_attempts = 2\nretry_delays_seconds = [3]\n"
    edits = {"[ingest]": f"{limits}[ingest]", "transform:enrich": "transform:treacherous", "\nmodel = ": "\n# "}
    (folder / "inbox").mkdir(parents=True)
    return workers.make_pipeline(folder, PIPELINE, transform=TRANSFORM, edits=edits)


def _clicks(path: Path) -> Path:
    """Clicks of which some fail, are refused or filtered, one hangs, and some lines are no JSON."""
    write_clicks(path, 3, EVENTS)
    lines = path.read_text().splitlines()
    special = {200: "hangs", **dict.fromkeys(range(300, 330), "fails"), 340: "invalid", 341: "bot"}
    for index, click_id in special.items():
        lines[index] = json.dumps({**json.loads(lines[index]), "click_id": click_id})
    lines[350:360] = ["{"] * 10
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def _in_trouble(redis_url: str, database_url: str, folder: Path) -> Iterator[Prometheus]:
    """A fleet to which happens what the panels are there to show."""
    given: dict[str, Any] = {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}
    given |= {"SAMPLE_SECONDS": 0.5, "JANITOR_SWEEP_SECONDS": 0.5, "JANITOR_REPAIR_SECONDS": 1}
    # It is killed, and comes back where Prometheus knows it already.
    ingest: dict[str, Any] = {"CONSUMER_NAME": "ingest", "METRICS_PORT": choose_port(set()), "INGEST_WATCH": True}
    ingest |= {"INGEST_PATH": folder / "inbox" / "*.ndjson"}
    killed = workers.start("ingest", **given, **ingest)
    try:
        with (
            closing(Client(redis_url, Topology(PIPELINE))) as client,
            workers.running("janitor", "transform", "transform", **given) as started,
            prometheus(folder, started[0].records(action="start")[-1]["metrics"]) as server,
        ):
            client.call("XGROUP", "CREATE", client.topology.stream("raw"), "auditor", "0")
            _wait_for_scrapes(server, killed, *started)
            _clicks(folder / "clicks").rename(folder / "inbox" / "first.ndjson")
            _kill_who_hangs(folder / "held", started)
            _delete_what_waits(server, client)
            workers.end(killed)
            with workers.running("loader", **given) as loaders, workers.running("ingest", **given, **ingest):
                _wait_for_scrapes(server, killed, *loaders)
                write_clicks(folder / "clicks", 4, EVENTS)
                (folder / "clicks").rename(folder / "inbox" / "second.ndjson")
                yield server
    finally:
        workers.end(killed)


def _wait_for_scrapes(server: Prometheus, *expected: Worker) -> None:
    names = {one.name for one in expected}
    until(lambda: names <= server.healthy(), PATIENCE_SECONDS, what=f"{names} to be scraped")


def _kill_who_hangs(held: Path, started: list[Worker]) -> None:
    pid = until(lambda: held.exists() and held.read_text(), PATIENCE_SECONDS, what="a worker to hang")
    (hangs,) = (one for one in started if str(one.pid) == pid)
    hangs.kill()
    hangs.wait()


def _delete_what_waits(server: Prometheus, client: Client) -> None:
    """Without a loader clean fills up; then somebody deletes an entry that was not read."""
    full = "bargeline_backpressure_active == 1"
    until(
        lambda: len({one["metric"]["stage"] for one in server.present(full)}) == 2,
        PATIENCE_SECONDS,
        what="pressure on both stages",
    )
    clean = client.topology.stream("clean")
    ((newest, _),) = client.call("XREVRANGE", clean, "+", "-", "COUNT", 1)
    assert client.call("XDEL", clean, newest) == 1


def _chosen(server: Prometheus, dashboard: dict[str, Any]) -> dict[str, str]:
    """Variables of a dashboard as Grafana fills them in: the first value, or all where several can be chosen."""
    found = {"__rate_interval": RATE_INTERVAL}
    for variable in dashboard["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        values = server.asked(f"label/{label}/values", **{"match[]": _filled(selector, found)})
        escaped = [re.escape(one).replace("\\", "\\\\") for one in values]
        found[variable["name"]] = f"({'|'.join(escaped)})" if variable["multi"] else values[0]
    return found


def _filled(query: str, chosen: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]], query)


def _queries(server: Prometheus) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Title of the panel, target and query as Grafana would send it, of every panel of every dashboard."""
    for path in sorted(FOLDER.iterdir()):
        dashboard = json.loads(path.read_text())
        chosen = _chosen(server, dashboard)
        assert chosen["pipeline"] == PIPELINE
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], target, _filled(target["expr"], chosen)


def _shows(server: Prometheus, title: str, target: dict[str, Any], query: str) -> bool:
    """Whether a query has data, each series all labels of its legend, and one of them something to show."""
    labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    course = server.course(query)
    named = all(labels <= set(series["metric"]) for series in course)
    answered = not target["instant"] or server.present(query)
    told = title in ZERO_IS_RIGHT or any(any(series["values"]) for series in course)
    return bool(answered and course and named and told)


@pytest.mark.needs_program("prometheus")
@pytest.mark.timeout(180)
def test_every_query_of_every_panel_returns_data(database_url: str, tmp_path: Path) -> None:
    process, redis_url = throwaway.start_valkey(tmp_path / "valkey", "--maxmemory", "500mb")
    try:
        with _in_trouble(redis_url, database_url, _pipeline(tmp_path / "p")) as server:
            for title, target, query in _queries(server):
                until(partial(_shows, server, title, target, query), PATIENCE_SECONDS, what=f"{title}: {query}")
    finally:
        throwaway.stop(process)
