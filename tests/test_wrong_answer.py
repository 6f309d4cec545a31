"""A wrong answer has no time: what must hold of every layer's answer, with a reference or without one."""

import pytest
import torch
from test_verification import SPECS, built, tokens

from layers import build, verify
from layers.checking.answer import find_fault
from layers.layer import RemoteLookups, Routing
from layers.spec import ExternalSpec, spec_from
from membench.case import Case
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.preparation import Preparation, WrongAnswer
from membench.measuring.time import Clock, Sampling

pytestmark = pytest.mark.usefixtures("outside_layers")

D, TOKENS = 32, 16

FAULTS = {
    "returns_nan": "y holds 512 NaN of 512 numbers",
    "one_infinite_number": "y holds 32 infinite of 512 numbers",
    "misses_a_column": "y has shape (16, 31), not (16, 32)",
    "returns_a_tuple": "forward returned tuple, not a tensor (16, 32)",
    "returns_nothing": "forward returned NoneType, not a tensor (16, 32)",
    "another_dtype": "y has dtype torch.float64, not torch.float32",
    "another_device": "y has device meta, not cpu",
    "sparse": "y is torch.sparse_coo, not a dense tensor",
    "writes_past_autograd_into_x": "the call changes x",
    "returns_x": "y lies in the memory of x",
    "rescales_its_weights": "the call changes parameter module.linear.weight",
    "rescales_past_autograd": "the call changes parameter module.linear.weight",
    "has_new_weights": "the call changes parameter module.linear.weight",
    "overwrites_its_last_answer": "y is overwritten by the next call",
}
FORWARD_FAULTS = {"writes_into_x": "the call changes x", "half_written": "y holds 256 NaN of 512 numbers"}
BACKWARD_FAULTS = {
    "detached": "y has no graph",
    "detached_from_x": "no gradient reaches x",
    "detached_from_its_weights": "no gradient reaches any parameter",
    "gradient_is_nan": "the gradient of x holds 512 NaN of 512 numbers",
    "writes_into_what_is_sent_back": "the backward pass changes the gradient that it is given",
}


def outside(fault):
    spec = ExternalSpec(model_dim=D, dtype="float32", factory="outside_layers:wrong", options={"fault": fault})
    return build(spec)


def case_of(layer, mode):
    return Case(arm="mine", mode=mode, layer=layer.spec, tokens=TOKENS)


@pytest.mark.parametrize(
    ("mode", "fault", "says"),
    [
        *(("forward", *each) for each in (FAULTS | FORWARD_FAULTS).items()),
        *(("forward_backward", *each) for each in (FAULTS | BACKWARD_FAULTS).items() if each[0] != "returns_nan"),
    ],
)
def test_without_a_reference_it_is_found_all_the_same(mode, fault, says):
    layer = outside(fault)
    preparation = Preparation(layer, "cpu", cache_bytes=0)
    with pytest.raises(WrongAnswer) as caught:
        preparation.check(case_of(layer, mode), "eager", layer)
    assert str(caught.value).startswith(f"wrong answer (eager): {says}")
    assert str(caught.value).endswith("; not timed")


def test_what_goes_wrong_while_it_is_timed_is_found_too():
    layer = outside("is_nan_from_the_tenth_call_on")
    measurement = CaseMeasurement(layer, Clock("cpu"), 0, lambda doing: None)
    sampling = Sampling(min_samples=20, floor_samples=20, max_seconds=1.0, warmup_seconds=0.0)
    with pytest.raises(WrongAnswer, match="y holds 512 NaN of 512 numbers; after it was timed"):
        measurement.run(case_of(layer, "forward"), sampling, ["eager"])


class Dividing(torch.nn.Linear):
    """Its own optimizer divides by the learning rate, which is 0 while it is timed."""

    def __init__(self, model_dim, dtype):
        super().__init__(model_dim, model_dim, dtype=dtype)

    def optimizers(self, name, learning_rate):
        weight = self.weight

        class Divides(torch.optim.SGD):
            def step(self, closure=None):
                super().step()
                with torch.no_grad():
                    weight.mul_(torch.tensor(learning_rate) / torch.tensor(learning_rate))

        return [Divides(self.parameters(), lr=learning_rate)]


def test_parameters_stay_numbers_in_a_training_step():
    layer = build(ExternalSpec(model_dim=D, dtype="float32", factory=f"{__name__}:Dividing"))
    measurement = CaseMeasurement(layer, Clock("cpu"), 0, lambda doing: None)
    case = Case(arm="mine", mode="train_step", layer=layer.spec, tokens=TOKENS, optimizer="sgd")
    with pytest.raises(WrongAnswer, match=r"after a step with sgd parameter module\.weight holds 1024 NaN of 1024"):
        measurement.prepare(case, ["eager"])


def test_each_implementation_is_judged_by_itself(monkeypatch):
    layer = build(ExternalSpec(model_dim=D, dtype="float32", factory="outside_layers:good"))

    def implementation(name, layer, x, routing):
        if name == "compiled":
            return lambda x, routing: layer(x, routing)[:, 1:]
        if name == "cuda_graph":
            raise KeyError("a compiler raises what it likes")
        return layer

    monkeypatch.setattr("membench.measuring.ways.implementation", implementation)
    measurement = CaseMeasurement(layer, Clock("cpu"), 0, lambda doing: None)
    prepared = measurement.prepare(case_of(layer, "forward"), ["cuda_graph", "compiled", "eager"])
    tried = prepared.implementation["tried"]
    assert prepared.implementation["chosen"] == "eager"
    assert tried["compiled"]["error"].startswith("wrong answer (compiled): y has shape (16, 31)")
    assert "a compiler raises" in tried["cuda_graph"]["error"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_ours_is_sound(name, dtype, seed):
    layer = built(name, dtype, seed=seed)
    x, other = tokens(layer, 33, seed), tokens(layer, 33, seed + 1)
    upstream = tokens(layer, 33, seed + 2)
    layer.train()
    assert find_fault(layer, x, call=layer, upstream=upstream, other=(other, None)) is None
    layer.eval()
    assert find_fault(layer, x, call=layer, upstream=None, other=(other, None)) is None


def test_a_routing_that_is_written_into_is_found(seed):
    layer = built("memory", seed=seed)
    x = tokens(layer, 9, seed)
    chosen = layer.select(x)
    routing = Routing(chosen.indices, RemoteLookups(chosen.indices, chosen.weights.detach()))

    def spoils(x, routing):
        y = layer(x, Routing(routing.selected))
        routing.remote.weights.zero_()
        return y

    found = find_fault(layer, x, routing, call=spoils, upstream=None, other=None)
    assert found == "the call changes the routing (remote.weights)"
    assert routing.remote.weights.count_nonzero(), "what was given is what the next check is given"


def test_a_table_row_gradient_that_is_nan_is_found(monkeypatch):
    layer = built("memory")
    x = tokens(layer, 9, 0)
    upstream = torch.ones_like(x)
    step = type(layer.tables()[0]).bag

    def bag(self, lookups, weights):
        y = step(self, lookups, weights)
        y.register_hook(lambda gradient: gradient * float("inf"))
        return y

    monkeypatch.setattr(type(layer.tables()[0]), "bag", bag)
    found = find_fault(layer, x, call=layer, upstream=upstream, other=None)
    assert found is not None
    assert "gradient of" in found


def test_an_operator_is_checked_too(monkeypatch):
    spec = spec_from({"kind": "key_scores", "dtype": "float32", "num_keys": 400, "heads": 2, "key_dim": 16})
    operator = build(spec)
    case = Case(arm="scores", level="op", mode="forward", layer=spec, tokens=TOKENS)
    preparation = Preparation(operator, "cpu", cache_bytes=0)
    preparation.check(case, "eager", operator)
    with pytest.raises(WrongAnswer, match=r"y has dtype torch\.float64"):
        preparation.check(case, "compiled", lambda x, routing: operator(x, routing).double())


def test_verify_alone_names_an_answer_that_is_none():
    layer = built("dense")
    x = tokens(layer, 5, 0)
    assert "forward returned list" in verify(layer, x, call=lambda x, routing: [layer(x)]).failure
    assert "has no graph" in verify(layer, x, call=lambda x, routing: layer(x).detach()).failure
    assert "no gradient reaches x" in verify(layer, x, call=lambda x, routing: layer(x.detach())).failure


class Referred(torch.nn.Linear):
    """Its reference is of another shape, its choice is no Selection, or its notes are one text."""

    notes = "one note"

    def __init__(self, model_dim, dtype, fault):
        super().__init__(model_dim, model_dim, dtype=dtype)
        if fault == "reference":
            self.reference = lambda x: torch.nn.functional.linear(x, self.weight, self.bias)[:, :1]
        if fault == "select":
            self.select = lambda x: x.argmax(dim=-1)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("reference", r"reference\(\) returned \(4, 1\), not a tensor \(4, 32\)"),
        ("select", r"select\(\) returned Tensor, not a Selection"),
    ],
)
def test_what_a_layer_from_outside_says_of_itself_is_checked_too(fault, says):
    spec = ExternalSpec(model_dim=D, dtype="float32", factory=f"{__name__}:Referred", options={"fault": fault})
    layer = build(spec)
    assert layer.notes == ("one note",)
    with pytest.raises(ValueError, match=says):
        verify(layer, torch.randn(TOKENS, D), gradients=False)
