"""The law as arithmetic: where everything is, and what each imbalance is called."""

from typing import Any

import msgspec
import pytest

from shared.accounting import Balance, Figures, balance

#: Every counter has a value of its own, so that none can stand in for another.
COUNTERS = {
    "accepted": 1_000,
    "dead.ingest": 10,
    "raw.added": 1_000 - 10 + 30 + 40 + 3 + 5,
    "raw.entries": 50,
    "raw.foreign": 6,
    "retry.added": 35,
    "retry.moved": 30,
    "split": 40,
    "dead.replayed": 7,
    "dead.replayed.raw": 3,
    "dead.replayed.clean": 4,
    "replayed_range": 5,
    "mapped": 800,
    "filtered": 100,
    "dead.transform": 12,
    "lost.raw": 2,
    "raw.settled": 800 + 100 + 35 + 12 + 40 + 2 - 6,
    "fanout": 200,
    "clean.added": 800 + 200 + 4,
    "clean.entries": 20,
    "clean.foreign": 1,
    "loaded": 900,
    "duplicates": 9,
    "unrouted": 8,
    "dead.loader": 11,
    "lost.clean": 13,
    "clean.settled": 900 + 9 + 8 + 11 + 13 - 1,
    "purged": 4,
}
FIGURES = Figures(
    epoch="1700000000000",
    counters=COUNTERS,
    open_raw=COUNTERS["raw.added"] - COUNTERS["raw.settled"],
    open_clean=COUNTERS["clean.added"] - COUNTERS["clean.settled"],
    retry=5,
    dead=10 + 12 + 11 - 7 - 4,
    raw_entries_added=50 + 6 + 2,
    clean_entries_added=20 + 1 + 1,
)


def found(**changes: Any) -> Balance:
    """The balance after changes of figures, or of counters (``__`` stands for a dot)."""
    figures = {name: value for name, value in changes.items() if name in Figures.__struct_fields__}
    counters = {name.replace("__", "."): value for name, value in changes.items() if name not in figures}
    changed = msgspec.structs.replace(FIGURES, counters={**COUNTERS, **counters}, **figures)
    return balance("clicks", changed)


def test_all_is_well() -> None:
    one = found()
    assert one.imbalance == 0
    assert one.findings == []
    assert (one.pipeline, one.epoch) == ("clicks", "1700000000000")
    assert (one.in_raw, one.in_clean, one.in_retry) == (85 + 2, 64 + 1, 5)
    assert one.in_flight == one.in_raw + one.in_clean + one.in_retry
    assert (one.accepted, one.foreign, one.replayed, one.fanned_out) == (1_000, 10, 5, 200)
    assert (one.loaded, one.duplicates, one.filtered, one.unrouted) == (900, 9, 100, 8)
    assert (one.dead, one.purged, one.lost) == (22, 4, 15)


def test_what_came_is_what_left_and_what_is_on_its_way() -> None:
    one = found()
    came = one.accepted + one.foreign + one.replayed + one.fanned_out
    left = one.loaded + one.duplicates + one.filtered + one.unrouted + one.dead + one.purged + one.lost
    assert came == left + one.in_flight


def test_an_empty_pipeline_balances() -> None:
    one = balance("clicks", Figures(None, {}, 0, 0, 0, 0, 0, 0))
    assert (one.imbalance, one.findings, one.in_flight, one.epoch) == (0, [], 0, None)


@pytest.mark.parametrize(
    ("change", "imbalance"),
    [
        ({"accepted": 1_001}, 1),
        ({"replayed_range": 4}, -1),
        ({"fanout": 201}, 1),
        ({"loaded": 901}, -1),
        ({"duplicates": 8}, 1),
        ({"filtered": 101}, -1),
        ({"unrouted": 9}, -1),
        ({"purged": 5}, -1),
        ({"lost__raw": 3}, -1),
        ({"lost__clean": 14}, -1),
        ({"dead": 23}, -1),
        ({"retry": 4}, 1),
        ({"open_raw": 86}, -1),
        ({"open_clean": 63}, 1),
        ({"raw__foreign": 5}, -1),
        ({"clean__foreign": 2}, 1),
    ],
)
def test_a_figure_that_is_off_by_one_shows(change: dict[str, int], imbalance: int) -> None:
    one = found(**change)
    assert one.imbalance == imbalance
    assert one.findings


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"open_raw": 84}, ["open:raw = raw.added - raw.settled"]),
        ({"open_clean": 65}, ["open:clean = clean.added - clean.settled"]),
        ({"raw__added": 1_069}, ["open:raw = raw.added - raw.settled", "raw.added"]),
        ({"raw__settled": 984}, ["open:raw = raw.added - raw.settled", "raw.settled"]),
        ({"clean__added": 1_005}, ["open:clean = clean.added - clean.settled", "clean.added"]),
        ({"clean__settled": 941}, ["open:clean = clean.added - clean.settled", "clean.settled"]),
        ({"mapped": 801}, ["raw.settled", "clean.added"]),
        ({"split": 41}, ["raw.added", "raw.settled"]),
        ({"retry__moved": 31}, ["raw.added", "length of retry"]),
        ({"retry__added": 36}, ["raw.settled", "length of retry"]),
        ({"dead__ingest": 11}, ["raw.added", "length of dead"]),
        ({"dead__transform": 13}, ["raw.settled", "length of dead"]),
        ({"dead__loader": 12}, ["clean.settled", "length of dead"]),
        ({"dead__replayed": 8}, ["length of dead"]),
        ({"dead__replayed__raw": 4}, ["raw.added"]),
        ({"dead__replayed__clean": 5}, ["clean.added"]),
    ],
)
def test_a_finding_says_where_to_look(change: dict[str, int], names: list[str]) -> None:
    assert [finding.partition(":")[0] for finding in found(**change).findings] == [
        name.partition(":")[0] for name in names
    ]
    for finding, name in zip(found(**change).findings, names, strict=True):
        assert finding.startswith(f"{name}: ")


def test_a_finding_gives_both_figures() -> None:
    assert found(dead=30).findings == ["length of dead: 30 is not 22"]


@pytest.mark.parametrize("stage", ["raw", "clean"])
def test_a_stream_that_was_made_anew_is_told_from_foreign_entries_that_wait(stage: str) -> None:
    anew = found(**{f"{stage}_entries_added": 0})
    expected = {"raw": 56, "clean": 21}[stage]
    assert anew.findings == [
        f"{stage}: {expected} more foreign entries were settled than added; the stream was deleted or made anew"
    ]
    assert found(**{f"{stage}_entries_added": 99}).findings == []


def test_foreign_entries_that_wait_are_in_flight() -> None:
    more = found(raw_entries_added=FIGURES.raw_entries_added + 3)
    assert (more.foreign, more.in_raw, more.imbalance) == (13, 90, 0)
