"""One followed file: which it is, where reading goes on, and when it is finished."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from shared.run import Runtime
from workers.ingest.files import Key, find_inode, key_of, readable
from workers.ingest.growing import FollowPoint, GrowingFile, Truncated
from workers.ingest.source import STILL_SECONDS, Carrier, maker

log = structlog.get_logger()
#: A file that another process reads is looked at again after so long: that process may have ended.
_LEAVE_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class Record(msgspec.Struct, frozen=True):
    """A stored checkpoint of a followed file: its name (`<path or INGEST_SOURCE_NAME>#<inode>`), read and as text."""

    name: str
    inode: int
    point: FollowPoint
    text: str

    @staticmethod
    def read(name: str, text: str) -> "Record | None":
        """The record in a field of the checkpoint hash, or None where that is of another kind of source."""
        inode = name.rpartition("#")[2]
        try:
            point = msgspec.json.decode(text, type=FollowPoint)
            return Record(name, int(inode, 16), point, text) if point.heads else None
        except (msgspec.MsgspecError, ValueError):
            return None


#: Records of an inode that no other file of this process uses.
Lookup = Callable[[Key], list[Record]]


class FollowedFile:
    """A file while it exists: opened, or closed until it changes."""

    def __init__(self, runtime: Runtime, key: Key, path: Path, lookup: Lookup, *, latest: bool = False) -> None:
        self.key = key
        self.path = path
        #: Name of the source, once it is known.
        self.name = ""
        #: Text of the checkpoint as Redis should have it.
        self.stored = ""
        self.quiet_since = time.monotonic()
        self._runtime = runtime
        self._lookup = lookup
        self._latest = latest
        #: Where its present content was when it was first seen.
        self._origin = path
        self._reader: GrowingFile | None = None
        self._carrier: Carrier | None = None
        self._point: FollowPoint | None = None
        #: What is there now does not continue the point.
        self._another = False
        self._rotated = False
        self._closed_at: tuple[int, int] | None = None
        self._not_before = 0.0

    def locate(self, path: Path | None) -> bool:
        """Note where a scan found the file, or look for it; False where it is closed and gone."""
        if path is not None:
            self.path = path
        self._rotated = key_of(self._origin) != self.key
        if self._reader is not None or key_of(self.path) == self.key:
            return True
        found = find_inode(Path(os.path.realpath(self.path)).parent, self.key[1])
        if found is None or key_of(found) != self.key:
            return False
        self.path = found
        return True

    def turn(self) -> bool:
        """Carry the next block; False where there is none. Raises StaleSource, Stopped, OSError and what is damage."""
        if (self._reader is None and not self._open()) or (self._carrier is None and not self._begin()):
            return False
        assert self._reader
        assert self._carrier
        try:
            block = self._reader.next_block()
        except Truncated:
            self._end_generation()
            return True
        if block:
            self.quiet_since = time.monotonic()
            self._carrier.feed(block)
            self._note_stored()
            return True
        if self._reader.compressed or self._is_over():
            self._finish()
        return False

    def _is_over(self) -> bool:
        """Whether whoever writes to it has had time to turn to the new file after a rotation."""
        return self._rotated and time.monotonic() - self.quiet_since > self._runtime.settings.ingest_rotate_seconds

    def _open(self) -> bool:
        if time.monotonic() < self._not_before:
            return False
        self._not_before = time.monotonic() + _RETRY_SECONDS
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return False
        if (stat.st_size, stat.st_mtime_ns) == self._closed_at:
            self._not_before = time.monotonic() + self._runtime.settings.ingest_watch_seconds
            return False
        reader = GrowingFile(self.path)
        # A compressed file is read once it is whole; the path may show another file by now.
        unfinished = reader.compressed and time.time() - stat.st_mtime < STILL_SECONDS
        if reader.key != self.key or unfinished:
            reader.close()
            return False
        self._reader = reader
        self._not_before = 0.0
        self.quiet_since = time.monotonic()
        return True

    def _begin(self) -> bool:
        """Tell which file it is and where reading goes on; False while there is no whole line to tell it by."""
        assert self._reader
        over = self._is_over()
        head = self._reader.first_line(ended=over)
        if head is None:
            self._latest = False
            if over:
                self.close()
            return False
        point = self._point or self._identify()
        if not self._fits(point, head):
            point = point.next(head, readable(self.path), real_folder(self.path), self._host())
            self._reader.start_over()
        self._origin = self.path if point.path == readable(self.path) else Path(point.path)
        return self._start(point)

    def _start(self, point: FollowPoint) -> bool:
        assert self._reader
        runtime = self._runtime
        base = runtime.settings.ingest_source_name or f"{point.host}:{point.folder}"
        identity = f"{base}#{self.key[1]:x}#{point.generation}"
        self._carrier = Carrier(runtime, self.name, maker(runtime, self.name, identity), self.stored)
        if self._latest and not self.stored:
            if self._reader.compressed:
                self.close()
                return False
            point = msgspec.structs.replace(point, offset=self._reader.to_last_line())
            point = msgspec.structs.replace(point, fingerprint=self._reader.fingerprint(), read=point.offset)
            self._carrier.begin(self._reader, point)
            self._carrier.mark(point)
        self._carrier.begin(self._reader, point)
        self._point, self._another, self._latest = point, False, False
        log.info("following", action="source", source=self.name, path=readable(self.path), from_offset=point.offset)
        return True

    def _fits(self, point: FollowPoint, head: str) -> bool:
        """Go on from the point; False if what is there now is another content."""
        assert self._reader
        if self._another or not point.heads:
            return False
        if point.offset:
            return self._reader.go_on(point)
        self._reader.start_over()
        return point.heads[-1] == head

    def _identify(self) -> FollowPoint:
        """The point of this very file, else that of the file that had its inode before it, else an empty one."""
        assert self._reader
        path, folder, host = readable(self.path), real_folder(self.path), self._host()
        records = self._lookup(self.key)
        records.sort(key=lambda one: (one.point.path != path, one.point.folder != folder))
        predecessors = (one for one in records if (one.point.folder, one.point.host) == (folder, host))
        fitting = (one for one in records if self._reader.go_on(one.point))
        record = next(fitting, None) or next(predecessors, None)
        if record is not None:
            self.name, self.stored = record.name, record.text
            return record.point
        base = self._runtime.settings.ingest_source_name or path
        self.name, self.stored = f"{base}#{self.key[1]:x}", ""
        if any(one.name == self.name for one in records):
            # A file of another machine has the same path and inode.
            self.name = f"{base}@{host}#{self.key[1]:x}"
        return FollowPoint()

    def _host(self) -> str:
        """With a name of its own a source is the same on every machine."""
        return "" if self._runtime.settings.ingest_source_name else socket.gethostname()

    def _end_generation(self) -> None:
        """The file was truncated: what had no newline was its last line; what is there now is another content."""
        assert self._reader
        if self._carrier is not None:
            log.info("truncated: what is there now is read from its beginning", action="source", source=self.name)
            self._carrier.finish()
            self._note_stored()
        self._another = True
        self._carrier = None
        self._reader.start_over()

    def _finish(self) -> None:
        """The end of a file that nobody writes to any more; an unfinished last line is taken as it is."""
        assert self._carrier
        assert self._reader
        self._carrier.finish()
        latest = self._carrier.latest
        if not latest.done:
            self._carrier.mark(msgspec.structs.replace(latest, done=True, read=self._reader.position()))
        log.info("read to the end", action="source", source=self.name, offset=latest.offset)
        self.close()

    def _note_stored(self) -> None:
        assert self._carrier
        latest = self._carrier.latest
        assert isinstance(latest, FollowPoint)
        self._point, self.stored = latest, self._carrier.stored

    @property
    def opened(self) -> bool:
        """Whether it holds a file descriptor."""
        return self._reader is not None

    def close(self, *, pause: bool = False) -> None:
        """Close it until it changes, but for a ``pause`` at least."""
        if self._carrier is not None:
            self._note_stored()
        if self._reader is not None:
            self._closed_at = self._reader.looked_at
            self._reader.close()
        self._reader = self._carrier = None
        if pause:
            self._not_before = time.monotonic() + _RETRY_SECONDS

    def leave(self) -> None:
        """Leave it to the process that reads it, for a while; its checkpoint tells then where to go on."""
        self._carrier = self._point = self._closed_at = None
        self.stored, self._another = "", False
        self.close()
        self._closed_at = None
        self._not_before = time.monotonic() + _LEAVE_SECONDS

    def read_again(self) -> None:
        """Redis lost its checkpoint: read it from the beginning, to the same ids."""
        if self._carrier is not None:
            self._note_stored()
        self._carrier = None
        self.close()
        self._closed_at = None
        self.stored = ""
        if self._point is not None:
            self._point = msgspec.structs.replace(self._point, offset=0, lines=0, fingerprint="", read=0, done=False)


def real_folder(path: Path) -> str:
    """The folder that a file is in, whatever links lead there."""
    return readable(Path(os.path.realpath(path)).parent)
