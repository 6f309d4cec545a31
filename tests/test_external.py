"""Layers from outside: what a module may offer beside forward, and what membench does with it."""

import pytest
import torch
from test_records import a_result, a_round
from torch import nn

from layers import build, verify
from layers.layer import Selection
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import ExternalSpec, MoESpec, Step
from membench.case import Case
from membench.measuring.memory import gradient_bytes, tensor_bytes
from membench.measuring.preparation import Preparation, WrongAnswer
from membench.tables.results import notes_table

D, TOKENS = 24, 11


class TwoExperts(nn.Module):
    """One of two matrices a token; ``fault`` says what is wrong with it."""

    notes = ("two experts", "a note of its own")
    counted_as = MoESpec(model_dim=D, dtype="float32", num_experts=2, expert_hidden=8, top_k=1)

    def __init__(self, model_dim, dtype, fault=None):
        super().__init__()
        # Scores of about 1: of a saturated softmax 1 - p, which the gradient needs, has few digits.
        self.router = nn.Parameter(torch.randn(2, model_dim, dtype=dtype) / model_dim**0.5)
        self.matrix = nn.Parameter(torch.randn(2, model_dim, model_dim, dtype=dtype))
        self.idle = nn.Parameter(torch.randn(3, dtype=dtype))
        self.register_buffer("scale", torch.tensor(0.5, dtype=dtype))
        self.fault = fault

    def forward(self, x):
        chosen, weights = self.select(x).indices, torch.softmax(x @ self.router.T, dim=-1)
        if self.fault == "gradient":
            weights = weights.detach()
        y = self.scale * weights.gather(1, chosen) * (self.matrix[chosen[:, 0]] @ x[:, :, None])[:, :, 0]
        if self.fault == "stray":
            y = y + 1e-30 * self.idle.sum()
        return 1.001 * y if self.fault == "value" else y

    def select(self, x):
        scores = x @ self.router.T
        chosen = scores.topk(1, largest=self.fault != "choice").indices
        return Selection(chosen, torch.softmax(scores, dim=-1).gather(1, chosen))

    def scores(self, x):
        return x @ self.router.T

    def reference(self, x, chosen):
        assert x.dtype == self.matrix.dtype == self.scale.dtype == torch.float64
        weights = torch.softmax(self.scores(x), dim=-1)
        rows = [self.scale * weights[t, e] * self.matrix[e] @ x[t] for t, e in enumerate(chosen[:, 0].tolist())]
        return torch.stack(rows)


class SparseTable(nn.Module):
    """A table with sparse gradients, read by the largest column of a token; its own optimizer."""

    def __init__(self, model_dim, dtype):
        super().__init__()
        self.bag = nn.EmbeddingBag(40, model_dim, mode="sum", sparse=True, dtype=dtype)
        self.table = self.bag.weight

    def forward(self, x):
        return self.bag(x.argmax(dim=-1)[:, None]) + x

    def reference(self, x):
        return self.bag.weight[x.argmax(dim=-1)] + x

    def optimizers(self, name, learning_rate):
        if name != "lazy_adam":
            raise ValueError(f"only lazy_adam, not {name}")
        return [torch.optim.SparseAdam(self.parameters(), lr=learning_rate or 1.0)]


def external(name, **options):
    factory = f"{__name__}:{name}"
    return build(ExternalSpec(model_dim=D, dtype="float32", factory=factory, options=options))


@pytest.fixture
def x(seed):
    return torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(seed))


def test_checked_by_its_own_reference(x, seed):
    found = verify(external("TwoExperts"), x, seed=seed)
    assert found.failure is None
    assert found.selection_shortfall == 0
    assert set(found.errors) == {"output", "x", "module.router", "module.matrix"}  # idle has no gradient in either


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("value", "relative RMS"),
        ("gradient", "module.router|x is off"),
        ("choice", "a chosen score"),
        ("stray", "module.idle is off by inf"),
    ],
)
def test_what_is_wrong_is_found(x, seed, fault, named):
    failure = verify(external("TwoExperts", fault=fault), x, seed=seed, sampled_tokens=TOKENS).failure
    assert failure is not None
    assert any(each in failure for each in named.split("|")), failure


def test_a_wrong_layer_is_not_timed(seed):
    layer = external("TwoExperts", fault="value")
    case = Case(arm="mine", mode="forward", layer=layer.spec, tokens=TOKENS, seed=seed)
    preparation = Preparation(layer, "cpu", cache_bytes=0)
    with pytest.raises(WrongAnswer, match=r"output is off by 0\.001"):
        preparation.check(case, "eager", layer)


def test_counted_as_the_layer_whose_work_it_does(seed):
    layer = external("TwoExperts")
    case = Case(arm="mine", mode="forward_backward", layer=layer.spec, tokens=TOKENS, seed=seed)
    preparation = Preparation(layer, "cpu", cache_bytes=0)
    inputs, traffic = preparation.inputs(case)
    active = [len(layer.select(item.x).indices.unique()) for item in inputs]
    assert traffic.active_experts == sum(active) / len(active)
    assert traffic.assignments == TOKENS
    cost, source = preparation.cost(case, traffic)
    ours = layer.counted_as.cost(
        Step(TOKENS, mode=case.mode, active_experts=traffic.active_experts, assignments=traffic.assignments)
    )
    assert source == "exact"
    assert cost.flops == ours.flops
    assert cost.bytes_dram_expected == ours.bytes_dram_expected
    assert cost.params == sum(p.numel() for p in layer.parameters()) != ours.params
    assert not cost.is_expectation


def test_sparse_gradients(x, seed):
    layer = external("SparseTable")
    assert verify(layer, x, seed=seed).failure is None
    layer(x).sum().backward()
    gradient = layer.module.bag.weight.grad
    assert gradient.is_sparse
    assert gradient_bytes(layer) == TOKENS * (8 + 4 * D)
    assert tensor_bytes([gradient, layer.random_rows]) == TOKENS * (8 + 4 * D) + 40 * 4 * D


def test_its_own_optimizer(x):
    layer = external("SparseTable")
    optimizer = LayerOptimizer(layer, "lazy_adam", learning_rate=0.5)
    before = layer.random_rows.clone()
    layer(x).sum().backward()
    optimizer.step()
    read = torch.zeros(40, dtype=torch.bool).index_fill_(0, x.argmax(dim=-1), True)
    assert torch.equal(layer.random_rows[~read], before[~read])
    # the first step of Adam is the learning rate, whatever the gradient
    torch.testing.assert_close(layer.random_rows[read], before[read] - 0.5)
    assert tensor_bytes(optimizer.state_tensors()) == 2 * layer.random_rows.nbytes
    with pytest.raises(ValueError, match="only lazy_adam, not adamw"):
        LayerOptimizer(layer, "adamw")


def test_what_it_says_of_itself_is_told_once():
    rounds = [a_round(number, notes=["two experts", "<b>a note</b>"]) for number in range(2)]
    (told,) = notes_table(a_result(rounds))
    assert [row[1] for row in told.rows] == ["two experts", "<b>a note</b>"]
    assert notes_table(a_result([a_round(reference={"errors": {}})])) == []
