"""What torch knows of the operators: its own checks, its compiler, its flop counter, its profiler."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from layers import build, spec_from
from layers.checking.verification import relative_rms
from layers.kernels import matmul
from layers.kernels.lookups import find_runs
from layers.kernels.row_passes import (
    row_backward,
    row_backward_update_,
    row_dots,
    update_rows_,
    weighted_bag,
)
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep
from layers.kernels.step_clock import Field, advance_, new_clock
from layers.kernels.top_k import product_key_top_k
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import Step

SMALL = {"model_dim": 24, "num_keys": 4096, "heads": 2, "top_k": 4, "key_dim": 8, "dtype": "float32"}
KINDS = ["memory", "memory_plus", "peer"]
TOKENS = [9, 5, 33]
# All of dynamo and autograd's compiler, with fake kernels, but no code: that torch's own operators can be
# generated is not for these tests, which would take a minute of a compiler's time.
BACKEND = "aot_eager"
FP32 = 1e-5  # the tolerance of a layer in fp32: compiled, its sums are taken in another order, and some nearly cancel


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def one_library(monkeypatch):
    """A compiler takes torch's products, which round in another order than what may be the faster library's."""
    monkeypatch.setattr(matmul, "_onednn_is_faster", lambda: False)


def a_layer(kind, **changes):
    return build(spec_from({"kind": kind, **SMALL, **changes}))


class Sample:
    """Small arguments of every operator."""

    def __init__(self, tokens=6):
        self.table, self.tokens = torch.randn(50, 7), torch.randn(tokens, 7)
        self.rows = torch.randint(50, (tokens, 3), dtype=torch.int32)
        self.weights = torch.rand(tokens, 3)
        self.runs = find_runs(self.rows.flatten(), 50)

    def row_pass(self):
        return self.runs.rows, self.runs.starts, self.runs.order, self.weights, self.tokens

    def update(self, optimizer, clock=None):
        """Arguments before and after those of the pass."""
        state = RowState.of(self.table, optimizer)
        numbers = (optimizer, [0.1, 0.1, 1e-8, 0.9, 0.99], 1, None, clock)
        return (self.table.clone(), state.sums, state.first, state.second, state.stamps), numbers


def counted():
    """A clock of a table's second update."""
    clock = new_clock(torch.device("cpu"))
    clock[Field.LEARNING_RATE : Field.BETA2 + 1] = torch.tensor([0.1, 0.1, 0.9, 0.99])
    for _ in range(2):
        advance_(clock, adam=True)
    return clock


def leaf(tensor):
    return tensor.clone().requires_grad_()


def operator_samples():
    torch.manual_seed(0)
    s = Sample()
    queries, keys = torch.randn(4, 2, 2, 3), torch.randn(2, 2, 9, 3)
    yield "weighted_bag", (s.table, s.rows, leaf(s.weights))
    yield "weighted_bag", (leaf(s.table), s.rows.long(), leaf(s.weights))
    yield "row_dots", (s.table, s.rows, leaf(s.tokens))
    yield "row_dots", (leaf(s.table), s.rows, leaf(s.tokens))
    yield "row_dots", (s.table.bfloat16(), s.rows, leaf(s.tokens.bfloat16()))
    yield "find_runs", (s.rows.flatten(), 50)
    yield "find_runs", (s.rows.flatten().long()[:0], 50)
    for gradient, dots in ((True, True), (True, False), (False, True)):
        yield "row_backward", (s.table, *s.row_pass(), False, gradient, dots)
    yield "row_backward", (s.table, *s.row_pass(), True, True, False)
    yield "row_backward", (s.table.bfloat16(), *s.row_pass()[:-1], s.tokens.bfloat16(), False, True, True)
    for optimizer in ROW_OPTIMIZERS:
        changed, numbers = s.update(optimizer)
        yield "row_backward_update_", (*changed, *s.row_pass(), *numbers, optimizer != "sgd")
        changed, numbers = s.update(optimizer, counted())
        yield "update_rows_", (*changed, s.runs.rows, torch.randn(len(s.runs.rows), 7), *numbers)
    yield "key_scores", (leaf(queries), leaf(keys), True, 1e-6)
    yield "key_scores", (queries, leaf(keys.bfloat16()), False, 1e-6)
    yield "product_key_top_k", (torch.randn(2, 2, 4, 9), 4)
    yield "product_key_top_k", (torch.randn(2, 2, 4, 9), 4, torch.rand(2, 2, 1, 9))
    chosen = (torch.randint(9, (2, 4, 2, 4), dtype=torch.int32), torch.randn(4, 2, 4), 9)
    yield "scores_gradient", chosen
    yield "scores_gradient", (*chosen, torch.rand(2, 2, 1, 9), torch.bfloat16)


SAMPLES = list(operator_samples())
# in test_grouped_matmul.py, test_quantized_table.py, test_native_grouped_matmul.py, test_attend_last.py,
# test_block_steps.py, test_retrieval_steps.py, test_moe_steps.py, test_short_attention.py,
# test_activate.py, test_cross_entropy.py, test_triton_rms_norm.py and
# test_triton_router.py
CHECKED_ELSEWHERE = {"experts", "experts_backward", "quantized_bag", "linear", "linear_gradients"}
CHECKED_ELSEWHERE |= {"few_rows_linear", "attend_last", "rms_norm", "rms_norm_backward", "block_step"}
CHECKED_ELSEWHERE |= {"short_attention", "short_attention_backward", "activate", "activate_backward"}
CHECKED_ELSEWHERE |= {"gated", "gated_backward", "rms_norm_scaled_twice", "rms_norm_scaled_twice_backward"}
CHECKED_ELSEWHERE |= {"cross_entropy", "cross_entropy_backward", "inverse_rms", "across_rows"}
CHECKED_ELSEWHERE |= {"route", "route_backward", "memory_step", "peer_step", "moe_step", "head_step", "companion_step"}
CHECKED_ELSEWHERE |= {"advance_clock_"}  # in test_step_clock.py; no compiler meets it


def test_no_operator_goes_unchecked():
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ours = {name.removeprefix("membench::") for name in names if name.startswith("membench::")}
    assert ours == {name for name, _ in SAMPLES} | CHECKED_ELSEWHERE


@pytest.mark.parametrize("number", range(len(SAMPLES)), ids=[name for name, _ in SAMPLES])
def test_torch_finds_no_fault(number, path):
    """Schema, mutations, fake kernels, autograd's registration, and both with sizes that change."""
    name, arguments = SAMPLES[number]
    torch.library.opcheck(getattr(torch.ops.membench, name).default, arguments)


def test_torch_finds_no_fault_with_the_gradient_of_a_choice(path, seed):
    """Less the one check that sums all results, integers too, and cannot add floats to these."""
    torch.manual_seed(seed)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = torch.ops.membench.product_key_top_k.default
    torch.library.opcheck(operator, (torch.randn(2, 2, 4, 9, requires_grad=True), 4), test_utils=checks)


def bag(s):
    return weighted_bag(s.table, s.rows, s.weights)


def dots(s):
    return row_dots(s.table, s.rows, s.tokens)


def backward(s):
    runs = find_runs(s.rows.flatten(), 50)
    return row_backward(s.table, runs, s.weights, s.tokens, gradient=True, dots=True)


def choice(s):
    return product_key_top_k(s.tokens.view(1, 1, -1, 7).expand(2, 2, -1, 7), 3)


def updates(s):
    """The changed table and state, by a pass that updates and by an update of given rows."""
    table, state = s.table.clone(), RowState.of(s.table, "lazy_adam")
    runs, step = find_runs(s.rows.flatten(), 50), RowStep("lazy_adam", 0.1, 0.1, number=2)
    found = row_backward_update_(table, state, runs, s.weights, s.tokens, step, dots=True)
    update_rows_(table, state, runs.rows, s.table[: runs.rows.shape[0]], RowStep("lazy_adam", 0.1, number=3))
    return found, table, *state.named_tensors().values()


@pytest.mark.parametrize("function", [bag, dots, backward, choice, updates])
def test_an_operator_compiles_once_for_any_number_of_tokens(function, path, seed):
    torch.manual_seed(seed)
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
    frames = set()
    for tokens in TOKENS:
        sample = Sample(tokens)
        torch.testing.assert_close(compiled(sample), function(sample), rtol=0, atol=0)
        frames.add(counter.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_one_graph_for_any_number_of_tokens(kind, seed):
    torch.manual_seed(seed)
    layer, counter = a_layer(kind, companion_hidden=32), CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    frames = set()
    with torch.no_grad():
        for tokens in TOKENS:
            x = torch.randn(tokens, 24)
            # products of the companion may be another library's
            assert relative_rms(compiled(x), layer(x).double()) < FP32
            frames.add(counter.frame_count)
    assert len(frames) == 1


def test_a_layer_marked_dynamic_is_compiled_once(seed):
    torch.manual_seed(seed)
    layer, counter = a_layer("memory"), CompileCounterWithBackend(BACKEND)
    compiled, frames = torch.compile(layer, fullgraph=True, backend=counter), set()
    with torch.no_grad():
        for tokens in TOKENS:
            x = torch.randn(tokens, 24)
            torch._dynamo.mark_dynamic(x, 0)
            # not equal bit by bit: for few rows an eager layer takes a kernel of its own, a compiler none
            assert relative_rms(compiled(x), layer(x).double()) < FP32
            frames.add(counter.frame_count)
    assert len(frames) == 1


def test_code_is_generated_for_a_layer(seed):
    """By torch's own compiler this time."""
    torch.manual_seed(seed)
    layer, x = a_layer("memory_plus"), torch.randn(9, 24)
    with torch.no_grad():
        assert relative_rms(torch.compile(layer, fullgraph=True)(x), layer(x).double()) < FP32


def gradients(layer, run, x, optimizer=None):
    """By name, those of x, of parameters and of table rows; where an optimizer updates these, the updated rows."""
    layer.zero_gradients()
    x = x.detach().requires_grad_()
    if optimizer is None:
        run(x).square().sum().backward()
    else:
        with optimizer.fused():
            run(x).square().sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None} | {"x": x.grad}
    for number, table in enumerate(layer.tables()):
        assert (table.gradient is None) == (optimizer is not None)
        found[f"table {number}"] = table.weight.clone() if optimizer else table.gradient.to_dense(4096)
    return found


@pytest.mark.parametrize("kind", ["memory_plus", "peer"])
def test_a_compiled_layer_trains_as_the_layer_does(kind, seed):
    torch.manual_seed(seed)
    layer, counter = a_layer(kind), CompileCounterWithBackend(BACKEND)
    compiled, frames = torch.compile(layer, backend=counter, dynamic=True), set()
    for tokens in TOKENS:
        x = torch.randn(tokens, 24)
        expected, found = gradients(layer, layer, x), gradients(layer, compiled, x)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert relative_rms(found[name], gradient.double()) < FP32, name
        frames.add(counter.frame_count)
    assert len(frames) == 1


def test_a_compiled_layer_updates_its_rows_in_the_backward(seed):
    torch.manual_seed(seed)
    x, results = torch.randn(7, 24), []
    for compiled in (False, True):
        layer = a_layer("memory")
        optimizer = LayerOptimizer(layer, "row_adagrad", 0.1)
        run = torch.compile(layer, backend=BACKEND) if compiled else layer
        results.append(gradients(layer, run, x, optimizer))
    for name, expected in results[0].items():
        assert relative_rms(results[1][name], expected.double()) < FP32, name


@pytest.mark.parametrize("change", [{}, {"top_k": 9}, {"companion_hidden": 32}, {"heads": 1}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_counter_sees_what_the_config_counts(kind, change, path, seed):
    """Forward, backward, and a backward that updates rows: each the FLOPs of the formulas in docs/layers.md."""
    torch.manual_seed(seed)
    layer, x = a_layer(kind, **change), torch.randn(9, 24, requires_grad=True)
    spec, optimizer = layer.spec, LayerOptimizer(layer, "row_adagrad")
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as both:
        layer(x).sum().backward()
    optimizer.zero_grad()
    with FlopCounterMode(display=False) as fused, optimizer.fused():
        y.sum().backward()
    whole = spec.cost(Step(9, mode="forward_backward")).flops
    assert forward.get_total_flops() == spec.cost(Step(9)).flops
    assert both.get_total_flops() == whole
    assert fused.get_total_flops() == whole - spec.cost(Step(9)).flops


def test_the_profiler_names_the_operators(path, seed):
    torch.manual_seed(seed)
    layer = a_layer("peer")
    optimizer, x = LayerOptimizer(layer, "row_adagrad"), torch.randn(9, 24, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as profiled, optimizer.fused():
        layer(x).sum().backward()
    names = {event.name for event in profiled.events()}
    wanted = {"key_scores", "product_key_top_k", "row_dots", "weighted_bag", "find_runs", "row_backward_update_"}
    if torch.__version__ >= (2, 14):  # the node of the graph that calls them stands for these two
        wanted -= {"row_dots", "weighted_bag"}
        assert names >= {"_Dots", "_Bag"}
    assert names >= {f"membench::{name}" for name in wanted}
