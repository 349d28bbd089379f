"""supervisord over its Unix socket."""

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import BargelineError, Unreachable

TIMEOUT_SECONDS = 20
# Fault codes of supervisor.xmlrpc.Faults.
SHUTTING_DOWN, BAD_NAME, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 6, 10, 60, 70, 90


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of one process; times are seconds since 1970, 0 for never."""

    name: str
    state: str
    pid: int
    exit_status: int
    started: int
    stopped: int
    now: int
    error: str

    @property
    def is_running(self) -> bool:
        """Whether there is, or will soon be, a process."""
        return self.state in ("STARTING", "RUNNING", "BACKOFF", "STOPPING")


class Supervisor:
    """A running supervisord. Every call raises Unreachable if it does not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pid(self) -> int | None:
        """Its pid, or None if nothing listens on the socket."""
        try:
            return int(self._call("getPID"))
        except Unreachable:
            return None

    def processes(self) -> dict[str, ProcessState]:
        """All its processes by name."""
        return {
            each["name"]: ProcessState(
                name=each["name"],
                state=each["statename"],
                pid=each["pid"],
                exit_status=each["exitstatus"],
                started=each["start"],
                stopped=each["stop"],
                now=each["now"],
                error=each["spawnerr"],
            )
            for each in self._call("getAllProcessInfo")
        }

    def start(self, name: str) -> None:
        """Start a process that does not run; returns at once."""
        self._call("startProcess", name, False, unless=ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """Ask a process to stop; returns at once."""
        self._call("stopProcess", name, False, unless=NOT_RUNNING)

    def reread(self) -> tuple[list[str], list[str], list[str]]:
        """Read the files again; returns the names that are new, changed and gone."""
        added, changed, removed = self._call("reloadConfig")[0]
        return added, changed, removed

    def add(self, name: str) -> None:
        """Take a process from the files, and start it."""
        self._call("addProcessGroup", name, unless=ALREADY_ADDED)

    def remove(self, name: str) -> None:
        """Forget a stopped process."""
        self._call("removeProcessGroup", name, unless=BAD_NAME)

    def _call(self, method: str, *arguments: Any, unless: int | None = None) -> Any:
        proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=_Transport(self._path))
        try:
            with proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == unless:
                return None
            if fault.faultCode == SHUTTING_DOWN:
                raise Unreachable("supervisord is shutting down.") from None
            raise BargelineError(f"supervisord refused {method}{arguments}: {fault.faultString}.") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"supervisord does not answer on {self._path}: {error}.") from None


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path)
        # Where Transport.close looks for it.
        self._connection = (host, connection)
        return connection


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
