"""How much of a model's tables and experts is used, and how large what chooses is.

Share of rows used and KL from uniform are those of arXiv 1907.05242, section 4.5: over the weights by which all tokens
read each row. Letters: B tokens, N rows, E experts.
"""

import math
from collections.abc import Iterable
from statistics import fmean

import torch
from torch import Tensor

from membench.layers.layer import Layer
from membench.layers.models.model import Model

METRICS = (
    "rows_used_share",
    "rows_kl_nats",
    "expert_load_entropy",
    "dropped_token_share",
    "query_norm_mean",
    "router_logit_norm",
)


@torch.no_grad()
def usage(model: Model, batches: Iterable[Tensor]) -> dict[str, float | None]:
    """Of batches (S, T) of tokens, each number a mean over the tables or layers that have one, else None.

    ``rows_used_share``: of a table's rows, those that any token reads. ``rows_kl_nats``: how far the weight on rows is
    from even; 0: even. ``expert_load_entropy``: over ln E; 1: even. ``dropped_token_share``: tokens that no expert
    took. ``query_norm_mean`` and ``router_logit_norm``: mean length of a head's query, of a token's router logits.
    """
    was_training = model.training
    model.eval()
    rows: dict[int, Tensor] = {}
    loads: dict[int, Tensor] = {}
    dropped: dict[int, int] = {}
    norms: dict[str, list[Tensor]] = {}
    tokens = 0
    for batch in batches:
        tokens += batch.numel()
        for number, block, hidden in model.block_inputs(batch):
            layer = block.ffn
            if not layer.spec.routed:
                continue
            x = block.ffn_input(hidden)
            for name, norm in layer.choice_norms(x).items():
                norms.setdefault(name, []).append(norm)
            if (tables := layer.tables()) and (selection := layer.select(x)) is not None:
                weight = rows.setdefault(id(tables[0]), torch.zeros(_rows(layer), device=x.device))
                weight.index_add_(0, selection.indices.flatten(), selection.weights.flatten())
            touched = layer.touched(x, None)
            if touched.expert_load is not None:
                loads[number] = loads.get(number, 0) + _of_all_experts(layer, touched.expert_load)
                dropped[number] = dropped.get(number, 0) + touched.dropped_tokens
    model.train(was_training)
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    if rows:
        found["rows_used_share"] = fmean(float((weight > 0).float().mean()) for weight in rows.values())
        found["rows_kl_nats"] = fmean(math.log(len(weight)) - _entropy(weight) for weight in rows.values())
    if loads:
        found["expert_load_entropy"] = fmean(_entropy(load) / math.log(len(load)) for load in loads.values())
        found["dropped_token_share"] = fmean(count / tokens for count in dropped.values())
    return found | {name: float(torch.stack(each).mean()) for name, each in norms.items()}


def _rows(layer: Layer) -> int:
    """N of its table, of which this process may have a part."""
    choice = layer.spec.choice_of_token
    assert choice is not None
    return choice.count


def _of_all_experts(layer: Layer, load: Tensor) -> Tensor:
    """(E,) of what each rank that shares them knows of its own."""
    exchange = layer.exchange
    count = int(exchange.total(torch.tensor(len(load), device=load.device)))
    whole = load.new_zeros(count)
    whole[slice(*exchange.experts_held(count))] = load
    return exchange.total(whole)


def _entropy(amounts: Tensor) -> float:
    """Nats, of amounts from 0 as shares of their sum."""
    shares = amounts.double() / amounts.sum()
    return float(torch.special.entr(shares).sum())
