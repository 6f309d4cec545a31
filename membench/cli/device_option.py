"""The value of ``--device``, checked."""

from membench.cli.options import DEVICES
from membench.errors import UsageError, suggestion


def checked_device(device: str) -> str:
    """The device's name.

    Raises:
        UsageError: it is none of auto, cpu, cuda.
    """
    if device not in DEVICES:
        raise UsageError(f"{device!r} is no device; {suggestion(device, DEVICES)}", source="--device")
    return device
