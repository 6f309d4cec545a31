"""The SwiGLU module: shared experts, or a companion beside a sparse layer."""

import math

import torch
from torch import Tensor, nn

from membench.layers.initialize import Place, fill_normal_
from membench.layers.kernels.companion_step import companion_step
from membench.layers.kernels.swiglu import swiglu


def swiglu_parameters(
    model_dim: int,
    hidden: int,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    generator: torch.Generator | None,
    experts: tuple[int, ...] = (),
    place: tuple[int, int] | None = None,
) -> tuple[nn.Parameter, nn.Parameter]:
    """gate_up (*experts, 2f, d), gate first, and down (*experts, d, f); normal, of variance 1 / fan-in.

    Args:
        place: of how many experts these are some, and which is the first of them: they are drawn as those of all.
    """
    gate_up = torch.empty(*experts, 2 * hidden, model_dim, device=device, dtype=dtype)
    down = torch.empty(*experts, model_dim, hidden, device=device, dtype=dtype)
    for each, inputs in ((gate_up, model_dim), (down, hidden)):
        of_all = None if place is None else Place((place[0], *each.shape[1:]), (place[1], 0, 0))
        fill_normal_(each, 1 / math.sqrt(inputs), generator, of_all)
    return nn.Parameter(gate_up), nn.Parameter(down)


class SwiGLU(nn.Module):
    """W_down(silu(x W_gate) * (x W_up)), arXiv 2002.05202.

    Letters: B tokens, d model dim, f hidden. ``gate_up`` is (2f, d), gate first; ``down`` (d, f).
    ``stage_prefix`` is what its stages are called by, before "up" and "down".
    """

    def __init__(
        self,
        model_dim: int,
        hidden: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        stage_prefix: str = "",
    ) -> None:
        super().__init__()
        self.stage_prefix = stage_prefix
        self.gate_up, self.down = swiglu_parameters(model_dim, hidden, device=device, dtype=dtype, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """y (B, d) of x (B, d)."""
        return swiglu(x, self.gate_up, self.down, self.stage_prefix)

    def step(self, x: Tensor, block: tuple[Tensor, float] | None, beside: Tensor) -> Tensor:
        """beside (B, d) + y of few tokens x (B, d), in one call: ``companion_step``, whose stages are a companion's."""
        return companion_step(x, block, self.gate_up, self.down, beside)
