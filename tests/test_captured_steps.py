"""Steps captured as CUDA graphs, on a stand-in that launches again what was recorded: the same as eager steps."""

from triton_device import DEVICE  # isort: split

import pytest
import torch
import triton_interpreter  # noqa: F401
from recorded_graph import instead_of_cuda

from layers import build, spec_from
from layers.kernels import paths
from layers.layer import Routing
from layers.optim.layer_optimizer import LayerOptimizer
from layers.parallel.remote import RemoteAssignments
from membench.case import Case
from membench.measuring.captured_step import CapturedStep
from membench.measuring.inputs import Input
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.step import make_step
from membench.measuring.time import Clock, Sampling
from membench.measuring.ways import way_of

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="tests marked gpu capture there")

D, TOKENS = 16, 3
ROWS = {"num_keys": 64, "heads": 2, "top_k": 2, "key_dim": 8}
SPECS = {
    "dense": {"kind": "dense", "ffn_hidden": 24},
    "moe": {"kind": "moe", "num_experts": 2, "expert_hidden": 16, "top_k": 1},
    "moe by a bias": {"kind": "moe", "num_experts": 2, "expert_hidden": 16, "top_k": 1, "balancing": "bias"},
    "memory": {"kind": "memory", **ROWS},
    "memory_plus": {"kind": "memory_plus", **ROWS},
    "peer": {"kind": "peer", **ROWS},
}


@pytest.fixture(autouse=True)
def _graphs_of_the_cpu(monkeypatch):
    instead_of_cuda(monkeypatch)
    with paths.forced("triton"):
        yield


def spec_of(name, dtype="bfloat16", **more):
    return spec_from({"model_dim": D, "dtype": dtype, **SPECS[name], **more})


def inputs_of(spec, imposed=False):
    """Three, of other rows or experts each."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(TOKENS, D, generator=generator).to(getattr(torch, spec.dtype))
        choice = spec.choice_of_token
        routing = None
        if imposed and choice is not None:
            routing = Routing(torch.randint(choice.count, (TOKENS, *choice.shape), generator=generator))
        yield Input(x, routing)


def state_of(layer, optimizer):
    """All that a step changes, and what it leaves."""
    found = {name: p.detach().clone() for name, p in [*layer.named_parameters(), *layer.named_buffers()]}
    found |= {f"gradient of {name}": p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    for number, table in enumerate(layer.tables()):
        if table.gradient is not None:
            found |= {f"rows {number}": table.gradient.rows.clone(), f"values {number}": table.gradient.values.clone()}
    for number, each in enumerate([] if optimizer is None else optimizer.state_tensors()):
        found[f"state {number}"] = each.clone()
    if optimizer is not None:
        found["number"] = torch.tensor([table.number for table in optimizer.tables])
    if layer.auxiliary_loss is not None:
        found["loss"] = layer.auxiliary_loss.detach().clone()
    return found


def stepped(spec, mode, rule, way, imposed=False):
    """What two steps leave, each on its own input and at its own rate of tables, after the one of a warm-up."""
    layer, inputs = build(spec, seed=3).train(), [*inputs_of(spec, imposed)]
    optimizer = LayerOptimizer(layer, rule, 0.05, table_weight_decay=0.1) if rule else None
    upstream = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(2)).to(inputs[0].x)
    if way == "cuda_graph":
        step = way_of(way, mode, layer, inputs, upstream, optimizer).step
    else:
        step = make_step(mode, layer, layer, inputs, upstream, optimizer)
        step(0)
    found = []
    for number in (1, 2):
        for table in [] if optimizer is None else optimizer.tables:
            table.set_learning_rate(0.05 / number)
        step(number)
        found.append(state_of(layer, optimizer))
    return found


def assert_same(one, other):
    for captured, eager in zip(one, other, strict=True):
        assert captured.keys() == eager.keys()
        for name, tensor in captured.items():
            assert torch.equal(tensor, eager[name]), name


@pytest.mark.parametrize(
    ("name", "rule", "imposed"),
    [
        ("dense", "adamw", False),
        ("moe by a bias", "sgd", True),
        ("memory", "row_adam", False),
        ("memory_plus", "lazy_adam", True),
        ("peer", "row_adagrad", False),
    ],
)
def test_a_captured_training_step_is_an_eager_one(name, rule, imposed):
    """Weights, moments, stamps, biases, gradients and losses bit for bit, bf16 rows rounded at random."""
    one, other = (stepped(spec_of(name), "train_step", rule, way, imposed) for way in ("cuda_graph", "eager"))
    assert_same(one, other)
    assert not all(torch.equal(tensor, one[1][name]) for name, tensor in one[0].items()), "a step changes something"


@pytest.mark.parametrize(("name", "imposed"), [("memory", True), ("peer", False)])
def test_a_captured_backward_pass_leaves_eager_gradients(name, imposed):
    spec = spec_of(name, "float32")
    assert_same(*(stepped(spec, "forward_backward", None, way, imposed) for way in ("cuda_graph", "eager")))


def test_a_replay_with_the_hosts_numbers_would_be_seen(monkeypatch):
    """What the stand-in is for: numbers that the host gave stay what they were when the step was captured."""
    monkeypatch.setattr(LayerOptimizer, "count_on_device", lambda self: None)
    one, other = (stepped(spec_of("memory"), "train_step", "row_adam", way) for way in ("cuda_graph", "eager"))
    with pytest.raises(AssertionError):
        assert_same(one, other)


@pytest.mark.parametrize("name", ["moe", "memory"])
def test_what_is_checked_is_what_was_captured(name):
    """Its answer has a graph; gradients sent back through it are those of the layer, also where the loss gets none."""
    spec = spec_of(name, "float32")
    layer, inputs = build(spec, seed=3).train(), [*inputs_of(spec)]
    captured = CapturedStep("forward_backward", layer, inputs[0], torch.ones(TOKENS, D), None)
    found = []
    for call in (captured, layer):
        layer.zero_gradients()
        x = inputs[1].x.clone().requires_grad_()
        y = call(x, None)
        y.backward(torch.full((TOKENS, D), 0.5))
        found.append({**state_of(layer, None), "y": y.detach(), "x": x.grad})
    assert_same(*([each] for each in found))


def case_of(spec, mode, rule=None, **more):
    return Case(arm="one", mode=mode, layer=spec, tokens=TOKENS, optimizer=rule, **more)


@pytest.mark.parametrize(
    ("name", "mode", "rule"),
    [("memory", "train_step", "row_adam"), ("memory", "forward_backward", None), ("memory", "decode", None)],
)
def test_graphs_are_checked_timed_and_chosen_among(name, mode, rule):
    case = case_of(spec_of(name, "float32"), mode, rule, routing={"kind": "zipf"})
    measurement = CaseMeasurement(build(case.layer), Clock("cpu"), 0, lambda doing: None)
    found = measurement.run(case, Sampling(2, 2, 0.1, 0.0), ["cuda_graph"])
    assert found["implementation"]["tried"] == {"cuda_graph": {"latency_ms": None, "error": None}}
    if rule:
        assert found["reference"]["of_updates"] == ["table 0 after row_adam"]


def test_a_captured_step_that_is_wrong_is_found(monkeypatch):
    from membench.measuring.preparation import WrongAnswer

    case = case_of(spec_of("memory", "float32"), "train_step", "row_adam")
    measurement = CaseMeasurement(build(case.layer), Clock("cpu"), 0, lambda doing: None)
    monkeypatch.setattr(LayerOptimizer, "count_on_device", lambda self: None)  # the check's own rate is not heard of
    with pytest.raises(WrongAnswer, match="table 0 after row_adam is off by"):
        measurement.prepare(case, ["cuda_graph"])


class Waits(torch.nn.Module):
    def __init__(self, model_dim, dtype):
        super().__init__()

    def forward(self, x):
        return x * x.sum().item()


@pytest.mark.parametrize(
    ("layer", "mode", "rule", "said"),
    [
        (lambda: build(spec_of("memory", table_on="host")), "train_step", "sgd", "it keeps the gradient of this table"),
        (lambda: build(spec_of("memory")), "train_step", "adamw", "dense adamw of a table waits"),
        (
            lambda: build(spec_from({"kind": "external", "model_dim": D, "factory": f"{__name__}:Waits"})),
            "forward",
            None,
            "the host waits for the device",
        ),
    ],
    ids=["rows on the host", "dense adamw", "a layer that waits"],
)
def test_what_cannot_be_captured_says_so_in_a_line(layer, mode, rule, said):
    layer = layer()
    case = case_of(layer.spec, mode, rule)
    found = CaseMeasurement(layer, Clock("cpu"), 0, lambda doing: None).prepare(case, ["cuda_graph", "eager"])
    assert found.implementation["chosen"] == "eager"
    error = found.implementation["tried"]["cuda_graph"]["error"]
    assert said in error and "\n" not in error


def test_an_eager_step_counts_on_the_host_again(monkeypatch):
    """Where a graph was tried and another implementation is chosen, nothing is launched for a clock."""

    def fail(*arguments, **named):
        raise ValueError("no graph today")

    monkeypatch.setattr("membench.measuring.captured_step.capture", fail)
    case = case_of(spec_of("memory", "float32"), "train_step", "sgd")
    measurement = CaseMeasurement(build(case.layer), Clock("cpu"), 0, lambda doing: None)
    found = measurement.prepare(case, ["cuda_graph", "eager"])
    assert found.implementation["tried"]["cuda_graph"]["error"].endswith("no graph today")
    monkeypatch.setattr("membench.layers.optim.step_clock.advance_", fail)
    found.step(0)


def test_what_the_busiest_rank_receives_is_counted_by_the_host():
    spec = spec_of("moe", "float32")
    layer, x = build(spec, ranks=2), torch.randn(TOKENS, D)
    routing = Routing(remote=RemoteAssignments(torch.tensor([8, 4])))
    with pytest.raises(ValueError, match="the host waits for the device"):
        way_of("cuda_graph", "forward", layer, [Input(x, routing)], x, None)


def test_inputs_of_other_shapes_are_refused():
    spec = spec_of("memory", "float32")
    layer, x = build(spec), torch.randn(TOKENS, D)
    call = way_of("cuda_graph", "forward", layer, [Input(x, None)], x, None).call
    with pytest.raises(ValueError, match=r"takes \{'x': \(3, 16\)\}, not \{'x': \(2, 16\)\}"):
        call(x[1:], None)
