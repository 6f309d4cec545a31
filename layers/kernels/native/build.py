"""Compiles the C++ kernels once per machine, compiler and source, and loads them.

Plain functions over pointers: no header of torch, so that compiling takes seconds and what is
compiled serves every version of torch. OpenMP's runtime is the one that torch has loaded.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had (no Linux, no compiler, a cache that cannot be written).

    The cache is ``$MEMBENCH_CACHE``, else ``membench`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    torch.get_num_threads()  # torch's OpenMP is loaded first: a second one would compete for the cores
    try:
        compiler = _compiler()
        if sys.platform != "linux" or compiler is None:
            return None
        sources = sorted(_HERE.glob("*.cpp"))
        target = _cache_folder() / f"kernels-{_fingerprint(compiler, sources)}.so"
        if not _intact(target):
            _compile(compiler, sources, target)
        return ctypes.CDLL(str(target))
    # of a $CXX that is no command line, and of a home that is nowhere
    except (OSError, subprocess.SubprocessError, ValueError, RuntimeError) as error:
        warnings.warn(f"the C++ kernels cannot be used, torch's take their place: {_reason(error)}", stacklevel=2)
        return None


def _reason(error: Exception) -> str:
    """One line: of what a compiler says, its first complaint."""
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else type(error).__name__)


def _compiler() -> list[str] | None:
    """The command that ``$CXX`` is, with its options; else the first of the usual ones that is installed."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    return next(([found] for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def _cache_folder() -> Path:
    """Absolute: what is loaded by a bare name is looked for among the system's libraries."""
    if own := os.environ.get("MEMBENCH_CACHE"):
        return Path(own).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "membench"


def _fingerprint(compiler: list[str], sources: list[Path]) -> str:
    """Of all that decides what the compiler makes: ``-march=native`` depends on the processor."""
    digest = hashlib.sha256(" ".join([*compiler, *_FLAGS, _processor()]).encode())
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=30)
    digest.update(version.stdout.encode())
    for path in [*sources, *sorted(_HERE.glob("*.h"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _intact(target: Path) -> bool:
    """Whether all of it is there: loading half a file, of a full disk say, ends the process."""
    try:
        return _sum_of(target).read_text() == _digest(target)
    except OSError:
        return False


def _sum_of(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(compiler: list[str], sources: list[Path], target: Path) -> None:
    """Compiles beside the target and renames, so that no process loads half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [*compiler, *_FLAGS, *map(str, sources), "-o", str(made)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        _sum_of(made).write_text(_digest(made))
        made.replace(target)
        _sum_of(made).replace(_sum_of(target))
