"""Where a number comes from: the machine, its words in a file name, the time."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from membench.errors import UsageError
from membench.process_environment import measuring_environment

_PROBE_SECONDS = 300


def utc_now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    """A device's name for a file: ``h200``, or the processor's words and cores."""
    name = str(device["name"]).lower()
    for known in ("b200", "h200", "h100", "a100", "l40s", "mi300x", "4090"):
        if known in name:
            return known
    words = re.findall(r"[a-z0-9]+", name.split("@")[0])[:3]
    return "-".join([*words, f"{device['cores']}c"]) if words else device["type"]


def result_stem(scenario: str, device: dict[str, Any], started: str, sha: str | None) -> str:
    """``<scenario>_<device>_<date>_<sha>``."""
    return f"{scenario}_{device_slug(device)}_{re.sub('[-:]', '', started)}_{sha or 'nogit'}"
