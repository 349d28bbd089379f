"""Whether a pipeline's code can be used, and what it makes of the sample.

`python -m workers.transform.check FOLDER REPORT`, in a process of its own: user code may hang, exit or write to
standard output. The report is a file of JSON.
"""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.entries import Entry, Fields, batch_fields
from shared.errors import ConfigurationError, InvalidEvent
from shared.pipeline import Pipeline, load_pipeline
from shared.settings import load_settings
from workers.transform.deadline import Deadline
from workers.transform.function import Decode, UserFunction, load_decoder, load_function
from workers.transform.handler import Handler, handle

_SOURCE = "sample"
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Found(msgspec.Struct):
    """A finding: a place in the pipeline file, or a line of another file (relative to the folder)."""

    message: str
    place: tuple[str, ...] = ()
    file: str = "pipeline.toml"
    line: int | None = None


class Report(msgspec.Struct):
    """What was found, and how many events of the sample went through."""

    findings: list[Found] = []
    events: int = 0


def check(pipeline: Pipeline) -> Report:
    """Load the function and the model, and run every line of the sample through them."""
    report = Report()
    function, decode = None, None
    for what in ("function", "model"):
        try:
            if what == "function":
                function = load_function(pipeline)
            else:
                decode = load_decoder(pipeline)
        except ConfigurationError as error:
            report.findings.append(_unusable(pipeline, what, error))
    if function is not None and (wrong := _arguments(pipeline, function)):
        report.findings.append(Found(wrong, ("transform", "function")))
    if report.findings or decode is None:
        return report
    handler = _handler(pipeline, decode, function)
    for number, line in _sample(pipeline):
        report.events += 1
        report.findings += [Found(text, file="sample.ndjson", line=number) for text in _run(pipeline, handler, line)]
    return report


def _handler(pipeline: Pipeline, decode: Decode, function: UserFunction | None) -> Handler:
    return Handler(
        decode=decode,
        function=function,
        batch=pipeline.file.transform.batch,
        deadline=Deadline(load_settings().transform_timeout_seconds),
        attributes=Attributes(pipeline.file.ingest, pipeline.name),
        limits=pipeline.file.pipeline,
        stream=_SOURCE,
        consumer="check",
    )


def _sample(pipeline: Pipeline) -> Iterator[tuple[int, bytes]]:
    path = pipeline.folder / "sample.ndjson"
    if path.is_file():
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line.strip():
                yield number, line.strip()


def _run(pipeline: Pipeline, handler: Handler, line: bytes) -> Iterator[str]:
    """What is wrong with one line: with the event that ingest would make of it, or with what comes of that."""
    attributes = handler.attributes
    try:
        data = _decode(line)
        event = events.Event(
            id=attributes.id(data) or events.uuid7(),
            type=attributes.type(data),
            source=_SOURCE,
            time=attributes.time(data) or events.now(),
            data=msgspec.Raw(line),
            key=attributes.key(data),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidEvent) as error:
        yield f"ingest makes a dead letter of it: {error}"
        return
    fields = batch_fields(events.encode(event) + b"\n", 1, 0)
    outcome = handle(handler, Entry("1-0", {str(key).encode(): _bytes(value) for key, value in _pairs(fields)}))
    for letter in outcome.dead:
        yield f"the transform makes a dead letter of it: {_error(dict(_pairs(letter))['error'])}"
    for retry in outcome.retries:
        history = msgspec.json.decode(dict(_pairs(retry))["h"])
        yield f"the transform fails: {_error(msgspec.json.encode(history[-1]))}"
    tables = {kind for table in pipeline.file.table for kind in table.event_types}
    if pipeline.file.loader.unmatched == "dead" and "*" not in tables:
        made = {one.type for _, body in outcome.segments for one in events.decode_raw_lines(body)}
        for kind in sorted(made - tables):
            yield f"it becomes an event of type {kind!r}, which no [[table]] takes (event_types)"


def _pairs(fields: Fields) -> Iterator[tuple[str, Any]]:
    return zip(fields[::2], fields[1::2], strict=True)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _error(described: bytes) -> str:
    """Class and message of an error, and where in somebody's code it was raised."""
    error = msgspec.json.decode(described)
    lines = [line.strip() for line in error["traceback"].splitlines() if line.strip().startswith("File ")]
    where = f" ({lines[-1].removeprefix('File ')})" if lines else ""
    return f"{error['class']}: {error['message']}{where}"


def _arguments(pipeline: Pipeline, function: UserFunction) -> str | None:
    """What is wrong with the function's arguments."""
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        what = "a list of events" if pipeline.file.transform.batch else "an event"
        reference = pipeline.file.transform.function
        return f"{reference!r} has to take one argument, {what}: {error}."
    except ValueError:
        return None  # Something built in, of which nothing can be told.
    return None


def _unusable(pipeline: Pipeline, what: str, error: ConfigurationError) -> Found:
    message = str(error).removeprefix(f"{pipeline.folder / 'pipeline.toml'}: [transform] ")
    if found := _place_in(pipeline.folder, error.__cause__):
        file, line = found
        return Found(message, file=file, line=line)
    return Found(message, ("transform", what))


def _place_in(folder: Path, cause: BaseException | None) -> tuple[str, int] | None:
    """File of the folder and line where an import failed."""
    frames = [(one.filename, one.lineno) for one in traceback.extract_tb(cause.__traceback__)] if cause else []
    if isinstance(cause, SyntaxError):
        frames.append((cause.filename or "", cause.lineno))
    inside = [(Path(name).relative_to(folder), line) for name, line in frames if Path(name).is_relative_to(folder)]
    return (str(inside[-1][0]), inside[-1][1]) if inside and inside[-1][1] else None


def main(arguments: Sequence[str]) -> None:
    """Check the pipeline in a folder, and write the report."""
    folder, path = arguments
    with contextlib.redirect_stdout(sys.stderr):
        report = check(load_pipeline(folder))
    Path(path).write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main(sys.argv[1:])
