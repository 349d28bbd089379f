"""Following files as a real process: growth, rotation by renaming and by truncation, kills; each line once."""

import contextlib
import gzip
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.generate import write_clicks
from tests.integration.stored import Start, Stored, starting
from tests.wait import until
from tests.workers import Worker

QUICK: dict[str, Any] = {"INGEST_WATCH_SECONDS": 0.05, "INGEST_ROTATE_SECONDS": 0.2, "INGEST_FOLLOW": "true"}


@pytest.fixture
def start(redis_url: str, pipeline_name: str, tmp_path: Path) -> Iterator[Start]:
    with starting(redis_url, tmp_path / "pipeline", pipeline_name) as begin:

        def follow(path: object = None, *, input_: Path | None = None, **env: Any) -> Worker:
            return begin(path, input_=input_, **(QUICK | env))

        yield follow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _line(number: int) -> str:
    return f'{{"n":{number}}}\n'


def _until_read(stored: Stored, count: int) -> None:
    until(lambda: stored.counter("accepted") >= count, what=f"{count} lines to be read")


def _until_done(stored: Stored, count: int) -> None:
    until(lambda: sum(one["done"] for one in stored.checkpoints().values()) == count, what="the files to be finished")


def _kill(worker: Worker) -> None:
    worker.kill(signal.SIGKILL)
    worker.wait()


def test_lines_go_when_they_are_complete_and_a_half_line_waits(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    _append(path, _line(1) + '{"n":')
    os.utime(path, (1_000_000_000, 1_000_000_000))  # a watched file would be taken as complete
    worker = start(path).until_started()
    _until_read(stored, 1)
    _append(path, "2}")
    later = folder / "app.log.2"
    _append(path, f"\n{_line(3)}" + '{"half')
    _until_read(stored, 3)
    assert not later.exists()
    assert worker.stop() == 0
    assert stored.numbers() == [1, 2, 3]
    assert not stored.dead()
    worker = start(path).until_started()
    _append(path, '":"line","n":4}\n')
    _until_read(stored, 4)
    assert worker.stop() == 0
    assert stored.numbers() == [1, 2, 3, 4]
    (name,) = stored.checkpoints()
    assert {event["source"] for event in stored.events()} == {name} == {f"{path}#{path.stat().st_ino:x}"}


@pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
def test_rotation_by_renaming_reads_the_old_file_to_its_end(
    folder: Path, stored: Stored, start: Start, pattern: str
) -> None:
    path, old = folder / "app.log", folder / "app.log.1"
    _append(path, _line(1))
    worker = start(folder / pattern).until_started()
    _until_read(stored, 1)
    path.rename(old)
    _append(path, _line(2))
    _until_read(stored, 2)
    _append(old, _line(3) + '{"n":4}')  # whoever wrote has not turned to the new file yet
    _until_read(stored, 4)
    _until_done(stored, 1)
    assert worker.alive
    assert stored.numbers() == [1, 2, 3, 4]
    assert len(stored.ids()) == 4
    assert len(stored.checkpoints()) == 2


@pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
def test_a_file_renamed_while_the_process_was_down_goes_on(
    folder: Path, stored: Stored, start: Start, pattern: str
) -> None:
    path, old = folder / "app.log", folder / "app.log.1"
    _append(path, _line(1))
    worker = start(folder / pattern).until_started()
    _until_read(stored, 1)
    _kill(worker)
    _append(path, _line(2) + '{"n":3}')
    path.rename(old)
    shutil.copy(old, folder / "other")  # has its content, is not it
    _append(path, _line(4))
    start(folder / pattern).until_started()
    _until_read(stored, 4)
    _until_done(stored, 1)
    assert stored.numbers() == [1, 2, 3, 4]
    assert not stored.dead()


def test_a_deleted_file_is_read_to_its_end(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    with path.open("w") as file:
        file.write(_line(1))
        file.flush()
        start(path).until_started()
        _until_read(stored, 1)
        path.unlink()
        file.write(_line(2) + '{"n":3}')
    _until_read(stored, 3)
    _until_done(stored, 1)
    assert stored.numbers() == [1, 2, 3]


def test_truncation_makes_a_new_generation(folder: Path, stored: Stored, start: Start) -> None:
    """The same bytes at the same place are other events after a truncation, whichever generation had them before."""
    path = folder / "app.log"
    worker = start(path).until_started()
    for first, zeros, count in [(1, 4, 5), (2, 3, 9), (1, 2, 12), (1, 1, 14)]:
        path.write_text(_line(first) + _line(0) * zeros)  # opening for writing truncates
        _until_read(stored, count)
    path.write_text(_line(9) + _line(0) * 100)  # longer than what it replaces
    _until_read(stored, 115)
    _kill(worker)
    path.write_text(_line(8))  # while nobody looks
    start(path).until_started()
    _until_read(stored, 116)
    events = stored.events()
    assert len(events) == len(stored.ids()) == 116
    assert stored.numbers() == sorted([1, 2, 1, 1, 9, 8] + [0] * 110)
    (name,) = stored.checkpoints()
    assert {event["source"] for event in events} == {name}


def test_an_unfinished_line_before_a_truncation_is_not_dropped(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    _append(path, _line(1) + '{"half')
    start(path).until_started()
    until(lambda: (stored.checkpoint(f"{path}#{path.stat().st_ino:x}") or {}).get("read") == 14, what="the half line")
    path.write_text(_line(2))
    _until_read(stored, 3)
    assert stored.numbers() == [1, 2]
    assert [letter["bytes"] for letter in stored.dead()] == [b'{"half']


def test_an_inode_used_again_is_another_file(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    _append(path, _line(1) + _line(2))
    worker = start(path).until_started()
    _until_read(stored, 2)
    assert worker.stop() == 0
    inode = path.stat().st_ino
    os.truncate(path, 0)  # the file system may give the inode out again, but cannot be asked to
    path.rename(folder / "new.log")
    _append(folder / "new.log", _line(3) + _line(2))
    start(folder / "new.log").until_started()
    _until_read(stored, 4)
    assert (folder / "new.log").stat().st_ino == inode
    assert len(stored.ids()) == 4
    assert stored.numbers() == [1, 2, 2, 3]


def test_a_short_file_is_known_again_after_it_grew(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    for number in range(3):
        _append(path, _line(number) + _line(number + 1) * 100 * number)
        worker = start(path).until_started()
        _until_read(stored, number + 1 + 50 * number * (number + 1))
        _kill(worker)
    assert len(stored.events()) == len(stored.ids()) == 303
    assert len(stored.checkpoints()) == 1


def test_links_to_one_file_are_one_file(folder: Path, stored: Stored, start: Start) -> None:
    target, second = folder / "0.data", folder / "1.data"
    link, other = folder / "a.log", folder / "b.log"
    _append(target, _line(1))
    link.symlink_to(target)
    other.hardlink_to(target)
    (folder / "c.log").symlink_to(folder / "nowhere")
    start(folder / "*.log").until_started()
    _until_read(stored, 1)
    _append(target, _line(2))
    _until_read(stored, 2)
    other.unlink()
    _append(second, _line(4))
    link.unlink()
    link.symlink_to(second)  # rotation by a link that shows another file
    _append(target, _line(3))
    _until_read(stored, 4)
    _until_done(stored, 1)
    assert stored.numbers() == [1, 2, 3, 4]


def test_files_appear_and_a_busy_one_does_not_keep_others_waiting(folder: Path, stored: Stored, start: Start) -> None:
    busy = folder / "busy.log"
    write_clicks(busy, seed=1, count=100_000)
    stored.leave_room(100)
    worker = start(folder / "*.log", INGEST_BATCH_EVENTS=50).until_started()
    until(lambda: worker.records(action="pressure"), what="it to be busy")
    for number in range(40):
        _append(folder / f"{number}.log", _line(number))
    # Too little for the busy file: read to its end first, it would keep the others out.
    stored.leave_room(50_000)
    until(lambda: len(stored.checkpoints()) == 41, what="a line of every file")
    assert stored.counter("accepted") < 100_000, "the busy file was read to its end first"
    assert worker.stop() == 0


def test_two_processes_follow_one_file_and_one_takes_over(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    both = [start(path) for _ in range(2)]
    for worker in both:
        worker.until_started()
    for number in range(300):
        _append(path, _line(number))
    _until_read(stored, 300)
    _kill(both[0])
    _append(path, _line(300))
    path.rename(folder / "app.log.1")
    _append(path, _line(301))
    _until_read(stored, 302)
    assert stored.numbers() == list(range(302))


def test_compressed_files_are_read_once_and_whole(folder: Path, stored: Stored, start: Start) -> None:
    packed = gzip.compress("".join(map(_line, range(1_000))).encode())
    (folder / "old.1.gz").write_bytes(packed[:-20])
    worker = start(folder / "*.gz*").until_started()
    with (folder / "old.1.gz").open("ab") as file:
        file.write(packed[-20:])
    _until_done(stored, 1)
    (folder / "old.1.gz").rename(folder / "old.2.gz")
    _kill(worker)
    start(folder / "*.gz*").until_started()
    (folder / "new.gz").write_bytes(gzip.compress(_line(1_000).encode()))
    _until_done(stored, 2)
    assert stored.numbers() == list(range(1_001))


def test_latest_skips_what_was_there_and_only_that(folder: Path, stored: Stored, start: Start) -> None:
    path = folder / "app.log"
    _append(path, _line(1) + _line(2) + '{"n":')
    worker = start(folder / "*.log", INGEST_START="latest").until_started()
    until(stored.checkpoints, what="the place to be kept")
    _append(path, "3}\n")
    _until_read(stored, 1)
    _kill(worker)
    _append(path, _line(4))
    start(folder / "*.log", INGEST_START="latest").until_started()
    _until_read(stored, 2)
    _append(folder / "new.log", _line(5))
    _until_read(stored, 3)
    assert stored.numbers() == [3, 4, 5]


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"INGEST_SOURCE": "stdin"}, "INGEST_FOLLOW=true follows files, but INGEST_SOURCE=stdin"),
        ({"INGEST_WATCH": "true"}, "INGEST_FOLLOW=true and INGEST_WATCH=true are both set"),
        ({"INGEST_START": "latest", "INGEST_FOLLOW": "false"}, "INGEST_START=latest needs INGEST_FOLLOW=true"),
    ],
)
def test_contradictions_are_refused(start: Start, folder: Path, env: dict[str, Any], text: str) -> None:
    worker = start(folder, **env)
    assert worker.wait() == 2
    assert text in worker.log_text()


class Writer:
    """Appends lines in pieces of any size to a file, and rotates it in both ways."""

    def __init__(self, path: Path, stored: Stored, seed: int) -> None:
        self.path = path
        self.lines = 0
        self._stored = stored
        self._random = random.Random(seed)
        self._rotations = 0
        self._file = path.open("a")
        self._text = ""

    def close(self) -> None:
        self._file.close()

    def write(self) -> None:
        """Some pieces; the last may end in the middle of a line."""
        for _ in range(self._random.randrange(1, 30)):
            while len(self._text) < 200:
                self._text += f'{{"n":{self.lines},"x":"{"x" * self._random.randrange(30)}"}}\n'
                self.lines += 1
            size = self._random.randrange(1, 200)
            self._put(self._text[:size])
            self._text = self._text[size:]

    def _put(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def finish_line(self) -> None:
        self._put(self._text)
        self._text = ""

    def rename(self) -> None:
        """A line may be left without its newline; the rest goes to the old file, which is renamed already."""
        self._rotations += 1
        self.path.rename(self.path.with_name(f"app.log.{self._rotations}"))
        self.finish_line()
        self._file.close()
        self._file = self.path.open("a")

    def truncate(self) -> None:
        """Copy and truncate, as logrotate's copytruncate does.

        What is written and truncated before anybody has read it is gone by nature: so the reader catches up first.
        """
        self.finish_line()
        _until_read(self._stored, self.lines)
        self._rotations += 1
        shutil.copy(self.path, self.path.with_name(f"copy.{self._rotations}"))
        os.truncate(self.path, 0)


@pytest.mark.parametrize("seed", [1])
def test_under_rotation_and_kills_every_line_arrives_once(
    folder: Path, stored: Stored, start: Start, seed: int
) -> None:
    with contextlib.closing(Writer(folder / "app.log", stored, seed)) as writer:
        _write_rotate_and_kill(writer, folder, stored, start, seed)


def _write_rotate_and_kill(writer: Writer, folder: Path, stored: Stored, start: Start, seed: int) -> None:
    choose = random.Random(seed)
    given: dict[str, Any] = {"CONSUMER_NAME": "ingest", "INGEST_BATCH_EVENTS": 20}
    # With the rotated names in it: a file that came and went while the process was down is known by its name only.
    pattern = folder / "app.log*"
    worker = start(pattern, **given).until_started()
    for step in ["rename", "truncate", "kill"] * 3:
        writer.write()
        if step == "kill":
            if choose.random() < 0.7:  # killed while it reads, more or less
                _until_read(stored, writer.lines // 2)
            _kill(worker)
            writer.write()
            if choose.random() < 0.7:
                writer.rename()
                writer.write()
            worker = start(pattern, **given)
        else:
            getattr(writer, step)()
    writer.finish_line()
    _until_read(stored, writer.lines)
    assert stored.numbers() == list(range(writer.lines))
    assert len(stored.ids()) == writer.lines
    assert not stored.dead()
    assert worker.until_started().stop() == 0
