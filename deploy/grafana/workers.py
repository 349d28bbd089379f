"""One process beside the other: who does how much, who holds what, who restarts."""

from deploy.grafana.levels import levels
from deploy.grafana.page import Section, choice, page
from deploy.grafana.panels import BYTES, COUNT, DURATION, PER_SECOND, SECONDS, SHARE, About, Query, graph, listing
from deploy.grafana.queries import mean, of_process, quantile, rates, series

_KIND = 'kind=~"$kind"'
_WORKER = 'instance=~"$worker"'
#: Groups are called like the kind of their workers.
_GROUP = 'group=~"$kind"'
#: What waits there for a worker has no consumer that could ask.
_NO_POOL = 'consumer!="~reclaimed"'
_BY_CONSUMER = "max by (pipeline, group, consumer) ({})"


def _of_python(name: str) -> str:
    """A metric that every Python program exports, of the chosen processes.

    Workers that a janitor lists have their pipeline as a label; where Prometheus finds them otherwise there is none.
    """
    return f'{name}{{pipeline=~"|$pipeline", {_WORKER}}}'


def _rate_of_python(name: str) -> str:
    return f"rate({_of_python(name)}[$__rate_interval])"


_AGE = f"(time() - {_of_python('process_start_time_seconds')})"
_INFO = series("build_info", _KIND, _WORKER)

_RUNNING = [
    listing(
        About(
            "Processes",
            "Every process that is scraped, its version, and for how long it has run. Worry about two versions "
            "that stay side by side, and about a process that is missing.",
            DURATION,
        ),
        Query(f"max by (instance, kind, version) ({_AGE} * on (job, instance) group_left (kind, version) {_INFO})", ""),
        {"instance": "worker", "kind": "kind", "version": "version", "Value": "running for"},
    ),
    graph(
        About(
            "Starts",
            "How often each process started anew within the last 15 minutes. One is a deploy; worry about more: it "
            "ends again and again, and its log says why.",
            COUNT,
        ),
        Query(of_process(f"changes({_of_python('process_start_time_seconds')}[15m])"), "{{instance}}"),
        levels=levels("BargelineWorkerFlapping", "starts"),
    ),
]

_WORK = [
    graph(
        About(
            "Events of each process",
            "Events by outcome, a second. Worry when one process does nothing while its sisters work.",
            PER_SECOND,
        ),
        Query(rates("events_total", "instance", "outcome", matchers=(_WORKER,)), "{{instance}} {{outcome}}"),
    ),
    graph(
        About(
            "Time of a step, p95",
            "From entries in hand to settlement: for a transform your function and Redis, for a loader one "
            "transaction. Worry when one process is much slower than its sisters: look at its host.",
            SECONDS,
        ),
        Query(quantile(0.95, "batch_seconds", "instance", matchers=(_WORKER,)), "{{instance}}"),
    ),
    graph(
        About(
            "Time of a step, mean",
            "Steps are larger the more waits, so compare with the events of a step. Worry when it nears "
            "STALL_SECONDS (60 s unless set): the process ends itself then.",
            SECONDS,
        ),
        Query(mean("batch_seconds", "instance", matchers=(_WORKER,)), "{{instance}}"),
    ),
    graph(
        About(
            "Events of a step, mean",
            "How much a process takes at once: small while it keeps up, up to TRANSFORM_BATCH_EVENTS or "
            "LOADER_BATCH_EVENTS under load. Worry when it stays small while events wait.",
            COUNT,
        ),
        Query(mean("batch_events", "instance", matchers=(_WORKER,)), "{{instance}}"),
    ),
]

_CONSUMERS = [
    graph(
        About(
            "Entries that each consumer holds",
            "Delivered and not settled; `~reclaimed` keeps those of consumers that are gone until somebody takes "
            "them. Worry when one stands still above 0.",
            COUNT,
            8,
        ),
        Query(_BY_CONSUMER.format(series("consumer_pending_entries", _GROUP)), "{{group}} {{consumer}}"),
    ),
    graph(
        About(
            "Idle time of each consumer",
            "Time since it last asked for anything. A consumer asks every few seconds, even for nothing; worry "
            "when the time rises while it holds entries.",
            SECONDS,
            8,
        ),
        Query(_BY_CONSUMER.format(series("consumer_idle_seconds", _GROUP, _NO_POOL)), "{{group}} {{consumer}}"),
        levels=levels("BargelinePendingStuck", "held_seconds"),
    ),
    graph(
        About(
            "Consumers by state",
            "Live; idle, which have asked for nothing for a minute; dead, which hold no lease. Worry when none is "
            "live, about idle ones while events wait, and about dead ones that stay.",
            COUNT,
            8,
        ),
        Query(f"max by (pipeline, group, state) ({series('consumers', _GROUP)})", "{{group}} {{state}}"),
    ),
]

_RESOURCES = [
    graph(
        About(
            "CPU",
            "Cores that each process uses; a worker can use one. Worry when all of a kind stay near 100 % and "
            "events wait: start more of that kind.",
            SHARE,
            8,
        ),
        Query(of_process(f"rate({_of_python('process_cpu_seconds_total')}[$__rate_interval])"), "{{instance}}"),
    ),
    graph(
        About(
            "Memory",
            "Resident memory of each process. Worry when it rises for hours without levelling off: your function "
            "may keep what it has seen.",
            BYTES,
            8,
        ),
        Query(of_process(_of_python("process_resident_memory_bytes")), "{{instance}}"),
    ),
    graph(
        About(
            "Open files",
            "File descriptors of each process. Worry when they rise for hours: something is opened and never closed.",
            COUNT,
            8,
        ),
        Query(of_process(_of_python("process_open_fds")), "{{instance}}"),
    ),
    graph(
        About(
            "Garbage collections",
            "Runs of Python's collector, a second. Worry when they are many more than the events explain: the process "
            "stands still during each.",
            PER_SECOND,
        ),
        Query(
            f"sum by (instance) ({of_process(_rate_of_python('python_gc_collections_total'))})",
            "{{instance}}",
        ),
    ),
    graph(
        About(
            "Objects collected",
            "What the collector found in cycles, a second. Worry when it goes up with a deploy: the function makes "
            "cycles for every event.",
            PER_SECOND,
        ),
        Query(
            f"sum by (instance) ({of_process(_rate_of_python('python_gc_objects_collected_total'))})", "{{instance}}"
        ),
    ),
]

#: Work, consumers and resources of each process of one pipeline.
WORKERS = page(
    "workers",
    "workers",
    "One process beside the other: who does how much, who holds what, who restarts.",
    [
        Section("Who runs", _RUNNING),
        Section("Work", _WORK),
        Section("Consumers", _CONSUMERS),
        Section("Resources", _RESOURCES),
    ],
    [
        choice("kind", "Kind", f"label_values({series('build_info')}, kind)"),
        choice("worker", "Worker", f"label_values({series('build_info', _KIND)}, instance)"),
    ],
)
