"""What the tests of ingest share: a look at what it left in Redis, and starting it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis

from shared.attributes import Attributes
from shared.entries import Entry, lines_of
from shared.pipeline import IngestSection, PipelineSection
from tests import workers
from tests.workers import Worker

#: Of foreign entries, which ingest does not write.
_NO_ATTRIBUTES = Attributes(IngestSection(), "")


class Start(Protocol):
    """Starts an ingest worker; ``path`` is its INGEST_PATH."""

    def __call__(self, path: object = None, *, input_: Path | None = None, **env: Any) -> Worker: ...


class Stored:
    """What the worker left in Redis."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client: Any = client
        self.name = name

    def key(self, suffix: str) -> str:
        return f"{{{self.name}}}:{suffix}"

    def events(self) -> list[dict[str, Any]]:
        return self.decoded(self.entries())

    @staticmethod
    def decoded(entries: Iterable[Entry]) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for entry in entries for line in lines_of(entry, "", _NO_ATTRIBUTES)]

    def entries(self) -> list[Entry]:
        """Everything in the raw stream."""
        return [Entry(entry_id.decode(), fields) for entry_id, fields in self.client.xrange(self.key("raw"))]

    def numbers(self) -> list[int]:
        """The field `n` of all events, sorted."""
        return sorted(event["data"]["n"] for event in self.events())

    def ids(self) -> set[str]:
        return {event["id"] for event in self.events()}

    def dead(self) -> list[dict[str, Any]]:
        found = self.client.xrange(self.key("dead"))
        letters = [{name.decode(): value for name, value in fields.items()} for _, fields in found]
        return [one | {"origin": msgspec.json.decode(one["origin"])} for one in letters]

    def counter(self, name: str) -> int:
        return int(self.client.hget(self.key("ledger"), name) or 0)

    def leave_room(self, events: int) -> None:
        """As if so many waited that ingest stops after some ``events`` more.

        A process that is to be killed in the middle is held there: how far it gets until a test,
        which looks every now and then, has ended it, nothing else says.
        """
        most = PipelineSection.model_fields["high_water_events"].default
        self.client.hset(self.key("ledger"), "raw.added", most - events)

    def make_room(self) -> None:
        """As if transforms had settled whatever was added."""
        self.client.hset(self.key("ledger"), "raw.settled", self.counter("raw.added"))

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        found = self.client.hgetall(self.key("checkpoint"))
        return {name.decode(): msgspec.json.decode(text) for name, text in found.items()}

    def checkpoint(self, source: object) -> dict[str, Any]:
        return self.checkpoints().get(str(source), {})


@contextmanager
def starting(redis_url: str, folder: Path, name: str, edits: Mapping[str, str] | None = None) -> Iterator[Start]:
    """Starts ingest workers of one pipeline; whatever still runs is ended afterwards."""
    started: list[Worker] = []
    workers.make_pipeline(folder, name, edits=edits)

    def begin(path: object = None, *, input_: Path | None = None, **env: Any) -> Worker:
        given: dict[str, Any] = {} if path is None else {"INGEST_PATH": path}
        started.append(workers.start("ingest", redis_url, "", folder, input_=input_, **given, **env))
        return started[-1]

    try:
        yield begin
    except BaseException as error:
        for worker in started:
            error.add_note(f"--- log of {worker}:\n{worker.log_text()[-4_000:]}")
        raise
    finally:
        workers.end(*started)
