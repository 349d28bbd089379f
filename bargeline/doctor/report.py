"""Findings and checks, and how they are shown."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shared.text import printable

Severity = Literal["error", "warning", "unknown"]
Outcome = Literal["ok", "findings", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, why it matters and what to do; ``code`` is stable, ``figures`` are what it was judged by."""

    code: str
    severity: Severity
    what: str
    why: str
    fix: str
    figures: dict[str, Any] = {}


class Check(msgspec.Struct, frozen=True):
    """One check that was made, or that could not be; ``summary`` is one line."""

    name: str
    outcome: Outcome
    summary: str


class Verdict(msgspec.Struct, frozen=True):
    """What one check found; ``good`` says what is well when it found nothing."""

    good: str
    findings: list[Finding] = []


class Report(msgspec.Struct, frozen=True):
    """Everything that was found."""

    pipeline: str
    findings: list[Finding]
    checks: list[Check]


def unknown(code: str, what: str, fix: str) -> Finding:
    """A check that could not be made."""
    why = "What could not be looked at may be wrong: nothing is passed unseen."
    return Finding(f"{code}_unknown", "unknown", what, why, fix)


def conclude(name: str, verdict: Verdict) -> Check:
    """The check that led to a verdict."""
    if not verdict.findings:
        return Check(name, "ok", verdict.good)
    outcome: Outcome = "unknown" if all(one.severity == "unknown" for one in verdict.findings) else "findings"
    return Check(name, outcome, "; ".join(one.code for one in verdict.findings))


def text(report: Report) -> Iterable[str]:
    """The report for people: findings first, then in one line each what is well."""
    order: dict[Severity, int] = {"error": 0, "warning": 1, "unknown": 2}
    for finding in sorted(report.findings, key=lambda one: order[one.severity]):
        yield printable(f"{finding.severity}: {finding.what} [{finding.code}]")
        yield printable(f"    why: {finding.why}")
        yield printable(f"    do:  {finding.fix}")
    if report.findings:
        yield ""
    for check in report.checks:
        if check.outcome == "ok":
            yield printable(f"ok: {check.name}: {check.summary}")
    for check in report.checks:
        if check.outcome == "unknown":
            yield printable(f"not checked: {check.name}: {check.summary}")
    count = len(report.findings)
    yield f"{report.pipeline}: {count} finding{'' if count == 1 else 's'}, {len(report.checks)} checks"
