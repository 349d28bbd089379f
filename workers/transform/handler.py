"""What becomes of the events of a raw entry: pure, no client in sight."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic

from shared import events
from shared.attributes import Attributes
from shared.entries import (
    MOST_BYTES,
    MOST_EVENTS,
    VERSION,
    Entry,
    Fields,
    compress,
    dead_letter,
    describe,
    join_lines,
    lines_of,
)
from shared.errors import InvalidEvent
from shared.events import AnyEvent, Event
from shared.pipeline import PipelineSection
from shared.streams import Outcome
from workers.transform.deadline import Deadline, UserCodeTimeout
from workers.transform.function import Decode, UserFunction

_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidEvent)


@dataclass(frozen=True)
class Handler:
    """How this process handles entries: the user's code, and what goes into dead letters."""

    decode: Decode
    function: UserFunction | None
    batch: bool
    deadline: Deadline
    attributes: Attributes
    limits: PipelineSection
    stream: str
    consumer: str
    codec: str = "json"


@dataclass
class _Result:
    """Outputs of one event, or why there are none."""

    outputs: Sequence[AnyEvent] = ()
    error: BaseException | None = None
    fanned_out: bool = False


def handle(handler: Handler, entry: Entry) -> Outcome:
    """Run the user's function on every event of an entry.

    InvalidEvent and a misfit with the model make a dead letter of that event; any other exception
    makes it wait for another attempt, up to ``max_attempts``.
    """
    outcome = Outcome(entry)
    try:
        lines = lines_of(entry, handler.stream, handler.attributes)
    except InvalidEvent as error:
        outcome.dead = undecodable(handler, entry, error)
        return outcome
    results = _apply_all(handler, lines, strict=not entry.foreign)
    _encode(handler, outcome, results, lines)
    return outcome


def _apply_all(handler: Handler, lines: list[bytes], *, strict: bool) -> list[_Result]:
    """Decode and apply all at once; when any line does not fit, one after another."""
    try:
        decoded = handler.decode(join_lines(lines), strict)
    except _DECODE_ERRORS:
        return [_decode_and_apply(handler, line, strict=strict) for line in lines]
    if len(decoded) != len(lines):
        return [_decode_and_apply(handler, line, strict=strict) for line in lines]
    results = _apply(handler, decoded)
    # A batch function that failed may have changed any of its events: each is decoded anew.
    return results or [_decode_and_apply(handler, line, strict=strict) for line in lines]


def _decode_and_apply(handler: Handler, line: bytes, *, strict: bool) -> _Result:
    try:
        (event,) = handler.decode(line + b"\n", strict)
    except InvalidEvent as error:
        return _Result(error=error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        return _Result(error=InvalidEvent(str(error), "schema"))
    return _apply(handler, [event])[0]


def _apply(handler: Handler, decoded: list[AnyEvent]) -> list[_Result]:
    """Results, as many as events; none when a batch of several failed."""
    if handler.function is None:
        return [_Result(outputs=(event,)) for event in decoded]
    ids = [event.id for event in decoded]
    with handler.deadline as deadline:
        if handler.batch:
            return _apply_batch(handler.function, decoded, ids, deadline)
        return [_call(handler.function, event, ids[index], index, deadline) for index, event in enumerate(decoded)]


def _call(function: UserFunction, event: AnyEvent, event_id: str, index: int, deadline: Deadline) -> _Result:
    try:
        return _attempt(function, event, event_id, index, deadline)
    except UserCodeTimeout as late:
        # It fired between the end of user code and that of its deadline.
        return _Result(error=late)


def _attempt(function: UserFunction, event: AnyEvent, event_id: str, index: int, deadline: Deadline) -> _Result:
    try:
        deadline.current = index
        return _result(function(event), event_id)
    except InvalidEvent as error:
        return _Result(error=error)
    except (Exception, SystemExit) as error:
        # User code that calls sys.exit must not end the worker: it is a failed attempt like any other.
        return _Result(error=error)
    finally:
        deadline.current = None
        deadline.end_child()


def _apply_batch(function: UserFunction, decoded: list[AnyEvent], ids: list[str], deadline: Deadline) -> list[_Result]:
    """The batch form takes a list and returns as many results; when it fails, none are returned for several."""
    try:
        return _attempt_batch(function, decoded, ids, deadline)
    except (Exception, SystemExit) as error:
        return [_Result(error=error)] if len(decoded) == 1 else []


def _attempt_batch(
    function: UserFunction, decoded: list[AnyEvent], ids: list[str], deadline: Deadline
) -> list[_Result]:
    try:
        deadline.current = 0
        returned = list(function(list(decoded)))
        if len(returned) != len(decoded):
            raise ValueError(f"the batch function returned {len(returned)} results for {len(decoded)} events")
        return [_result(one, event_id) for one, event_id in zip(returned, ids, strict=True)]
    finally:
        deadline.current = None
        deadline.end_child()


def _result(returned: Any, event_id: str) -> _Result:
    if returned is None:
        return _Result()
    if isinstance(returned, Event):
        return _Result(outputs=(returned,))
    if isinstance(returned, str | bytes | dict) or not isinstance(returned, Iterable):
        raise TypeError(f"the function returned {type(returned).__name__}; return an Event, several Events, or None")
    outputs = []
    for index, output in enumerate(returned):
        if not isinstance(output, Event):
            raise TypeError(f"the function yielded {type(output).__name__}; yield Events")
        outputs.append(msgspec.structs.replace(output, id=events.derived_id(event_id, index)))
    return _Result(outputs=outputs, fanned_out=True)


def _encode(handler: Handler, outcome: Outcome, results: list[_Result], lines: list[bytes]) -> None:
    try:
        body = _encode_events([output for result in results for output in result.outputs])
        encoded = None
    except Exception:
        # Some output cannot be written as JSON: find out whose.
        body, encoded = b"", [_encode_result(result) for result in results]
    for index, result in enumerate(results):
        if result.error is not None:
            _fail(handler, outcome, lines[index], index, result.error)
        elif result.outputs:
            outcome.mapped += 1
        else:
            outcome.filtered += 1
    if encoded is not None:
        body = b"".join(encoded)
    outcome.segments = list(_segments(body, handler.codec))


def _encode_events(outputs: Sequence[AnyEvent]) -> bytes:
    for output in outputs:
        if isinstance(output.data, pydantic.BaseModel):
            output.data = output.data.model_dump(mode="json")
    return events.encode_lines(outputs)


def _encode_result(result: _Result) -> bytes:
    try:
        return _encode_events(result.outputs)
    except Exception as error:
        result.outputs = ()
        result.error = InvalidEvent(f"the output cannot be written as JSON: {error}", "unencodable")
        return b""


def _segments(body: bytes, codec: str) -> Iterable[tuple[int, bytes]]:
    """Pieces of NDJSON of at most 500 events and, unless one event is larger, 256 KiB."""
    count = body.count(b"\n")
    if count <= MOST_EVENTS and len(body) <= MOST_BYTES:
        if count:
            yield count, compress(body, codec)
        return
    piece: list[bytes] = []
    size = 0
    for line in body.splitlines(keepends=True):
        if piece and (len(piece) == MOST_EVENTS or size + len(line) > MOST_BYTES):
            yield len(piece), compress(b"".join(piece), codec)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    yield len(piece), compress(b"".join(piece), codec)


def _fail(handler: Handler, outcome: Outcome, line: bytes, index: int, error: BaseException) -> None:
    entry = outcome.entry
    origin = {"stream": handler.stream, "address": f"{entry.id}/{index}", "source": events.source_of(line)}
    letter: Callable[..., Fields] = lambda **more: dead_letter(  # noqa: E731 - four calls would repeat it
        "transform", error, event=line, origin=origin, consumer=handler.consumer, **more
    )
    if isinstance(error, InvalidEvent):
        outcome.dead.append(letter(history=entry.history))
        return
    attempt = entry.attempt + 1
    history = [
        *entry.history,
        {"at": events.rfc3339(events.now()), "consumer": handler.consumer, **describe(error)},
    ]
    if attempt >= handler.limits.max_attempts:
        outcome.dead.append(letter(history=history, reason="attempts"))
        return
    outcome.retries.append(_retry(handler, entry, line, attempt, history))


def _retry(handler: Handler, entry: Entry, line: bytes, attempt: int, history: list[dict[str, Any]]) -> Fields:
    delays = handler.limits.retry_delays_seconds or (0,)
    delay = delays[min(attempt, len(delays)) - 1]
    due = int(events.now().timestamp() * 1000 + delay * 1000)
    fields: Fields = ["due", due, "v", VERSION, "c", "json", "d", line + b"\n", "t", entry.accepted_ms]
    return [*fields, "a", attempt, "h", msgspec.json.encode(history)]


def undecodable(handler: Handler, entry: Entry, error: InvalidEvent) -> list[Fields]:
    """Dead letters of an entry that nothing can be made of: the first holds the bytes as they came."""
    raw = entry.fields.get(b"d", b"")
    if entry.foreign:
        raw = b"".join(b"%s=%s\n" % item for item in entry.fields.items())
    origin = {"stream": handler.stream, "address": f"{entry.id}/0", "source": f"redis:{handler.stream}"}
    letters = [dead_letter("transform", error, raw=raw, origin=origin, consumer=handler.consumer)]
    for index in range(1, entry.events):
        more = {**origin, "address": f"{entry.id}/{index}"}
        letters.append(dead_letter("transform", error, raw=b"", origin=more, consumer=handler.consumer))
    return letters


def unseen(handler: Handler, entry: Entry) -> Outcome:
    """The dead letter of a single event that was in hand whenever a worker died: user code sees it no more."""
    error = InvalidEvent(
        f"delivered {entry.deliveries} times, and each time the worker that had it ended before it was done",
        "deliveries",
    )
    try:
        (line,) = lines_of(entry, handler.stream, handler.attributes)
    except InvalidEvent as broken:
        return Outcome(entry, dead=undecodable(handler, entry, broken))
    origin = {"stream": handler.stream, "address": f"{entry.id}/0", "source": events.source_of(line)}
    letter = dead_letter(
        "transform", error, event=line, origin=origin, consumer=handler.consumer, history=entry.history
    )
    return Outcome(entry, dead=[letter])


def singles(handler: Handler, entry: Entry) -> list[Fields]:
    """Entries of one event each, to replace a suspect batch. Raises InvalidEvent."""
    fields: Fields = ["v", VERSION, "n", 1, "c", "json"]
    attempt: Fields = ["a", entry.attempt] if entry.attempt else []
    lines = lines_of(entry, handler.stream, handler.attributes)
    return [[*fields, "d", line + b"\n", "t", entry.accepted_ms, *attempt] for line in lines]
