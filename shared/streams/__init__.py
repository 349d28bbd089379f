"""The stream protocol: the only package that talks to Redis or Valkey."""

from shared.streams.client import (
    BLOCK_MS,
    Client,
    GroupMissing,
    check_server,
    ensure_group,
)
from shared.streams.consumer import Consumer, Loaded, Outcome, Settled, portions, settle, settle_clean, split
from shared.streams.durability import check_durability, confirm
from shared.streams.inspect import checkpoints
from shared.streams.lease import HeldLease, Lease, acquire, live_workers, own_lease
from shared.streams.producer import Added, Full, Stale, add, all_checkpoints, checkpoint, stored_checkpoints

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
    "Settled",
    "Stale",
    "acquire",
    "add",
    "all_checkpoints",
    "check_durability",
    "check_server",
    "checkpoint",
    "checkpoints",
    "confirm",
    "ensure_group",
    "live_workers",
    "own_lease",
    "portions",
    "settle",
    "settle_clean",
    "split",
    "stored_checkpoints",
]
