"""Every test that the README names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TABLES = README[README.index("## Faults") : README.index("## Numbers")]
ROWS = [line for line in TABLES.splitlines() if line.startswith("| ") and not re.match(r"\| (fault|promise) \|", line)]


def test_there_are_promises() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS)
def test_every_promise_names_tests_that_exist(row: str) -> None:
    names = re.findall(r"`([^`]*test_[^`]*)`", row.rpartition(" | ")[2])
    assert names
    folder = ""
    for name in names:
        folder = name.rpartition("/")[0] or folder
        assert list((ROOT / "tests" / folder).glob(name.rpartition("/")[2])), f"{folder}/{name}"
