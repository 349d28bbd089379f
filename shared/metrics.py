"""Every metric, declared once.

Counters and histograms are written by the loop. Gauges come from a sample that a thread takes:
Redis is asked by that thread, never during a scrape, and what is unknown is absent, never 0.
"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.topology import STAGES
from shared.version import VERSION

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily

disable_created_metrics()  # type: ignore[no-untyped-call]

#: Name → (help, labels). Base units; events unless the name says entries.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    # Undelivered work of a group; what a consumer already has in hand is pending, not lag.
    "group_lag_events": ("Events that no consumer of the group has been given yet", ("pipeline", "group")),
    "group_lag_entries": (
        "Stream entries that no consumer of the group has been given yet",
        ("pipeline", "group"),
    ),
    # The verdict of a stall: it grows with the clock when nothing is settled.
    "group_lag_seconds": ("Age of the oldest unsettled entry of the group", ("pipeline", "group")),
    # Judged on progress and age (shared/verdicts.py): ok, slow, stalled, stopped; one of them is 1.
    "group_verdict": ("Whether this is how the group does now", ("pipeline", "group", "verdict")),
    "group_drain_seconds": (
        "Time until the backlog is gone at the rates of the last 30 s; absent when it does not shrink",
        ("pipeline", "group"),
    ),
    "group_pending_entries": ("Entries delivered to a consumer and not settled", ("pipeline", "group")),
    "group_pending_events": ("Events delivered to a consumer and not settled", ("pipeline", "group")),
    "consumer_pending_entries": ("Entries that one consumer holds", ("pipeline", "group", "consumer")),
    "consumer_idle_seconds": (
        "Time since one consumer last asked for anything",
        ("pipeline", "group", "consumer"),
    ),
    "consumers": ("Consumers of the group by state: live, idle, dead", ("pipeline", "group", "state")),
    "stream_entries": ("Entries in the stream, settled ones kept for replay included", ("pipeline", "stage")),
    "stream_events": ("Unsettled events of the stage", ("pipeline", "stage")),
    "stream_bytes": ("Memory of the stream as estimated by the server", ("pipeline", "stage")),
    "dead_letter_events": ("Events in the dead-letter stream", ("pipeline",)),
    "retry_events": ("Events that wait for another attempt", ("pipeline",)),
    # 1 while a stage holds as many events as the pipeline allows, so that writers to it wait.
    "backpressure_active": ("Whether writers to the stage have to wait", ("pipeline", "stage")),
    # Anything but 0 for longer than a moment means that the books do not add up.
    "ledger_imbalance_events": ("Events that came in and that the ledger cannot show", ("pipeline",)),
    # Too many dead letters: the workers of the stage stopped until `bargeline resume`.
    "breaker_open": ("Whether the dead-letter breaker stopped the stage", ("pipeline", "stage")),
    "trim_blocked_seconds": (
        "How long a group has kept the stream from being trimmed",
        ("pipeline", "group"),
    ),
    # Of INGEST_SOURCE=cdc. A slot that nobody reads holds back WAL until the source's disk is full.
    "cdc_slot_retained_bytes": ("WAL that the source server keeps for the slot", ("pipeline", "slot")),
    "cdc_behind_seconds": ("Age of the oldest change that was not carried yet", ("pipeline", "slot")),
    "redis_memory_ratio": ("Used memory of the server as a share of its limit", ("pipeline",)),
    "build_info": ("Always 1; the labels tell what runs", ("pipeline", "kind", "version", "python")),
}

#: Counters of the ledger in Redis, sampled like gauges: every process of a group says the same. They begin anew with
#: an epoch.
SAMPLED_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "group_added_events": ("Events that were added for the group to read", ("pipeline", "group")),
    "group_settled_events": ("Events that the group has settled", ("pipeline", "group")),
}

#: Counters: name without `_total` → (help, labels).
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "events": ("Events by what became of them", ("pipeline", "stage", "outcome")),
    "reclaimed_entries": ("Entries taken from consumers that are gone", ("pipeline", "stage")),
    "incidents": ("Things that should not happen, by kind", ("pipeline", "kind")),
    # Of the source http; `other` stands for all paths that it does not have.
    "http_requests": ("Requests by path and status", ("pipeline", "path", "status")),
    # A rise is a wrong secret after its rotation, or somebody who tries.
    "refused_deliveries": ("Deliveries to a webhook that were not verified", ("pipeline", "webhook", "reason")),
}

Outcome = Literal["accepted", "mapped", "filtered", "retried", "dead", "loaded", "duplicate", "unrouted", "lost"]
#: What can become of events in a process of each kind.
OUTCOMES: dict[str, tuple[Outcome, ...]] = {
    "ingest": ("accepted", "dead"),
    "transform": ("mapped", "filtered", "retried", "dead", "lost"),
    "loader": ("loaded", "duplicate", "unrouted", "dead", "lost"),
    "janitor": ("lost",),
}

Incident = Literal[
    "blocker_terminated",
    "breaker_opened",
    "checkpoint_lost",
    "epoch_ended",
    "group_missing",
    "lost",
    "messages_dropped",  # of pub/sub, where the stream was full or Redis away for too long
    "repaired",
    "settled_before",  # by somebody else
    "source_gap",  # changes of a database that its slot had forgotten before they were in Redis
    "stream_deleted",
    "subscription_lost",  # to pub/sub: what was published until it was there again is gone
]

Refusal = Literal["missing", "mismatch", "stale", "truncated"]

#: From 100 µs to 100 s: a batch of one event on loopback, and a transaction that waits for a slow disk.
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)

#: Histograms, by pipeline and stage: name → (help, buckets).
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "batch_seconds": ("Time of one step, from entries in hand to settlement", _SECONDS),
    "batch_events": ("Events of one step", _EVENTS),
    "event_latency_seconds": ("From accepted to committed, of the oldest event of each entry", _SECONDS),
    "http_request_seconds": ("From the head of a request to its answer, of the source http", _SECONDS),
}

#: Which of them a process of each kind has.
OBSERVED = {
    "transform": ("batch_seconds", "batch_events"),
    "loader": ("batch_seconds", "batch_events", "event_latency_seconds"),
}


@dataclass(frozen=True)
class Sample:
    """One value of a gauge or sampled counter; ``labels`` in the order of its declaration."""

    name: str
    labels: tuple[str, ...]
    value: float


class SampledGauges(Collector):
    """Serves the last sample."""

    def __init__(self, always: Sample) -> None:
        self.always = always
        self.samples: list[Sample] = []
        #: What the main loop knows by itself.
        self.own: list[Sample] = []

    def replace(self, samples: Iterable[Sample]) -> None:
        """Make this the sample that scrapes see."""
        self.samples = list(samples)

    def collect(self) -> Iterable[Family]:
        """Called by the registry at each scrape."""
        families: dict[str, Family] = {}
        for sample in (self.always, *self.samples, *self.own):
            family = families.get(sample.name) or families.setdefault(sample.name, _family(sample.name))
            family.add_metric(sample.labels, sample.value)
        return families.values()


def _family(name: str) -> Family:
    if name in SAMPLED_COUNTERS:
        text, labels = SAMPLED_COUNTERS[name]
        return CounterMetricFamily(f"bargeline_{name}", text, labels=labels)
    text, labels = GAUGES[name]
    return GaugeMetricFamily(f"bargeline_{name}", text, labels=labels)


class Metrics:
    """The metrics of one process."""

    def __init__(self, pipeline: str, stage: str) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.gauges = SampledGauges(build_info(pipeline, stage))
        self.registry.register(self.gauges)
        self.labels = (pipeline, stage)
        self._counters = {
            name: Counter(f"bargeline_{name}", text, labels, registry=self.registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(f"bargeline_{name}", text, ("pipeline", "stage"), buckets=buckets, registry=self.registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        #: By path and status: finding a series by its labels takes longer than counting.
        self._requests: dict[tuple[str, int], Counter] = {}
        self._begin_at_0()

    def _begin_at_0(self) -> None:
        """Export all that is counted from the start: what came into being at 1 would not count as a rise."""
        pipeline, stage = self.labels
        for outcome in OUTCOMES[stage]:
            self._counters["events"].labels(pipeline, stage, outcome)
        for kind in get_args(Incident):
            self._counters["incidents"].labels(pipeline, kind)
        for reclaimed in STAGES if stage == "janitor" else ():
            self._counters["reclaimed_entries"].labels(pipeline, reclaimed)
        for name in OBSERVED.get(stage, ()):
            self._histograms[name].labels(pipeline, stage)

    def step(self, seconds: float, events: int) -> None:
        """Note a step that carried events."""
        self._histograms["batch_seconds"].labels(*self.labels).observe(seconds)
        self._histograms["batch_events"].labels(*self.labels).observe(events)

    def latency(self, seconds: float) -> None:
        """Note how long an entry took from accepted to committed."""
        self._histograms["event_latency_seconds"].labels(*self.labels).observe(max(seconds, 0))

    def events(self, outcome: Outcome, count: int) -> None:
        """Count events by outcome."""
        if count:
            self._counters["events"].labels(*self.labels, outcome).inc(count)

    def reclaimed(self, stage: str, entries: int) -> None:
        """Count entries moved from consumers that are gone."""
        if entries:
            self._counters["reclaimed_entries"].labels(self.labels[0], stage).inc(entries)

    def expect_requests(self, paths: Iterable[str], webhooks: Iterable[str]) -> None:
        """Export what is counted of these paths and webhooks from the start, like all else."""
        pipeline, stage = self.labels
        self._request_seconds = self._histograms["http_request_seconds"].labels(pipeline, stage)
        for path in paths:
            self._counters["http_requests"].labels(pipeline, path, "202")
        for webhook in webhooks:
            for reason in get_args(Refusal):
                self._counters["refused_deliveries"].labels(pipeline, webhook, reason)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Note a request that was answered."""
        found = self._requests.get((path, status))
        if found is None:
            found = self._requests[path, status] = self._counters["http_requests"].labels(
                self.labels[0], path, str(status)
            )
        found.inc()
        self._request_seconds.observe(seconds)

    def refused(self, webhook: str, reason: Refusal) -> None:
        """Count a delivery that could not be verified."""
        self._counters["refused_deliveries"].labels(self.labels[0], webhook, reason).inc()

    def incident(self, kind: Incident, count: int = 1) -> None:
        """Count something that should not happen."""
        self._counters["incidents"].labels(self.labels[0], kind).inc(count)


def build_info(pipeline: str, kind: str) -> Sample:
    """The sample that tells which program runs."""
    return Sample("build_info", (pipeline, kind, VERSION, platform.python_version()), 1)
