"""The iso solver against hand-computed costs and against brute force."""

import json
import math
import random

import pytest

from layers.spec import DenseSpec, MemoryPlusSpec, MemorySpec, MoESpec, PeerSpec
from membench.errors import UsageError
from membench.planning.solved_arms import solve_points
from membench.planning.solver import TOLERANCE, Ask, BudgetError, quantity, solve
from membench.scenario.scenario import parse_scenario

D = 4096
DENSE_FLOPS = 6 * D * 14336  # the 8B model's FFN


def close(achieved, asked):
    return abs(achieved - asked) <= TOLERANCE * asked


def test_a_dense_layer_gets_back_its_width():
    spec = solve(DenseSpec, {"model_dim": D}, [Ask("flops_per_token", DENSE_FLOPS)])
    assert spec.ffn_hidden == 14336
    assert quantity(spec, "params") == 3 * D * 14336


def test_a_companion_takes_what_the_memory_leaves():
    given = {"model_dim": D, "num_keys": 4096**2, "key_dim": 512}
    spec = solve(MemorySpec, given, [Ask("flops_per_token", DENSE_FLOPS)])
    memory = 2 * D * 4 * 512 + 2 * 4 * 4096 * 512 + 2 * 4 * 32 * D  # query, scores, bag
    assert spec.companion_hidden == round((DENSE_FLOPS - memory) / (6 * D) / 64) * 64 == 12928
    assert spec.num_keys == 4096**2, "what is given is kept"


def test_shared_experts_take_the_remainder_of_a_coarse_width():
    given = {"model_dim": D, "num_experts": 64, "top_k": 8}
    spec = solve(MoESpec, given, [Ask("flops_per_token", DENSE_FLOPS)])
    width = (DENSE_FLOPS - 2 * D * 64 - 2 * 8 * D) / (6 * 8 * D)  # less router and combine
    assert 1728 < width < 1792 == spec.expert_hidden, "the remainder would be a whole step: rounded up instead"
    assert spec.shared_hidden == 0
    fewer = solve(MoESpec, given, [Ask("flops_per_token", DENSE_FLOPS * 0.98)])
    width = (0.98 * DENSE_FLOPS - 2 * D * 64 - 2 * 8 * D) / (6 * D)
    assert fewer.expert_hidden == width // 8 // 64 * 64 == 1728
    assert fewer.shared_hidden == round((width - 8 * 1728) / 64) * 64 == 192


def test_a_given_shared_width_leaves_the_experts_to_be_rounded():
    spec = solve(MoESpec, {"model_dim": D, "num_experts": 8, "top_k": 1, "shared_hidden": 0},
                 [Ask("flops_per_token", DENSE_FLOPS)])  # fmt: skip
    assert spec.shared_hidden == 0
    assert spec.expert_hidden == 14336, "rounded to the nearest: the router costs less than half a step"


@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_two_budgets_meet_in_a_fixpoint(top_k):
    asks = [Ask("params", 68.7e9), Ask("flops_per_token", DENSE_FLOPS)]
    spec = solve(MoESpec, {"model_dim": D, "top_k": top_k}, asks)
    assert close(quantity(spec, "params"), 68.7e9)
    assert close(quantity(spec, "flops_per_token"), DENSE_FLOPS)
    assert spec.expert_hidden % 64 == spec.shared_hidden % 64 == 0
    again = solve(MoESpec, {"model_dim": D, "top_k": top_k}, asks[::-1])
    assert again == spec, "the order of the budgets does not matter"


def test_key_counts_stay_squares():
    spec = solve(PeerSpec, {"model_dim": D, "key_dim": 512}, [Ask("params", 68.7e9)])
    n = math.isqrt(spec.num_keys)
    assert n * n == spec.num_keys
    sizes = {m: quantity(spec.model_copy(update={"num_keys": m * m}), "params") for m in (n - 1, n, n + 1)}
    assert min(sizes, key=lambda m: abs(sizes[m] - 68.7e9)) == n


BRUTE = {
    "dense flops": (DenseSpec, {"model_dim": 128}, "flops_per_token", "ffn_hidden", range(64, 20_000, 64)),
    "dense bytes": (DenseSpec, {"model_dim": 128}, "stored_bytes", "ffn_hidden", range(64, 20_000, 64)),
    "memory params": (MemorySpec, {"model_dim": 64, "key_dim": 32, "top_k": 4}, "params", "num_keys",
                      [n * n for n in range(4, 400)]),
    "memory_plus params": (MemoryPlusSpec, {"model_dim": 64, "key_dim": 32, "top_k": 4}, "params", "num_keys",
                           [n * n for n in range(4, 400)]),
    "memory moved": (MemorySpec, {"model_dim": 128, "key_dim": 32, "num_keys": 64**2}, "moved_bytes",
                     "companion_hidden", range(0, 20_000, 64)),
    "moe params": (MoESpec, {"model_dim": 64, "expert_hidden": 64, "top_k": 2}, "params", "num_experts",
                   range(2, 2000)),
}  # fmt: skip


@pytest.mark.parametrize("name", BRUTE)
def test_the_solution_is_the_nearest_of_all(name):
    kind, given, budget, dimension, values = BRUTE[name]
    random_values = random.Random(name)
    achieved = {value: quantity(kind(**given, **{dimension: value}), budget, tokens=16) for value in values}
    assert list(achieved.values()) == sorted(achieved.values()), "every quantity rises with its dimension"
    for _ in range(25):
        asked = achieved[random_values.choice(list(values)[: len(values) // 2])] * random_values.uniform(0.995, 1.005)
        nearest = min(achieved.values(), key=lambda size: abs(size - asked))
        if not close(nearest, asked):
            continue
        spec = solve(kind, given, [Ask(budget, asked, tokens=16)])
        assert abs(quantity(spec, budget, tokens=16) - asked) == abs(nearest - asked)


def test_moved_bytes_count_the_rows_that_so_many_tokens_touch():
    spec = MemorySpec(model_dim=256, num_keys=64**2, key_dim=64, dtype="float32")
    rows = 4096 * (1 - (1 - 32 / 4096) ** (4 * 10))
    stream = 4 * (10 * (256 + 256) + 256 * 256)  # query: x, q, W
    stream += 4 * (10 * 256 + 4 * 64 * 64) + 2 * 4 * 10 * 4 * 64  # scores: q, keys, both halves
    stream += 2 * 4 * 10 * 4 * 64 + 10 * 128 * 8  # top-k: scores, index and score a lookup
    stream += 10 * 128 * 8 + 10 * 256 * 4  # bag: index and weight a lookup, y
    assert quantity(spec, "moved_bytes", tokens=10) == pytest.approx(stream + rows * 256 * 4)
    assert quantity(spec, "moved_bytes", tokens=10, zipf_exponent=1.2) < quantity(spec, "moved_bytes", tokens=10)


@pytest.mark.parametrize(
    ("kind", "given", "asks", "said"),
    [
        (DenseSpec, {"model_dim": 64}, [Ask("flops_per_token", 30_000)], "nearest within reach 24.58K (ffn_hidden 64)"),
        (DenseSpec, {"model_dim": 64}, [Ask("flops_per_token", 10)], "24.58K already with ffn_hidden 64"),
        (DenseSpec, {"model_dim": 64, "ffn_hidden": 64}, [Ask("params", 1e6)], "with ffn_hidden given it is 12.29K"),
        (DenseSpec, {"model_dim": 64}, [Ask("params", 1e6), Ask("flops_per_token", 1e6)], "given it is"),
        (DenseSpec, {"model_dim": 64}, [], "ffn_hidden is missing"),
        (MemorySpec, {"model_dim": 64, "key_dim": 32}, [Ask("flops_per_token", 1e6)], "(params, stored_bytes)"),
        (
            MemorySpec,
            {"model_dim": 64, "key_dim": 32},
            [Ask("params", 64 * 144 + 64 * 4 * 32 + 4 * 12 * 32)],
            "top_k 32 is above sub_keys",
        ),
        (MemorySpec, {"model_dim": 1, "key_dim": 2}, [Ask("params", 1e15)], "num_keys 1099511627776"),
    ],
)
def test_what_cannot_be_met_says_what_would_do(kind, given, asks, said):
    with pytest.raises(BudgetError) as caught:
        solve(kind, given, asks)
    assert said in str(caught.value)


ARMS = """
schema_version: 1
name: budgets
model_dim: 256
dtype: float32
budgets: {flops_per_token: dense, params: memory}
arms:
  moe: {layer: moe, top_k: 2}
  peer: {layer: peer, key_dim: 64, heads: 4, top_k: 8, budgets: {stored_bytes: 18.5MB}}
  memory: {layer: memory, num_keys: 1M, key_dim: 64, budgets: {flops_per_token: dense}}
  dense: {layer: dense, ffn_hidden: 4096, budgets: {}}
"""


def solved(*overrides):
    return solve_points(parse_scenario(ARMS, "b.yaml", overrides).points)[0]


def test_arms_are_solved_in_the_order_in_which_they_name_each_other():
    arms = solved()
    dense, memory, moe = arms["dense"], arms["memory"], arms["moe"]
    assert memory.asked == {"flops_per_token": 6 * 256 * 4096}
    assert close(memory.achieved["flops_per_token"], dense.achieved["flops_per_token"])
    assert moe.asked["params"] == memory.achieved["params"]
    assert close(moe.achieved["params"], memory.achieved["params"])
    assert "num_experts" not in ARMS
    assert moe.labels == ("synthetic: all parameters in one layer",)
    assert close(arms["peer"].achieved["stored_bytes"], 18.5e6)
    assert dense.asked == {}
    assert dense.achieved == {"flops_per_token": 6 * 256 * 4096, "params": 3 * 256 * 4096}


def test_an_arm_is_no_budget_for_itself_when_the_scenario_names_it():
    arms = solved(
        "arms.dense={layer: dense, ffn_hidden: 4096}", "budgets={flops_per_token: dense}", "arms.moe.num_experts=8"
    )
    assert arms["dense"].asked == {}


def test_circles_are_named():
    with pytest.raises(UsageError, match=r"circle \(\w+ -> \w+ -> \w+\)"):
        solved("arms.dense={layer: dense, budgets: {params: memory}}")


def test_an_inherited_budget_is_blamed_where_it_stands():
    with pytest.raises(UsageError) as caught:
        solved("budgets.params=100K")
    assert caught.value.key == "budgets.params"
    assert "arm moe: " in str(caught.value)


def latency_file(tmp_path, points, **changes):
    """A result file of dense layers: (ffn_hidden, milliseconds)."""
    layer = {"kind": "dense", "model_dim": 256, "dtype": "float32"}
    case = {"mode": "forward", "tokens": 32, "ranks": 1, **changes}
    cases = [
        {"case": {**case, "layer": {**layer, "ffn_hidden": f}}, "status": "ok", "metrics": {"latency_ms_p50": ms}}
        for f, ms in points
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"cases": cases}))
    return path


def by_latency(path, value, **more):
    budget = json.dumps({"latency_ms": {"value": value, "measured": [str(path)], **more}})
    return solved(f"arms.timed={{layer: dense, budgets: {budget}}}")["timed"]


def test_latency_is_interpolated_in_logarithms(tmp_path):
    path = latency_file(tmp_path, [(f, 0.001 * f**1.5) for f in (1024, 2048, 4096, 8192)])
    arm = by_latency(path, 0.001 * 3072**1.5)
    assert arm.spec.ffn_hidden == 3072, "a power law is a straight line"
    assert arm.asked == {"latency_ms": pytest.approx(170.27, abs=0.01)}
    assert close(arm.achieved["latency_ms"], 170.27)
    assert by_latency(path, 0.001 * 1024**1.5).spec.ffn_hidden == 1024
    assert by_latency(path, 0.001 * 8192**1.5).spec.ffn_hidden == 8192


def test_latency_never_falls_and_is_never_extrapolated(tmp_path):
    path = latency_file(tmp_path, [(1024, 1.0), (2048, 3.0), (4096, 2.0), (8192, 8.0)])
    pooled = math.sqrt(6)  # 2048 and 4096, whose order the noise has turned round
    assert by_latency(path, pooled).spec.ffn_hidden == 4096
    with pytest.raises(UsageError, match=r"asked 0.5 ms, measured is 1 to 8 ms \(ffn_hidden 1024 to 8192"):
        by_latency(path, 0.5)
    with pytest.raises(UsageError, match="asked 9 ms"):
        by_latency(path, 9)


def test_latency_uses_only_like_cases(tmp_path):
    for changes in ({"mode": "decode"}, {"tokens": 64}, {"ranks": 2}):
        path = latency_file(tmp_path, [(1024, 1.0), (2048, 3.0)], **changes)
        with pytest.raises(UsageError, match="0 measured sizes of ffn_hidden match"):
            by_latency(path, 2)
    path = latency_file(tmp_path, [(1024, 1.0), (2048, 3.0)], mode="decode", tokens=4)
    assert by_latency(path, 1, mode="decode", tokens=4).spec.ffn_hidden == 1024
    path.write_text("{}")
    with pytest.raises(UsageError, match="no result file"):
        by_latency(path, 2)


def test_latency_reads_files_from_before_a_field_as_at_its_default(tmp_path):
    path = latency_file(tmp_path, [(1024, 1.0), (2048, 3.0)])
    content = json.loads(path.read_text())
    for record in content["cases"]:
        del record["case"]["layer"]["dtype"]
    path.write_text(json.dumps(content))
    budgets = {"latency_ms": {"value": 1, "measured": [str(path)]}}
    timed = json.dumps({"layer": "dense", "dtype": "bfloat16", "budgets": budgets})
    assert solved(f"arms.timed={timed}")["timed"].spec.ffn_hidden == 1024
    with pytest.raises(UsageError, match="0 measured sizes"):
        solved(f"arms.timed={timed.replace('bfloat16', 'float16')}")
