"""The kit notices each broken promise, and nothing in sound code that crashes at the same places."""

import re
from pathlib import Path

import pytest

from tests.faults.mutants import CONTROLS, MUTANTS, Mutant, mutate, options
from tests.faults.places import run_folder
from tests.faults.run import run

pytestmark = [pytest.mark.mutants, pytest.mark.timeout(240)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_broken_promise_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    with run_folder() as folder:
        report = run(options(mutant, mutate(mutant, tmp_path / "code")), folder)
        assert any(re.search(mutant.noticed, one) for one in report.violations), f"{mutant.name} escaped:\n{report}"


@pytest.mark.parametrize("mutant", CONTROLS, ids=[mutant.name for mutant in CONTROLS])
def test_sound_code_that_crashes_passes(mutant: Mutant, tmp_path: Path) -> None:
    with run_folder() as folder:
        report = run(options(mutant, mutate(mutant, tmp_path / "code")), folder)
        assert not report.violations, str(report)
