"""The stream of changes into Redis: transactions in the order of their commits, each change once."""

import time
from dataclasses import dataclass, field

import msgspec

from shared.database.replication import EPOCH_2000, Change, Message
from shared.run import Runtime
from workers.ingest.cdc.batch import Batches
from workers.ingest.cdc.changes import Changes, RowChange, Transaction, count_events
from workers.ingest.cdc.lag import Progress
from workers.ingest.cdc.pgoutput import Begin, Commit, Relation, parse
from workers.ingest.cdc.place import Place
from workers.ingest.cdc.receiver import Receiver

_POLL_SECONDS = 0.5
#: How often the checkpoint moves on while nothing comes that concerns us, so that the slot does not hold back WAL.
_MARK_SECONDS = 2.0


@dataclass
class Follower:
    """Carries what a receiver hands out, from a place on."""

    runtime: Runtime
    receiver: Receiver
    batches: Batches
    changes: Changes
    #: Where reading is, between transactions.
    place: Place
    progress: Progress
    _transaction: Transaction | None = None
    #: How many events of it were sent before; None: all of them.
    _skip: int | None = 0
    _next_mark: float = field(default_factory=lambda: time.monotonic() + _MARK_SECONDS)

    def __post_init__(self) -> None:
        #: The checkpoint in Redis.
        self._sent = self.place

    def run(self) -> None:
        """Carry changes until the stream ends. Raises TransientError, StaleSource, Stopped."""
        while True:
            self.runtime.beat()
            self.runtime.check_stop()
            for message in self.receiver.take(_POLL_SECONDS):
                self._take(message)
            if self.receiver.empty:
                self._rest()

    def _rest(self) -> None:
        """No more is there now: what there is travels at once."""
        due = time.monotonic() >= self._next_mark and self._here() != self._sent
        if due or not self.batches.empty:
            self._send()
            self._confirm()
        self.progress.lsn = self.place.lsn
        if self._transaction is None:
            self.progress.commit_time = None

    def _here(self) -> Place:
        """Where reading is within a transaction."""
        one = self._transaction
        if one is None or self._skip is None or one.index <= self._skip:
            return self.place
        return msgspec.structs.replace(self.place, commit=one.begin.lsn, index=one.index)

    def _take(self, message: Message) -> None:
        if isinstance(message, Change):
            self._take_change(message)
        elif self._transaction is None:
            # Between transactions it says that all before it was sent, what concerns other tables included.
            self._reach(message.lsn)

    def _take_change(self, message: Change) -> None:
        match parse(message.payload):
            case None:
                pass
            case Relation() as relation:
                self.changes.learn(relation)
            case Begin() as begin:
                self._transaction, self._skip = Transaction(begin), self._to_skip(begin)
                self.progress.commit_time = EPOCH_2000 + begin.time / 1e6
            case Commit() as commit:
                self._transaction = None
                self._reach(commit.end_lsn)
            case change:
                self._carry(change, message)

    def _to_skip(self, begin: Begin) -> int | None:
        if begin.lsn < self.place.lsn:
            return None
        return self.place.index if begin.lsn == self.place.commit else 0

    def _reach(self, lsn: int) -> None:
        if lsn > self.place.lsn:
            self.place = self.place.reach(lsn)

    def _carry(self, change: RowChange, message: Change) -> None:
        one = self._transaction
        if one is None:
            raise RuntimeError(f"a change outside of a transaction: {change}")
        count = count_events(change)
        if self._skip is None or one.index + count <= self._skip:
            for _ in range(count):
                one.next_place(message.lsn)
            return
        later = self.place.later
        for table, event in self.changes.events(one, change, message):
            if one.index <= self._skip or (later and one.begin.lsn < later.get(table, 0)):
                continue
            if self.batches.add(event):
                self._send()
                self.runtime.beat()
                self.runtime.check_stop()

    def _send(self) -> None:
        self.progress.lsn = self._sent.lsn
        here = self._here()
        unconfirmed = self.batches.send(here)
        self._sent = here
        self._next_mark = time.monotonic() + _MARK_SECONDS
        if unconfirmed:
            self._confirm()

    def _confirm(self) -> None:
        """Once Redis has it, as safely as was asked for, the slot may forget it."""
        self.batches.confirm()
        self.receiver.stored(self._sent.lsn)
