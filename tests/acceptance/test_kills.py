"""kill -9 of every kind of process while events flow: the count ends exact."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, assert_exact, fleet, generated
from tests.wait import until

EVENTS = 200_000
VICTIMS = ("transform-01", "loader-01", "ingest-01", "janitor-01", "valkey", "postgres")


def _kill(found: Fleet, name: str) -> None:
    pid = found.pid(name)
    os.kill(pid, signal.SIGKILL)
    until(lambda: found.processes()[name].pid not in (None, pid), seconds=60, what=f"{name} to be started again")


@pytest.mark.timeout(400)
def test_every_kind_killed_while_200_000_events_flow(tmp_path: Path) -> None:
    truth = generated(tmp_path / "clicks.ndjson", seed=3, count=EVENTS)
    with fleet(tmp_path / "var", "--transform", "2") as found:
        (tmp_path / "clicks.ndjson").rename(tmp_path / "var" / "inbox" / "clicks.ndjson")
        for index, victim in enumerate(VICTIMS):
            flows = partial(found.has_loaded, index * EVENTS // 20)
            until(flows, seconds=120, what=f"events to flow before {victim} is killed")
            assert found.balance().in_flight > 0, f"everything was settled before {victim} was killed"
            _kill(found, victim)
        assert_exact(found, truth, found.url("DATABASE_URL"))
