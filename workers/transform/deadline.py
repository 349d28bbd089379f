"""A deadline for user code that costs nothing per event.

One timer runs for the whole batch. When it fires while the same event is in hand as at its last
firing, that event has had its time; so an event gets between one and two deadlines. A timer armed for
each event would cost 1 µs of the 4 µs that one takes. User code that never returns to the
interpreter cannot be interrupted so: the stall watchdog ends the process instead.
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Self


class UserCodeTimeout(Exception):
    """User code took longer than TRANSFORM_TIMEOUT_SECONDS for one event."""


class Deadline:
    """Use as a context around the user code of a batch; set ``current`` before each event, None after the last."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.current: int | None = None
        self._seen: int | None = None
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
        signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.end_child()

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self.current is not None and self.current == self._seen:
            self._seen = None
            raise UserCodeTimeout(f"user code took longer than {self.seconds:g} s")
        self._seen = self.current
