"""Standard input: blocks as they come, so that a single line travels at once."""

import hashlib
import os
import select
import sys
from collections.abc import Iterator

import structlog

from shared.errors import Stopped
from shared.events import uuid7
from shared.run import Runtime, Step
from shared.streams import checkpoint as stored_checkpoint
from workers.ingest.files import BLOCK_BYTES, Checkpoint
from workers.ingest.pace import Pace
from workers.ingest.source import Carrier, maker

log = structlog.get_logger()
_POLL_SECONDS = 0.5


def start(runtime: Runtime) -> Step:
    """Return the step that reads standard input to its end."""
    return lambda: _carry(runtime)


def _carry(runtime: Runtime) -> None:
    """Standard input has no history: without INGEST_SOURCE_NAME every run is a new source."""
    source = runtime.settings.ingest_source_name or f"stdin:{uuid7()}"
    carrier = Carrier(
        runtime,
        source,
        maker(runtime, source),
        runtime.hold(lambda: stored_checkpoint(runtime.client, source)),
        replayable=False,
    )
    content = StandardInput(sys.stdin.fileno(), runtime)
    latest = carrier.carry(content, Checkpoint(), take_rest=True)
    carrier.mark(Checkpoint(latest.offset, latest.lines, latest.fingerprint, content.position(), None, done=True))
    log.info("read to the end", action="source", source=source, events=carrier.events, dead=carrier.dead)
    raise Stopped


class StandardInput:
    """Blocks of standard input."""

    size = None

    def __init__(self, descriptor: int, runtime: Runtime) -> None:
        self._descriptor = descriptor
        self._runtime = runtime
        self._read = 0
        self._pace = Pace()
        self._digest = hashlib.blake2b(digest_size=12)

    def blocks(self) -> Iterator[bytes]:
        """Whatever is there, up to the end of the input; looks at the stop signal while it waits."""
        while True:
            self._runtime.beat()
            self._runtime.check_stop()
            if not select.select([self._descriptor], [], [], _POLL_SECONDS)[0]:
                continue
            self._pace.wait()
            self._pace.taken()
            block = os.read(self._descriptor, BLOCK_BYTES)
            if not block:
                return
            self._read += len(block)
            yield block

    def position(self) -> int:
        """Bytes read."""
        return self._read

    def consumed(self, content: bytes) -> None:
        """Note content that was made into events."""
        self._digest.update(content)

    def fingerprint(self) -> str:
        """Digest of everything up to here."""
        return self._digest.hexdigest()
