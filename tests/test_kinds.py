"""Kinds answer for themselves: each has all it needs, the instrument names none, and draws what it always drew."""

import ast
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import layers.spec as specs
from layers import build, spec_from
from layers.checking.references import REFERENCES, reference_of
from layers.factory import MODULES
from layers.kernels.lookups import index_dtype
from layers.routing import StatedRouting, busiest_rank, draw_experts, draw_lookups, stated_choice
from membench.case import Case
from membench.measuring.inputs import make_inputs

ROOT = Path(__file__).parent.parent
INSTRUMENT = sorted(p for p in (ROOT / "membench").rglob("*.py") if not p.is_relative_to(ROOT / "membench" / "layers"))
TOKENS, RANKS, SEED = 16, 4, 7


def test_every_kind_has_a_module_and_a_reference():
    kinds = {*specs.KINDS, *specs.OPERATORS, *specs.WHOLES, "external"}
    assert set(MODULES) == set(REFERENCES) == kinds
    assert all(
        name == kind.model_fields["kind"].default
        for name, kind in {**specs.KINDS, **specs.OPERATORS, **specs.WHOLES}.items()
    )


def test_a_layer_of_no_kind_has_no_reference():
    with pytest.raises(ValueError, match="no reference for a layer of kind SimpleNamespace"):
        reference_of(SimpleNamespace(spec=SimpleNamespace()))


def asked_what_it_is(path):
    """Classes of kinds that a file tests something against: by isinstance, issubclass or match."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            tested = [node.args[1]]
        elif isinstance(node, ast.MatchClass):
            tested = [node.cls]
        else:
            continue
        names = {each.id for part in tested for each in ast.walk(part) if isinstance(each, ast.Name)}
        yield from names & {*dir(specs), *(module.__name__ for module in MODULES.values()), "Operator"}


def test_a_file_that_asks_is_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "isinstance(spec, MemorySpec | PeerSpec)\nissubclass(kind, (RetrievalSpec, int))\n"
        "match layer:\n    case MoE():\n        pass\n"
    )
    assert set(asked_what_it_is(file)) == {"MemorySpec", "PeerSpec", "RetrievalSpec", "MoE"}


def test_the_instrument_asks_no_layer_what_it_is():
    assert not {(str(path.relative_to(ROOT)), name) for path in INSTRUMENT for name in asked_what_it_is(path)}


@pytest.mark.parametrize(
    ("kind", "dimensions", "takes"),
    [
        ("dense", {"ffn_hidden": 64}, False),
        ("moe", {"num_experts": 8, "expert_hidden": 16, "top_k": 2}, False),
        ("memory", {"num_keys": 1024, "key_dim": 8}, True),
        ("memory_plus", {"num_keys": 1024, "key_dim": 8}, True),
        ("peer", {"num_keys": 1024, "key_dim": 8}, True),
        ("external", {"factory": "a:b"}, False),
        ("weighted_bag", {"num_keys": 1024}, True),
        ("expert_rows", {"num_keys": 1024}, True),
        ("expert_rows", {"num_keys": 1024, "path": "torch"}, False),
        ("grouped_experts", {"num_experts": 8, "expert_hidden": 16}, False),
    ],
)
def test_which_take_the_best_path_there_is(kind, dimensions, takes):
    assert spec_of(kind, **dimensions).takes_best_path is takes


def test_operators_on_scores_take_the_best_path_they_have():
    assert spec_from({"kind": "product_key_top_k", "num_keys": 1024}).takes_best_path
    assert not spec_from({"kind": "key_scores", "num_keys": 1024, "key_dim": 8}).takes_best_path


@pytest.mark.parametrize(("kind", "beside"), [("memory", 0), ("memory", 64), ("peer", 0), ("peer", 64)])
def test_which_have_a_companion(kind, beside):
    spec = spec_of(kind, num_keys=1024, key_dim=8, companion_hidden=beside)
    assert spec.has_companion == bool(beside)
    assert not spec_of("dense", ffn_hidden=64).has_companion


@pytest.fixture
def generator():
    """Of the numbers that ``make_inputs`` draws for ``SEED``."""
    return torch.Generator().manual_seed(SEED + 1)


def spec_of(kind, **dimensions):
    return spec_from({"kind": kind, "model_dim": 32, "dtype": "float32", **dimensions})


def first_input(spec, ranks=1, **routing):
    layer = build(spec, ranks=ranks, seed=3)
    case = Case(arm="x", mode="forward", layer=spec, tokens=TOKENS, ranks=ranks, seed=SEED, routing=routing)
    with torch.no_grad():
        return layer, make_inputs(layer, case, 1, "cpu")[0]


def drawn(generator, *shape):
    return torch.randn(shape, generator=generator)


LOOKUPS = {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8}
EXPERTS = {"num_experts": 8, "expert_hidden": 16, "top_k": 2}


@pytest.mark.parametrize("kind", ["memory", "memory_plus", "peer"])
@pytest.mark.parametrize("routing", ["routed", "zipf"])
def test_lookups_are_drawn_after_the_tokens_and_before_those_of_other_ranks(kind, routing, generator):
    layer, item = first_input(spec_of(kind, **LOOKUPS), RANKS, kind=routing, zipf_exponent=1.2)
    group = RANKS * TOKENS
    assert torch.equal(item.x, drawn(generator, TOKENS, 32))
    rows = draw_lookups("zipf", 1024, 2, 4, group, 1.2, generator) if routing == "zipf" else None
    others = drawn(generator, group - TOKENS, 32)
    with torch.no_grad():
        chosen = layer.select(others)
    remote = item.routing.remote
    assert torch.equal(remote.weights, chosen.weights)
    assert torch.equal(remote.indices, chosen.indices if rows is None else rows[TOKENS:])
    assert (item.routing.selected is None) if rows is None else torch.equal(item.routing.selected, rows[:TOKENS])
    if kind == "peer":
        assert torch.equal(remote.columns, others[:, :8])
        assert torch.equal(remote.products, math.sqrt(3 / 4) * drawn(generator, group, 2, 4))
    else:
        assert remote.columns is None


@pytest.mark.parametrize("routing", ["routed", "uniform"])
def test_experts_of_the_most_loaded_rank_are_drawn_for_the_tokens_of_all(routing, generator):
    layer, item = first_input(spec_of("moe", **EXPERTS), RANKS, kind=routing)
    x = drawn(generator, TOKENS, 32)
    assert torch.equal(item.x, x)
    group = RANKS * TOKENS
    if routing == "uniform":
        experts = draw_experts("uniform", 8, 2, group, generator=generator)
    else:
        with torch.no_grad():
            experts = layer.select(torch.cat([x, drawn(generator, group - TOKENS, 32)])).indices
    assert item.routing.selected is None
    assert torch.equal(item.routing.remote.counts, busiest_rank(experts, 8, RANKS))


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_operators_draw_what_they_are_given_and_then_what_is_imposed(path, generator):
    rows = {"num_keys": 400, "heads": 2, "top_k": 8, "path": path}
    _, item = first_input(spec_of("weighted_bag", **rows), kind="zipf", zipf_exponent=1.2)
    assert torch.equal(item.x, drawn(generator, TOKENS, 2, 8).softmax(dim=-1))
    imposed = draw_lookups("zipf", 400, 2, 8, TOKENS, 1.2, generator)
    assert torch.equal(item.routing.selected, imposed if path == "plain" else imposed.to(index_dtype(400)))
    assert item.routing.selected.dtype == (torch.int64 if path == "plain" else index_dtype(400))
    generator.manual_seed(SEED + 1)
    _, item = first_input(spec_of("grouped_experts", **EXPERTS), kind="uniform")
    assert torch.equal(item.x, drawn(generator, TOKENS, 32))
    assert torch.equal(item.routing.weights, drawn(generator, TOKENS, 2).softmax(dim=-1))
    assert torch.equal(item.routing.selected, draw_experts("uniform", 8, 2, TOKENS, generator=generator))


def test_what_routes_nothing_is_given_tokens_alone(generator):
    _, item = first_input(spec_of("dense", ffn_hidden=64), kind="uniform")
    assert item.routing is None
    assert torch.equal(item.x, drawn(generator, TOKENS, 32))


def test_a_trace_holds_the_choices_of_all_ranks(tmp_path):
    recorded = np.random.default_rng(0).integers(0, 1024, (100, 2, 4))
    np.save(tmp_path / "trace.npy", recorded)
    _, item = first_input(spec_of("memory", **LOOKUPS), RANKS, kind="trace", trace=str(tmp_path / "trace.npy"))
    assert np.array_equal(item.routing.selected, recorded[:TOKENS])
    assert np.array_equal(item.routing.remote.indices, recorded[TOKENS : RANKS * TOKENS])


def test_a_trace_of_another_shape_is_refused(generator):
    choice = specs.Choice("rows", (2, 4), 1024)
    short = StatedRouting("trace", recorded=torch.zeros(TOKENS - 1, 2, 4, dtype=torch.int64))
    for stated in (StatedRouting("trace"), short):
        with pytest.raises(ValueError, match=r"wants recorded indices \(16, 2, 4\)"):
            stated_choice(choice, TOKENS, stated, generator)
