"""The dead-letter breaker: a broken deploy must not turn a day's input into dead letters."""

import time
from collections import deque
from collections.abc import Sequence

import structlog

from shared.entries import Fields
from shared.events import now, rfc3339
from shared.run import Runtime
from shared.streams.breaker import open_because, open_breaker

log = structlog.get_logger()
_ASK_SECONDS = 1.0


class Breaker:
    """Watches the share of dead letters in what one worker settles; says whether its stage has stopped."""

    def __init__(self, runtime: Runtime, stage: str) -> None:
        self._runtime = runtime
        self._stage = stage
        self._limits = runtime.pipeline.file.pipeline
        #: Second, events and dead letters.
        self._window: deque[tuple[int, int, int]] = deque()
        self._asked = 0.0

    def note(self, events: int, dead: Sequence[Fields]) -> None:
        """Count what was settled; stops the stage when too much of the window is dead letters."""
        second = int(time.monotonic())
        if self._window and self._window[-1][0] == second:
            _, before, dead_before = self._window.pop()
            self._window.append((second, before + events, dead_before + len(dead)))
        else:
            self._window.append((second, events, len(dead)))
        while self._window[0][0] < second - self._limits.breaker_window_seconds:
            self._window.popleft()
        if dead:
            self._judge(dead[-1])

    def _judge(self, letter: Fields) -> None:
        events = sum(one[1] for one in self._window)
        dead = sum(one[2] for one in self._window)
        limits = self._limits
        if events < limits.breaker_least_events or dead <= limits.breaker_ratio * events:
            return
        reason = letter[letter.index("reason") + 1]
        why = (
            f"{rfc3339(now())}: {dead} of the {events} events that {self._runtime.name} settled last became dead "
            f"letters, the last with reason {reason}"
        )
        if self._runtime.hold(lambda: open_breaker(self._runtime.client, self._stage, why)):
            self._runtime.metrics.incident("breaker_opened")
        self._asked = 0.0

    def is_open(self) -> bool:
        """Whether the stage has stopped; asks Redis once a second."""
        runtime = self._runtime
        if time.monotonic() - self._asked < _ASK_SECONDS:
            return runtime.paused is not None
        why = runtime.hold(lambda: open_because(runtime.client, self._stage))
        self._asked = time.monotonic()
        if why is not None and runtime.paused is None:
            log.error(
                "stopped consuming: too many dead letters (`bargeline tail dead` shows them)",
                action="breaker",
                why=why,
                then=f"correct the cause, then `bargeline resume {runtime.kind}`",
            )
        elif why is None and runtime.paused is not None:
            log.info("consuming again", action="breaker")
        if why is not None:
            self._window.clear()
        runtime.paused = why
        return why is not None
