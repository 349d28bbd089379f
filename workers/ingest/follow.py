"""Following files as they grow, are rotated by renaming or truncation, appear and vanish; for ever.

Watching (INGEST_WATCH) is for whole files dropped into a folder: a path is a source, and a file replaced under its
name is read anew. Following is for files that somebody writes to: a file keeps its place whatever it is called, lines
go when their newline is there, and an unfinished line waits for its end as long as the path shows the file.
"""

import itertools
import time
from pathlib import Path

import structlog

from shared.run import Runtime
from shared.streams import all_checkpoints, stored_checkpoints
from workers.ingest.files import Key, find_files, find_inode, key_of, matches, readable
from workers.ingest.followed import FollowedFile, Record
from workers.ingest.growing import GrowingFile
from workers.ingest.sender import StaleSource
from workers.ingest.source import DAMAGED, note_lost_checkpoint

log = structlog.get_logger()
#: How often opened files are looked at while none grows.
_IDLE_SECONDS = 0.1
#: How often files are looked for that nobody here has seen, but whose checkpoint says that they are not finished.
_SEARCH_SECONDS = 5.0
#: Files that stay open between their turns, fewer than a process may usually have. One that is deleted while it
#: is closed cannot be read to its end.
_MOST_OPEN = 512


class Follower:
    """The files that match INGEST_PATH, and those that did when they were last seen."""

    def __init__(self, runtime: Runtime, patterns: str) -> None:
        self._runtime = runtime
        self._patterns = patterns
        self._files: dict[Key, FollowedFile] = {}
        self._unreadable: dict[Path, str] = {}
        #: Records by inode, as they were at most one scan ago.
        self._known: dict[int, list[Record]] | None = None
        self._next_scan = 0.0
        self._next_search = 0.0
        self._first = True

    def step(self) -> None:
        """Give each file one turn, so that a busy one does not keep the others waiting; pause if none had anything."""
        if time.monotonic() >= self._next_scan:
            self._scan()
            self._next_scan = time.monotonic() + self._runtime.settings.ingest_watch_seconds
        progress = False
        opened = sum(file.opened for file in self._files.values())
        for file in list(self._files.values()):
            self._runtime.beat()
            self._runtime.check_stop()
            opened -= file.opened
            found = self._turn(file)
            if file.opened and opened >= _MOST_OPEN:
                # Another turn: at its end it stays closed until it grows.
                found = found and self._turn(file)
                file.close()
            progress |= found
            opened += file.opened
        self._first = False
        if not progress:
            self._runtime.stop.wait(min(_IDLE_SECONDS, self._runtime.settings.ingest_watch_seconds))

    def _turn(self, file: FollowedFile) -> bool:
        try:
            return file.turn()
        except StaleSource as error:
            self._known = None
            if error.checkpoint:
                log.info("another process reads this file", action="source", source=file.name)
                file.leave()
            else:
                self._note_lost(file)
        except DAMAGED as error:
            self._note_damage(file, error)
            file.close(pause=True)
        return False

    def _note_damage(self, file: FollowedFile, error: Exception) -> None:
        reason = str(error)
        if self._unreadable.get(file.path) != reason:
            self._unreadable[file.path] = reason
            log.warning(
                "cannot read on; what came before is in", action="source", source=readable(file.path), error=reason
            )

    def _scan(self) -> None:
        self._known = None
        found = self._found()
        if time.monotonic() >= self._next_search:
            # Not only at the start: another process may have ended with a file that came and was rotated between
            # two scans of this one.
            found |= self._rotated_while_away(found)
            self._next_search = time.monotonic() + _SEARCH_SECONDS
        latest = self._first and self._runtime.settings.ingest_start == "latest"
        for key, path in found.items():
            if key not in self._files:
                self._files[key] = FollowedFile(self._runtime, key, path, self._lookup, latest=latest)
        for key, file in list(self._files.items()):
            if not file.locate(found.get(key)):
                del self._files[key]
        self._reread_lost()

    def _found(self) -> dict[Key, Path]:
        """The files that match, each once: several paths (links) may show one file."""
        found: dict[Key, Path] = {}
        for path in find_files(self._patterns):
            key = key_of(path)
            if key is not None:
                found.setdefault(key, path)
        return found

    def _rotated_while_away(self, found: dict[Key, Path]) -> dict[Key, Path]:
        """Files that were not read to their end and now have a name in the same folder that does not match."""
        there = {inode for _, inode in (*found, *self._files)}
        rotated: dict[Key, Path] = {}
        for record in itertools.chain.from_iterable(self._records().values()):
            if record.point.done or record.inode in there or not matches(record.point.path, self._patterns):
                continue
            path = find_inode(Path(record.point.folder), record.inode)
            key = path and key_of(path)
            if path is not None and key and self._still_holds(path, record):
                rotated[key] = path
        return rotated

    @staticmethod
    def _still_holds(path: Path, record: Record) -> bool:
        try:
            file = GrowingFile(path)
        except OSError:
            return False
        try:
            return file.go_on(record.point)
        except DAMAGED:
            return False
        finally:
            file.close()

    def _records(self) -> dict[int, list[Record]]:
        if self._known is None:
            stored = self._runtime.hold(lambda: all_checkpoints(self._runtime.client))
            self._known = {}
            for name, text in stored.items():
                if (record := Record.read(name, text)) is not None:
                    self._known.setdefault(record.inode, []).append(record)
        return self._known

    def _lookup(self, key: Key) -> list[Record]:
        """Records of an inode that no other file here uses (several file systems may have the same inode)."""
        used = {file.name for file in self._files.values() if file.key != key}
        name = self._runtime.settings.ingest_source_name
        return [
            record
            for record in self._records().get(key[1], ())
            if record.name not in used and (not name or record.name.startswith(f"{name}#"))
        ]

    def _reread_lost(self) -> None:
        """Read files again whose checkpoint Redis does not have any more, finished ones too."""
        known = [file for file in self._files.values() if file.stored]
        sources = [file.name for file in known]
        found = self._runtime.hold(lambda: stored_checkpoints(self._runtime.client, sources)) if known else []
        for file, text in zip(known, found, strict=True):
            if not text:
                self._note_lost(file)

    def _note_lost(self, file: FollowedFile) -> None:
        note_lost_checkpoint(self._runtime, file.name)
        file.read_again()
