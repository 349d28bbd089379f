"""A request to stop: made by a signal handler at any moment, it neither blocks nor gets lost."""

import subprocess
import sys
import threading

from shared.stopping import Stop

_SHORT_SECONDS = 1e-6
#: Requests that come after 20 to 70 µs, into waits of 1 µs. Another process: the timer is that of the tests' limit.
_REQUESTS = """
import signal
from shared.stopping import Stop
for attempt in range(5_000):
    stop = Stop()
    signal.signal(signal.SIGALRM, lambda *_: stop.set())
    signal.setitimer(signal.ITIMER_REAL, 2e-5 + attempt % 50 * 1e-6)
    while not stop.is_set():
        stop.wait(1e-6)
"""


def test_a_handler_may_request_it_while_its_own_thread_waits() -> None:
    assert subprocess.run([sys.executable, "-c", _REQUESTS], check=False, timeout=60).returncode == 0


def test_waiting_ends_with_the_time_or_the_request_for_everybody() -> None:
    stop = Stop()
    assert not stop.wait(0)
    assert not stop.wait(-1)
    assert not stop.wait(_SHORT_SECONDS)
    assert not stop.is_set()
    came: list[bool] = []
    waiting = [threading.Thread(target=lambda: came.append(stop.wait(60))) for _ in range(3)]
    for one in waiting:
        one.start()
    stop.set()
    stop.set()
    for one in waiting:
        one.join(60)
    assert came == [True] * 3
    assert stop.wait(60)
    assert stop.is_set()
