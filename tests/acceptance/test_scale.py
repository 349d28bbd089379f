"""Scaling while events flow: only the difference is touched, and the count ends exact.

Of the three ways of docs/scale.md two are here; `supervisorctl` alone is in test_host.py.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from shared.streams import live_workers
from tests.acceptance.fleet import NOTHING, Fleet, Truth, assert_exact, fleet, generated
from tests.wait import until

EVENTS = 50_000


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with one worker of each kind; each test leaves it so."""
    with fleet(tmp_path_factory.mktemp("scale") / "var") as found:
        yield found


@pytest.fixture(scope="module")
def loads(up: Fleet) -> "Loads":
    return Loads(up)


class Loads:
    """Files that are carried into the fleet, one after the other, and what has to be in PostgreSQL of all of them."""

    def __init__(self, up: Fleet) -> None:
        self._up = up
        self._truth: Truth = NOTHING

    def flow(self, folder: Path, seed: int) -> None:
        """Drop a file into the inbox; returns when events of it are loaded."""
        before = self._truth.events
        self._truth += generated(folder / f"{seed}.ndjson", seed, EVENTS)
        (folder / f"{seed}.ndjson").rename(self._up.var / "inbox" / f"{seed}.ndjson")
        until(partial(self._up.has_loaded, before), what="events to flow")

    def assert_exact(self) -> None:
        """Every event of every file is in its table, once."""
        assert_exact(self._up, self._truth, self._up.url("DATABASE_URL"))


def _pids(found: Fleet) -> dict[str, int | None]:
    return {name: process.pid for name, process in found.processes().items()}


@contextmanager
def _by_hand(found: Fleet, log: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A transform worker started as docs/scale.md says, under a name of its own."""
    environment: Mapping[str, str] = {
        **found.env(),
        "REDIS_URL": found.url("REDIS_URL"),
        "DATABASE_URL": found.url("DATABASE_URL"),
        "CONSUMER_NAME": name,
    }
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "workers.transform"], env=environment, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _live(found: Fleet) -> set[str]:
    client = found.client()
    names = {lease.name for lease in live_workers(client)}
    client.close()
    return names


@pytest.mark.timeout(300)
def test_bargeline_scale_touches_only_the_difference_and_the_count_is_exact(
    up: Fleet, loads: Loads, tmp_path: Path
) -> None:
    before = _pids(up)
    loads.flow(tmp_path, seed=4)
    up.run("scale", "transform=4")
    four = _pids(up)
    assert {f"transform-{number:02}" for number in range(1, 5)} <= four.keys()
    assert {name: four[name] for name in before} == before
    up.run("scale", "transform=1")
    assert _pids(up) == before
    loads.assert_exact()


@pytest.mark.timeout(300)
def test_one_more_worker_by_hand_joins_and_leaves_and_the_count_is_exact(
    up: Fleet, loads: Loads, tmp_path: Path
) -> None:
    before = _pids(up)
    loads.flow(tmp_path, seed=5)
    with _by_hand(up, tmp_path / "hand.log", "by-hand") as hand:
        until(lambda: "by-hand" in _live(up), what="the worker started by hand to join")
        loads.flow(tmp_path, seed=6)
        hand.send_signal(signal.SIGTERM)
        assert hand.wait(30) == 0, (tmp_path / "hand.log").read_text()
    assert "by-hand" not in _live(up), "a worker that ends gives its name back"
    assert _pids(up) == before
    loads.assert_exact()


@pytest.mark.timeout(120)
def test_a_taken_name_is_waited_for_then_refused(up: Fleet, tmp_path: Path) -> None:
    taken = up.processes()["transform-01"].consumer
    assert taken
    log = tmp_path / "second.log"
    with _by_hand(up, log, taken) as second:
        until(lambda: "name is held, waiting" in log.read_text(), what="the second worker to wait")
        assert second.wait(60) == 3
    assert f"CONSUMER_NAME={taken}" in log.read_text()
    # One whose holder was frozen and is gone from the list takes over instead.
    os.kill(up.pid("transform-01"), signal.SIGSTOP)
    try:
        with _by_hand(up, tmp_path / "third.log", taken) as third:
            until(lambda: "started" in (tmp_path / "third.log").read_text(), seconds=40, what="the take-over")
            third.send_signal(signal.SIGTERM)
            assert third.wait(30) == 0
    finally:
        os.kill(up.pid("transform-01"), signal.SIGCONT)
