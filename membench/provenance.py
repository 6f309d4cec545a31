"""Where a number comes from: the commit, the machine in a file name, the time."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from membench.datasheet import lookup
from membench.errors import UsageError
from membench.process_environment import measuring_environment

_PROBE_SECONDS = 300
_MAKERS = ("nvidia", "geforce", "amd", "instinct", "gpu")  # say nothing that the rest of a name does not


def utc_now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the membench that runs and whether it was changed since; None outside a checkout."""
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    sha = git("rev-parse", "--short=10", "HEAD")
    if sha is None:
        return None, None
    return sha, bool(git("status", "--porcelain", "--untracked-files=no"))


def ask_process(module: str, device: str) -> dict[str, Any]:
    """What ``python -m module device`` prints as JSON, in a process of its own (it imports torch).

    Raises:
        UsageError: the asked device is not there.
    """
    command = [sys.executable, "-m", module, device]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS, env=measuring_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--device {device}: it did not answer within {_PROBE_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["the device could not be asked"]
        raise UsageError(lines[-1])
    return json.loads(done.stdout)


def probe_environment(device: str) -> dict[str, Any]:
    """The environment of a run on ``device``.

    Raises:
        UsageError: the asked device is not there.
    """
    return ask_process("membench.device", device)


def device_slug(device: dict[str, Any]) -> str:
    """A device's name for a file: a GPU's as in ``h200`` or ``gh200-480gb``, or the processor's words and cores."""
    name = str(device["name"])
    words = re.findall(r"[a-z0-9]+", name.lower().split("@")[0])
    if device["type"] == "cuda":
        entry = lookup(name)
        told = [word for word in words if word not in _MAKERS]
        return entry.key if entry else "-".join(told[:4]) or device["type"]
    return "-".join([*words[:3], f"{device['cores']}c"]) if words else device["type"]


def result_stem(scenario: str, device: dict[str, Any], started: str, sha: str | None) -> str:
    """``<scenario>_<device>_<date>_<sha>``."""
    return f"{scenario}_{device_slug(device)}_{re.sub('[-:]', '', started)}_{sha or 'nogit'}"
