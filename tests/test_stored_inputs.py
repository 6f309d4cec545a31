"""Drawn inputs are kept for the processes after, and read back as they were drawn."""

from dataclasses import fields, is_dataclass

import pytest
import torch

from layers import build, spec_from
from membench.case import Case
from membench.measuring import preparation as preparation_module
from membench.measuring import stored_inputs
from membench.measuring.inputs import make_inputs
from membench.measuring.preparation import Preparation
from membench.measuring.stored_inputs import InputStore

MEMORY = {"kind": "memory", "num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8}
KINDS = {
    "memory": MEMORY,
    "memory_plus": {**MEMORY, "kind": "memory_plus"},
    "peer": {**MEMORY, "kind": "peer"},
    "moe": {"kind": "moe", "num_experts": 8, "expert_hidden": 16, "top_k": 2},
    "dense": {"kind": "dense", "ffn_hidden": 64},
}
CACHE_BYTES = 2**16


def a_case(kind="memory", ranks=4, routing=None, seed=0, **changes):
    spec = spec_from({"model_dim": 32, "dtype": "bfloat16", **KINDS[kind], **changes})
    arm = {"arm": kind, "mode": "forward", "tokens": 16, "seed": seed}
    return Case(layer=spec, ranks=ranks, routing=routing or {}, **arm)


def prepared(case, folder):
    layer = build(case.layer, ranks=case.ranks, seed=case.seed)
    return Preparation(layer, "cpu", CACHE_BYTES, InputStore(folder))


def forbid_drawing(monkeypatch):
    def drawn(*arguments):
        raise AssertionError("drawn again")

    monkeypatch.setattr(preparation_module, "make_inputs", drawn)


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif is_dataclass(one):
        assert type(one) is type(other)
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_is_what_was_drawn(kind, ranks, tmp_path, monkeypatch):
    case = a_case(kind, ranks)
    inputs, traffic = prepared(case, tmp_path).inputs(case)
    forbid_drawing(monkeypatch)
    again, same_traffic = prepared(case, tmp_path).inputs(case)
    assert len(again) == len(inputs)
    for one, other in zip(inputs, again, strict=True):
        assert_same(one, other)
    assert traffic == same_traffic
    assert_same(make_inputs(build(case.layer, ranks=ranks), case, 1, "cpu")[0], inputs[0])


def test_an_operators_weights_are_read_back(tmp_path, monkeypatch):
    spec = spec_from(
        {"kind": "weighted_bag", "model_dim": 32, "dtype": "float32", "num_keys": 1024, "heads": 2, "top_k": 4}
    )
    arm = {"arm": "ours", "level": "op", "mode": "forward", "tokens": 16}
    case = Case(layer=spec, routing={"kind": "uniform"}, **arm)
    inputs, _ = prepared(case, tmp_path).inputs(case)
    forbid_drawing(monkeypatch)
    for one, other in zip(inputs, prepared(case, tmp_path).inputs(case)[0], strict=True):
        assert_same(one, other)


def test_a_companion_changes_no_draw(tmp_path, monkeypatch):
    alone, beside = a_case(), a_case(companion_hidden=64)
    inputs, _ = prepared(alone, tmp_path).inputs(alone)
    forbid_drawing(monkeypatch)
    again, _ = prepared(beside, tmp_path).inputs(beside)
    for one, other in zip(inputs, again, strict=False):
        assert_same(one, other)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"ranks": 2}, {"top_k": 2}, {"routing": {"kind": "uniform"}}, {"kind": "memory_plus"}],
    ids=lambda change: next(iter(change)),
)
def test_what_draws_otherwise_has_another_file(other, tmp_path):
    store = InputStore(tmp_path)
    cases = [a_case(), a_case(**other)]
    names = [store.name(build(case.layer, ranks=case.ranks, seed=case.seed), case) for case in cases]
    assert names[0] != names[1]


def test_too_few_are_drawn_anew_and_kept(tmp_path):
    case = a_case()
    layer, store = build(case.layer, ranks=4), InputStore(tmp_path)
    name = store.name(layer, case)
    pool = prepared(case, tmp_path)._drawn(case, 3)
    store.save(name, pool)
    assert store.load(name, 4, "cpu") is None
    assert len(store.load(name, 2, "cpu")) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "no file of ours"])
def test_a_damaged_file_is_as_none(damage, tmp_path):
    case = a_case()
    expected, _ = prepared(case, tmp_path).inputs(case)
    (path,) = tmp_path.iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "changed":
        held = torch.load(path)
        held["inputs"][0]["x"][0, 0] += 1
        torch.save(held, path)
    else:
        torch.save([1, 2], path)
    again, _ = prepared(case, tmp_path).inputs(case)
    for one, other in zip(expected, again, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("limit", ["_STORED_BYTES", "_FOLDER_BYTES"])
def test_large_pools_are_not_kept(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(stored_inputs, limit, 100)
    case = a_case()
    prepared(case, tmp_path).inputs(case)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_ends_nothing(tmp_path):
    case = a_case()
    inputs, _ = prepared(case, tmp_path / "gone").inputs(case)
    assert inputs


def test_layers_from_outside_and_traces_are_not_kept(tmp_path, outside_layers):
    store = InputStore(tmp_path)
    spec = spec_from({"kind": "external", "model_dim": 64, "dtype": "float32", "factory": "outside_layers:good"})
    case = Case(arm="good", mode="forward", tokens=16, layer=spec)
    assert store.name(build(spec), case) is None


@pytest.mark.parametrize("kind", ["memory", "memory_plus"])
def test_other_ranks_tokens_choose_what_the_layer_would(kind):
    for dtype, share in (("float32", 1.0), ("bfloat16", 0.9)):
        case = a_case(kind, dtype=dtype, key_dim=32)
        layer = build(case.layer, ranks=4)
        x = layer.draw_tokens(300, torch.Generator().manual_seed(3))
        many, few = layer._selection_of_many()(x), layer.select(x)
        assert (many.indices == few.indices).float().mean() >= share
        assert many.weights.dtype == few.weights.dtype


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_matrices_that_choose_nothing_do_not_name_what_is_drawn(kind, tmp_path):
    case = a_case(kind)
    layer = build(case.layer, ranks=case.ranks, seed=0)
    store = InputStore(tmp_path)
    before = store.name(layer, case)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name != "router":
                parameter += 1
    assert store.name(layer, case) == before
    if kind == "moe":
        with torch.no_grad():
            layer.router += 1
        assert store.name(layer, case) != before
