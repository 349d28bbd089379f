"""A deadline for user code that costs nothing per event.

One timer runs for the whole batch. When it fires while the same event is in hand as at an earlier
firing, a deadline ago or longer, that event has had its time. A timer armed for each event would cost
1 µs of the 4 µs that one takes. User code that never returns to the interpreter cannot be interrupted
so: the stall watchdog ends the process instead. A batch whose events take long, each within its
deadline, is no stall: the timer tells the watchdog of each that is done. And it is the timer that
looks whether the process is to end: a batch that fills less than a tick is finished in any case.
"""

import math
import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from shared.stopping import Stop


class UserCodeTimeout(Exception):
    """User code took longer than TRANSFORM_TIMEOUT_SECONDS for one event."""


class Deadline:
    """Use as a context around the user code of a batch; set ``current`` before each event, None after the last.

    The timer fires every ``tick`` seconds or a little more often; ``on_progress`` is called when it finds another
    event in hand than before. Once it has seen a request to ``stop``, ``leaving`` says that no other event shall begin.
    """

    def __init__(
        self,
        seconds: float,
        on_progress: Callable[[], None] | None = None,
        tick: float = math.inf,
        stop: Stop | None = None,
    ) -> None:
        self.seconds = seconds
        self.leaving = False
        self._stop = stop
        self.current: int | None = None
        self._seen: int | None = None
        self._seen_at = 0.0
        #: Some of them make up a deadline, whatever that is.
        self._tick = seconds / max(math.ceil(seconds / tick), 1)
        self._on_progress = on_progress
        #: Whether this process is a fork of the worker's; asked after each event, where a getpid took 0.1 µs.
        self.forked = False
        self._process = os.getpid()
        os.register_at_fork(after_in_child=self._note_fork)

    def _note_fork(self) -> None:
        self.forked = True

    def end_child(self) -> None:
        """End this process if it is a fork of the worker's that came back from user code: it is no second worker."""
        # A fork by other means than Python's is seen only here.
        if os.getpid() != self._process:
            os._exit(1)

    def __enter__(self) -> Self:
        self.current = self._seen = None
        signal.signal(signal.SIGALRM, self._fire)
        signal.setitimer(signal.ITIMER_REAL, self._tick, self._tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.end_child()

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        self.leaving = self._stop is not None and self._stop.is_set()
        if self.current is None or self.current != self._seen:
            self._seen, self._seen_at = self.current, now
            if self._on_progress is not None:
                self._on_progress()
        elif now - self._seen_at > self.seconds - self._tick / 2:
            self._seen = None
            raise UserCodeTimeout(f"user code took longer than {self.seconds:g} s")
