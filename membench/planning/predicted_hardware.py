"""The GPUs whose kernels are predicted: those that the Triton kernels' machine code was read for."""

from importlib.util import find_spec

from membench.errors import UsageError
from membench.machine.datasheet import Hardware

OPTION = "--kernels"
MULTIPROCESSORS = {"h100": 132, "h100-pcie": 114, "h200": 132}
"""Of each Hopper: NVIDIA H100 Tensor Core GPU Architecture whitepaper; an H200 has an H100 SXM5's."""


def check_hardware(hardware: Hardware | None) -> Hardware:
    """The one GPU that is named.

    Raises:
        UsageError: none is, or one whose kernels are not predicted, or several; or Triton is missing, without which
            nobody knows what a layer launches.
    """
    known = f"predicts what a Hopper GPU's kernels take: add --hardware {', '.join(MULTIPROCESSORS)}"
    if hardware is None:
        raise UsageError(known, source=OPTION)
    if hardware.entry.key not in MULTIPROCESSORS:
        raise UsageError(f"{known}, not {hardware.entry.key}", source=OPTION)
    if hardware.devices > 1:
        problem = f"predicts a whole layer on one GPU, not {hardware.name}: write --hardware {hardware.entry.key}"
        raise UsageError(problem, source=OPTION)
    if find_spec("triton") is None:
        raise UsageError("needs Triton, whose kernels it predicts: pip install 'membench[triton]'", source=OPTION)
    return hardware
