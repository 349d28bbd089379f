"""The C parts through the compiler: no warning, and their tests once more with each access to memory checked."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.workers import ROOT

#: `workers/loader/c/rows.c` becomes `workers.loader._rows`.
SOURCES = [ROOT / "workers/ingest/c/lines.c", ROOT / "workers/loader/c/rows.c"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-std=c11"]
CHECKED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC"]
pytestmark = pytest.mark.needs_program("cc")


def _cc(*arguments: str) -> str:
    done = subprocess.run(["cc", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _compile(source: Path, part: Path, *flags: str) -> None:
    _cc(*flags, "-isystem", sysconfig.get_path("include"), "-Ishared/c", str(source), "-o", str(part))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_compiles_without_a_warning(tmp_path: Path, source: Path) -> None:
    _compile(source, tmp_path / "part.o", *WARNINGS, "-c")


def test_nothing_is_read_or_written_beyond_its_bounds(tmp_path: Path) -> None:
    library = _cc("-print-file-name=libasan.so").strip()
    if not Path(library).is_absolute():
        pytest.skip("the compiler brings no sanitizer")
    for source in SOURCES:
        _compile(source, tmp_path / f"workers.{source.parts[-3]}._{source.stem}.so", *CHECKED)
    environment = os.environ | {
        "SANITIZED_PARTS": str(tmp_path),
        "LD_PRELOAD": library,
        # What Python never frees is no leak of ours; and only malloc's blocks have guards around them.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    tests = ["tests/unit/test_native.py", "tests/unit/test_native_lines.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "tests.sanitized", *tests],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
