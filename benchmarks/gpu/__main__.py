"""Everything that only a GPU can show, in one go of a stated length, on a machine without a network.

    python -m benchmarks.gpu OUT [--minutes 8] [--device cuda|cpu]       (make gpu OUT=folder)

From a plain checkout: wheels in gpu-wheels/ stand in for packages that are missing. OUT gets SUMMARY.md,
results.tar.gz and log.txt, as far as they are known at any moment. Exit codes: 0 all parts passed, 1 some did not,
2 bad input.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import parts
from benchmarks.gpu.session import Session
from benchmarks.gpu.wheels import ROOT
from membench.git.commit import running_commit

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def environment_of(packages: Path) -> dict[str, str]:
    """What parts run in: the packages that were unpacked first, caches in a folder that can be written."""
    paths = [str(packages), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    found["PYTHONDONTWRITEBYTECODE"] = "1"  # nothing is written beside OUT
    found.setdefault("MEMBENCH_CACHE", str(packages.with_name("cache")))
    return found


def machine_lines() -> list[str]:
    """What ran this: Python, torch, Triton, the card."""
    commit = running_commit()
    dirty = ", with uncommitted changes" if commit.dirty else ""
    found = [f"{time.strftime('%Y-%m-%d %H:%M:%S')}, Python {platform.python_version()}, {os.cpu_count()} cores"]
    found.append(f"commit: {commit.sha or 'unknown'}{dirty}")
    commands = {
        "torch": [sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda)"],
        "triton": [sys.executable, "-c", "import triton; print(triton.__version__)"],
        "card": ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
    }
    for name, command in commands.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
            told = done.stdout.strip() or "unknown"
        except (OSError, subprocess.TimeoutExpired):
            told = "unknown"
        found.append(f"{name}: {told}")
    return found


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 600")
    return value


def _ended(number: int, frame: Any) -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # what follows takes a second, and is not ended again
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a folder for what comes back")
    parser.add_argument("--minutes", type=_minutes, default=8.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    asked = parser.parse_args()
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _ended)
    try:
        passed = _run(asked.out, 60 * asked.minutes, asked.device)
    except OSError as error:
        parser.error(f"{error.filename or asked.out}: {error.strerror}")
    except KeyboardInterrupt as error:
        print(f"ended: {error}")
        passed = False
    print((asked.out / "SUMMARY.md").read_text() if (asked.out / "SUMMARY.md").exists() else "")
    return 0 if passed else 1


def _run(out: Path, seconds: float, device: str) -> bool:
    """Whether all parts passed. Raises OSError where ``out`` or a temporary folder cannot be written."""
    with tempfile.TemporaryDirectory(prefix="membench-gpu-", ignore_cleanup_errors=True) as folder:
        packages = Path(folder) / "site"
        packages.mkdir()
        session = Session(out, Path(folder) / "run", seconds, ROOT, environment_of(packages))
        return session.run(parts(device, session.results, packages), machine_lines)


if __name__ == "__main__":
    sys.exit(main())
