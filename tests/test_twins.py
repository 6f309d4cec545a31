"""Copies of a model's part that take turns: what they share, how many there are, and what their training changes."""

import pytest
import torch

from layers import build
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import Step
from membench.case import Case
from membench.measuring import twins
from membench.measuring.inputs import pool_size
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.time import Clock, Sampling, calls_in
from membench.measuring.twins import reused_bytes, taking_turns, twin_of, twins_wanted
from tests.test_models import block_of, model_of


def ready_block(kind: str, mode: str = "decode"):
    layer = build(block_of(kind), seed=1)
    layer.make_ready(Step(2, mode=mode, sequences=2, context=3))  # type: ignore[arg-type]
    return layer


@pytest.mark.parametrize("kind", ["dense", "moe", "memory", "peer"])
def test_a_twin_gives_the_same_with_weights_of_its_own_and_the_same_tables(kind: str) -> None:
    layer = ready_block(kind).eval()
    twin = twin_of(layer)
    x = layer.draw_tokens(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(twin(x), layer(x))
    places = {name: p.data_ptr() for name, p in layer.named_parameters()}
    shared = {name for name, p in twin.named_parameters() if p.data_ptr() == places[name]}
    assert shared == {name for name in places if "table" in name or name in ("ffn.down.weight", "ffn.up.weight")}
    assert all(ours is theirs for ours, theirs in zip(layer.tables(), twin.tables(), strict=True))
    assert twin.cache.keys.data_ptr() != layer.cache.keys.data_ptr()


def test_what_is_used_again_is_all_but_tables() -> None:
    layer = ready_block("memory")
    weights = sum(p.nbytes for name, p in layer.named_parameters() if name != "ffn.table.weight")
    assert reused_bytes(layer, None, backward=False) == weights + layer.kv_cache_bytes
    trained = ready_block("memory", "train_step").train()
    optimizer = LayerOptimizer(trained, "adamw", learning_rate=0.0)
    trained(trained.draw_tokens(2, torch.Generator().manual_seed(0))).sum().backward()
    optimizer.step()
    assert reused_bytes(trained, optimizer, backward=True) == 4 * weights  # with gradients and two moments


@pytest.mark.parametrize(
    ("bytes_each", "free", "found"),
    [
        (10, None, 39),  # 40 go past four times a cache of 100 bytes
        (150, None, 2),
        (400, None, 0),
        (1, None, 63),
        (10, 200, 10),
        (10, 0, 0),
    ],
)
def test_there_are_as_many_as_go_past_the_caches(monkeypatch, bytes_each: int, free: int | None, found: int) -> None:
    monkeypatch.setattr(twins, "available_memory_bytes", lambda: free)
    assert twins_wanted(bytes_each, cache_bytes=100) == found


def test_steps_take_turns_after_each_was_made_once() -> None:
    made: list[tuple[str, int]] = []
    step = taking_turns([lambda i: made.append(("a", i)), lambda i: made.append(("b", i))])
    assert made == [("a", 0), ("b", 1)]
    made.clear()
    for number in range(4):
        step(number)
    assert made == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


@pytest.mark.parametrize("rule", ["row_adagrad", "adamw"])
def test_a_twin_trains_its_own_matrices_and_the_one_table(rule) -> None:
    layer = ready_block("memory", "train_step").train()
    optimizer = LayerOptimizer(layer, rule, learning_rate=0.1)
    twin = twin_of(layer)
    of_twin = optimizer.for_twin(twin)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    with of_twin.fused():
        twin(twin.draw_tokens(2, torch.Generator().manual_seed(0))).sum().backward()
    of_twin.step()
    assert of_twin.tables is optimizer.tables
    changed = {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"ffn.table.weight"}
    matrices = {name for name, p in twin.named_parameters() if not torch.equal(p, before[name])} - changed
    assert matrices >= {"attention.qkv", "attention.out", "ffn.query", "ffn_norm"}


def test_parts_of_models_are_one_of_many_and_models_are_not() -> None:
    model = model_of("memory")
    assert block_of("dense").is_one_of_many and model.ends.is_one_of_many
    assert not model.is_one_of_many and not block_of("dense").ffn.is_one_of_many


def test_measured_blocks_take_turns() -> None:
    short = Sampling(min_samples=3, floor_samples=2, max_seconds=0.1, warmup_seconds=0.0)
    notes = {}
    for spec in (block_of("memory"), model_of("memory")):
        case = Case(arm="a", level=spec.kind, mode="decode", layer=spec, tokens=2, sequences=2, context=3)
        measurement = CaseMeasurement(build(spec), Clock("cpu"), cache_bytes=30_000, progress=lambda words: None)
        notes[spec.kind] = measurement.run(case, short, ["eager"], memory=False)["notes"]
    assert any("copies take turns" in note for note in notes["block"])
    assert not any("copies take turns" in note for note in notes["model"])


@pytest.mark.parametrize("kind", ["dense", "moe", "memory", "peer"])
def test_copies_read_what_the_one_before_gives(kind: str) -> None:
    copies = [ready_block(kind).eval()]
    copies += [twin_of(copies[0]) for _ in range(2)]
    call, drawn = copies[0].followed_by(copies[1:]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            x = copies[0].draw_tokens(2, drawn)
            expected = copies[2](copies[1](copies[0](x)))
            assert torch.equal(call(x, None), expected)


@pytest.mark.parametrize("mode", ["decode", "prefill"])
def test_a_block_is_decoded_in_passes(mode) -> None:
    case = Case(arm="a", level="block", mode=mode, layer=block_of("dense"), tokens=2, sequences=2, context=3)
    measurement = CaseMeasurement(build(case.layer), Clock("cpu"), cache_bytes=30_000, progress=lambda words: None)
    timed, _ = measurement.as_in_model(measurement.prepare(case, ["eager"]))
    assert (calls_in(timed) > 1) == (mode == "decode")


def test_a_model_has_few_inputs() -> None:
    sizes = {}
    for spec in (block_of("moe"), model_of("moe")):
        case = Case(arm="a", level=spec.kind, mode="decode", layer=spec, tokens=2, sequences=2)
        sizes[spec.kind] = pool_size(case, cache_bytes=2**28)
    assert sizes == {"block": 256, "model": 32}


@pytest.mark.parametrize("spec", [block_of("dense"), model_of("dense")], ids=["block", "model"])
def test_what_is_not_routed_is_not_run_to_tell_what_it_touches(monkeypatch, spec) -> None:
    layer = build(spec)
    monkeypatch.setattr(type(layer.attention if spec.kind == "block" else layer.blocks[0]), "forward", None)
    found = layer.touched(layer.draw_tokens(2, torch.Generator().manual_seed(0)), None)
    assert found.rows is None and found.expert_load is None
