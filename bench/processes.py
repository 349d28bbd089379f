"""Processes of a contender: started, told to go, measured, and stopped by their pids."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from bench.cpu import cpu_seconds

STOP_SECONDS = 40
_POLL_SECONDS = 0.02

Process = subprocess.Popen[bytes]


@contextmanager
def stopping(process: Process, stop: Callable[[Process], None]) -> Iterator[Process]:
    """Stop the process at the end, whatever happened."""
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def python(module: str, *arguments: str, environment: Mapping[str, str] | None = None, log: Path) -> Iterator[Process]:
    """Run ``python -m module`` with its output in ``log``; it gets SIGTERM at the end if it still runs.

    It has a session of its own: a Ctrl-C ends the benchmark, which then ends its processes in order.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    with stopping(process, _terminate):
        yield process


def _terminate(process: Process) -> None:
    process.terminate()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_ready(process: Process, log: Path) -> None:
    """Wait until a process of ours has printed its one line: it is prepared."""
    assert process.stdout is not None
    if not process.stdout.readline():
        raise_ended(process, log)


def go(process: Process) -> None:
    """Let a prepared process begin."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


def prepared() -> None:
    """Say, in the process itself, that it is prepared, and wait for ``go``."""
    print("ready", flush=True)
    sys.stdin.readline()


def finish(process: Process, log: Path) -> None:
    """Wait until a process has done its work."""
    if process.wait() != 0:
        raise_ended(process, log)


def raise_ended(process: Process, log: Path) -> NoReturn:
    """Say what a process that ended by itself said last."""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise RuntimeError(f"a process ended with {process.wait()}, {log.stem}:\n{tail}")


def poll(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition, looking often enough for a measurement of seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


class Measured(msgspec.Struct, frozen=True):
    """Elapsed time, the CPU time of everything started from here by process, and the workers' peaks of memory."""

    seconds: float
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, int]


def stopwatch() -> Callable[..., Measured]:
    """Start measuring; what is returned tells the time since then."""
    began, before = time.perf_counter(), cpu_seconds()

    def measured(peak_bytes: Mapping[str, int] | None = None) -> Measured:
        seconds, after = time.perf_counter() - began, cpu_seconds()
        spent = {role: after.get(role, 0.0) - before.get(role, 0.0) for role in sorted(before | after)}
        return Measured(seconds, spent, dict(peak_bytes or {}))

    return measured
