"""The pipeline file: what must agree between the processes of one pipeline.

A pipeline is a folder with ``pipeline.toml``, ``transform.py``, ``migrations/*.sql`` and
``sample.ndjson``: ours under ``config/pipelines``, a user's anywhere.
"""

import importlib.util
import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.errors import ConfigurationError
from shared.mistakes import Misplaced, Mistake, PipelineError, mistakes_of, syntax_mistake

IDENTIFIER_BYTES = 63
_AGGREGATE = re.compile(r"^(count|(?P<function>sum|avg|min|max)\((?P<path>[^()]+)\))$")
_WINDOW = re.compile(r"^(?P<count>[1-9]\d*)(?P<unit>s|m|h|d)$")
#: What a column can hold besides a path into the data.
ATTRIBUTES = ("$id", "$type", "$source", "$time", "$key", "$data")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Name of a header, RFC 9110.
_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_BAD_ESCAPE = re.compile(r"~(?![01])")


def _short_enough(name: str) -> str:
    if len(name.encode()) > IDENTIFIER_BYTES:
        raise ValueError(f"{name!r} is longer than the {IDENTIFIER_BYTES} bytes that PostgreSQL keeps of a name")
    return name


def _path(text: str) -> str:
    if text.startswith("/") and _BAD_ESCAPE.search(text):
        raise ValueError(f"{text!r} is no path: after a first / (JSON Pointer) write ~0 for ~ and ~1 for / in a key")
    return text


def _column_source(text: str) -> str:
    if text.startswith("$") and text not in ATTRIBUTES:
        raise ValueError(
            f"{text!r} is no attribute of an event: write one of {', '.join(ATTRIBUTES)}, "
            f"or {'/' + text!r} for a key that is called so"
        )
    return _path(text)


Identifier = Annotated[str, StringConstraints(min_length=1), AfterValidator(_short_enough)]
DataPath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_path)]
ColumnSource = Annotated[str, StringConstraints(min_length=1), AfterValidator(_column_source)]


class Section(BaseModel):
    """A part of the pipeline file: unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ValuePath(Section):
    """A path into the object, with what counts when nothing is there."""

    path: DataPath
    default: str | None = None


def _kind_of_type(value: Any) -> str:
    return "path" if isinstance(value, dict | ValuePath) else "text"


EventType = Annotated[Annotated[str, Tag("text")] | Annotated[ValuePath, Tag("path")], Discriminator(_kind_of_type)]


class PipelineSection(Section):
    """``[pipeline]``: the name, and limits that every process keeps."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=64, description="Name of the pipeline, and of its keys"
    )
    high_water_events: int = Field(
        200_000, ge=1, description="A stage with so many unsettled events takes no more: who writes to it waits"
    )
    max_attempts: int = Field(3, ge=1, description="An event for which user code failed so often is a dead letter")
    retry_delays_seconds: tuple[float, ...] = Field(
        (1, 10, 60), description="Wait before the second attempt, the third …; the last counts for all further ones"
    )
    max_deliveries: int = Field(
        5, ge=2, description="What was in the hands of so many workers that ended is a dead letter, unseen"
    )
    retention_seconds: float = Field(3600, ge=0, description="Settled events stay in the streams for so long")
    retention_events: int = Field(
        100_000, ge=0, description="Settled events that stay at most; the less of both counts"
    )
    breaker_ratio: float = Field(
        0.5, gt=0, le=1, description="A stage stops when more than this share became dead letters; 1: never"
    )
    breaker_window_seconds: float = Field(60, gt=0, description="Sliding window of that share")
    breaker_least_events: int = Field(1_000, ge=1, description="With fewer events in the window it is not judged")


class IngestSection(Section):
    """``[ingest]``: where the attributes of an event come from."""

    type: EventType = "event"
    time: ValuePath | None = None
    id: ValuePath | None = None
    key: ValuePath | None = None


class WebhookSection(Section):
    """``[[webhook]]``: a path that others deliver to, and how a delivery is verified.

    ``header``, ``algorithm``, ``encoding`` and ``prefix`` describe the signature of ``verify = "hmac"``; the other
    ways know their own. Secrets are in INGEST_WEBHOOK_SECRETS, never here.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)
    verify: Literal["shopify", "standard", "github", "hmac", "bearer"]
    type: str | None = Field(None, min_length=1)
    type_header: str | None = Field(None, pattern=_HEADER)
    header: str | None = Field(None, pattern=_HEADER)
    algorithm: Literal["sha256", "sha384", "sha512", "sha1"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    delivery_header: str | None = Field(None, pattern=_HEADER)

    @model_validator(mode="after")
    def _options_fit(self) -> "WebhookSection":
        if self.verify == "hmac" and self.header is None:
            raise Misplaced('verify = "hmac" needs header: the name of the one that holds the signature', "verify")
        allowed = {
            "hmac": ("header", "algorithm", "encoding", "prefix", "delivery_header"),
            "bearer": ("delivery_header",),
        }.get(self.verify, ())
        for option in ("header", "algorithm", "encoding", "prefix", "delivery_header"):
            if option in self.model_fields_set and option not in allowed:
                raise Misplaced(f'verify = "{self.verify}" has no {option}: it is fixed there', option)
        return self


class TransformSection(Section):
    """``[transform]``: the user's function and the model of its input."""

    function: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    model: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    batch: bool = False


class LoaderSection(Section):
    """``[loader]``: what happens to an event that no table takes."""

    unmatched: Literal["dead", "filter"] = "dead"


class TableSection(Section):
    """``[[table]]``: which events become rows of which table."""

    name: Identifier
    event_types: tuple[str, ...] = Field(min_length=1)
    mode: Literal["insert", "append", "upsert"] = "insert"
    key: tuple[Identifier, ...] = ()
    columns: dict[Identifier, ColumnSource] = Field(min_length=1)

    @model_validator(mode="after")
    def _insert_needs_the_id(self) -> "TableSection":
        if self.mode == "insert" and "$id" not in self.columns.values():
            raise Misplaced(
                'mode "insert" needs a column that holds "$id" (with a unique constraint); or use "append"', "columns"
            )
        return self

    @model_validator(mode="after")
    def _upsert_needs_key_and_time(self) -> "TableSection":
        if self.mode != "upsert":
            if self.key:
                raise Misplaced(f'key is for mode "upsert", and the mode is "{self.mode}"', "key")
            return self
        if not self.key:
            raise Misplaced('mode "upsert" needs a key: the columns that tell which row an event is about', "mode")
        if missing := [name for name in self.key if name not in self.columns]:
            raise Misplaced(f"{missing[0]!r} is none of the columns ({', '.join(self.columns)})", "key")
        if self.time_column is None:
            raise Misplaced('mode "upsert" needs a column that holds "$time": the newest event wins', "columns")
        if unfit := [name for name in self.key if self.columns[name] in {"$time", "$data"}]:
            raise Misplaced(f"{unfit[0]!r} holds {self.columns[unfit[0]]}, which tells no rows apart", "key")
        return self

    @property
    def id_column(self) -> str | None:
        """The column that holds the event's id."""
        return self._column_of("$id")

    @property
    def time_column(self) -> str | None:
        """The column that holds the event's time."""
        return self._column_of("$time")

    def _column_of(self, attribute: str) -> str | None:
        return next((name for name, source in self.columns.items() if source == attribute), None)


Function = Literal["count", "sum", "min", "max"]


class Kept(NamedTuple):
    """A column that is kept of a window: a function of the values at a path, or of the events where that is None."""

    column: str
    function: Function
    path: str | None


class RollupSection(Section):
    """``[[rollup]]``: aggregates in tumbling windows on event time."""

    table: Identifier
    window: str
    by: tuple[Identifier, ...] = ()
    aggregates: dict[Identifier, str] = Field(min_length=1)
    event_types: tuple[str, ...] | None = None

    @field_validator("window")
    @classmethod
    def _window_is_a_duration(cls, value: str) -> str:
        if not _WINDOW.match(value):
            raise ValueError(f'{value!r} is no window: write a number and s, m, h or d, as in "5s"')
        return value

    @field_validator("aggregates")
    @classmethod
    def _aggregates_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _AGGREGATE.match(text):
                raise Misplaced(f'{text!r} is no aggregate: write "count", or sum, avg, min or max "(path)"', name)
        return value

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> "RollupSection":
        names = ["window_start", *self.by, *self.aggregates]
        for average in self.averages:
            for name in _parts_of_average(average):
                if name in names:
                    raise Misplaced(
                        f"{name!r} is kept for the average {average!r}; call the other something else",
                        "aggregates",
                        name,
                    )
        return self

    @cached_property
    def window_seconds(self) -> int:
        """Width of a window."""
        found = _WINDOW.match(self.window)
        assert found is not None  # checked when it was read
        return int(found["count"]) * _SECONDS[found["unit"]]

    @cached_property
    def averages(self) -> dict[str, tuple[str, str]]:
        """Columns that hold an average, each with those that hold the sum and the count it is made of."""
        return {name: _parts_of_average(name) for name, text in self.aggregates.items() if text.startswith("avg(")}

    @cached_property
    def kept(self) -> tuple[Kept, ...]:
        """The columns that are kept of a window; averages are made of two of them."""
        found: list[Kept] = []
        for name, text in self.aggregates.items():
            matched = _AGGREGATE.match(text)
            assert matched is not None  # checked when it was read
            if matched["function"] == "avg":
                total, count = _parts_of_average(name)
                found += [Kept(total, "sum", matched["path"]), Kept(count, "count", matched["path"])]
            else:
                found.append(Kept(name, cast("Function", matched["function"] or "count"), matched["path"]))
        return tuple(found)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the loader writes, those of the key first."""
        return ("window_start", *self.by, *(kept.column for kept in self.kept), *self.averages)


def _parts_of_average(name: str) -> tuple[str, str]:
    return f"{name}_sum", f"{name}_count"


class PipelineFile(Section):
    """The whole of ``pipeline.toml``."""

    pipeline: PipelineSection
    ingest: IngestSection = IngestSection()
    transform: TransformSection = Field(default_factory=lambda: TransformSection.model_validate({}))
    table: tuple[TableSection, ...] = Field(min_length=1)
    rollup: tuple[RollupSection, ...] = ()
    loader: LoaderSection = LoaderSection()
    webhook: tuple[WebhookSection, ...] = ()

    @property
    def tables(self) -> list[str]:
        """Names of the tables that rows go to, then of the rollups."""
        return [*(one.name for one in self.table), *(one.table for one in self.rollup)]

    @model_validator(mode="after")
    def _a_type_has_one_table(self) -> "PipelineFile":
        seen: dict[str, str] = {}
        for index, table in enumerate(self.table):
            for event_type in table.event_types:
                if event_type in seen:
                    raise Misplaced(
                        f"event type {event_type!r} goes to two tables, {seen[event_type]!r} and {table.name!r}; "
                        "fan the event out in the transform, with a type for each table",
                        *("table", index, "event_types"),
                    )
                seen[event_type] = table.name
        return self

    @model_validator(mode="after")
    def _a_webhook_has_one_name(self) -> "PipelineFile":
        names = [one.name for one in self.webhook]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise Misplaced(f"there is another webhook {name!r}", *("webhook", index, "name"))
        return self

    @model_validator(mode="after")
    def _rollups_see_no_repeats(self) -> "PipelineFile":
        others = {kind: table.mode for table in self.table if table.mode != "insert" for kind in table.event_types}
        for index, rollup in enumerate(self.rollup):
            counted = others if rollup.event_types is None else {*rollup.event_types} & {*others}
            if counted:
                raise Misplaced(
                    f"rollup {rollup.table!r} would count events of a table in mode {others[min(counted)]}, which does "
                    "not tell a repeated event from a new one; name its event_types",
                    *("rollup", index),
                )
        return self


class Pipeline(BaseModel):
    """A pipeline: its folder and the content of its file."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    file: PipelineFile

    @property
    def name(self) -> str:
        """The pipeline's name, which is also its first partition's."""
        return self.file.pipeline.name

    @property
    def migrations(self) -> Path:
        """Folder of the pipeline's own migrations."""
        return self.folder / "migrations"


def shipped_pipelines() -> Path:
    """The folder of the pipelines that come with Bargeline."""
    spec = importlib.util.find_spec("config")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("The package `config` with the shipped pipelines is missing from this installation.")
    return Path(next(iter(spec.submodule_search_locations))) / "pipelines"


def load_pipeline(name_or_folder: str) -> Pipeline:
    """Find and read a pipeline by name, or by the path of its folder.

    Raises ConfigurationError that names the file, the line and the place in it, and what it may be.
    """
    folder = find_pipeline(name_or_folder)
    path = folder / "pipeline.toml"
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise PipelineError(path, [Mistake(None, "", f"{error}.")]) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        return Pipeline(folder=folder, file=PipelineFile.model_validate(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(path, [syntax_mistake(text, str(error))]) from None
    except ValidationError as error:
        mistakes = sorted(mistakes_of(text, error, PipelineFile), key=lambda one: one.line or 0)
        raise PipelineError(path, mistakes) from None


def find_pipeline(name_or_folder: str) -> Path:
    """The folder of a pipeline; raises ConfigurationError if there is none of that name."""
    folder = Path(name_or_folder).expanduser().absolute()
    if (folder / "pipeline.toml").is_file():
        return folder
    shipped = shipped_pipelines()
    if (shipped / name_or_folder / "pipeline.toml").is_file():
        return shipped / name_or_folder
    known = ", ".join(sorted(path.parent.name for path in shipped.glob("*/pipeline.toml")))
    raise ConfigurationError(
        f"PIPELINE={name_or_folder}: no pipeline of that name (there are: {known}), "
        f"and no file {folder / 'pipeline.toml'}."
    )
