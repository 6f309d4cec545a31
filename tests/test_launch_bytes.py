"""What a step's launches move and multiply, held against what its spec counts."""

from types import SimpleNamespace

import pytest
import torch

from layers.spec import Step, spec_from

pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")

from layers.kernels.triton import launch
from membench.profiler.launches import kernel_work
from membench.profiler.launches.steps import KINDS, MODES, TOKENS, launches_of_step, spec_of, step_launches
from membench.profiler.launches.tracing import launches_of, on_hopper
from membench.profiler.launches.work import Gather, Uncounted, Work
from membench.profiler.machine_code.every_kernel import every_call

B, D, ITEM = TOKENS, 1024, 2
LOOKUPS = B * 128
TOLERANCE = 1.15


def extra_bytes(kind, mode):
    """What a step moves that its spec does not count, by why. A change that moves more of it says so here."""
    spec, backward, x = spec_of(kind), mode != "forward", B * D * ITEM
    if kind == "dense":
        found = {"the activation is a pass of its own": 2 * ITEM * B * spec.ffn_hidden * (1 if backward else 2)}
        if backward:
            found["its gradients too, read by two products"] = 3 * ITEM * B * spec.ffn_hidden + x
        return found
    if kind == "moe":
        rows, hidden = B * spec.top_k, spec.expert_hidden
        found = {
            "logits read again, and what is chosen among them": 12 * B * spec.num_experts + 12 * rows,
            "a dispatch": 96 * rows,
            "copies of tokens for experts": 2 * rows * D * ITEM,
            "the activation is a pass of its own": 2 * ITEM * rows * hidden * (1 if backward else 2),
        }
        if backward:
            found |= {
                "gradients of a router in fp32": 9 * x + 24 * B * spec.num_experts,
                "three more copies of tokens": 3 * 2 * rows * D * ITEM,
                "its gradients too, read by two products": 5 * ITEM * rows * hidden,
                "the results of rows, which no gradient needs": -rows * D * ITEM,
            }
        return found
    queries, scores = B * spec.heads * spec.key_dim, 2 * spec.heads * B * spec.sub_keys
    found = {"row numbers of two halves": 16 * LOOKUPS}
    if kind == "memory_plus":
        found["a gate in three passes"] = 5 * x
        if backward:
            found |= {"queries normalized in fp32": 6 * queries, "three bf16 parts of them": 14 * queries}
        else:
            found["queries normalized in three bf16 parts"] = 12 * queries
    if kind == "peer":
        found["tokens read again by every 16 rows, and their activation"] = LOOKUPS // 16 * D * ITEM - x + 28 * LOOKUPS
    if backward:
        found |= {
            "lookups sorted by row": 128 * LOOKUPS,
            "gradients of all scores, of which few are chosen": 6 * scores,
            "gradients of queries turned round, read by two products": 6 * queries,
        }
    if backward and kind == "memory_plus":
        found |= {
            "gradients of normalized queries": 28 * queries,
            "gradients of a gate in five passes, and of x, added": 14 * x,
        }
    if backward and kind == "peer":
        found["x's gradient is added to that of its queries"] = 3 * x
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_what_its_spec_counts_and_what_is_named(kind, mode):
    moved = sum(each.work.moved_bytes for each in step_launches(kind, mode))
    extra = extra_bytes(kind, mode)
    counted = spec_of(kind).cost(Step(TOKENS, mode=mode, optimizer="row_adam")).bytes_issued + sum(extra.values())
    assert 1 / TOLERANCE <= moved / counted <= TOLERANCE, (moved / counted, extra)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_multiplies_what_its_spec_counts(kind, mode):
    """A GPU multiplies the gradients of all scores; three bf16 parts of normalized queries are three products."""
    spec, done = spec_of(kind), sum(each.work.flops for each in step_launches(kind, mode))
    counted = spec.cost(Step(TOKENS, mode=mode, optimizer="row_adam")).flops_executed
    if kind in ("memory", "memory_plus", "peer"):
        of_all = 4 * B * spec.heads * spec.sub_keys * spec.key_dim
        counted += 0 if mode == "forward" else of_all - 4 * B * spec.heads * spec.top_k * spec.key_dim
        counted += of_all if kind == "memory_plus" else 0
    assert done == pytest.approx(counted, rel=0.01)


R = {"model_dim": 256, "num_keys": 256**2, "heads": 2, "top_k": 8, "key_dim": 64}
E = {"kind": "moe", "model_dim": 256, "num_experts": 16, "expert_hidden": 64, "top_k": 2}
OTHERS = [
    {"kind": "memory", **R, "companion_hidden": 128, "query_norm": True},
    {"kind": "memory", **R, "value_dim": 128, "dtype": "float32"},
    {"kind": "memory", **R, "row_format": "float8_e4m3fn"},
    {"kind": "memory_plus", **R, "num_keys": 2048**2, "dtype": "float16"},
    {"kind": "memory_plus", **R, "num_keys": 2048**2},  # few of its scores have gradients
    {"kind": "peer", **R, "dtype": "float32"},
    {**E, "router": "sigmoid", "balancing": "bias", "shared_hidden": 64},
    {**E, "choice": "expert", "dtype": "float32"},
    {**E, "top_k": 1, "z_loss_weight": 0.1},
]


@pytest.mark.parametrize("values", OTHERS, ids=str)
def test_layers_of_other_settings_are_counted_too(values):
    spec = spec_from({"dtype": "bfloat16", **values})
    steps = [("forward", None), ("train_step", "row_adagrad"), ("train_step", "lazy_adam"), ("train_step", "sgd")]
    for mode, optimizer in steps:
        if spec.mode_error(mode, optimizer) is None:
            assert launches_of_step(spec, mode, 64, optimizer)


def test_every_kernel_of_ours_has_a_formula():
    told = []
    with launch.told_instead(lambda kernel, *_: told.append(kernel.fn.__name__)):
        for each in every_call([128]):
            each.call()
    assert set(told) == set(kernel_work.NAMES)


def test_a_kernel_and_an_operator_without_one_are_errors():
    with pytest.raises(Uncounted, match="the kernel some_kernel: say in"):
        kernel_work.work_of(SimpleNamespace(fn=SimpleNamespace(__name__="some_kernel")), (), {}, lambda rows, reads: 0)
    with on_hopper(), pytest.raises(Uncounted, match="torch's _fft_r2c"):
        launches_of(lambda: torch.fft.rfft(torch.empty(8, device="meta")))


def moved(call):
    (only,) = launches_of(call)
    return only.work.moved_bytes


def test_operators_move_what_they_read_and_write():
    with on_hopper():
        x, y = torch.empty(8, 4, device="meta"), torch.empty(8, 4, device="meta")
        rows = torch.empty(3, dtype=torch.int64, device="meta")
        assert moved(lambda: x + y) == 3 * 128
        assert moved(lambda: torch.add(x, y, out=torch.empty_like(x))) == 3 * 128
        assert moved(lambda: x.mul_(x)) == 2 * 128, "one that is given twice is read once"
        assert moved(lambda: x.copy_(y)) == 2 * 128
        assert moved(lambda: x.zero_()) == 128
        assert moved(lambda: x.new_zeros(2)) == 8
        assert moved(lambda: x + y[:1].expand(8, 4)) == 2 * 128 + 16
        assert moved(lambda: x.index_select(0, rows)) == 3 * 8 + 2 * 3 * 16
        assert moved(lambda: x[rows]) == 3 * 8 + 2 * 3 * 16
        assert moved(lambda: x.index_add_(0, rows, y[:3])) == 3 * 8 + 3 * 3 * 16


def test_grouped_matrices_without_rows_are_not_read():
    with on_hopper():
        x, weight = torch.empty(2, 64, dtype=torch.bfloat16, device="meta"), 8 * 64 * 64 * 2
        matrices = torch.empty(8, 64, 64, dtype=torch.bfloat16, device="meta")
        ends = torch.empty(8, dtype=torch.int32, device="meta")
        found = moved(lambda: torch.nn.functional.grouped_mm(x, matrices, offs=ends))
    assert weight / 8 < found < 2.5 * weight / 8


def test_a_cache_serves_what_is_read_again():
    work = Work(100.0, (Gather(reads=1000, distinct=10, row_bytes=64),))
    assert work.moved_bytes == 100 + 64_000
    assert work.dram_bytes(0) == work.moved_bytes
    assert work.dram_bytes(640) == 100 + 640
    assert work.dram_bytes(320) == 100 + 640 + 990 * 64 / 2
