"""Connections to Redis or Valkey, and what their errors mean."""

import hashlib
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import BargelineError, ConfigurationError, TransientError
from shared.topology import Topology
from shared.urls import ESCAPE_HINT, is_ambiguous, without_password

#: Longest blocking read; the socket timeout stays well above it, so that a half-open socket is noticed.
BLOCK_MS = 1_000
SOCKET_TIMEOUT_SECONDS = 5
#: A connection that rested for so long may have been closed by the server.
_IDLE_SECONDS = 1.0
_SCHEMES = ("redis", "rediss", "unix")
_TRANSIENT = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    # A connection that broke in the middle of a reply.
    redis.exceptions.InvalidResponse,
)
#: Error codes that name a state of the server, not a mistake of ours.
_TRANSIENT_CODES = (
    "LOADING",
    "BUSY",
    "MISCONF",
    "OOM",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
)
_LUA = Path(__file__).parent / "lua"


class GroupMissing(TransientError):
    """The stream or its group is gone: make the group again, from the beginning."""


class Client:
    """One connection pool and the scripts of a partition; safe to use from one thread at a time."""

    def __init__(self, url: str, topology: Topology, client_name: str = "bargeline") -> None:
        self.url = url
        self.topology = topology
        self._keys = topology.script_keys()
        self.redis: redis.Redis = connect(url, client_name)
        self._connection: Any = None
        self._used_at = float("-inf")

    def call(self, *command: Any) -> Any:
        """Run one command; raises TransientError, GroupMissing or ConfigurationError."""
        with translated(self.url):
            return self._execute(command)

    def script(self, name: str, *arguments: Any) -> Any:
        """Run one of the scripts in ``lua/`` on the keys of the partition."""
        command = ("EVALSHA", digest(name), len(self._keys), *self._keys, *arguments)
        with translated(self.url):
            try:
                return self._execute(command)
            except redis.exceptions.NoScriptError:
                self._execute(("SCRIPT", "LOAD", source(name)))
                return self._execute(command)

    def _execute(self, command: Sequence[Any]) -> Any:
        """Send a command and read its reply, on a connection that is kept.

        Taking it from the pool each time, and what redis-py does around a command, took 100 µs: half of a short call.
        Its packing looks at each word for types that there are none of here: another 25 µs.
        """
        now = time.monotonic()
        if now - self._used_at > _IDLE_SECONDS:
            self._check_connection()
        self._used_at = now
        self._connection.send_packed_command([hiredis.pack_command(tuple(command))])
        return self._connection.read_response()

    def _check_connection(self) -> None:
        """The pool looks whether the server has closed it meanwhile."""
        pool = self.redis.connection_pool
        if self._connection is not None:
            rested, self._connection = self._connection, None
            pool.release(rested)
        self._connection = pool.get_connection()

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()


@cache
def source(name: str) -> str:
    """Text of a script, with the prelude before it."""
    return (_LUA / "prelude.lua").read_text() + (_LUA / f"{name}.lua").read_text()


@cache
def digest(name: str) -> str:
    """What the server knows a script by."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def connect(url: str, client_name: str = "bargeline", variable: str = "REDIS_URL") -> redis.Redis:
    """A redis-py client with our time-outs; nothing is sent yet. ``variable`` named the server."""
    if url.partition("://")[0] not in _SCHEMES:
        raise ConfigurationError(
            f"{variable}={without_password(url)}: it has to begin with redis://, rediss:// or unix://."
        )
    if is_ambiguous(url):
        raise ConfigurationError(f"{variable}={without_password(url)}: it cannot be read. {ESCAPE_HINT}")
    try:
        client: redis.Redis = redis.Redis.from_url(
            url,
            protocol=2,
            # The server takes no other characters, and a consumer may be called what it likes.
            client_name="".join(one if "!" <= one <= "~" else "-" for one in client_name),
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
            health_check_interval=30,
            # redis-py retries ten times by default; our own loop does that, visibly and with jitter.
            retry=Retry(NoBackoff(), 0),
        )
        # A parameter that it does not know shows only when a connection is made.
        client.connection_pool.make_connection()
    except (ValueError, TypeError):
        # The text of the error would quote the part that is wrong, such as the password.
        raise ConfigurationError(f"{variable}={without_password(url)}: it cannot be read. {ESCAPE_HINT}") from None
    # Replies as the server sends them: redis-py's parsing differs between a command and a transaction,
    # and costs more than reading an entry.
    client.response_callbacks.clear()
    return client


def pairs(reply: list[Any] | None) -> dict[bytes, Any]:
    """A flat list of names and values as a dict."""
    return dict(zip(reply[::2], reply[1::2], strict=True)) if reply else {}


def info(client: "Client", section: str) -> dict[str, str]:
    """One section of INFO."""
    lines = client.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn errors of redis-py into ours."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise ConfigurationError(
            f"Redis at {without_password(url)} refuses the user or password, or the user lacks a right: {error}."
        ) from error
    except _TRANSIENT as error:
        if _is_certificate(url, error):
            raise ConfigurationError(
                f"REDIS_URL={without_password(url)}: TLS fails: {error} ssl_ca_certs has to name a file with the CA "
                "that issued the server's certificate, the host has to be one of its names, and ssl_certfile and "
                "ssl_keyfile are needed where the server asks for a client certificate."
            ) from error
        raise TransientError(f"Redis at {without_password(url)}: {error}") from error
    except redis.ResponseError as error:
        raise _response_error(url, error) from error


def _is_certificate(url: str, error: BaseException) -> bool:
    """Whether TLS failed for a reason that waiting does not heal."""
    cause = error.__cause__ or error.__context__
    if not url.startswith("rediss://") or cause is None:
        return False
    if isinstance(cause, ssl.SSLError):
        return isinstance(cause, ssl.SSLCertVerificationError) or cause.library in ("PEM", "X509")
    return isinstance(cause, FileNotFoundError | PermissionError)


def _response_error(url: str, error: redis.ResponseError) -> Exception:
    text = str(error)
    if "NOGROUP" in text or "no such key" in text:
        return GroupMissing(f"Redis at {without_password(url)}: {text}")
    if text.startswith(_TRANSIENT_CODES) or any(f"-{code}" in text for code in _TRANSIENT_CODES):
        return TransientError(f"Redis at {without_password(url)}: {text}")
    if text.startswith("WRONGTYPE") or "WRONGTYPE" in text:
        return ConfigurationError(
            f"Redis at {without_password(url)}: a key of this pipeline holds something else ({text}). "
            "Another program uses the same name; choose another pipeline name or database number."
        )
    return BargelineError(f"Redis at {without_password(url)}: {text}")


def check_server(client: Client) -> str:
    """Check that the server is new enough; returns its name and version.

    Redis ≥ 7.0 or Valkey ≥ 7.2: older servers lack commands that the scripts need.
    """
    found = info(client, "server")
    valkey = found.get("valkey_version")
    name, version = ("Valkey", valkey) if valkey else ("Redis", found["redis_version"])
    if tuple(map(int, version.split(".")[:2])) < (7, 0):
        raise ConfigurationError(
            f"{name} {version} at {without_password(client.url)} is too old: Redis 7.0 or Valkey 7.2 is needed."
        )
    return f"{name} {version}"


def ensure_group(client: Client, stage: str, group: str) -> bool:
    """Make the group at 0, never at `$`, unless it is there; True if it was made.

    Starting at 0 is harmless: settled entries are in no `open` hash, so a second delivery is dropped.
    """
    if _has_group(client, stage, group):
        return False
    try:
        client.call("XGROUP", "CREATE", client.topology.stream(stage), group, "0", "MKSTREAM")
    except BargelineError as error:
        if "BUSYGROUP" in str(error):
            return False
        raise
    return True


def _has_group(client: Client, stage: str, group: str) -> bool:
    """Asked first: at maxmemory XGROUP CREATE is refused even where there is nothing to make."""
    try:
        found = client.call("XINFO", "GROUPS", client.topology.stream(stage))
    except GroupMissing:
        return False
    return any(pairs(one)[b"name"] == group.encode() for one in found)
