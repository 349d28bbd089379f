"""The tests of the C parts once more, with the compiler's checks of every access to memory and every calculation."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from workers.loader import native

ROOT = Path(native.__file__).parents[2]
PARTS = {
    "workers.ingest._lines": "workers/ingest/c/lines.c",
    "workers.loader._rows": "workers/loader/c/rows.c",
}
CHECKED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def _library() -> Path:
    told = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return Path(told.strip())


def _compile(source: str, part: Path) -> None:
    include = sysconfig.get_path("include")
    command = ["cc", *CHECKED, "-shared", "-fPIC", "-I", include, "-Ishared/c", source, "-o", str(part)]
    subprocess.run(command, check=True, cwd=ROOT)


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "SANITIZED_PARTS": str(folder),
        "LD_PRELOAD": str(_library()),
        # What Python never frees is no leak of ours; and only malloc's blocks have guards around them.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "tests.sanitized", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


@pytest.mark.needs_program("cc")
def test_nothing_is_read_or_written_beyond_its_bounds(tmp_path: Path) -> None:
    if not _library().is_absolute():
        pytest.skip("the compiler brings no sanitizer")
    for name, source in PARTS.items():
        _compile(source, tmp_path / f"{name}.so")
    done = _pytest(tmp_path, "tests/unit/test_native.py", "tests/unit/test_native_lines.py")
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
