"""Whether workers and servers are up: a lease that names the running process, and its /readyz."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bargeline.embedded.health import postgres_answers, valkey_answers
from bargeline.embedded.state import read_state
from bargeline.fleet.leases import read_leases
from bargeline.fleet.logs import last_lines
from bargeline.fleet.paths import Paths
from bargeline.fleet.plan import Plan
from bargeline.fleet.rpc import ProcessState, Supervisor
from shared.errors import BargelineError, Unreachable
from shared.streams import Lease

POLL_SECONDS = 0.1
#: So many failed starts of one process are enough to give up waiting.
FAILED_STARTS = 3


@dataclass(frozen=True)
class Readiness:
    """Whether a worker is ready, why not, and its lease if it holds one."""

    ready: bool
    problem: str | None = None
    lease: Lease | None = None


def worker_readiness(process: ProcessState | None, consumer: str, leases: dict[str, Lease] | str) -> Readiness:
    """Readiness of one worker; ``leases`` by consumer name, or why they could not be read."""
    if process is None:
        return Readiness(False, "it is not supervised")
    if process.state == "EXITED" and process.exit_status == 0:
        return Readiness(True)
    if process.state not in ("RUNNING", "STARTING"):
        return Readiness(False, f"it is {process.state}" + (f" ({process.error})" if process.error else ""))
    if isinstance(leases, str):
        return Readiness(False, leases)
    lease = leases.get(consumer)
    if lease is None:
        return Readiness(False, "it holds no lease yet")
    if lease.pid != process.pid:
        return Readiness(False, f"its name is leased to pid {lease.pid} on {lease.host}", lease)
    problem = _ask(f"http://{lease.metrics}/readyz")
    return Readiness(problem is None, problem, lease)


def leases_or_reason(redis_url: str, pipeline: str) -> dict[str, Lease] | str:
    """Leases by consumer name, or one sentence why Redis did not tell."""
    try:
        return read_leases(redis_url, pipeline)
    except BargelineError as error:
        return str(error)


def wait_for_workers(
    supervisor: Supervisor, plan: Plan, workers: list[str], redis_url: str, paths: Paths, *, seconds: float
) -> None:
    """Wait until all ``workers`` are ready; raises BargelineError with the log of those that are not."""
    deadline = time.monotonic() + seconds
    pipeline = plan.pipeline
    failed_starts: dict[str, set[int]] = {worker: set() for worker in workers}
    while True:
        processes = supervisor.processes()
        leases = leases_or_reason(redis_url, pipeline)
        problems = {}
        for worker in workers:
            found = worker_readiness(processes.get(worker), plan.consumer(worker), leases)
            if not found.ready:
                problems[worker] = found.problem or "it is not ready"
        if not problems:
            return
        if time.monotonic() > deadline or any(
            _hopeless(processes.get(worker), failed_starts[worker]) for worker in problems
        ):
            raise _not_ready(problems, paths, seconds)
        time.sleep(POLL_SECONDS)


def wait_for_server(supervisor: Supervisor, name: str, paths: Paths, seconds: float) -> None:
    """Wait until an embedded server answers; raises Unreachable with its log if it does not."""
    deadline = time.monotonic() + seconds
    while not server_answers(name, paths.var):
        process = supervisor.processes().get(name)
        if time.monotonic() > deadline or process is None or process.state == "FATAL":
            state = process.state if process else "not supervised"
            raise Unreachable(f"The embedded {name} does not answer ({state}). {_tail(name, paths)}")
        time.sleep(POLL_SECONDS)


def server_answers(name: str, var: Path) -> bool:
    """Whether an embedded server takes commands."""
    state = read_state(var)
    if name == "valkey":
        return state.valkey_port is not None and valkey_answers(state.valkey_port)
    return state.postgres_port is not None and postgres_answers(state.postgres_port)


def _hopeless(process: ProcessState | None, failed_starts: set[int]) -> bool:
    if process is None or process.state == "FATAL":
        return True
    if process.state == "BACKOFF":
        failed_starts.add(process.stopped)
    return len(failed_starts) >= FAILED_STARTS


def _not_ready(problems: dict[str, str], paths: Paths, seconds: float) -> BargelineError:
    lines = [
        f"{worker} is not ready: {problem.rstrip('.')}. {_tail(worker, paths)}" for worker, problem in problems.items()
    ]
    return BargelineError(
        f"Not every worker became ready (waited at most {seconds:g} s). The others go on; "
        "`bargeline down` stops them.\n" + "\n".join(lines)
    )


def _tail(program: str, paths: Paths) -> str:
    lines = last_lines(paths.log(program), 15)
    quoted = "\n".join(f"    {line}" for line in lines)
    return f"The end of {paths.log(program)}:\n{quoted}" if lines else f"{paths.log(program)} is empty."


def _ask(url: str) -> str | None:
    """None for a 200, else the reason."""
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 -- the scheme is ours
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read(500).decode(errors="replace").strip() or str(error)
    except OSError as error:
        return f"{url} does not answer: {error}"
