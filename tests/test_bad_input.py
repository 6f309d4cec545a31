"""Every bad input is one line that names the file, the key and what would be right."""

import subprocess
import sys

import pytest

from membench.errors import UsageError, suggestion
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario, parse_scenario

BASE = """schema_version: 1
name: base
model_dim: 64
dtype: float32
arms:
  dense: {layer: dense, ffn_hidden: 256}
  mem: {layer: memory, num_keys: 4096, key_dim: 32, top_k: 8}
workload: {tokens: 8}
"""


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        # unknown keys and kinds, with the nearest right one
        ("workload.tokenz=4", "workload.tokenz", "unknown key; did you mean 'tokens'?"),
        ("workload.\xa0tokens=4", "workload. tokens", r"unknown key '\xa0tokens'; did you mean 'tokens'?"),
        ("worklod.tokens=4", "worklod", "did you mean 'workload'?"),
        ("workload.routing.kindd=zipf", "workload.routing.kindd", "did you mean 'kind'?"),
        ("arms.mem.num_keyz=16", "arms.mem.num_keyz", "did you mean 'num_keys'?"),
        ("arms.mem.budgets={paramz: 1M}", "arms.mem.budgets.paramz", "did you mean 'params'?"),
        ("arms.mem.layer=memry", "arms.mem.layer", "unknown layer 'memry'; did you mean 'memory'?"),
        ("arms.memm.num_keys=16", "arms.memm.num_keys", "no arm 'memm'; did you mean 'mem'?"),
        ("axes={workload.tokenz: [1]}", "workload.tokenz", "did you mean 'tokens'?"),
        ("axes={exclude: [{arn: mem}]}", "axes.exclude[0].arn", "did you mean 'arm'?"),
        ("axes={fit.ranks: [1, 2]}", "axes.fit.ranks", "cannot be swept"),
        # wrong types: a text is no number, a bool is no number, a number with a point is not whole
        ('workload.tokens="8"', "workload.tokens", "should be a valid integer, not '8'"),
        ("workload.tokens=true", "workload.tokens", "not True"),
        ("workload.tokens=8.0", "workload.tokens", "not 8.0"),
        ("workload.tokens=[1]", "workload.tokens", "not [1]"),
        ("workload.tokens=yes", "workload.tokens", "not 'yes'"),
        ("workload=3", "workload", "mapping"),
        ("workload=null", "workload", "mapping"),
        ("arms.mem=3", "arms.mem", "mapping"),
        ("arms.mem.layer=3", "arms.mem.layer", "name of a layer"),
        ('arms.mem.top_k="8"', "arms.mem.top_k", "not '8'"),
        ("arms.mem.num_keys=true", "arms.mem.num_keys", "no key count"),
        ("schema_version=true", "schema_version", "should be 1"),
        ("schema_version=2", "schema_version", "should be 1"),
        ("description=2024", "description", "valid string"),
        ("name=a/b", "name", "letters, digits"),
        ("workload.modes=[forwrd]", "workload.modes[0]", "'forward'"),
        ("workload.modes=[]", "workload.modes", "should not be empty"),
        ("arms={}", "arms", "should not be empty"),
        ("dtype=bf16", "dtype", "'bfloat16'"),
        ("level=modell", "level", "should be 'layer'"),
        ("device=gpu", "device", "'cuda'"),
        ("arms.%s={layer: dense}" % ("x" * 65), "arms." + "x" * 65, "at most 64 characters, not 65"),
        # sizes that are none
        ("workload.tokens=0", "workload.tokens", "greater than 0"),
        ("workload.tokens=-1", "workload.tokens", "greater than 0"),
        ("arms.dense.ffn_hidden=0", "arms.dense.ffn_hidden", "greater than 0"),
        ("arms.mem.num_keys=0", "arms.mem.num_keys", "positive whole number"),
        ("arms.mem.num_keys=-16", "arms.mem.num_keys", "positive whole number"),
        ("workload.tokens=.nan", "", "finite"),
        ("workload.routing={kind: zipf, zipf_exponent: .inf}", "", "finite"),
        ("workload.tokens=99999999999999999999999", "", "too large"),
        ("arms.mem.num_keys='%s^2'" % ("9" * 5000), "arms.mem.num_keys", "at most 2^40"),
        ("arms.mem.budgets={stored_bytes: '%s'}" % ("9" * 5000), "arms.mem.budgets.stored_bytes", "finite"),
        ("arms.mem={layer: ':f'}", "arms.mem.layer", "':f' names no factory: write package.module:function"),
        ("arms.mem={layer: 'a:f', budgets: {latency_ms: {value: 1, measured: [x]}}}", "arms.mem.budgets", "outside"),
        ("workload.routing={kind: trace, trace: gone.npy}", "workload", "'gone.npy' is no file"),
        ("workload.routing={kind: trace, trace: %s}" % ("x" * 5000), "workload", "is no file"),
        ("fit.link_gb_s=0", "fit.link_gb_s", "greater than 0.000001"),
        ("fit.ranks=0", "fit.ranks", "1 to 65536"),
        ("fit.ranks=true", "fit.ranks", "auto or a whole number"),
        ("fit.memory=18B", "fit.memory", "18GB"),
        ("fit.memory=-1", "fit.memory", "above zero"),
        ("measure.rounds=0", "measure.rounds", "greater than 0"),
        ("measure={min_samples: 3, floor_samples: 5}", "measure", "at most min_samples 3"),
        # keys
        ("arms.mem.num_keys=5000", "arms.mem.num_keys", "70² = 4900 and 71² = 5041"),
        ("arms.mem.num_keys=128M", "arms.mem.num_keys", "is no square"),
        ("arms.mem.num_keys=2097152^2", "arms.mem.num_keys", "at most 2^40"),
        ("arms.mem.top_k=65", "arms.mem", "top_k 65 is above sub_keys 64"),
        ("arms.mem.key_dim=33", "arms.mem", "odd"),
        # budgets
        ("arms.mem.budgets={params: 1M}", "arms.mem.budgets.params", "asked 1M, but with num_keys given it is 278.5K"),
        ("arms.mem.budgets={params: nobody}", "arms.mem.budgets.params", "neither a quantity"),
        ("arms.mem.budgets={params: -4}", "arms.mem.budgets.params", "above zero"),
        ("arms.mem.budgets={params: null}", "arms.mem.budgets", "has no value"),
        ("arms.mem.budgets={flops_per_token: 1K}", "arms.mem.budgets.flops_per_token", "36.86K already"),
        ("arms.mem.budgets={flops_per_token: mem}", "arms.mem", "circle (mem -> mem)"),
        ("arms.dense={layer: dense}", "arms.dense", "ffn_hidden is missing"),
        ("model_dim=null", "arms.dense.model_dim", "is missing"),
        ("arms.mem.budgets={moved_bytes: {value: 1MB, tokens: 0}}", "arms.mem.budgets.moved_bytes.tokens", "greater"),
        ("arms.mem.budgets={latency_ms: {value: 1, measured: [gone.json]}}", "", "gone.json: there is no such file"),
        # --set itself
        ("workload.tokens", "", "write key=value"),
        ("workload.tokens=", "", "write key=value"),
        ("=4", "", "write key=value"),
        ("a..b=4", "a..b", "no dotted key"),
        (".".join("a" * 3000) + "=4", "", "nested more than 20 deep"),
        ("name=\udcff", "", "no text"),
        ("workload.tokens.x=4", "workload.tokens.x", "holds a value"),
        ("name=&a b", "", "anchors"),
        ("name=!!python/name:os.system", "", "tags"),
        ("name=[", "", "is no YAML"),
        # axes
        ("axes={workload.tokens: 3}", "axes.workload.tokens", "should be a list"),
        ("axes={workload.tokens: []}", "axes.workload.tokens", "should be a list"),
        ("axes={workload.tokens: {pow2: [1, 500]}}", "axes.workload.tokens.pow2", "powers of two"),
        ("axes={workload.tokens: {range: [5, 1, 1]}}", "axes.workload.tokens.range", "rising"),
        ("axes={workload.tokens: {range: [1, 5, 0]}}", "axes.workload.tokens.range", "step above 0"),
        ("axes={zip: [{workload.tokens: [1, 2], workload.seed: [1]}]}", "axes.zip[0]", "equally many"),
        ("axes={workload.tokens: [1], zip: [{workload.tokens: [2]}]}", "axes.workload.tokens", "twice"),
        ("axes={workload.tokens: {range: [1, 1.0e+300, 1.0e-300]}}", "limits.max_cases", "cases, above 200"),
        ("axes={exclude: [{arm: nobody}]}", "axes.exclude[0].arm", "known are dense, mem"),
        ("axes={exclude: [{mode: forwrd}]}", "axes.exclude[0].mode", "did you mean 'forward'?"),
        ("axes={exclude: [{optimizer: {a: 1}}]}", "axes.exclude[0].optimizer", "no optimizer is {'a': 1}"),
        ("axes={exclude: [{arm: dense}, {arm: mem}]}", "axes.exclude", "leaves out every case"),
        ("axes={workload.tokens: [1, 0]}", "workload.tokens", "greater than 0"),
        ("axes={workload.tokens: {range: [1, 1000000000, 1]}}", "limits.max_cases", "2000000000 cases"),
    ],
)
def test_one_line_names_key_and_remedy(override, key, said):
    with pytest.raises(UsageError) as caught:
        make_plan(parse_scenario(BASE, "base.yaml", [override]))
    line = str(caught.value)
    assert "\n" not in line
    assert said in line
    assert f"{key}: " in line
    assert line.startswith(("base.yaml", "--set", "gone.json"))


def test_several_problems_are_counted_and_an_unknown_key_comes_first():
    with pytest.raises(
        UsageError, match=r"schema_versoin: unknown key; did you mean 'schema_version'\? \(and 1 more\)"
    ):
        parse_scenario(BASE.replace("schema_version", "schema_versoin"), "base.yaml")


def test_a_long_value_is_cut():
    with pytest.raises(UsageError) as caught:
        parse_scenario(BASE, "base.yaml", [f"dtype={'x' * 5000}"])
    assert len(str(caught.value)) < 400


def test_suggestion():
    assert suggestion("tokns", ["tokens", "modes"]) == "did you mean 'tokens'?"
    assert suggestion("zzz", ["tokens", "modes"]) == "known are modes, tokens"


def test_names_that_are_no_file(tmp_path):
    for name in ("", ".", str(tmp_path), "x" * 4000, str(tmp_path / "no.yaml"), "scenario.yaml/"):
        with pytest.raises(UsageError) as caught:
            load_scenario(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.yaml"],
        ["quickstart", "--hardware", "h1000"],
        ["quickstart", "--set", "x=1"],
        ["gate", "--device", "gpu"],
        ["quickstart", "--hardware", "h100x99999999"],
        ["quickstart", "--bogus"],
        ["quickstart", "--hardware"],
        [],
        ["x" * 5000],
    ],
)
def test_the_command_line_exits_with_2_and_one_line(arguments):
    command = [sys.executable, "-c", "from membench.cli import main; main()", "plan", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("membench: ")
    assert done.stderr.count("\n") == 1
