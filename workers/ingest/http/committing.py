"""Group commit: while one batch is being added, what arrives gathers for the next."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import structlog

from shared.errors import TransientError
from shared.run import Runtime
from workers.ingest.http.adding import Adder, Busy
from workers.ingest.http.problems import Problem, unavailable

log = structlog.get_logger()
#: What one script adds at most, unless one request brings more: Redis does nothing else meanwhile.
_MOST_EVENTS = 5_000
_PROBE_SECONDS = 1.0


class _Request(NamedTuple):
    lines: Sequence[bytes]
    done: "asyncio.Future[Problem | None]"


class Committer:
    """Takes the events of requests, and answers when they are in Redis. Used from the event loop.

    A thread of its own talks to Redis, so that the loop goes on meanwhile. ``failure`` is an error that waiting does
    not heal: then the process has to end.
    """

    def __init__(self, runtime: Runtime, adder: Adder) -> None:
        self._runtime = runtime
        self._adder = adder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="adder")
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._away = False
        #: Asks, while Redis is away, whether it is back.
        self.probing: asyncio.Task[None] | None = None
        self.failure: Exception | None = None

    async def add(self, lines: Sequence[bytes]) -> Problem | None:
        """Wait until these events are in Redis, as durably as was asked for; returns why they are not, if so."""
        if self._away or self.failure:
            return self._unavailable()
        done: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(lines, done))
        if self._task is None:
            self._task = asyncio.create_task(self._commit())
        return await done

    def close(self) -> None:
        """Let the thread end, and the checkpoint go, unless Redis is away: then it stays, and harms nobody."""
        self._thread.shutdown()
        if not self._away:
            self._adder.close()

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and not self._away:
            group = list(self._next())
            lines = list(chain.from_iterable(request.lines for request in group))
            try:
                busy = await loop.run_in_executor(self._thread, self._adder.add, lines)
            except TransientError as error:
                self._go_away(error)
                self._answer(group, self._unavailable(maybe=True))
            except Exception as error:
                self.failure = error
                self._answer(group, self._unavailable(maybe=True))
            else:
                if busy is None:
                    self._runtime.metrics.events("accepted", len(lines))
                self._answer(group, None if busy is None else _full(busy))
        self._task = None

    def _next(self) -> Iterator[_Request]:
        """The requests of one script: as many as there are, up to a limit."""
        events = 0
        while self._waiting and (not events or events + len(self._waiting[0].lines) <= _MOST_EVENTS):
            events += len(self._waiting[0].lines)
            yield self._waiting.popleft()

    def _answer(self, group: Sequence[_Request], problem: Problem | None) -> None:
        if self._away or self.failure:
            # Those behind them would wait as long, to no other end.
            for request in self._waiting:
                _set(request, self._unavailable())
            self._waiting.clear()
        for request in group:
            _set(request, problem)

    def _unavailable(self, *, maybe: bool = False) -> Problem:
        told = "Redis did not confirm in time: the events may be in. Send them again with the same delivery id"
        return unavailable(told if maybe else "Redis is away; nothing was added")

    def _go_away(self, error: TransientError) -> None:
        self._away = True
        self._runtime.waiting_for = str(error)
        log.warning("refusing requests", action="hold", reason=str(error))
        self.probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Ask once a second whether Redis is back."""
        loop = asyncio.get_running_loop()
        while self._away:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                await loop.run_in_executor(self._thread, self._adder.probe)
            except TransientError as error:
                self._runtime.waiting_for = str(error)
            except Exception as error:
                self.failure = error
                return
            else:
                self._away, self._runtime.waiting_for = False, None
                log.info("going on", action="hold")


def _set(request: _Request, problem: Problem | None) -> None:
    # Whoever waits for it may have been told to end.
    if not request.done.done():
        request.done.set_result(problem)


def _full(busy: Busy) -> Problem:
    return unavailable(f"{busy.reason}; nothing was added", busy.seconds)
