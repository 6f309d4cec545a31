"""Compiles the C++ kernels once per machine, compiler and source, and loads them.

They are plain functions over pointers and include no header of torch. So compiling takes seconds, and the result works
with every version of torch. They use the OpenMP runtime that torch has loaded.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

_SOURCES = Path(__file__).parent / "native"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_VERSION_SECONDS, _COMPILE_SECONDS = 10, 120  # a source takes 1 to 10, and several times that on a busy machine
_HUNG_SECONDS = 3600  # a compiler that hung is not tried again for so long
_USUAL = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True)
class Kernels:
    """The compiled kernels; or ``missing``, a line that says why there are none. What is unknown is None.

    ``compiler`` is the first line that the compiler prints about itself; ``instruction_sets`` are those that it used.
    """

    library: ctypes.CDLL | None = None
    compiler: str | None = None
    instruction_sets: tuple[str, ...] | None = None
    missing: str | None = None


@cache
def kernels() -> Kernels:
    """The kernels, compiled on the first call.

    They are kept in ``$MEMBENCH_CACHE``, else in ``membench`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    torch.get_num_threads()  # torch's OpenMP is loaded first; a second runtime would compete for the cores
    compiler = name = None
    try:
        if sys.platform != "linux":
            return Kernels(missing=f"they are for Linux, this is {sys.platform}")
        if (compiler := _compiler()) is None:
            return Kernels(missing=f"no C++ compiler is installed ({', '.join(_USUAL[:-1])} or {_USUAL[-1]})")
        _check_not_hung(compiler)
        name = next((line.strip() for line in _version(*compiler).splitlines() if line.strip()), None)
        sources = sorted(_SOURCES.glob("*.cpp"))
        target = _cache_folder() / f"kernels-{_fingerprint(compiler, sources)}.so"
        if not _intact(target):
            _compile(compiler, sources, target)
        library = _loaded(target)
        library.membench_instruction_sets.restype = ctypes.c_char_p
        return Kernels(library, name, tuple(library.membench_instruction_sets().decode().split()))
    # $CXX is not a command line, or there is no home folder
    except (OSError, subprocess.SubprocessError, ValueError, RuntimeError) as error:
        why = _reason(error, compiler)
        if isinstance(error, subprocess.TimeoutExpired) and compiler:
            _remember_hung(compiler, why)
        warnings.warn(f"the C++ kernels cannot be used, torch's take their place: {why}", stacklevel=2)
        return Kernels(compiler=name, missing=why)


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none."""
    return kernels().library


def _reason(error: Exception, compiler: list[str] | None) -> str:
    """One line: the first complaint in what a compiler prints."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{shlex.join(compiler or [])} did not end within {error.timeout:g} s"
    if isinstance(error, FileNotFoundError) and compiler and error.filename == compiler[0]:
        return f"{compiler[0]}: not found"
    said = getattr(error, "stderr", None) or str(error)
    if isinstance(error, subprocess.CalledProcessError) and not (error.stderr or "").strip():
        said = f"{shlex.join(error.cmd[:2])} ended with exit code {error.returncode} and not a word"
    lines = said.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else type(error).__name__)


def _compiler() -> list[str] | None:
    """The command in ``$CXX``, with its options; else the first of the usual compilers that is installed."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    return next(([found] for name in _USUAL if (found := shutil.which(name))), None)


def _output(command: list[str], seconds: float) -> str:
    """What a command prints on standard output. It gets no input, and processes that it started are ended with it.

    Raises:
        SubprocessError: the command fails, or does not end in time.
        OSError: the command cannot be started.
    """
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    # without a PATH no compiler finds its linker
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath)}
    with subprocess.Popen(
        command,
        stdin=nothing,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said, complained)
    return said


@cache
def _version(*compiler: str) -> str:
    return _output([*compiler, "--version"], _VERSION_SECONDS)


def _check_not_hung(compiler: list[str]) -> None:
    """Raises RuntimeError if the compiler hung recently: otherwise each process of a run would wait for it again."""
    path = _hung(compiler)
    if path.exists() and time.time() - path.stat().st_mtime < _HUNG_SECONDS:
        raise RuntimeError(path.read_text(encoding="utf-8", errors="replace"))


def _remember_hung(compiler: list[str], why: str) -> None:
    path = _hung(compiler)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"{why}; it is tried again an hour later, or when {path} is removed"
        path.write_text(text, encoding="utf-8", errors="replace")


def _hung(compiler: list[str]) -> Path:
    return _cache_folder() / f"hung-{hashlib.sha256(shlex.join(compiler).encode()).hexdigest()[:16]}"


def _cache_folder() -> Path:
    """An absolute path, because a bare name would be looked for among the system's libraries."""
    if own := os.environ.get("MEMBENCH_CACHE"):
        return Path(own).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "membench"


def _fingerprint(compiler: list[str], sources: list[Path]) -> str:
    """A hash of everything that decides the result; ``-march=native`` depends on the processor."""
    digest = hashlib.sha256(" ".join([*compiler, *_FLAGS, _processor()]).encode())
    digest.update(_version(*compiler).encode())
    for path in [*sources, *sorted(_SOURCES.glob("*.h"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _intact(target: Path) -> bool:
    """Whether the file is complete: loading half a file (after a full disk, say) would end the process."""
    try:
        return _sum_of(target).read_text(encoding="utf-8") == _digest(target)
    except OSError:
        return False


def _sum_of(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _loaded(target: Path) -> ctypes.CDLL:
    """Raises RuntimeError if the cache lies on a disk from which nothing may be executed."""
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise RuntimeError(f"the cache {target.parent} holds what cannot be loaded: {error}") from error


def _compiled(command: list[str]) -> None:
    _output(command, _COMPILE_SECONDS)


def _compile(compiler: list[str], sources: list[Path], target: Path) -> None:
    """Compiles into the target's folder and then renames, so that no process loads half a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        raise RuntimeError(f"the cache {target.parent} cannot be written: {error.strerror}") from error
    with beside as folder:
        made = Path(folder) / target.name
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        commands = [
            [*compiler, *_FLAGS, "-c", str(source), "-o", name] for source, name in zip(sources, objects, strict=True)
        ]
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            list(pool.map(_compiled, commands))
        finally:
            pool.shutdown(cancel_futures=True)
        _compiled([*compiler, *_FLAGS, *objects, "-o", str(made)])
        if not made.is_file():
            raise RuntimeError(f"{shlex.join(compiler)} ended well and made nothing")
        _sum_of(made).write_text(_digest(made), encoding="utf-8")
        made.replace(target)
        _sum_of(made).replace(_sum_of(target))
