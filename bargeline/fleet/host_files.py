"""Write the files of a fleet on a host, once what they name was found to be right."""

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bargeline.embedded.state import write_private
from bargeline.fleet.host import PROGRAMS, Host, example, files
from bargeline.fleet.paths import SOCKET_PATH_BYTES, UNREADABLE
from bargeline.fleet.plan import check_counts, refuse_stdin
from shared.errors import ConfigurationError, Refused
from shared.pipeline import load_pipeline
from shared.settings import Settings, load_settings, read_environment_file

Say = Callable[[str], None]
#: Settings that hold a password, or are one.
SECRETS = (
    "REDIS_URL",
    "REDIS_PASSWORD",
    "DATABASE_URL",
    "INGEST_CDC_URL",
    "INGEST_HTTP_TOKENS",
    "INGEST_WEBHOOK_SECRETS",
)


def write_host(host: Host, counts: Mapping[str, int], say: Say, *, overwrite: bool) -> None:
    """Write the files; ``say`` is given one line for each.

    Raises ConfigurationError for what is wrong in the file of settings, with its line, and Refused where another
    file stands already, unless ``overwrite``. The file of settings itself is never overwritten: where there is none,
    an example is written.
    """
    _check_paths(host)
    account = _account(host.user)
    try:
        _write(host, account, counts, say, overwrite=overwrite)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename}: {error.strerror}. Run this as root, or name a folder of yours with --output."
        ) from None


def _write(host: Host, account: pwd.struct_passwd, counts: Mapping[str, int], say: Say, *, overwrite: bool) -> None:
    _make_folders(host, account)
    if not host.env_file.exists() and host.env_file.parent == host.folder:
        _write_example(host, account)
        say(f"wrote {host.env_file}: an example, to be edited")
    settings = _settings(host, account, reads_files=check_counts(counts)["ingest"] > 0)
    texts = {host.folder / name: text for name, text in files(host, counts, settings).items()}
    others = [str(path) for path, text in texts.items() if path.exists() and path.read_text() != text]
    if others and not overwrite:
        raise Refused(f"{', '.join(others)}: there already, and different. --force overwrites them.")
    for path, text in texts.items():
        if path.exists() and path.read_text() == text:
            say(f"{path} is as it has to be")
            continue
        path.write_text(text)
        path.chmod(0o644)  # whatever the umask: supervisord reads it as an ordinary user
        say(f"wrote {path}")
    for path in sorted((host.folder / PROGRAMS).glob("*.ini")):
        if path not in texts:
            say(f"left {path} as it is")


def _check_paths(host: Host) -> None:
    for path in (host.python, host.folder, host.run, host.logs, host.env_file):
        if UNREADABLE.search(str(path)):
            raise ConfigurationError(
                f"{path}: supervisord cannot read a path with quotes, brackets, wildcards, %, or a blank before ; or #."
            )
    if len(os.fsencode(host.socket)) > SOCKET_PATH_BYTES:
        raise ConfigurationError(f"{host.socket}: too long for a socket's path. Name a shorter folder with --run.")


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(
            f"There is no user {user}. Make one (`useradd --system --user-group --no-create-home {user}`), or name "
            "another with --user."
        ) from None


def _write_example(host: Host, account: pwd.struct_passwd) -> None:
    write_private(host.env_file, example(host))
    if os.geteuid() == 0:
        os.chown(host.env_file, 0, account.pw_gid)
        host.env_file.chmod(0o640)


def _settings(host: Host, account: pwd.struct_passwd, *, reads_files: bool) -> Settings:
    """The settings that every worker will find, once they make sense for a fleet."""
    if not host.env_file.parent.is_dir():
        raise ConfigurationError(f"{host.env_file}: there is no such folder.")
    # Where the workers will stand when they read relative paths.
    with contextlib.chdir(host.env_file.parent):
        variables = read_environment_file(host.env_file)
        settings = load_settings(variables)
        _check_secrets(host, account, variables)
        try:
            settings.require_redis_url()
            settings.require_database_url()
            load_pipeline(settings.pipeline)
            refuse_stdin(settings)
            if "CONSUMER_NAME" in variables:
                raise ConfigurationError("CONSUMER_NAME is of one worker: each program's file sets its own.")
            if reads_files and settings.ingest_source == "file" and not settings.ingest_path:
                raise ConfigurationError("INGEST_PATH is not set: name the files to read, or render --ingest 0.")
        except ConfigurationError as error:
            raise ConfigurationError(f"{host.env_file}: {error}") from None
    return settings


def _check_secrets(host: Host, account: pwd.struct_passwd, variables: Mapping[str, str]) -> None:
    for path, secret in _secrets(host, variables):
        mode = path.stat().st_mode
        if secret and mode & 0o004:
            raise ConfigurationError(
                f"{path} holds a password, and everybody may read it: chmod 0640 {path} && chgrp {host.user} {path}"
            )
        if not _may_read(account, path):
            raise ConfigurationError(
                f"{path}: {host.user} may not read it: chgrp {host.user} {path} && chmod 0640 {path}"
            )


def _secrets(host: Host, variables: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Files that workers read, and whether each holds a password."""
    yield host.env_file, any(_has_password(name, variables.get(name, "")) for name in SECRETS)
    for name in SECRETS:
        if file := variables.get(f"{name}_FILE"):
            path = Path(file).absolute()
            yield path, _has_password(name, path.read_text())


def _has_password(name: str, value: str) -> bool:
    return bool(urlsplit(value.strip()).password if name.endswith("_URL") else value)


def _may_read(account: pwd.struct_passwd, path: Path) -> bool:
    found = path.stat()
    if account.pw_uid in (0, found.st_uid):
        return account.pw_uid == 0 or bool(found.st_mode & 0o400)
    in_group = found.st_gid in os.getgrouplist(account.pw_name, account.pw_gid)
    return bool(found.st_mode & (0o040 if in_group else 0o004))


def _make_folders(host: Host, account: pwd.struct_passwd) -> None:
    for folder in (host.folder, host.folder / PROGRAMS):
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)
    for folder in (host.run, host.logs):
        # Others are systemd's, or of whoever chose them.
        if folder.is_relative_to(host.folder) and not folder.exists():
            folder.mkdir(mode=0o750, parents=True)
            if os.geteuid() == 0:
                os.chown(folder, account.pw_uid, account.pw_gid)
