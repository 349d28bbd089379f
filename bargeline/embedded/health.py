"""Whether an embedded server answers, asked without a client library."""

import socket
import subprocess

from bargeline.embedded.ports import LOOPBACK
from bargeline.embedded.wheels import POSTGRES, installed


def valkey_answers(port: int) -> bool:
    """Whether Valkey has loaded its data and takes commands."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def postgres_answers(port: int) -> bool:
    """Whether PostgreSQL has recovered and takes connections."""
    client = str(installed(POSTGRES).with_name("pg_isready"))
    command = [client, "-q", "-h", LOOPBACK, "-p", str(port), "-t", "2"]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode == 0
