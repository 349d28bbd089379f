"""Epochs before the current one, from the copy that the janitor keeps in PostgreSQL."""

import msgspec

from bargeline.target import Target
from shared.accounting import Balance, balance
from shared.database import application_name, connect, epochs, translated
from shared.errors import BargelineError
from shared.events import rfc3339

_MOST = 5


class Earlier(msgspec.Struct, frozen=True):
    """The balance of an epoch that ended, as of when it was last seen."""

    last_seen: str
    balance: Balance


def earlier_epochs(target: Target, current: str | None) -> tuple[list[Earlier], str | None]:
    """The newest epochs that ended, newest first; or none, and why they cannot be told."""
    name = target.pipeline.name
    try:
        connection = connect(target.database_url, application_name("reconcile", name))
        with connection, translated(target.database_url):
            found = epochs.ended(connection, name, current, _MOST)
    except BargelineError as error:
        return [], f"earlier epochs cannot be told: {error}"
    return [Earlier(rfc3339(one.last_seen), balance(name, one.figures)) for one in found], None
