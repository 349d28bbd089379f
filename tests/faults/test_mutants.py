"""The kit notices each broken promise, and nothing in sound code that crashes at the same places."""

import re
from pathlib import Path

import pytest

from tests.faults.mutants import CONTROLS, MUTANTS, Mutant, mutate, options
from tests.faults.places import run_folder
from tests.faults.run import run

#: Run with every change; `make mutants` runs all.
QUICK = ("settle-effect-without-answer",)


def _cases(mutants: tuple[Mutant, ...]) -> list[object]:
    return [
        pytest.param(mutant, id=mutant.name, marks=() if mutant.name in QUICK else pytest.mark.mutants)
        for mutant in mutants
    ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutant", _cases(MUTANTS))
def test_a_broken_promise_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    with run_folder() as folder:
        report = run(options(mutant, mutate(mutant, tmp_path / "code")), folder)
        assert any(re.search(mutant.noticed, one) for one in report.violations), f"{mutant.name} escaped:\n{report}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutant", _cases(CONTROLS))
def test_sound_code_that_crashes_passes(mutant: Mutant, tmp_path: Path) -> None:
    with run_folder() as folder:
        report = run(options(mutant, mutate(mutant, tmp_path / "code")), folder)
        assert not report.violations, str(report)
