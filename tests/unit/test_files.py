"""Files: every format is read the same, and reading goes on where it was, or starts over on another file."""

import contextlib
import errno
import gzip
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import structlog
import zstandard

from shared.attributes import Attributes
from shared.pipeline import IngestSection
from shared.run import Runtime
from shared.settings import load_settings
from shared.streams import Added, Stale
from tests.folders import open_folder
from workers.ingest import files, sender, whole
from workers.ingest.files import Checkpoint, FileReader, decode_checkpoint, find_files
from workers.ingest.lines import EventMaker
from workers.ingest.sender import StaleSource
from workers.ingest.source import Carrier


class Killed(BaseException):
    """The process ends here."""


class Stream:
    """Stands for Redis' script ADD: what was added, and the checkpoint; can end the process at any call."""

    def __init__(self) -> None:
        self.checkpoint = ""
        self.ids: list[str] = []
        self.dead = 0
        self.calls = 0
        self.kill_before: int | None = None
        self.kill_after: int | None = None

    def add(self, _client: object, **given: Any) -> Added | Stale:
        self.calls += 1
        if self.calls == self.kill_before:
            raise Killed
        if given["expected"] != self.checkpoint:
            return Stale(self.checkpoint)
        body = given["fields"][7]
        self.ids += [msgspec.json.decode(line)["id"] for line in body.splitlines()]
        assert body.count(b"\n") == given["events"]
        self.dead += len(given["dead"])
        self.checkpoint = given["new"]
        if self.calls == self.kill_after:
            raise Killed
        return Added("1-0", given["events"])


class Surroundings(SimpleNamespace):
    """Stands for the runtime."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def _nothing(*_arguments: object) -> None:
    """Stands for what a test does not look at."""


def _carry(stream: Stream, path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> bool:
    """Carry a file from its checkpoint to its end; True if its checkpoint fitted."""
    monkeypatch.setattr(sender, "add", stream.add)
    monkeypatch.setattr(sender, "wait_for_memory", _nothing)
    given = {f"INGEST_{name.upper()}": str(value) for name, value in settings.items()}
    runtime = cast(
        "Runtime",
        Surroundings(
            settings=load_settings(given),
            pipeline=SimpleNamespace(file=SimpleNamespace(pipeline=SimpleNamespace(high_water_events=1))),
            client=None,
            beat=_nothing,
            check_stop=_nothing,
            until_accepted=lambda operation, _on_hold=None: operation(),
            metrics=SimpleNamespace(events=_nothing),
        ),
    )
    reader = FileReader(path)
    try:
        start = decode_checkpoint(stream.checkpoint)
        fits = not start.offset or reader.resume(start)
        maker = EventMaker("s", Attributes(IngestSection(), "p"), "in-1")
        carrier = Carrier(runtime, "s", maker, stream.checkpoint)
        carrier.carry(reader, start if fits else Checkpoint(), take_rest=True)
        return fits
    finally:
        reader.close()


def _write_plain(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write_gzip(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def _write_gzip_members(path: Path, content: bytes) -> None:
    third = len(content) // 3
    path.write_bytes(b"".join(map(gzip.compress, (content[:third], content[third : 2 * third], content[2 * third :]))))


def _write_zstd(path: Path, content: bytes) -> None:
    path.write_bytes(zstandard.compress(content))


def _write_zstd_frames(path: Path, content: bytes) -> None:
    third = len(content) // 3
    pieces = (content[:third], content[third : 2 * third], content[2 * third :])
    path.write_bytes(b"".join(map(zstandard.compress, pieces)))


Write = Callable[[Path, bytes], None]
FORMATS = [_write_plain, _write_gzip, _write_gzip_members, _write_zstd, _write_zstd_frames]
CONTENT = b"".join(b'{"n":%d,"text":"%s"}\r\n\n' % (n, b"x" * (n % 700)) for n in range(40)) + b'broken\n{"last":true}'

VARIED = b"".join(b'{"text":"%s"}\n' % random.Random(n).randbytes(200).hex().encode() for n in range(1_000))


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = tmp_path / "plain"
    path.write_bytes(CONTENT)
    stream = Stream()
    _carry(stream, path, monkeypatch, batch_events=4)
    assert (len(set(stream.ids)), stream.dead) == (41, 1)
    assert stream.ids == sorted(stream.ids)
    return stream.ids


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_is_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str], write: Write
) -> None:
    write(tmp_path / "f", CONTENT)
    stream = Stream()
    _carry(stream, tmp_path / "f", monkeypatch)
    assert (stream.ids, stream.dead) == (expected, 1)


@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
@pytest.mark.parametrize("write", FORMATS)
def test_killed_at_any_batch_it_goes_on_without_loss_or_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[str], write: Write, moment: str
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 777)
    write(tmp_path / "f", CONTENT)
    kills = 0
    for call in range(1, 100):
        stream = Stream()
        setattr(stream, moment, call)
        try:
            _carry(stream, tmp_path / "f", monkeypatch, batch_events=4)
        except Killed:
            kills += 1
            assert _carry(stream, tmp_path / "f", monkeypatch, batch_events=4)
        assert (stream.ids, stream.dead) == (expected, 1)
        if stream.calls < call:
            break
    assert kills >= 11


@pytest.mark.parametrize("write", FORMATS)
def test_a_grown_file_is_read_from_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    stream = Stream()
    write(tmp_path / "f", CONTENT + b"\n")
    _carry(stream, tmp_path / "f", monkeypatch)
    write(tmp_path / "f", CONTENT + b'\n{"new":1}\n{"new":2}\n')
    assert _carry(stream, tmp_path / "f", monkeypatch)
    assert (len(stream.ids), len(set(stream.ids)), stream.dead) == (43, 43, 1)


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    "other",
    [
        CONTENT.replace(b'"n":0', b'"m":0'),
        CONTENT.replace(b'"last"', b'"lost"'),
        CONTENT[:-100],
        CONTENT[: len(CONTENT) // 2],
        b'{"quite":"other"}\n' * 2_000,
        b"",
    ],
)
def test_another_file_of_the_same_name_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, other: bytes
) -> None:
    stream, fresh = Stream(), Stream()
    write(tmp_path / "f", CONTENT)
    _carry(stream, tmp_path / "f", monkeypatch)
    (tmp_path / "f").unlink()
    write(tmp_path / "f", other)
    before = len(stream.ids)
    assert not _carry(stream, tmp_path / "f", monkeypatch)
    _carry(fresh, tmp_path / "f", monkeypatch)
    assert stream.ids[before:] == fresh.ids
    assert len(fresh.ids) + fresh.dead == len([line for line in other.splitlines() if line])


def test_a_checkpoint_of_a_big_plain_file_is_sought_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"n":1}\n' * 100_000)
    with contextlib.closing(FileReader(path)) as reader:
        reader.consumed(path.read_bytes()[:400_000])
        checkpoint = Checkpoint(400_000, 50_000, reader.fingerprint())
    read: list[bytes] = []
    advance = FileReader._advance

    def note(reader: FileReader, block: bytes) -> None:
        read.append(block)
        advance(reader, block)

    monkeypatch.setattr(FileReader, "_advance", note)
    with contextlib.closing(FileReader(path)) as reader:
        assert reader.resume(checkpoint)
        assert reader.offset == 400_000
        assert sum(map(len, read)) <= 2_048
        assert sum(map(len, reader.blocks())) == 400_000


def test_two_processes_on_one_file_do_not_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    path = tmp_path / "f"
    path.write_bytes(b'{"n":1}\n' * 20)

    def add_after_another(client: object, **given: Any) -> Added | Stale:
        if stream.calls == 3:
            stream.checkpoint = Checkpoint(999).encode()
        return stream.add(client, **given)

    racing = SimpleNamespace(add=add_after_another, checkpoint="", ids=stream.ids)
    with pytest.raises(StaleSource, match="s: its checkpoint moved"):
        _carry(cast("Stream", racing), path, monkeypatch, batch_events=2)
    assert len(stream.ids) == 6


def test_a_lost_reply_is_no_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    path = tmp_path / "f"
    path.write_bytes(b'{"n":1}\n' * 6)

    def add_twice(client: object, **given: Any) -> Added | Stale:
        stream.add(client, **given)
        return stream.add(client, **given)

    _carry(cast("Stream", SimpleNamespace(add=add_twice, checkpoint="")), path, monkeypatch, batch_events=2)
    assert len(set(stream.ids)) == len(stream.ids) == 6


def test_an_empty_file_is_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()
    stream = Stream()
    assert _carry(stream, tmp_path / "f", monkeypatch)
    assert stream.calls == 0


def test_binary_garbage_is_dead_lettered_to_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage = b"\n".join(bytes([n, 255 - n, n, 0]) * 300 for n in range(11, 200) if n not in (10, 245))
    (tmp_path / "f").write_bytes(garbage)
    stream = Stream()
    _carry(stream, tmp_path / "f", monkeypatch)
    assert stream.ids == []
    assert stream.dead == len([part for part in garbage.split(b"\n") if part.strip()])


def test_a_line_of_10_mb_is_one_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b'{"a":1}\n{"a":"%s"}\n{"a":2}\n' % (b"x" * 10_000_000))
    stream = Stream()
    _carry(stream, tmp_path / "f", monkeypatch)
    assert (len(stream.ids), stream.dead, stream.calls) == (3, 0, 3)


def test_a_line_that_is_too_long_costs_itself_and_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b'{"a":1}\n{"a":"%s"}\n{"a":2}\n' % (b"x" * 10_000_000))
    stream = Stream()
    _carry(stream, tmp_path / "f", monkeypatch, max_event_bytes=100_000)
    assert (len(stream.ids), stream.dead) == (2, 1)
    assert decode_checkpoint(stream.checkpoint).lines == 3


@pytest.mark.parametrize(
    "damaged",
    [
        gzip.compress(VARIED)[:-20],
        zstandard.compress(VARIED)[:-20],
        zstandard.compress(CONTENT) + zstandard.compress(CONTENT)[:-20],
        gzip.compress(CONTENT) + b"garbage",
        zstandard.compress(CONTENT) + b"garbage",
    ],
    ids=["gzip cut off", "zstd cut off", "second frame cut off", "garbage after gzip", "garbage after zstd"],
)
def test_a_damaged_file_raises_and_what_came_before_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    (tmp_path / "f").write_bytes(damaged)
    stream = Stream()
    with pytest.raises((EOFError, zlib.error, zstandard.ZstdError)):
        _carry(stream, tmp_path / "f", monkeypatch)
    assert len(stream.ids) >= 40


def test_a_gzip_file_may_be_padded_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(CONTENT) + bytes(20_000))
    stream = Stream()
    _carry(stream, tmp_path / "f", monkeypatch)
    assert len(stream.ids) == 41


def test_find_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b.ndjson", "a.ndjson", "with space.ndjson", "[x].ndjson", ".hidden.ndjson"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.ndjson").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def found(patterns: str) -> list[str]:
        return [os.fspath(path.relative_to(tmp_path)) for path in find_files(patterns)]

    assert sorted(found("*.ndjson")) == sorted(names[:4])
    assert found("b.ndjson a.ndjson b.ndjson") == ["b.ndjson", "a.ndjson"]
    assert found("with space.ndjson") == ["with space.ndjson"]
    assert found("with space.ndjson\na.ndjson\n") == ["with space.ndjson", "a.ndjson"]
    assert found(f"{tmp_path}/[[]x].ndjson") == ["[x].ndjson"]
    assert found("[x].ndjson") == ["[x].ndjson"]
    assert found("~/a.ndjson") == ["a.ndjson"]
    assert found("nothing*") == []


def test_a_closed_folder_is_named_and_stops_no_search() -> None:
    """As when a folder of one user is mounted into a container that runs as another."""
    script = (
        "import os, sys; from workers.ingest.files import closed_folder, find_files\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "for patterns in sys.argv[1:]: print(find_files(patterns), closed_folder(patterns))"
    )
    with open_folder() as parent:
        closed = parent / "closed"
        closed.mkdir()
        (closed / "a.ndjson").write_text("{}")
        closed.chmod(0)
        patterns = [f"{closed}/*", f"{closed}/a.ndjson", f"{parent}/*.ndjson {parent}/none/*"]
        done = subprocess.run([sys.executable, "-c", script, *patterns], capture_output=True, text=True, check=False)
        closed.chmod(0o700)
    assert (done.stdout, done.stderr) == (f"[] {closed}\n[] {closed}\n[] None\n", "")


def test_a_watched_file_that_may_not_be_opened_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(whole, "FileReader", refuse)
    watched = whole.Files(cast("Runtime", SimpleNamespace(settings=load_settings({}))), str(tmp_path))
    with structlog.testing.capture_logs() as logged:
        for name in ("a", "a", "b"):
            assert not watched._read(tmp_path / name, take_rest=False)
    assert [(one["event"], Path(one["source"]).name) for one in logged] == [("cannot open", "a"), ("cannot open", "b")]
