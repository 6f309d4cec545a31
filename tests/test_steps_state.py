"""What a step leaves in a layer ends with it; and steps of no tokens, of one, of frozen weights."""

import copy
import io
import pickle

import pytest
import torch
from autocast_cases import KINDS, MODEL_DIM, READ_ONLY, assert_right, built, gradients
from torch.optim.swa_utils import AveragedModel

from layers import build, spec_from
from layers.kernels.dispatch import by_token, from_counts
from layers.layer import RemoteAssignments, Routing
from layers.optim.layer_optimizer import LayerOptimizer, clip_gradients_

OPTIMIZERS = ["adamw", "row_adagrad", "row_adam", "lazy_adam", "sgd"]


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed)


def tokens(count=11):
    return torch.randn(count, MODEL_DIM)


def step(layer, x):
    """A forward and a backward pass, its gradients left on the layer; the output."""
    y = layer(x)
    (y.sum() + (0 if layer.auxiliary_loss is None else layer.auxiliary_loss)).backward()
    return y


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "an averaged model": lambda layer: AveragedModel(layer).module,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_copied_between_its_passes(kind, way, seed):
    """With the losses and gradients of a step on it, of which the copy gets none; it then is a layer of its own."""
    layer, x = built(kind, seed=seed), tokens()
    step(layer, x)
    layer(x)
    other = COPIES[way](layer)
    assert other.auxiliary_loss is None and all(table.gradient is None for table in other.tables())
    assert all(parameter.grad is None for parameter in other.parameters())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    other.train().zero_gradients()
    layer.train().zero_gradients()
    step(other, x)
    assert all(parameter.grad is None for parameter in layer.parameters())
    found = gradients(other)
    step(layer, x)
    assert all(torch.equal(found[name], each) for name, each in gradients(layer).items())


def test_an_average_of_layers_is_taken():
    layer = built("moe, softmax")
    step(layer, tokens())
    averaged = AveragedModel(layer)
    averaged.update_parameters(layer)
    with torch.no_grad():
        layer.router.add_(2)
    averaged.update_parameters(layer)
    torch.testing.assert_close(averaged.module.router, layer.router - 1)


def test_a_copy_made_within_a_fused_step_updates_no_one_elses_rows(path):
    layer, x = built("memory"), tokens()
    optimizer = LayerOptimizer(layer, "sgd", 1.0)
    with optimizer.fused():
        other = copy.deepcopy(layer)
    before = layer.table.weight.clone()
    step(other, x)
    assert torch.equal(layer.table.weight, before) and torch.equal(other.table.weight, before)
    assert other.table.gradient is not None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_copied_layer_and_optimizer_go_on_as_the_first(optimizer, shared, path, seed):
    """Copied between two steps; within one a copy gets nothing of it, as torch's get no ``.grad``."""
    layers = torch.nn.ModuleList([built("memory", seed=seed)])
    if shared:
        layers.append(build(layers[0].spec, seed=seed + 1, table=layers[0].table))
    first = (layers, LayerOptimizer(list(layers), optimizer, 0.1))

    def backward(layers, optimizer, x):
        optimizer.zero_grad()
        for layer in layers:
            x = layer(x)
        with optimizer.fused():
            x.square().sum().backward()

    backward(*first, tokens())
    first[1].step()
    second, x = copy.deepcopy(first), tokens()
    for each in (first, second):
        backward(*each, x)
    assert not copy.deepcopy(first)[1].tables[0].waiting
    for _, each in (first, second):
        each.step()
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, second[0].state_dict()[name]), name
    assert first[0][0].table.weight.data_ptr() != second[0][0].table.weight.data_ptr()


def test_uses_that_wait_keep_no_graph(path):
    layer = built("memory")
    optimizer = LayerOptimizer([layer, build(layer.spec, table=layer.table)], "row_adagrad")
    with optimizer.fused():
        layer(tokens()).sum().backward()
    (use,) = optimizer.tables[0]._queue
    assert use.weights.grad_fn is None and use.tokens.grad_fn is None


def test_a_step_balances_by_all_that_it_routed_and_once():
    layer = build(
        spec_from(
            {"kind": "moe", "model_dim": 4, "num_experts": 2, "expert_hidden": 4, "top_k": 1, "balancing": "bias"}
            | {"dtype": "float32", "bias_rate": 0.5}
        )
    )
    with torch.no_grad():
        layer.router.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
    optimizer = LayerOptimizer(layer, "sgd", 1e-9)
    first = torch.tensor([[1.0, 0, 0, 0]])
    for x in (first.expand(30, 4), -first.expand(10, 4)):  # two passes of one step: 30 tokens, then 10
        layer(x).sum().backward()
    optimizer.step()
    assert layer.expert_bias.tolist() == [-0.5, 0.5]
    optimizer.step()  # nothing was routed since
    assert layer.expert_bias.tolist() == [-0.5, 0.5]
    layer.eval()(first)
    optimizer.step()
    assert layer.expert_bias.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens(kind, path):
    """An empty result, losses of zero, gradients of zero or of no rows; optimizers take them."""
    layer = built(kind)
    x = torch.empty(0, MODEL_DIM, requires_grad=True)
    y = step(layer, x)
    assert y.shape == (0, MODEL_DIM) and x.grad.shape == (0, MODEL_DIM)
    if layer.spec.kind == "moe" and (layer.spec.balancing == "loss" or layer.spec.z_loss_weight):
        assert layer.auxiliary_loss.item() == 0
    for name, gradient in gradients(layer).items():
        assert not gradient.count_nonzero(), name
    assert all(len(table.gradient.rows) == 0 for table in layer.tables())
    assert clip_gradients_(layer, 1.0) == 0
    if selection := layer.select(x.detach()):
        wanted = (layer.spec.num_experts, 0) if "choice" in kind else (0, *selection.indices.shape[1:])
        assert selection.indices.shape == selection.weights.shape == wanted
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    LayerOptimizer(layer, "sgd", 0.1).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    with torch.inference_mode():
        assert layer.eval()(x.detach()).shape == (0, MODEL_DIM)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).shape == (0, MODEL_DIM)


@pytest.mark.parametrize("kind", READ_ONLY)
def test_no_tokens_of_quantized_rows(kind, path):
    with torch.no_grad():
        assert built(kind)(tokens(0)).shape == (0, MODEL_DIM)


@pytest.mark.parametrize("optimizer", ["row_adam", "lazy_adam"])
@pytest.mark.parametrize("kind", ["memory", "peer", "memory on the host"])
def test_no_tokens_in_a_fused_step(kind, optimizer, path):
    layer = built(kind)
    before = [table.weight.clone() for table in layer.tables()]
    optimizer = LayerOptimizer(layer, optimizer, 0.1, table_weight_decay=0.1)
    with optimizer.fused():
        step(layer, tokens(0))
    optimizer.step()
    assert all(torch.equal(table.weight, rows) for table, rows in zip(layer.tables(), before, strict=True))


def test_no_tokens_of_one_rank():
    layer = build(spec_from({"kind": "moe", "model_dim": 8, "num_experts": 4, "expert_hidden": 8, "top_k": 1}), ranks=2)
    none = Routing(remote=RemoteAssignments(torch.zeros(2, dtype=torch.long)))
    assert layer(torch.empty(0, 8, dtype=torch.bfloat16), none).shape == (0, 8)
    with pytest.raises(ValueError, match="no tokens of this rank can stand in for the 3 rows of others"):
        from_counts(torch.tensor([1, 2]), tokens=0, k=1)
    assert by_token(torch.empty(3, 0, dtype=torch.long), tokens=0).ends.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_lie_apart_in_memory(kind, path, seed):
    """Every other column of a transposed matrix."""
    layer = built(kind, seed=seed)
    for x in (torch.randn(2 * MODEL_DIM, 11).t()[:, ::2], torch.randn(1, MODEL_DIM).expand(5, MODEL_DIM)):
        assert not x.is_contiguous()
        assert_right(layer, lambda function, x: function(x), x, "float32")
        assert torch.equal(layer.eval()(x), layer(x.contiguous()))
        layer.train()


@pytest.mark.parametrize("kind", KINDS)
def test_what_asks_for_no_gradient_gets_none(kind, path, seed):
    layer, other, x = built(kind, seed=seed), built(kind, seed=seed), tokens()
    if getattr(layer, "expert_bias", None) is not None:
        other.expert_bias.copy_(layer.expert_bias)
    asked = x.clone().requires_grad_()
    step(layer, asked)
    step(other, x)  # x alone asks for none
    assert x.grad is None
    assert all(torch.equal(gradient, gradients(layer)[name]) for name, gradient in gradients(other).items())
    other.zero_gradients()
    other.requires_grad_(False)  # and now x alone for one
    again = x.clone().requires_grad_()
    step(other, again)
    assert torch.equal(again.grad, asked.grad)
    assert all(parameter.grad is None for parameter in other.parameters())
