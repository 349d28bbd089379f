"""Programs that some tests need, and the Debian packages of tests/apt*.txt that bring them."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

APT_LIST = Path(__file__).parent / "apt.txt"
#: Of tests that only run when asked for: nobody else should have to install these.
IMAGE_LIST = Path(__file__).parent / "apt-image.txt"
MARKER = "needs_program"

_REASON = re.compile(r"is not installed \(Debian package ([^)]+)\)")


def debian_packages(text: str) -> dict[str, list[str]]:
    """Parse the list: package → the programs it brings.

    A line is ``package  # program, program: what for``; a line that starts with # is a comment.
    """
    packages = {}
    for line in text.splitlines():
        package, _, comment = line.partition("#")
        if package.strip():
            packages[package.strip()] = [name.strip() for name in comment.partition(":")[0].split(",")]
    return packages


def skip_without_programs(item: pytest.Item) -> None:
    """Skip a test whose programs are not installed; the reason names the package."""
    for marker in item.iter_markers(MARKER):
        (program,) = marker.args
        packages = debian_packages(APT_LIST.read_text()) | debian_packages(IMAGE_LIST.read_text())
        package = next(name for name, brings in packages.items() if program in brings)
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian package {package})")


def summary_lines(skipped: Iterable[pytest.TestReport]) -> list[str]:
    """Every Debian package that is missing, with the names of the tests skipped for it."""
    tests: dict[str, list[str]] = {}
    for report in skipped:
        if found := _REASON.search(str(report.longrepr)):
            tests.setdefault(found[1], []).append(report.nodeid)
    return [f"{package}: skips {', '.join(names)}" for package, names in sorted(tests.items())]
