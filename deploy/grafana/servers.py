"""Redis and PostgreSQL as the fleet sees them."""

from deploy.grafana.levels import levels
from deploy.grafana.overview import PRESSURE
from deploy.grafana.page import AnyPanel, Section, page
from deploy.grafana.panels import BYTES, COUNT, SECONDS, SHARE, About, Query, graph, note, states, value
from deploy.grafana.queries import of_group, of_pipeline, of_stage, quantile

_MEMORY_LEVELS = levels("BargelineRedisMemory", "ratio")
_BLOCKED_LEVELS = levels("BargelineTrimBlocked", "blocked_seconds")
_RATIO = Query(of_pipeline("redis_memory_ratio"), "used")
_NOTE = """\
This page holds what the workers know of their servers. What only the servers know (connections, commands, disks,
replication, vacuum) comes from exporters of their own: `redis_exporter`, `postgres_exporter`, `node_exporter`.
`bargeline doctor` checks the settings of both servers that matter here.
"""


def _time_of_a_step(stage: str, title: str, description: str) -> AnyPanel:
    kept = (f'stage="{stage}"',)
    quantiles = [
        Query(quantile(share, "batch_seconds", matchers=kept), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)
    ]
    return graph(About(title, description, SECONDS), *quantiles)


_MEMORY = [
    value(
        About(
            "Memory of Redis",
            "Used memory as a share of maxmemory. Worry well before INGEST_MEMORY_RATIO (0.9 unless set), where "
            "ingest waits. Redis without a maxmemory has no share: give it one.",
            SHARE,
            6,
        ),
        _RATIO,
        levels=_MEMORY_LEVELS,
        unknown="no maxmemory, or unknown",
    ),
    graph(
        About(
            "Memory of Redis over time",
            "The same over time. Worry about a slope that the number of unsettled events does not explain.",
            SHARE,
            9,
        ),
        _RATIO,
        levels=_MEMORY_LEVELS,
    ),
    graph(
        About(
            "Memory of each stream",
            "As the server estimates it, settled entries kept for replay included. Worry when it grows without "
            "bound: trimming is blocked, or the retention too long for this server.",
            BYTES,
            9,
        ),
        Query(of_stage("stream_bytes"), "{{stage}}"),
        stacked=True,
    ),
]

_STREAMS = [
    graph(
        About(
            "Entries in each stream",
            "Batches of events, settled ones kept for replay included. It levels off at the retention; worry when "
            "it does not.",
            COUNT,
            8,
        ),
        Query(of_stage("stream_entries"), "{{stage}}"),
    ),
    graph(
        About(
            "Unsettled events of each stage",
            "What a stage still has to do. Worry when it stays close to `high_water_events`, where writers wait.",
            COUNT,
            8,
        ),
        Query(of_stage("stream_events"), "{{stage}}"),
    ),
    states(
        About(
            "Pressure",
            "When writers to a stage had to wait because it was full. Worry when a band lasts: what is behind the "
            "stage is too slow; for clean that is PostgreSQL or the number of loaders.",
            COUNT,
            8,
        ),
        Query(of_stage("backpressure_active"), "{{stage}}"),
        words=PRESSURE,
    ),
    graph(
        About(
            "Trimming blocked",
            "How long a group of somebody else's has kept a stream from being trimmed; empty while none does. "
            "Worry when it lasts: the memory of the stream grows until that group reads on or is removed.",
            SECONDS,
            24,
            6,
        ),
        Query(of_group("trim_blocked_seconds"), "{{group}}"),
        levels=_BLOCKED_LEVELS,
    ),
]

_TIMES = [
    _time_of_a_step(
        "loader",
        "PostgreSQL: time of a transaction",
        "From entries in hand to committed and settled, by quantile; larger under load, since a transaction then "
        "takes more events. Worry when it rises while the events of a step do not.",
    ),
    _time_of_a_step(
        "transform",
        "Redis: time of a transform's step",
        "Your function, and one script that settles its entries. Worry when it rises and the function has not "
        "changed: Redis, or its host, is slow.",
    ),
    note(_NOTE),
]

#: Memory, streams, trimming and answer times of the servers of one pipeline.
SERVERS = page(
    "servers",
    "servers",
    "Redis and PostgreSQL as the fleet sees them.",
    [Section("Memory", _MEMORY), Section("Streams", _STREAMS), Section("Answer times", _TIMES)],
)
