"""The transform worker as a real process: user code of every kind, and not one event lost or taken twice."""

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from shared import events
from shared.entries import batch_fields
from shared.events import Event, SourceIds
from shared.streams import Client, add, ensure_group
from shared.streams.inspect import figures, ledger
from tests import workers
from tests.integration import protocol
from tests.wait import until

IDS = SourceIds("s")
PERMISSIVE = {'model = "transform:Click"': "", "[ingest]": "retry_delays_seconds = [0.05]\n[ingest]"}
CODE = '''
"""Does what the event says."""
import sys, time
from bargeline import InvalidEvent

def enrich(event):
    match event.data["do"]:
        case "pass": return event
        case "filter": return None
        case "fan out": return [event, event, event]
        case "invalid": raise InvalidEvent("refused by user code")
        case "fail":
            event.data["spoilt"] = True
            raise LookupError("always")
        case "exit": sys.exit(3)
        case "hang":
            while True: pass
        case "object":
            event.data["x"] = object()
            return event
        case "once":
            path = __file__ + str(event.data["n"])
            try: open(path, "x").close()
            except FileExistsError: return event
            raise OSError("not yet")
'''


@pytest.fixture
def given(redis_url: str, database_url: str, tmp_path: Path) -> dict[str, Any]:
    return {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": tmp_path / "p"}


def _add(client: Client, acts: list[str], start: int = 0) -> None:
    made = [
        Event(IDS.id(start + n, b""), "click", "s", events.now(), {"do": act, "n": start + n})
        for n, act in enumerate(acts)
    ]
    fields = batch_fields(events.encode_lines(made), len(made), 5)
    add(client, high_water=10**6, source="", expected="", new="", events=len(made), fields=fields)


def _entries(client: redis.Redis, key: str) -> list[dict[bytes, bytes]]:
    found: Any = client.xrange(key)
    return [fields for _, fields in found]


def test_user_code_of_every_kind(
    given: dict[str, Any], redis_client: redis.Redis, pipeline_name: str, client: Client
) -> None:
    workers.make_pipeline(given["pipeline_folder"], pipeline_name, transform=CODE, edits=PERMISSIVE)
    acts = ["pass", "filter", "fan out", "invalid", "fail", "exit", "object", "once"] * 20 + ["hang"]
    _add(client, acts[:80])
    env: dict[str, Any] = {"TRANSFORM_TIMEOUT_SECONDS": 0.2, "JANITOR_SWEEP_SECONDS": 0.05}
    with workers.running("transform", "transform", "janitor", **given, **env):
        _add(client, acts[80:], start=80)
        until(
            lambda: (now := figures(client)).open_raw == now.retry == 0 and ledger(client)["accepted"] == len(acts),
            what="every event to be settled",
        )
    count = ledger(client)
    expected = {"accepted": 161, "mapped": 60, "filtered": 20, "fanout": 40, "dead.transform": 81, "split": 0}
    assert {name: count.get(name, 0) for name in expected} == expected
    assert count["retry.added"] == count["retry.moved"] == 2 * (20 + 20 + 1) + 20
    lines = [line for one in _entries(redis_client, client.topology.stream("clean")) for line in one[b"d"].splitlines()]
    passed = Counter(events.decode_any(line).data["do"] for line in lines)
    assert passed == {"pass": 20, "fan out": 60, "once": 20}
    assert len({events.decode_any(line).id for line in lines}) == 100

    letters = _entries(redis_client, client.topology.dead)
    by_act: dict[str, list[dict[bytes, bytes]]] = {}
    for letter in letters:
        data = events.decode_any(letter[b"event"]).data
        assert "spoilt" not in data
        by_act.setdefault(data["do"], []).append(letter)
    reasons = {act: {letter[b"reason"] for letter in found} for act, found in by_act.items()}
    assert reasons == {
        "invalid": {b"invalid"},
        "fail": {b"attempts"},
        "exit": {b"attempts"},
        "object": {b"unencodable"},
        "hang": {b"attempts"},
    }
    classes = {
        act: [one["class"] for one in msgspec.json.decode(by_act[act][0][b"history"])] for act in ("fail", "hang")
    }
    assert classes == {"fail": ["LookupError"] * 3, "hang": ["UserCodeTimeout"] * 3}
    assert len({letter[b"fingerprint"] for letter in by_act["fail"]}) == 1


@pytest.mark.parametrize(
    ("transform", "text"),
    [
        ("import no_such_package", "[transform] function 'transform:enrich': no module 'no_such_package'"),
        ("def other(event): ...", "has no 'enrich'"),
    ],
)
def test_user_code_that_cannot_be_loaded_ends_it_with_2(
    given: dict[str, Any], pipeline_name: str, transform: str, text: str
) -> None:
    folder = workers.make_pipeline(given["pipeline_folder"], pipeline_name, transform=transform, edits=PERMISSIVE)
    worker = workers.start("transform", **given)
    assert worker.wait() == 2
    assert text in worker.log_text().splitlines()[-1]
    assert str(folder / "pipeline.toml") in worker.log_text().splitlines()[-1]
    assert "Traceback" not in worker.log_text()


def test_killed_with_a_batch_in_hand_another_settles_it_once(
    given: dict[str, Any], redis_client: redis.Redis, pipeline_name: str, client: Client
) -> None:
    """A batch that was in hand once is tried again; its neighbours are not blamed."""
    slow = "import time\ndef enrich(event):\n    if event.data['n'] == 7: time.sleep(60)\n    return event\n"
    folder = workers.make_pipeline(given["pipeline_folder"], pipeline_name, transform=slow, edits=PERMISSIVE)
    _add(client, ["pass"] * 20)
    pending: Any = None
    with workers.running("transform", CONSUMER_NAME="tf-1", **given) as (first,):
        pending = until(
            lambda: redis_client.xpending_range(client.topology.stream("raw"), "transform", "-", "+", 10),
            what="the batch in hand",
        )
        first.kill(signal.SIGKILL)
        first.wait()
    assert [(one["consumer"], one["times_delivered"]) for one in pending] == [(b"tf-1", 1)]
    (folder / "transform.py").write_text("def enrich(event): return event\n")
    with workers.running("transform", CONSUMER_NAME="tf-1", **given):
        until(lambda: ledger(client).get("mapped") == 20, what="the batch to be settled")
    count = ledger(client)
    assert (count["split"], count["raw.settled"], count["clean.added"]) == (20, 40, 20)
    assert figures(client).open_raw == 0
    assert not redis_client.keys(f"{{{pipeline_name}}}:consumer:*")


def test_asked_to_end_it_puts_back_what_it_has_not_begun_with(
    given: dict[str, Any], pipeline_name: str, client: Client
) -> None:
    """A function that takes long must not outlast whoever waits for the process, who would kill it in the end."""
    slow = (
        "import time\n"
        "def enrich(event):\n"
        "    with open(__file__ + '.calls', 'a') as calls: calls.write(f'{event.data[\"n\"]}\\n')\n"
        "    time.sleep(1)\n"
        "    return event\n"
    )
    folder = workers.make_pipeline(given["pipeline_folder"], pipeline_name, transform=slow, edits=PERMISSIVE)
    calls = folder / "transform.py.calls"
    _add(client, ["pass"] * 500)
    with workers.running("transform", **given) as (worker,):
        until(calls.exists, what="it to have begun")
        assert worker.stop() == 0
        begun = len(calls.read_text().splitlines())
        (told,) = worker.records(action="stop", event="put back what it had not begun with")
    now = figures(client)
    assert (ledger(client)["mapped"], told["events"], now.retry, now.open_raw) == (begun, 500 - begun, 500 - begun, 0)
    protocol.assert_law(client)
    (folder / "transform.py").write_text(slow.replace("time.sleep(1)", "pass"))
    with workers.running("transform", "janitor", JANITOR_SWEEP_SECONDS=0.05, **given):
        until(lambda: ledger(client)["mapped"] == 500, what="the others")
    assert sorted(map(int, calls.read_text().split())) == list(range(500)), "each was seen once"
    assert protocol.assert_law(client).dead == 0


def test_a_young_worker_reads_new_entries_and_leaves_suspects_for_later(
    given: dict[str, Any], pipeline_name: str, client: Client
) -> None:
    """Poison must not look like a program that cannot start, nor hold up what is new."""
    passes = "def enrich(event): return event\n"
    workers.make_pipeline(given["pipeline_folder"], pipeline_name, transform=passes, edits=PERMISSIVE)
    ensure_group(client, "raw", "transform")
    _add(client, ["pass"])
    (suspect,) = protocol.read(client)
    protocol.to_pool(client, suspect.id)
    _add(client, ["pass"] * 3, start=1)
    with workers.running("transform", **given, SUSPECT_SECONDS=1_000):
        until(lambda: ledger(client).get("mapped") == 3, what="the new ones to be settled")
        assert protocol.pending(client) == {suspect.id: ("~reclaimed", 1)}
    with workers.running("transform", **given):
        until(lambda: ledger(client).get("mapped") == 4, what="the suspect to be settled")
