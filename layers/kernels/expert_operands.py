"""What the passes over SwiGLU experts are given, and what a backward gives back.

Letters: B tokens, E experts, R rows, d model dim, f hidden width of an expert.
"""

from dataclasses import dataclass

from torch import Tensor

from membench.layers.kernels.dispatch import Dispatch


@dataclass(frozen=True, slots=True)
class Operands:
    """What forward and backward share. ``weight`` (R,), of the rows, is in the dtype of x."""

    x: Tensor  # (B, d)
    gate_up: Tensor  # (E, 2f, d), gate first
    down: Tensor  # (E, d, f)
    weight: Tensor
    dispatch: Dispatch


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the gathered rows (R, d), of the experts' matrices, and of the rows' weights (R,), fp32 at least.

    None for what was not asked for.
    """

    rows: Tensor | None
    gate_up: Tensor | None
    down: Tensor | None
    weight: Tensor
