"""SwiGLU feed-forward: W_down(silu(x W_gate) * (x W_up)). Shazeer 2020, arXiv 2002.05202."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from membench.layers.spec import accounting
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension, TokenSpec
from membench.layers.spec.cost import Cost, Mode, Step, has_backward
from membench.layers.spec.layout import Layout, cut_in_a_host

_HIDDEN = (FreeDimension(name="ffn_hidden", step=WIDTH_MULTIPLE, minimum=WIDTH_MULTIPLE),)


class DenseSpec(TokenSpec):
    """A dense FFN of hidden width f."""

    FREE: ClassVar = dict.fromkeys(("flops_per_token", "params", "stored_bytes", "moved_bytes"), _HIDDEN)
    ROUTED: ClassVar = False

    kind: Literal["dense"] = "dense"
    ffn_hidden: PositiveInt = Field(le=2**24, description="f, hidden width")

    @property
    def is_yardstick(self) -> bool:
        return True

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        gathered = Layout("fsdp", gathers=True)
        return (*super().layouts(ranks, host_ranks), gathered, *cut_in_a_host(gathered, ranks, host_ranks))

    def cost(self, step: Step) -> Cost:
        """Data-parallel over ranks: every rank holds the whole layer."""
        d, f, s = self.model_dim, self.ffn_hidden, self.item_bytes
        return accounting.replicated_cost(
            step,
            swiglu_params(d, f),
            s,
            accounting.swiglu("", step.tokens, d, f, s, step.mode),
            swiglu_activation_bytes(step.tokens, d, f, s, step.mode),
        )


def swiglu_params(model_dim: int, hidden: int) -> int:
    """3·d·f: gate, up and down."""
    return 3 * model_dim * hidden


def swiglu_activation_bytes(rows: float, model_dim: int, hidden: int, item_bytes: int, mode: Mode) -> float:
    """x, y, gate, up and their product; a backward keeps them beside the gradients of as many."""
    once = rows * (2 * model_dim + 3 * hidden) * item_bytes
    return 2 * once if has_backward(mode) else once
