"""SwiGLU feed-forward: W_down(silu(x W_gate) * (x W_up)). Shazeer 2020, arXiv 2002.05202."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from membench.layers.spec import accounting
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension, TokenSpec
from membench.layers.spec.cost import Cost, MemoryNeed, Mode, Optimizer, has_backward

_HIDDEN = (FreeDimension(name="ffn_hidden", step=WIDTH_MULTIPLE, minimum=WIDTH_MULTIPLE),)


class DenseSpec(TokenSpec):
    """A dense FFN of hidden width f."""

    FREE: ClassVar = dict.fromkeys(("flops_per_token", "params", "stored_bytes", "moved_bytes"), _HIDDEN)
    ROUTED: ClassVar = False

    kind: Literal["dense"] = "dense"
    ffn_hidden: PositiveInt = Field(le=2**24, description="f, hidden width")

    def cost(
        self,
        tokens: int,
        *,
        mode: Mode = "forward",
        optimizer: Optimizer | None = None,
        unique_rows: float | None = None,
        active_experts: float | None = None,
        assignments: float | None = None,
        ranks: int = 1,
        zipf_exponent: float = 0.0,
        cache_bytes: float = 0.0,
    ) -> Cost:
        """Data-parallel over ranks: every rank holds the whole layer."""
        del unique_rows, active_experts, assignments, zipf_exponent, cache_bytes
        s, params = self.item_bytes, swiglu_params(self.model_dim, self.ffn_hidden)
        stages = accounting.swiglu("", tokens, self.model_dim, self.ffn_hidden, s, mode)
        if mode == "train_step" and optimizer:
            stages += accounting.update(params, 0, s, optimizer)
        backward = has_backward(mode)
        return Cost(
            params=params,
            active_params=params,
            rank_params=params,
            stored_bytes=params * s,
            stages=tuple(stages),
            memory=MemoryNeed(
                weights=params * s,
                gradients=params * s if backward else 0,
                optimizer=accounting.optimizer_state_bytes(params, 0, 0, s, optimizer) if optimizer else 0,
                activations=swiglu_activation_bytes(tokens, self.model_dim, self.ffn_hidden, s, mode),
            ),
            communication_bytes=accounting.replica_gradients(params, s, ranks, mode),
        )


def swiglu_params(model_dim: int, hidden: int) -> int:
    """3·d·f: gate, up and down."""
    return 3 * model_dim * hidden


def swiglu_activation_bytes(rows: float, model_dim: int, hidden: int, item_bytes: int, mode: Mode) -> float:
    """x, y, gate, up and their product; a backward keeps them beside the gradients of as many."""
    once = rows * (2 * model_dim + 3 * hidden) * item_bytes
    return 2 * once if has_backward(mode) else once
