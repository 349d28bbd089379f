"""For each alert and level: series under which it fires, and series under which it does not.

Values are in promtool's notation, one each 15 s: ``0+15x40`` is 0, 15, 30 … for 40 steps more.
"""

from dataclasses import dataclass

Series = dict[str, str]

#: Labels that a scrape adds.
TF = 'job="bargeline",kind="transform",instance="tf-1",worker="tf-1"'
LD = 'job="bargeline",kind="loader",instance="ld-1",worker="ld-1"'
IN = 'job="bargeline",kind="ingest",instance="in-1",worker="in-1"'
COMMAND = 'job="bargeline",kind="ingest",instance="command-7",worker="command-7"'
JN = 'job="bargeline",kind="janitor",instance="jn-1",worker="jn-1"'


@dataclass(frozen=True)
class Case:
    """``fires`` holds the labels of the one alert that fires, None where none does."""

    alert: str
    severity: str
    what: str
    at: str
    series: Series
    fires: dict[str, str] | None = None
    #: The whole annotation, where this alert is the only one of its name that fires.
    summary: str = ""

    @property
    def name(self) -> str:
        """For the test's report."""
        return f"{self.alert} {self.severity}: {self.what}"


def gauge(name: str, scrape: str = JN, **labels: str) -> str:
    """A series of one of our metrics, of pipeline p."""
    own = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'bargeline_{name}{{{scrape},pipeline="p"{own}}}'


def group(name: str, scrape: str = JN) -> str:
    """A series of the loader's group."""
    return gauge(name, scrape, group="loader")


def info(scrape: str, kind: str) -> str:
    """What each process exports of itself."""
    return f'bargeline_build_info{{{scrape.replace(f"kind={chr(34)}{kind}{chr(34)},", "")},pipeline="p",kind="{kind}"}}'


LOADER = {"pipeline": "p", "group": "loader"}
TRANSFORM = {"pipeline": "p", "group": "transform"}
PIPELINE = {"pipeline": "p"}

_AGE, _SETTLED, _ADDED = (
    group("group_lag_seconds"),
    group("group_settled_events_total"),
    group("group_added_events_total"),
)
_STALL = {_AGE: "0+15x40", _SETTLED: "500x40", _ADDED: "2000x40"}
_GROWS = {_ADDED: "0+3000x200", _SETTLED: "0+1500x200"}

PROGRESS = [
    Case("BargelineNoProgress", "warning", "nothing is settled", "3m", _STALL, LOADER,
         "p: loader settles nothing; 1.5k events wait, the oldest for 3m 0s"),
    Case("BargelineNoProgress", "critical", "nothing is settled for long", "7m", _STALL, LOADER),
    Case("BargelineNoProgress", "critical", "who knows it is started again each minute", "9m",
         {**_STALL, _AGE: "0+15x20 stale 330+15x2 stale 390+15x2 stale 450+15x2 stale 510+15x9"}, LOADER),
    Case("BargelineNoProgress", "warning", "old, but some is settled", "3m", {**_STALL, _SETTLED: "500+10x40"}),
    Case("BargelineNoProgress", "warning", "nothing waits", "9m", {**_STALL, _AGE: "0x40"}),
    Case("BargelineNoProgress", "critical", "some was settled within five minutes", "7m",
         {**_STALL, _SETTLED: "500x16 600x20"}),
    Case("BargelineOldestEvent", "warning", "100 s old", "3m", {_AGE: "100x20"}, LOADER,
         "p: loader is late; the oldest for 1m 40s"),
    Case("BargelineOldestEvent", "critical", "700 s old", "3m", {_AGE: "700x20"}, LOADER),
    Case("BargelineOldestEvent", "warning", "old for a minute only", "3m", {_AGE: "0x8 100x20"}),
    Case("BargelineOldestEvent", "critical", "100 s old", "3m", {_AGE: "100x20"}),
    Case("BargelineLagGrowing", "warning", "twice as much comes in", "10m", _GROWS, LOADER,
         "p: more comes in than loader settles; what waits is 10m 0s of work"),
    Case("BargelineLagGrowing", "critical", "and has for long", "40m", _GROWS, LOADER),
    Case("BargelineLagGrowing", "warning", "much waits, and does not grow", "10m",
         {_ADDED: "90000+1500x60", _SETTLED: "0+1500x60"}),
    Case("BargelineLagGrowing", "critical", "ten minutes of work", "10m", _GROWS),
]  # fmt: skip

_IDLE_SECONDS = gauge("consumer_idle_seconds", group="loader", consumer="ld-1")
_HOLDS = gauge("consumer_pending_entries", group="loader", consumer="ld-1")
_HELD = {_IDLE_SECONDS: "0+15x100", _HOLDS: "2x100"}
_HELD_TF = {
    gauge("consumer_idle_seconds", group="transform", consumer="tf-1"): "0+15x100",
    gauge("consumer_pending_entries", group="transform", consumer="tf-1"): "2x100",
}
_OUTPUT_FULL = {gauge("backpressure_active", stage="clean"): "1x300"}
_LAG = group("group_lag_events")


def consumers(live: str, idle: str, dead: str = "0x300") -> Series:
    """The loader's consumers by state."""
    states = {"live": live, "idle": idle, "dead": dead}
    return {gauge("consumers", group="loader", state=state): values for state, values in states.items()}


CONSUMERS = [
    Case("BargelinePendingStuck", "warning", "held for 7 minutes", "7m", _HELD, {**LOADER, "consumer": "ld-1"},
         "p: consumer ld-1 of loader holds entries and has asked for nothing for 7m 0s"),
    Case("BargelinePendingStuck", "critical", "held for 17 minutes", "17m", _HELD, {**LOADER, "consumer": "ld-1"}),
    Case("BargelinePendingStuck", "warning", "holds nothing", "7m", {**_HELD, _HOLDS: "0x100"}),
    Case("BargelinePendingStuck", "warning", "cannot pass on what it holds", "7m", {**_HELD_TF, **_OUTPUT_FULL}),
    Case("BargelinePendingStuck", "critical", "held for 7 minutes", "7m", _HELD),
    Case("BargelineConsumersIdle", "warning", "one of four", "5m", {**consumers("3x50", "1x50"), _LAG: "9x50"}, LOADER,
         "p: 25% of the consumers of loader do not ask for events, and events wait"),
    Case("BargelineConsumersIdle", "critical", "half of them", "13m", {**consumers("2x60", "2x60"), _LAG: "9x60"},
         LOADER),
    Case("BargelineConsumersIdle", "warning", "nothing waits", "5m", {**consumers("0x50", "4x50"), _LAG: "0x50"}),
    Case("BargelineConsumersIdle", "warning", "the breaker is open", "5m",
         {**consumers("0x50", "4x50"), _LAG: "9x50", gauge("breaker_open", stage="clean"): "1x50"}),
    Case("BargelineConsumersIdle", "critical", "one of four", "13m", {**consumers("3x60", "1x60"), _LAG: "9x60"}),
    Case("BargelineConsumersDead", "warning", "for 11 minutes", "11m", consumers("1x60", "0x60", "1x60"), LOADER,
         "p: 1 consumers of loader have no process, and the janitor does not clear them away"),
    Case("BargelineConsumersDead", "critical", "for 31 minutes", "31m", consumers("1x200", "0x200", "1x200"), LOADER),
    Case("BargelineConsumersDead", "warning", "scaled down a while ago", "11m",
         consumers("1x60", "0x60", "0x10 3x6 0x60")),
    Case("BargelineConsumersDead", "critical", "for 11 minutes", "11m", consumers("1x60", "0x60", "1x60")),
    Case("BargelineNoWorker", "warning", "none lives", "2m", {**consumers("0x50", "0x50"), info(JN, "janitor"): "1x50"},
         LOADER, "p: no loader worker is alive"),
    Case("BargelineNoWorker", "critical", "for 4 minutes", "4m",
         {**consumers("0x50", "0x50"), info(JN, "janitor"): "1x50"}, LOADER),
    Case("BargelineNoWorker", "warning", "has not read yet", "2m",
         {**consumers("0x50", "0x50"), info(LD, "loader"): "1x50"}),
    Case("BargelineNoWorker", "warning", "restarted", "4m",
         {**consumers("1x10 0x3 1x50", "0x50"), info(JN, "janitor"): "1x50"}),
    Case("BargelineNoWorker", "critical", "one does not ask, but lives", "4m",
         {**consumers("0x50", "1x50"), info(JN, "janitor"): "1x50"}),
]  # fmt: skip

_DEAD = gauge("dead_letter_events")
_CAME = gauge("group_added_events_total", group="transform")
_RETRIED = gauge("events_total", TF, stage="transform", outcome="retried")
_MAPPED = gauge("events_total", TF, stage="transform", outcome="mapped")
_RAW_FULL = gauge("backpressure_active", stage="raw")

EVENTS = [
    Case("BargelineDeadLetters", "warning", "three", "6m", {_DEAD: "10x20 13x20", _CAME: "0+100x100"}, PIPELINE,
         "p: 3 new dead letters within 10m"),
    Case("BargelineDeadLetters", "critical", "a fifth of all", "6m", {_DEAD: "10x20 510x20", _CAME: "0+100x100"},
         PIPELINE),
    Case("BargelineDeadLetters", "critical", "every line of a file", "6m", {_DEAD: "10x20 510x20", _CAME: "0x100"},
         PIPELINE),
    Case("BargelineDeadLetters", "warning", "old ones, and a purge", "6m", {_DEAD: "13x20 10x20", _CAME: "0+100x100"}),
    Case("BargelineDeadLetters", "critical", "one in a hundred", "6m", {_DEAD: "0x20 200x20", _CAME: "0+1000x100"}),
    Case("BargelineRetryStorm", "warning", "a fifth", "5m", {_RETRIED: "0+20x60", _MAPPED: "0+80x60"}, PIPELINE,
         "p: 20% of what the transform settles has to be tried again"),
    Case("BargelineRetryStorm", "critical", "four fifths", "11m", {_RETRIED: "0+80x60", _MAPPED: "0+20x60"}, PIPELINE),
    Case("BargelineRetryStorm", "warning", "one in a hundred", "5m", {_RETRIED: "0+1x60", _MAPPED: "0+99x60"}),
    Case("BargelineRetryStorm", "warning", "the only event of the hour", "5m",
         {_RETRIED: "0x10 1x60", _MAPPED: "0x60"}),
    Case("BargelineRetryStorm", "critical", "a fifth", "11m", {_RETRIED: "0+20x60", _MAPPED: "0+80x60"}),
    Case("BargelinePressure", "warning", "for a quarter of an hour", "17m", _OUTPUT_FULL, LOADER,
         "p: the stage that loader reads has been full for 15m, and who writes to it waits"),
    Case("BargelinePressure", "warning", "of raw", "17m", {_RAW_FULL: "1x100"}, TRANSFORM),
    Case("BargelinePressure", "critical", "for an hour", "62m", _OUTPUT_FULL, LOADER),
    Case("BargelinePressure", "warning", "while a file is loaded", "17m", {_RAW_FULL: "1x40 0x40"}),
    Case("BargelinePressure", "critical", "for a quarter of an hour", "17m", _OUTPUT_FULL),
    Case("BargelineLedgerImbalance", "warning", "three short", "2m", {gauge("ledger_imbalance_events"): "-3x40"},
         PIPELINE, "p: the ledger is out of balance by 3 events"),
    Case("BargelineLedgerImbalance", "critical", "for long", "6m", {gauge("ledger_imbalance_events"): "3x40"},
         PIPELINE),
    Case("BargelineLedgerImbalance", "warning", "balanced", "6m", {gauge("ledger_imbalance_events"): "0x40"}),
    Case("BargelineLedgerImbalance", "critical", "for two minutes", "2m", {gauge("ledger_imbalance_events"): "3x40"}),
    Case("BargelineBreakerOpen", "critical", "of raw", "1m", {gauge("breaker_open", stage="raw"): "1x40"}, TRANSFORM,
         "p: transform stopped, because too many events became dead letters"),
    Case("BargelineBreakerOpen", "critical", "closed", "1m", {gauge("breaker_open", stage="raw"): "0x40"}),
]  # fmt: skip

_FOREIGN = gauge("trim_blocked_seconds", group="audit")
_MEMORY = gauge("redis_memory_ratio")
_SLOT = gauge("cdc_slot_retained_bytes", IN, slot="s")
_OF_SLOT = {"pipeline": "p", "slot": "s"}
_AUDIT = {"pipeline": "p", "group": "audit"}
_STARTED = f"process_start_time_seconds{{{TF}}}"
_FLAPPER = {"job": "bargeline", "kind": "transform", "instance": "tf-1"}
_UP = f"up{{{TF}}}"
_KNOWN = gauge("group_pending_entries", TF, group="transform")
_GONE_INGEST = {info(IN, "ingest"): "1x20 stale", info(TF, "transform"): "1x60"}


def incident(kind: str, values: str, started: str) -> Series:
    """A counter of the janitor, and when it was started (time 0 is the start of the test)."""
    scrape = JN.replace('kind="janitor",', "")
    return {
        f'bargeline_incidents_total{{{scrape},pipeline="p",kind="{kind}"}}': values,
        f"process_start_time_seconds{{{JN}}}": started,
    }


SURROUNDINGS = [
    Case("BargelineTrimBlocked", "warning", "for 12 minutes", "12m", {_FOREIGN: "0+15x300"}, _AUDIT,
         "p: group audit has kept a stream from being trimmed for 12m 0s"),
    Case("BargelineTrimBlocked", "critical", "for an hour", "62m", {_FOREIGN: "0+15x300"}, _AUDIT),
    Case("BargelineTrimBlocked", "warning", "for 5 minutes", "5m", {_FOREIGN: "0+15x300"}),
    Case("BargelineTrimBlocked", "critical", "for 12 minutes", "12m", {_FOREIGN: "0+15x300"}),
    Case("BargelineRedisMemory", "warning", "three quarters", "3m", {_MEMORY: "0.75x20"}, PIPELINE,
         "p: Redis uses 75% of its maxmemory"),
    Case("BargelineRedisMemory", "critical", "nine tenths", "3m", {_MEMORY: "0.9x20"}, PIPELINE),
    Case("BargelineRedisMemory", "warning", "half", "3m", {_MEMORY: "0.5x20"}),
    Case("BargelineRedisMemory", "critical", "three quarters", "3m", {_MEMORY: "0.75x20"}),
    Case("BargelineSlotGrowth", "warning", "two GiB", "7m", {_SLOT: "2147483648x60"}, _OF_SLOT,
         "p: slot s holds back 2GiB of WAL"),
    Case("BargelineSlotGrowth", "critical", "twenty GiB", "7m", {_SLOT: "21474836480x60"}, _OF_SLOT),
    Case("BargelineSlotGrowth", "warning", "for two minutes", "7m", {_SLOT: "0x12 2147483648x8 0x60"}),
    Case("BargelineSlotGrowth", "critical", "two GiB", "7m", {_SLOT: "2147483648x60"}),
    Case("BargelineWorkerFlapping", "warning", "three times", "5m", {_STARTED: "1x3 2x3 3x3 4x20"}, _FLAPPER,
         "tf-1 was started 3 times within 15m"),
    Case("BargelineWorkerFlapping", "critical", "seven times", "6m", {_STARTED: "1 2 3 4 5 6 7 8x20"}, _FLAPPER),
    Case("BargelineWorkerFlapping", "warning", "a rolling restart", "5m", {_STARTED: "1x3 2x20"}),
    Case("BargelineWorkerFlapping", "critical", "three times", "5m", {_STARTED: "1x3 2x3 3x3 4x20"}),
    Case("BargelineTargetDown", "warning", "for two minutes", "2m", {_UP: "0x60"}, _FLAPPER,
         "tf-1 (transform) does not answer Prometheus"),
    Case("BargelineTargetDown", "critical", "for 11 minutes", "11m", {_UP: "0x60"}, _FLAPPER),
    Case("BargelineTargetDown", "warning", "restarted", "4m", {_UP: "1x4 0x2 1x60"}),
    Case("BargelineTargetDown", "warning", "scaled down", "4m", {_UP: "1x4 0 stale"}),
    Case("BargelineTargetDown", "critical", "for two minutes", "2m", {_UP: "0x60"}),
    Case("BargelineNoTargets", "critical", "none answers", "3m", {_UP: "0x60"}, {}, "No worker answers Prometheus"),
    Case("BargelineNoTargets", "critical", "the list is empty", "6m", {_UP: "1x4 stale"}, {}),
    Case("BargelineNoTargets", "critical", "one answers", "3m", {_UP: "1x60"}),
    Case("BargelineNoJanitor", "warning", "only a transform", "3m", {info(TF, "transform"): "1x60"}, PIPELINE,
         "p: no janitor runs"),
    Case("BargelineNoJanitor", "critical", "for 11 minutes", "11m", {info(TF, "transform"): "1x60"}, PIPELINE),
    Case("BargelineNoJanitor", "warning", "restarted", "11m",
         {info(TF, "transform"): "1x60", info(JN, "janitor"): "1x20 stale _x3 1x60"}),
    Case("BargelineNoJanitor", "critical", "for three minutes", "3m", {info(TF, "transform"): "1x60"}),
    Case("BargelineIngestGone", "warning", "gone for 7 minutes", "12m", _GONE_INGEST, PIPELINE,
         "p: no ingest worker answers; there was one within 6h"),
    Case("BargelineIngestGone", "warning", "replaced by another", "12m",
         {**_GONE_INGEST, info(IN.replace("in-1", "in-2"), "ingest"): "_x22 1x60"}),
    Case("BargelineIngestGone", "warning", "a file was carried in", "12m",
         {info(COMMAND, "ingest"): "1x20 stale", info(TF, "transform"): "1x60"}),
    Case("BargelineBlind", "warning", "for two minutes", "3m",
         {_KNOWN: "0x2 stale", info(TF, "transform"): "1x60"}, PIPELINE, "p: nobody can tell how its groups stand"),
    Case("BargelineBlind", "critical", "for six minutes", "7m",
         {_KNOWN: "0x2 stale", info(TF, "transform"): "1x60"}, PIPELINE),
    Case("BargelineBlind", "warning", "an ingest worker alone samples nothing", "3m",
         {_KNOWN: "0x2 stale", info(IN, "ingest"): "1x60"}),
    Case("BargelineBlind", "warning", "nothing pending", "3m", {_KNOWN: "0x60", info(TF, "transform"): "1x60"}),
    Case("BargelineBlind", "critical", "for three minutes", "3m",
         {_KNOWN: "0x2 stale", info(TF, "transform"): "1x60"}),
    Case("BargelineIncident", "warning", "repaired", "2m", incident("repaired", "0x4 2x60", "-9000x60"),
         {**PIPELINE, "kind": "repaired"}, "p: incident repaired"),
    Case("BargelineIncident", "critical", "an epoch ended", "2m", incident("epoch_ended", "0x4 1x60", "-9000x60"),
         {**PIPELINE, "kind": "epoch_ended"}),
    Case("BargelineIncident", "critical", "noticed before the first scrape", "2m",
         incident("epoch_ended", "1x60", "0x60"), {**PIPELINE, "kind": "epoch_ended"}),
    Case("BargelineIncident", "warning", "repaired long ago", "14m", incident("repaired", "0x4 2x60", "-9000x60")),
    Case("BargelineIncident", "warning", "somebody else settled it", "2m",
         incident("settled_before", "0x4 1x60", "-9000x60")),
    Case("BargelineIncident", "critical", "an epoch ended long ago", "14m", incident("epoch_ended", "1x60", "0x60")),
    Case("BargelineIncident", "critical", "only repaired", "2m", incident("repaired", "0x4 2x60", "-9000x60")),
]  # fmt: skip

CASES = [*PROGRESS, *CONSUMERS, *EVENTS, *SURROUNDINGS]
