"""Settings: the only place that reads the environment.

Every field is one environment variable of the same name in capitals. ``<NAME>_FILE`` names a file
that holds the value (for secrets), and files in ``/run/secrets`` count like variables. Values are
read once, checked, and never change. Whatever must agree between processes lives in the pipeline
file (``shared/pipeline.py``).
"""

import difflib
import io
import os
import re
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from dotenv.parser import parse_stream
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import ConfigurationError

SECRETS_DIRECTORY = Path("/run/secrets")
#: A variable that starts like this and is no setting of ours is a misspelling.
OWN_PREFIXES = ("INGEST_", "TRANSFORM_", "LOADER_", "JANITOR_", "METRICS_", "BARGELINE_", "SUSPECT_")
#: Other programs use these prefixes too: only a near miss is an error.
SHARED_PREFIXES = ("REDIS_", "DATABASE_", "PIPELINE_", "CONSUMER_", "STALL_", "LOG_")
#: What Kubernetes injects for a Service named `redis`, `loader`…: REDIS_PORT=tcp://…, REDIS_SERVICE_HOST.
INJECTED_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)$")
INJECTED_VALUE = re.compile(r"^(tcp|udp)://")
#: What INGEST_SOURCE may name; the module of each is in workers/ingest/__main__.py.
INGEST_SOURCES = ("file", "stdin", "http", "pubsub", "stream", "cdc", "generator")
#: Those that go on for ever; the others end with their input.
ENDLESS_SOURCES = ("http", "pubsub", "stream", "cdc")
#: Id of an entry of a stream.
ENTRY_ID = re.compile(r"[0-9]{1,15}(-[0-9]{1,19})?")
_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def _ingest_source(value: str) -> str:
    if value in INGEST_SOURCES or _CALLABLE.fullmatch(value):
        return value
    near = difflib.get_close_matches(value.lower(), INGEST_SOURCES, n=1, cutoff=0.5)
    raise ValueError(
        f"it is one of {', '.join(INGEST_SOURCES)}, or a source of your own as module:callable"
        + (f". Did you mean {near[0]}?" if near else "")
    )


def _ingest_start(value: str) -> str:
    if value not in ("beginning", "latest") and not ENTRY_ID.fullmatch(value):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                "it is beginning, latest, an entry's id (1763720000000-0), or a time (2026-11-21T10:00:00Z)"
            ) from None
    return value


class Settings(BaseSettings):
    """Everything a process takes from its environment."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False)

    redis_url: SecretStr | None = Field(None, description="Redis or Valkey: redis://, rediss:// or unix://")
    redis_host: str | None = Field(None, description="Used when REDIS_URL is not set")
    redis_port: int = Field(6379, ge=1, le=65535, description="Used with REDIS_HOST")
    redis_password: SecretStr | None = Field(None, description="Used with REDIS_HOST")
    redis_channel_name: str = Field(
        "device_events",
        min_length=1,
        description="Channels of INGEST_SOURCE=pubsub, separated by commas or spaces; one with `*`, `?` or `[` is a "
        "pattern",
    )
    database_url: SecretStr | None = Field(None, description="PostgreSQL: postgresql://user:password@host/database")
    pipeline: str = Field("clickstream", description="Name of a pipeline under config/pipelines, or path of a folder")
    consumer_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Name of this process within its group (default <host>-<kind>-<pid>)",
    )
    metrics_host: str = Field("127.0.0.1", description="Address that /metrics, /healthz and /readyz listen on")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Their port; 0 takes any free one and publishes it in the lease"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")
    log_format: Literal["json", "console"] = Field("console", description="One JSON object a line, or text for people")
    stall_seconds: float = Field(60, gt=0, description="A worker without progress for so long ends itself")
    suspect_seconds: float = Field(
        3,
        ge=0,
        description="A worker takes what another that ended had in hand only when it has run for so long: if that "
        "ends it too, its supervisor sees a worker that ran, not one that cannot start",
    )
    sample_seconds: float = Field(2, gt=0, description="How often lag and pending counts are sampled for the metrics")
    bargeline_var: Path = Field(Path("var"), description="Folder for embedded servers, logs and state of a fleet")
    bargeline_env_file: Path | None = Field(
        None, description="A file with more of these variables, `NAME=value` lines; what the environment sets wins"
    )

    ingest_source: Annotated[str, AfterValidator(_ingest_source)] = Field(
        "file",
        description=f"Where events come from: {', '.join(INGEST_SOURCES)}, or a source of your own as module:callable",
    )
    ingest_path: str | None = Field(None, description="Files to read: paths and globs, separated by spaces or newlines")
    ingest_watch: bool = Field(False, description="Keep watching INGEST_PATH for files that appear, instead of ending")
    ingest_follow: bool = Field(
        False, description="Follow INGEST_PATH's files as they grow and are rotated, like a log shipper, for ever"
    )
    ingest_watch_seconds: float = Field(
        0.5, gt=0, description="How often a watched or followed path is looked at for files"
    )
    ingest_rotate_seconds: float = Field(
        5, gt=0, description="A followed file that was renamed or deleted is finished when it was still for so long"
    )
    ingest_start: Annotated[str, AfterValidator(_ingest_start)] = Field(
        "beginning",
        description="Where a source begins that was never read: `beginning` or `latest`; a stream also after the id of "
        "an entry, or from a time. Files that appear later are always read whole",
    )
    ingest_source_name: str | None = Field(
        None, description="Name of the source in ids and checkpoints (default: the path)"
    )
    ingest_batch_events: int = Field(500, ge=1, le=500, description="Most events in one entry")
    ingest_batch_bytes: int = Field(
        262_144, ge=1_024, description="Most bytes of events in one entry, unless one is larger"
    )
    ingest_max_event_bytes: int = Field(16_777_216, ge=1_024, description="A longer line is a dead letter")
    ingest_durability: str = Field(
        "memory",
        pattern=r"^(memory|aof|replicas:[1-9][0-9]{0,2})$",
        description="When a batch counts as accepted: memory (Redis has it), aof (it is on Redis' disk), replicas:<n> "
        "(n replicas have it)",
    )
    ingest_memory_ratio: float = Field(
        0.9, gt=0, le=1, description="Above this share of Redis' maxmemory ingest waits; without a maxmemory never"
    )
    ingest_redis_url: SecretStr | None = Field(
        None, description="The server that INGEST_SOURCE=pubsub or stream reads from (default: REDIS_URL)"
    )
    ingest_buffer_bytes: int = Field(
        67_108_864,
        ge=65_536,
        description="What arrives by pub/sub waits here while the stream is full or Redis is away; more is dropped",
    )
    ingest_stream: str | None = Field(None, min_length=1, description="Key that INGEST_SOURCE=stream reads")
    ingest_group: str | None = Field(
        None, min_length=1, description="Its consumer group there (default bargeline:<pipeline>)"
    )
    ingest_claim_seconds: float = Field(
        60, gt=0, description="What a consumer that is gone has held there for so long is taken over"
    )
    ingest_generator_kind: Literal["clicks", "orders", "sensors"] = Field(
        "clicks", description="What INGEST_SOURCE=generator makes"
    )
    ingest_generator_rate: float = Field(1_000, ge=0, description="Events a second; 0: as fast as they are taken")
    ingest_generator_total: int | None = Field(None, ge=0, description="It ends after so many (default: never)")
    ingest_generator_bad: float = Field(0, ge=0, le=1, description="Share that is cut off, and becomes dead letters")
    ingest_generator_duplicates: float = Field(
        0, ge=0, le=1, description="Share that repeats one of the last 100 events, with its id"
    )
    ingest_generator_seed: int = Field(1, ge=0, description="The same seed makes the same events")
    ingest_cdc_url: SecretStr | None = Field(
        None, description="Source database of INGEST_SOURCE=cdc: postgresql://user:password@host/database"
    )
    ingest_cdc_slot: str | None = Field(
        None,
        pattern=r"^[a-z0-9_]{1,63}$",
        description="Its replication slot (default bargeline_<pipeline>); one process at a time reads it",
    )
    ingest_cdc_publication: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        description="The publication that names the tables to read (default: the slot's name)",
    )
    ingest_cdc_snapshot: bool = Field(
        True, description="Where there is no checkpoint yet: read the tables as they are first, then their changes"
    )
    ingest_codec: Literal["auto", "json", "zstd"] = Field(
        "auto",
        description="Codec of the entries that ingest writes; auto: zstd from 2,000 events that wait in the stream on, "
        "json again below 1,000",
    )

    ingest_http_host: str = Field("127.0.0.1", min_length=1, description="Address that the source http listens on")
    ingest_http_port: int = Field(
        8080, ge=0, le=65535, description="Its port, which several processes may share; 0 takes any free one"
    )
    ingest_http_tokens: SecretStr | None = Field(
        None, description="Bearer tokens, one a line: `POST /events` asks for one of them; unset, for none"
    )
    ingest_http_max_bytes: int = Field(
        16_777_216, ge=1_024, description="A request with a larger body, decompressed, is refused (413)"
    )
    ingest_http_request_seconds: float = Field(
        20, gt=0, description="A request that takes longer to arrive is refused (408)"
    )
    ingest_http_rate_events: float = Field(
        0, ge=0, description="Above so many events a second a process refuses requests (429); 0: no limit"
    )
    ingest_webhook_secrets: SecretStr | None = Field(
        None,
        description="What the pipeline's webhooks are verified with, a line `<name>=<secret>` each; with several lines "
        "of a name any of them counts",
    )

    ingest_native: bool = Field(
        True, description="C makes events of usual lines, where it was compiled; false: Python makes all"
    )

    transform_batch_events: int = Field(
        2_500, ge=1, description="Events that one step aims at; fewer if they take longer than a quarter of a second"
    )
    transform_codec: Literal["auto", "json", "zstd"] = Field(
        "auto", description="The same for the entries that transform writes, by the events that wait for the loader"
    )
    transform_timeout_seconds: float = Field(30, gt=0, description="Deadline of user code for one event (or one batch)")
    loader_batch_events: int = Field(
        10_000,
        ge=1,
        description="Events that one transaction aims at; fewer if they take longer than a quarter of a second",
    )
    loader_native: bool = Field(
        True, description="C makes rows of usual events, where it was compiled; false: all rows are made by Python"
    )
    janitor_sweep_seconds: float = Field(1, gt=0, description="How often the janitor sweeps")
    janitor_repair_seconds: float = Field(10, gt=0, description="How often it looks for entries that no consumer holds")
    janitor_foreign_idle_seconds: float = Field(
        300,
        gt=0,
        description="A foreign consumer (one that never held a lease) is gone when idle for so long",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are fixed
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the names are fixed
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the names are fixed
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the names are fixed
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what load_settings gathered: it knows injected values and ``_FILE`` variables."""
        return (init_settings,)

    @property
    def var(self) -> Path:
        """The state folder as an absolute path."""
        return self.bargeline_var.expanduser().absolute()

    def require_redis_url(self) -> str:
        """URL of Redis, or an error that says how to set it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host:
            password = f":{quote(self.redis_password.get_secret_value(), safe='')}@" if self.redis_password else ""
            return f"redis://{password}{self.redis_host}:{self.redis_port}/0"
        raise ConfigurationError(
            "REDIS_URL is not set. Set it (REDIS_URL=redis://host:6379/0), or take the embedded server's with "
            '`eval "$(bargeline env)"`.'
        )

    def source_redis_url(self) -> tuple[str, str]:
        """URL of the server that pub/sub and foreign streams are read from, and the variable that names it."""
        if self.ingest_redis_url is None:
            return self.require_redis_url(), "REDIS_URL"
        return self.ingest_redis_url.get_secret_value(), "INGEST_REDIS_URL"

    def require_database_url(self) -> str:
        """URL of PostgreSQL, or an error that says how to set it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        raise ConfigurationError(
            "DATABASE_URL is not set. Set it (DATABASE_URL=postgresql://user:password@host:5432/database), "
            'or take the embedded server\'s with `eval "$(bargeline env)"`.'
        )

    def require_cdc_url(self) -> str:
        """URL of the source database, or an error that says how to set it."""
        if self.ingest_cdc_url is not None:
            return self.ingest_cdc_url.get_secret_value()
        raise ConfigurationError(
            "INGEST_CDC_URL is not set. Set it to the database whose changes are wanted "
            "(INGEST_CDC_URL=postgresql://user:password@host:5432/database)."
        )

    def cdc_slot(self, pipeline: str) -> str:
        """The replication slot of a pipeline; PostgreSQL takes few characters there."""
        return self.ingest_cdc_slot or f"bargeline_{re.sub('[^a-z0-9_]', '_', pipeline.lower())}"[:63]

    def cdc_publication(self, pipeline: str) -> str:
        """The publication of a pipeline."""
        return self.ingest_cdc_publication or self.cdc_slot(pipeline)

    def consumer(self, kind: str) -> str:
        """The consumer name of this process."""
        return self.consumer_name or f"{socket.gethostname()}-{kind}-{os.getpid()}"


VARIABLES = tuple(name.upper() for name in Settings.model_fields)
#: All that a producer reads.
PRODUCER_VARIABLES = (
    "REDIS_URL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_PASSWORD",
    "PIPELINE",
    "INGEST_CODEC",
    "INGEST_MAX_EVENT_BYTES",
    "INGEST_MEMORY_RATIO",
)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings.

    ``environment`` defaults to that of the process, with what BARGELINE_ENV_FILE adds to it. Raises
    ConfigurationError that names the variable, its value and what it may be.
    """
    if environment is None and (file := os.environ.get("BARGELINE_ENV_FILE")):
        _adopt(read_environment_file(Path(file)))
    given = dict(os.environ if environment is None else environment)
    _refuse_misspelt(given)
    values = _secret_files(SECRETS_DIRECTORY)
    for name in VARIABLES:
        value = given.get(name)
        if value is not None and value != "" and not INJECTED_VALUE.match(value):
            values[name.lower()] = value
        elif f"{name}_FILE" in given:
            values[name.lower()] = _read_secret(f"{name}_FILE", Path(given[f"{name}_FILE"]))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def load_producer_settings() -> Settings:
    """Settings of a producer, which lives in somebody's program: what that calls LOG_LEVEL is no business of ours.

    Raises ConfigurationError like ``load_settings``.
    """
    file = os.environ.get("BARGELINE_ENV_FILE")
    given = {**(read_environment_file(Path(file)) if file else {}), **os.environ}
    return load_settings({name: given[name] for name in given if name.removesuffix("_FILE") in PRODUCER_VARIABLES})


def read_environment_file(path: Path) -> dict[str, str]:
    """Variables of a file of ``NAME=value`` lines; raises ConfigurationError with file and line of what is wrong."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{path}: cannot be read ({reason}).") from None
    found = {}
    for binding in parse_stream(io.StringIO(text)):
        original = binding.original.string
        line = binding.original.line + len(original) - len(original.lstrip("\n"))
        if binding.error or (binding.key is not None and binding.value is None):
            raise ConfigurationError(f"{path}:{line}: this line is not NAME=value.")
        if binding.key is not None and binding.value is not None:
            _check_alone(binding.key, binding.value, f"{path}:{line}")
            found[binding.key] = binding.value
    return found


def use_env_file(path: Path) -> None:
    """Let the variables of a file count like those of the environment, which wins; for the command, not for workers.

    Raises ConfigurationError with file and line of what is wrong.
    """
    _adopt(read_environment_file(path))


def _adopt(variables: Mapping[str, str]) -> None:
    """Add to the environment what it lacks; user code may have variables of its own there."""
    for name, value in variables.items():
        if f"{name}_FILE" not in os.environ:
            os.environ.setdefault(name, value)


def _check_alone(name: str, value: str, place: str) -> None:
    """In a file that is written for us any name that is nearly one of ours is a misspelling of it."""
    near = difflib.get_close_matches(name.removesuffix("_FILE"), VARIABLES, n=1, cutoff=0.85)
    if near and near[0] != name.removesuffix("_FILE"):
        raise ConfigurationError(f"{place}: {name}: there is no such setting. Did you mean {near[0]}?")
    try:
        load_settings({name: value})
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from None


def _explain(error: ValidationError) -> str:
    problems = []
    for one in error.errors(include_url=False):
        name = str(one["loc"][0]).upper()
        secret = name.endswith(("_URL", "_PASSWORD", "_SECRETS", "_TOKENS"))
        shown = "" if secret else f"={one['input']!r}"
        message = one["msg"].removeprefix("Value error, ")
        problems.append(f"{name}{shown}: {message}" + ("" if message.endswith("?") else "."))
    return " ".join(problems)


def _secret_files(directory: Path) -> dict[str, str]:
    found = {}
    for name in VARIABLES:
        for spelling in (name, name.lower()):
            path = directory / spelling
            if path.is_file():
                found[name.lower()] = _read_secret(name, path)
    return found


def _read_secret(variable: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"{variable}={path}: cannot be read ({error.strerror}).") from None


def _refuse_misspelt(given: Mapping[str, str]) -> None:
    known = {*VARIABLES, *(f"{name}_FILE" for name in VARIABLES)}
    for name, value in given.items():
        if name in known or INJECTED_NAME.search(name) or INJECTED_VALUE.match(value):
            continue
        nearest = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.5)
        near_miss = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.88)
        if name.startswith(OWN_PREFIXES) or (name.startswith(SHARED_PREFIXES) and near_miss):
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            raise ConfigurationError(f"{name} is set, but there is no such setting.{hint}")


def environment_for(process: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker that a command starts: what is here, but for INGEST_*, and what it is given.

    What a file of variables says is in the environment already; read once more it would bring INGEST_* back.
    """
    left_out = ("INGEST_", "BARGELINE_ENV_FILE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return inherited | dict(process)
