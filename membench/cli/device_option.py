"""The value of ``--device``, checked."""

from membench.cli.options import DEVICES
from membench.errors import UsageError, shown, suggestion


def checked_device(device: str) -> str:
    """The device's name.

    Raises:
        UsageError: it is not auto, cpu or cuda.
    """
    if device not in DEVICES:
        raise UsageError(f"{shown(device)} is not a device; {suggestion(device, DEVICES)}", source="--device")
    return device
