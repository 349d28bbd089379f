"""Two versions of the program side by side: the one that is here, and a copy whose entry format is the next."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from shared.generate import clicks, write_clicks
from shared.streams import Client
from shared.streams.inspect import figures
from tests import workers
from tests.wait import until
from tests.workers import ROOT, Worker

_CODE = ("config", "migrations", "shared", "workers", "bargeline")
_EDITS = (
    ("shared/entries.py", "VERSION = 1\n", "VERSION = 2\n"),
    ("shared/entries.py", 'READABLE = (b"1",)', 'READABLE = (b"1", b"2")'),
    ("shared/streams/lua/prelude.lua", "VERSION = '1'", "VERSION = '2'"),
    ("shared/streams/lua/prelude.lua", "{ ['1'] = true }", "{ ['1'] = true, ['2'] = true }"),
)
EVENTS = 2_000
#: Those that read a format before those that write it.
ORDER = ("loader", "transform", "ingest", "janitor")


@pytest.fixture
def next_version(tmp_path: Path) -> dict[str, Any]:
    """Variables that make Python run a copy that writes the next format and reads this one too."""
    for name in _CODE:
        shutil.copytree(ROOT / name, tmp_path / "next" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in _EDITS:
        path = tmp_path / "next" / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} holds {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))
    return {"PYTHONPATH": str(tmp_path / "next"), "PYTHONSAFEPATH": "1"}


def _versions(redis_client: redis.Redis, client: Client, stage: str) -> set[bytes]:
    found: Any = redis_client.xrange(client.topology.stream(stage))
    return {fields[b"v"] for _, fields in found}


def _arrives(inbox: Path, seed: int) -> int:
    """Let a file of clicks appear; returns how many the transform does not leave out."""
    unfinished = inbox.parent / f"{seed}.unfinished"
    write_clicks(unfinished, seed, EVENTS)
    unfinished.rename(inbox / f"{seed}.ndjson")
    return sum(click["device_type"] != "Bot" for click in clicks(seed, EVENTS))


def _settled(client: Client, accepted: int) -> bool:
    found = figures(client)
    return found.counters.get("accepted", 0) >= accepted and not (found.open_raw + found.open_clean + found.retry)


def test_every_kind_is_replaced_by_the_next_version_while_events_flow(
    given: dict[str, Any], next_version: dict[str, Any], redis_client: redis.Redis, client: Client, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source: dict[str, Any] = {
        "INGEST_PATH": str(inbox / "*.ndjson"),
        "INGEST_WATCH": "true",
        "INGEST_WATCH_SECONDS": 0.05,
    }
    old: dict[str, Worker] = {kind: workers.start(kind, **given, **source) for kind in ORDER}
    new: dict[str, Worker] = {}
    rows = 0
    try:
        for worker in old.values():
            worker.until_started()
        rows += _arrives(inbox, 1)
        for seed, kind in enumerate(ORDER, start=2):
            new[kind] = workers.start(kind, **given, **source, **next_version).until_started()
            rows += _arrives(inbox, seed)
            assert old[kind].stop() == 0
            until(partial(_settled, client, seed * EVENTS), what=f"the events that came while {kind} was replaced")
        rows += _arrives(inbox, 99)
        until(partial(_settled, client, (len(ORDER) + 2) * EVENTS), what="the events of the new version alone")
        for stage in ("raw", "clean"):
            assert _versions(redis_client, client, stage) == {b"1", b"2"}
        assert [worker.stop() for worker in new.values()] == [0] * len(ORDER)
    finally:
        workers.end(*old.values(), *new.values())
    with psycopg.connect(given["database_url"]) as connection:
        counted = connection.execute("SELECT count(*), count(DISTINCT event_id) FROM clicks").fetchone()
        summed = connection.execute("SELECT sum(events)::int FROM mobile_users_by_timezone").fetchone()
    assert counted == (rows, rows)
    assert summed == (rows,)
    counters = figures(client).counters
    assert counters.get("duplicates", 0) == counters.get("dead", 0) == 0
