"""Dead letters, retries, the ledger and the high-water marks."""

from datetime import UTC, datetime

from bargeline.doctor.report import Finding, Verdict
from shared.accounting import Balance
from shared.events import rfc3339
from shared.streams.diagnose import Letters

#: The janitor moves retries every second: one that was due for longer, nobody moves.
RETRY_OVERDUE_SECONDS = 60


def dead_letters(found: Letters) -> Verdict:
    """Whether events could not be processed."""
    if not found.total:
        return Verdict("none")
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    of = "" if found.looked_at == found.total else f" of the newest {found.looked_at}"
    newest = _time_of(found.newest)
    return Verdict(
        "",
        [
            Finding(
                "dead_letters",
                "warning",
                f"There are {found.total:,} dead letters ({reasons}{of}); the newest is of {newest}.",
                "These events were accepted and are in no table.",
                "Read them with `bargeline tail dead`: each says its reason, its error and where it came from. Correct "
                "the sender, the transform or the table.",
                {"total": found.total, "reasons": found.reasons, "looked_at": found.looked_at, "newest": newest},
            )
        ],
    )


def _time_of(entry_id: str | None) -> str:
    if entry_id is None:
        return "unknown"
    return rfc3339(datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC))


def retries(waiting: int, overdue: int) -> Verdict:
    """Whether retried events go back when they are due."""
    if not overdue:
        return Verdict(f"{waiting:,} wait for another attempt, none overdue")
    return Verdict(
        "",
        [
            Finding(
                "retry_overdue",
                "error",
                f"{overdue:,} of {waiting:,} retried events were due more than {RETRY_OVERDUE_SECONDS} s ago.",
                "They wait for a janitor to move them back; until then they are in no table.",
                "Start a janitor: `bargeline up`, or `python -m workers.janitor`.",
                {"waiting": waiting, "overdue": overdue},
            )
        ],
    )


def ledger(found: Balance) -> Verdict:
    """Whether the books of the current epoch add up."""
    if not found.imbalance and not found.findings:
        epoch = "no epoch yet" if found.epoch is None else f"epoch {found.epoch} balanced"
        return Verdict(f"{epoch}, {found.accepted + found.foreign:,} events came in")
    return Verdict(
        "",
        [
            Finding(
                "imbalance",
                "error",
                f"The ledger does not add up: {found.imbalance:,} events cannot be shown"
                + "".join(f"; {one}" for one in found.findings)
                + ".",
                "Somebody changed streams, hashes or the ledger by hand, or Redis lost writes.",
                "`bargeline reconcile` shows the whole sum. What is unsettled goes on; replayable sources can be read "
                "again without loading anything twice.",
                {"imbalance": found.imbalance, "findings": found.findings},
            )
        ],
    )


def breakers(stopped: dict[str, str]) -> Verdict:
    """Whether the dead-letter breaker stopped a stage; ``stopped``: kind of worker → why."""
    found = [
        Finding(
            "breaker_open",
            "error",
            f"Every {kind} worker stopped consuming at {why}.",
            "More than breaker_ratio of the events became dead letters: mostly a deploy that broke something.",
            f"See `bargeline tail dead`, correct the cause, then `bargeline resume {kind}`.",
            {"kind": kind, "why": why},
        )
        for kind, why in stopped.items()
    ]
    return Verdict("no stage stopped", found)


def high_water(unsettled: dict[str, int], mark: int) -> Verdict:
    """Whether a stage is full, so that writers to it wait."""
    found = [
        Finding(
            "high_water",
            "warning",
            f"Stage {stage} holds {events:,} unsettled events, its mark is {mark:,}.",
            "Whoever writes to it waits: the pressure flows upstream to the sources.",
            "See why the next stage is slow or away; then more of its workers, or a higher high_water_events in the "
            "pipeline file if Redis has the memory.",
            {"stage": stage, "unsettled_events": events, "high_water_events": mark},
        )
        for stage, events in unsettled.items()
        if events >= mark
    ]
    levels = ", ".join(f"{stage} {events:,}" for stage, events in unsettled.items())
    return Verdict(f"{levels} of {mark:,} events", found)
