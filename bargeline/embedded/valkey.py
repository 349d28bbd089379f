"""An embedded Valkey: its data directory and its command line.

It listens on the loopback address only, without a password: every user of this machine can reach it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bargeline.embedded.accounts import Account, give
from bargeline.embedded.ports import LOOPBACK
from bargeline.embedded.stamp import Stamp, check_stamp, write_stamp
from bargeline.embedded.wheels import Program


def prepare_data(data: Path, program: Program, account: Account | None) -> None:
    """Create the data directory, or check that this Valkey can read what is there."""
    stamp = Stamp("Valkey", program.version)
    if data.exists():
        check_stamp(data, stamp, same_major=False)
        return
    partial = data.with_name(f".{data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_stamp(partial, stamp)
    give(account, partial)
    partial.rename(data)


def command(program: Program, data: Path, port: int, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The server's command line; ``extra`` options come last and win."""
    return (
        str(program.path),
        *("--bind", LOOPBACK, "--port", str(port), "--dir", str(data), "--daemonize", "no", "--logfile", ""),
        # Streams must survive a crash and must never be evicted.
        *(
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ),
        # The title would replace the command line by which an orphan is recognised.
        *("--set-proc-title", "no"),
        *extra,
    )


def url(port: int) -> str:
    """The URL for redis-py."""
    return f"redis://{LOOPBACK}:{port}/0"
