"""Where a number comes from: the machine, its words in a file name, the time."""

import re
from datetime import UTC, datetime
from typing import Any

from membench.errors import UsageError
from membench.json_values import number, text
from membench.machine.datasheet import lookup
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.processes.questions import DeviceFacts, DeviceQuestion

_PROBE_SECONDS = 300
_MAKERS = ("nvidia", "geforce", "amd", "instinct", "gpu")  # say nothing that the rest of a name does not


def utc_now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ask_process(module: str, device: str) -> dict[str, Any]:
    """What a module says of a device, in a process of its own (it imports torch).

    Raises:
        UsageError: the asked device is not there, or the process failed.
    """
    with ChildProcess(module, timeout_seconds=_PROBE_SECONDS) as process:
        answer = process.ask(DeviceQuestion(device=device), DeviceFacts)
    if isinstance(answer, Failed):
        raise UsageError(answer.reason, source="" if answer.status == "skipped" else f"--device {device}")
    return answer.facts


def probe_environment(device: str) -> dict[str, Any]:
    """The environment of a run on ``device``.

    Raises:
        UsageError: the asked device is not there.
    """
    return ask_process("membench.machine.device", device)


def device_slug(device: dict[str, Any]) -> str:
    """A device's name for a file: a GPU's as in ``h200`` or ``gh200-480gb``, or the processor's words and cores."""
    name, kind = text(device, "name") or "", text(device, "type") or "device"
    words = re.findall(r"[a-z0-9]+", name.lower().split("@")[0])
    if kind == "cuda":
        entry = lookup(name)
        told = [word for word in words if word not in _MAKERS]
        return entry.key if entry else "-".join(told[:4]) or kind
    cores = number(device, "cores")
    return "-".join([*words[:3], *([f"{cores:.0f}c"] if cores else [])]) if words else kind


def result_stem(scenario: str, device: dict[str, Any], started: str, sha: str | None) -> str:
    """``<scenario>_<device>_<date>_<sha>``."""
    return f"{scenario}_{device_slug(device)}_{re.sub('[-:]', '', started)}_{sha or 'nogit'}"
