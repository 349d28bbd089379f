"""What becomes of the events of a raw entry: pure, no client in sight."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic

from shared import events
from shared.attributes import Attributes
from shared.codec import Codec, compress
from shared.entries import (
    MOST_BYTES,
    MOST_EVENTS,
    VERSION,
    Entry,
    Fields,
    body_of,
    dead_letter,
    describe,
    holds,
    lines_of,
    pieces,
    split_lines,
)
from shared.errors import InvalidEvent
from shared.events import AnyEvent, Event
from shared.pipeline import PipelineSection
from shared.streams import Outcome
from workers.transform.deadline import Deadline
from workers.transform.function import Decode, UserFunction

_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, InvalidEvent)


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
    codec: Codec = field(default_factory=lambda: Codec("json"))


class _NotBegun(Exception):
    """User code has not seen this event: the process is to end."""


#: What became of one event: an event, several (fan-out), nothing (filtered), or the error in its way.
_Result = AnyEvent | list[AnyEvent] | BaseException | None
#: Results that need no look at each: 0.05 µs an event instead of 0.3.
_USUAL = {Event, type(None)}


def handle(handler: Handler, entry: Entry) -> Outcome:
    """Run the user's function on every event of an entry.

    InvalidEvent and a misfit with the model make a dead letter of that event; any other exception
    makes it wait for another attempt, up to ``max_attempts``. Those that it has not begun with when
    the process has to leave are put back: they wait like that too, for nothing, and without blame.
    """
    outcome = Outcome(entry)
    strict = not entry.text
    try:
        body = body_of(entry, handler.stream, handler.attributes)
        decoded = _decode_all(handler, body, entry.events, strict=strict) or _decode_halves(
            handler, split_lines(body, entry.events), strict=strict
        )
    except InvalidEvent as error:
        outcome.dead = undecodable(handler, entry, error)
        return outcome
    results = _apply(handler, decoded)
    if results is None:
        # A batch function that failed may have changed any of its events: each is decoded anew, and goes alone.
        singles = (_decode_halves(handler, [line], strict=strict) for line in split_lines(body, entry.events))
        results = [result for single in singles for result in _apply(handler, single) or ()]
    _encode(handler, outcome, results, body)
    return outcome


def _decode_all(handler: Handler, body: bytes, count: int, *, strict: bool) -> list[AnyEvent] | None:
    """Events of NDJSON; None when they are not as many, an event to a line, or any does not fit."""
    if not holds(body, count):
        return None
    try:
        decoded = handler.decode(body, strict)
    except _DECODE_ERRORS:
        return None
    return decoded if len(decoded) == count else None


def _decode_halves(handler: Handler, lines: list[bytes], *, strict: bool) -> list[AnyEvent | InvalidEvent]:
    """Events of lines; when any does not fit, halves, until those that do not stand alone."""
    try:
        decoded = handler.decode(b"\n".join(lines), strict)
        if len(decoded) == len(lines):
            return list(decoded)
        error = InvalidEvent(f"{len(decoded)} events where there should be {len(lines)}", "schema")
    except _DECODE_ERRORS as found:
        error = found if isinstance(found, InvalidEvent) else InvalidEvent(str(found), "schema")
    if len(lines) == 1:
        return [error]
    middle = len(lines) // 2
    return [
        *_decode_halves(handler, lines[:middle], strict=strict),
        *_decode_halves(handler, lines[middle:], strict=strict),
    ]


def _apply(handler: Handler, decoded: Sequence[AnyEvent | InvalidEvent]) -> list[_Result] | None:
    """Results, as many as events; None when a batch of several failed."""
    function = handler.function
    if function is None:
        return list(decoded)
    with handler.deadline as deadline:
        if handler.batch:
            return _apply_batch(function, decoded, deadline)
        return [
            event if isinstance(event, InvalidEvent) else _attempt(function, event, index, deadline)
            for index, event in enumerate(decoded)
        ]


def _attempt(function: UserFunction, event: AnyEvent, index: int, deadline: Deadline) -> _Result:
    """What the function makes of one event. Everything here is paid for each event: 0.3 µs beside the function."""
    if deadline.leaving:
        return _NotBegun()
    event_id = event.id
    try:
        try:
            deadline.current = index
            returned = function(event)
            return returned if returned is event else _result(returned, event_id)
        finally:
            deadline.current = None
            if deadline.forked:
                deadline.end_child()
    except (Exception, SystemExit) as error:
        # User code that calls sys.exit must not end the worker: it is a failed attempt like any other.
        return error


def _apply_batch(
    function: UserFunction, decoded: Sequence[AnyEvent | InvalidEvent], deadline: Deadline
) -> list[_Result] | None:
    """The batch form takes a list and returns as many results; when it fails, none are returned for several."""
    if deadline.leaving:
        return [event if isinstance(event, InvalidEvent) else _NotBegun() for event in decoded]
    fitting = [event for event in decoded if not isinstance(event, InvalidEvent)]
    try:
        results = iter(_attempt_batch(function, fitting, deadline) if fitting else ())
    except (Exception, SystemExit) as error:
        return [error] if len(decoded) == 1 else None
    return [event if isinstance(event, InvalidEvent) else next(results) for event in decoded]


def _attempt_batch(function: UserFunction, decoded: list[AnyEvent], deadline: Deadline) -> list[_Result]:
    ids = [event.id for event in decoded]
    try:
        deadline.current = 0
        returned = list(function(list(decoded)))
        if len(returned) != len(decoded):
            raise ValueError(f"the batch function returned {len(returned)} results for {len(decoded)} events")
        return [_result(one, event_id) for one, event_id in zip(returned, ids, strict=True)]
    finally:
        deadline.current = None
        if deadline.forked:
            deadline.end_child()


def _result(returned: Any, event_id: str) -> _Result:
    if returned is None or isinstance(returned, Event):
        return returned
    if isinstance(returned, str | bytes | dict) or not isinstance(returned, Iterable):
        raise TypeError(f"the function returned {type(returned).__name__}; return an Event, several Events, or None")
    outputs = []
    for index, output in enumerate(returned):
        if not isinstance(output, Event):
            raise TypeError(f"the function yielded {type(output).__name__}; yield Events")
        outputs.append(msgspec.structs.replace(output, id=events.derived_id(event_id, index)))
    return outputs


def _encode(handler: Handler, outcome: Outcome, results: Sequence[_Result], body: bytes) -> None:
    outputs = _outputs(results)
    try:
        encoded = _encode_lines(outputs)
    except Exception:
        # Some output cannot be written as JSON: find out whose.
        results = [_encodable(result) for result in results]
        outputs = _outputs(results)
        encoded = _encode_lines(outputs)
    if set(map(type, results)) <= _USUAL:
        outcome.mapped = len(outputs)
    else:
        _fail_all(handler, outcome, results, body)
        outcome.mapped = sum(
            isinstance(result, Event) or (isinstance(result, list) and bool(result)) for result in results
        )
    outcome.filtered = len(results) - outcome.mapped - len(outcome.retries) - len(outcome.dead)
    outcome.segments = list(_segments(encoded, len(outputs), handler.codec.name))


def _outputs(results: Sequence[_Result]) -> list[AnyEvent]:
    if set(map(type, results)) <= _USUAL:
        return [result for result in results if result is not None]  # type: ignore[misc]
    outputs: list[AnyEvent] = []
    for result in results:
        if isinstance(result, Event):
            outputs.append(result)
        elif isinstance(result, list):
            outputs += result
    return outputs


def _fail_all(handler: Handler, outcome: Outcome, results: Sequence[_Result], body: bytes) -> None:
    errors = [(index, result) for index, result in enumerate(results) if isinstance(result, BaseException)]
    lines = split_lines(body, len(results)) if errors else []
    for index, error in errors:
        _fail(handler, outcome, lines[index], index, error)


def _encodable(result: _Result) -> _Result:
    try:
        _encode_lines(_outputs([result]))
    except Exception as error:
        return InvalidEvent(f"the output cannot be written as JSON: {error}", "unencodable")
    return result


def _plain(value: Any) -> Any:
    """What msgspec cannot write by itself."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise NotImplementedError


_encode_lines = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain).encode_lines


def _segments(body: bytes, count: int, codec: str) -> Iterable[tuple[int, bytes]]:
    """Pieces of NDJSON of at most 500 events and, unless one event is larger, 256 KiB."""
    if count <= MOST_EVENTS and len(body) <= MOST_BYTES:
        if count:
            yield count, compress(body, codec)
        return
    for piece in pieces(body.splitlines(keepends=True)):
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
    if isinstance(error, _NotBegun):
        outcome.put_back += 1
        outcome.retries.append(_retry(entry, line, 0, entry.attempt, entry.history))
        return
    attempt = entry.attempt + 1
    history = [
        *entry.history,
        {"at": events.rfc3339(events.now()), "consumer": handler.consumer, **describe(error)},
    ]
    if attempt >= handler.limits.max_attempts:
        outcome.dead.append(letter(history=history, reason="attempts"))
        return
    delays = handler.limits.retry_delays_seconds or (0,)
    outcome.retries.append(_retry(entry, line, delays[min(attempt, len(delays)) - 1], attempt, history))


def _retry(entry: Entry, line: bytes, delay: float, attempt: int, history: list[dict[str, Any]]) -> Fields:
    """An event that waits, ``delay`` seconds at least."""
    due = int(events.now().timestamp() * 1000 + delay * 1000)
    fields: Fields = ["due", due, "v", VERSION, "c", "json", "d", line + b"\n", "t", entry.accepted_ms]
    return [*fields, "a", attempt, "h", msgspec.json.encode(history), *_text(entry)]


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
    return [[*fields, "d", line + b"\n", "t", entry.accepted_ms, *attempt, *_text(entry)] for line in lines]


def _text(entry: Entry) -> Fields:
    """What says of the events of an entry that their values may be text."""
    return ["x", 1] if entry.text else []
