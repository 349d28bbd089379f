"""The stream protocol: the only package that talks to Redis or Valkey."""

from shared.streams.client import (
    BLOCK_MS,
    Client,
    GroupMissing,
    check_server,
    ensure_group,
)
from shared.streams.consumer import Consumer, Loaded, Outcome, settle, settle_clean, split
from shared.streams.inspect import checkpoints
from shared.streams.lease import HeldLease, Lease, acquire, live_workers, own_lease
from shared.streams.producer import Added, Full, Stale, add, checkpoint

__all__ = [
    "BLOCK_MS",
    "Added",
    "Client",
    "Consumer",
    "Full",
    "GroupMissing",
    "HeldLease",
    "Lease",
    "Loaded",
    "Outcome",
    "Stale",
    "acquire",
    "add",
    "check_server",
    "checkpoint",
    "checkpoints",
    "ensure_group",
    "live_workers",
    "own_lease",
    "settle",
    "settle_clean",
    "split",
]
