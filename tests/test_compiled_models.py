"""Blocks and models by a compiler: right, one graph without breaks, compiled once, and tried beside eager."""

import pytest
import torch
from test_models import block_of, model_of
from torch._dynamo.testing import CompileCounterWithBackend

from layers import build
from layers.checking.verification import relative_rms
from layers.spec import Step
from membench.case import Case
from membench.measuring import implementations
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.time import Clock, Sampling
from membench.measuring.twins import twin_of

KINDS = ["dense", "moe", "memory", "memory_plus", "peer"]
STEPS = {
    "prefill": Step(12, mode="prefill", sequences=2, context=3),
    "decode": Step(2, mode="decode", sequences=2, context=5),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def counter(monkeypatch):
    """Counts graphs. All of the compiler but the code that it would write, which takes it most of the time."""
    made, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer: compile_(layer, backend=made))
    return made


@pytest.mark.parametrize("mode", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_cache_is_one_graph_compiled_once(kind, mode, counter, seed):
    layer, step = build(model_of(kind), seed=seed).eval(), STEPS[mode]
    layer.make_ready(step, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = [layer.draw_tokens(step.tokens, generator) for _ in range(3)]
    broke_before = implementations.graph_breaks()
    compiled = implementations.implementation("compiled", layer, inputs[0], None)
    with torch.no_grad():
        for x in (*inputs, inputs[0]):
            assert relative_rms(compiled(x, None), layer(x).double()) < 1e-5
    assert counter.frame_count == 1
    assert implementations.graph_breaks() == broke_before


def test_another_depth_is_not_taken_for_the_one_that_was_compiled(counter, seed):
    layer = build(model_of("dense"), seed=seed).eval()
    layer.make_ready(STEPS["decode"], seed)
    x = layer.draw_tokens(2, torch.Generator().manual_seed(seed))
    compiled = implementations.implementation("compiled", layer, x, None)
    with torch.no_grad():
        deep = compiled(x, None)
        for block in layer.blocks:
            block.cache.held -= 2
        assert relative_rms(compiled(x, None), layer(x).double()) < 1e-5
        assert relative_rms(compiled(x, None), deep.double()) > 1e-3


def test_copies_that_take_turns_share_what_was_compiled(counter, seed):
    layer = build(block_of("moe"), seed=seed).eval()
    layer.make_ready(STEPS["decode"], seed)
    x = layer.draw_tokens(2, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for each in (layer, *(twin_of(layer) for _ in range(12))):  # more than a compiler keeps of one function
            implementations.implementation("compiled", each, x, None)(x, None)
    assert counter.frame_count == 1


@pytest.mark.parametrize("spec", [block_of("memory_plus"), model_of("dense")], ids=["block", "model"])
def test_compiled_is_tried_beside_eager_and_the_fastest_is_taken(spec, request):
    """Code is written for the model alone: what a compiler writes for each layer, test_operators_compile holds."""
    if spec.kind == "block":
        request.getfixturevalue("counter")
    case = Case(arm="arm", level=spec.kind, mode="decode", layer=spec, tokens=2, sequences=2, context=5)
    measurement = CaseMeasurement(build(spec), Clock("cpu"), 2**16, lambda doing: None)
    found = measurement.run(case, Sampling(3, 3, 0.1, 0.0), ["eager", "compiled", "cuda_graph"])["implementation"]
    tried = found["tried"]
    assert (tried["compiled"]["error"], tried["compiled"]["graph_breaks"]) == (None, 0)
    assert "needs a CUDA device" in tried["cuda_graph"]["error"]
    assert found["chosen"] == min(("eager", "compiled"), key=lambda name: tried[name]["latency_ms"])


def test_each_case_is_compiled_for_its_own_shapes(counter):
    """Beside another case's code a compiler would make one for any number of sequences."""
    spec = model_of("dense")
    measurement = CaseMeasurement(build(spec), Clock("cpu"), 2**16, lambda doing: None)
    for sequences in (2, 3, 4):
        case = Case(
            arm="arm", level="model", mode="decode", layer=spec, tokens=sequences, sequences=sequences, context=5
        )
        measurement.prepare(case, ["compiled"])
    nodes = [node for graph in counter.graphs for node in graph.graph.nodes]
    assert counter.frame_count == 3
    assert not [node for node in nodes if isinstance(node.meta.get("example_value"), torch.SymInt)]
