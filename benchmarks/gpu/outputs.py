"""What comes back: three files under OUT, each whole at any moment, none larger than 16 MiB.

Parts write to a folder of their own beside OUT's; it is packed again and again while they run.
"""

import io
import tarfile
from pathlib import Path

FILE_BYTES = 16 * 2**20
LOG, RESULTS, SUMMARY = "log.txt", "results.tar.gz", "SUMMARY.md"


def replace(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.replace(path)


def cut(text: bytes, limit: int = FILE_BYTES) -> bytes:
    """A text without its middle, if it is longer than ``limit`` bytes."""
    if len(text) <= limit:
        return text
    mark = f"\n[... {len(text) - limit} bytes and more left out here ...]\n".encode()
    half = (limit - len(mark)) // 2
    return text[:half] + mark + text[-half:]


def packed(folder: Path, limit: int = FILE_BYTES) -> tuple[bytes, list[str]]:
    """A folder's files as one .tar.gz, smallest first, and the names of those that would make it too large."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=_size)
    for count in range(len(files), -1, -1):
        archive = _archive(folder, files[:count])
        if len(archive) <= limit:
            return archive, [str(path.relative_to(folder)) for path in files[count:]]
    raise AssertionError("an empty archive is small")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _archive(folder: Path, files: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=4) as archive:
        for path in files:
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # a journal that became a result file
                continue
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
