"""A mixture's experts without their router.

Letters: B tokens, d model dim, E experts, K experts a token uses, f their hidden width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.kernels.dispatch import by_expert, row_weights
from membench.layers.kernels.grouped_matmul import experts
from membench.layers.kernels.stages import stage
from membench.layers.layer import Routing, Touched, torch_dtype
from membench.layers.operators.operator import Operator, imposed
from membench.layers.spec import GroupedExpertsSpec
from membench.layers.swiglu import swiglu_parameters
from membench.layers.touched import touched_experts


class GroupedExperts(Operator):
    """y (B, d) = the weighted sum of K SwiGLU experts of x (B, d), from sorting the assignments on.

    Parameters: ``expert_gate_up`` (E, 2f, d), gate first, and ``expert_down`` (E, d, f).
    """

    spec: GroupedExpertsSpec

    def __init__(
        self,
        spec: GroupedExpertsSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device)
        self.expert_gate_up, self.expert_down = swiglu_parameters(
            spec.model_dim,
            spec.expert_hidden,
            device=device,
            dtype=torch_dtype(spec.dtype),
            generator=generator,
            experts=(spec.num_experts,),
        )

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        random = {"dtype": torch.float32, "device": self.device, "generator": generator}
        x = torch.randn(tokens, self.spec.model_dim, **random).to(torch_dtype(self.spec.dtype))
        return x, torch.randn(tokens, self.spec.top_k, **random).softmax(dim=-1)

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        return touched_experts(self, x, routing, self.spec.num_experts)

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        selected, weights = imposed(routing)
        with stage("dispatch"):
            dispatch = by_expert(selected, self.spec.num_experts)
            weight = row_weights(dispatch, weights)
        with stage("experts"):
            return experts(x, self.expert_gate_up, self.expert_down, weight, dispatch)

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        """Expert by expert: gather its tokens, two products, scatter. A stage of its own has no part of it."""
        selected, weights = imposed(routing)
        y = torch.zeros_like(x)
        # unbound at once: the gradient of one expert out of a stack would be as large as the stack
        matrices = zip(self.expert_gate_up.unbind(), self.expert_down.unbind(), strict=True)
        with stage("experts"):
            for expert, (gate_up, down) in enumerate(matrices):
                token, slot = (selected == expert).nonzero(as_tuple=True)
                gate, up = functional.linear(x[token], gate_up).chunk(2, dim=-1)
                result = functional.linear(functional.silu(gate) * up, down)
                y = y.index_add(0, token, result * weights[token, slot, None].to(x.dtype))
        return y
