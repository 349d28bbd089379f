"""The generator as a source: the same events for a seed, however often it is killed."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.generate import clicks, orders, sensors
from shared.settings import load_settings
from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from workers.ingest.generator import mixed, paced

MIXED: dict[str, Any] = {"INGEST_GENERATOR_BAD": 0.02, "INGEST_GENERATOR_DUPLICATES": 0.05, "INGEST_GENERATOR_SEED": 7}


@pytest.fixture
def start(redis_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Start]:
    with starting(redis_url, tmp_path / "pipeline", pipeline_name) as begin:
        yield begin


def _generate(start: Start, kind: str, total: int, **env: Any) -> None:
    given: dict[str, Any] = {
        "INGEST_GENERATOR_KIND": kind,
        "INGEST_GENERATOR_TOTAL": total,
        "INGEST_GENERATOR_RATE": 0,
        **env,
    }
    assert start(INGEST_SOURCE="generator", **given).wait() == 0


@pytest.mark.parametrize(("kind", "make"), [("clicks", clicks), ("orders", orders), ("sensors", sensors)])
def test_events_of_a_kind(stored: Stored, start: Start, kind: str, make: object) -> None:
    _generate(start, kind, 300, INGEST_GENERATOR_SEED=5)
    assert callable(make)
    assert [event["data"] for event in stored.events()] == list(make(5, 300))
    assert stored.checkpoint(f"generator:{kind}:5") == {"position": 299, "lines": 300, "done": True}


def test_killed_in_the_middle_it_goes_on_to_the_same_events(stored: Stored, start: Start) -> None:
    total = 12_000  # more than a block
    given: dict[str, Any] = {
        "INGEST_SOURCE": "generator",
        "INGEST_GENERATOR_TOTAL": total,
        "INGEST_GENERATOR_RATE": 0,
        **MIXED,
    }
    stored.leave_room(9_000)
    for share in (0.3, 0.6):
        worker = start(**given, INGEST_BATCH_EVENTS=10, CONSUMER_NAME="ingest")
        until(lambda share=share: stored.counter("accepted") > share * total, what="a part")  # type: ignore[misc]
        worker.kill(signal.SIGKILL)
        worker.wait()
    assert stored.counter("accepted") < total, "it has to be killed in the middle for this test to say anything"
    stored.make_room()
    assert start(**given, CONSUMER_NAME="ingest").wait() == 0
    settings = load_settings({name: str(value) for name, value in MIXED.items()})
    expected = [one for one, _ in zip(mixed(settings, 0), range(total), strict=False)]
    found = stored.events()
    assert [event["data"] for event in found] == [one.data for one in expected if not one.bad]
    assert [letter["origin"]["place"]["position"] for letter in stored.dead()] == [
        one.number for one in expected if one.bad
    ]
    repeated = sum(one.number != one.original for one in expected)
    assert len(stored.ids()) == total - len(stored.dead()) - repeated
    assert 0.01 < len(stored.dead()) / total < 0.03
    assert 0.04 < repeated / total < 0.06


def test_it_begins_anywhere_and_a_duplicate_is_an_event_before_it() -> None:
    settings = load_settings({name: str(value) for name, value in MIXED.items()})
    whole = [one for one, _ in zip(mixed(settings, 0), range(25_000), strict=False)]
    for first in (1, 9_999, 10_000, 23_456):
        assert [one for one, _ in zip(mixed(settings, first), range(200), strict=False)] == whole[first : first + 200]
    by_number = {one.number: one for one in whole}
    for one in whole:
        assert one.original <= one.number
        assert one.data == by_number[one.original].data
        assert not (one.bad and one.number != one.original)
    kinds = Counter((one.bad, one.number != one.original) for one in whole)
    assert min(kinds.values()) > 300


def test_pauses_keep_the_rate_and_do_not_make_up_for_long_ones() -> None:
    made = [one for one, _ in zip(mixed(load_settings({}), 0), range(50), strict=False)]
    pauses: list[float] = []
    assert list(paced(iter(made), 10, pauses.append)) == made
    # The clock stands still here: each event is due a tenth of a second after the one before.
    assert len(pauses) == 50
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4
    assert list(paced(iter(made), 0, pauses.append)) == made
    assert len(pauses) == 50
