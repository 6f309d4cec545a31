"""SwiGLU feed-forward: W_down(silu(x W_gate) * (x W_up)). Shazeer 2020, arXiv 2002.05202."""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from membench.layers.spec import accounting
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension, TokenSpec
from membench.layers.spec.cost import Cost, Mode, Step, has_backward
from membench.layers.spec.layout import Layout, cut_in_a_host
from membench.layers.spec.quantities import SIZE_BYTES

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
        ways = (Layout("fsdp", gathers=True), Layout("tensor", tensor=True))
        cut = (each for way in ways for each in (way, *cut_in_a_host(way, ranks, host_ranks)))
        return (*super().layouts(ranks, host_ranks), *cut)

    def tensor_error(self, ranks: int) -> str | None:
        if self.ffn_hidden % ranks:
            return f"ffn_hidden {self.ffn_hidden} cannot be cut into {ranks} equal parts"
        return None

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

    def tensor_cost(self, step: Step) -> Cost:
        """One rank's f/P hidden numbers of the P·b tokens of all, which are gathered; sums of results are scattered.

        The gradients of results are gathered in turn, and those of tokens scattered.
        """
        if error := self.tensor_error(step.ranks):
            raise ValueError(error)
        d, f, s = self.model_dim, self.ffn_hidden // step.ranks, self.item_bytes
        whole = self.cost(replace(step, ranks=1))
        cost = accounting.replicated_cost(
            replace(step, ranks=1),
            swiglu_params(d, f),
            s,
            accounting.swiglu("", step.group_tokens, d, f, s, step.mode),
            swiglu_activation_bytes(step.group_tokens, d, f, s, step.mode),
        )
        sent = float((step.ranks - 1) * step.tokens * d * s)
        there, back = ("all_gather_tokens", "reduce_scatter_results"), ()
        if step.has_backward:
            back = ("all_gather_result_gradients", "reduce_scatter_token_parts")
        sizes = {"all_gather_sizes": float((step.ranks - 1) * SIZE_BYTES)}
        return replace(
            cost,
            params=whole.params,
            active_params=whole.active_params,
            stored_bytes=whole.stored_bytes,
            communication_bytes={**sizes, **dict.fromkeys((*there, *back), sent)} if step.ranks > 1 else {},
        )


def swiglu_params(model_dim: int, hidden: int) -> int:
    """3·d·f: gate, up and down."""
    return 3 * model_dim * hidden


def swiglu_activation_bytes(rows: float, model_dim: int, hidden: int, item_bytes: int, mode: Mode) -> float:
    """x, y, gate, up and their product; a backward keeps them beside the gradients of as many."""
    once = rows * (2 * model_dim + 3 * hidden) * item_bytes
    return 2 * once if has_backward(mode) else once
