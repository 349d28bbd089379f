"""What can go wrong, and what it means.

    BargelineError              shown to the user as one sentence
    ├── TransientError          a server or network is away: hold the batch, back off, try again
    │   └── NotAccepted         a producer gave up: Redis was away for longer than a call may wait
    │       └── BackpressureError   … or the pipeline is full
    ├── ConfigurationError      exit 2: a variable, file, table or migration is wrong
    ├── Refused                 exit 3: the name, the port or the partition belongs to somebody else
    └── Unreachable             exit 4: a server the command needs does not answer
    InvalidEvent                this one event can never succeed: dead-letter it, its neighbours go on

Anything else that leaves a worker is a bug: it is logged, and the process exits with 1.
"""


class BargelineError(Exception):
    """An error whose text is a whole sentence for the user: what, where, and what to do."""

    exit_code = 1


class TransientError(BargelineError):
    """A server or the network is away, or refuses for now: the same call may succeed later."""


class NotAccepted(TransientError):
    """Events of a producer were not accepted within the time that its call may wait.

    ``accepted``: so many of the call's first events are in Redis for certain. The entry after them (up to 500 events)
    may be in as well, if only the reply was lost; after a BackpressureError it is not.
    """

    def __init__(self, message: str, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class BackpressureError(NotAccepted):
    """The pipeline holds as many events as it may, or Redis' memory is nearly full: emit again later."""


class ConfigurationError(BargelineError):
    """Something the user wrote has to be changed before this can work."""

    exit_code = 2


class Refused(BargelineError):
    """Somebody else holds what was asked for."""

    exit_code = 3


class Unreachable(BargelineError):
    """A server that the command needs does not answer."""

    exit_code = 4


class InvalidEvent(Exception):
    """Raised for an event that can never succeed; its text is the reason kept in the dead letter.

    User code raises it with a message. The kernel gives a stable ``reason`` code as well, and a producer the ``index``
    of the event in its call.
    """

    def __init__(self, message: str, reason: str = "invalid", index: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.index = index


class Stopped(Exception):
    """The process was asked to stop while it held a batch: leave the batch pending and end."""
