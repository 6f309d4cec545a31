"""A file that is written again stays the file that it was: its link, its mode, its owner; or no file at all."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gate_results import a_file, a_record

from membench import files
from membench.errors import UsageError
from membench.files import check_writable, write_whole
from membench.gate.baselines import FILE_NAME, read_baselines, set_baseline
from membench.results.records import read_result, write_result

SOURCES = Path(files.__file__).parent


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "page.html").write_text("old")
    (tmp_path / "near.html").symlink_to(Path("far") / "page.html")
    (tmp_path / "chain.html").symlink_to(tmp_path / "near.html")
    write_whole(tmp_path / "chain.html", b"new")
    assert (tmp_path / "chain.html").is_symlink()
    assert (tmp_path / "near.html").is_symlink()
    assert (tmp_path / "far" / "page.html").read_text() == "new"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["page.html"]


def test_a_link_to_what_is_not_there_makes_it(tmp_path):
    (tmp_path / "page.html").symlink_to("later.html")
    write_whole(tmp_path / "page.html", b"new")
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "later.html").read_text() == "new"


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", b"new")
    with pytest.raises(UsageError, match=r"--junit: .*symbolic links"):
        check_writable(tmp_path / "a", "--junit")


def test_baselines_through_a_link(tmp_path):
    folder, shared = tmp_path / "results", tmp_path / "shared.yaml"
    folder.mkdir()
    (folder / FILE_NAME).symlink_to(shared)
    write_result(a_file([a_record([0.004])]), folder / "a.json")
    set_baseline(folder / "a.json", read_result(folder / "a.json"), None)
    assert (folder / FILE_NAME).is_symlink()
    assert "a.json" in shared.read_text()
    assert [each.file for each in read_baselines(folder).baselines] == ["a.json"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_mode_and_owner_stay(tmp_path, mode):
    path = tmp_path / "r.json"
    path.write_text("old")
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    path.chmod(mode)
    before = path.stat()
    write_whole(path, b"new")
    after = path.stat()
    assert path.read_text() == "new"
    assert stat.S_IMODE(after.st_mode) == mode
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@pytest.mark.usefixtures("umask")
def test_a_new_file_is_as_the_umask_says(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        os.umask(mask)
        write_whole(tmp_path / f"{mask}.json", b"new")
        assert stat.S_IMODE((tmp_path / f"{mask}.json").stat().st_mode) == mode


@pytest.mark.parametrize("refused", ["open", "replace", "chown"])
def test_where_nothing_can_be_put_in_its_place_it_is_written_in_place(tmp_path, monkeypatch, refused):
    """A folder that is not ours, a file that is mounted by itself, another's file."""
    path = tmp_path / "r.json"
    path.write_text("old, and longer than what comes")
    number = path.stat().st_ino
    really_open = os.open

    def refuse(code):
        def call(*_, **__):
            raise OSError(code, os.strerror(code))

        return call

    def open_old_only(name, flags, *more):
        return refuse(errno.EACCES)() if flags & os.O_EXCL else really_open(name, flags, *more)

    if refused == "open":
        monkeypatch.setattr(os, "open", open_old_only)
    elif refused == "replace":
        monkeypatch.setattr(Path, "replace", refuse(errno.EBUSY))
    else:
        monkeypatch.setattr(files, "_take_after", refuse(errno.EPERM))
    write_whole(path, b"new")
    assert path.read_text() == "new"
    assert path.stat().st_ino == number
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]
    check_writable(path, "--junit")


def test_a_long_name_is_written_too(tmp_path):
    path = tmp_path / ("x" * 250 + ".html")
    write_whole(path, b"new")
    write_whole(path, b"newer")
    assert path.read_text() == "newer"


def test_a_pipe_that_is_read_gets_it_and_one_that_is_not_is_an_error(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError):
        write_whole(path, b"nobody reads")
    content, found = b"x" * 300_000, []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    while not found:  # until the reader has opened it
        try:
            write_whole(path, content)
        except OSError:
            continue
        reader.join()
    assert found == [content]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_devices_stay_devices():
    write_whole(Path(os.devnull), b"new")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), b"new")


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_by_its_name(tmp_path, into):
    program = (
        "import sys; from pathlib import Path; from membench.files import write_whole; "
        "print('before', flush=True); write_whole(Path('/dev/stdout'), b'page'); print('after', flush=True)"
    )
    command = [sys.executable, "-c", program]
    if into == "pipe":
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "out").open("a") as out:
            subprocess.run(command, stdout=out, check=True)
        text = (tmp_path / "out").read_text()
    assert text.split() == ["before", "pageafter"]


def test_what_could_not_be_written_is_refused_before_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (
        tmp_path,
        tmp_path / "file" / "r.xml",
        tmp_path / "none" / "r.xml",
        tmp_path / ("x" * 300),
        Path("a\0b"),
        Path("/proc/r.xml"),
    ):
        with pytest.raises(UsageError, match=r"--junit: .*cannot be written \("):
            check_writable(path, "--junit")
    check_writable(tmp_path / "new.xml", "--junit")
    check_writable(tmp_path / "file", "--junit")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, content: 0)
    with pytest.raises(UsageError, match="No space left"):
        check_writable(tmp_path / "new.xml", "--junit")
    assert not list(tmp_path.iterdir())


def test_every_file_of_a_user_is_written_by_one_function():
    """What is written otherwise: a process's own settings, a journal that grows, another tool's format."""
    known = {
        "files.py",
        "journal.py",
        "checkpoint.py",
        "serving.py",
        "repository.py",
        "memory.py",
        "kernels.py",
        "__init__.py",
        "device.py",
        "cubin.py",
    }
    by_hand = (".write_text(", ".write_bytes(", "savefig(path", ".write_html(", '.open("w', '.open("a', ".to_csv(")
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if "layers" not in path.relative_to(SOURCES).parts
        and path.name not in known
        and any(way in path.read_text() for way in by_hand)
    }
    assert found == set()
