"""What a fleet costs that has nothing to do."""

import time

import msgspec

from bench.fleet import fleet, worker_names
from bench.ground import Ground
from bench.processes import stopwatch
from shared.topology import KINDS

SECONDS = 15.0
#: Suspects are left alone for the first three seconds, and the first samples are taken.
_SETTLE_SECONDS = 5.0


class Idle(msgspec.Struct, frozen=True):
    """CPU of one worker of each kind, and of the servers, as shares of one core."""

    workers: float
    by_process: dict[str, float]


def measure(ground: Ground, seconds: float = SECONDS, settle_seconds: float = _SETTLE_SECONDS) -> Idle:
    """Let four workers watch an empty folder."""
    empty = ground.folder / "empty"
    empty.mkdir(exist_ok=True)
    with fleet(ground, {"INGEST_PATH": str(empty / "*"), "INGEST_WATCH": "true"}, worker_names()):
        time.sleep(settle_seconds)
        measured = stopwatch()
        time.sleep(seconds)
        found = measured()
    shares = {role: spent / found.seconds for role, spent in found.cpu_seconds.items()}
    return Idle(sum(shares.get(kind, 0.0) for kind in KINDS), shares)
