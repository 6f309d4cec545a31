"""The pacer: its amounts follow the cost of the case alone, and a round says what it did."""

import pytest
import torch

from layers import build, spec_from
from layers.spec import Cost, MemoryNeed, StageCost, Step
from membench.case import Case
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.pacer import VERSION, Pacer, amounts
from membench.measuring.time import Clock, Sampling

TOKENS = 64


def cost_of(kind, mode="forward", optimizer=None, **layer):
    return spec_from({"kind": kind, "dtype": "float32", **layer}).cost(Step(TOKENS, mode=mode, optimizer=optimizer))


def dense(**changes):
    return cost_of("dense", **{"model_dim": 256, "ffn_hidden": 1024, **changes})


def memory(**changes):
    return cost_of("memory", **{"model_dim": 256, "num_keys": 128**2, "heads": 4, "top_k": 8, "key_dim": 64, **changes})


def product_flops(does):
    return does.products * 2 * does.product_rows * does.inner * does.columns


def stream_bytes(does):
    return does.streams * 3 * does.stream_elements * 4


def made(*stages, lookups=0, weights=1e6):
    need = MemoryNeed(weights=weights, gradients=0, optimizer=0, activations=0)
    return Cost(0, 0, 0, 0, stages, need, lookups=lookups)


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("case", [dense, memory])
def test_a_call_does_the_flops_and_reads_the_row_bytes_of_a_step(case, mode):
    cost = case(mode=mode)
    does = amounts(cost, "float32", TOKENS)
    multiplied = sum(s.flops for s in cost.stages if not s.row_bytes_unique)
    assert product_flops(does) == pytest.approx(multiplied, rel=0.2)
    assert does.rows * does.row_elements * 4 == pytest.approx(sum(s.row_bytes_unique for s in cost.stages), rel=0.05)


def test_what_is_streamed_alone_is_streamed():
    update = next(s for s in dense(mode="train_step", optimizer="adamw").stages if s.name == "update")
    does = amounts(dense(mode="train_step", optimizer="adamw"), "float32", TOKENS)
    assert stream_bytes(does) == pytest.approx(update.stream_bytes, rel=0.01)
    assert amounts(dense(), "float32", TOKENS).streams == 0


def test_its_weights_lie_where_the_cases_do():
    """Bytes of the product's weights are what one forward pass streams, however often a step does so."""
    once = sum(s.stream_bytes for s in dense().stages)
    for mode in ("forward", "forward_backward"):
        does = amounts(dense(mode=mode), "float32", TOKENS)
        assert does.inner * does.columns * 4 == pytest.approx(once, rel=0.15)


def test_no_working_set_is_larger_than_it_need_be():
    large = made(
        StageCost("up", flops=1e15, stream_bytes=1e12),
        StageCost("update", stream_bytes=1e12),
        StageCost("bag", row_bytes_unique=1e9, row_bytes_issued=1e9),
        lookups=100_000,
        weights=1e12,
    )
    does = amounts(large, "bfloat16", TOKENS)
    assert does.inner * does.columns * 2 <= 1.01 * 2**28
    assert 3 * does.stream_elements * 2 <= 2**28
    assert does.table_rows * does.row_elements * 2 <= 2**28
    assert product_flops(does) == pytest.approx(1e15, rel=0.01)
    assert does.streams * 3 * does.stream_elements * 2 == pytest.approx(1e12, rel=0.01)


def test_a_case_of_which_nothing_is_counted_has_no_pacer():
    assert amounts(made(StageCost("all")), "float32", TOKENS) is None
    assert amounts(made(), "float32", TOKENS) is None


def test_more_flops_a_byte_are_more_rows_of_the_product():
    def product_rows(flops):
        return amounts(made(StageCost("up", flops=flops, stream_bytes=4e6)), "float32", TOKENS).product_rows

    assert [product_rows(2e6 * rows) for rows in (0.1, 1, 8, 1000)] == [1, 1, 8, TOKENS]


def test_it_calls_nothing_of_ours(monkeypatch):
    """Kernels of layers may change between two runs; what they are compared by may not."""
    import membench.layers.kernels.paths as paths

    taken = []
    monkeypatch.setattr(paths, "implementation", lambda *asked: taken.append(asked))
    pacer = Pacer(amounts(memory(), "float32", TOKENS), "cpu")
    pacer(0)
    pacer(1)
    assert not taken
    assert pacer.as_json()["version"] == VERSION


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_same_in_every_process(dtype):
    does = amounts(memory(mode="train_step", optimizer="adamw"), dtype, TOKENS)
    one, other = Pacer(does, "cpu"), Pacer(does, "cpu")
    assert torch.equal(one._indices, other._indices)
    assert one._indices.max() < len(one._table)
    assert one._table.shape == other._table.shape == (does.table_rows, does.row_elements)
    one(17)


@pytest.mark.parametrize("paced", [True, False])
def test_a_round_says_what_its_pacer_did(paced):
    spec = spec_from({"kind": "dense", "model_dim": 32, "ffn_hidden": 64, "dtype": "float32"})
    case = Case(arm="dense", mode="forward", layer=spec, tokens=4)
    measurement = CaseMeasurement(build(spec, device="cpu"), Clock("cpu"), 2**16, lambda _: None)
    found = measurement.run(case, Sampling(5, 5, 1, 0.0), ["eager"], paced=paced)
    assert list(found["counters"]) == ["instructions_per_call"]
    if not paced:
        assert found["pacer"] == {}
        return
    assert found["pacer"]["amounts"] == amounts(spec.cost(Step(4)), "float32", 4).as_json()
    assert len(found["pacer"]["samples_s"]) == len(found["samples_s"]) == 5
    for name in ("on_core_s", "case_on_core_s"):
        assert len(found["pacer"][name]) in (0, 5)
