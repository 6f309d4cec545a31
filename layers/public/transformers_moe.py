"""The mixture-of-experts blocks of ``transformers``: Mixtral, Qwen3-MoE, OLMoE.

Letters: B tokens, d model dim, E experts, K experts a token, f hidden width of an expert.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from membench.layers.initialize import fill_normal_
from membench.layers.layer import Selection
from membench.layers.public.public_layer import PublicLayer, installed, sizes
from membench.layers.spec import MoESpec

Block = Literal["mixtral", "qwen3_moe", "olmoe"]
Experts = Literal["eager", "batched_mm", "grouped_mm"]
_BLOCKS = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "olmoe": "Olmoe"}
_EXPERTS_NOTES = {
    "eager": "5.23: experts eager loops over experts; the backward of each writes gradients as large as all experts",
    "batched_mm": "5.23: experts batched_mm copies an expert's weights for each of its tokens, 3·B·K·d·f numbers",
    "grouped_mm": "5.23: experts grouped_mm, as in a whole model; a block by itself has eager, a loop over experts",
}
_BALANCING_NOTE = "the load-balancing loss is the model's, not the block's; ours has none here either"


class TransformersMoE(PublicLayer):
    """A block from a config of the stated sizes, which leaves everything else as it is."""

    counted_as: MoESpec

    def __init__(self, spec: MoESpec, block: Block, experts: Experts) -> None:
        _, name = installed("transformers", "transformers")
        super().__init__(spec, (name, _EXPERTS_NOTES[experts], _BALANCING_NOTE))
        config_module, _ = installed("transformers", f"transformers.models.{block}.configuration_{block}")
        block_module, _ = installed("transformers", f"transformers.models.{block}.modeling_{block}")
        config = getattr(config_module, f"{_BLOCKS[block]}Config")(**_config(spec, block))
        config._experts_implementation = experts
        self.block = getattr(block_module, f"{_BLOCKS[block]}SparseMoeBlock")(config)
        self._spread_like_ours()

    @torch.no_grad()
    def _spread_like_ours(self) -> None:
        """Outside a model a block's weights are not set at all."""
        d, f = self.counted_as.model_dim, self.counted_as.expert_hidden
        fill_normal_(self.block.gate.weight, 1 / math.sqrt(d))
        fill_normal_(self.block.experts.gate_up_proj, 1 / math.sqrt(d))
        fill_normal_(self.block.experts.down_proj, 1 / math.sqrt(f))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x[None])[0]

    @torch.no_grad()
    def select(self, x: Tensor) -> Selection:
        _, weights, experts = self.block.gate(x)
        return Selection(experts, weights.float())

    def our_weights(self) -> dict[str, Tensor]:
        return {
            "router": self.block.gate.weight,
            "expert_gate_up": self.block.experts.gate_up_proj,
            "expert_down": self.block.experts.down_proj,
        }


def _config(spec: MoESpec, block: Block) -> dict[str, Any]:
    """The sizes by the names of a block's own config; Mixtral always divides the scores by their sum."""
    sizes = {"hidden_size": spec.model_dim, "num_experts_per_tok": spec.top_k}
    if block == "mixtral":
        return {**sizes, "num_local_experts": spec.num_experts, "intermediate_size": spec.expert_hidden}
    width = "moe_intermediate_size" if block == "qwen3_moe" else "intermediate_size"
    return {**sizes, "num_experts": spec.num_experts, width: spec.expert_hidden, "norm_topk_prob": spec.renormalize}


def build(
    model_dim: int,
    dtype: torch.dtype,
    *,
    block: Block,
    num_experts: int,
    expert_hidden: int,
    top_k: int = 8,
    renormalize: bool | None = None,
    experts: Experts = "grouped_mm",
) -> TransformersMoE:
    """The factory; dimensions as of our ``moe``.

    Args:
        block: whose block.
        renormalize: divide the chosen scores by their sum; as released where left out (not OLMoE's).
        experts: the experts' implementation.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: there is no such block or implementation, it has no such option, or a dimension makes no sense.
    """
    if block not in _BLOCKS:
        raise ValueError(f"block: {block!r} is not one of {', '.join(_BLOCKS)}")
    if experts not in _EXPERTS_NOTES:
        raise ValueError(f"experts: {experts!r} is not one of {', '.join(_EXPERTS_NOTES)}")
    if renormalize is None:
        renormalize = block != "olmoe"
    elif block == "mixtral" and not renormalize:
        raise ValueError("renormalize: Mixtral's block always divides the chosen scores by their sum")
    spec = sizes(
        MoESpec,
        model_dim,
        dtype,
        num_experts=num_experts,
        expert_hidden=expert_hidden,
        top_k=top_k,
        renormalize=renormalize,
        balancing="none",
    )
    return TransformersMoE(spec, block, experts)
