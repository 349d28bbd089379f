"""Consumer groups, consumers and what is stuck in their hands."""

import shlex
from collections.abc import Collection, Sequence

from bargeline.doctor.report import Finding, Verdict
from shared.streams.diagnose import Group, Stream, Stuck
from shared.streams.keeper import id_order
from shared.topology import GROUP_OF_STAGE
from shared.verdicts import GroupVerdict

#: A lease lapses after 10 s and the janitor sweeps every second: what a consumer that is gone still holds then,
#: nobody reclaims.
DEAD_HOLDS_SECONDS = 30
#: A living worker settles a batch within seconds; user code has 30 s for one event, and PostgreSQL's longest waits
#: are answered by holding, which counts as a new delivery.
LIVE_HOLDS_SECONDS = 300


def missing_groups(streams: Sequence[Stream]) -> Verdict:
    """Whether the group that reads each stream is there."""
    found = []
    for stream in streams:
        group = GROUP_OF_STAGE[stream.stage]
        if all(one.name != group for one in stream.groups):
            found.append(
                Finding(
                    "group_missing",
                    "error",
                    f"Stream {stream.key} has no group {group}.",
                    "Nobody can read it, and it is not trimmed until the group is there again.",
                    f"Start a {group} worker or a janitor, which make it from the beginning (settled entries are "
                    "not loaded again); by hand: " + _command("XGROUP", "CREATE", stream.key, group, "0"),
                    {"stream": stream.key, "group": group, "entries": stream.entries},
                )
            )
    return Verdict("transform and loader are there" if streams else "no stream yet", found)


def trim_blockers(stream: Stream, limit_id: str, events_per_entry: float, retention_events: int) -> list[Finding]:
    """Foreign groups for which entries are kept that everybody else is done with.

    ``limit_id`` is the smallest id that ours, the unsettled entries and the retention in seconds need.
    """
    found = []
    for group in stream.groups:
        if group.name == GROUP_OF_STAGE[stream.stage] or stream.first_id is None:
            continue
        kept = stream.entries if group.kept_entries is None else group.kept_entries
        beyond_time = id_order(group.needed_id) < id_order(limit_id) and id_order(stream.first_id) < id_order(limit_id)
        if kept and (beyond_time or kept * events_per_entry > retention_events):
            found.append(_blocker(stream, group, kept))
    return found


def _blocker(stream: Stream, group: Group, kept: int) -> Finding:
    destroy = _command("XGROUP", "DESTROY", stream.key, group.name)
    skip = _command("XGROUP", "SETID", stream.key, group.name, "$")
    return Finding(
        "trim_blocked",
        "warning",
        f"Group {group.name!r} keeps {stream.key} from being trimmed: it still needs entry {group.needed_id}, "
        f"{kept:,} of {stream.entries:,} entries.",
        "The stream grows until Redis' memory is full; no entry that a group needs is ever trimmed.",
        f"Start whoever reads it, or retire it: {destroy}. To keep the group but skip what it did not read: {skip} "
        "(what it holds pending has to be acknowledged too).",
        {
            "stream": stream.key,
            "group": group.name,
            "needed_id": group.needed_id,
            "kept_entries": kept,
            "pending_entries": group.pending_entries,
        },
    )


def blocked_verdict(findings: list[Finding]) -> Verdict:
    """All streams together."""
    return Verdict("no foreign group keeps a stream from being trimmed", findings)


def missing_workers(live: Collection[str], work: dict[str, str]) -> Verdict:
    """Whether each kind for which there is ``work`` (kind → what waits) has a live worker."""
    found = [
        Finding(
            "no_worker",
            "error",
            f"No {kind} worker is alive, and there is work for one: {waiting}.",
            "A worker that lives holds a lease in Redis; without one nothing goes on at this stage.",
            f"Start one: `bargeline up`, or `python -m workers.{kind}`; `bargeline logs {kind}` says why one ended.",
            {"kind": kind},
        )
        for kind, waiting in work.items()
        if kind not in live
    ]
    kinds = ", ".join(sorted(set(live))) or "none, and no work for any"
    return Verdict(f"live workers: {kinds}", found)


def dead_consumer(stage: str, held: Stuck) -> Finding:
    """A consumer without a lease that still holds entries."""
    return Finding(
        "dead_consumer",
        "error",
        f"Consumer {held.consumer!r} of group {GROUP_OF_STAGE[stage]} holds {held.entries} entries and no lease, "
        f"for {held.idle_seconds:,.0f} s.",
        "Its process is gone; the janitor gives such entries to others within seconds, but did not.",
        "See that a janitor runs: `bargeline status`, `bargeline logs janitor`.",
        {"stage": stage, **_figures(held)},
    )


def slow_consumer(stage: str, held: Stuck) -> Finding:
    """A consumer that lives, with entries it was given long ago."""
    return Finding(
        "stalled_consumer",
        "warning",
        f"Consumer {held.consumer!r} of group {GROUP_OF_STAGE[stage]} lives, but has held {held.entries} entries for "
        f"{held.idle_seconds:,.0f} s.",
        "It is stuck in user code or in a statement, or it lost the reply that gave it the entries.",
        f"Look at its log; restart it (`bargeline restart {GROUP_OF_STAGE[stage]}`): what it holds "
        "goes to another worker.",
        {"stage": stage, **_figures(held)},
    )


def unclaimed(stage: str, held: Stuck) -> Finding:
    """Reclaimed entries that no worker takes."""
    return Finding(
        "reclaimed_waiting",
        "warning",
        f"{held.entries} reclaimed entries of group {GROUP_OF_STAGE[stage]} have waited for {held.idle_seconds:,.0f} s "
        "for a worker with empty hands.",
        "Workers take them before new ones; none did.",
        f"See that a {GROUP_OF_STAGE[stage]} worker runs and makes progress.",
        {"stage": stage, **_figures(held)},
    )


def _figures(held: Stuck) -> dict[str, object]:
    return {
        "consumer": held.consumer,
        "entries": held.entries,
        "oldest_id": held.oldest_id,
        "idle_seconds": held.idle_seconds,
    }


def progress(verdicts: Sequence[GroupVerdict]) -> Verdict:
    """Whether each group settles what waits for it; one without workers or with an open breaker has its own check."""
    found = [_late(one) for one in verdicts if one.verdict in ("slow", "stalled")]
    return Verdict("; ".join(f"{one.group} {one.verdict}: {one.cause}" for one in verdicts) or "no stream yet", found)


def _late(one: GroupVerdict) -> Finding:
    stalled = one.verdict == "stalled"
    return Finding(
        one.verdict,
        "error" if stalled else "warning",
        f"Group {one.group} is {one.verdict}: {one.cause}.",
        "Nothing was settled while doctor watched. A lag in entries can look well during a stall; age cannot."
        if stalled
        else "Events reach their table late; when the stage is full, ingest waits.",
        f"Look at the log of the {one.group} workers; its /readyz says what it waits for."
        if stalled
        else f"If it does not drain by itself, start more {one.group} workers, or see what makes them slow.",
        {
            "stage": one.stage,
            "oldest_seconds": one.oldest_seconds,
            "unsettled_events": one.unsettled_events,
            "in_per_second": one.in_per_second,
            "out_per_second": one.out_per_second,
            "drain_seconds": one.drain_seconds,
            "consumer": one.consumer,
        },
    )


def _command(*words: str) -> str:
    return f"`redis-cli {shlex.join(words)}`"
