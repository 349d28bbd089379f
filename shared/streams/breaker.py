"""The dead-letter breaker of a stage, kept in Redis: every worker of the stage stops, a new one too."""

from shared.streams.client import Client


def open_breaker(client: Client, stage: str, why: str) -> bool:
    """Stop a stage; False if it had stopped."""
    return bool(client.script("breaker", stage, why) == 1)


def open_because(client: Client, stage: str) -> str | None:
    """Why a stage stopped, or None."""
    found = client.call("HGET", client.topology.breaker, stage)
    return found.decode() if found else None


def close_breaker(client: Client, stage: str) -> str | None:
    """Let a stage go on; returns why it had stopped, None where it had not."""
    why = open_because(client, stage)
    client.call("HDEL", client.topology.breaker, stage)
    return why
