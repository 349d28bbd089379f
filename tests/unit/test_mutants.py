"""The mutants of the fault kit still fit the code that they break; whether they are noticed, `make mutants` shows."""

import compileall
from pathlib import Path

import pytest

from tests.faults.mutants import CONTROLS, MUTANTS, Mutant, mutate


@pytest.mark.parametrize("mutant", [*MUTANTS, *CONTROLS], ids=lambda mutant: mutant.name)
def test_every_edit_finds_its_place(mutant: Mutant, tmp_path: Path) -> None:
    code = mutate(mutant, tmp_path / "code")
    assert compileall.compile_dir(code / "shared", quiet=1)
    assert compileall.compile_dir(code / "workers", quiet=1)
