"""What comes back: three files under OUT, each whole at any moment, none larger than 16 MiB.

Parts write to a folder of their own beside OUT's; it is packed again and again while they run, so no packing reads
more than what is new.
"""

import gzip
import tarfile
from pathlib import Path

FILE_BYTES = 16 * 2**20
LOG, RESULTS, SUMMARY = "log.txt", "results.tar.gz", "SUMMARY.md"
_RAW_BYTES = 8 * FILE_BYTES  # a file above it is not even tried: compressing takes seconds of a part's time
_END = gzip.compress(bytes(2 * tarfile.BLOCKSIZE))


def replace(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.replace(path)


def excerpt(path: Path, limit: int = FILE_BYTES) -> bytes:
    """A file without its middle, if it is longer than ``limit`` bytes; the middle is not read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= limit:
            return file.read(size)
        mark = f"\n[... {size - limit} bytes and more left out here ...]\n".encode()
        half = (limit - len(mark)) // 2
        head = file.read(half)
        file.seek(size - half)
        return head + mark + file.read(half)


class Archive:
    """A folder's files as one .tar.gz: each compressed apart, and again only after it changed."""

    def __init__(self, folder: Path, limit: int = FILE_BYTES) -> None:
        """``limit``: bytes that the archive may have."""
        self._folder, self._limit = folder, limit
        self._known: dict[Path, tuple[tuple[int, int], bytes]] = {}

    def packed(self) -> tuple[bytes, list[str]]:
        """The archive, smallest files first, and the names of the files that would make it too large."""
        known: dict[Path, tuple[tuple[int, int], bytes]] = {}
        members, left_out, room = [], [], self._limit - len(_END)
        for size, path, version in sorted(self._files()):
            name = str(path.relative_to(self._folder))
            if size <= _RAW_BYTES:
                try:
                    known[path] = (version, self._member(path, name, version))
                except FileNotFoundError:  # a journal that became a result file
                    continue
                if len(known[path][1]) <= room:
                    members.append(known[path][1])
                    room -= len(members[-1])
                    continue
            left_out.append(name)
        self._known = known
        return b"".join([*members, _END]), left_out

    def _files(self) -> list[tuple[int, Path, tuple[int, int]]]:
        found = []
        for path in self._folder.rglob("*"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found.append((facts.st_size, path, (facts.st_size, facts.st_mtime_ns)))
        return found

    def _member(self, path: Path, name: str, version: tuple[int, int]) -> bytes:
        known = self._known.get(path)
        if known and known[0] == version:
            return known[1]
        content = path.read_bytes()
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(content), version[1] // 10**9
        return gzip.compress(entry.tobuf() + content + bytes(-len(content) % tarfile.BLOCKSIZE), compresslevel=4)
