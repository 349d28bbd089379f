"""A steady load: lines at so many a second, from a thread."""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Load(threading.Thread):
    """Writes lines at a steady rate until it is told to stop; a line has another id at another place."""

    def __init__(self, clicks: Path, per_second: int, pause_seconds: float, write: Callable[[bytes], object]) -> None:
        super().__init__(name="load", daemon=True)
        self._lines = itertools.cycle(clicks.read_bytes().splitlines(keepends=True))
        self._per_second = per_second
        self._pause_seconds = pause_seconds
        self._write = write
        self._ended = threading.Event()
        self.written = 0

    def run(self) -> None:
        """Write what is due, every few milliseconds; whoever does not take it in time gets it later."""
        began = time.perf_counter()
        with suppress(BrokenPipeError):  # the reader was ended first
            while not self._ended.wait(self._pause_seconds):
                due = int((time.perf_counter() - began) * self._per_second) - self.written
                if due:
                    self._write(b"".join(itertools.islice(self._lines, due)))
                    self.written += due

    def end(self) -> None:
        """Write no more, without waiting for a reader that takes nothing at the moment."""
        self._ended.set()

    def stop(self) -> int:
        """Write no more; returns how many lines were written."""
        self.end()
        self.join()
        return self.written
