"""A folder for a run, which the account that PostgreSQL runs as can get through."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def run_folder(*, keep: bool = False) -> Iterator[Path]:
    """A new folder; it stays, with the logs, when the run fails, or if it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="bargeline-faults-"))
    folder.chmod(0o755)
    try:
        yield folder
    except BaseException as error:
        error.add_note(f"logs are in {folder / 'var' / 'log'}")
        raise
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
