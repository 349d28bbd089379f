"""Programs that some tests need, and the Debian packages of tests/apt.txt that bring them."""

import shutil
from pathlib import Path

import pytest

APT_LIST = Path(__file__).parent / "apt.txt"
MARKER = "needs_program"

_skipped = pytest.StashKey[dict[str, list[str]]]()


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
    """Skip a test whose programs are not installed; the package is remembered for the summary."""
    for marker in item.iter_markers(MARKER):
        (program,) = marker.args
        package = next(name for name, brings in debian_packages(APT_LIST.read_text()).items() if program in brings)
        if shutil.which(program) is None:
            item.config.stash.setdefault(_skipped, {}).setdefault(package, []).append(item.nodeid)
            pytest.skip(f"{program} is not installed (Debian package {package})")


def summary_lines(config: pytest.Config) -> list[str]:
    """Every Debian package that is missing, with the names of the tests skipped for it."""
    return [f"{package}: skips {', '.join(tests)}" for package, tests in sorted(config.stash.get(_skipped, {}).items())]
