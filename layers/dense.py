"""The dense FFN as a layer."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from membench.layers.kernels.swiglu import swiglu
from membench.layers.layer import Held, Layer, Routing, torch_dtype
from membench.layers.parallel.exchange import Exchange
from membench.layers.spec import DenseSpec
from membench.layers.swiglu import swiglu_parameters

if TYPE_CHECKING:
    from membench.layers.parallel.tensor_parallel import TensorParallelSwiGLU


class Dense(Layer):
    """SwiGLU; parameters ``gate_up`` (2f, d), gate first, and ``down`` (d, f).

    Whole on every rank, or as ``Exchange.dense`` says: under ``fsdp`` these are DTensors, of which each rank has some
    rows; under ``tensor`` the parameters are those of ``cut``.
    """

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
        self.cut: TensorParallelSwiGLU | None = None
        gate_up, down = swiglu_parameters(
            spec.model_dim, spec.ffn_hidden, device=device, dtype=torch_dtype(spec.dtype), generator=generator
        )
        if self.exchange.dense == "tensor":
            # here, because a layer that one process has alone needs none of torch.distributed
            from membench.layers.parallel import tensor_parallel

            mesh = self.exchange.mesh(gate_up.device.type)["ranks"]
            self.cut = tensor_parallel.TensorParallelSwiGLU(gate_up, down, self.exchange, mesh)
            return
        self.gate_up, self.down = gate_up, down
        if self.exchange.dense == "fsdp":
            from membench.layers.parallel.fully_sharded import gather_for_use

            gather_for_use(self, self.exchange.mesh(gate_up.device.type))

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d); there is nothing to route."""
        del routing
        if self.cut is not None:
            self.check_tokens(x, self.cut.gate.weight)
            return self.cut.of_tokens(x)
        self.check_tokens(x, self.gate_up)
        return swiglu(x, self.gate_up, self.down)

    @property
    def swiglu(self) -> tuple[Tensor, Tensor] | None:
        return (self.gate_up, self.down) if self.exchange.dense == "replicas" else None

    def held(self) -> dict[Tensor, Held]:
        if self.cut is None:
            return {}
        d, f = self.spec.model_dim, self.spec.ffn_hidden
        first = self.exchange.rank * f // self.ranks
        return {
            self.cut.gate.weight: Held("gate_up", (2 * f, d), (first, 0)),
            self.cut.up.weight: Held("gate_up", (2 * f, d), (f + first, 0)),
            self.cut.down.weight: Held("down", (d, f), (0, first)),
        }

    def shards(self) -> set[nn.Parameter]:
        return set() if self.cut is None else set(self.cut.parameters())

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """Tokens alone: no weight chooses anything."""
        return self.spec.model_dump(mode="json", exclude={"ffn_hidden"}), []
