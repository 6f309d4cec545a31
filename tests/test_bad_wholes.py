"""Bad input at levels block and model: one line that names the key, the value and what would be right."""

import pytest

from membench.errors import UsageError
from membench.planning.planner import make_plan
from membench.scenario.scenario import parse_scenario

MODEL = """schema_version: 1
name: base
level: model
model: {preset: tiny}
dtype: float32
arms:
  dense: {layer: dense}
  mem: {layer: memory, num_keys: 4096, key_dim: 32, top_k: 8}
  moe: {layer: moe, num_experts: 8, expert_hidden: 64, top_k: 2}
workload: {prompt: 8, modes: [prefill, decode]}
"""
BLOCK = MODEL.replace("level: model", "level: block")


def refused(text, override):
    with pytest.raises(UsageError) as caught:
        make_plan(parse_scenario(text, "base.yaml", [override]), available_bytes=2**34)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("model.preset=8bb", "model.preset", "no preset is '8bb'; did you mean '8b'?"),
        ("model.preset=null", "model.vocab_size", "is missing (and 4 more); or name a preset: tiny, 91m, 134m"),
        ("model={heads: 4}", "model.vocab_size", "or name a preset"),
        ("model={}", "model", "is missing; name a preset (tiny, 91m"),
        ("model.prest=8b", "model.prest", "unknown key; did you mean 'preset'?"),
        ("model.heads=0", "model.heads", "greater than 0, not 0"),
        ("model.heads=3", "model", "model_dim 64 is no multiple of heads 3: give head_dim"),
        ("model.kv_heads=3", "model", "heads 4 is no multiple of kv_heads 3: give a divisor of heads"),
        ("model.head_dim=15", "model", "head_dim 15 is odd: rotary positions turn pairs of numbers, give an even one"),
        ("model.num_blocks=99999", "model.num_blocks", "less than or equal to 4096, not 99999"),
        ("level=layer", "model", "is for levels block, model, training; this is layer"),
        ("model_dim=64", "model_dim", "is the model's"),
        ("arms.dense.model_dim=64", "arms.dense.model_dim", "is the model's"),
        ("budgets={latency_ms: {value: 3, measured: [a.json]}}", "budgets.latency_ms", "is for level layer, this is"),
        ("budgets={params: 1M}", "budgets.params", "give another, ask for"),
        ("arms.dense={layer: dense, budgets: {params: 1M}}", "arms.dense.budgets.params", "with ffn_hidden 192 it is "),
        ("fit.policy=shrink", "fit.policy", "shrink is for level layer"),
        ("workload.tokens=8", "workload.tokens", "a block or a model has sequences and prompt"),
        ("workload.prompt=0", "workload.prompt", "greater than 0, not 0"),
        ("workload.sequences=0", "workload.sequences", "greater than 0, not 0"),
        ("workload.context=-1", "workload.context", "greater than or equal to 0, not -1"),
        ("workload.context=99999999999", "workload.context", "less than or equal to 1048576, not 99999999999"),
        ("workload.modes=[decode, forward]", "workload.modes[1]", "no mode forward: take mode prefill or decode"),
        (
            "workload={modes: [forward_backward], context: 5}",
            "workload.context",
            "5 is of no use: only prefill and decode have a KV cache",
        ),
        ("workload={modes: [prefill], prompt: 1048576, sequences: 1048576}", "fit.ranks", "allow more memory"),
        ("arms.x={layer: 'a:f'}", "arms.x.layer", "a layer from outside is compared at level layer"),
        ("arms.x={layer: block}", "arms.x.layer", "unknown layer 'block'; known are dense"),
        ("arms.x={layer: weighted_bag}", "arms.x.layer", "is an operator: compare it at level op"),
        ("every_arm={model_dim: 32}", "every_arm.model_dim", "say it in model:"),
        ("axes={level: [block, model]}", "axes.level", "cannot be swept; known are arms"),
        ("axes={model.preset: [tiny, 8bb]}", "model.preset", "no preset is '8bb'"),
    ],
)
@pytest.mark.parametrize("text", [MODEL, BLOCK], ids=["model", "block"])
def test_one_line_names_key_and_remedy(text, override, key, said):
    line = refused(text, override)
    assert "\n" not in line
    assert line.startswith(f"base.yaml: {key}: ")
    assert said in line


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("arms.mem.at=2", "arms.mem.at", "or numbers of blocks such as [4, 12, 20], not 2"),
        ("arms.mem.at=last", "arms.mem.at", "should be all, middle, {count: 3, stride: 8}"),
        ("arms.mem.at={count: 10000000000, stride: 1}", "arms.mem.at", "should be all, middle"),
        ("arms.mem.at=[2]", "arms.mem.at", "blocks 2: name some from 0 to 1, each once and in order"),
        ("arms.mem.at=[1, 0]", "arms.mem.at", "each once and in order"),
        ("arms.mem.at=[]", "arms.mem.at", "blocks none: name some"),
        ("arms.mem.at=[true]", "arms.mem.at", "not [True]"),
        ("arms.mem.at={count: 3}", "arms.mem.at", "{count: 3, stride: 8}"),
        ("arms.mem.at={count: 3, stride: 8}", "arms.mem.at", "blocks -7, 1, 9: name some from 0 to 1"),
        ("every_arm={at: [5]}", "every_arm.at", "blocks 5: name some from 0 to 1"),
        ("arms.mem.pool=share", "arms.mem.pool", "should be shared or own, not 'share'"),
        ("arms.moe.pool=shared", "arms.moe.pool", "shared is for memory and memory_plus"),
        ("arms.dense.pool=shared", "arms.dense.pool", "leave it out"),
        ("every_arm={pool: share}", "every_arm.pool", "should be shared or own, not 'share'"),
    ],
)
def test_which_blocks_and_whose_pool(override, key, said):
    line = refused(MODEL, override)
    assert line.startswith(f"base.yaml: {key}: ")
    assert said in line


@pytest.mark.parametrize("name", ["at: middle", "pool: own"])
def test_a_block_has_one_layer(name):
    for section in ("arms.mem", "every_arm"):
        key, _, value = name.partition(": ")
        assert refused(BLOCK, f"{section}.{key}={value}") == (
            f"base.yaml: {section}.{key}: is for levels model and training: a block has one layer"
        )


def test_sequences_are_for_blocks_and_models():
    text = (
        "schema_version: 1\nname: a\nmodel_dim: 64\narms: {d: {layer: dense, ffn_hidden: 64}}\nworkload: {prompt: 3}\n"
    )
    with pytest.raises(UsageError, match=r"workload\.prompt: is for levels block and model: a layer has tokens"):
        parse_scenario(text, "a.yaml")


def test_a_pool_for_every_arm_is_for_those_with_a_table():
    scenario = parse_scenario(MODEL, "base.yaml", ["every_arm={pool: shared}"])
    assert {name: arm.whole.pool for name, arm in scenario.points[0].arms.items()} == {
        "dense": "own",
        "mem": "shared",
        "moe": "own",
    }


def test_a_context_stays_where_one_of_the_modes_has_a_cache():
    for workload in ("{modes: [prefill, train_step], context: 5}", "{modes: [train_step], context: 0}"):
        scenario = parse_scenario(MODEL, "base.yaml", [f"workload={workload}"])
        contexts = {planned.case.mode: planned.case.context for planned in make_plan(scenario).cases}
        assert contexts["train_step"] == 0
        assert contexts.get("prefill", 5) == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["memory", "--block", "8bb"], "--block: no preset is '8bb'; did you mean '8b'?"),
        (["memory", "--model", "7b"], "--model: no preset is '7b'"),
        (["memory", "--block", "tiny", "--model", "tiny"], "--model: is given beside --block: name one of them"),
        (["memory", "--block", "tiny", "--dim", "64"], "--dim: is the model's: leave it out"),
        (["a:f", "--block", "tiny"], "--layer a:f: a layer from outside is compared at level layer, not block"),
        (["memory", "--context", "5"], "--context: is for --block and --model"),
        (["memory", "--sequences", "5"], "--sequences: is for --block and --model"),
        (["dense", "--block", "tiny", "--mode", "forward"], "--mode: a block or a model has no mode forward"),
        (["dense", "--block", "tiny", "--mode", "train_step", "--context", "5"], "--context: 5 is of no use"),
        (["dense", "--block", "tiny", "--tokens", "0"], "--tokens: should be greater than 0, not 0"),
        (["moe", "--model", "tiny", "--set", "at=[7]"], "--set at=[7]: blocks 7: name some from 0 to 1"),
        (["moe", "--model", "tiny", "--set", "pool=shared"], "--set pool=shared: shared is for memory and memory_plus"),
        (["moe", "--block", "tiny", "--set", "at=middle"], "--set at=middle: is for levels model and training"),
        (["dense", "--model", "tiny", "--against", "moe"], "--against moe: "),
    ],
)
def test_profile_names_the_option(options, said, call):
    code, out, err = call("profile", "--device", "cpu", "--layer", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"membench: {said}")
