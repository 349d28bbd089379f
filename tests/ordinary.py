"""Running a program as an ordinary user, also where the tests run as root."""

import functools
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nobody", "--clear-groups")
#: Reads everything, like the owner of this Python would; writes nothing, and is not root.
_READER = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")


def as_ordinary_user(
    command: Sequence[str], owns: Path, *, supervised: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody who is not root and who owns the folder ``owns``.

    Skips the test where the tests run as root and no ordinary user can run this Python. With
    ``supervised`` it must be one whom the file modes let run it: supervisord looks at nothing else.
    """
    prefix: Sequence[str] = ()
    if os.geteuid() == 0:
        prefix = _prefix(supervised)
        os.chown(owns, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    return subprocess.run(
        [*prefix, *command],
        env={"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": str(ROOT), **environment},
        cwd=owns,
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def _prefix(supervised: bool) -> Sequence[str]:
    if shutil.which("setpriv") is None:
        pytest.skip("as root this needs setpriv (util-linux) to become an ordinary user")
    group = pwd.getpwnam("nobody").pw_gid
    nobody = [part.replace("--regid=nobody", f"--regid={group}") for part in _NOBODY]
    for prefix in (nobody, *([] if supervised else [[*nobody, *_READER]])):
        # Started by setpriv, a Python that its user cannot reach would take another one's library, or no packages.
        # Where only a capability opens the packages' folder, initdb does not find its own program.
        code = "import os, sys; print(sys.base_prefix, sys.prefix, os.access(sys.prefix, os.X_OK))"
        command = [*prefix, sys.executable, "-c", code]
        answer = subprocess.run(command, check=False, capture_output=True, cwd="/", text=True)
        if answer.stdout.strip() == f"{sys.base_prefix} {sys.prefix} True":
            return prefix
    pytest.skip(f"no ordinary user can run {sys.executable}")
