"""The tables of a measurement, as lines of markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

from bench.contenders import CONTENDERS
from bench.growth import Growth
from bench.recovery import EVENTS_PER_SECOND as RECOVERY_PER_SECOND
from bench.result import Result
from bench.rolling import EVENTS_PER_SECOND as ROLLING_PER_SECOND
from bench.rolling import Rolling
from bench.selfcheck import MOST, SelfCheck, medians
from bench.targets import judge, shortfalls
from shared.topology import KINDS

_ROLES = (*KINDS, "valkey", "postgres", "tools")
_VERDICTS = {True: "reached", False: "**short**", None: "not measured here"}


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Markdown; the first column is text, figures get three digits."""
    texts = [[one if isinstance(one, str) else figure(one) for one in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in texts]
    return [lines[0], f"|---|{'--:|' * (len(head) - 1)}", *lines[1:]]


def rounds(result: Result) -> list[str]:
    """Each contender: its rate, with the spread, against the floor and the naive loop, and its CPU time."""
    floor, naive = result.rate("floor"), result.rate("naive")
    rows = []
    for name, contender in CONTENDERS.items():
        rates = result.rates(name)
        spread = f"{figure(result.rate(name))} ({figure(min(rates))}-{figure(max(rates))})"
        rows.append((contender.title, spread, result.rate(name) / floor, result.rate(name) / naive, result.cpu(name)))
    head = ("file → Redis → PostgreSQL", "events/s (lowest-highest)", "÷ floor", "× naive", "CPU-s per million events")
    return _table(head, rows)


def targets(result: Result) -> list[str]:
    """Each target beside its figure."""
    rows = []
    for target, found, holds in judge(result):
        unit = f" {target.unit}" if target.unit else ""
        measured = "`make bench-full`" if found is None else f"{figure(found)}{unit}"
        rows.append((target.name, f"{target.sign} {figure(target.limit)}{unit}", measured, _VERDICTS[holds]))
    return _table(("target", "asked for", "measured", ""), rows)


def short(result: Result) -> list[str]:
    """What falls short, in words."""
    judged = judge(result)
    missed = [one.target.name for one in shortfalls(judged)]
    open_ones = sum(one.holds is None for one in judged)
    said = (
        f"{len(missed)} of {len(judged)} targets fall short: {'; '.join(missed)}."
        if missed
        else "No target falls short."
    )
    return [f"{said} {open_ones} were not measured: `make bench-full`." if open_ones else said]


def cpu(result: Result) -> list[str]:
    """CPU time by process."""
    rows = []
    for name, contender in CONTENDERS.items():
        spent = result.cpu_by_process(name)
        rows.append((contender.title, *(figure(spent[role]) if role in spent else "" for role in _ROLES)))
    return _table(("CPU-s per million events", *_ROLES), rows)


def check(checks: Sequence[SelfCheck]) -> list[str]:
    """The floor's quotients."""
    rows: list[tuple[str, float, str]] = [(name, ratio, f"≤ {MOST}") for name, ratio in medians(checks).items()]
    attributed = statistics.median(one.attributed_ratio for one in checks)
    rows.append(("both, CPU ÷ commandstats and pg_stat_statements", attributed, "told"))
    return _table(("the floor's check", "", "limit"), rows)


def needs(result: Result) -> list[str]:
    """What to plan with: rate, memory, disk."""
    sizes = result.sizes
    rows = [
        ("one worker of each kind, file to table", f"{figure(result.rate('fleet'))} events/s"),
        ("CPU of workers and servers together", f"{figure(result.cpu('fleet'))} s per million events"),
        *(
            (f"Redis, an event that waits in raw, {_codec(name)}", f"{figure(n)} bytes")
            for name, n in sizes.raw_bytes.items()
        ),
        ("Redis, an event that waits in clean, by default", f"{figure(sizes.clean_bytes)} bytes"),
        ("PostgreSQL, a row of `clicks` with its index and the whole event", f"{figure(sizes.table_bytes)} bytes"),
        *((f"memory of the {kind} worker, peak", f"{n / 2**20:.0f} MiB") for kind, n in result.peak_bytes().items()),
        ("CPU of an idle fleet, a worker of each kind", f"{figure(100 * result.idle.workers)} % of a core"),
    ]
    return _table(("", ""), rows)


def _codec(name: str) -> str:
    return "by default" if name == "default" else f"`INGEST_CODEC={name}`"


def latency(result: Result) -> list[str]:
    """Percentiles by rate, and what was not taken in time."""
    rows = [(f"{one.per_second:,} events/s", one.p50_ms, one.p99_ms, one.p999_ms) for one in result.latency]
    reached = [
        f"Asked for {one.per_second:,} events/s, {figure(one.reached_per_second)} were taken."
        for one in result.latency
        if one.reached_per_second < 0.95 * one.per_second
    ]
    return [*_table(("accepted to committed, ms", "p50", "p99", "p99.9"), rows), *(["", *reached] if reached else [])]


def http(result: Result) -> list[str]:
    """The source http under load."""
    found = result.http
    head = (f"`POST /events`, {found.connections} connections, an event each", "requests/s", "p50", "p99")
    return _table(
        head,
        [
            (
                "answered when it is in Redis",
                found.per_second,
                f"{figure(found.p50_ms)} ms",
                f"{figure(found.p99_ms)} ms",
            )
        ],
    )


def recovery(result: Result) -> list[str]:
    """Pauses after a kill."""
    rows = [
        (
            f"{one.kind}, {'the only one' if one.workers == 1 else f'one of {one.workers}'}",
            f"{figure(one.next_seconds)} s",
            f"{figure(one.held_seconds)} s",
        )
        for one in result.recovery
    ]
    head = (f"kill -9 at {RECOVERY_PER_SECOND:,} events/s", "next event loaded", "all accepted before loaded")
    return _table(head, rows)


def rolling(restarts: Sequence[Rolling]) -> list[str]:
    """Pauses in rolling restarts."""
    rows = [
        (
            "one of each kind" if one.workers == 1 else f"{one.workers} of each kind, one janitor",
            str(one.restarts),
            f"{figure(one.longest_pause_seconds)} s",
            f"{figure(one.calm_pause_seconds)} s",
        )
        for one in restarts
    ]
    head = (f"rolling restart at {ROLLING_PER_SECOND:,} events/s", "restarts", "longest pause", "without restarts")
    return _table(head, rows)


def growth(found: Growth) -> list[str]:
    """Rates with more of everything, and the drain."""
    drain = found.drain
    rows = [
        *((f"{n:,} events", f"{figure(rate)} events/s") for n, rate in found.by_events.items()),
        *((f"{n:,} rows in the table before", f"{figure(rate)} events/s") for n, rate in found.by_table_rows.items()),
        *(
            (f"{n} transforms alone, the pipeline's function", f"{figure(rate)} events/s")
            for n, rate in found.light_transforms.items()
        ),
        *(
            (f"{n} transforms alone, 100 µs of CPU an event", f"{figure(rate)} events/s")
            for n, rate in found.costly_transforms.items()
        ),
        (
            f"no loader for {drain.stopped_seconds:g} s at {drain.per_second:,} events/s: events in Redis",
            f"{drain.waiting_events:,}",
        ),
        ("the same: memory of Redis", f"{drain.redis_bytes / 2**20:.0f} MiB"),
        *((f"the same: {name}, peak", f"{size / 2**20:.0f} MiB") for name, size in drain.worker_bytes.items()),
        ("the same: seconds until the loader has caught up", drain.drain_seconds),
    ]
    return _table(("growth", ""), rows)


def footnote(result: Result) -> list[str]:
    """What it was measured on, and how often."""
    machine = result.machine
    servers = ", ".join(f"{name} {version}" for name, version in result.servers.items())
    counts = ", ".join(f"{name} {result.of(name)[0].events:,}" for name in CONTENDERS)
    return [
        (
            f"Medians of {len(result.of('fleet'))} interleaved rounds, {result.at:%Y-%m-%d}: {machine['cores']} cores "
            f"({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']} "
            f"{'with' if machine.get('c') else 'without'} a C compiler, "
            f"{servers}; events of {result.event_bytes} bytes ({counts}), one process of each kind, "
            f"one fsync takes {machine['fsync_ms']} ms. Method: `bench/README.md`."
        )
    ]


def figure(value: float) -> str:
    """Three digits are what a measurement of seconds is worth."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
