"""A progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from bargeline.carrying import Progress, Show

_LINE_SECONDS = 2.0


@contextmanager
def progress() -> Iterator[Show]:
    """Yields a function that shows how far things are: bytes read, events/s, lag, loaded."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield _plain()


@contextmanager
def _bar(console: Console) -> Iterator[Show]:
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("")
        rate = _Rate()

        def show(now: Progress) -> None:
            bar.update(task, completed=now.read_bytes, total=now.total_bytes, description=_text(now, rate))

        yield show


def _plain() -> Show:
    rate = _Rate()
    shown = time.monotonic()
    said = ""

    def show(now: Progress) -> None:
        nonlocal shown, said
        text = f"read {now.read_bytes / 1e6:.1f} of {now.total_bytes / 1e6:.1f} MB, {_text(now, rate)}"
        over = now.lag == 0 and now.read_bytes >= now.total_bytes
        if text != said and (over or time.monotonic() - shown >= _LINE_SECONDS):
            shown, said = time.monotonic(), text
            click.echo(text, err=True)

    return show


def _text(now: Progress, rate: "_Rate") -> str:
    return f"{rate.of(now.loaded):,.0f} events/s, lag {now.lag:,}, loaded {now.loaded:,}"


class _Rate:
    """Events per second since the first of them."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0
        self._at = 0.0

    def of(self, count: int) -> float:
        """Rate up to the last change of the count."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if count != self._last:
            self._last, self._at = count, now
        return self._last / (self._at - self._began) if self._at > self._began else 0.0
