"""Ports of the loopback address, chosen once and remembered."""

import random
import socket

import psutil

from shared.errors import Refused

LOOPBACK = "127.0.0.1"
#: Below the ephemeral ports of Linux and macOS, so that no outgoing connection takes a remembered
#: port while its server is down.
CHOICES = range(20_000, 32_000)


def choose_port(taken: set[int | None]) -> int:
    """A port that nobody listens on now."""
    for port in random.sample(CHOICES, 200):
        if port not in taken and is_free(port):
            return port
    raise Refused(f"No free port was found between {CHOICES.start} and {CHOICES.stop} on {LOOPBACK}.")


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        # As the servers do: connections of a predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on ``port``, as far as the system tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return "another process"
    return "another process"
