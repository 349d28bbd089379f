"""A file that somebody still writes to, and the place in it that survives rotation.

What a file is, is told by its inode and by its content before the place (fingerprint of the first and the last
KiB), never by its path. Contents that come one after another under one inode, after a truncation or because the
file system gives an inode out again, are its *generations*.
"""

import hashlib
import os
from pathlib import Path

from workers.ingest import files
from workers.ingest.files import FINGERPRINT_BYTES, Checkpoint, FileReader, Key

#: Generations that a checkpoint remembers by the hash of their first line.
_MOST_HEADS = 64


class Truncated(Exception):
    """The file does not hold any longer what was read of it: it was truncated, and maybe written to since."""


class FollowPoint(Checkpoint, frozen=True):
    """Checkpoint of a followed file: where this generation began (path, real folder, host), and the earlier ones.

    ``heads`` are hashes of the first line of each generation, the present one last; ``forgotten`` counts
    those that are not kept any more.
    """

    path: str = ""
    folder: str = ""
    host: str = ""
    heads: tuple[str, ...] = ()
    forgotten: int = 0

    @property
    def generation(self) -> str:
        """What tells this generation from the others of the inode.

        It is found again from the content alone after Redis lost the checkpoint, unless several began with the
        same line; and it is never one that was there before.
        """
        head = self.heads[-1]
        return f"{self.forgotten}.{head}.{self.heads[:-1].count(head)}"

    def next(self, head: str, path: str, folder: str, host: str) -> "FollowPoint":
        """The beginning of another generation under the same inode."""
        heads = (*self.heads, head)
        return FollowPoint(
            path=path,
            folder=folder,
            host=host,
            heads=heads[-_MOST_HEADS:],
            forgotten=self.forgotten + max(0, len(heads) - _MOST_HEADS),
        )


class GrowingFile(FileReader):
    """One opened file, read as it grows; a compressed one is read like any other file, as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._descriptor = self._file.fileno()
        stat = os.fstat(self._descriptor)
        self.key: Key = (stat.st_dev, stat.st_ino)
        #: Size and modification time when it was last found without anything new.
        self.looked_at = (stat.st_size, stat.st_mtime_ns) if self.compressed else (-1, -1)
        # What was read, consumed or not: to be found again where it was.
        self._seen_head = self._seen_tail = b""

    @property
    def compressed(self) -> bool:
        """Whether its first bytes say that it is compressed."""
        return self._content is not self._file

    def first_line(self, *, ended: bool) -> str | None:
        """Hash of the first line, or of its first KiB; None while it is unfinished, unless the file has ``ended``."""
        self.rewind()
        head = self._content.read(FINGERPRINT_BYTES)
        self.rewind()
        line, newline, _ = head.partition(b"\n")
        if not head or not (newline or ended or len(head) == FINGERPRINT_BYTES or self.compressed):
            return None
        return hashlib.blake2b(line, digest_size=4).hexdigest()

    def go_on(self, checkpoint: Checkpoint) -> bool:
        """Like ``resume``, and set where ``next_block`` reads."""
        fits = self.resume(checkpoint)
        self._set_place()
        return fits

    def start_over(self) -> None:
        """Read from the beginning."""
        self.rewind()
        self._set_place()

    def to_last_line(self) -> int:
        """Go behind the last newline that is there now; returns the offset."""
        end = os.fstat(self._descriptor).st_size
        while end > 0:
            begin = max(0, end - files.BLOCK_BYTES)
            newline = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        self.rewind()
        self._skip(end)
        self._set_place()
        return end

    def _set_place(self) -> None:
        self.end_offset = self.offset
        self._seen_head, self._seen_tail = self._head, self._tail
        if not self.compressed:
            self.looked_at = (-1, -1)

    def next_block(self) -> bytes:
        """What was written since the last one, up to a block. Raises Truncated.

        What was seen before is looked at *after* reading: so the block continues it, or is thrown away.
        """
        if self.compressed:
            block = self._content.read(files.BLOCK_BYTES)
            self.end_offset += len(block)
            return block
        stat = os.fstat(self._descriptor)
        now = (stat.st_size, stat.st_mtime_ns)
        if now == self.looked_at:
            return b""
        self.size = stat.st_size
        block = os.pread(self._descriptor, files.BLOCK_BYTES, self.end_offset)
        if not self._holds_what_was_seen():
            raise Truncated
        if not block:
            self.looked_at = now
        self.end_offset += len(block)
        if len(self._seen_head) < FINGERPRINT_BYTES:
            self._seen_head = (self._seen_head + block)[:FINGERPRINT_BYTES]
        self._seen_tail = (self._seen_tail + block)[-FINGERPRINT_BYTES:]
        return block

    def _holds_what_was_seen(self) -> bool:
        head, tail = self._seen_head, self._seen_tail
        return (
            os.pread(self._descriptor, len(head), 0) == head
            and os.pread(self._descriptor, len(tail), self.end_offset - len(tail)) == tail
        )

    def position(self) -> int:
        """Bytes of the file itself that were read."""
        return super().position() if self.compressed else self.end_offset
