"""Events out of the parts of a request, all of them or none: pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from shared import events
from shared.attributes import Attributes
from shared.errors import InvalidEvent
from workers.ingest.http import cloudevents
from workers.ingest.http.bodies import items, media_type, one_line, parse, parts
from workers.ingest.http.problems import Problem

#: So many bad events are named.
_MOST_NAMED = 10
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Origin:
    """Where a request came in: what its events have as source, and where their attributes come from."""

    source: str
    attributes: Attributes
    most_event_bytes: int


def make(
    origin: Origin, headers: Headers, body: bytes, *, delivery: str | None, arrived: datetime, kind: str | None = None
) -> list[events.AnyEvent]:
    """Events of a body that is decompressed.

    ``delivery`` is the sender's name for this request, from which ids follow; ``kind`` a type that a header tells.
    Raises Problem that names the bad events.
    """
    media = media_type(headers.get("content-type"))

    def plain(index: int, part: bytes) -> events.AnyEvent:
        return _plain(origin, part, _id(origin.source, delivery, index), kind, arrived)

    def cloud(_index: int, part: bytes) -> events.AnyEvent:
        return _of_cloud(origin, cloudevents.structured(part), arrived)

    if media == cloudevents.STRUCTURED:
        return _all(origin, [one_line(body)], cloud)
    if media == cloudevents.BATCH:
        return _all(origin, [one_line(bytes(part)) for part in items(body)], cloud)
    if cloudevents.is_binary(headers):
        return _all(
            origin, [body], lambda _index, part: _of_cloud(origin, cloudevents.binary(headers, media, part), arrived)
        )
    return _all(origin, parts(body, media), plain)


def _all(
    origin: Origin, found: Sequence[bytes], read: Callable[[int, bytes], events.AnyEvent]
) -> list[events.AnyEvent]:
    made: list[events.AnyEvent] = []
    wrong: list[dict[str, Any]] = []
    for index, part in enumerate(found):
        try:
            if len(part) > origin.most_event_bytes:
                raise InvalidEvent(f"longer than {origin.most_event_bytes:,} bytes", "too_long")
            made.append(read(index, part))
        except InvalidEvent as error:
            wrong.append({"index": index, "reason": error.reason, "detail": str(error)})
            if len(wrong) == _MOST_NAMED:
                break
    if wrong:
        first = wrong[0]
        status = 400 if any(one["reason"] == "not_json" for one in wrong) else 422
        raise Problem(status, f"event {first['index']}: {first['detail']}", index=first["index"], errors=wrong)
    return made


def _id(source: str, delivery: str | None, index: int) -> str | None:
    return None if delivery is None else events.id_from_value(source, f"{delivery}/{index}")


def _plain(origin: Origin, part: bytes, event_id: str | None, kind: str | None, arrived: datetime) -> events.AnyEvent:
    item, attributes = parse(part), origin.attributes
    return events.Event(
        id=event_id or attributes.id(item.data) or events.uuid7(),
        type=kind or attributes.type(item.data),
        source=origin.source,
        time=attributes.time(item.data) or arrived,
        data=msgspec.Raw(item.content),
        key=attributes.key(item.data),
    )


def _of_cloud(origin: Origin, cloud: cloudevents.CloudEvent, arrived: datetime) -> events.AnyEvent:
    item, attributes = parse(cloud.data), origin.attributes
    own_time = None if cloud.time is None else events.parse_time(cloud.time)
    return events.Event(
        # Unique is an id only together with its source, a UUID too.
        id=events.id_from_value(cloud.source, f"{cloud.id}/0"),
        type=cloud.type,
        source=cloud.source,
        time=own_time or attributes.time(item.data) or arrived,
        data=msgspec.Raw(item.content),
        key=attributes.key(item.data) or cloud.partitionkey,
    )
