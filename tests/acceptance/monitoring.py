"""A real Prometheus, a real Alertmanager, and somebody who is notified, with the shipped configuration."""

import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from bargeline.embedded.ports import choose_port

DEPLOY = Path(__file__).parents[2] / "deploy"


def fetch(url: str) -> bytes:
    """The body of a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise
    return content


def fetch_json(url: str) -> Any:
    """A JSON document; None while nobody answers."""
    try:
        return json.loads(fetch(url))
    except OSError:
        return None


@dataclass
class Notified:
    """What Alertmanager's receiver was told: name, severity, group and status of each alert, in order."""

    url: str
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def told(self, status: str) -> list[dict[str, str]]:
        """Labels of the alerts that it was told of, with this status."""
        return [alert["labels"] for alert in list(self.alerts) if alert["status"] == status]


@contextmanager
def receiver() -> Iterator[Notified]:
    """A webhook on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notified.alerts += json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
            """The test tells what it saw."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        notified = Notified(f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield notified
        server.shutdown()


@dataclass(frozen=True)
class Monitoring:
    """Addresses of both servers."""

    prometheus: str
    alertmanager: str
    notified: Notified

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that Prometheus answers a query with."""
        found = fetch_json(f"{self.prometheus}/api/v1/query?query={urllib.parse.quote(expression)}")
        result: list[dict[str, Any]] = found["data"]["result"] if found else []
        return result

    def healthy(self) -> set[str]:
        """Instances of the targets that Prometheus scrapes well."""
        found = fetch_json(f"{self.prometheus}/api/v1/targets")
        targets = found["data"]["activeTargets"] if found else []
        return {target["labels"]["instance"] for target in targets if target["health"] == "up"}

    def alerts(self) -> dict[tuple[str, str, str], str]:
        """What Alertmanager has: (alert, severity, group) → active or suppressed."""
        found = fetch_json(f"{self.alertmanager}/api/v2/alerts") or []
        return {
            (one["labels"]["alertname"], one["labels"]["severity"], one["labels"].get("group", "")): one["status"][
                "state"
            ]
            for one in found
        }


@contextmanager
def monitoring(folder: Path, targets: str, thresholds: str) -> Iterator[Monitoring]:
    """Both servers with the shipped files, scraping once a second what a janitor at ``targets`` lists.

    ``thresholds`` is the text of a thresholds file.
    """
    manager, port = choose_port(set()), choose_port(set())
    with receiver() as notified:
        alertmanager = [
            "prometheus-alertmanager",
            f"--config.file={_alertmanager_config(folder, notified.url)}",
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{manager}",
            "--cluster.listen-address=",
        ]
        prometheus = [
            "prometheus",
            f"--config.file={_prometheus_config(folder, targets, manager, thresholds)}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--rules.alert.resend-delay=1s",
        ]
        with _running(folder / "alertmanager.log", alertmanager), _running(folder / "prometheus.log", prometheus):
            yield Monitoring(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{manager}", notified)


def _prometheus_config(folder: Path, targets: str, manager: int, thresholds: str) -> Path:
    home = folder / "prometheus"
    shutil.copytree(DEPLOY / "prometheus", home)
    (home / "thresholds.toml").write_text(thresholds)
    command = [sys.executable, "-m", "deploy.prometheus.render", "--thresholds", str(home / "thresholds.toml")]
    subprocess.run([*command, "--output", str(home / "rules" / "alerts.yml")], check=True, cwd=DEPLOY.parent)
    config = home / "prometheus.yml"
    text = config.read_text().replace("127.0.0.1:9400", targets).replace("127.0.0.1:9093", f"127.0.0.1:{manager}")
    config.write_text(text.replace(": 5s", ": 1s"))
    return config


def _alertmanager_config(folder: Path, webhook: str) -> Path:
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"][0]["url"] = webhook
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def _running(log: Path, command: Sequence[str]) -> Iterator[None]:
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield
        finally:
            server.terminate()
            server.wait(30)
