"""The dense FFN as a layer."""

from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.swiglu import swiglu
from membench.layers.layer import Layer, Routing, torch_dtype
from membench.layers.parallel.exchange import Exchange
from membench.layers.spec import DenseSpec
from membench.layers.swiglu import swiglu_parameters


class Dense(Layer):
    """SwiGLU; parameters ``gate_up`` (2f, d), gate first, and ``down`` (d, f). Whole on every rank."""

    spec: DenseSpec

    def __init__(
        self,
        spec: DenseSpec,
        ranks: int | Exchange = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks)
        self.gate_up, self.down = swiglu_parameters(
            spec.model_dim, spec.ffn_hidden, device=device, dtype=torch_dtype(spec.dtype), generator=generator
        )

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d); there is nothing to route."""
        del routing
        self.check_tokens(x, self.gate_up)
        return swiglu(x, self.gate_up, self.down)

    @property
    def swiglu(self) -> tuple[Tensor, Tensor]:
        return self.gate_up, self.down

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """Tokens alone: no weight chooses anything."""
        return self.spec.model_dump(mode="json", exclude={"ffn_hidden"}), []
