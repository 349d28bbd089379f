"""Workers as real processes: started with their environment, watched through their logs, ended by pid."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.pipeline import shipped_pipelines
from tests.wait import until

ROOT = Path(__file__).parents[1]
START_SECONDS = 30
#: Longer than a worker may drain.
STOP_SECONDS = 40
_numbers = itertools.count(1)


def make_pipeline(
    folder: Path,
    name: str,
    *,
    shipped: str = "clickstream",
    transform: str | None = None,
    edits: Mapping[str, str] | None = None,
    append: str = "",
) -> Path:
    """Copy a pipeline that is shipped into ``folder`` under another name; returns ``folder``.

    ``transform`` is the text of another ``transform.py``. ``edits`` replaces pieces of ``pipeline.toml``, each of
    which has to be there; ``append`` goes to its end.
    """
    shutil.copytree(shipped_pipelines() / shipped, folder, dirs_exist_ok=True)
    path = folder / "pipeline.toml"
    text = path.read_text()
    for old, new in {f'name = "{shipped}"': f'name = "{name}"', **(edits or {})}.items():
        assert old in text, f"pipeline.toml holds no {old!r}"
        text = text.replace(old, new, 1)
    path.write_text(text + append)
    if transform is not None:
        (folder / "transform.py").write_text(transform)
    return folder


@dataclass
class Worker:
    """One process and the file that its output goes to."""

    kind: str
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def log_text(self) -> str:
        """Everything that it wrote so far."""
        return self.log.read_text(errors="replace")

    def records(self, **fields: Any) -> list[dict[str, Any]]:
        """Its log records that have these fields, e.g. ``action="split"``."""
        lines = [line for line in self.log_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [one for one in map(json.loads, lines) if fields.items() <= one.items()]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if the process is there to get it."""
        if self.alive:
            self.process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end; returns the exit code (negative: ended by that signal)."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {seconds:g} s:\n{self.log_text()}") from None

    def stop(self) -> int:
        """Let it drain and end; returns the exit code."""
        self.kill(signal.SIGCONT)
        self.kill(signal.SIGTERM)
        return self.wait()

    def until_started(self, seconds: float = START_SECONDS) -> "Worker":
        """Wait until it holds its lease and its loop runs; fails with its log if it ends instead."""

        def ready() -> bool:
            assert self.alive, f"{self} ended with {self.process.returncode}:\n{self.log_text()}"
            started = self.records(action="start")
            return bool(started) and self.get("/readyz", address=started[-1]["metrics"])[0] == 200

        until(ready, seconds, f"{self} to start")
        return self

    def get(self, path: str, address: str | None = None) -> tuple[int, str]:
        """Status and text of a path of its HTTP side, e.g. ``/metrics``."""
        address = address or self.records(action="start")[-1]["metrics"]
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def __str__(self) -> str:
        return f"{self.kind} worker {self.name} (pid {self.pid})"


def environment(redis_url: str, database_url: str, pipeline_folder: Path, **env: Any) -> dict[str, str]:
    """What a process of ours is started with: the caller's environment, the servers, and ``env``."""
    return {
        **os.environ,
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "PIPELINE": str(pipeline_folder),
        "BARGELINE_VAR": str(pipeline_folder / "var"),
        **{name: str(value) for name, value in env.items()},
    }


def start(
    kind: str, redis_url: str, database_url: str, pipeline_folder: Path, *, input_: Path | None = None, **env: Any
) -> Worker:
    """Start ``python -m workers.<kind>``; ``env`` are more variables. Whoever starts it ends it.

    Its log is JSON, in ``<pipeline folder>/logs``; ``input_`` is a file for its standard input.
    """
    name = str(env.get("CONSUMER_NAME", f"{kind}-{next(_numbers)}"))
    given = {"LOG_FORMAT": "json", "CONSUMER_NAME": name, "SUSPECT_SECONDS": 0, **env}
    log = pipeline_folder / "logs" / f"{name}-{next(_numbers)}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output, (input_ or Path(os.devnull)).open("rb") as source:
        process = subprocess.Popen(
            [sys.executable, "-m", f"workers.{kind}"],
            stdin=source,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment(redis_url, database_url, pipeline_folder, **given),
        )
    return Worker(kind, name, process, log)


def end(*workers: Worker) -> None:
    """End what still runs, at once."""
    for worker in workers:
        worker.kill(signal.SIGKILL)
    for worker in workers:
        worker.wait()


@contextmanager
def running(
    *kinds: str, redis_url: str, database_url: str, pipeline_folder: Path, **env: Any
) -> Iterator[list[Worker]]:
    """Workers of these kinds, started; afterwards each is still there, drains and ends with 0.

    A worker that the test itself ended, by ``kill`` or ``stop`` and ``wait``, is left out of that. When the test
    fails, their logs go with it.
    """
    workers = [start(kind, redis_url, database_url, pipeline_folder, **env) for kind in kinds]
    try:
        for worker in workers:
            worker.until_started()
        yield workers
        left = [worker for worker in workers if worker.process.returncode is None]
        ended = {str(worker): worker.process.returncode for worker in left if not worker.alive}
        assert not ended, f"ended by themselves: {ended}"
        for worker in left:
            worker.kill(signal.SIGTERM)
        codes = {str(worker): worker.wait() for worker in left}
        assert set(codes.values()) <= {0}, f"exit codes {codes}"
    except BaseException as error:
        for worker in workers:
            error.add_note(f"--- log of {worker}:\n{worker.log_text()[-4_000:]}")
        raise
    finally:
        end(*workers)


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str


def bargeline(*arguments: str, redis_url: str, database_url: str, pipeline_folder: Path, **env: Any) -> Ran:
    """Run ``python -m bargeline.cli`` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "bargeline.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
        env=environment(redis_url, database_url, pipeline_folder, **env),
    )
    return Ran(done.returncode, done.stdout, done.stderr)
