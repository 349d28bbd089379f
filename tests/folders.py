"""Folders for fleets: those of pytest are closed to the account that root hands embedded servers to."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every account can reach; it is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bargeline-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
