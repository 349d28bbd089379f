"""What can go wrong, and what it means.

    BargelineError              shown to the user as one sentence
    ├── TransientError          a server or network is away: hold the batch, back off, try again
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

    User code raises it with a message. The kernel gives a stable ``reason`` code as well.
    """

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(Exception):
    """The process was asked to stop while it held a batch: leave the batch pending and end."""
