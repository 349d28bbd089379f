"""The pipeline file: what must agree between the processes of one pipeline.

A pipeline is a folder with ``pipeline.toml``, ``transform.py``, ``migrations/*.sql`` and
``sample.ndjson``: ours under ``config/pipelines``, a user's anywhere.
"""

import importlib.util
import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.errors import ConfigurationError

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=63)]
_AGGREGATE = re.compile(r"^(count|sum\((?P<path>[^()]+)\))$")
_WINDOW = re.compile(r"^(?P<count>[1-9]\d*)(?P<unit>s|m|h|d)$")
#: What a column can hold besides a path into the data.
ATTRIBUTES = ("$id", "$type", "$source", "$time", "$key", "$data")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Section(BaseModel):
    """A part of the pipeline file: unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ValuePath(Section):
    """A path into the object, with what counts when nothing is there."""

    path: str = Field(min_length=1)
    default: str | None = None


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

    type: str | ValuePath = "event"
    time: ValuePath | None = None
    id: ValuePath | None = None
    key: ValuePath | None = None


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
    mode: Literal["insert", "append"] = "insert"
    columns: dict[Identifier, str] = Field(min_length=1)

    @field_validator("columns")
    @classmethod
    def _attributes_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for source in value.values():
            if source.startswith("$") and source not in ATTRIBUTES:
                raise ValueError(f"{source!r} is no attribute of an event: write one of {', '.join(ATTRIBUTES)}")
        return value

    @model_validator(mode="after")
    def _insert_needs_the_id(self) -> "TableSection":
        if self.mode == "insert" and "$id" not in self.columns.values():
            raise ValueError(
                'mode "insert" needs a column that holds "$id" (with a unique constraint); or use "append"'
            )
        return self

    @property
    def id_column(self) -> str | None:
        """The column that holds the event's id."""
        return next((name for name, source in self.columns.items() if source == "$id"), None)


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
        for text in value.values():
            if not _AGGREGATE.match(text):
                raise ValueError(f'{text!r} is no aggregate: write "count" or "sum(path)"')
        return value

    @cached_property
    def window_seconds(self) -> int:
        """Width of a window."""
        found = _WINDOW.match(self.window)
        assert found is not None  # checked when it was read
        return int(found["count"]) * _SECONDS[found["unit"]]

    @cached_property
    def aggregate_paths(self) -> tuple[str | None, ...]:
        """For each aggregate the path that it sums, or None where it counts."""
        return tuple(found["path"] for text in self.aggregates.values() if (found := _AGGREGATE.match(text)))


class PipelineFile(Section):
    """The whole of ``pipeline.toml``."""

    pipeline: PipelineSection
    ingest: IngestSection = IngestSection()
    transform: TransformSection = Field(default_factory=lambda: TransformSection.model_validate({}))
    table: tuple[TableSection, ...] = Field(min_length=1)
    rollup: tuple[RollupSection, ...] = ()
    loader: LoaderSection = LoaderSection()

    @property
    def tables(self) -> list[str]:
        """Names of the tables that rows go to, then of the rollups."""
        return [*(one.name for one in self.table), *(one.table for one in self.rollup)]

    @model_validator(mode="after")
    def _a_type_has_one_table(self) -> "PipelineFile":
        seen: dict[str, str] = {}
        for table in self.table:
            for event_type in table.event_types:
                if event_type in seen:
                    raise ValueError(
                        f"event type {event_type!r} goes to two tables, {seen[event_type]!r} and {table.name!r}; "
                        "fan the event out in the transform, with a type for each table"
                    )
                seen[event_type] = table.name
        appended = {kind for table in self.table if table.mode == "append" for kind in table.event_types}
        for rollup in self.rollup:
            if appended and (rollup.event_types is None or appended & set(rollup.event_types)):
                raise ValueError(
                    f"rollup {rollup.table!r} would count events of a table in mode append, which sees no repeats; "
                    "name its event_types"
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

    Raises ConfigurationError that names the file, the place in it, and what it may be.
    """
    folder = Path(name_or_folder).expanduser().absolute()
    if not (folder / "pipeline.toml").is_file():
        shipped = shipped_pipelines()
        if not (shipped / name_or_folder / "pipeline.toml").is_file():
            known = ", ".join(sorted(path.parent.name for path in shipped.glob("*/pipeline.toml")))
            raise ConfigurationError(
                f"PIPELINE={name_or_folder}: no pipeline of that name (there are: {known}), "
                f"and no file {folder / 'pipeline.toml'}."
            )
        folder = shipped / name_or_folder
    path = folder / "pipeline.toml"
    try:
        return Pipeline(folder=folder, file=PipelineFile.model_validate(tomllib.loads(path.read_text())))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)
        )
        raise ConfigurationError(f"{path}: {problems}.") from None
