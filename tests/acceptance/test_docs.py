"""The documentation's commands, run as they stand in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.documents import PAGES, ROOT, blocks
from tests.folders import open_folder

RUN = [page for page in PAGES if any(not block.kind for block in blocks(page))]
_PROGRAMS = ("curl", "openssl")
_LEFT_BEHIND = shutil.ignore_patterns(".venv*", ".git", "var", "results", "__pycache__", ".*_cache", ".hypothesis")
SECONDS = 120


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the checkout with its .venv; whatever fleet was started below it is stopped afterwards."""
    with open_folder() as parent:
        copy = parent / "bargeline"
        shutil.copytree(ROOT, copy, ignore=_LEFT_BEHIND)
        (copy / ".venv").symlink_to(sys.prefix)
        try:
            yield copy
        finally:
            for pid_file in parent.rglob("run/supervisord.pid"):
                _run(f"supervisorctl -c {pid_file.parents[1]}/supervisord.conf shutdown", copy)
            for fleet in {path.parents[1] for path in parent.rglob("supervisor/plan.json")}:
                _run("bargeline down --delete-data", copy, BARGELINE_VAR=str(fleet))


def _with_programs(page: Path) -> ParameterSet:
    """A page, with a mark for each program that its commands need."""
    text = "\n".join(block.text for block in blocks(page) if not block.kind)
    needed = [name for name in _PROGRAMS if re.search(rf"\b{name} ", text)]
    return pytest.param(page, marks=[pytest.mark.needs_program(name) for name in needed])


def _run(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "HOME": str(folder.parent), **more}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.acceptance
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("page", [_with_programs(page) for page in RUN], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    # Each command is printed before it runs: a failure shows which one it was.
    script = "set -x\n" + "\n".join(block.text for block in blocks(page) if not block.kind)
    done = _run(script, folder)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
