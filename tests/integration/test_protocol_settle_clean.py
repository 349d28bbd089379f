"""SETTLE_CLEAN: the same fence, then the figures of the committed transaction."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.entries import Entry
from shared.errors import BargelineError
from shared.streams import Client, Loaded, settle_clean
from tests.integration import protocol


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


def clean_entries(client: Client, *sizes: int) -> list[Entry]:
    """Clean entries of these sizes, in the hands of the loader `one`."""
    for size in sizes:
        protocol.added(client, *range(size))
        (entry,) = protocol.read(client)
        protocol.settle_raw(client, protocol.mapped(entry))
    return protocol.read(client, "clean")


def test_figures_and_dead_letters_are_counted(client: Client) -> None:
    (entry,) = clean_entries(client, 10)
    dead = [protocol.letter("loader", b"8"), protocol.letter("loader", b"9")]
    assert settle_clean(client, [Loaded(entry.id, False, 10, loaded=4, duplicates=3, unrouted=1, dead=dead)]) == [True]
    found = protocol.assert_law(client)
    assert (found.loaded, found.duplicates, found.unrouted, found.dead) == (4, 3, 1, 2)
    assert found.in_flight == 0
    assert protocol.is_open(client, "clean") == {}
    assert protocol.pending(client, "clean") == {}
    assert protocol.counters(client)["dead.loader"] == 2


def test_a_second_settlement_counts_nothing(client: Client) -> None:
    first, second = clean_entries(client, 2, 3)
    assert settle_clean(client, [protocol.all_loaded(first)]) == [True]
    before = protocol.counters(client)
    late = replace(protocol.all_loaded(first), loaded=1, dead=[protocol.letter("loader")])
    assert settle_clean(client, [late]) == [False]
    assert protocol.counters(client) == before
    assert settle_clean(client, [protocol.all_loaded(first), protocol.all_loaded(second)]) == [False, True]
    assert protocol.assert_law(client).loaded == 5


@pytest.mark.parametrize("change", [{"loaded": 1}, {"duplicates": 1}, {"unrouted": 1}, {"dead": [["stage", "loader"]]}])
def test_figures_that_do_not_add_up_are_refused_and_nothing_is_written(
    client: Client, change: dict[str, object]
) -> None:
    good, bad = clean_entries(client, 2, 3)
    before = protocol.snapshot(client)
    wrong = replace(protocol.all_loaded(bad), **change)  # type: ignore[arg-type]
    with pytest.raises(BargelineError, match=f"UNBALANCED {bad.id}"):
        settle_clean(client, [protocol.all_loaded(good), wrong])
    assert protocol.snapshot(client) == before


def test_a_foreign_clean_entry_is_deleted_at_its_settlement(client: Client) -> None:
    protocol.add_foreign(client, "clean")
    (entry,) = protocol.read(client, "clean")
    assert settle_clean(client, [protocol.all_loaded(entry)]) == [True]
    assert settle_clean(client, [protocol.all_loaded(entry)]) == [False]
    assert protocol.contents(client, "clean") == []
    found = protocol.assert_law(client)
    assert (found.foreign, found.loaded, found.in_flight) == (1, 1, 0)


def test_settled_entries_that_a_new_group_delivers_again_are_dropped(client: Client) -> None:
    (entry,) = clean_entries(client, 4)
    settle_clean(client, [protocol.all_loaded(entry)])
    protocol.make_group_anew(client, "clean")
    (again,) = protocol.read(client, "clean")
    assert settle_clean(client, [protocol.all_loaded(again)]) == [False]
    assert protocol.pending(client, "clean") == {}
    assert protocol.assert_law(client).loaded == 4
