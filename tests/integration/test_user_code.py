"""User code that forks, prints, or holds the GIL for longer than a lease lasts."""

from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared import events
from shared.entries import batch_fields
from shared.events import Event, SourceIds
from shared.streams import Client, add
from shared.streams.inspect import ledger
from shared.streams.lease import TTL_MS
from tests import workers
from tests.integration import protocol
from tests.wait import until
from tests.workers import Worker

IDS = SourceIds("s")
PERMISSIVE = {'model = "transform:Click"': "", "[ingest]": "retry_delays_seconds = [0.05]\n[ingest]"}
HOLD_SECONDS = TTL_MS // 1000 + 3
CODE = f"""
import ctypes, os, signal, subprocess, sys, time

def hold(seconds):
    # As code that computes would: no signal wakes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    ctypes.PyDLL(None).sleep(seconds)

def enrich(event):
    match event.data["do"]:
        case "fork": os.fork()
        case "fork and exit":
            if os.fork() == 0: sys.exit(0)
        case "fork and raise":
            if os.fork() == 0: raise RuntimeError("in the child")
        case "run": subprocess.run(["true"], check=True)
        case "print":
            print("x" * 100_000)
            print("y" * 100_000, file=sys.stderr)
        case "hold the GIL once":
            try: open(__file__ + ".held", "x").close()
            except FileExistsError: return event
            hold({HOLD_SECONDS})
        case "take a while": time.sleep(0.05)
        case "wait": time.sleep(0.01)
        case "hold the GIL": hold(100)
    return event
"""


@pytest.fixture
def given(redis_url: str, database_url: str, pipeline_name: str, tmp_path: Path) -> dict[str, Any]:
    folder = workers.make_pipeline(tmp_path / "p", pipeline_name, transform=CODE, edits=PERMISSIVE)
    return {"redis_url": redis_url, "database_url": database_url, "pipeline_folder": folder}


def _add(client: Client, *acts: str) -> None:
    made = [Event(IDS.id(n, b""), "click", "s", events.now(), {"do": act}) for n, act in enumerate(acts)]
    fields = batch_fields(events.encode_lines(made), len(made), 5)
    add(client, high_water=10**6, source="", expected="", new="", events=len(made), fields=fields)


def test_children_of_user_code_do_not_go_on_as_workers(given: dict[str, Any], client: Client) -> None:
    acts = ["fork", "fork and exit", "fork and raise", "run", "print", "pass"] * 5
    with workers.running("transform", **given) as (worker,):
        _add(client, *acts)
        until(lambda: ledger(client).get("mapped") == len(acts), what="every event to be settled")
        until(lambda: all(_ended(child) for child in psutil.Process(worker.pid).children()), what="children to end")
    found = protocol.assert_law(client)
    assert (found.in_raw, found.in_retry, found.dead, found.in_clean) == (0, 0, 0, len(acts))
    assert "settled_before" not in worker.log_text()


def _ended(child: psutil.Process) -> bool:
    try:
        return bool(child.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_held_gil_costs_the_lease_and_nothing_else(given: dict[str, Any], client: Client) -> None:
    """No lease is renewed meanwhile, so the batch goes to another; the first finds it settled and goes on."""
    with workers.running("transform", "janitor", **given) as (holding, _):
        _add(client, *["pass"] * 5, "hold the GIL once")
        until((given["pipeline_folder"] / "transform.py.held").exists, what="the GIL to be held")
        with workers.running("transform", **given):
            until(lambda: ledger(client).get("mapped") == 6, 60, what="another worker to settle the batch")
            until(partial(_found_it_settled, holding), what="the first to find that it was settled")
    assert protocol.assert_law(client).in_clean == 6


def _found_it_settled(worker: Worker) -> bool:
    try:
        return 'kind="settled_before"' in worker.get("/metrics")[1]
    except TimeoutError:
        return False  # Nothing answers while the GIL is held.


def test_a_gil_that_is_never_released_ends_the_process_and_says_where(given: dict[str, Any], client: Client) -> None:
    _add(client, "hold the GIL")
    worker = workers.start("transform", **given, STALL_SECONDS=2)
    try:
        assert worker.wait() == 1
        assert "transform.py" in worker.log_text()
        assert "in enrich" in worker.log_text()
    finally:
        workers.end(worker)


def test_a_slow_function_is_no_stall_as_long_as_it_gets_on(given: dict[str, Any], client: Client) -> None:
    """500 events of which each waits 0.2 s for a server take longer than the watchdog's minute: here 4.5 s and 2 s."""
    _add(client, *["take a while"] * 90)
    with workers.running("transform", **given, STALL_SECONDS=2, TRANSFORM_TIMEOUT_SECONDS=5) as (worker,):
        until(lambda: not worker.alive or ledger(client).get("mapped") == 90, what="the entry to settle")
        assert worker.alive, worker.log_text()
    assert protocol.assert_law(client).in_clean == 90


def test_what_takes_long_is_taken_in_small_steps(given: dict[str, Any], client: Client) -> None:
    """Of events that wait, few are in hand, and at risk when the worker is killed: those of a quarter of a second."""
    for _ in range(400):
        _add(client, "wait")
    most = 0

    def settled() -> bool:
        nonlocal most
        most = max(most, client.call("XPENDING", client.topology.stream("raw"), "transform")[0])
        return ledger(client).get("mapped") == 400

    with workers.running("transform", **given, TRANSFORM_BATCH_EVENTS=400):
        until(settled, what="all events to be settled")
    assert 1 < most <= 50
