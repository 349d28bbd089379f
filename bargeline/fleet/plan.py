"""What the operator asked for: how many workers of each kind, and their environment.

It is remembered, so that `scale` in another shell starts workers like those that `up` started.
"""

import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bargeline.embedded.ports import choose_port
from bargeline.embedded.servers import remembered_urls
from bargeline.embedded.state import write_private
from bargeline.fleet.paths import Paths
from bargeline.fleet.programs import Program, ends_by_itself, worker_priority, worker_stop_seconds
from shared.errors import ConfigurationError
from shared.pipeline import load_pipeline
from shared.settings import Settings, load_settings
from shared.topology import KINDS

DEFAULT_COUNTS = dict.fromkeys(KINDS, 1)
MOST_WORKERS = 99
#: The worker whose port is remembered.
TARGETS_WORKER = "janitor-01"
#: These differ between the workers of a fleet: the fleet sets them.
OWN_VARIABLES = ("CONSUMER_NAME", "METRICS_PORT", "BARGELINE_VAR", "BARGELINE_ENV_FILE")


@dataclass(frozen=True)
class Plan:
    """Counts by kind, the pipeline's name, the workers' variables, where `up` was run, and the machine's name."""

    counts: Mapping[str, int]
    pipeline: str
    environment: Mapping[str, str]
    directory: str
    host: str
    #: Where the first janitor serves the list of live workers: Prometheus is told it once. 0: any free port.
    targets_port: int = 0

    @property
    def settings(self) -> Settings:
        """The settings that the workers have in common."""
        return load_settings(self.environment)

    @property
    def stop_seconds(self) -> int:
        """Seconds that each worker is given to end."""
        return worker_stop_seconds(self.settings)

    @property
    def urls(self) -> tuple[str | None, str | None]:
        """URLs of the user's own Redis and PostgreSQL; None where the embedded one is used."""
        settings = self.settings
        return (
            settings.require_redis_url() if self.brings_redis else None,
            settings.require_database_url() if self.brings_postgres else None,
        )

    @property
    def brings_redis(self) -> bool:
        """Whether the user has a Redis of his own."""
        return "REDIS_URL" in self.environment or "REDIS_HOST" in self.environment

    @property
    def brings_postgres(self) -> bool:
        """Whether the user has a PostgreSQL of his own."""
        return "DATABASE_URL" in self.environment

    @property
    def embedded(self) -> tuple[str, ...]:
        """The embedded servers it needs."""
        needs = {"valkey": not self.brings_redis, "postgres": not self.brings_postgres}
        return tuple(name for name, needed in needs.items() if needed)

    @property
    def workers(self) -> list[str]:
        """Names of its workers."""
        return [f"{kind}-{number:02}" for kind in KINDS for number in range(1, self.counts[kind] + 1)]

    def consumer(self, worker: str) -> str:
        """Consumer name of the worker called ``transform-01``."""
        return f"{self.host}-{worker}"


def make_plan(
    settings: Settings, counts: Mapping[str, int], remembered: Plan | None, directory: Path, *, is_running: bool
) -> Plan:
    """The plan for these settings; kinds not in ``counts`` stay as remembered, or at one.

    For a fleet that is running, the same settings from another folder, or on a machine that was renamed,
    change nothing.
    """
    refuse_stdin(settings)
    merged = check_counts({**DEFAULT_COUNTS, **(remembered.counts if remembered else {}), **counts})
    plan = Plan(
        counts=merged,
        pipeline=load_pipeline(settings.pipeline).name,
        environment=_environment(settings, directory),
        directory=str(directory),
        host=socket.gethostname(),
        targets_port=settings.metrics_port or (remembered and remembered.targets_port) or choose_port(set()),
    )
    if remembered and is_running:
        same = remembered.environment == plan.environment
        return replace(plan, host=remembered.host, directory=remembered.directory if same else plan.directory)
    return plan


def refuse_stdin(settings: Settings) -> None:
    """Raise ConfigurationError if events are to come from standard input."""
    if settings.ingest_source == "stdin":
        raise ConfigurationError(
            "INGEST_SOURCE=stdin: a supervised worker has no standard input. Unset it, and pipe into "
            "`INGEST_SOURCE=stdin python -m workers.ingest` beside the fleet."
        )


def check_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    """The same counts, or ConfigurationError."""
    for kind, count in counts.items():
        if kind not in KINDS or not 0 <= count <= MOST_WORKERS:
            raise ConfigurationError(
                f"{kind}={count}: a fleet has 0 to {MOST_WORKERS} workers of the kinds {', '.join(KINDS)}."
            )
    return counts


def read_plan(paths: Paths) -> Plan | None:
    """The remembered plan, if there is one."""
    try:
        return Plan(**json.loads(paths.plan.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{paths.plan} cannot be read ({error.strerror}): run this as the user who ran `bargeline up`."
        ) from None
    except (ValueError, TypeError):
        raise ConfigurationError(f"{paths.plan} is damaged: delete it and run `bargeline up` again.") from None


def write_plan(paths: Paths, plan: Plan) -> None:
    """Remember the plan. It may hold passwords, so only its owner may read it."""
    write_private(paths.plan, json.dumps(asdict(plan), indent=2) + "\n")


def worker_program(worker: str, plan: Plan, paths: Paths, urls: Mapping[str, str]) -> Program:
    """A worker as a supervised process; ``urls`` are those of the embedded servers."""
    kind = worker.partition("-")[0]
    environment = {
        **(_source(plan, paths) if kind == "ingest" else {}),
        **plan.environment,
        **urls,
        "BARGELINE_VAR": str(paths.var),
        "CONSUMER_NAME": plan.consumer(worker),
        # A fixed port would do for one worker only: the others take a free one and publish it in their lease.
        "METRICS_PORT": str(plan.targets_port if worker == TARGETS_WORKER else 0),
    }
    return Program(
        name=worker,
        command=(this_python(), "-m", f"workers.{kind}"),
        directory=Path(plan.directory),
        environment=environment,
        priority=worker_priority(kind),
        stop_seconds=plan.stop_seconds,
        ends=ends_by_itself(kind, load_settings(environment)),
    )


def this_python() -> str:
    """This Python, by the same name however this command was started (python, python3, python3.11)."""
    in_venv = sys.prefix != sys.base_prefix
    return str(Path(sys.prefix) / "bin" / "python3") if in_venv else sys.executable


def _source(plan: Plan, paths: Paths) -> dict[str, str]:
    """What ingest reads unless the user says otherwise: the inbox, and files as they grow and appear."""
    pattern = str(paths.inbox / "*")
    # A single line would be split at its spaces.
    inbox = {"INGEST_SOURCE": "file", "INGEST_PATH": f"{pattern}\n{pattern}" if " " in pattern else pattern}
    chosen = inbox.keys() & plan.environment.keys()
    files = plan.settings.ingest_source == "file" and not plan.settings.ingest_follow
    return {**({} if chosen else inbox), **({"INGEST_WATCH": "true"} if files else {})}


def _environment(settings: Settings, directory: Path) -> dict[str, str]:
    """The settings that were given, as variables again; files of secrets are resolved.

    The embedded servers' own URLs count as not given: a shell has them after ``eval "$(bargeline env)"``.
    """
    given = {name.upper(): getattr(settings, name) for name in settings.model_fields_set}
    environment = {name: _text(value) for name, value in sorted(given.items()) if name not in OWN_VARIABLES}
    for name, embedded in zip(("REDIS_URL", "DATABASE_URL"), remembered_urls(settings.var), strict=True):
        if embedded is not None and environment.get(name) == embedded:
            del environment[name]
            # What `bargeline env` gives besides; the URL wins over it.
            for part in ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD") if name == "REDIS_URL" else ():
                environment.pop(part, None)
    folder = directory / Path(settings.pipeline).expanduser()
    if (folder / "pipeline.toml").is_file():
        environment["PIPELINE"] = str(folder)
    return environment


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
