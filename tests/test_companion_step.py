"""A SwiGLU beside a sparse layer in one call: awkward sizes against float64, and where it is used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from few_token_checks import apart, counted_both_ways, given_to_layer
from torch.nn import functional

from layers import build
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.companion_step import companion_step
from layers.kernels.stages import observed_by
from layers.models.block import Block
from layers.spec import AttentionSpec, BlockSpec, MemoryPlusSpec, MemorySpec, PeerSpec, Step
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 12 * 2**-8, torch.float16: 12 * 2**-11}
EPS = 1e-3
KEYS = {"model_dim": 24, "num_keys": 49, "heads": 2, "top_k": 3, "key_dim": 8, "dtype": "float32"}
LAYERS = {
    "memory": MemorySpec(**KEYS, companion_hidden=9),
    "memory_plus": MemoryPlusSpec(**KEYS, companion_hidden=40),
    "peer": PeerSpec(**KEYS, companion_hidden=17),
}


def drawn(tokens, model_dim, hidden, dtype, *, in_block):
    shapes = (tokens, model_dim), (2 * hidden, model_dim), (model_dim, hidden), (tokens, model_dim)
    x, gate_up, down, beside = (torch.randn(shape) for shape in shapes)
    of_matrices = gate_up / model_dim**0.5, down / hidden**0.5
    x, gate_up, down, beside = (each.to(dtype) for each in (x, *of_matrices, beside))
    return x, (torch.randn(model_dim).to(dtype), EPS) if in_block else None, gate_up, down, beside


def plainly(x, block, gate_up, down, beside):
    gate, up = (given_to_layer(x, block) @ gate_up.double().t()).chunk(2, dim=1)
    return beside.double() + (functional.silu(gate) * up).to(x.dtype).double() @ down.double().t()


@pytest.mark.parametrize("tokens, model_dim, hidden", [(1, 1, 1), (1, 67, 301), (3, 130, 17), (8, 40, 96)])
@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_against_float64(dtype, in_block, tokens, model_dim, hidden, seed):
    torch.manual_seed(seed)
    given = drawn(tokens, model_dim, hidden, dtype, in_block=in_block)
    before = [each.clone() for each in given if isinstance(each, torch.Tensor)]
    with poisoned_memory():
        found = companion_step(*given)
    assert found.dtype == dtype
    assert error_of_sums(found, plainly(*given), 1) < TOLERANCE[dtype]
    after = [each for each in given if isinstance(each, torch.Tensor)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_the_same_bits_by_any_number_of_threads_and_of_parts(restored_threads, seed):
    torch.manual_seed(seed)
    x, block, *others = drawn(2, 67, 130, torch.float32, in_block=True)
    lying_apart = apart(x), (apart(block[0]), EPS), *map(apart, others)
    found = []
    for threads, given in ((1, (x, block, *others)), (3, (x, block, *others)), (64, lying_apart)):
        torch.set_num_threads(threads)
        found.append(companion_step(*given))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_nan_shows_in_its_token_alone():
    given = drawn(3, 20, 8, torch.float32, in_block=True)
    given[0][1, 7] = torch.nan
    assert companion_step(*given).isnan().all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("number", "changed"),
    [
        (0, torch.ones(2, 7)),
        (1, (torch.ones(7), EPS)),
        (1, (torch.ones(8).half(), EPS)),
        (2, torch.ones(9, 8)),
        (3, torch.ones(7, 5)),
        (3, torch.ones(8, 5).bfloat16()),
        (4, torch.ones(1, 8)),
    ],
)
def test_what_does_not_fit_is_refused(number, changed):
    given = [*drawn(2, 8, 5, torch.float32, in_block=True)]
    given[number] = changed
    with pytest.raises(ValueError, match=r"should be|float32"):
        companion_step(*given)


def test_torch_finds_no_fault_with_the_operator():
    x, (scale, eps), *others = drawn(2, 8, 5, torch.float32, in_block=True)
    for given in (scale, None):
        torch.library.opcheck(torch.ops.membench.companion_step.default, (x, given, eps, *others))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_of_few_tokens_computes_its_companion_so(name, seed):
    torch.manual_seed(seed)
    layer, x = build(LAYERS[name], seed=1), torch.randn(2, 24)
    found = layer.step(x, None, None)
    with paths.forced("torch"):
        assert relative_rms(found, layer(x).double()) < 1e-5
    with observed_by(clock := StageClock("cpu")):
        assert torch.equal(layer(x), found)
    assert {"bag" if name != "peer" else "experts", "companion_up", "companion_down"} <= {
        key.name for key in clock.seconds()
    }
    by_one, by_parts = counted_both_ways(layer, x)
    assert by_one == by_parts > 0


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_block_norms_for_both_and_adds_once(name, seed):
    torch.manual_seed(seed)
    spec = BlockSpec(
        ffn=LAYERS[name], model_dim=24, dtype="float32", attention=AttentionSpec(heads=2, kv_heads=1, head_dim=12)
    )
    found = []
    for path in ("native", "torch"):
        block = build(spec, seed=1)
        assert isinstance(block, Block)
        block.make_ready(Step(2, mode="decode", sequences=2, context=3), seed=1)
        torch.manual_seed(seed)
        with paths.forced(path):
            found.append(block(torch.randn(2, 24)))
    assert relative_rms(found[0], found[1].double()) < 1e-5
