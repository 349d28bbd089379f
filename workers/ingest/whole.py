"""Whole files: read once to their ends, or watched for while a folder fills."""

import os
import time
from pathlib import Path

import structlog

from shared.errors import ConfigurationError, Stopped
from shared.run import Runtime, Step
from shared.streams import checkpoint as stored_checkpoint
from shared.streams import stored_checkpoints
from workers.ingest.files import Checkpoint, FileReader, closed_folder, decode_checkpoint, find_files, readable
from workers.ingest.follow import Follower
from workers.ingest.sender import StaleSource
from workers.ingest.source import DAMAGED, STILL_SECONDS, Carrier, maker, note_lost_checkpoint

log = structlog.get_logger()
#: In place of the size and time of a file.
_NOT_OPENED = (-2, -1)


def start(runtime: Runtime) -> Step:
    """Return the step that reads, watches or follows INGEST_PATH."""
    settings = runtime.settings
    patterns = settings.ingest_path
    if not patterns:
        raise ConfigurationError("INGEST_PATH is not set: name the files to read, as paths or globs.")
    if folder := closed_folder(patterns):
        raise ConfigurationError(
            f"INGEST_PATH={patterns}: user {os.geteuid()}, as whom this process runs, may not list {folder}."
        )
    if settings.ingest_follow:
        return Follower(runtime, patterns).step
    files = Files(runtime, patterns)
    return files.watch if settings.ingest_watch else files.read_once


class Files:
    """The files that match INGEST_PATH."""

    def __init__(self, runtime: Runtime, patterns: str) -> None:
        self._runtime = runtime
        self._patterns = patterns
        #: Size and modification time of each file when it was last found at its end.
        self._finished: dict[Path, tuple[int, int]] = {}
        #: Files whose checkpoint this process has stored.
        self._stored: set[Path] = set()

    def read_once(self) -> None:
        """Read every file to its end, then stop."""
        files = find_files(self._patterns)
        if not files:
            raise ConfigurationError(f"INGEST_PATH={self._patterns}: no file matches.")
        if self._runtime.settings.ingest_source_name and len(files) > 1:
            raise ConfigurationError("INGEST_SOURCE_NAME names one source, but INGEST_PATH matches several files.")
        failed = False
        while pending := [path for path in files if path not in self._finished]:
            for path in pending:
                failed |= not self._read(path, take_rest=True)
            self._wait_for_others()
            self._reread_lost()
        if failed:
            raise ConfigurationError("Not every file could be read; see the log.")
        raise Stopped

    def watch(self) -> None:
        """Read what is new, then pause."""
        self._reread_lost()
        for path in find_files(self._patterns):
            self._runtime.check_stop()
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if self._finished.get(path) != (stat.st_size, stat.st_mtime_ns):
                self._read(path, take_rest=time.time() - stat.st_mtime > STILL_SECONDS)
        self._runtime.stop.wait(self._runtime.settings.ingest_watch_seconds)

    def _wait_for_others(self) -> None:
        self._runtime.beat()
        self._runtime.check_stop()

    def _source(self, path: Path) -> str:
        return self._runtime.settings.ingest_source_name or readable(path)

    def _reread_lost(self) -> None:
        """Read finished files again whose checkpoint Redis does not have any more."""
        paths = [path for path in self._finished if path in self._stored]
        if not paths:
            return
        sources = [self._source(path) for path in paths]
        found = self._runtime.hold(lambda: stored_checkpoints(self._runtime.client, sources))
        for path, source, text in zip(paths, sources, found, strict=True):
            if not text:
                note_lost_checkpoint(self._runtime, source)
                del self._finished[path]
                self._stored.discard(path)

    def _read(self, path: Path, *, take_rest: bool) -> bool:
        """Read one file from its checkpoint; False if it is damaged or may not be read."""
        source = self._source(path)
        try:
            reader = FileReader(path)
        except OSError as error:
            # Watched, it is tried again and again: that is said once.
            if self._finished.get(path) != _NOT_OPENED:
                log.warning("cannot open", action="source", source=source, error=error.strerror)
            self._finished[path] = _NOT_OPENED
            return False
        try:
            self._carry(path, source, reader, take_rest=take_rest)
        except StaleSource as error:
            if error.checkpoint:
                log.info("another process reads this file", action="source", source=source)
                self._runtime.stop.wait(self._runtime.settings.ingest_watch_seconds)
            else:
                note_lost_checkpoint(self._runtime, source)
        except DAMAGED as error:
            log.warning("damaged; what came before is in", action="source", source=source, error=str(error))
            self._note_finished(path)
            return False
        finally:
            reader.close()
        return True

    def _carry(self, path: Path, source: str, reader: FileReader, *, take_rest: bool) -> None:
        runtime = self._runtime
        stored = runtime.hold(lambda: stored_checkpoint(runtime.client, source))
        start = decode_checkpoint(stored)
        if start.offset and not reader.resume(start):
            log.warning(
                "not the file that was read before under this name; reading it whole",
                action="source",
                source=source,
            )
            start = Checkpoint()
        at_end = (path.stat().st_size, path.stat().st_mtime_ns)
        carrier = Carrier(runtime, source, maker(runtime, source), stored)
        latest = carrier.carry(reader, start, take_rest=take_rest)
        complete = reader.offset >= reader.end_offset
        if not latest.done and complete:
            carrier.mark(
                Checkpoint(
                    latest.offset,
                    latest.lines,
                    reader.fingerprint(),
                    reader.position(),
                    reader.size,
                    done=True,
                )
            )
        if complete:
            self._finished[path] = at_end
            self._stored.add(path)
        if carrier.events or carrier.dead or start.offset == 0:
            log.info(
                "read to the end",
                action="source",
                source=source,
                from_offset=start.offset,
                events=carrier.events,
                dead=carrier.dead,
            )

    def _note_finished(self, path: Path) -> None:
        try:
            stat = path.stat()
            self._finished[path] = (stat.st_size, stat.st_mtime_ns)
        except FileNotFoundError:
            self._finished[path] = (-1, -1)
