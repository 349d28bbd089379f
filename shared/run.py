"""The run loop of every worker: bounded steps, three outcomes, a lease, a watchdog, a clean end.

    TransientError   hold the batch, back off with jitter, try the same call again
    InvalidEvent     never reaches this loop: the step dead-letters that one event
    anything else    a bug: log it and exit non-zero; the supervisor starts the process again

SIGTERM or SIGINT: stop reading, finish the step, settle, release the lease, exit 0. A second one: exit now.
"""

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

import structlog
import tenacity

from shared import logs, metrics, sampling, serving
from shared.errors import BargelineError, Refused, Stopped, TransientError
from shared.pipeline import Pipeline, load_pipeline
from shared.settings import Settings, load_settings
from shared.stopping import Stop
from shared.streams import Client, Full, GroupMissing, HeldLease, acquire, check_server, own_lease
from shared.streams.lease import RENEW_SECONDS
from shared.streams.server import unsafe_settings
from shared.text import printable
from shared.topology import Topology

T = TypeVar("T")
log = structlog.get_logger()
#: A batch in hand may wait for a server that is away for so long after SIGTERM; then it stays pending.
DRAIN_SECONDS = 20
_FIRST_BACKOFF_SECONDS = 0.05
_LONGEST_BACKOFF_SECONDS = 5
_PRESSURE_PAUSE_SECONDS = 0.05


class Runtime:
    """What a worker's step needs of its surroundings."""

    def __init__(self, kind: str, settings: Settings, pipeline: Pipeline) -> None:
        self.kind = kind
        self.settings = settings
        self.pipeline = pipeline
        self.name = settings.consumer(kind)
        self.topology = Topology(pipeline.name)
        self.client = self.new_client()
        self.metrics = metrics.Metrics(pipeline.name, kind)
        self.stop = Stop()
        self.stopped_at: float | None = None
        self.lease: HeldLease | None = None
        self.instance = ""
        #: Whether the step's own connections and checks are done.
        self.prepared = False
        self.waiting_for: str | None = None
        self.pressure = False
        #: Why the stage has stopped consuming (the dead-letter breaker).
        self.paused: str | None = None
        self._last_beat = time.monotonic()
        self._armed = 0.0

    def new_client(self) -> Client:
        """Another connection: a blocking read must not delay the lease."""
        return Client(self.settings.require_redis_url(), self.topology, f"bargeline-{self.name}")

    def beat(self) -> None:
        """Note progress. Without any for STALL_SECONDS the process ends, even while the GIL is held."""
        self._last_beat = now = time.monotonic()
        # Re-arming starts a thread (40 µs), hence once a second.
        if now - self._armed >= 1:
            self._armed = now
            faulthandler.dump_traceback_later(self.settings.stall_seconds, exit=True)

    def check_stop(self) -> None:
        """Raise Stopped if the process was asked to stop: for a step that is long and safe to leave."""
        if self.stop.is_set():
            raise Stopped

    @property
    def stalled(self) -> bool:
        """Whether the main loop has made no progress for STALL_SECONDS."""
        return time.monotonic() - self._last_beat > self.settings.stall_seconds

    def hold(self, operation: Callable[[], T], on_hold: Callable[[], None] | None = None) -> T:
        """Run an operation until it does not fail with TransientError, with growing, jittered pauses.

        ``on_hold`` runs before each pause; giving it says that something is in hand. Raises Stopped when
        the process has to end first: at once with empty hands, else after DRAIN_SECONDS.
        """
        try:
            # Mostly that is all: going through tenacity would take 35 µs more, as long as a short call to Redis.
            result = operation()
        except TransientError as error:
            if not _is_outage(error):
                raise
            result = self._retry(_after(error, operation), on_hold)
        if self.waiting_for is not None:
            log.info("going on", action="hold", after=self.waiting_for)
            self.waiting_for = None
        return result

    def _retry(self, operation: Callable[[], T], on_hold: Callable[[], None] | None) -> T:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_outage),
            wait=tenacity.wait_exponential(_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS)
            + tenacity.wait_random(0, _FIRST_BACKOFF_SECONDS),
            before_sleep=lambda state: self._note_hold(state, on_hold),
            sleep=lambda seconds: self._pause(seconds, in_hand=on_hold is not None),
            reraise=True,
        )
        return attempts(operation)

    def until_accepted(self, operation: Callable[[], T | Full], on_hold: Callable[[], None] | None = None) -> T:
        """Like ``hold``, and wait while the stage written to is full. Raises Stopped like it."""
        while True:
            result = self.hold(operation, on_hold)
            if not isinstance(result, Full):
                if self.pressure:
                    self.pressure = False
                    log.info("pressure is off", action="pressure")
                return result
            if not self.pressure:
                self.pressure = True
                log.info("the next stage is full, waiting", action="pressure", in_flight=result.in_flight)
                if on_hold is not None:
                    on_hold()
            # Short, whatever the wait so far: a stage that drains 50,000 events/s is empty after a long pause.
            self._pause(_PRESSURE_PAUSE_SECONDS, in_hand=on_hold is not None)

    def _note_hold(self, state: tenacity.RetryCallState, on_hold: Callable[[], None] | None) -> None:
        reason = str(state.outcome.exception()) if state.outcome else ""
        if reason != self.waiting_for:
            self.waiting_for = reason
            log.warning("holding what is in hand" if on_hold else "waiting", action="hold", reason=reason)
        if on_hold is not None:
            on_hold()

    def _pause(self, seconds: float, *, in_hand: bool) -> None:
        self.beat()
        if not self.stop.is_set():
            self.stop.wait(seconds)
            return
        if not in_hand or time.monotonic() - (self.stopped_at or 0) > DRAIN_SECONDS:
            raise Stopped
        time.sleep(min(seconds, 0.2))

    def note_lost(self, stage: str, entry_id: str, events: int) -> None:
        """Count and log unsettled events whose entry somebody deleted; nothing happens where there are none."""
        if events:
            self.metrics.events("lost", events)
            self.metrics.incident("lost")
            log.error("somebody deleted an unsettled entry", action="lost", stage=stage, entry=entry_id, events=events)

    def not_ready(self) -> str | None:
        """Why this worker is not ready, or None."""
        if self.lease is None:
            return f"waiting for Redis or for the lease of {self.name}"
        if not self.prepared and self.waiting_for is None:
            return "starting"
        if self.waiting_for is not None:
            return self.waiting_for
        if self.paused is not None:
            return f"stopped consuming at {self.paused}; `bargeline resume {self.kind}` lets it go on"
        return self.not_healthy()

    def not_healthy(self) -> str | None:
        """Why the main loop is taken for dead, or None."""
        return f"no progress for {time.monotonic() - self._last_beat:.0f} s" if self.stalled else None


def _after(error: TransientError, operation: Callable[[], T]) -> Callable[[], T]:
    """The operation with an attempt behind it that failed."""
    met = [error]

    def attempt() -> T:
        if met:
            raise met.pop()
        return operation()

    return attempt


def _is_outage(error: BaseException) -> bool:
    # A missing group heals by making it, not by waiting.
    return isinstance(error, TransientError) and not isinstance(error, GroupMissing)


Step = Callable[[], None]


def main(
    kind: str,
    start: Callable[[Runtime], Step],
    documents: Callable[[Runtime], dict[str, serving.Document]] | None = None,
    sampled_stages: Sequence[str] = (),
) -> None:
    """Run a worker: ``start`` connects what it needs and returns the step, called until it raises Stopped.

    Ends the process: 0 drained, 1 a bug, 2 configuration, 3 the name belongs to somebody else.
    """
    try:
        settings = load_settings()
        logs.configure(settings.log_level, settings.log_format, kind=kind)
        runtime = Runtime(kind, settings, load_pipeline(settings.pipeline))
        logs.configure(settings.log_level, settings.log_format, kind=kind, name=runtime.name)
        _handle_signals(runtime)
        code = _run(runtime, start, documents(runtime) if documents else {}, sampled_stages)
    except BargelineError as error:
        sys.stderr.write(f"error: {printable(str(error), lines=True)}\n")
        code = error.exit_code
    sys.stderr.flush()
    sys.exit(code)


def _run(
    runtime: Runtime,
    start: Callable[[Runtime], Step],
    documents: dict[str, serving.Document],
    sampled_stages: Sequence[str],
) -> int:
    settings = runtime.settings
    server, address = serving.serve(
        settings.metrics_host,
        settings.metrics_port,
        runtime.metrics.registry,
        {"/healthz": runtime.not_healthy, "/readyz": runtime.not_ready},
        documents,
    )
    runtime.beat()
    try:
        if not _take_lease(runtime, address):
            return 0
        sampling.start(runtime.new_client(), runtime.metrics, settings.sample_seconds, sampled_stages, runtime.pipeline)
        step = start(runtime)
        _collect_rarely()
        runtime.prepared = True
        _loop(runtime, step)
    except Stopped:
        log.info("stopped", action="stop")
    finally:
        faulthandler.cancel_dump_traceback_later()
        _release(runtime)
        server.shutdown()
    return 0


def _collect_rarely() -> None:
    """A batch is hundreds of objects that live for a moment: looking for cycles among them took 5 % of a worker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


def _loop(runtime: Runtime, step: Step) -> None:
    while True:
        runtime.beat()
        if runtime.stop.is_set():
            raise Stopped
        step()


def _take_lease(runtime: Runtime, address: str) -> bool:
    version = runtime.hold(lambda: check_server(runtime.client))
    for problem in runtime.hold(lambda: unsafe_settings(runtime.client)):
        log.warning("the server may lose events; see `bargeline doctor`", action="server", problem=problem)
    own = own_lease(runtime.kind, runtime.name, address)
    runtime.instance = own.instance
    lease_client = runtime.new_client()
    held = runtime.hold(lambda: acquire(lease_client, own, runtime.stop))
    if held is None:
        return False
    runtime.lease = held
    threading.Thread(target=_renew, args=(runtime, held), name="lease", daemon=True).start()
    log.info(
        "started",
        action="start",
        server=version,
        metrics=address,
        pipeline=runtime.pipeline.name,
        pid=os.getpid(),
    )
    return True


def _renew(runtime: Runtime, held: HeldLease) -> None:
    """Keep the lease while the main loop makes progress; runs in a thread."""
    while runtime.lease is held:
        time.sleep(RENEW_SECONDS)
        if runtime.stalled or runtime.lease is not held:
            return
        try:
            if not held.renew():
                log.error("somebody else took the name while this process did not run", action="lease")
                os._exit(Refused.exit_code)
        except BargelineError:
            continue  # The main loop meets the same trouble and says so.


def _release(runtime: Runtime) -> None:
    held, runtime.lease = runtime.lease, None
    if held is not None:
        # A lease that cannot be released lapses.
        with contextlib.suppress(TransientError):
            held.release()


def _handle_signals(runtime: Runtime) -> None:
    def handle(number: int, _frame: FrameType | None) -> None:
        if runtime.stop.is_set():
            os._exit(128 + number)
        runtime.stopped_at = time.monotonic()
        runtime.stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
