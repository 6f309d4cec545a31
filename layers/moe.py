"""Mixture of SwiGLU experts: who goes where, and what balances it. The experts are in ``kernels``.

Letters: B tokens, d model dim, E experts, K experts a token, C tokens an expert takes under
expert choice, P ranks.
"""

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from membench.layers.initialize import fill_normal_
from membench.layers.kept_dtype import Move, moved_alone
from membench.layers.kernels import dispatch as dispatching
from membench.layers.kernels import moe_step, router
from membench.layers.kernels.few_tokens import can_step
from membench.layers.kernels.grouped_matmul import experts
from membench.layers.kernels.matmul import project_wide
from membench.layers.kernels.moe_step import MOST_TOKENS
from membench.layers.kernels.precision import as_given
from membench.layers.kernels.stages import stage
from membench.layers.layer import (
    Held,
    Layer,
    Routing,
    Selection,
    Touched,
    torch_dtype,
)
from membench.layers.parallel.exchange import Exchange
from membench.layers.parallel.remote import RemoteAssignments
from membench.layers.routing import StatedRouting, busiest_rank, stated_choice
from membench.layers.spec import MoESpec
from membench.layers.swiglu import SwiGLU, swiglu_parameters
from membench.layers.touched import chosen_indices, select_in_parts

_SORTED = 2**10  # scores that are sorted faster than keys are made of them


class MoE(Layer):
    """Token choice or expert choice over E experts, of which this rank holds ceil(E/P).

    Parameters: ``router`` (E, d), ``expert_gate_up`` (ceil(E/P), 2f, d), ``expert_down``
    (ceil(E/P), d, f), and ``shared``, the experts that see every token.
    Buffer: ``expert_bias`` (E,) under loss-free balancing (arXiv 2408.15664).
    """

    STEPS_IN_TURN: ClassVar = True

    spec: MoESpec
    expert_bias: Tensor | None

    def __init__(
        self,
        spec: MoESpec,
        ranks: int | Exchange = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks)
        dtype, d = torch_dtype(spec.dtype), spec.model_dim
        self.router = nn.Parameter(torch.empty(spec.num_experts, d, device=device, dtype=dtype))
        fill_normal_(self.router.data, 1 / math.sqrt(d), generator)
        first, past = self.exchange.experts_held(spec.num_experts)
        self.expert_gate_up, self.expert_down = swiglu_parameters(
            d,
            spec.expert_hidden,
            device=device,
            dtype=dtype,
            generator=generator,
            experts=(past - first,),
            place=(spec.num_experts, first) if self.exchange.together else None,
        )
        self.shared = (
            SwiGLU(d, spec.shared_hidden, device=device, dtype=dtype, generator=generator, stage_prefix="shared_")
            if spec.shared_hidden
            else None
        )
        bias = torch.zeros(spec.num_experts, dtype=torch.float32, device=device) if spec.balancing == "bias" else None
        self.register_buffer("expert_bias", bias)
        self._load: Tensor | None = None  # since ``balance`` was last called

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d); in training mode sets ``auxiliary_loss``."""
        self.check_tokens(x, self.router)
        if (y := self.step(x, routing, None)) is not None:
            return y
        x = x.contiguous()  # libraries multiply tokens that lie apart in another order, and a router's ties are near
        with stage("router"):
            selection = self.select(x)
            self.auxiliary_loss = selection.auxiliary_loss
            if self.expert_bias is not None and self.training:
                load = self.load(selection.indices)
                self._load = load if self._load is None else self._load + load
        with stage("dispatch"):
            dispatch = self._dispatch(selection.indices, x.shape[0], routing or Routing())
            call = self.exchange.send(x, dispatching.row_weights(dispatch, selection.weights), dispatch)
        with stage("experts"):
            y = experts(call.tokens, self.expert_gate_up, self.expert_down, call.weight, call.dispatch)
        y = call.give_back(y)
        return y if self.shared is None else y + self.shared(x)

    def step(self, x: Tensor, routing: Routing | None, block: tuple[Tensor, float] | None) -> Tensor | None:
        spec, shared = self.spec, None if self.shared is None else (self.shared.gate_up, self.shared.down)
        if self.training or spec.choice == "expert" or self.ranks > 1:
            return None
        weights = self.router, self.expert_gate_up, self.expert_down, *(shared or ())
        if not can_step(x, *weights, most=MOST_TOKENS):
            return None
        routing = routing or Routing()
        if routing.remote is not None:
            return None
        if self.auxiliary_loss is not None:  # a module's attributes are slow to set
            self.auxiliary_loss = None
        sigmoid, chosen = spec.router == "sigmoid", routing.selected
        how = moe_step.Router(self.router, self.expert_bias, spec.top_k, sigmoid, spec.renormalize, chosen)
        return moe_step.moe_step(x, block, how, weights[1:3], shared)

    def select(self, x: Tensor) -> Selection:
        """The router's choice for x (B, d): experts (B, K), or tokens (E, C) under expert choice; fp32 weights.

        Of equal scores the lower index wins. The bias moves the choice, never the weights.
        """
        with as_given(x):
            return self._select(x)

    def _select(self, x: Tensor) -> Selection:
        logits = project_wide(x, self.router)
        if self.spec.choice == "expert":
            chosen, weights, of_all = self._choice_of_experts(logits)
            loss = self._auxiliary_loss(logits, None, of_all) if self.training else None
            return Selection(chosen, weights, loss)
        routed = self._choice_of_tokens(logits)
        loss = self._auxiliary_loss(logits, routed.totals, None) if self.training else None
        return Selection(routed.chosen, routed.weights, loss)

    def _choice_of_experts(self, logits: Tensor) -> tuple[Tensor, Tensor, int]:
        """Tokens (E, C), their weights, and how many tokens all ranks have."""
        scores, tokens = self._scores(logits), len(logits)
        everyone, first = self.exchange.scores_of_all(scores)
        of_all = len(everyone)
        chosen = top(everyone.t(), self.spec.capacity(of_all)) - first
        chosen = chosen.where((chosen >= 0) & (chosen < tokens), -1) if of_all > tokens else chosen
        weights = scores.t().gather(1, chosen.clamp(min=0)) if tokens else scores.new_zeros(chosen.shape)
        return chosen, weights, of_all

    def _choice_of_tokens(self, logits: Tensor) -> router.Routed:
        spec, bias = self.spec, self.expert_bias
        totals = self.training and spec.balancing == "loss"
        if router.have_kernel(logits):
            sigmoid = spec.router == "sigmoid"
            return router.route(logits, bias, spec.top_k, sigmoid=sigmoid, renormalize=spec.renormalize, totals=totals)
        scores = self._scores(logits)
        chosen = top(scores.detach() if bias is None else scores.detach() + bias, spec.top_k)
        weights = scores.gather(1, chosen)
        if spec.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if not totals:
            return router.Routed(chosen, weights, None)
        shares = (scores / scores.sum(dim=-1, keepdim=True)).sum(dim=0)
        return router.Routed(chosen, weights, router.Totals(shares, self.load(chosen)))

    def _scores(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.spec.router == "sigmoid" else torch.softmax(logits, dim=-1)

    def choice_norms(self, x: Tensor) -> dict[str, Tensor]:
        """Of a token's router logits."""
        return {"router_logit_norm": project_wide(x, self.router).norm(dim=-1).mean()}

    def _dispatch(self, chosen: Tensor, tokens: int, routing: Routing) -> dispatching.Dispatch:
        if (of_others := self.exchange.assigned(routing.remote, tokens, self.spec.top_k)) is not None:
            return of_others
        if routing.selected is not None:
            if routing.selected.shape != chosen.shape:
                raise ValueError(f"selected is {tuple(routing.selected.shape)}, not {tuple(chosen.shape)}")
            chosen = routing.selected.long()
        if self.spec.choice == "expert":
            return dispatching.by_token(chosen, tokens, some=self.ranks > 1)
        return dispatching.by_expert(chosen, self.spec.num_experts)

    def _auxiliary_loss(self, logits: Tensor, totals: router.Totals | None, of_all: int | None) -> Tensor | None:
        """Load-balancing loss (arXiv 2101.03961, eq. 4-6) and router z-loss (arXiv 2202.08906, eq. 5), where asked.

        Of this rank's tokens, as means over those of all ranks: the sum over ranks is that of one with all tokens.
        ``totals`` are those of tokens that choose, ``of_all`` is how many there are, where that is known.
        """
        spec, loss = self.spec, None
        if totals is None and not spec.z_loss_weight:
            return logits.sum() if not len(logits) and spec.balancing == "loss" else None
        tokens = max(
            1, self.exchange.tokens_of_all(logits) if of_all is None else of_all
        )  # a mean over no tokens is no number
        if totals is not None:
            load = self.exchange.total(totals.load, "all_reduce_loads")
            # E times the sum of products of two means, as one product of sums
            factor = spec.balance_weight * spec.num_experts / (tokens * spec.top_k * tokens)
            loss = torch.dot(load * torch.tensor(factor, dtype=totals.shares.dtype), totals.shares)
        if spec.z_loss_weight:
            z_loss = spec.z_loss_weight * torch.logsumexp(logits, dim=-1).square().sum() / tokens
            loss = z_loss if loss is None else loss + z_loss
        return loss

    def load(self, chosen: Tensor) -> Tensor:
        """(E,) int64: the tokens of this rank that each expert gets of chosen (B, K) or (E, C)."""
        if self.spec.choice == "expert":
            return (chosen >= 0).sum(dim=1)
        counts = torch.zeros(self.spec.num_experts, dtype=torch.long, device=chosen.device)
        return counts.scatter_add_(0, chosen.flatten(), torch.ones_like(chosen).flatten())

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        """Where it is a share, with what its most loaded rank receives of the tokens of all."""
        spec, group = self.spec, (1 + self.exchange.stand_ins) * tokens
        x = self.draw_tokens(tokens, generator)
        if spec.choice_of_token is None:
            return x, None
        experts = stated_choice(spec.choice_of_token, group, stated, generator)
        if not self.exchange.stand_ins:
            return x, None if experts is None else Routing(selected=experts)
        if experts is None:
            everyone = torch.cat([x, self.draw_tokens(group - tokens, generator)])
            chosen = select_in_parts(self.select, everyone, scores=spec.num_experts)
            experts = torch.cat([c.indices for c in chosen])
        return x, Routing(remote=RemoteAssignments(busiest_rank(experts, spec.num_experts, self.ranks)))

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """What chooses experts: none of what they compute."""
        settings = self.spec.model_dump(mode="json", exclude={"expert_hidden", "shared_hidden"})
        bias = [] if self.expert_bias is None else [self.expert_bias]
        return settings, [self.router.detach(), *bias]

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        if routing is not None and isinstance(routing.remote, RemoteAssignments):
            return Touched(expert_load=routing.remote.counts)
        chosen = chosen_indices(self, x, routing)
        load = self.exchange.total(self.load(chosen), "all_reduce_loads")
        held = slice(*self.exchange.experts_held(self.spec.num_experts))
        return Touched(expert_load=load[held], dropped_tokens=self.unrouted_tokens(chosen, len(x)))

    def unrouted_tokens(self, chosen: Tensor, tokens: int) -> int:
        """How many of so many tokens no expert took. Token choice leaves none out."""
        if self.spec.choice == "token":
            return 0
        return tokens - len(chosen[chosen >= 0].unique())

    def held(self) -> dict[nn.Parameter, Held]:
        first, _ = self.exchange.experts_held(self.spec.num_experts)
        return {
            parameter: Held(name, (self.spec.num_experts, *parameter.shape[1:]), (first, 0, 0))
            for name, parameter in self.named_parameters(recurse=False)
            if parameter in self.shards()
        }

    def shards(self) -> set[nn.Parameter]:
        return {self.expert_gate_up, self.expert_down}

    def balance(self, *, frozen: bool = False) -> None:
        """By all that was routed in training mode since it was last called: a step may have several forward passes."""
        if self._load is not None:
            self.update_bias(self.exchange.total_of_step(self._load), rate=0.0 if frozen else self.spec.bias_rate)
            self._load = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_load": None}

    def _apply(self, fn: Move, recurse: bool = True) -> Self:
        """The bias stays fp32: it moves by steps that narrower numbers would lose."""
        bias = self.expert_bias
        super()._apply(fn, recurse)
        if bias is not None:
            self.expert_bias = moved_alone(fn, bias)
        if self._load is not None:
            self._load = moved_alone(fn, self._load)
        return self

    @torch.no_grad()
    def update_bias(self, counts: Tensor, rate: float) -> None:
        """Loss-free balancing: after a step, raise the bias of experts that got fewer than the mean of counts (E,).

        By ``rate`` times the sign of what they lack (arXiv 2408.15664, algorithm 1).
        """
        if self.expert_bias is None:
            raise ValueError(f"balancing is {self.spec.balancing!r}: there is no bias to update")
        lacking = counts.float().mean() - counts
        self.expert_bias.add_(torch.sign(lacking), alpha=rate)


def top(scores: Tensor, k: int) -> Tensor:
    """(…, k) int64: where the k highest scores are, best first; of equal ones the lower index first.

    ``torch.topk`` leaves ties undefined and a stable sort takes far longer, so topk gets
    keys without ties: the score's bits, ordered as integers, above the negated index. Scores of 64 bits
    leave no room for that, and are sorted; so are those of a token or a few, for which ten calls take longer.
    """
    few = scores.numel() <= _SORTED and not torch.compiler.is_compiling()
    if few or scores.dtype == torch.float64:
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    bits = (scores.float() + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0, its equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of negative floats the larger bits are the smaller
    last = scores.shape[-1] - 1
    tie_break = torch.arange(last, -1, -1, device=scores.device)
    return ((ordered.long() << 32) | tie_break).topk(k, dim=-1).indices
