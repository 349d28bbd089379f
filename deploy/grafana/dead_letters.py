"""Dead letters, retries, and whatever else should not happen."""

from deploy.grafana.page import Section, page
from deploy.grafana.panels import (
    COUNT,
    CRITICAL,
    GOOD,
    PER_SECOND,
    SHARE,
    About,
    Query,
    Word,
    bars,
    graph,
    states,
    value,
)
from deploy.grafana.queries import of_pipeline, of_stage, rates, series

_BREAKER = {0: Word("consumes", GOOD), 1: Word("stopped", CRITICAL)}

_NOW = [
    value(
        About(
            "Dead letters",
            "Events in the dead-letter stream. Worry when it rises; `bargeline tail dead` shows the reason of each "
            "and where it came from.",
            COUNT,
            6,
            5,
        ),
        Query(of_pipeline("dead_letter_events"), "dead letters"),
        levels=(1,),
    ),
    value(
        About(
            "Waiting for a retry",
            "Events whose function failed and that are due again later. Worry when it rises: what fails does not "
            "heal by itself, and will be dead letters after the last attempt.",
            COUNT,
            6,
            5,
        ),
        Query(of_pipeline("retry_events"), "retries"),
    ),
    value(
        About(
            "Imbalance",
            "Events that came in and that the ledger cannot show. Worry when it is not 0 for longer than a moment; "
            "`bargeline reconcile` shows the equation.",
            COUNT,
            6,
            5,
        ),
        Query(f"abs({of_pipeline('ledger_imbalance_events')})", "events"),
        levels=(1,),
    ),
    states(
        About(
            "Breaker",
            "Whether too many dead letters stopped a stage. Act when it did: mend the cause, then `bargeline "
            "resume` lets the stage go on.",
            COUNT,
            6,
            5,
        ),
        Query(of_stage("breaker_open"), "{{stage}}"),
        words=_BREAKER,
    ),
]

dead = ('outcome="dead"',)
_LETTERS = [
    graph(
        About(
            "New dead letters",
            "Events that became dead letters, a second, by the stage that refused them: ingest what is no event, "
            "transform what the model or the function refuses, loader what the table does. Worry when it lasts.",
            PER_SECOND,
            8,
        ),
        Query(rates("events_total", "stage", matchers=dead), "{{stage}}"),
    ),
    graph(
        About(
            "Share of dead letters",
            "Of all that each stage dealt with; a gap while it has nothing to do. Worry above a few per cent: at "
            "`breaker_ratio` of the pipeline file the stage stops.",
            SHARE,
            8,
        ),
        Query(f"{rates('events_total', 'stage', matchers=dead)} / {rates('events_total', 'stage')}", "{{stage}}"),
    ),
    graph(
        About(
            "Events in the dead-letter stream",
            "How many there are. A step is one bad file or deploy; worry about a slope: something still makes them.",
            COUNT,
            8,
        ),
        Query(of_pipeline("dead_letter_events"), "dead letters"),
    ),
]

_RETRIES = [
    graph(
        About(
            "New retries",
            "Events for which the function failed and that will be tried again, a second. Worry when it lasts: "
            "what the function calls may be away.",
            PER_SECOND,
        ),
        Query(rates("events_total", "stage", matchers=('outcome="retried"',)), "{{stage}}"),
    ),
    graph(
        About(
            "Events that wait for a retry",
            "They count against the high-water mark of raw. Worry when it rises: ingest has to wait in the end.",
            COUNT,
        ),
        Query(of_pipeline("retry_events"), "retries"),
    ),
]

_INCIDENTS = [
    bars(
        About(
            "Incidents",
            "Things that should not happen, by kind, when they did. Worry about lost, checkpoint_lost, epoch_ended "
            "and stream_deleted: events may be gone; the others were mended.",
            COUNT,
        ),
        Query(f"sum by (kind) (increase({series('incidents_total')}[$__rate_interval]))", "{{kind}}"),
    ),
    bars(
        About(
            "Entries reclaimed",
            "Entries taken from consumers that are gone, when they were. A few with each crash; worry when it goes "
            "on: workers keep dying.",
            COUNT,
        ),
        Query(f"sum by (stage) (increase({series('reclaimed_entries_total')}[$__rate_interval]))", "{{stage}}"),
    ),
    graph(
        About(
            "Lost events",
            "Unsettled events whose entry somebody deleted, a second. Worry about any: our own trimming never does "
            "that, a foreign XDEL or MAXLEN does.",
            PER_SECOND,
        ),
        Query(rates("events_total", "stage", matchers=('outcome="lost"',)), "{{stage}}"),
    ),
    graph(
        About(
            "Imbalance of the ledger",
            "Events that came in and that the ledger cannot show, less than 0 if it shows too many. Worry when it "
            "is not 0 for longer than a moment.",
            COUNT,
        ),
        Query(of_pipeline("ledger_imbalance_events"), "events"),
    ),
]

#: Dead letters, retries, the breaker, incidents, reclaimed entries and the ledger of one pipeline.
DEAD_LETTERS = page(
    "dead-letters",
    "dead letters and retries",
    "What did not go as it should: dead letters, retries, the breaker, incidents, and the books.",
    [
        Section("Now", _NOW),
        Section("Dead letters", _LETTERS),
        Section("Retries", _RETRIES),
        Section("Incidents", _INCIDENTS),
    ],
)
