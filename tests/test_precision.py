"""No dtype is assumed: under autocast, with mixed dtypes and after a cast layers are right as torch's modules are."""

import copy
import re
from functools import partial

import pytest
import torch
from autocast_cases import KINDS, MODEL_DIM, READ_ONLY, assert_right, built, gradients, reference_of
from torch import nn

from layers import build, spec_from
from layers.checking.sampled_reference import relative_rms
from layers.checking.verification import TOLERANCE
from layers.kernels.key_scores import key_scores
from layers.layer import Routing
from layers.moe import top
from layers.optim.layer_optimizer import LayerOptimizer, clip_gradients_
from layers.routing import draw_experts
from layers.tables.quantized_table import QuantizedTable

HALVES = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALVES]


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed)


def under(dtype):
    """Calls something under CPU autocast to ``dtype``."""

    def forward(function, *arguments):
        with torch.autocast("cpu", dtype):
            return function(*arguments)

    return forward


def tokens(count=43, dtype=torch.float32):
    return torch.randn(count, MODEL_DIM).to(dtype)


def test_two_experts_under_autocast_are_chosen_as_without(path):
    """33 and 31 tokens had become 64 and none."""
    layer = build(spec_from({"kind": "moe", "model_dim": 32, "num_experts": 2, "expert_hidden": 16, "top_k": 1}))
    layer.float()
    x = torch.randn(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        selection, y = layer.select(x), layer(x)
    expected = layer.select(x)
    assert torch.equal(selection.indices, expected.indices) and torch.equal(selection.weights, expected.weights)
    assert layer.load(selection.indices).count_nonzero() == 2
    assert relative_rms(y, layer(x).double()) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 43])
def test_forward_and_gradients_under_autocast(kind, count, path, seed):
    """bf16 everywhere that ``nn.Linear`` would be; fp32 weights."""
    assert_right(built(kind, seed=seed), under(torch.bfloat16), tokens(count), "bfloat16")


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_dtypes_under_autocast(kind, path, seed):
    """Of weights, x and autocast: what is computed is as good as the roughest of them."""
    for weights in ("float32", "bfloat16", "float16"):
        for x in DTYPES:
            for dtype in HALVES:
                rough = torch.bfloat16 in (x, dtype) or weights == "bfloat16"
                layer = built(kind, weights, seed=seed)
                assert_right(layer, under(dtype), tokens(11, x), "bfloat16" if rough else "float16")


@pytest.mark.parametrize("kind", READ_ONLY)
def test_quantized_rows_under_autocast(kind, path, seed):
    layer, x = built(kind, seed=seed).requires_grad_(False), tokens()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, chosen = layer(x), layer.select(x).indices
    exact = built(kind, row_format="same").double()
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            rows = layer.table.exact_rows(torch.arange(layer.spec.num_keys))
            parameter.copy_(rows if name == "table.weight" else layer.get_parameter(name))
    expected = reference_of(exact, torch.Tensor.double, x, chosen)[2]
    assert relative_rms(y, expected.detach()) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize("kind", [*KINDS, *READ_ONLY])
def test_results_have_the_dtype_that_torchs_modules_give(kind, path):
    """A linear map's autocast's; a bag's that of its table; a sum the wider one; weights of a choice fp32."""
    layer = built(kind).requires_grad_(kind not in READ_ONLY)
    of_rows = kind in {"memory", "memory on the host", "peer", "int8 rows"}  # fp32, and summed of them
    for dtype in HALVES:
        with torch.autocast("cpu", dtype), torch.set_grad_enabled(kind not in READ_ONLY):
            y, selection = layer(tokens()), layer.select(tokens())
        assert y.dtype == (torch.float32 if of_rows else dtype)
        assert selection is None or selection.weights.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert layer.eval()(tokens()).dtype == (torch.float32 if of_rows else torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_without_autocast_is_one(kind, path, seed):
    """Inside one with it: fp32 throughout, the backward pass too, though that is run where it is on."""
    layer, other, x = built(kind, seed=seed), built(kind, seed=seed), tokens()
    if getattr(layer, "expert_bias", None) is not None:
        other.expert_bias.copy_(layer.expert_bias)
    upstream = torch.randn_like(other(x))
    (other(x) * upstream).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            y = layer(x)
        y.backward(upstream)
    found, expected = gradients(layer), gradients(other)
    # ordinary products come last there: torch casts their backward, as it does nn.Linear's
    ours = kind not in ("memory, companion", "memory_plus")
    for name in found:
        tolerance = TOLERANCE["float32" if ours and name != "router" else "bfloat16"]
        assert relative_rms(found[name], expected[name].double(), scale=1.0) <= tolerance, name


def test_autocast_does_not_spare_a_graph_that_was_compiled():
    layer, x = built("moe, softmax"), tokens()
    compiled = torch.compile(layer, backend="eager")
    plain, cast = compiled(x), under(torch.bfloat16)(compiled, x)
    assert plain.dtype == torch.float32 and cast.dtype == torch.bfloat16
    assert relative_rms(cast, plain.double()) < TOLERANCE["bfloat16"]
    cast.float().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_depend_on_the_default_dtype(kind, default, path, seed):
    layer, x = built(kind, seed=seed), tokens()
    expected = under(torch.bfloat16)(layer, x)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = under(torch.bfloat16)(layer, x)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_was_cast_is_one_of_that_dtype(kind, dtype, path, seed):
    layer = built(kind, seed=seed).to(dtype)
    # a table on the host stays as it is, and is rounded where it is read
    kept = {id(layer.table.weight)} if kind == "memory on the host" else set()
    assert all(p.dtype == dtype for p in layer.parameters() if id(p) not in kept)
    assert layer(tokens(dtype=dtype)).dtype == dtype
    assert_right(layer, lambda function, x: function(x), tokens(dtype=dtype), str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind]["kind"] in ("dense", "moe")])
def test_in_double_precision_gradients_are_those_of_finite_differences(kind, path):
    """No part of it is fp32."""
    layer, x = built(kind).double().eval(), torch.randn(4, MODEL_DIM, dtype=torch.float64, requires_grad=True)
    chosen = None if (selection := layer.select(x)) is None else selection.indices
    fixed = [parameter.detach().requires_grad_() for parameter in layer.parameters()]

    def function(x, *parameters):
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, named, (x, Routing(selected=chosen)))

    assert torch.autograd.gradcheck(function, (x, *fixed), fast_mode=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind]["kind"] not in ("dense", "moe")])
def test_what_is_scored_in_fp32_says_so_in_double_precision(kind, path):
    with pytest.raises(
        ValueError, match=re.escape("keys should be floating-point numbers of at most 32 bits, not torch.float64")
    ):
        built(kind).double()(tokens(dtype=torch.float64))


@pytest.mark.parametrize("kind", [*KINDS, *READ_ONLY])
def test_what_autocast_does_not_make_one_dtype_is_refused(kind, path):
    layer = built(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for x in (tokens(dtype=torch.float64), torch.ones(3, MODEL_DIM, dtype=torch.int64)):
            with pytest.raises(ValueError, match=re.escape(f"x is {x.dtype}, the layer torch.float32")):
                layer(x)
    with torch.no_grad(), pytest.raises(ValueError, match=re.escape("x is torch.bfloat16, the layer torch.float32")):
        layer(tokens(dtype=torch.bfloat16))


def test_a_part_of_another_dtype_is_refused_by_its_name(path):
    layer = built("moe, sigmoid, shared")
    layer.shared.bfloat16()
    with pytest.raises(
        ValueError, match=re.escape("x is torch.float32, gate_up torch.bfloat16: they are multiplied in one")
    ):
        layer(tokens())


def test_a_routers_bias_keeps_what_narrower_numbers_lose():
    layer = built("moe, loss-free")
    layer.expert_bias.fill_(1.0)
    layer.bfloat16()
    layer.update_bias(torch.tensor([0, 0, 0, 0, 40]), rate=0.001)
    assert layer.expert_bias.dtype == torch.float32
    assert layer.expert_bias.tolist() == pytest.approx([1.001] * 4 + [0.999], rel=1e-6)
    assert layer.half().float().expert_bias.tolist() == pytest.approx([1.001] * 4 + [0.999], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_cast_changes_what_quantized_rows_give_and_not_what_they_are(dtype, path):
    table = QuantizedTable.random(40, 6, dtype)
    weight, scales, parameter = table.weight.clone(), table.scales.clone(), table.weight
    table.half()
    assert table.dtype == torch.float16 and table.weight is parameter
    assert table.weight.dtype == dtype and table.scales.dtype == torch.float32
    assert torch.equal(table.weight.view(torch.int8), weight.view(torch.int8)) and torch.equal(table.scales, scales)
    assert table.to("meta").weight.device.type == "meta"


def test_a_gradient_of_rows_is_cast_with_its_table(path):
    layer = built("peer")
    layer(tokens()).sum().backward()
    rows = layer.up.gradient.rows
    layer.bfloat16()
    assert layer.up.gradient.values.dtype == torch.bfloat16 and torch.equal(layer.up.gradient.rows, rows)
    clip_gradients_(layer, 1.0)
    optimizer = LayerOptimizer(layer, "row_adagrad")
    optimizer.step()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_the_highest_scores_of_any_dtype(dtype):
    for tokens in (7, 97) * 25:
        scores = (2 * torch.randn(tokens, 19)).round().to(dtype)
        assert torch.equal(top(scores, 5), scores.sort(dim=-1, descending=True, stable=True).indices[:, :5])


def test_scores_are_of_fp32_queries_only():
    keys = torch.randn(2, 2, 5, 4)
    with pytest.raises(ValueError, match=re.escape("queries should be torch.float32, not torch.bfloat16")):
        key_scores(torch.randn(3, 2, 2, 4).bfloat16(), keys, normalized=False, eps=0.0)


@pytest.mark.parametrize("op", ["key_scores", "product_key_top_k", "weighted_bag"])
@pytest.mark.parametrize("way", ["plain", "auto"])
def test_operators_in_fp32_are_so_under_autocast(op, way, seed):
    sizes = {"num_keys": 49, "heads": 2}
    sizes |= {"key_dim": 6} if op == "key_scores" else {"top_k": 3}
    sizes |= {"model_dim": 5} if op == "weighted_bag" else {}
    layer = build(spec_from({"kind": op, "dtype": "float32", "path": way, **sizes}), seed=seed)
    x, _ = layer.draw(9, torch.Generator().manual_seed(seed))
    routing = Routing(selected=torch.randint(49, (9, 2, 3))) if op == "weighted_bag" else None
    with layer.on_path():
        assert torch.equal(under(torch.bfloat16)(layer, x, routing), layer(x, routing))


def test_a_norm_beyond_fp16_does_not_erase_the_gradients():
    layer = built("dense", "float16", ffn_hidden=3000)
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, 300.0)
    elements = sum(parameter.numel() for parameter in layer.parameters())
    norm = clip_gradients_(layer, 1000.0)
    assert norm.item() == pytest.approx(300 * elements**0.5, rel=1e-3) and norm > 65504
    assert layer.down.grad.float().mean().item() == pytest.approx(1000 / elements**0.5, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_is_seen(kind, path):
    """As who scales losses must see it: in the gradients of rows and in their norm too."""
    layer = built(kind)
    y = under(torch.float16)(layer, tokens())
    (y.float() * 1e38).sum().backward()
    found = gradients(layer)
    assert not all(bool(each.isfinite().all()) for each in found.values())
    assert not clip_gradients_(layer, 1.0).isfinite()
    x = tokens()
    x[3, 5] = torch.nan
    assert under(torch.bfloat16)(layer.eval(), x)[3].isnan().all()


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_drawn_experts_do_not_depend_on_the_default_dtype(kind, seed):
    draw = partial(draw_experts, kind, 64, 4, 300)
    expected = draw(generator=torch.Generator().manual_seed(seed))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(draw(generator=torch.Generator().manual_seed(seed)), expected)
    finally:
        torch.set_default_dtype(before)


def test_training_under_autocast_learns(path):
    """A model of torch's modules and ours, all its steps in bf16, weights and updates in fp32."""
    layer, head = built("memory_plus"), nn.Linear(MODEL_DIM, 1)
    x = tokens(200)
    target = x[:, :1].tanh()
    optimizer, of_head = LayerOptimizer(layer, "row_adam", 0.01), torch.optim.Adam(head.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        of_head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.mse_loss(head(layer(x)).float(), target)
        with optimizer.fused():
            loss.backward()
        optimizer.step()
        of_head.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert copy.deepcopy(layer)(x).dtype == torch.float32
