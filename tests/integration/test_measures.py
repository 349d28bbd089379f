"""What an operator or an autoscaler is told: exact where Redis' own figures are not, and absent where unknown."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shared import sampling
from shared.generate import write_clicks
from shared.metrics import Metrics, Sample
from shared.pipeline import load_pipeline
from shared.sampling import Seen, sample
from shared.streams import Client, ensure_group
from shared.streams.client import pairs
from shared.streams.inspect import GroupState, group_state
from shared.streams.keeper import server_ms
from shared.topology import STAGES
from tests import workers
from tests.integration import protocol
from tests.integration.protocol import end, read
from tests.wait import until
from tests.workers import Worker

HOUR_MS = 3_600_000


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as made:
        yield made


def _redis_lag(client: Client) -> int | None:
    (group,) = client.call("XINFO", "GROUPS", client.topology.stream("raw"))
    lag: int | None = pairs(group)[b"lag"]
    return lag


def _measures(state: GroupState) -> tuple[int | None, ...]:
    return state.lag_events, state.lag_entries, state.pending_events, state.pending_entries


def test_lag_is_in_events_and_known_where_redis_does_not_know_it(client: Client) -> None:
    protocol.added(client, 1, 2, 3)
    middle = protocol.added(client, 4)
    protocol.added(client, 5, 6)
    assert len(read(client, count=1)) == 1
    assert _measures(group_state(client, "raw")) == (3, 2, 3, 1)
    client.call("XDEL", client.topology.stream("raw"), middle)
    assert _redis_lag(client) is None
    assert group_state(client, "raw").lag_events == 3, (
        "the deleted one is unsettled until the janitor counts it as lost"
    )


def test_lag_of_a_group_that_was_made_anew_leaves_out_what_is_settled(client: Client) -> None:
    protocol.added(client, 1, 2)
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in read(client)])
    protocol.make_group_anew(client)
    protocol.added(client, 3)
    assert _redis_lag(client) == 2
    assert _measures(group_state(client, "raw")) == (1, 1, 0, 0)


def test_what_is_unknown_is_absent_and_not_0(client: Client) -> None:
    pipeline = load_pipeline("clickstream")
    known = {one.name for one in sample(client, STAGES, pipeline, {})}
    assert {"group_lag_events", "group_pending_events", "group_lag_seconds"} <= known
    for stage in STAGES:
        client.call("DEL", client.topology.stream(stage))
    assert not {one.name for one in sample(client, STAGES, pipeline, {})} & {"group_lag_events", "group_pending_events"}
    for stage, group in (("raw", "transform"), ("clean", "loader")):
        ensure_group(client, stage, group)


def _signal(janitor: Worker, name: str) -> float:
    """What an autoscaler adds up: events that wait and events in hand of the transform group."""
    lines = [line for line in janitor.get("/metrics")[1].splitlines() if 'group="transform"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"bargeline_group_{name}_events"))


def test_one_event_is_a_signal_although_no_worker_runs(given: dict[str, Any], client: Client) -> None:
    """Waiting, or in the hands of a worker that is gone: lag + pending is 1, so that 0 workers become 1."""
    with workers.running("janitor", **given, SAMPLE_SECONDS=0.1, JANITOR_SWEEP_SECONDS=60) as (janitor,):
        protocol.added(client, 1)
        until(lambda: (_signal(janitor, "lag"), _signal(janitor, "pending")) == (1, 0), what="a waiting event")
        read(client)
        end(client, "raw", "one")
        until(lambda: (_signal(janitor, "lag"), _signal(janitor, "pending")) == (0, 1), what="an event in hand")
    with workers.running("transform", "janitor", **given, SAMPLE_SECONDS=0.1):
        until(lambda: not protocol.assert_law(client).in_raw, what="a worker to settle it")


def test_a_worker_holds_the_batch_in_hand_and_nothing_more(given: dict[str, Any], client: Client) -> None:
    folder = given["pipeline_folder"]
    (folder / "transform.py").write_text(
        "import pathlib, time\n"
        "Click = dict\n"
        "def enrich(event):\n"
        "    while not pathlib.Path(__file__).with_name('go').exists(): time.sleep(0.01)\n"
        "    return event\n"
    )
    write_clicks(folder / "clicks.ndjson", 1, 200)
    given = {**given, "INGEST_BATCH_EVENTS": 1, "TRANSFORM_BATCH_EVENTS": 10}
    with workers.running("transform", **given):
        assert workers.start("ingest", **given, INGEST_PATH=folder / "clicks.ndjson").wait() == 0
        until(lambda: protocol.pending(client), what="a batch in hand")
        assert len(protocol.pending(client)) <= 10
        assert group_state(client, "raw").lag_events == 200 - len(protocol.pending(client))
        (folder / "go").touch()
        until(lambda: protocol.assert_law(client).in_clean == 200, what="the rest to flow")


def test_a_clock_that_jumped_back_stalls_ids_and_nothing_else(given: dict[str, Any], client: Client) -> None:
    """Redis goes on from its newest id; whatever is measured against the clock stays sound."""
    ahead = server_ms(client) + HOUR_MS
    client.call("XADD", client.topology.stream("raw"), f"{ahead}-0", "click_id", "from the future")
    write_clicks(given["pipeline_folder"] / "clicks.ndjson", 1, 2_000)
    given = {**given, "SAMPLE_SECONDS": 0.1, "JANITOR_SWEEP_SECONDS": 0.1}
    with workers.running("transform", "loader", "janitor", **given) as (*_, janitor):
        path = given["pipeline_folder"] / "clicks.ndjson"
        assert workers.start("ingest", **given, INGEST_PATH=path).wait() == 0
        until(lambda: protocol.assert_law(client).loaded == 2_000, what="everything to be loaded")
        assert protocol.entry_ids(client, client.topology.stream("raw"))[0].startswith(f"{ahead}-")
        seconds = [line for line in janitor.get("/metrics")[1].splitlines() if "group_lag_seconds{" in line]
        assert seconds
        assert all(float(line.rpartition(" ")[2]) >= 0 for line in seconds)
    assert protocol.assert_law(client).dead == 1, "the foreign one is no click"


def test_the_verdict_is_known_from_the_second_look_on(client: Client) -> None:
    pipeline, seen = load_pipeline("clickstream"), Seen()
    protocol.added(client, 1, 2, 3)

    def looked() -> dict[tuple[str, ...], float]:
        return {(one.name, *one.labels[1:]): one.value for one in sample(client, ["raw"], pipeline, seen)}

    def verdict(figures: dict[tuple[str, ...], float]) -> list[str]:
        return [name[2] for name, value in figures.items() if name[0] == "group_verdict" and value]

    assert verdict(looked()) == [], "one look tells no rate"
    assert verdict(looked()) == ["stopped"], "no worker holds a lease"
    lease = protocol.hold_lease(client, "raw", "one")
    first = looked()
    assert verdict(first) == ["ok"]
    assert ("group_drain_seconds", "transform") not in first, "nothing is settled: it is not known to drain"
    assert len([name for name in first if name[0] == "group_verdict"]) == 4
    protocol.settle_raw(client, *[protocol.mapped(entry) for entry in read(client)])
    protocol.added(client, 4)
    client.call("XADD", client.topology.stream("raw"), "*", "foreign", "1")
    then = looked()
    assert (then["group_added_events", "transform"], then["group_settled_events", "transform"]) == (5, 3)
    assert then["group_drain_seconds", "transform"] > 0
    lease.release()


def test_a_sampler_that_fails_shows_nothing_and_goes_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_pipeline("clickstream")
    metrics = Metrics(pipeline.name, "transform")
    found = Sample("retry_events", ("clickstream",), 7)
    shown: list[list[Sample]] = []

    def failing_once(*_: Any) -> list[Sample]:
        shown.append(list(metrics.gauges.samples))
        if len(shown) == 2:
            raise RuntimeError("nobody thought of this")
        if len(shown) == 4:
            threading.Event().wait()  # for ever: the thread ends with this process
        return [found]

    monkeypatch.setattr(sampling, "sample", failing_once)
    sampling.start(client, metrics, 0.01, ["raw"], pipeline)
    until(lambda: len(shown) == 4, what="four samples")
    assert shown == [[], [found], [], [found]]
