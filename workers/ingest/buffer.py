"""A bounded buffer between a thread that reads a source and the main loop, which sends what is there."""

import threading
from typing import Generic, TypeVar

from workers.ingest.pace import Pace

T = TypeVar("T")
#: An item counts at least so many bytes, which it takes as an object anyway.
_LEAST_BYTES = 512


class Buffer(Generic[T]):
    """Items in their order, up to about ``most_bytes``; one thread puts, one takes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._bytes = 0
        self._pace = Pace()
        #: No more items are taken in.
        self.closed = False
        #: The reader has put its last item.
        self.ended = False

    def put(self, item: T, size: int) -> None:
        """Put an item as soon as there is room; if the buffer was closed before, it is not taken in."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._bytes < self._most_bytes)
            if not self.closed:
                self._add(item, size)

    def offer(self, item: T, size: int) -> bool:
        """Put an item if there is room; False if there is none."""
        with self._changed:
            if self._bytes >= self._most_bytes:
                return False
            self._add(item, size)
            return True

    def _add(self, item: T, size: int) -> None:
        self._items.append(item)
        self._bytes += max(size, _LEAST_BYTES)
        if len(self._items) == 1:
            self._changed.notify_all()

    def take(self, seconds: float) -> list[T]:
        """All items, as soon as there are any; none after so long, or where none will come."""
        self._pace.wait()
        with self._changed:
            self._changed.wait_for(lambda: self._items or self.ended, seconds)
            items, self._items, self._bytes = self._items, [], 0
            self._changed.notify_all()
        if items:
            self._pace.taken()
        return items

    def wait(self, seconds: float) -> bool:
        """Wait for an item or for the end; False if neither came."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._items or self.ended, seconds))

    @property
    def done(self) -> bool:
        """Whether everything was taken and nothing more will come."""
        with self._changed:
            return self.ended and not self._items

    def close(self) -> None:
        """Take in no more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing more will be put."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()
