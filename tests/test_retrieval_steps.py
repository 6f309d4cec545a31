"""Memory and PEER layers of few tokens in C++: awkward sizes against float64, and where they are used."""

import math

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from few_token_checks import apart, counted_both_ways, given_to_layer
from torch.nn import functional

from layers import build
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.memory_step import memory_step
from layers.kernels.peer_step import peer_step
from layers.kernels.quantization import dequantize_rows, quantize_rows
from layers.kernels.retrieval_step import MOST_TOKENS, Retrieving
from layers.kernels.stages import observed_by
from layers.layer import Routing
from layers.models.block import Block
from layers.spec import AttentionSpec, BlockSpec, MemoryPlusSpec, MemorySpec, PeerSpec, Step
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-3
SHAPES = {  # tokens, d, heads, columns of a half, sub-keys, top-k, value dim
    "smallest": (1, 1, 1, 1, 1, 1, 1),
    "all": (2, 17, 1, 3, 3, 3, 5),
    "odd": (1, 67, 3, 9, 13, 5, 131),
    "few": (4, 40, 1, 16, 7, 2, 70),
    "crowd": (67, 17, 2, 3, 2, 2, 5),
}
LARGE = (3, 130, 4, 33, 150, 32, 300)
NORMS = {"plain": (False, False), "query_norm": (True, False), "qk_norm": (False, True), "both": (True, True)}


def drawn(shape, norms, dtype, *, in_block=False):
    """What chooses, of so large a gap to what was not chosen that no rounding of the dtype closes it."""
    tokens, d, heads, c, n, k, _ = shape
    for _ in range(1000):
        tensors = {
            "x": torch.randn(tokens, d),
            "query": torch.randn(heads * 2 * c, d) / math.sqrt(d),
            "keys": torch.randn(heads, 2, n, c) / math.sqrt(c),
        }
        norm = (torch.randn(2 * c).to(dtype), torch.randn(2 * c).to(dtype)) if norms[0] else None
        scales = (torch.rand(2 * c).to(dtype) + 1, torch.rand(2 * c).to(dtype) + 1) if norms[1] else None
        block = (torch.randn(d).to(dtype), EPS) if in_block else None
        given = Retrieving(
            **{name: each.to(dtype) for name, each in tensors.items()},
            norm=norm,
            scales=scales,
            top_k=k,
            eps=EPS,
            block=block,
            chosen=None,
        )
        if plainly_chosen(given)[2] > (40 if dtype == torch.float32 else 2) * torch.finfo(dtype).eps:
            return given
    raise AssertionError("no draw has such a gap")


def plainly_chosen(given):
    """Rows and weights (B, H, k) in float64, and the least gap between a sum that is chosen and one that is not."""
    heads, _, n, c = given.keys.shape
    tokens, k = len(given.x), given.top_k
    projected = (given_to_layer(given.x, given.block) @ given.query.double().t()).to(given.x.dtype).double()
    rows, weights, gap = torch.zeros(tokens, heads, k).long(), torch.zeros(tokens, heads, k).double(), math.inf
    for token in range(tokens):
        for head in range(heads):
            query = projected[token, head * 2 * c : (head + 1) * 2 * c]
            if given.norm is not None:
                weight, bias = (each.double() for each in given.norm)
                query = functional.layer_norm(query, (2 * c,), weight, bias, given.eps)
            sums = torch.zeros(n, n).double()
            for half in range(2):
                q, keys = query[half * c :][:c], given.keys[head, half].double()
                if given.scales is not None:
                    q = functional.rms_norm(q, (c,), given.scales[0][half * c :][:c].double(), given.eps)
                    keys = functional.rms_norm(keys, (c,), given.scales[1][half * c :][:c].double(), given.eps)
                scores = keys @ q
                sums += scores[:, None] if half == 0 else scores[None, :]
            best, places = sums.flatten().sort(descending=True)
            rows[token, head], weights[token, head] = places[:k], best[:k].softmax(0)
            if k < n * n:
                gap = min(gap, float((best[k - 1] - best[k]) / (1 + best.abs().max())))
    return rows, weights, gap


def plain_memory(given, table, gate=None, output=None):
    rows, weights, _ = plainly_chosen(given)
    rows = rows if given.chosen is None else given.chosen.long()
    x, dtype = given_to_layer(given.x, given.block), given.x.dtype
    y = torch.stack([weights[b].flatten() @ table.double()[rows[b].flatten()] for b in range(len(x))])
    if output is not None:
        y = y.to(dtype).double()
    if gate is not None:
        y = (y * functional.silu(x @ gate.double().t())).to(dtype).double()
    y = y if output is None else y @ output.double().t()
    return y if given.block is None else y + given.x.double()


def plain_peer(given, down, up):
    rows, weights, _ = plainly_chosen(given)
    rows = rows if given.chosen is None else given.chosen.long()
    x = given_to_layer(given.x, given.block)
    y = torch.zeros(given.x.shape).double()
    for b in range(len(x)):
        hidden = functional.gelu(down.double()[rows[b].flatten()] @ x[b])
        y[b] = (weights[b].flatten() * hidden) @ up.double()[rows[b].flatten()]
    return y if given.block is None else y + given.x.double()


def tolerance(dtype):
    return 2e-5 if dtype == torch.float32 else 12 * torch.finfo(dtype).eps


def matrices(shape, dtype, plus):
    """A table; and a gate and an output if it is memory_plus."""
    _, d, _, _, n, _, width = shape
    width = width if plus else d
    table = torch.randn(n * n, width).to(dtype)
    if not plus:
        return (table,)
    return table, torch.randn(width, d).to(dtype) / d**0.5, torch.randn(d, width).to(dtype) / width**0.5


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in_block"])
@pytest.mark.parametrize("plus", [False, True], ids=["memory", "memory_plus"])
@pytest.mark.parametrize("norms", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_memory_answers_few_tokens(dtype, shape, norms, plus, in_block, seed):
    torch.manual_seed(seed)
    given = drawn(shape, norms, dtype, in_block=in_block)
    table, *gated = matrices(shape, dtype, plus)
    with poisoned_memory():
        found = memory_step(given, table, None, *(gated or (None, None)))
    assert found.dtype == dtype
    assert error_of_sums(found, plain_memory(given, table, *gated), 1) < tolerance(dtype)


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in_block"])
@pytest.mark.parametrize("norms", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_peer_answers_few_tokens(dtype, shape, norms, in_block, seed):
    torch.manual_seed(seed)
    given = drawn(shape, norms, dtype, in_block=in_block)
    n, d = shape[4], shape[1]
    down, up = torch.randn(n * n, d).to(dtype) / d**0.5, torch.randn(n * n, d).to(dtype)
    with poisoned_memory():
        found = peer_step(given, down, up)
    assert found.dtype == dtype
    assert error_of_sums(found, plain_peer(given, down, up), 1) < tolerance(dtype)


def test_long_lists_of_several_heads(seed):
    torch.manual_seed(seed)
    given = drawn(LARGE, NORMS["qk_norm"], torch.float32, in_block=True)
    table, gate, output = matrices(LARGE, torch.float32, True)
    found = memory_step(given, table, None, gate, output)
    assert error_of_sums(found, plain_memory(given, table, gate, output), 1) < tolerance(torch.float32)


@pytest.mark.parametrize("row_dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_eight_bits(dtype, row_dtype, seed):
    torch.manual_seed(seed)
    shape = SHAPES["odd"]
    given = drawn(shape, NORMS["qk_norm"], dtype)
    table, gate, output = matrices(shape, dtype, True)
    rows, scales = quantize_rows(table.float(), row_dtype)
    found = memory_step(given, rows, scales, gate, output)
    expected = plain_memory(given, dequantize_rows(rows, scales), gate, output)
    assert error_of_sums(found, expected, 1) < tolerance(dtype)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_that_are_given_are_read(index, seed):
    torch.manual_seed(seed)
    shape = SHAPES["odd"]
    given = drawn(shape, NORMS["plain"], torch.float32)
    imposed = torch.randint(13 * 13, (1, 3, 5), dtype=index)
    given = Retrieving(*(getattr(given, name) for name in given.__slots__[:-1]), imposed)
    table, *gated = matrices(shape, torch.float32, True)
    assert error_of_sums(memory_step(given, table, None, *gated), plain_memory(given, table, *gated), 1) < 2e-5
    down, up = torch.randn(169, 67), torch.randn(169, 67)
    assert error_of_sums(peer_step(given, down, up), plain_peer(given, down, up), 1) < 2e-5
    imposed[0, 1, 2] = 169
    for call in (lambda: memory_step(given, table, None, *gated), lambda: peer_step(given, down, up)):
        with pytest.raises(IndexError, match="row 169 of a table of 169 rows"):
            call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_each_time_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], NORMS["qk_norm"], dtype, in_block=True)
    table, *gated = matrices(SHAPES["odd"], dtype, True)
    down, up = torch.randn(169, 67).to(dtype), torch.randn(169, 67).to(dtype)
    found = []
    for threads in (1, 1, 3, 64):
        torch.set_num_threads(threads)
        found.append((memory_step(given, table, None, *gated), peer_step(given, down, up)))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_parts_of_other_tensors(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], NORMS["both"], torch.float32, in_block=True)
    table, *gated = matrices(SHAPES["odd"], torch.float32, True)
    lying_apart = Retrieving(
        *(apart(each) for each in (given.x, given.query, given.keys)),
        norm=tuple(map(apart, given.norm)),
        scales=tuple(map(apart, given.scales)),
        top_k=given.top_k,
        eps=EPS,
        block=(apart(given.block[0]), EPS),
        chosen=None,
    )
    found = memory_step(lying_apart, apart(table), None, *map(apart, gated))
    assert torch.equal(found, memory_step(given, table, None, *gated))
    down, up = torch.randn(169, 67), torch.randn(169, 67)
    assert torch.equal(peer_step(lying_apart, apart(down), apart(up)), peer_step(given, down, up))


def test_a_nan_shows_in_its_token_alone(seed):
    torch.manual_seed(seed)
    given = drawn((2, 17, 1, 3, 5, 2, 17), NORMS["qk_norm"], torch.float32)
    given.x[1, 3] = torch.nan
    table = torch.randn(25, 17)
    for found in (memory_step(given, table, None, None, None), peer_step(given, table, table)):
        assert found[0].isfinite().all() and found[1].isnan().all()


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.ones(2, 15)},
        {"x": torch.ones(16)},
        {"x": torch.ones(2, 16).double()},
        {"query": torch.ones(13, 16)},
        {"query": torch.ones(12, 16).half()},
        {"keys": torch.ones(2, 2, 5)},
        {"keys": torch.ones(2, 3, 5, 3)},
        {"keys": torch.ones(2, 2, 5, 3).bfloat16()},
        {"norm": (torch.ones(6), torch.ones(5))},
        {"norm": (torch.ones(6), torch.ones(6).half())},
        {"scales": (torch.ones(3), torch.ones(6))},
        {"block": (torch.ones(15), EPS)},
        {"block": (torch.ones(16).half(), EPS)},
        {"top_k": 0},
        {"top_k": 6},
        {"chosen": torch.ones(2, 2, 4).long()},
        {"chosen": torch.ones(2, 2, 3)},
        {"table": torch.ones(24, 16)},
        {"table": torch.ones(25, 16).int(), "row_scales": torch.ones(25)},
        {"table": torch.ones(25, 16).half()},
        {"table": torch.ones(25, 15)},
        {"table": torch.ones(25)},
        {"gate": torch.ones(16, 16)},
        {"output": torch.ones(16, 15)},
        {"output": torch.ones(16, 16), "gate": torch.ones(16, 15)},
        {"output": torch.ones(16, 16).half()},
        {"table": torch.ones(25, 16, dtype=torch.int8), "row_scales": torch.ones(24)},
        {"table": torch.ones(25, 16, dtype=torch.int8), "row_scales": torch.ones(25).half()},
        {"row_scales": torch.ones(25)},
    ],
)
def test_what_does_not_fit_is_refused(changed):
    given = {
        "x": torch.ones(2, 16),
        "query": torch.ones(12, 16),
        "keys": torch.ones(2, 2, 5, 3),
        "norm": None,
        "scales": None,
        "top_k": 3,
        "eps": EPS,
        "block": None,
        "chosen": None,
        "table": torch.ones(25, 16),
        "row_scales": None,
        "gate": None,
        "output": None,
    }
    given.update(changed)
    memory = [given.pop(name) for name in ("table", "row_scales", "gate", "output")]
    with pytest.raises(ValueError, match=r"should (be|have)"):
        memory_step(Retrieving(**given), *memory)
    if not changed.keys() & {"gate", "output", "row_scales"}:
        with pytest.raises(ValueError, match=r"should (be|have)"):
            peer_step(Retrieving(**given), memory[0], torch.ones(25, 16))


SHAPE = {"model_dim": 24, "dtype": "float32"}
CHOICE = {"num_keys": 49, "heads": 2, "top_k": 3, "key_dim": 8}
LAYERS = {
    "memory": MemorySpec(**SHAPE, **CHOICE),
    "normed": MemorySpec(**SHAPE, **CHOICE, query_norm=True),
    "wide": MemorySpec(**SHAPE, **CHOICE, value_dim=40),
    "plus": MemoryPlusSpec(**SHAPE, **CHOICE),
    "eight bits": MemorySpec(**SHAPE, **CHOICE, row_format="int8"),
    "peer": PeerSpec(**SHAPE, **CHOICE),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_and_its_block_answer_few_tokens_by_it(name, seed):
    block = BlockSpec(attention=AttentionSpec(heads=6, kv_heads=2, head_dim=4), ffn=LAYERS[name], **SHAPE)
    layer, block = build(LAYERS[name], seed=1), build(block, seed=1)
    assert isinstance(block, Block)
    for tokens in (1, MOST_TOKENS, MOST_TOKENS + 1):
        x = torch.randn(tokens, 24, generator=torch.Generator().manual_seed(seed))
        block.make_ready(Step(tokens, mode="decode", sequences=tokens, context=7), seed=2)
        assert (layer.step(x, None, None) is not None) == (tokens <= MOST_TOKENS)
        for of in (layer, block):
            found = of(x)
            with paths.forced("torch"):
                assert relative_rms(found, of(x).double()) < 1e-5


@pytest.mark.parametrize("name", ["memory", "peer"])
def test_where_it_is_used(name):
    layer, x = build(LAYERS[name], seed=1), torch.randn(2, 24)
    assert layer.step(x, None, None) is None  # rows would get no gradient
    with torch.no_grad():
        chosen = torch.randint(49, (2, 2, 3))
        assert relative_rms(layer(x, Routing(selected=chosen)), layer.step(x, Routing(chosen), None).double()) < 1e-6
        assert layer.half().step(x.half(), None, None) is not None
        assert layer.double().step(x.double(), None, None) is None
        assert build(LAYERS[name], ranks=2, seed=1).step(x, None, None) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert build(LAYERS[name], seed=1).step(x, None, None) is None


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_observed_each_stage_is_a_call_with_the_same_bits(name, seed):
    torch.manual_seed(seed)
    layer, x, clock = build(LAYERS[name], seed=1), torch.randn(3, 24), StageClock("cpu")
    expected = layer(x)
    with observed_by(clock):
        clock.begin()
        found = layer(x)
        clock.end()
    counted = [stage.name for stage in layer.spec.cost(Step(3, mode="forward")).stages]
    assert torch.equal(found, expected)
    assert [key.name for key in clock.seconds() if key.name != "rest"] == counted


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_flops_are_those_of_the_parts(name):
    layer, x = build(LAYERS[name], seed=1), torch.randn(3, 24)
    by_one_call, by_parts = counted_both_ways(layer, x)
    assert by_one_call == by_parts > 0


def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], NORMS["both"], torch.float32, in_block=True)
    table, *gated = matrices(SHAPES["odd"], torch.float32, True)
    memory = (*given.operands(), table, None, *gated)
    torch.library.opcheck(torch.ops.membench.memory_step.default, memory)
    peer = (*given.operands(), torch.randn(169, 67), torch.randn(169, 67))
    torch.library.opcheck(torch.ops.membench.peer_step.default, peer)
