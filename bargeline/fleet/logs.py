"""Log files of the fleet's processes, read whether or not it runs."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bargeline.fleet.paths import Paths
from bargeline.fleet.programs import kind_of, stop_order
from shared.errors import ConfigurationError

POLL_SECONDS = 0.2


def log_names(paths: Paths, name: str | None) -> list[str]:
    """Names of the processes that have a log: of one, of a kind, or all."""
    every = sorted((path.stem for path in paths.logs.glob("*.log")), key=lambda stem: (stop_order(stem), stem))
    chosen = [each for each in every if name in (None, each, kind_of(each))]
    if not chosen:
        known = f"There are logs of {', '.join(every)}." if every else f"{paths.logs} is empty: run `bargeline up`."
        raise ConfigurationError(f"There is no log of {name or 'anything'}. {known}")
    return chosen


def logs(paths: Paths, name: str | None, lines: int, *, follow: bool = False) -> Iterator[tuple[str, str]]:
    """The last ``lines`` of each log, then, with ``follow``, whatever is added, as (process, line)."""
    names = log_names(paths, name)
    # Opened before the last lines are read: a line that comes meanwhile is shown twice rather than never.
    with contextlib.ExitStack() as open_files:
        tails = {each: open_files.enter_context(_Tail(paths.log(each))) for each in names} if follow else {}
        for each in names:
            for line in last_lines(paths.log(each), lines):
                yield each, line
        while tails:
            added = [(each, line) for each, tail in tails.items() for line in tail.new_lines()]
            yield from added
            if not added:
                time.sleep(POLL_SECONDS)


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file; none if it is not there."""
    try:
        with path.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=count)]
    except FileNotFoundError:
        return []


class _Tail:
    """What is added to a file from now on, across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open(errors="replace")
        self._file.seek(0, 2)
        self._partial = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def new_lines(self) -> Iterator[str]:
        """Complete lines that were added since the last call."""
        yield from self._read()
        if self._was_rotated():
            self._file.close()
            self._file = self._path.open(errors="replace")
            yield from self._read()

    def _read(self) -> Iterator[str]:
        *complete, self._partial = (self._partial + self._file.read()).split("\n")
        yield from complete

    def _was_rotated(self) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False
