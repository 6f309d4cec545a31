"""Slow, obvious float64 versions of every layer: the specification each fast path is tested against.

Plain matrix products and loops; gradients come from autograd. Every function takes weights
by name, ``w[name]`` in float64, and what was read (the selection), because which of two
nearly equal scores wins is a matter of rounding; ``verification.py`` checks the selection by itself.

Letters: B tokens, d model dim, f hidden, E experts, K experts a token, H heads, n sub-keys a
half, dk key dim, k rows a head, D value dim.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from membench.layers.spec import AttentionSpec, DenseSpec, MemorySpec, MoESpec, PeerSpec, RetrievalSpec

Weights = Mapping[str, Any]
EPS = 1e-6


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """(B, d) -> (B, d) with gate_up (2f, d), gate first, and down (d, f)."""
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up) @ down.T


def dense(spec: DenseSpec, w: Weights, x: Tensor) -> Tensor:
    """SwiGLU feed-forward."""
    del spec
    return swiglu(x, w["gate_up"], w["down"])


def router_scores(spec: MoESpec, w: Weights, x: Tensor) -> Tensor:
    """(B, E) scores: softmax or sigmoid of x times the router (E, d)."""
    logits = x @ w["router"].T
    return torch.sigmoid(logits) if spec.router == "sigmoid" else torch.softmax(logits, dim=-1)


def moe_weights(spec: MoESpec, scores: Tensor, chosen: Tensor) -> Tensor:
    """(B, K) weights of the chosen experts, divided by their sum where the spec says so."""
    weights = scores.gather(1, chosen)
    return weights / weights.sum(dim=-1, keepdim=True) if spec.renormalize else weights


def moe_token_choice(spec: MoESpec, w: Weights, x: Tensor, chosen: Tensor, computed_by: Tensor) -> Tensor:
    """Each token's K experts, weighted.

    Args:
        chosen: (B, K) the experts whose scores weigh the results.
        computed_by: (B, K) the experts (by index into ``w``) that compute them; the same,
            unless a routing was imposed.
    """
    y = swiglu_experts(w, x, moe_weights(spec, router_scores(spec, w, x), chosen), computed_by)
    return y + swiglu(x, w["shared.gate_up"], w["shared.down"]) if spec.shared_hidden else y


def swiglu_experts(w: Weights, x: Tensor, weights: Tensor, computed_by: Tensor) -> Tensor:
    """(B, d): the sum of each token's results by the experts ``computed_by`` (B, K), with weights (B, K)."""
    outputs = x.new_zeros(*computed_by.shape, x.shape[1])
    for expert in computed_by.unique().tolist():
        token, slot = (computed_by == expert).nonzero(as_tuple=True)
        result = swiglu(x[token], w["expert_gate_up"][expert], w["expert_down"][expert])
        outputs = outputs.index_put((token, slot), result)
    return (weights[:, None, :] @ outputs)[:, 0]


def moe_expert_choice(spec: MoESpec, w: Weights, x: Tensor, chosen: Tensor | Sequence[Tensor]) -> Tensor:
    """Each expert's tokens, ``chosen`` (E, C) or a ragged list, scattered back weighted; no renormalization."""
    scores = router_scores(spec, w, x)
    y = torch.zeros_like(x)
    for expert, tokens in enumerate(chosen):
        if len(tokens) == 0:
            continue
        result = swiglu(x[tokens], w["expert_gate_up"][expert], w["expert_down"][expert])
        weight = scores[tokens, expert]
        y = y.index_add(0, tokens, (result[:, :, None] @ weight[:, None, None])[:, :, 0])
    return y + swiglu(x, w["shared.gate_up"], w["shared.down"]) if spec.shared_hidden else y


def moe_auxiliary_loss(spec: MoESpec, w: Weights, x: Tensor, chosen: Tensor) -> Tensor:
    """Load-balancing loss E·sum_e f_e·p_e (arXiv 2101.03961, eq. 4) and router z-loss (arXiv 2202.08906, eq. 5).

    f_e is the share of assignments that expert e got (no gradient), p_e its mean normalised score.
    """
    loss = x.new_zeros(())
    if spec.choice == "token" and spec.balancing == "loss":
        scores = router_scores(spec, w, x)
        share = torch.bincount(chosen.flatten(), minlength=spec.num_experts).double() / chosen.numel()
        mean = (scores / scores.sum(dim=-1, keepdim=True)).mean(dim=0)
        loss = loss + spec.balance_weight * spec.num_experts * (share * mean).sum()
    if spec.z_loss_weight:
        loss = loss + spec.z_loss_weight * torch.logsumexp(x @ w["router"].T, dim=-1).square().mean()
    return loss


def rms_norm(x: Tensor, scale: Tensor, eps: float = EPS) -> Tensor:
    """x / rms(x) * scale over the last dimension."""
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * scale


def turned(heads: Tensor, position: int, theta: float) -> Tensor:
    """Heads (…, c) of a token, each pair (j, j + c/2) turned by position · theta^(-2j/c) (arXiv 2104.09864)."""
    c = heads.shape[-1]
    pairs = torch.complex(heads[..., : c // 2], heads[..., c // 2 :])
    angles = position * theta ** (-2.0 * torch.arange(c // 2, dtype=torch.float64, device=heads.device) / c)
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def attention(
    spec: AttentionSpec, w: Weights, x: Tensor, wanted: Sequence[int], context: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(W, d): what attention adds to the tokens ``wanted`` of one sequence x (T, d), which are W.

    Query by query: softmax over the keys of the tokens up to its own, of which each serves h/g heads.

    Args:
        context: keys and values (g, C, c) of the C tokens before x, keys turned already.
    """
    c, group = spec.head_dim, spec.heads // spec.kv_heads
    queries, keys, values = (x @ w["qkv"].T).view(len(x), -1, c).split([spec.heads, spec.kv_heads, spec.kv_heads], 1)
    before = 0 if context is None else context[0].shape[1]
    keys = torch.stack([turned(keys[t], before + t, spec.rope_theta) for t in range(len(x))])
    if context is not None:
        keys, values = (torch.cat([old.transpose(0, 1), new]) for old, new in zip(context, (keys, values), strict=True))
    rows = []
    for t in wanted:
        query, seen = turned(queries[t], before + t, spec.rope_theta), before + t + 1
        scores = query.view(-1, group, c) @ keys[:seen].permute(1, 2, 0) / c**0.5  # (g, h/g, seen)
        rows.append((torch.softmax(scores, dim=-1) @ values[:seen].transpose(0, 1)).flatten())
    return torch.stack(rows) @ w["out"].T


def half_scores(spec: RetrievalSpec, w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of both halves, each (B, H, n): query halves times the sub-keys of their head.

    The query is x times ``query`` (H·dk, d); ``keys`` is (H, 2, n, dk/2).
    """
    B, H, dk = x.shape[0], spec.heads, spec.key_dim
    query = (x @ w["query"].T).view(B, H, dk)
    if spec.query_norm:
        centred = query - query.mean(dim=-1, keepdim=True)
        query = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + EPS)
        query = query * w["query_norm_weight"] + w["query_norm_bias"]
    halves = query.view(B, H, 2, dk // 2)
    keys = w["keys"]
    if spec.qk_norm:
        halves = rms_norm(halves, w["query_scale"].view(2, dk // 2))
        keys = rms_norm(keys, w["key_scale"].view(2, 1, dk // 2))
    first, second = key_scores(halves, keys).unbind(2)
    return first, second


def key_scores(halves: Tensor, keys: Tensor) -> Tensor:
    """(B, H, 2, n): both halves of queries (B, H, 2, dk/2) times the sub-keys (H, 2, n, dk/2) of their head."""
    heads = range(keys.shape[0])
    scores = [torch.stack([halves[:, head, half] @ keys[head, half].T for head in heads], dim=1) for half in (0, 1)]
    return torch.stack(scores, dim=2)


def top_rows(first: Tensor, second: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The best k of all n² sums (…, n) + (…, n), best first; equal sums by the lower row i·n + j."""
    sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
    order = torch.sort(sums, dim=-1, descending=True, stable=True).indices[..., :top_k]
    return order, sums.gather(-1, order)


def row_weights(spec: RetrievalSpec, w: Weights, x: Tensor, chosen: Tensor) -> Tensor:
    """(B, H, k) softmax, within a head, of the chosen rows' scores."""
    first, second = half_scores(spec, w, x)
    sums = first.gather(-1, chosen // spec.sub_keys) + second.gather(-1, chosen % spec.sub_keys)
    return torch.softmax(sums, dim=-1)


def weighted_bag(weights: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """(B, D): the sum over H·k of weights (B, H, k) times values[rows], as a matrix product."""
    B = rows.shape[0]
    return (weights.reshape(B, 1, -1) @ values[rows.reshape(B, -1)])[:, 0]


def memory(
    spec: MemorySpec,
    w: Weights,
    x: Tensor,
    chosen: Tensor,
    rows: Tensor,
    remote: Sequence[tuple[Tensor, Tensor]] = (),
) -> Tensor:
    """The memory layer, gated or not.

    Args:
        chosen: (B, H, k) the rows whose scores weigh the values.
        rows: (B, H, k) the rows (by index into ``w["table"]``) that are read.
        remote: per other rank, rows and weights (B, H, k) of the bags whose D/P columns
            stand in for the columns that rank would send back.
    """
    bags = [weighted_bag(row_weights(spec, w, x, chosen), w["table"], rows)]
    bags += [weighted_bag(weights, w["table"], indices) for indices, weights in remote]
    y = torch.cat(bags, dim=-1)
    if spec.gated:
        gate = x @ w["gate"].T
        y = y * gate * torch.sigmoid(gate)
    if spec.projected:
        y = y @ w["output"].T
    return y + swiglu(x, w["companion.gate_up"], w["companion.down"]) if spec.companion_hidden else y


def peer(
    spec: PeerSpec,
    w: Weights,
    x: Tensor,
    chosen: Tensor,
    rows: Tensor,
    remote: Sequence[tuple[Tensor, Tensor, Tensor]] = (),
    products: Sequence[Tensor] = (),
) -> Tensor:
    """One-neuron experts: sum over H·k of weight · gelu(u·x) · v.

    Args:
        chosen, rows: as for ``memory``, into ``w["down"]`` and ``w["up"]``.
        remote: per other rank rows, weights (B, H, k) and token columns (B, d/P).
        products: per rank, this one first, what the other columns add to u·x, (B, H, k).
    """
    columns = w["down"].shape[1]
    groups = [(rows, row_weights(spec, w, x, chosen), x[:, :columns]), *remote]
    bags = []
    for rank, (indices, weights, tokens) in enumerate(groups):
        bags.append(expert_rows(w, tokens, weights, indices, products[rank] if products else None))
    y = torch.cat(bags, dim=-1)
    return y + swiglu(x, w["companion.gate_up"], w["companion.down"]) if spec.companion_hidden else y


def expert_rows(w: Weights, x: Tensor, weights: Tensor, rows: Tensor, products: Tensor | None = None) -> Tensor:
    """(B, D): the sum over H·k of weights (B, H, k) · gelu(u·x + products) · v; u, v the ``rows`` of two tables."""
    B = rows.shape[0]
    hidden = (w["down"][rows.reshape(B, -1)] @ x[:, :, None])[:, :, 0].view(rows.shape)
    if products is not None:
        hidden = hidden + products
    return weighted_bag(weights * torch.nn.functional.gelu(hidden), w["up"], rows)


def first_row_update(
    optimizer: str,
    rows: Tensor,
    gradient: Tensor,
    learning_rate: float,
    weight_decay: float,
    eps: float,
    over_columns: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(U, D): table rows after their first update, all moments and sums having been zero.

    The rules of ``layers.kernels.row_update``; corrected for their start, first moments are the gradient itself
    and second ones its square. ``over_columns`` gives the mean of numbers (U,) over column shards, if there are any.
    """
    decayed = rows * (1 - learning_rate * weight_decay)
    if optimizer == "sgd":
        return decayed - learning_rate * gradient
    square = gradient.square()
    if optimizer != "lazy_adam":
        mean = square.mean(dim=1)
        square = (mean if over_columns is None else over_columns(mean))[:, None]
    return decayed - learning_rate * gradient / (square.sqrt() + eps)
