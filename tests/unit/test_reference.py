"""The references in docs/ are what the code says."""

from pathlib import Path

import pytest

from bargeline.reference import DOCUMENTS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_reference_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == DOCUMENTS[name](), "run `make reference`"
