"""The dashboards and their provisioning, looked at without a server."""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from deploy.grafana.build import FOLDER, rendered
from shared.metrics import COUNTERS, GAUGES, HISTOGRAMS, SAMPLED_COUNTERS, Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(rendered())
#: Labels that Prometheus gives, and those of a histogram's buckets.
GIVEN_LABELS = {"instance", "job", "le"}
#: A janitor's list of workers tells the pipeline of a process.
PYTHON_LABELS = {"generation", "pipeline"}
GRAFANA_VARIABLES = {"__rate_interval", "__all"}
WIDTH = 24


def _dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def _panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in _dashboard(name)["panels"] if panel["type"] != "row"]


def _targets() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in FILES:
        for panel in _panels(name):
            for target in panel.get("targets", ()):
                yield f"{name}: {panel['title']}", target


TARGETS = list(_targets())
IDS = [f"{place} {target['refId']}" for place, target in TARGETS]


def _labels_of_metrics() -> dict[str, set[str]]:
    """Metric as Prometheus stores it → its labels."""
    found = {f"bargeline_{name}": set(labels) for name, (_, labels) in GAUGES.items()}
    for name, (_, labels) in (SAMPLED_COUNTERS | COUNTERS).items():
        found[f"bargeline_{name}_total"] = set(labels)
    for name, part in itertools.product(HISTOGRAMS, ("bucket", "sum", "count")):
        found[f"bargeline_{name}_{part}"] = {"pipeline", "stage"}
    exported = generate_latest(Metrics("p", "janitor").registry).decode()
    for name in re.findall(r"^((?:process|python)_\w+)", exported, re.MULTILINE):
        found[name] = PYTHON_LABELS
    return found


def test_the_files_are_what_the_code_says() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == FILES
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == rendered(), "run `make reference`"


def test_each_dashboard_has_an_address_and_a_name_of_its_own() -> None:
    dashboards = [_dashboard(name) for name in FILES]
    for key in ("uid", "title", "description"):
        assert len({one[key] for one in dashboards}) == len(FILES)
    for one in dashboards:
        assert re.fullmatch(r"[a-z-]{8,40}", one["uid"])
        assert one["tags"] == [tag for link in one["links"] for tag in link["tags"]], "they link to each other by tag"


@pytest.mark.parametrize("name", FILES)
def test_panels_fill_the_page_without_a_gap_or_an_overlap(name: str) -> None:
    panels = _dashboard(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for place in (panel["gridPos"],)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    bottom = max(y for _, y in taken) + 1
    assert sorted(taken) == sorted(itertools.product(range(WIDTH), range(bottom)))


@pytest.mark.parametrize("name", FILES)
def test_each_panel_says_what_it_shows_and_in_which_unit(name: str) -> None:
    for panel in _panels(name):
        assert panel["title"]
        assert panel["description"].endswith(".")
        if panel["type"] == "text":
            assert panel["options"]["content"]
            continue
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert re.search(r"[Ww]orry|Act ", panel["description"]), f"{panel['title']}: when?"
    titles = [panel["title"] for panel in _panels(name)]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(("place", "target"), TARGETS, ids=IDS)
def test_each_query_asks_for_what_there_is(place: str, target: dict[str, Any]) -> None:
    known = _labels_of_metrics()
    metrics = re.findall(r"([a-z_]+)\{", target["expr"])
    assert set(metrics) <= set(known), place
    labels = set().union(*(known[name] for name in metrics)) | GIVEN_LABELS
    named = re.findall(r"(\w+)!?=~?\"", target["expr"])
    for inside in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", target["expr"]):
        named += inside.split(", ")
    assert set(named) | set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, place


@pytest.mark.parametrize("name", FILES)
def test_each_variable_of_a_query_can_be_chosen_above(name: str) -> None:
    dashboard = _dashboard(name)
    chosen = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert chosen[:2] == ["datasource", "pipeline"]
    variables = [json.dumps(one) for one in dashboard["templating"]["list"]]
    panels = json.dumps(dashboard["panels"])
    used = set(re.findall(r"\$\{?(\w+)", panels + "".join(variables)))
    assert used - GRAFANA_VARIABLES == set(chosen)
    for panel in _panels(name):
        for asked in (panel, *panel.get("targets", ())) if panel["type"] != "text" else ():
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_gauges_that_many_processes_export_are_taken_once() -> None:
    own = {"bargeline_build_info", "bargeline_group_verdict"}
    shared = {f"bargeline_{name}" for name in GAUGES} | {f"bargeline_{name}_total" for name in SAMPLED_COUNTERS}
    for place, target in TARGETS:
        for name in shared - own:
            for found in re.finditer(rf"{name}\{{", target["expr"]):
                before = target["expr"][: found.start()]
                assert re.search(r"max by \(pipeline(, \w+)*\) \((rate\()?$", before), place


@pytest.mark.needs_program("promtool")
def test_each_query_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{number}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for number, (_, target) in enumerate(TARGETS)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert f"{len(TARGETS)} rules found" in done.stdout


def _yaml(*path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(DEPLOY.joinpath(*path).read_text())
    return found


def test_grafana_is_provisioned_with_what_compose_starts() -> None:
    (source,) = _yaml("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"]
    (provider,) = _yaml("grafana", "provisioning", "dashboards", "bargeline.yaml")["providers"]
    services = _yaml("compose.yaml")["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    scraped = _yaml("prometheus", "prometheus-compose.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped, "rates would be taken over too few scrapes"
    mounts = [mount.split(":")[:2] for mount in services["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"]] in mounts
    assert ["./grafana/provisioning", "/etc/grafana/provisioning"] in mounts
