"""Emitting events from a program that uses asyncio.

Calls that arrive while one is under way wait for it and then travel together, as one entry where they fit (a group
commit). One thread sends them through the same code as the other producer: a hop to it costs some 0.1 ms for up to 500
events, and retries, TLS, scripts and the meaning of errors are there once.
"""

# ruff: noqa: A002 - the attributes of an event are called so
import asyncio
import copy
import os
import time as clock
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared.entries import MOST_BYTES, MOST_EVENTS
from shared.errors import BackpressureError, BargelineError, NotAccepted
from shared.producing import OnFull, prepare, require_open
from shared.producing_events import Emittable, Id, Prepared, Time


@dataclass
class _Call:
    """Lines of one call, until when it may wait, and who waits for it."""

    lines: list[bytes]
    deadline: float
    done: asyncio.Future[None]


class AsyncProducer:
    """The same as ``Producer`` for asyncio; it belongs to one event loop, and not to a forked child.

    Concurrent calls share entries without waiting for one another. A call that is cancelled may have been accepted.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        pipeline: str | os.PathLike[str] | None = None,
        *,
        on_full: OnFull = "raise",
        timeout_seconds: float | None = 10,
        source: str = "producer",
    ) -> None:
        self._preparer, self._link = prepare(redis_url, pipeline, on_full, timeout_seconds, source)
        self._executor = ThreadPoolExecutor(1, "bargeline-producer")
        self._waiting: deque[_Call] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def emit(
        self,
        event: Emittable,
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
        id: Id | None = None,
    ) -> str:
        """Emit one event; returns its id. Like ``Producer.emit``."""
        made = self._preparer.one(event, type=type, time=time, key=key, id=id)
        await self._accepted([made])
        return made.id

    async def emit_many(
        self,
        events: Iterable[Emittable],
        *,
        type: str | None = None,
        time: Time | None = None,
        key: str | None = None,
    ) -> list[str]:
        """Emit events; returns their ids. Like ``Producer.emit_many``."""
        made = self._preparer.many(events, type=type, time=time, key=key)
        if made:
            await self._accepted(made)
        return [one.id for one in made]

    async def close(self) -> None:
        """Finish the calls under way, which wait no longer for room or for Redis, and close the connections."""
        self._link.closing.set()
        if self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])
        self._executor.shutdown(wait=False)
        self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _accepted(self, made: Sequence[Prepared]) -> None:
        """Return when Redis has the events."""
        require_open(self._link)
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call([one.line for one in made], self._link.deadline(), done))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        await done

    async def _send_all(self) -> None:
        while calls := self._next():
            await self._send(calls)

    def _next(self) -> list[_Call]:
        """Calls that fit into one entry together; one that needs several goes alone."""
        calls: list[_Call] = []
        events = size = 0
        while self._waiting:
            call = self._waiting[0]
            events += len(call.lines)
            size += sum(map(len, call.lines))
            if calls and (events > MOST_EVENTS or size > MOST_BYTES):
                break
            self._waiting.popleft()
            if not call.done.done():  # cancelled while it waited
                calls.append(call)
        return calls

    async def _send(self, calls: Sequence[_Call]) -> None:
        lines = [line for call in calls for line in call.lines]
        deadline = max(call.deadline for call in calls)
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._link.send, lines, deadline)
        except Exception as error:
            _fail(calls, error)
            if isinstance(error, NotAccepted) and not isinstance(error, BackpressureError):
                self._fail_late(error)
            return
        for call in calls:
            if not call.done.done():
                call.done.set_result(None)

    def _fail_late(self, error: NotAccepted) -> None:
        """Redis is away, and took the time of those as well who waited behind: not one time-out after another."""
        late = [call for call in self._waiting if call.deadline < clock.monotonic()]
        for call in late:
            self._waiting.remove(call)
        _fail(late, NotAccepted(str(error)))


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        if not call.done.done():
            # One for each: it is raised in several tasks, which add to its traceback.
            own = copy.copy(error) if isinstance(error, BargelineError) else error
            own.__cause__ = error.__cause__
            call.done.set_exception(own)
