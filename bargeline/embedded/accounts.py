"""Which account the servers run as, and which folders it can reach.

PostgreSQL refuses to run as root, so root hands both servers to an ordinary account. That account
cannot traverse a folder like /root: what it cannot reach is kept elsewhere.
"""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from shared.errors import ConfigurationError

PLAIN_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True)
class Account:
    """An ordinary account that a process of root's is handed to."""

    name: str
    uid: int
    gid: int


def server_account(*data: Path) -> Account | None:
    """The account for servers with their data in these directories; None is the caller's own.

    Root takes the owner of existing data, else ``nobody``.
    """
    if os.geteuid() != 0:
        return None
    owner = next((directory.stat().st_uid for directory in data if directory.exists()), 0)
    try:
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and there is no account {owner or 'nobody'} to run it as. Run "
            "bargeline as an ordinary user, or set REDIS_URL and DATABASE_URL to servers of your own."
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def run_as(
    account: Account | None,
    command: Sequence[str | Path],
    *,
    stdin: str = "",
    environment: Mapping[str, str] = PLAIN_ENVIRONMENT,
) -> subprocess.CompletedProcess[str]:
    """Run a short command as ``account``, with its output captured; raises OSError if it cannot start."""
    # The caller's folder may be closed to the account, and initdb insists on knowing where it is.
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        env=dict(environment),
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        **identity(account),
    )


class Identity(TypedDict, total=False):
    """Keyword arguments of Popen."""

    user: int
    group: int
    extra_groups: Sequence[int]


def identity(account: Account | None) -> Identity:
    """Keyword arguments of Popen that hand a process to ``account``."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def reaches(account: Account | None, folder: Path) -> bool:
    """Whether the account can go into ``folder``."""
    return run_as(account, ["test", "-x", folder]).returncode == 0


def require_owner(account: Account | None, data: Path) -> None:
    """Refuse existing data that belongs to another account than the one its server will run as."""
    if data.exists() and data.stat().st_uid != (account.uid if account else os.geteuid()):
        raise ConfigurationError(
            f"{data} belongs to another user ({data.owner()}), who started a fleet there first. "
            "Run bargeline as root or as that user, or set BARGELINE_VAR to a folder of your own."
        )


def give(account: Account | None, folder: Path) -> None:
    """Make ``folder`` the account's own, closed to everybody else."""
    folder.chmod(0o700)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
