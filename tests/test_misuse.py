"""What operators, layers and optimizers are given by mistake: refused before an address is taken of it."""

from functools import partial

import pytest
import torch
from torch import nn

from layers import build, spec_from
from layers.kernels import paths
from layers.kernels.dispatch import by_expert
from layers.kernels.lookups import Lookups, Runs, find_runs
from layers.kernels.quantization import quantize_rows
from layers.kernels.quantized_bag import quantized_bag
from layers.kernels.row_passes import row_backward, row_backward_update_, row_dots, update_rows_, weighted_bag
from layers.kernels.row_update import RowState, RowStep
from layers.kernels.top_k import product_key_top_k
from layers.layer import Routing
from layers.optim.layer_optimizer import LayerOptimizer, clip_gradients_
from layers.optim.table_optimizer import RowRule, TableOptimizer
from layers.tables.value_table import ValueTable

TABLE, ROWS, WEIGHTS, TOKENS = torch.randn(50, 6), torch.randint(50, (8, 4)), torch.randn(8, 4), torch.randn(8, 6)
RUNS = find_runs(ROWS.flatten(), 50)
QUANTIZED, SCALES = quantize_rows(TABLE, torch.int8)
SCORES, META = torch.randn(1, 2, 3, 9), torch.device("meta")
SMALL = {
    "dense": {"ffn_hidden": 12},
    "moe": {"num_experts": 4, "expert_hidden": 8, "top_k": 2},
    "memory": {"num_keys": 64, "key_dim": 4, "top_k": 4, "heads": 2},
    "peer": {"num_keys": 64, "key_dim": 4, "top_k": 4, "heads": 2},
}


def backward(weights=WEIGHTS, tokens=TOKENS, runs=RUNS):
    return row_backward(TABLE, runs, weights, tokens, gradient=True, dots=True)


def update(state, optimizer="row_adagrad", rows=RUNS.rows, gradient=None):
    given = torch.randn(len(rows), 6) if gradient is None else gradient
    update_rows_(TABLE.clone(), state, rows, given, RowStep(optimizer, 0.1))


CALLS = {
    "rows of one dimension": (partial(weighted_bag, TABLE, ROWS[0], WEIGHTS[0]), "rows should be (B, L)"),
    "rows of three": (partial(weighted_bag, TABLE, ROWS[None], WEIGHTS[None]), "rows should be (B, L)"),
    "a table of three": (partial(weighted_bag, TABLE.view(50, 2, 3), ROWS, WEIGHTS), "table should be (N, D)"),
    "transposed weights": (partial(weighted_bag, TABLE, ROWS, WEIGHTS.T), "weights should be (B, L) = (8, 4)"),
    "broadcast weights": (partial(weighted_bag, TABLE, ROWS, WEIGHTS[:1]), "weights should be (B, L) = (8, 4)"),
    "rows that are fractions": (partial(weighted_bag, TABLE, ROWS + 0.5, WEIGHTS), "rows should be int32 or int64"),
    "weights elsewhere": (partial(weighted_bag, TABLE, ROWS, WEIGHTS.to(META)), "weights is on meta, table on cpu"),
    "few tokens": (partial(row_dots, TABLE, ROWS, TOKENS[:1]), "tokens should be (B, D) = (8, 6), not (1, 6)"),
    "narrow tokens": (partial(row_dots, TABLE, ROWS, TOKENS[:, :3]), "tokens should be (B, D) = (8, 6), not (8, 3)"),
    "narrow tokens of a backward": (partial(backward, tokens=TOKENS[:, :3]), "tokens should be (B, D) = (8, 6)"),
    "runs of other lookups": (partial(backward, WEIGHTS[:3], TOKENS[:3]), "runs.order should be (B·L,) = (12,)"),
    "long runs": (
        partial(backward, runs=Runs(RUNS.rows, RUNS.starts.long(), RUNS.order)),
        "runs.starts should be int32, not torch.int64",
    ),
    "a state that is missing": (partial(update, RowState()), "row_adagrad remembers sums, not nothing"),
    "a short state": (partial(update, RowState(sums=torch.zeros(1))), "sums should be (N,) = (50,)"),
    "a wide state": (partial(update, RowState(sums=torch.zeros(50).double())), "sums should be torch.float32"),
    "one row's gradient": (
        partial(update, RowState(), "sgd", gradient=torch.randn(1, 6)),
        "gradient should be (U, D) = ",
    ),
    "an unknown rule": (partial(update, RowState(), "adam"), "a row optimizer is one of sgd, row_adagrad"),
    "few scales": (
        partial(quantized_bag, QUANTIZED, SCALES[:1], ROWS, WEIGHTS, torch.float32),
        "scales should be (N,) = (50,)",
    ),
    "one half": (partial(product_key_top_k, SCORES[:, :1], 2), "scores should be (H, 2, B, n)"),
    "wide scores": (partial(product_key_top_k, SCORES.double(), 2), "scores should be torch.float32"),
    "less than none": (partial(product_key_top_k, SCORES, -1), "top_k -1 of 9 sub-keys"),
    "two dimensions of lookups": (partial(find_runs, ROWS, 50), "rows should be (M,)"),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_refuse_what_does_not_fit(name, path):
    call, said = CALLS[name]
    with pytest.raises(ValueError) as caught:
        call()
    assert said in str(caught.value)


def test_rows_that_there_are_not_stay_so_when_narrowed(path):
    lookups = Lookups(ROWS + 2**32, 50)
    with pytest.raises((IndexError, RuntimeError)):
        weighted_bag(TABLE, lookups.rows, WEIGHTS)


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
@pytest.mark.parametrize("rows", [[-1, 5], [1024, 0, 5]])
def test_runs_of_rows_that_there_are_not(rows):
    with pytest.raises(IndexError, match="of a table of 50 rows"):
        find_runs(torch.tensor(rows), 50)


@pytest.mark.parametrize("expert", [-1, 4])
def test_experts_that_there_are_not(expert):
    with pytest.raises(IndexError, match=f"expert {expert} of 4"):
        by_expert(torch.tensor([[0, expert]]), 4)


@pytest.mark.parametrize("kind", SMALL)
def test_layers_refuse_other_tokens(kind):
    layer = build(spec_from({"kind": kind, "model_dim": 6, "dtype": "float32", **SMALL[kind]}))
    for x in (torch.randn(2, 3, 6), torch.randn(6), torch.randn(3, 5)):
        with pytest.raises(ValueError, match=r"x should be \(tokens, 6\)"):
            layer(x)
    with pytest.raises(ValueError, match=r"x is torch.bfloat16, the layer torch.float32"):
        layer(torch.randn(3, 6).bfloat16())


@pytest.mark.parametrize("kind", ["memory", "peer"])
@pytest.mark.parametrize("shape", [(3, 2, 3), (2, 2, 4)])
def test_layers_refuse_a_choice_of_another_shape(kind, shape):
    layer = build(spec_from({"kind": kind, "model_dim": 6, "dtype": "float32", **SMALL[kind]}))
    with pytest.raises(ValueError, match=r"selected is .*, not \(3, 2, 4\)"):
        layer(torch.randn(3, 6), Routing(selected=torch.zeros(shape, dtype=torch.long)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "adam"}, "optimizer should be one of sgd, .*, not 'adam'"),
        ({"optimizer": None}, "not None"),
        ({"table_learning_rate": -1.0}, "table_learning_rate should be a finite number from 0, not -1.0"),
        ({"learning_rate": float("nan"), "optimizer": "sgd"}, "learning_rate should be .*, not nan"),
        ({"table_weight_decay": -5.0}, "table_weight_decay should be"),
    ],
)
def test_optimizers_refuse_what_is_none(given, said):
    layer = build(spec_from({"kind": "memory", "model_dim": 6, "dtype": "float32", **SMALL["memory"]}))
    with pytest.raises(ValueError, match=said):
        LayerOptimizer(layer, **{"optimizer": "row_adam", **given})


def test_a_whole_model_is_no_layer():
    layer = build(spec_from({"kind": "memory", "model_dim": 6, "dtype": "float32", **SMALL["memory"]}))
    model = nn.Sequential(nn.Linear(6, 6), layer)
    for call in (partial(LayerOptimizer, model, "row_adam"), partial(clip_gradients_, model, 1.0)):
        with pytest.raises(TypeError, match="Sequential is no layer of membench"):
            call()
    with pytest.raises(ValueError, match="max_norm should be"):
        clip_gradients_(layer, -1.0)


@pytest.mark.parametrize("way", ["fused", "queued"])
def test_a_gradient_that_waits_is_not_forgotten(way):
    table, lookups = ValueTable(50, 6), Lookups(ROWS, 50)
    optimizer = TableOptimizer(table, RowRule("sgd", 0.1))
    table.bag(lookups, WEIGHTS).sum().backward()
    with pytest.raises(RuntimeError, match="has a row gradient"), getattr(optimizer, way)():
        pass
    optimizer.zero_grad()
    with getattr(optimizer, way)():
        pass


def test_an_update_without_its_state_changes_nothing():
    table = TABLE.clone()
    with pytest.raises(ValueError):
        row_backward_update_(table, RowState(), RUNS, WEIGHTS, TOKENS, RowStep("row_adam", 0.1), dots=False)
    assert torch.equal(table, TABLE)
