"""Files into a running fleet: the reference input, the inbox, bad lines, compressed files."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import zstandard

from tests.acceptance.fleet import Fleet, assert_exact, fleet, generated
from tests.wait import until

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "clickstream-1000.jsonl"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for this module; each test looks at what it added itself."""
    with fleet(tmp_path_factory.mktemp("fleet")) as found:
        yield found


@pytest.fixture
def emptied(running: Fleet) -> Fleet:
    """The fleet with empty tables and streams."""
    client = running.client()
    until(lambda: running.settled(0), what="nothing in flight")
    names = client.topology
    for key in (names.ledger, names.dead, names.retry, names.checkpoint, names.open("raw"), names.open("clean")):
        client.call("DEL", key)
    for stage in ("raw", "clean"):
        client.call("DEL", names.stream(stage))
    client.close()
    with psycopg.connect(running.url("DATABASE_URL")) as connection:
        connection.execute("TRUNCATE clicks, mobile_users_by_timezone, load_ledger, load_totals")
    return running


def _figures(found: Fleet) -> tuple[int, int, int, int]:
    with psycopg.connect(found.url("DATABASE_URL")) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM clicks").fetchone() or (0,)
        row = connection.execute(
            "SELECT sum(num_mobile_users)::int, count(DISTINCT os_timezone)::int,"
            " (sum(num_mobile_users) FILTER (WHERE os_timezone = 'America/Mexico_City'))::int"
            " FROM mobile_users_by_timezone"
        ).fetchone()
    assert row
    return (rows, *row)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"the reference input {REFERENCE.name} is not beside this checkout")
def test_the_reference_input_gives_the_known_figures_however_often_it_is_read(emptied: Fleet) -> None:
    for expected in ("1,000 events accepted", "0 events accepted, 1,000 lines were read before"):
        done = emptied.run("ingest", str(REFERENCE), "--wait")
        assert expected in done.stdout
        assert _figures(emptied) == (1000, 672, 51, 46)


def test_compressed_files_and_the_inbox(emptied: Fleet, tmp_path: Path) -> None:
    truth = generated(tmp_path / "clicks.ndjson", seed=8, count=3_000)
    lines = (tmp_path / "clicks.ndjson").read_bytes().splitlines(keepends=True)
    inbox = emptied.var / "inbox"
    (tmp_path / "a").write_bytes(b"".join(lines[:1000]))
    (tmp_path / "b").write_bytes(gzip.compress(b"".join(lines[1000:2000])))
    (tmp_path / "c").write_bytes(zstandard.ZstdCompressor().compress(b"".join(lines[2000:])))
    for part, name in (("a", "a.ndjson"), ("b", "b.ndjson.gz"), ("c", "c.ndjson.zst")):
        (tmp_path / part).rename(inbox / name)
    assert_exact(emptied, truth, emptied.url("DATABASE_URL"))
    shown = emptied.run("status").stdout
    assert all(name in shown for name in ("a.ndjson", "b.ndjson.gz", "c.ndjson.zst"))


def test_a_bad_line_is_a_dead_letter_with_place_and_bytes_and_the_rest_flows(emptied: Fleet, tmp_path: Path) -> None:
    generated(tmp_path / "good.ndjson", seed=9, count=10)
    good = (tmp_path / "good.ndjson").read_bytes().splitlines(keepends=True)
    file = tmp_path / "mixed.ndjson"
    bad = b'{"click_id": "torn \xff\n'
    file.write_bytes(b"".join([*good[:5], bad, b"[1, 2]\n", *good[5:]]))
    done = emptied.run("ingest", str(file), "--wait", check=False)
    assert done.returncode == 1
    assert "2 dead-lettered" in done.stderr
    assert "bargeline tail dead" in done.stderr
    letters = [json.loads(line) for line in emptied.run("tail", "dead").stdout.splitlines()]
    assert [letter["reason"] for letter in letters] == ["not_json", "not_json"]
    assert letters[0]["origin"]["place"] == {"offset": sum(map(len, good[:5])), "line": 6}
    client = emptied.client()
    (entry, *_) = client.call("XRANGE", client.topology.dead, "-", "+")
    assert bad.strip() in entry[1]
    client.close()
    assert emptied.balance().loaded == 10
    assert emptied.run("reconcile").returncode == 0
