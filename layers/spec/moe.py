"""Mixture of SwiGLU experts.

Token choice: each token goes to its top K of E experts (Shazeer 2017, arXiv 1701.06538;
softmax scores as in Switch, arXiv 2101.03961, sigmoid scores as in DeepSeek-V3, arXiv
2412.19437). Expert choice: each expert takes its top C tokens (arXiv 2202.09368), which
looks at later tokens and is labelled non-causal.
"""

import math
from collections.abc import Collection
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.base import WIDTH_MULTIPLE, Choice, FreeDimension, TokenSpec
from membench.layers.spec.cost import Cost, MemoryNeed, Mode, StageCost, Step
from membench.layers.spec.dense import swiglu_activation_bytes, swiglu_params
from membench.layers.spec.expectation import RoutingKind, expected_busiest_load, expected_rank_share, expected_unique
from membench.layers.spec.layout import Layout, cut_in_a_host
from membench.layers.spec.quantities import COUNT_BYTES, SCORE_BYTES, SIZE_BYTES

_EXPERTS = (FreeDimension(name="num_experts"),)
_WIDTHS = (
    FreeDimension(name="expert_hidden", step=WIDTH_MULTIPLE, minimum=WIDTH_MULTIPLE, coarse=True),
    FreeDimension(name="shared_hidden", step=WIDTH_MULTIPLE, minimum=0),
)
ONE_LAYER = "synthetic: all parameters in one layer"


class MoESpec(TokenSpec):
    """E experts of hidden width f_e, of which each token uses K; shared experts see every token."""

    FREE: ClassVar = {
        "params": _EXPERTS,
        "stored_bytes": _EXPERTS,
        "flops_per_token": _WIDTHS,
        "moved_bytes": _WIDTHS,
    }

    kind: Literal["moe"] = "moe"
    num_experts: PositiveInt = Field(le=2**20, description="E, experts")
    expert_hidden: PositiveInt = Field(le=2**24, description="f_e, hidden width of one expert")
    top_k: PositiveInt = Field(default=8, description="K, experts a token uses (its average under expert choice)")
    shared_hidden: NonNegativeInt = Field(default=0, description="hidden width of the experts every token uses")
    choice: Literal["token", "expert"] = Field(
        default="token", description="who chooses: tokens their experts, or experts their tokens, which is not causal"
    )
    router: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="how the router's outputs become scores"
    )
    renormalize: bool = Field(
        default_factory=lambda known: known.get("top_k", 8) > 1,
        description="divide the chosen scores by their sum; by default where K > 1",
    )
    balancing: Literal["none", "loss", "bias"] = Field(
        default="loss", description="load-balancing loss, loss-free bias (arXiv 2408.15664), or none"
    )
    balance_weight: NonNegativeFloat = Field(default=0.01, description="weight of the load-balancing loss")
    z_loss_weight: NonNegativeFloat = Field(default=0.0, description="weight of the router z-loss (ST-MoE)")
    bias_rate: PositiveFloat = Field(default=0.001, description="step of the loss-free bias")
    capacity_factor: PositiveFloat = Field(
        default=1.0, le=2**20, description="expert choice: tokens an expert takes, over K·B/E"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is above num_experts {self.num_experts}")
        if self.renormalize and self.top_k == 1 and self.choice == "token":
            raise ValueError("renormalize with top_k 1 makes every weight 1: the router would learn nothing")
        if self.choice == "expert" and self.balancing == "bias":
            raise ValueError("balancing 'bias' is for choice 'token': under expert choice loads are equal already")
        return self

    @property
    def balance_weight_used(self) -> float | None:
        return self.balance_weight if self.balancing == "loss" else None

    def balanced_by(self, weight: float) -> Self:
        return self.model_copy(update={"balance_weight": weight})

    @property
    def labels(self) -> tuple[str, ...]:
        return ("non-causal",) if self.choice == "expert" else ()

    def arm_labels(self, given: Collection[str]) -> tuple[str, ...]:
        return self.labels if "num_experts" in given else (*self.labels, ONE_LAYER)

    @property
    def choice_of_token(self) -> Choice | None:
        return Choice("experts", (self.top_k,), self.num_experts) if self.choice == "token" else None

    def routing_error(self, routing: RoutingKind) -> str | None:
        if self.choice == "expert" and routing != "routed":
            return f"routing {routing} cannot be imposed on expert choice: each expert picks its tokens"
        return None

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        experts = Layout("experts")
        return (experts, *cut_in_a_host(experts, ranks, host_ranks))

    def capacity(self, tokens: int) -> int:
        """C = ceil(c·K·B/E) tokens an expert takes under expert choice, at most B."""
        return min(tokens, math.ceil(self.capacity_factor * self.top_k * tokens / self.num_experts))

    @property
    def step_load_bytes(self) -> int:
        return self.num_experts * SIZE_BYTES if self.balancing == "bias" else 0

    @property
    def router_params(self) -> int:
        return self.model_dim * self.num_experts

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return swiglu_params(self.model_dim, self.expert_hidden)

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        shared = self.router_params + swiglu_params(self.model_dim, self.shared_hidden)
        return shared + min(self.num_experts, sampled * self.top_k) * self.expert_params

    def experts_on_rank(self, ranks: int) -> int:
        """ceil(E/P): what the fullest rank holds."""
        return -(-self.num_experts // ranks)

    def split_error(self, ranks: int) -> str | None:
        if ranks > 1 and self.choice == "expert":
            return "expert choice ranks all tokens of the group and is not split over ranks that are not there"
        return self.shard_error(1, ranks)

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        if (ranks := row_shards * column_shards) > self.num_experts:
            return f"{self.num_experts} experts cannot be shared by {ranks} ranks"
        return None

    def cost(self, step: Step) -> Cost:
        """Expert parallel over ranks: E/P experts each, the rest whole on every rank."""
        if error := self.shard_error(step.row_shards, step.column_shards):
            raise ValueError(error)
        d, experts, s = self.model_dim, self.num_experts, self.item_bytes
        tokens, ranks, mode = step.tokens, step.ranks, step.mode
        held = self.experts_on_rank(ranks)
        active_experts, assignments = step.active_experts, step.assignments
        expected = active_experts is None or assignments is None
        if self.choice == "expert":
            local_slots = assignments = experts * self.capacity(step.group_tokens) / ranks
            active_experts, expected = float(held), False
        else:
            local_slots = float(tokens * self.top_k)
            if assignments is None:
                share = expected_rank_share(experts, ranks, self.top_k, step.zipf_exponent)
                assignments = expected_busiest_load(share * step.group_tokens * self.top_k, ranks)
            if active_experts is None:
                active = expected_unique(experts, step.group_tokens, self.top_k, step.zipf_exponent)
                active_experts = min(active * held / experts, assignments)

        stages = accounting.linear("router", tokens, d, experts, s, mode)
        stages += accounting.swiglu("experts_", assignments, d, self.expert_hidden, s, mode, matrices=active_experts)
        stages += combine(local_slots, tokens, d, s, mode)
        replicated = self.router_params + swiglu_params(d, self.shared_hidden)
        if self.shared_hidden:
            stages += accounting.swiglu("shared_", tokens, d, self.shared_hidden, s, mode)
        rank_params = replicated + held * self.expert_params
        stages += accounting.update(rank_params, 0, s, step.update)
        params = replicated + experts * self.expert_params
        backward = step.has_backward
        communication = accounting.replica_gradients(replicated, s, step)
        if ranks > 1:
            exchange = accounting.ring_bytes(local_slots * d * s, ranks) * (2 if backward else 1)
            communication |= {**self._number_bytes(step), "all_to_all_tokens": exchange, "all_to_all_results": exchange}
            if self.choice == "expert":
                communication["all_gather_scores"] = (ranks - 1) * tokens * experts * SCORE_BYTES
        return Cost(
            params=params,
            active_params=replicated + self.top_k * self.expert_params,
            rank_params=rank_params,
            stored_bytes=params * s,
            stages=tuple(stages),
            memory=MemoryNeed(
                weights=rank_params * s,
                gradients=rank_params * s if backward else 0,
                optimizer=accounting.optimizer_state_bytes(rank_params, 0, 0, s, step.optimizer),
                activations=swiglu_activation_bytes(assignments, d, self.expert_hidden, s, mode)
                + swiglu_activation_bytes(tokens, d, self.shared_hidden, s, mode)
                + tokens * experts * 4,
            ),
            communication_bytes=communication,
            active_experts=active_experts,
            is_expectation=expected,
        )

    def _number_bytes(self, step: Step) -> dict[str, float]:
        """Of what ranks tell each other: how many tokens go to each expert, and how many there are of all.

        Token choice needs the latter in training alone: for the losses of its router, of which balancing needs the
        load of each expert too. The loss-free bias needs loads once a step.
        """
        to_experts = accounting.ring_bytes(self.num_experts * COUNT_BYTES, step.ranks)
        sent = {"all_to_all_loads": to_experts}
        balanced = self.choice == "token" and self.balancing == "loss"
        if self.choice == "expert" or (step.has_backward and (balanced or self.z_loss_weight)):
            sent["all_gather_sizes"] = (step.ranks - 1) * float(SIZE_BYTES)
        if balanced and step.has_backward:
            sent["all_reduce_loads"] = 2 * accounting.ring_bytes(self.num_experts * SIZE_BYTES, step.ranks)
        if self.step_load_bytes and step.update:
            sent["all_reduce_step_loads"] = 2 * accounting.ring_bytes(self.step_load_bytes, step.ranks)
        return sent


def combine(slots: float, tokens: int, model_dim: int, item_bytes: int, mode: Mode) -> list[StageCost]:
    """The weighted sum of a token's expert outputs: 2·d FLOPs a slot, twice that backward."""
    flops = 2.0 * slots * model_dim
    elements = (slots + tokens) * model_dim
    gradients = (2 * slots + tokens) * model_dim  # dY once, outputs read, their gradients written
    return accounting.passes(
        mode,
        StageCost("combine", flops, flops, elements * item_bytes + slots * 8),
        StageCost("combine", 2 * flops, 2 * flops, gradients * item_bytes, backward=True),
    )
