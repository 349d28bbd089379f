"""A short run of the fault schedule; `make chaos` runs longer ones."""

from pathlib import Path

import pytest

from tests import chaos


@pytest.mark.timeout(400)
def test_a_short_fault_schedule_ends_exact(tmp_path: Path) -> None:
    chaos.run(tmp_path, seed=9, strikes=5, events=80_000)
