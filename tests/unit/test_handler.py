"""The handler: what becomes of the events of a raw entry, whatever the user's code does."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import events
from shared.attributes import Attributes
from shared.codec import Codec
from shared.entries import Entry, batch_fields
from shared.errors import InvalidEvent
from shared.events import AnyEvent, Event, SourceIds
from shared.pipeline import IngestSection, PipelineSection
from shared.streams import Outcome
from workers.transform.deadline import Deadline, UserCodeTimeout
from workers.transform.function import Decode, _pydantic_decoder
from workers.transform.handler import Handler, handle, singles, undecodable, unseen

IDS = SourceIds("s")


def _line(number: int, data: Any) -> bytes:
    return events.encode(Event(IDS.id(number, b""), "click", "s", datetime.fromisoformat("2026-11-21T10:00Z"), data))


def _entry(*lines: bytes, codec: str = "json", **more: Any) -> Entry:
    fields = batch_fields(b"".join(line + b"\n" for line in lines), len(lines), 5, codec)
    fields += [part for item in more.items() for part in item]
    raw = [value if isinstance(value, bytes) else str(value).encode() for value in fields]
    return Entry("7-1", dict(zip(raw[::2], raw[1::2], strict=True)))


def _numbers(count: int, **more: Any) -> Entry:
    return _entry(*(_line(number, {"n": number}) for number in range(count)), **more)


def _decoder(model: Any = dict[str, Any]) -> Decode:
    strict, lax = msgspec.json.Decoder(Event[model]), msgspec.json.Decoder(Event[model], strict=False)
    return lambda lines, is_strict: (strict if is_strict else lax).decode_lines(lines)


def _handler(function: Callable[[Any], Any] | None, *, decode: Decode | None = None, **given_: Any) -> Handler:
    limits = PipelineSection.model_validate({"name": "p", "retry_delays_seconds": (1, 10), "max_attempts": 3})
    return Handler(
        decode=decode or _decoder(),
        function=function,
        batch=given_.pop("batch", False),
        deadline=Deadline(given_.pop("seconds", 30)),
        attributes=Attributes(IngestSection(), "p"),
        limits=limits,
        stream="{p}:raw",
        consumer="tf-1",
        **given_,
    )


def _outputs(outcome: Outcome) -> list[AnyEvent]:
    lines = [line for _, body in outcome.segments for line in body.splitlines()]
    assert sum(count for count, _ in outcome.segments) == len(lines)
    return [events.decode_any(line) for line in lines]


def _fields(fields: list[Any]) -> dict[str, Any]:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return found | {name: msgspec.json.decode(found[name]) for name in ("error", "origin", "history") if name in found}


def _law(outcome: Outcome) -> None:
    assert outcome.mapped + outcome.filtered + len(outcome.retries) + len(outcome.dead) == outcome.entry.events


@pytest.mark.parametrize("codec", ["json", "zstd"])
def test_events_pass_unchanged_without_a_function(codec: str) -> None:
    outcome = handle(_handler(None), _numbers(3, codec=codec))
    assert _outputs(outcome) == [events.decode_any(_line(number, {"n": number})) for number in range(3)]
    assert (outcome.mapped, outcome.filtered) == (3, 0)


def test_none_filters() -> None:
    outcome = handle(_handler(lambda event: event if event.data["n"] % 2 else None), _numbers(5))
    assert [event.data["n"] for event in _outputs(outcome)] == [1, 3]
    assert (outcome.mapped, outcome.filtered) == (2, 3)


def test_fan_out_derives_ids_from_the_parent_and_the_index() -> None:
    def twice(event: AnyEvent) -> Iterator[AnyEvent]:
        parent = event.id
        event.id = "changed by user code"
        yield event
        yield msgspec.structs.replace(event, type="other", data={"parent": parent})

    entry = _numbers(2)
    outcome = handle(_handler(twice), entry)
    found = _outputs(outcome)
    assert [event.id for event in found] == [
        events.derived_id(IDS.id(n, b""), index) for n in range(2) for index in (0, 1)
    ]
    assert (outcome.mapped, sum(count for count, _ in outcome.segments)) == (2, 4)
    assert found == _outputs(handle(_handler(twice), entry))


def test_a_fan_out_to_nothing_filters() -> None:
    outcome = handle(_handler(lambda _event: []), _numbers(2))
    assert (outcome.mapped, outcome.filtered, outcome.segments) == (0, 2, [])


def test_segments_stay_within_500_events_and_256_kib() -> None:
    many = handle(_handler(lambda event: [event] * 1_201), _numbers(1))
    assert [count for count, _ in many.segments] == [500, 500, 201]
    assert len({event.id for event in _outputs(many)}) == 1_201

    def grow(event: AnyEvent) -> AnyEvent:
        event.data = {"text": "x" * (300_000 if event.data["n"] == 1 else 100_000)}
        return event

    large = handle(_handler(grow, codec=Codec("zstd")), _numbers(5))
    assert [count for count, _ in large.segments] == [1, 1, 2, 1]


def test_invalid_event_is_a_dead_letter_of_that_event_alone() -> None:
    def refuse(event: AnyEvent) -> AnyEvent:
        if event.data["n"] == 1:
            event.data["n"] = "changed before it was refused"
            raise InvalidEvent("one is refused")
        return event

    outcome = handle(_handler(refuse), _numbers(3))
    assert [event.data["n"] for event in _outputs(outcome)] == [0, 2]
    (letter,) = map(_fields, outcome.dead)
    assert (letter["reason"], letter["stage"], letter["consumer"]) == ("invalid", "transform", "tf-1")
    assert letter["event"] == _line(1, {"n": 1})
    assert letter["origin"] == {"stream": "{p}:raw", "address": "7-1/1", "source": "s"}
    assert letter["error"]["message"] == "one is refused"


@pytest.mark.parametrize("text", [True, False])
def test_values_that_may_be_text_are_so_again_when_they_are_tried_again_or_split(text: bool) -> None:
    def fail(_event: AnyEvent) -> AnyEvent:
        raise LookupError

    class Counted(msgspec.Struct):
        n: int

    more: dict[str, Any] = {"x": 1} if text else {}
    handler = _handler(fail, decode=_decoder(Counted))
    lines = [_line(number, {"n": str(number) if text else number}) for number in range(2)]
    entry = _entry(*lines, **more)
    foreign = Entry("7-1", {b"payload": b'{"n":"1"}'})
    again = [*handle(handler, entry).retries, *singles(handler, entry)]
    assert len(again) == 4
    if text:
        again += handle(handler, foreign).retries
        assert len(again) == 5
    for fields in again:
        assert dict(zip(fields[::2], fields[1::2], strict=True)).get("x") == (1 if text else None)
    if not text:
        wrong = handle(handler, _entry(*lines, _line(2, {"n": "2"})))
        assert (len(wrong.retries), len(wrong.dead)) == (2, 1)


def test_an_exception_retries_the_original_bytes_until_attempts_are_used_up() -> None:
    def fail(event: AnyEvent) -> AnyEvent:
        event.data["n"] = -1
        event.id = event.type = "spoilt"
        raise LookupError("user 17 not there")

    line = _line(0, {"n": 0})
    entry = _entry(line)
    for attempt, delay in [(1, 1), (2, 10)]:
        before = time.time()
        (retry,) = handle(_handler(fail), entry).retries
        fields = dict(zip(retry[::2], retry[1::2], strict=True))
        assert fields["d"] == line + b"\n"
        assert (fields["a"], fields["t"], fields["v"]) == (attempt, 5, 1)
        assert before + delay - 0.1 < fields["due"] / 1000 < time.time() + delay + 0.1
        history = msgspec.json.decode(fields["h"])
        assert [one["class"] for one in history] == ["LookupError"] * attempt
        entry = _entry(line, a=attempt, h=fields["h"])
    outcome = handle(_handler(fail), entry)
    assert not outcome.retries
    (letter,) = map(_fields, outcome.dead)
    assert (letter["reason"], letter["event"]) == ("attempts", line)
    assert [one["message"] for one in letter["history"]] == ["user 17 not there"] * 3
    assert all(datetime.fromisoformat(one["at"]).tzinfo and one["consumer"] == "tf-1" for one in letter["history"])
    assert "in fail" in letter["error"]["traceback"]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(0), MemoryError(), RecursionError(), StopIteration()])
@pytest.mark.parametrize("batch", [False, True])
def test_whatever_user_code_raises_costs_that_event_an_attempt(error: BaseException, batch: bool) -> None:
    def one(event: AnyEvent) -> AnyEvent:
        if event.data["n"] == 1:
            raise error
        return event

    outcome = handle(
        _handler((lambda many: [one(event) for event in many]) if batch else one, batch=batch), _numbers(3)
    )
    assert [event.data["n"] for event in _outputs(outcome)] == [0, 2]
    (retry,) = outcome.retries
    assert retry[retry.index("d") + 1] == _line(1, {"n": 1}) + b"\n"
    _law(outcome)


def test_a_function_that_calls_exit_does_not_end_the_worker() -> None:
    outcome = handle(_handler(lambda _event: sys.exit("bye")), _numbers(2))
    assert len(outcome.retries) == 2


@pytest.mark.parametrize("returned", ["text", b"bytes", {"a": 1}, 7, True, [1], ["x"], object()])
def test_a_wrong_return_value_names_its_type(returned: object) -> None:
    outcome = handle(_handler(lambda _event: returned), _entry(_line(0, {}), a=2))
    (letter,) = map(_fields, outcome.dead)
    assert letter["error"]["class"] == "TypeError"
    name = type(returned[0] if isinstance(returned, list) else returned).__name__
    assert name in letter["error"]["message"]


def test_a_generator_that_fails_half_way_emits_nothing() -> None:
    def half(event: AnyEvent) -> Iterator[AnyEvent]:
        yield event
        raise OSError("gone")

    outcome = handle(_handler(half), _numbers(1))
    assert (outcome.segments, len(outcome.retries)) == ([], 1)


def test_the_batch_form_takes_a_list_and_returns_as_many_results() -> None:
    seen: list[int] = []

    def batch(many: list[AnyEvent]) -> list[Any]:
        seen.append(len(many))
        first, *_, last = many
        return [first, None, [last, last]]

    outcome = handle(_handler(batch, batch=True), _numbers(3))
    assert seen == [3]
    assert (outcome.mapped, outcome.filtered, len(_outputs(outcome))) == (2, 1, 3)


def test_when_a_batch_fails_each_event_is_tried_alone_and_unspoilt() -> None:
    def batch(many: list[AnyEvent]) -> list[AnyEvent]:
        for event in many:
            event.data["n"] += 10
            if event.data["n"] == 12:
                raise InvalidEvent("two is refused")
        return many

    outcome = handle(_handler(batch, batch=True), _numbers(4))
    assert [event.data["n"] for event in _outputs(outcome)] == [10, 11, 13]
    assert [event.id for event in _outputs(outcome)] == [IDS.id(n, b"") for n in (0, 1, 3)]
    assert [_fields(one)["event"] for one in outcome.dead] == [_line(2, {"n": 2})]


def test_a_batch_with_a_wrong_number_of_results_is_no_success() -> None:
    outcome = handle(_handler(lambda many: many[:-1], batch=True), _entry(_line(0, {}), _line(1, {}), a=2))
    assert [_fields(one)["reason"] for one in outcome.dead] == ["attempts"] * 2
    assert "0 results for 1 events" in _fields(outcome.dead[0])["error"]["message"]


class Click(msgspec.Struct):
    n: int
    mobile: bool = False


class PydanticClick(pydantic.BaseModel):
    n: int
    mobile: bool = False


@pytest.mark.parametrize("decode", [_decoder(Click), _pydantic_decoder(PydanticClick)], ids=["msgspec", "pydantic"])
@pytest.mark.parametrize("batch", [False, True])
def test_data_is_checked_against_the_model(decode: Decode, batch: bool) -> None:
    def double(event: AnyEvent) -> AnyEvent:
        event.data.n *= 2
        return event

    function = (lambda many: [double(event) for event in many]) if batch else double
    entry = _entry(
        _line(0, {"n": 4, "mobile": True}), _line(1, {"n": "four"}), _line(2, {}), _line(3, {"n": 5, "x": 1})
    )
    outcome = handle(_handler(function, decode=decode, batch=batch), entry)
    assert [event.data for event in _outputs(outcome)] == [{"n": 8, "mobile": True}, {"n": 10, "mobile": False}]
    letters = list(map(_fields, outcome.dead))
    assert [letter["reason"] for letter in letters] == ["schema", "schema"]
    assert [letter["event"] for letter in letters] == [_line(1, {"n": "four"}), _line(2, {})]
    assert all("n" in letter["error"]["message"] for letter in letters)


@pytest.mark.parametrize("decode", [_decoder(Click), _pydantic_decoder(PydanticClick)], ids=["msgspec", "pydantic"])
def test_texts_of_a_foreign_entry_are_coerced_by_the_model(decode: Decode) -> None:
    outcome = handle(_handler(lambda event: event, decode=decode), Entry("7-0", {b"n": b"7", b"mobile": b"true"}))
    (event,) = _outputs(outcome)
    assert event.data == {"n": 7, "mobile": True}
    bad = handle(_handler(lambda event: event, decode=decode), Entry("7-0", {b"n": b"many"}))
    assert [_fields(one)["reason"] for one in bad.dead] == ["schema"]


@pytest.mark.parametrize("batch", [False, True])
def test_an_object_that_reaches_over_the_end_of_its_line_is_no_event(batch: bool) -> None:
    """As nobody of ours writes it: what it fails for could not be told from its neighbours."""

    def fails(_: Any) -> Any:
        raise ValueError

    body = _line(0, {"n": 1}).replace(b'"data":{', b'"data":{\n') + b"\n"
    outcome = handle(_handler(fails, batch=batch), Entry("7-0", {b"v": b"1", b"n": b"1", b"d": body}))
    assert [_fields(letter)["reason"] for letter in outcome.dead] == ["malformed"]
    _law(outcome)


def test_pydantic_models_are_written_wherever_they_stand() -> None:
    def nest(event: AnyEvent) -> AnyEvent:
        event.data = {"nested": [PydanticClick(n=1)]}
        return event

    (event,) = _outputs(handle(_handler(nest), _numbers(1)))
    assert event.data == {"nested": [PydanticClick(n=1).model_dump(mode="json")]}


@pytest.mark.parametrize("value", [object(), "\ud800", {1, (2,)}.__iter__()])
@pytest.mark.parametrize("fan_out", [False, True])
def test_an_output_that_is_no_json_is_dead_lettered_and_its_neighbours_go_on(value: object, fan_out: bool) -> None:
    def spoil(event: AnyEvent) -> Any:
        if event.data["n"] == 1:
            event.data = {"nested": value}
        return [event, event] if fan_out else event

    outcome = handle(_handler(spoil), _numbers(3))
    assert [event.data["n"] for event in _outputs(outcome)] == ([0, 0, 2, 2] if fan_out else [0, 2])
    (letter,) = map(_fields, outcome.dead)
    assert (letter["reason"], letter["event"]) == ("unencodable", _line(1, {"n": 1}))
    _law(outcome)


def _spin(event: AnyEvent) -> AnyEvent:
    while event.data["n"] == 1:
        pass
    return event


def test_an_endless_function_costs_its_event_an_attempt() -> None:
    outcome = handle(_handler(_spin, seconds=0.05), _numbers(3))
    assert [event.data["n"] for event in _outputs(outcome)] == [0, 2]
    (retry,) = outcome.retries
    (attempt,) = msgspec.json.decode(retry[retry.index("h") + 1])
    assert (attempt["class"], attempt["message"]) == ("UserCodeTimeout", "user code took longer than 0.05 s")


def test_an_endless_batch_costs_the_event_that_does_it_an_attempt() -> None:
    outcome = handle(_handler(lambda many: [_spin(one) for one in many], batch=True, seconds=0.05), _numbers(3))
    assert [event.data["n"] for event in _outputs(outcome)] == [0, 2]
    assert len(outcome.retries) == 1


def test_many_quick_events_together_may_take_longer_than_the_deadline() -> None:
    def busy(event: AnyEvent) -> AnyEvent:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass
        return event

    outcome = handle(_handler(busy, seconds=0.1), _numbers(20))
    assert (outcome.mapped, outcome.retries) == (20, [])


class _Late(Deadline):
    """Fires after user code has returned and before its deadline ends."""

    fired = False

    def __setattr__(self, name: str, value: object) -> None:
        if name == "current" and value is None and getattr(self, name, None) is not None and not self.fired:
            self.fired = True
            raise UserCodeTimeout("late")
        super().__setattr__(name, value)


@pytest.mark.parametrize("batch", [False, True])
def test_a_deadline_that_fires_when_user_code_has_just_returned_ends_nothing(batch: bool) -> None:
    function = (lambda many: many) if batch else (lambda event: event)
    handler = dataclasses.replace(_handler(function, batch=batch), deadline=_Late(30))
    outcome = handle(handler, _numbers(3))
    assert outcome.mapped + len(outcome.retries) == 3
    assert len(outcome.retries) == (0 if batch else 1)


def test_a_function_that_swallows_its_timeout_is_asked_again() -> None:
    swallowed = 0

    def stubborn(event: AnyEvent) -> AnyEvent:
        nonlocal swallowed
        while swallowed < 2:
            with contextlib.suppress(UserCodeTimeout):
                while True:
                    pass
            swallowed += 1
        return event

    assert handle(_handler(stubborn, seconds=0.02), _numbers(1)).mapped == 1
    assert swallowed == 2


@pytest.mark.parametrize(
    "entry",
    [
        _entry(b"{}", b"[]"),
        _entry(b"garbage"),
        _entry(b'{"id":"x"}'),
        _entry(b"\xff\xfe"),
        _entry(b'{"a":' * 150_000),
        _entry(b"{}{}", b"", b"x"),
    ],
)
def test_lines_that_are_no_events_are_dead_letters(entry: Entry) -> None:
    outcome = handle(_handler(lambda event: event), entry)
    assert [_fields(one)["reason"] for one in outcome.dead] == ["schema"] * entry.events
    assert b"\n".join(_fields(one)["event"] for one in outcome.dead) + b"\n" == entry.fields[b"d"]


def test_an_entry_that_cannot_be_taken_apart_is_dead_lettered_whole() -> None:
    entry = Entry("7-1", {b"v": b"1", b"n": b"3", b"c": b"zstd", b"d": b"no zstd"})
    outcome = handle(_handler(None), entry)
    letters = list(map(_fields, outcome.dead))
    assert [letter["bytes"] for letter in letters] == [b"no zstd", b"", b""]
    assert [letter["origin"]["address"] for letter in letters] == ["7-1/0", "7-1/1", "7-1/2"]
    foreign = undecodable(_handler(None), Entry("7-2", {b"a": b"\xff", b"b": b"2"}), InvalidEvent("no"))
    assert [_fields(one)["bytes"] for one in foreign] == [b"a=\xff\nb=2\n"]


def test_a_poison_event_is_dead_lettered_unseen() -> None:
    entry = _entry(_line(0, {"n": 0}), a=1, h=b'[{"message":"earlier"}]')
    (letter,) = map(_fields, unseen(_handler(_spin), msgspec.structs.replace(entry, deliveries=5)).dead)
    assert (letter["reason"], letter["event"]) == ("deliveries", _line(0, {"n": 0}))
    assert "delivered 5 times" in letter["error"]["message"]
    assert letter["history"] == [{"message": "earlier"}]


def test_a_suspect_batch_is_split_into_single_events() -> None:
    made = singles(_handler(None), _numbers(3, codec="zstd"))
    fields = [dict(zip(one[::2], one[1::2], strict=True)) for one in made]
    assert [one["d"] for one in fields] == [_line(n, {"n": n}) + b"\n" for n in range(3)]
    assert {(one["v"], one["n"], one["c"], one["t"]) for one in fields} == {(1, 1, "json", 5)}


def _misbehave(event: AnyEvent) -> Any:
    match event.data["do"]:
        case "pass":
            return event
        case "filter":
            return None
        case "fan out":
            return [event] * event.data.get("times", 3)
        case "invalid":
            raise InvalidEvent("invalid")
        case "fail":
            event.data.clear()
            raise ValueError("fail")
        case "exit":
            raise SystemExit(1)
        case "unencodable":
            event.data["x"] = object()
            return event
        case _:
            return "nonsense"


ACTS = ["pass", "filter", "fan out", "invalid", "fail", "exit", "unencodable", "nonsense"]


def test_what_is_not_begun_with_when_the_process_has_to_leave_is_put_back_without_blame() -> None:
    def leave(event: AnyEvent) -> AnyEvent:
        handler.deadline.leaving = event.data["n"] == 1
        return event

    handler = _handler(leave)
    history = [{"at": "2026-11-21T10:00:00Z", "consumer": "tf-2", "error": "Timeout"}]
    outcome = handle(handler, _numbers(4, a=2, h=msgspec.json.encode(history).decode()))
    _law(outcome)
    assert [event.data["n"] for event in _outputs(outcome)] == [0, 1]
    assert (outcome.put_back, outcome.dead) == (2, [])
    now_ms = int(events.now().timestamp() * 1000)
    for number, retry in zip((2, 3), map(_fields, outcome.retries), strict=True):
        assert retry["due"] <= now_ms
        assert (retry["a"], msgspec.json.decode(retry["h"])) == (2, history)
        assert retry["d"] == _line(number, {"n": number}) + b"\n"


def test_a_batch_that_failed_as_the_process_has_to_leave_is_put_back() -> None:
    seen = []

    def leave(many: list[AnyEvent]) -> list[AnyEvent]:
        seen.append(len(many))
        handler.deadline.leaving = True
        raise OSError("the server is being stopped, too")

    handler = _handler(leave, batch=True)
    assert handle(handler, _numbers(3)).put_back == 3
    assert handle(handler, _numbers(2)).put_back == 2
    assert seen == [3]


@given(st.lists(st.sampled_from([*ACTS, "broken"]), min_size=1, max_size=12), st.booleans(), st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_every_event_has_exactly_one_outcome(acts: list[str], batch: bool, attempt: int) -> None:
    lines = [b"{" if act == "broken" else _line(number, {"do": act}) for number, act in enumerate(acts)]
    function = (lambda many: [_misbehave(event) for event in many]) if batch else _misbehave
    outcome = handle(_handler(function, batch=batch), _entry(*lines, a=attempt))
    _law(outcome)
    counts = {act: acts.count(act) for act in [*ACTS, "broken"]}
    failed = counts["fail"] + counts["exit"] + counts["nonsense"]
    assert outcome.mapped == counts["pass"] + counts["fan out"]
    assert outcome.filtered == counts["filter"]
    assert len(outcome.retries) == (0 if attempt == 2 else failed)
    assert len(_outputs(outcome)) == counts["pass"] + 3 * counts["fan out"]
    retried = [retry[retry.index("d") + 1].rstrip(b"\n") for retry in outcome.retries]
    dead = [_fields(letter)["event"] for letter in outcome.dead]
    expected = [line for line, act in zip(lines, acts, strict=True) if act not in ("pass", "fan out", "filter")]
    assert sorted(retried + dead) == sorted(expected)
