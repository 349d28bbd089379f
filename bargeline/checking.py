"""Everything that is wrong with a pipeline folder, and with the database for it."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from shared import database
from shared.database import server, tables
from shared.errors import ConfigurationError
from shared.mistakes import PipelineError, described
from shared.pipeline import Pipeline, find_pipeline, load_pipeline
from shared.settings import environment_for
from shared.toml_lines import Place, line_of

#: The sample has a hundred lines: this is a hang.
CODE_SECONDS = 60
_MOST_OF_A_KIND = 10


class Finding(msgspec.Struct, frozen=True):
    """Something wrong: file, line where it is known, place in the pipeline file (``table.0.mode``), a sentence."""

    file: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        return described(self.file, self.line, self.place, self.message)


@dataclass
class Report:
    """What was found, and what was looked at."""

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def add(self, file: str, line: int | None, place: str, message: str) -> None:
        """Add a finding; ``file`` is relative to the folder."""
        self.findings.append(Finding(_short(self.folder / file), line, place, message))


class _Found(msgspec.Struct):
    """A finding of ``workers.transform.check``."""

    message: str
    place: tuple[str, ...]
    file: str
    line: int | None


class _CodeReport(msgspec.Struct):
    findings: list[_Found]
    events: int


def check_folder(name_or_folder: str) -> tuple[Report, Pipeline | None]:
    """Look at the files, and at what the code makes of the sample; the pipeline, if its file can be read.

    Raises ConfigurationError if there is no such pipeline.
    """
    report = Report(find_pipeline(name_or_folder))
    try:
        pipeline = load_pipeline(str(report.folder))
    except PipelineError as error:
        for one in error.mistakes:
            report.add("pipeline.toml", one.line, one.place, one.message)
        report.not_checked.append("the transform, migrations and tables: first the pipeline file has to be right")
        return report, None
    report.checked.append("pipeline.toml")
    _check_migrations(report, pipeline)
    _check_code(report, pipeline)
    return report, pipeline


def check_database(report: Report, pipeline: Pipeline, url: str) -> None:
    """Look at migrations and tables of a database; raises TransientError if it does not answer."""
    with database.connect(url, "bargeline-check") as connection, database.translated(url):
        applied = server.migrations(connection, pipeline)
        for name in applied.changed:
            report.add(_file_of(name), None, "", "it was changed after it was applied: restore it, and write another.")
        if applied.missing:
            missing = ", ".join(applied.missing)
            report.add(
                "migrations", None, "", f"not applied yet: {missing}. `bargeline migrate` applies what is missing."
            )
        text = (report.folder / "pipeline.toml").read_text()
        for one in tables.problems(connection, pipeline):
            for place in _places(pipeline, one):
                report.add("pipeline.toml", line_of(text, place), ".".join(map(str, place)), f"{one.what} {one.fix}")
    report.checked.append(_count(len(pipeline.file.tables), "table") + " in the database")


def _check_migrations(report: Report, pipeline: Pipeline) -> None:
    try:
        files = database.sql_files(pipeline.migrations)
    except ConfigurationError as error:
        report.findings.append(Finding(_short(pipeline.migrations), None, "", str(error)))
        return
    for path in files:
        try:
            path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            report.add(f"migrations/{path.name}", None, "", f"it cannot be read: {error}.")
    report.checked.append(_count(len(files), "migration"))


def _check_code(report: Report, pipeline: Pipeline) -> None:
    found = _run_code(report, pipeline)
    if found is None:
        return
    text = (pipeline.folder / "pipeline.toml").read_text()
    for one in found.findings[:_MOST_OF_A_KIND]:
        line = line_of(text, one.place) if one.place else one.line
        report.add(one.file, line, ".".join(one.place), one.message)
    if (more := len(found.findings) - _MOST_OF_A_KIND) > 0:
        report.add("sample.ndjson", None, "", f"{more} more of the kind.")
    report.checked.append(f"the transform, with {_count(found.events, 'line')} of sample.ndjson")


def _run_code(report: Report, pipeline: Pipeline) -> _CodeReport | None:
    """User code runs in a process of its own: it may hang, exit or print."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "workers.transform.check", str(pipeline.folder), str(path)]
        try:
            done = subprocess.run(
                command, env=environment_for({}), capture_output=True, text=True, timeout=CODE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            report.add("sample.ndjson", None, "", f"the transform did not get through it within {CODE_SECONDS} s.")
            return None
        if not path.is_file():
            last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
            report.add("transform.py", None, "", f"it ended the process with exit code {done.returncode}: {last}")
            return None
        return msgspec.json.decode(path.read_bytes(), type=_CodeReport)


def _places(pipeline: Pipeline, problem: tables.Problem) -> list[Place]:
    """Where in the pipeline file the table is named, or each of the columns in question."""
    names = [("table", index, one.name) for index, one in enumerate(pipeline.file.table)]
    names += [("rollup", index, one.table) for index, one in enumerate(pipeline.file.rollup)]
    kind, index = next((kind, index) for kind, index, name in names if name == problem.table)
    columns = "columns" if kind == "table" else "aggregates"
    return [(kind, index, columns, column) for column in problem.columns] or [(kind, index)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _file_of(name: str) -> str:
    return f"migrations/{name.partition('/')[2]}"


def _short(path: Path) -> str:
    """The path from here, if it lies below."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
