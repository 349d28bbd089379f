"""The page to open first: is everything all right, and if not, where does it stand?"""

from deploy.grafana.levels import levels
from deploy.grafana.page import Section, page
from deploy.grafana.panels import (
    COUNT,
    CRITICAL,
    GOOD,
    PER_SECOND,
    SECONDS,
    WARNING,
    WORST,
    About,
    Query,
    Word,
    graph,
    states,
    value,
    word,
)
from deploy.grafana.queries import (
    VERDICT,
    VERDICTS,
    of_group,
    of_pipeline,
    of_stage,
    quantile,
    rate_of_group,
    rates,
    series,
)

_COLORS = (GOOD, WARNING, CRITICAL, WORST)
_MEANING = {place: Word(name, color) for place, (name, color) in enumerate(zip(VERDICTS, _COLORS, strict=True))}
PRESSURE = {0: Word("free", GOOD), 1: Word("writers wait", WARNING)}
_AGE_SECONDS = levels("BargelineOldestEvent", "age_seconds")
_DRAIN_SECONDS = levels("BargelineLagGrowing", "backlog_seconds")

_NOW = [
    word(
        About(
            "Verdict",
            "How each group does, judged on progress and age; the worst that one of its processes says counts. "
            "Act on stalled (work waits, nothing is settled) and on stopped (no worker is alive, or the breaker is "
            "open): `bargeline status` tells the cause.",
            COUNT,
            6,
            5,
        ),
        Query(VERDICT, "{{group}}"),
        words=_MEANING,
    ),
    value(
        About(
            "Oldest event",
            "Age of the oldest event that each group has not settled. Worry when it rises with the clock: nothing "
            "is settled then.",
            SECONDS,
            5,
            5,
        ),
        Query(of_group("group_lag_seconds"), "{{group}}"),
        levels=_AGE_SECONDS,
    ),
    value(
        About(
            "Drained in",
            "How long each backlog takes at the rates of the last 30 s. Without an estimate it does not shrink, or "
            "is not known; worry if that lasts.",
            SECONDS,
            5,
            5,
        ),
        Query(of_group("group_drain_seconds"), "{{group}}"),
        levels=_DRAIN_SECONDS,
        unknown="no estimate",
    ),
    value(
        About(
            "Loaded",
            "Events committed to PostgreSQL in a second. Worry when it is 0 while events wait.",
            PER_SECOND,
            4,
            5,
        ),
        Query(rates("events_total", "pipeline", matchers=('outcome="loaded"',)), "loaded"),
    ),
    value(
        About(
            "Dead letters",
            "Events in the dead-letter stream. Worry when it rises; the dashboard of dead letters shows where they "
            "come from.",
            COUNT,
            4,
            5,
        ),
        Query(of_pipeline("dead_letter_events"), "dead letters"),
        levels=(1,),
    ),
]

_TIMELINE = states(
    About(
        "Verdict over time",
        "The same over time; a gap means that no process that knows was scraped. Worry about what is not green for "
        "minutes.",
        COUNT,
        24,
        5,
    ),
    Query(VERDICT, "{{group}}"),
    words=_MEANING,
)

_FLOW = [
    graph(
        About(
            "In and out of each group",
            "Events that came in for each group and that it settled, a second, from the ledger in Redis. Worry "
            "when in stays above out: the backlog grows.",
            PER_SECOND,
        ),
        Query(rate_of_group("group_added_events_total"), "{{group}} in"),
        Query(rate_of_group("group_settled_events_total"), "{{group}} out"),
    ),
    graph(
        About(
            "What became of events",
            "Events by outcome, a second: what is accepted is soon loaded, filtered, a duplicate or a dead letter. "
            "Worry about lost, unrouted, and many dead ones.",
            PER_SECOND,
        ),
        Query(rates("events_total", "outcome"), "{{outcome}}"),
    ),
]

_BACKLOG = [
    graph(
        About(
            "Lag",
            "Events that no consumer of the group has been given yet. High in any burst; worry when it grows while "
            "the oldest event gets older.",
            COUNT,
            8,
        ),
        Query(of_group("group_lag_events"), "{{group}}"),
    ),
    graph(
        About(
            "Age of the oldest event",
            "How long the oldest unsettled event of each group has waited. Worry when it rises with the clock.",
            SECONDS,
            8,
        ),
        Query(of_group("group_lag_seconds"), "{{group}}"),
        levels=_AGE_SECONDS,
    ),
    graph(
        About(
            "Time to drain",
            "How long each backlog takes at the present rates; a gap while it does not shrink. Worry about long "
            "gaps and long times: more workers, or a slower source, help.",
            SECONDS,
            8,
        ),
        Query(of_group("group_drain_seconds"), "{{group}}"),
        levels=_DRAIN_SECONDS,
    ),
]

_HELD = [
    graph(
        About(
            "Pending events",
            "Events that a consumer was given and has not settled. Worry when it stands still above 0: somebody "
            "holds them; the dashboard of workers shows who.",
            COUNT,
            8,
        ),
        Query(of_group("group_pending_events"), "{{group}}"),
    ),
    graph(
        About(
            "Unsettled events of each stage",
            "Everything that a stage holds: lag, pending and foreign events. Worry when it comes close to "
            "`high_water_events`, where writers have to wait.",
            COUNT,
            8,
        ),
        Query(of_stage("stream_events"), "{{stage}}"),
    ),
    states(
        About(
            "Pressure",
            "When writers to a stage had to wait because it was full. Short bands are the brake at work; worry "
            "when one lasts: the stage behind it is too slow.",
            COUNT,
            8,
        ),
        Query(of_stage("backpressure_active"), "{{stage}}"),
        words=PRESSURE,
    ),
]

_LATENCY = [
    graph(
        About(
            "Latency from accepted to committed",
            "Of the oldest event of each entry, by quantile; a gap while nothing is loaded. Worry when p50 rises: "
            "events wait behind others.",
            SECONDS,
        ),
        *(Query(quantile(share, "event_latency_seconds"), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
    ),
    graph(
        About(
            "Dead letters and retries",
            "Events that became dead letters, and that will be tried again, a second. Worry when either lasts: a "
            "deploy or a source is broken.",
            PER_SECOND,
        ),
        Query(
            rates("events_total", "stage", "outcome", matchers=('outcome=~"dead|retried"',)), "{{stage}} {{outcome}}"
        ),
    ),
]

_WORKERS = [
    graph(
        About(
            "Processes that are scraped",
            "Processes of each kind that Prometheus reaches. Worry when there are fewer than you started.",
            COUNT,
        ),
        Query(f"count by (kind) ({series('build_info')})", "{{kind}}"),
    ),
    graph(
        About(
            "Consumers",
            "Consumers of each group: live; idle, which have asked for nothing for a minute; dead, which hold no "
            "lease. Worry about idle ones while events wait, and about dead ones that stay.",
            COUNT,
        ),
        Query(f"max by (pipeline, group, state) ({series('consumers')})", "{{group}} {{state}}"),
    ),
]

#: Verdict, flow, backlog, latency and workers of one pipeline.
OVERVIEW = page(
    "overview",
    "overview",
    "Is everything all right, and if not, where does it stand?",
    [
        Section("Now", [*_NOW, _TIMELINE]),
        Section("Flow", _FLOW),
        Section("Backlog", [*_BACKLOG, *_HELD]),
        Section("Latency and trouble", _LATENCY),
        Section("Workers", _WORKERS),
    ],
)
