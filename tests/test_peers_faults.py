"""What the public layers' notes say is wrong with them is really so, in the versions that are installed."""

import inspect
from importlib.metadata import version

import pytest
import torch
from public_layers import DK, MEMORY, B, D, E, F, H, K, N, peer, tokens
from torch.utils._python_dispatch import TorchDispatchMode

from layers.public import transformers_moe

TABLES = ["product_key_memory", "embedding_bag", "peer_pytorch"]


class Seen(TorchDispatchMode):
    """Shapes of what operators return, by the operator's name."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.is_tensor(result):
            self.shapes.append((func.overloadpacket.__name__, tuple(result.shape)))
        return result

    def count(self, name, shape):
        return self.shapes.count((name, tuple(shape)))


def step_seen(layer, x):
    with Seen() as seen:
        layer(x).sum().backward()
    return seen


@pytest.mark.parametrize("name", TABLES)
def test_fault_dense_gradients(name, seed):
    layer = peer(name)
    layer(tokens(seed)).sum().backward()
    assert any("gradient" in note and "as large as" in note for note in layer.notes)
    assert layer.module.table.grad.shape == layer.random_rows.shape
    assert not layer.module.table.grad.is_sparse
    with pytest.raises(ValueError, match="its gradients are dense: optimizer adamw or sgd, not lazy_adam"):
        layer.own_optimizers("lazy_adam", 0.1)


def test_fault_of_sparse_bags(seed):
    layer = peer("embedding_bag_sparse")
    layer(tokens(seed)).sum().backward()
    gradient = layer.module.table.grad
    assert gradient.is_sparse
    assert gradient._nnz() == B * H * MEMORY["top_k"] > len(gradient._indices().unique())
    assert "weight_decay" not in inspect.signature(torch.optim.SparseAdam).parameters
    with pytest.raises(ValueError, match="lazy_adam or sgd, not adamw"):
        layer.own_optimizers("adamw", 0.1)


def test_fault_of_pkm_without_scores(seed):
    assert version("product-key-memory") == "0.3.0"  # else look again at what the notes say
    module = peer("product_key_memory").module
    same = {"heads": H, "num_keys": 14, "topk": 5, "dim_head": DK // 2}
    pkm = type(module.pkm)(D, concat_values_and_combine=True, **same)
    pkm(tokens(seed)[None]).sum().backward()
    assert pkm.keys.grad is None
    assert pkm.to_queries.weight.grad is None
    assert pkm.values.weight.grad is not None
    assert isinstance(module.pkm.norm, torch.nn.LayerNorm)
    without = type(module.pkm)(D, use_layernorm=False, **same)
    assert isinstance(without.norm.fn, torch.nn.BatchNorm1d)


def test_faults_of_peer_pytorch(seed):
    assert version("PEER-pytorch") == "0.2.2"
    layer, x = peer("peer_pytorch"), tokens(seed)
    read = []
    for each in (layer.module.peer, type(layer.module.peer)(D, heads=H, num_experts=N, num_experts_per_head=5)):
        each.weight_down_embed.register_forward_hook(lambda table, given, rows: read.append(rows.shape))
        each(x[None])
    assert read == [(1, B, H, 5, D), (1, B, H, 1, D)]
    assert step_seen(layer, x).count("embedding", read[0]) == 2


def test_faults_of_transformers(seed):
    assert version("transformers").startswith("5.23.")
    x, whole = tokens(seed), (E, 2 * F, D)
    eager = peer("mixtral_eager")
    active = len(eager.select(x).indices.unique())
    assert step_seen(eager, x).count("select_backward", whole) == active
    assert step_seen(peer("mixtral_grouped_mm"), x).count("select_backward", whole) == 0
    assert step_seen(peer("mixtral_batched_mm"), x).count("index", (B * K, 2 * F, D)) == 1
    block = eager.module.block
    assert type(block.experts.config)()._experts_implementation is None
    alone = type(block)(type(block.experts.config)(**transformers_moe._config(eager.counted_as, "mixtral")))
    for parameter in alone.parameters():
        torch.nn.init.normal_(parameter)
    assert step_seen(alone, x[None]).count("select_backward", whole) > 0
    assert torch.is_tensor(alone(x[None]))  # no loss beside it


def test_notes_name_the_installed_version():
    names = {"product_key_memory": "product-key-memory", "peer_pytorch": "PEER-pytorch", "olmoe_eager": "transformers"}
    for name, package in names.items():
        assert peer(name).notes[0] == f"{package} {version(package)}"
