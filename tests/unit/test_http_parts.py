"""Parts of the source http that need no server: ids, packing, group commit, the rate limit."""

import asyncio
import gzip
import json
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shared import events
from shared.attributes import Attributes
from shared.entries import pieces
from shared.errors import TransientError
from shared.pipeline import IngestSection
from shared.run import Runtime
from workers.ingest.http import rate
from workers.ingest.http.adding import Adder, Busy
from workers.ingest.http.bodies import NDJSON, expand
from workers.ingest.http.cloudevents import BATCH, STRUCTURED
from workers.ingest.http.committing import Committer
from workers.ingest.http.making import Origin, make
from workers.ingest.http.problems import Problem

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECTION = IngestSection.model_validate(
    {
        "type": {"path": "kind", "default": "other"},
        "time": {"path": "at"},
        "id": {"path": "id"},
        "key": {"path": "user"},
    }
)


def _made(body: object, *, source: str = "s", delivery: str | None = None, kind: str | None = None) -> Any:
    origin = Origin(source, Attributes(SECTION, "p"), 1_000)
    return make(origin, {}, json.dumps(body).encode(), delivery=delivery, arrived=NOW, kind=kind)


def test_attributes_come_from_where_the_pipeline_says() -> None:
    (event,) = _made({"kind": "a", "at": "2020-01-01", "id": 7, "user": 5})
    assert (event.type, event.time, event.key) == ("a", datetime(2020, 1, 1, tzinfo=UTC), "5")
    (other,) = _made({"id": 7})
    assert (other.type, other.time, other.key) == ("other", NOW, None)
    assert event.id == other.id, "the same id in the data is the same event"


def test_what_a_header_says_of_the_type_comes_first() -> None:
    assert _made({"kind": "a"}, kind="from the header")[0].type == "from the header"


def test_the_delivery_comes_before_the_id_in_the_data() -> None:
    first, second = _made([{"id": 7}, {"id": 7}], delivery="d")
    assert first.id != second.id
    assert [one.id for one in _made([{}, {}], delivery="d")] == [first.id, second.id]
    assert _made({"id": 7}, delivery="d", source="another")[0].id != first.id
    # Whoever may send to one path cannot take the ids of another's deliveries.
    uuid = "0b1c2d3e-0000-4000-8000-000000000000"
    assert _made({}, delivery=uuid)[0].id != _made({}, delivery=uuid, source="another")[0].id


def test_a_bad_attribute_or_a_long_event_is_named() -> None:
    with pytest.raises(Problem, match="event 1: 'never' is no time") as caught:
        _made([{}, {"at": "never"}, {"x": "y" * 1_000}])
    found = json.loads(caught.value.answer().body)
    assert [(one["index"], one["reason"]) for one in found["errors"]] == [(1, "bad_time"), (2, "too_long")]


_KINDS = (*NDJSON, STRUCTURED, BATCH, "application/json", "text/plain", "application/json; charset=x", ";", "a/b; c")
_JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)
_VALUES = _JSON | st.dictionaries(st.sampled_from(["id", "specversion", "source", "type", "data", "time", "at"]), _JSON)
_BODIES = st.binary(max_size=200) | st.builds(lambda one: json.dumps(one).encode(), _VALUES | st.lists(_VALUES))


@given(
    _BODIES,
    st.sampled_from([*_KINDS, None]),
    st.dictionaries(st.sampled_from(["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"]), st.text()),
    st.sampled_from(["", "gzip", "zstd", "GZIP ", "br"]),
    st.booleans(),
)
def test_whatever_comes_is_events_or_a_problem(
    body: bytes, kind: str | None, headers: dict[str, str], coding: str, compressed: bool
) -> None:
    given_headers = headers | ({} if kind is None else {"content-type": kind})
    if compressed and "gzip" in coding.lower():
        body = gzip.compress(body)
    if compressed and coding == "zstd":
        body = zstandard.compress(body)
    origin = Origin("s", Attributes(SECTION, "p"), 1_000)
    try:
        made = make(origin, given_headers, expand(body, coding, 500), delivery=None, arrived=NOW)
    except Problem as problem:
        answer = problem.answer()
        assert 400 <= answer.status < 500
        assert json.loads(answer.body)["status"] == answer.status
    else:
        for event in made:
            line = events.encode(event)
            assert b"\n" not in line
            assert isinstance(events.decode_any(line).data, dict)


def test_lines_are_packed_by_number_and_size() -> None:
    lines = [b"12345", b"1234", b"1", b"1", b"1", b"123456789012", b"1"]
    packed = [(len(piece), b"".join(piece)) for piece in pieces(lines, 3, 10)]
    assert packed == [(3, b"1234512341"), (2, b"11"), (1, b"123456789012"), (1, b"1")]
    assert list(pieces([], 3, 10)) == []


class _Blocked:
    """Stands for the adder: holds its first call until it is let go, and notes what it was given."""

    def __init__(self, *outcomes: Busy | Exception | None) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls: list[list[bytes]] = []
        self.probed = 0
        self._outcomes = list(outcomes)

    def add(self, lines: list[bytes]) -> Busy | None:
        self.calls.append(list(lines))
        self.begun.set()
        self.go.wait(30)
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def probe(self) -> None:
        self.probed += 1

    def close(self) -> None:
        self.go.set()


def _committer(adder: _Blocked) -> tuple[Committer, Any]:
    counted: list[int] = []
    runtime = SimpleNamespace(
        waiting_for=None, metrics=SimpleNamespace(events=lambda _outcome, count: counted.append(count)), counted=counted
    )
    return Committer(cast("Runtime", runtime), cast("Adder", adder)), runtime


async def _first_and_others(committer: Committer, adder: _Blocked, others: int) -> list[Problem | None]:
    """Let one request reach Redis, then others arrive while it is there."""
    first = asyncio.create_task(committer.add([b"first"]))
    await asyncio.to_thread(adder.begun.wait, 30)
    rest = [asyncio.create_task(committer.add([b"%d" % n])) for n in range(others)]
    await asyncio.sleep(0)
    adder.go.set()
    return list(await asyncio.gather(first, *rest))


def test_what_arrives_while_a_batch_is_added_goes_together() -> None:
    adder = _Blocked()
    committer, runtime = _committer(adder)
    assert asyncio.run(_first_and_others(committer, adder, 60)) == [None] * 61
    assert adder.calls == [[b"first"], [b"%d" % n for n in range(60)]]
    assert runtime.counted == [1, 60]
    committer.close()


def test_a_full_stage_refuses_only_who_met_it() -> None:
    adder = _Blocked(Busy("full", 7))
    committer, runtime = _committer(adder)
    refused, *taken = asyncio.run(_first_and_others(committer, adder, 2))
    assert refused is not None
    assert (refused.status, dict(refused.answer().headers)[b"retry-after"]) == (503, b"7")
    assert taken == [None, None]
    assert runtime.counted == [2]
    committer.close()


def test_while_redis_is_away_nobody_waits_and_then_it_goes_on() -> None:
    adder = _Blocked(TransientError("gone"))
    committer, runtime = _committer(adder)

    async def scene() -> None:
        answers = await _first_and_others(committer, adder, 2)
        assert [one and one.status for one in answers] == [503, 503, 503]
        assert "may be in" in str(answers[0]), "of what was sent nobody knows"
        assert "nothing was added" in str(answers[1]), "what was not sent is not in"
        assert adder.calls == [[b"first"]]
        assert runtime.waiting_for == "gone"
        refused = await committer.add([b"x"])
        assert refused is not None
        assert committer.probing is not None
        await committer.probing
        assert await committer.add([b"back"]) is None

    asyncio.run(scene())
    assert adder.probed == 1
    assert adder.calls == [[b"first"], [b"back"]], "the one in between did not get there"
    assert runtime.waiting_for is None
    committer.close()


def test_an_error_that_waiting_does_not_heal_is_kept_for_the_end_of_the_process() -> None:
    error = ValueError("a bug")
    adder = _Blocked(error)
    committer, _ = _committer(adder)
    answers = asyncio.run(_first_and_others(committer, adder, 1))
    assert [one and one.status for one in answers] == [503, 503]
    assert committer.failure is error
    committer.close()


def test_the_rate_limit_goes_into_debt_and_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(rate, "time", SimpleNamespace(monotonic=lambda: clock.now))
    bucket = rate.Bucket(10)
    assert bucket.wait_seconds() == 0
    bucket.take(25)
    assert bucket.wait_seconds() == pytest.approx(1.6)
    clock.now += 1.6
    assert bucket.wait_seconds() == 0
    clock.now += 1_000
    assert bucket.wait_seconds() == 0
    bucket.take(10)
    assert bucket.wait_seconds() == pytest.approx(0.1), "what was not used is not saved up"
    assert rate.Bucket(0).wait_seconds() == 0
