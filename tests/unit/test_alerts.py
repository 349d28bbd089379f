"""The alert rules: current, known to the runbook, and tested at each level by promtool, firing and not firing."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.render import LEVELS, RULES, TEMPLATE, THRESHOLDS, render
from shared.metrics import COUNTERS, GAUGES, HISTOGRAMS, SAMPLED_COUNTERS
from tests.unit.alert_cases import CASES, Case
from tests.unit.alert_scenes import SCENES

PROMETHEUS = RULES.parents[1]
ALERTMANAGER = PROMETHEUS.parent / "alertmanager" / "alertmanager.yml"
RECORDING = RULES.parent / "recording.yml"
DOCUMENT = yaml.safe_load(RULES.read_text())
ALERTS: list[dict[str, Any]] = DOCUMENT["groups"][0]["rules"]
RECORDED: list[dict[str, Any]] = yaml.safe_load(RECORDING.read_text())["groups"][0]["rules"]
_IDS = [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
#: What Prometheus and its client library add.
FOREIGN_METRICS = {"up", "process_start_time_seconds"}
FOREIGN_LABELS = {"job", "instance", "kind", "worker", "le"}


def check(command: Sequence[str | Path]) -> str:
    """Run a program to its end; its output, where it has a complaint."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_current() -> None:
    assert RULES.read_text() == render(TEMPLATE.read_text(), tomllib.loads(THRESHOLDS.read_text())), "make reference"


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [
        ({"BargelineNoProgres": {}}, "BargelineNoProgres: there is no such alert; there are Bargeline"),
        ({"BargelineBlind": {"warning": 5}}, "BargelineBlind, warning: 5 is not a value for each of for"),
        ({"BargelineBreakerOpen": {"page": {"for": "0s"}}}, "BargelineBreakerOpen: page is no level"),
        ({"BargelineBreakerOpen": {"warning": {}}}, "BargelineBreakerOpen, warning: {} is not a value for each of for"),
        (
            {"BargelinePressure": {"warning": {"for": "1m", "shares": 1}}},
            "BargelinePressure, warning: {'for': '1m', 'shares': 1} is not a value for each of for, share",
        ),
    ],
)
def test_thresholds_that_do_not_fit_are_an_error_that_names_the_place(
    thresholds: dict[str, dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        render(TEMPLATE.read_text(), thresholds)


def test_a_level_that_is_deleted_is_not_rendered() -> None:
    rules = yaml.safe_load(render(TEMPLATE.read_text(), {"BargelineBlind": {"critical": {"for": "9s"}}}))
    (rule,) = rules["groups"][0]["rules"]
    assert (rule["alert"], rule["for"], rule["labels"]) == ("BargelineBlind", "9s", {"severity": "critical"})


def _rendered_by_command(thresholds: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Without any installed package: it has to run where Prometheus does."""
    module = [sys.executable, "-S", "-m", "deploy.prometheus.render"]
    command = [*module, "--thresholds", str(thresholds), "--output", str(output)]
    return subprocess.run(command, cwd=PROMETHEUS.parents[1], capture_output=True, text=True, check=False, timeout=60)


def test_the_command_needs_nothing_but_python(tmp_path: Path) -> None:
    assert _rendered_by_command(THRESHOLDS, tmp_path / "alerts.yml").returncode == 0
    assert (tmp_path / "alerts.yml").read_text() == RULES.read_text()


def test_the_command_leaves_the_rules_alone_when_the_thresholds_cannot_be_read(tmp_path: Path) -> None:
    thresholds, output = tmp_path / "thresholds.toml", tmp_path / "alerts.yml"
    output.write_text("before")
    for content, complaint in (("[BargelineBlind", "Expected"), ("[Blind]", "there is no such alert")):
        thresholds.write_text(content)
        done = _rendered_by_command(thresholds, output)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {thresholds}: ")
        assert complaint in done.stderr
    assert output.read_text() == "before"


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    for rule in ALERTS:
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in LEVELS
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert len(rule["annotations"]["description"]) > 80
    severities = {name: {severity for alert, severity in _IDS if alert == name} for name, _ in _IDS}
    assert {name for name, found in severities.items() if found != set(LEVELS)} == {
        "BargelineNoTargets", "BargelineIngestGone", "BargelineBreakerOpen"
    }  # fmt: skip


def _exported() -> dict[str, set[str]]:
    """Series name → labels."""
    found = {f"bargeline_{name}": set(labels) for name, (_, labels) in GAUGES.items()}
    for name, (_, labels) in (COUNTERS | SAMPLED_COUNTERS).items():
        found[f"bargeline_{name}_total"] = set(labels)
    return found | {f"bargeline_{name}_bucket": {"pipeline", "stage"} for name in HISTOGRAMS}


def _unknown(expression: str, recorded: Iterable[str]) -> set[str]:
    """Metrics and labels of an expression that nothing exports."""
    exported = _exported()
    text = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"\b(?:bargeline|process|up)(?:_\w+)?\b(?!:)", re.sub(r"\b\w+:\w+:\w+\b", "", text)))
    found = names - set(exported) - FOREIGN_METRICS
    found |= set(re.findall(r"\b\w+:\w+:\w+\b", text)) - set(recorded)
    labels = set().union(*(exported.get(name, set()) for name in names), FOREIGN_LABELS, {"pipeline", "group"})
    for inside in re.findall(r"\{([^}]*)\}", text):
        found |= set(re.findall(r"(\w+) *[=!]", inside)) - labels
    for inside in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
        found |= {name.strip() for name in inside.split(",")} - labels
    return found


def test_every_metric_and_label_in_a_rule_is_exported() -> None:
    recorded = [rule["record"] for rule in RECORDED]
    for rule in (*RECORDED, *ALERTS):
        assert not _unknown(rule["expr"], recorded), rule["expr"]
    assert _unknown('max by (colour) (bargeline_group_lag{state="x"}) > a:b:c', recorded) == {
        "colour", "bargeline_group_lag", "state", "a:b:c"
    }  # fmt: skip


def test_recording_rules_follow_the_naming_convention() -> None:
    for rule in RECORDED:
        level, metric, operation = rule["record"].split(":")
        assert re.fullmatch(r"bargeline_\w+", metric)
        assert operation
        for label in level.split("_"):
            assert label in rule["expr"] or "pipeline_group:" in rule["expr"], rule["record"]


@pytest.mark.needs_program("promtool")
def test_promtool_and_amtool_have_no_complaint() -> None:
    for name in ("prometheus.yml", "prometheus-compose.yml"):
        assert not check(["promtool", "check", "config", PROMETHEUS / name])
    assert not check(["promtool", "check", "rules", RULES, RECORDING])


@pytest.mark.needs_program("amtool")
def test_amtool_has_no_complaint() -> None:
    assert not check(["amtool", "check-config", ALERTMANAGER])


def test_inhibition_names_alerts_that_there_are() -> None:
    names = {name for name, _ in _IDS}
    for rule in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            found = re.fullmatch(r'alertname(?:=~|!=|=)"(.+)"', matcher)
            for pattern in found[1].split("|") if found else ():
                assert any(re.fullmatch(pattern, name) for name in names), pattern


def _write(folder: Path, name: str, alerts: list[dict[str, Any]], tests: list[dict[str, Any]], every: str) -> Path:
    """A test file of promtool with its rules: these alerts, and what is recorded for them."""
    recorded = _needed(alerts)
    groups = [{"name": "recorded", "rules": recorded}, {"name": "alerts", "rules": alerts}]
    (folder / f"{name}.rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    document = {
        "rule_files": [f"{name}.rules.yml"],
        "evaluation_interval": every,
        "group_eval_order": ["recorded", "alerts"],
        "tests": tests,
    }
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _needed(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [one for one in RECORDED if any(one["record"] in json.dumps(rule) for rule in rules)]
    return _needed([*rules, *found]) if any(one not in rules for one in found) else found


def _cases(folder: Path, alerts: list[dict[str, Any]]) -> str:
    """What promtool has to complain about the cases, with each only the rules that it is about."""
    files = [
        _write(
            folder,
            name,
            [rule for rule in alerts if rule["alert"] == name],
            [_test(case) for case in CASES if case.alert == name],
            "15s",
        )
        for name in sorted({name for name, _ in _IDS})
    ]
    return check(["promtool", "test", "rules", *files])


def _test(case: Case) -> dict[str, Any]:
    """A case in promtool's form."""
    own = f'alertname="{case.alert}",severity="{case.severity}"'
    labels = "".join(f',{name}="{value}"' for name, value in (case.fires or {}).items())
    firing = {"labels": f'ALERTS{{{own},alertstate="firing"{labels}}}', "value": 1}
    test: dict[str, Any] = {
        "name": case.name,
        "interval": "15s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{{own},alertstate="firing"}}',
                "eval_time": case.at,
                "exp_samples": [] if case.fires is None else [firing],
            }
        ],
    }
    if case.summary:
        (rule,) = [one for one in ALERTS if (one["alert"], one["labels"]["severity"]) == (case.alert, case.severity)]
        description = rule["annotations"]["description"].replace(
            "{{ $labels.group }}", (case.fires or {}).get("group", "")
        )
        told = {**rule["annotations"], "summary": case.summary, "description": description}
        expected = {"exp_labels": {**(case.fires or {}), "severity": case.severity}, "exp_annotations": told}
        test["alert_rule_test"] = [{"alertname": case.alert, "eval_time": case.at, "exp_alerts": [expected]}]
    return test


def test_every_alert_is_tested_at_each_level_firing_and_not_firing_and_its_text_once() -> None:
    assert {(case.alert, case.severity) for case in CASES if case.fires is not None} == set(_IDS)
    assert {(case.alert, case.severity) for case in CASES if case.fires is None} == set(_IDS)
    assert {case.alert for case in CASES if case.summary} == {name for name, _ in _IDS}


def test_what_does_not_fire_has_the_same_metrics_as_what_does() -> None:
    """Else a series with a misspelt name would be proof of silence."""
    for alert, severity in _IDS:
        firing, quiet = (
            [
                _names(case)
                for case in CASES
                if (case.alert, case.severity, case.fires is None) == (alert, severity, want)
            ]
            for want in (False, True)
        )
        assert all(any(names <= other for names in firing) for other in quiet), (alert, severity)


def _names(case: Case) -> set[str]:
    return {series.partition("{")[0] for series in case.series}


@pytest.mark.needs_program("promtool")
def test_alerts_fire_and_do_not_fire(tmp_path: Path) -> None:
    assert not _cases(tmp_path, ALERTS)


@pytest.mark.needs_program("promtool")
def test_without_the_rules_each_case_that_fires_fails(tmp_path: Path) -> None:
    complaints = _cases(tmp_path, [])
    assert complaints.count('expr: "ALERTS{') == sum(case.fires is not None for case in CASES)


@pytest.mark.needs_program("promtool")
def test_nothing_fires_where_nothing_is_wrong(tmp_path: Path) -> None:
    tests = [
        {
            "name": scene,
            "interval": "15s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": []}
                for minute in range(1, 31)
            ],
        }
        for scene, series in SCENES.items()
    ]
    assert not check(["promtool", "test", "rules", _write(tmp_path, "scenes", ALERTS, tests, "30s")])
