"""The ingest worker: events from files or standard input into the raw stream."""

import sys
import time
import zlib
from pathlib import Path

import structlog
import zstandard

from shared import run
from shared.attributes import Attributes
from shared.errors import ConfigurationError, Stopped
from shared.events import uuid7
from shared.run import Runtime, Step
from shared.streams import checkpoint as stored_checkpoint
from workers.ingest.files import Checkpoint, FileReader, decode_checkpoint, find_files
from workers.ingest.lines import EventMaker
from workers.ingest.source import Carrier, StaleSource
from workers.ingest.stdin import StandardInput

log = structlog.get_logger()
_DAMAGED = (OSError, EOFError, zlib.error, zstandard.ZstdError)
#: A watched file whose last line lacks its newline is taken as complete when it has been still for so long.
_STILL_SECONDS = 2.0


def start(runtime: Runtime) -> Step:
    """Return the step of the configured source."""
    if runtime.settings.ingest_source == "stdin":
        return lambda: _carry_stdin(runtime)
    patterns = runtime.settings.ingest_path
    if not patterns:
        raise ConfigurationError("INGEST_PATH is not set: name the files to read, as paths or globs.")
    files = Files(runtime, patterns)
    return files.watch if runtime.settings.ingest_watch else files.read_once


def _maker(runtime: Runtime, source: str) -> EventMaker:
    return EventMaker(source, Attributes(runtime.pipeline.file.ingest, runtime.pipeline.name), runtime.name)


def _carry_stdin(runtime: Runtime) -> None:
    """Standard input has no history: without INGEST_SOURCE_NAME every run is a new source."""
    source = runtime.settings.ingest_source_name or f"stdin:{uuid7()}"
    carrier = Carrier(
        runtime,
        source,
        _maker(runtime, source),
        runtime.hold(lambda: stored_checkpoint(runtime.client, source)),
    )
    content = StandardInput(sys.stdin.fileno(), runtime)
    latest = carrier.carry(content, Checkpoint(), take_rest=True)
    carrier.mark(Checkpoint(latest.offset, latest.lines, latest.fingerprint, content.position(), None, done=True))
    log.info("read to the end", action="source", source=source, events=carrier.events, dead=carrier.dead)
    raise Stopped


class Files:
    """The files that match INGEST_PATH."""

    def __init__(self, runtime: Runtime, patterns: str) -> None:
        self._runtime = runtime
        self._patterns = patterns
        #: Size and modification time of each file when it was last found at its end.
        self._finished: dict[Path, tuple[int, int]] = {}

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
        if failed:
            raise ConfigurationError("Not every file could be read; see the log.")
        raise Stopped

    def watch(self) -> None:
        """Read what is new, then pause."""
        for path in find_files(self._patterns):
            self._runtime.check_stop()
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if self._finished.get(path) != (stat.st_size, stat.st_mtime_ns):
                self._read(path, take_rest=time.time() - stat.st_mtime > _STILL_SECONDS)
        self._runtime.stop.wait(self._runtime.settings.ingest_watch_seconds)

    def _wait_for_others(self) -> None:
        self._runtime.beat()
        self._runtime.check_stop()

    def _read(self, path: Path, *, take_rest: bool) -> bool:
        """Read one file from its checkpoint; False if it is damaged or may not be read."""
        source = self._runtime.settings.ingest_source_name or str(path)
        try:
            reader = FileReader(path)
        except OSError as error:
            log.warning("cannot open", action="source", source=source, error=error.strerror)
            self._finished[path] = (-1, -1)
            return False
        try:
            self._carry(path, source, reader, take_rest=take_rest)
        except StaleSource:
            log.info("another process reads this file", action="source", source=source)
            self._runtime.stop.wait(self._runtime.settings.ingest_watch_seconds)
        except _DAMAGED as error:
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
        carrier = Carrier(runtime, source, _maker(runtime, source), stored)
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


if __name__ == "__main__":
    run.main("ingest", start)
