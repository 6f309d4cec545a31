"""What of a model's tables and experts is used."""

import math

import pytest
import torch
from small_task import SmallTask, finished, run_of, spec_of

from membench.layers.models.model import Model
from membench.training.usage import METRICS, usage

TOKENS = SmallTask().batch(0, 24).tokens[:, :-1]


def model_of(kind, **changes):
    return Model(spec_of(kind, **changes), generator=torch.Generator().manual_seed(1)).train()


def counted(model):
    """Usage, row by row: of all that a table's readers select."""
    weight = torch.zeros(64, dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        for number, block, hidden in model.block_inputs(TOKENS):
            if number in model.spec.at:
                chosen = block.select(hidden)
                for row, share in zip(
                    chosen.indices.flatten().tolist(), chosen.weights.flatten().tolist(), strict=True
                ):
                    weight[row] += share
    model.train()
    shares = [share for share in (weight / weight.sum()).tolist() if share]
    return len(shares) / 64, math.log(64) + sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("kind", ["memory", "memory_plus", "peer"])
def test_rows_used_and_divergence_from_even_use(kind):
    """A pool that two blocks share is one table; the batches count together."""
    model = model_of(kind)
    found = usage(model, TOKENS.split(7))
    used, divergence = counted(model)
    assert found["rows_used_share"] == used and found["rows_kl_nats"] == pytest.approx(divergence, rel=1e-4)
    assert found["query_norm_mean"] > 0 and model.training
    assert found["expert_load_entropy"] is None and found["router_logit_norm"] is None


def test_four_rows_of_sixteen_evenly():
    """A query of zero scores all rows alike: the same four are read by every token, a quarter each."""
    model = model_of("memory", layer={"kind": "memory", "num_keys": 16, "heads": 1, "top_k": 4, "key_dim": 8})
    with torch.no_grad():
        model.blocks[1].ffn.query.zero_()
    found = usage(model, [TOKENS])
    assert found["rows_used_share"] == 0.25 and found["rows_kl_nats"] == pytest.approx(math.log(4))
    assert found["query_norm_mean"] == 0


@pytest.mark.parametrize("kind", ["moe", "moe_loss"])
def test_experts_load(kind):
    model = model_of(kind)
    found = usage(model, TOKENS.split(7))
    load = model.eval().touched(TOKENS, None).expert_load.double()
    shares = load / load.sum()
    assert found["expert_load_entropy"] == pytest.approx(float(-(shares * shares.log()).nansum()) / math.log(4))
    assert found["dropped_token_share"] == 0 and found["router_logit_norm"] > 0
    assert found["rows_used_share"] is None and found["query_norm_mean"] is None


def test_tokens_that_no_expert_takes_are_a_share():
    layer = {"kind": "moe", "num_experts": 4, "expert_hidden": 16, "top_k": 1, "choice": "expert", "balancing": "none"}
    model = model_of("moe", layer=layer)
    model.eval()
    with torch.no_grad():
        (x,) = (block.ffn_input(hidden) for number, block, hidden in model.block_inputs(TOKENS) if number == 1)
    chosen = model.blocks[1].ffn.select(x).indices
    dropped = TOKENS.numel() - len(chosen.unique())
    assert dropped > 0 and usage(model, [TOKENS])["dropped_token_share"] == dropped / TOKENS.numel()


def test_a_dense_model_has_none_of_it():
    assert usage(model_of("dense"), [TOKENS]) == dict.fromkeys(METRICS)
    final = finished("dense").final
    assert all(final[name] is None for name in METRICS)


def nothing():
    """What is told to who waits."""


def test_a_run_that_is_asked_is_the_same_afterwards():
    """Evaluations leave nothing of their own in what is trained."""
    run = run_of("moe")
    before = {name: each.clone() for name, each in run.model.state_dict().items()}
    run._evaluation.score(nothing)
    run._evaluation.usage(nothing)
    assert run.model.training
    assert all(torch.equal(before[name], each) for name, each in run.model.state_dict().items())
