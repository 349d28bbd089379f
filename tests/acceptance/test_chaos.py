"""A short run of the fault kit; `make chaos` runs longer ones."""

import pytest

from tests.faults.places import run_folder
from tests.faults.run import Options, run

#: Zombies, crashes of workers and both servers, the network, foreign hands, a full server and a FLUSHALL: each once.
STRIKES = (
    "transform-zombie",
    "loader-zombie",
    "kill",
    "valkey",
    "postgres",
    "reset",
    "hole",
    "maxmemory",
    "group",
    "intruder",
    "xdel",
    "flush",
)
SHORT = Options(seed=59, only=STRIKES, strikes=len(STRIKES), events=12_000, seconds=34, poison=1, drain_seconds=90)


@pytest.mark.timeout(300)
def test_a_short_fault_schedule_ends_exact() -> None:
    with run_folder() as folder:
        report = run(SHORT, folder)
        assert not report.violations, f"seed {SHORT.seed}:\n{report}"
