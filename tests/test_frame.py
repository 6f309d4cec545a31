"""Result files as pandas frames, and those frames as CSV and Parquet: every value as in the record, unknown missing."""

import ast
import json
import random
import re
import subprocess
import sys
import textwrap
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from gate_results import a_file, side
from gate_results import a_record as a_gate_record
from report_results import PAYLOAD, a_key_sweep, a_sweep, with_answers, with_payload
from test_fuzz import mutate
from test_records import COST, a_case, a_result, a_round, a_run

import membench
from layers.spec import AnySpec, spec_from
from membench.errors import UsageError
from membench.results.answers import places_of
from membench.results.frame import results_frame
from membench.results.metrics import metrics_of
from membench.results.ranking import counted
from membench.results.records import ForeignFile, Record, ResultFile, read_result, strict_json, write_result
from membench.tables.frame_file import csv_text, parquet_bytes

ROOT = Path(__file__).parent.parent
PER = ("case", "round", "sample")


def committed():
    """The result files that are kept, by name; what benchmarks wrote lies beside them."""
    for path in sorted((ROOT / "results").glob("*.json")):
        try:
            yield path, read_result(path)
        except ForeignFile:
            continue


COMMITTED = dict(committed())


def save(folder, *results):
    """Writes results into files; their paths."""
    paths = [folder / f"{number}.json" for number, _ in enumerate(results)]
    for path, result in zip(paths, results, strict=True):
        write_result(result, path)
    return paths


def frame_of(*results, per="case"):
    return results_frame([(f"{number}.json", result) for number, result in enumerate(results)], per)


def same(value, known):
    if isinstance(known, dict | tuple):  # a config or numbers in a config: a cell of JSON, and none of nothing
        return pd.isna(value) if not known else json.loads(value) == (known if isinstance(known, dict) else [*known])
    return known is None if pd.isna(value) else value == known


def test_what_is_committed_is_there_case_by_case_and_value_by_value():
    with pytest.warns(UserWarning, match=r"without a run of membench passed over: .*clock_check"):
        frame = membench.read_results(f"{ROOT}/results/*.json")
    assert len(frame) == sum(len(result.cases) for result in COMMITTED.values())
    of_file = {str(path): {record.id: record for record in result.cases} for path, result in COMMITTED.items()}
    for row in frame.to_dict("records"):
        record = of_file[row["file"]].pop(row["id"])
        assert (row["arm"], row["kind"], row["mode"]) == (record.case.arm, record.case.layer.kind, record.case.mode)
        assert row["tokens"] == record.case.tokens
        assert all(same(row[name], value) for name, value in record.metrics.items())
        assert all(same(row[name], counted(record, name)) for name in ("params", "flops", "bytes_min", "stored_bytes"))
        for name, value in record.case.layer.model_dump(exclude={"kind", "options"}).items():
            assert same(row[name], value), name
    assert not any(of_file.values())
    assert frame["started"].is_monotonic_increasing


def test_every_round_and_sample_of_what_is_committed_is_there():
    rounds, samples = (membench.read_results(list(COMMITTED), per=per) for per in ("round", "sample"))
    known = [r for result in COMMITTED.values() for record in result.cases for r in record.rounds]
    assert len(rounds) == len(known)
    assert len(samples) == sum(len(r.samples_s) for r in known)
    assert samples["seconds"].sum() == pytest.approx(sum(s for r in known for s in r.samples_s))
    medians = samples.groupby(["file", "id", "round"])["seconds"].median() * 1e3
    joined = rounds.set_index(["file", "id", "round"])["latency_ms_p50"]
    pd.testing.assert_series_equal(medians, joined.reindex(medians.index), check_names=False)
    cases = membench.read_results(list(COMMITTED))
    of_cases = rounds.groupby(["file", "id"])["latency_ms_p50"].median().dropna()
    pd.testing.assert_series_equal(
        cases.set_index(["file", "id"])["latency_ms_p50"].dropna().sort_index(), of_cases.sort_index()
    )


@pytest.mark.parametrize("per", PER)
def test_numbers_are_numbers_and_text_is_text(per):
    frame = frame_of(a_sweep(), a_key_sweep(), per=per)
    kinds = {name: dtype.kind for name, dtype in frame.dtypes.items()}
    assert not [name for name, dtype in frame.dtypes.items() if pd.api.types.is_object_dtype(dtype)]
    wanted = {"tokens": "i", "arm": "O", "optimizer": "O", "started": "M", "git_sha": "O"}
    wanted |= {
        "case": {"params": "i", "flops": "f", "mfu": "f", "reason": "O", "git_dirty": "b", "num_keys": "i"},
        "round": {
            "round": "i",
            "samples": "i",
            "ceilings.matmul_flops_per_s": "f",
            "reason": "O",
            "round_started": "M",
        },
        "sample": {"round": "i", "sample": "i", "seconds": "f", "in_turn": "b", "cache": "O"},
    }[per]
    assert {name: kinds[name] for name in wanted} == wanted


def test_a_case_has_its_places_its_interval_and_its_floor():
    result = a_sweep(tokens=(8,), modes=("forward",), rounds=3)
    frame = frame_of(result)
    known = places_of(result)
    assert len(known) == 3
    for row, record in zip(frame.to_dict("records"), result.cases, strict=True):
        place = known.get(record.id, (None, None))
        assert same(row["place_low"], place[0])
        assert same(row["place_high"], place[1])
        assert same(row["step_ms_low"], record.metrics.get("step_ms_low"))
    assert frame["place_low"].dtype == "Int64"
    assert (frame["step_ms_low"] < frame["step_ms"]).sum() == 3
    assert frame["over_floor"].tolist()[:3] == pytest.approx((frame["latency_ms_p50"] / frame["floor_ms"]).tolist()[:3])
    assert frame_of(a_sweep(rounds=2))[["place_low", "place_high", "step_ms_low"]].isna().all(axis=None)


def test_the_frame_of_a_file_of_before_has_floors():
    frame = frame_of(*COMMITTED.values())
    ok = frame[frame["status"] == "ok"]
    assert (ok["over_floor"].notna() | ok["mbu"].isna() | ok["mfu"].isna()).all()
    assert ok["over_floor"].notna().any()


def test_a_case_that_failed_has_no_numbers_and_says_why():
    frame = frame_of(a_sweep())
    (failed,) = frame[frame["status"] != "ok"].to_dict("records")
    assert (failed["status"], failed["reason"], failed["rounds"]) == ("oom", "it did not fit", 0)
    for name in ("latency_ms_p50", "step_ms", "mfu", "tokens_per_s", "peak_process_bytes"):
        assert pd.isna(failed[name]), name
    assert failed["params"] > 0
    assert frame["reason"].isna().sum() == len(frame) - 1


@pytest.mark.parametrize("per", PER)
def test_without_rows_the_columns_are_there(per):
    nothing = a_result()
    nothing.cases[0].status = "skipped"
    frame = frame_of(nothing, per=per)
    assert len(frame) == (per == "case")
    nothing.cases.clear()
    empty, known = frame_of(nothing, per=per), frame_of(a_result([a_round()]), per=per)
    columns = [name for name in known.columns if not name.startswith(("ceilings.", "cost.", "point."))]
    assert [name for name in columns if name not in empty] == []
    assert empty[columns].dtypes.tolist() == known[columns].dtypes.tolist()
    assert len(empty) == 0


def test_every_metric_there_is_has_a_column_also_where_nothing_was_measured():
    known = metrics_of(a_case(), [a_round()], communication_ms=0.0)
    assert set(known) <= set(frame_of(a_result()).columns)


def test_a_round_that_failed_is_a_row_and_its_samples_are_none():
    rounds = [a_round(0), a_round(1, samples=(), status="error", reason="lost", ceilings={}, cost={})]
    frame = frame_of(a_result(rounds), per="round")
    assert frame["status"].tolist() == ["ok", "error"]
    assert same(frame["reason"][0], None)
    assert frame["reason"][1] == "lost"
    assert frame["samples"].tolist() == [3, 0]
    assert frame["latency_ms_p50"].tolist()[0] == 5.0
    assert frame[["latency_ms_p50", "ceilings.matmul_flops_per_s", "cost.flops"]].iloc[1].isna().all()
    assert len(frame_of(a_result(rounds), per="sample")) == 3


def test_a_round_has_what_its_process_recorded():
    found = a_round(
        sampling={"cache": "rotating", "steady": True},
        clocks=[{"core_mhz": 2000.5}, {"core_mhz": 1900.5}],
        ran={"path": "native", "paths": {"bag": "torch"}, "settings": {}, "kernels_instruction_sets": ["avx", "fma"]},
        reference={"tokens": 4, "errors": {"output": 1e-3, "table": 2e-3}, "tolerance": 0.1},
        cost={**COST, "stages": [{"name": "bag", "flops": 1.0}]},
        threads=2,
        notes=["one", "two"],
    )
    (row,) = frame_of(a_result([found]), per="round").to_dict("records")
    wanted = {
        "sampling.cache": "rotating",
        "sampling.steady": True,
        "clocks.before.core_mhz": 2000.5,
        "clocks.after.core_mhz": 1900.5,
        "ran.path": "native",
        "ran.paths.bag": "torch",
        "ran.kernels_instruction_sets": "avx; fma",
        "reference_error": 2e-3,
        "reference.tolerance": 0.1,
        "ceilings.copy_bytes_per_s": 1e9,
        "cost.flops": 2e6,
        "threads": 2,
        "notes": "one; two",
    }
    assert {name: row[name] for name in wanted} == wanted
    assert "cost.stages" not in row


def test_the_samples_of_an_ab_join_in_turn():
    files = []
    for who, seconds in (("base", 0.004), ("head", 0.005)):
        record = a_gate_record([seconds, seconds])
        for found in record.rounds:
            found.sampling = {"in_turn": True, "cache": "rotating"}
        files.append(a_file([record], pair=side(who)))
    samples = frame_of(*files, a_result([a_round()]), per="sample")
    turns = samples[samples["in_turn"]]
    assert len(turns) == 20
    assert not samples[~samples["in_turn"]]["pair.side"].notna().any()
    key = ["pair.id", "pair.phase", "id", "round", "sample"]
    base, head = (turns[turns["pair.side"] == who].set_index(key)["seconds"] for who in ("base", "head"))
    assert (head / base).tolist() == pytest.approx([1.25] * 10)


def test_hot_samples_stand_apart():
    found = a_round(sampling={"cache": "cold"}, hot_samples_s=[0.001, 0.002])
    frame = frame_of(a_result([found]), per="sample")
    assert frame["cache"].tolist() == ["cold"] * 3 + ["hot"] * 2
    assert frame["sample"].tolist() == [0, 1, 2, 0, 1]
    assert frame["seconds"].tolist() == [*found.samples_s, 0.001, 0.002]
    (row,) = frame_of(a_result([found]), per="round").to_dict("records")
    assert (row["latency_ms_p50"], row["latency_ms_hot_p50"]) == (5.0, 1.5)


def test_a_swept_point_is_a_number_where_it_is_one():
    frame = frame_of(a_sweep(), a_key_sweep())
    assert sorted(frame["point.workload.tokens"].dropna().unique()) == [8, 64]
    assert frame["point.arms.memory.num_keys"].dtype.kind == "i"
    mixed = a_sweep()
    mixed.cases[0].planned["point"] = {"model_dim": "1K"}
    mixed.cases[1].planned["point"] = {"model_dim": 512}
    frame = frame_of(mixed)
    assert frame["point.model_dim"].tolist()[:2] == ["1K", "512"]
    assert frame["model_dim"].tolist()[:2] == [64, 64]


def test_operators_and_outside_layers_are_rows_like_others():
    specs = [
        {"kind": "weighted_bag", "model_dim": 64, "num_keys": 1024, "path": "torch", "dtype": "float32"},
        {"kind": "external", "model_dim": 64, "factory": "a.b:c", "options": {"width": [1, 2]}},
    ]
    known = [a_case(layer=spec_from(spec), level=level) for spec, level in zip(specs, ("op", "layer"), strict=True)]
    cases = [Record(id=case.id, case=case, status="ok", rounds=[a_round()]) for case in known]
    frame = frame_of(ResultFile(run=a_run(), environment={}, cases=cases))
    assert frame["level"].tolist() == ["op", "layer"]
    assert frame["path"].tolist()[0] == "torch"
    assert json.loads(frame["options"].tolist()[1]) == {"width": [1, 2]}
    assert frame["device"].isna().all()


def test_columns_of_several_files_are_one_set(tmp_path):
    paths = save(tmp_path, a_sweep(started="2026-01-02T00:00:00Z"), a_key_sweep(), a_result([a_round()]))
    frame = membench.read_results(paths)
    assert len(frame) == 16 + 4 + 1
    assert frame["file"].nunique() == 3
    assert frame["file"].tolist()[-1] == str(paths[0])
    assert len(set(frame.columns)) == len(frame.columns)
    pd.testing.assert_frame_equal(frame, membench.read_results([paths[0].parent / "*.json", str(paths[1])]))


def test_paths_may_be_of_any_kind(tmp_path):
    (path,) = save(tmp_path, a_result([a_round()]))
    bracket = tmp_path / "a[1].json"
    bracket.write_bytes(path.read_bytes())
    for given in (path, str(path), [path, str(path)], f"{tmp_path}/[0].json", bracket, f"{tmp_path}/**/0.json"):
        assert len(membench.read_results(given)) == 1
    (tmp_path / "link.json").symlink_to(path)
    assert len(membench.read_results([path, tmp_path / "link.json"])) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("none.json", "none.json: there is no such file"),
        ("no/*.json", "no file matches 'no/*.json'"),
        ([], "no file is named"),
        ("", "no file is named"),
        (["0.json", ""], "no file is named"),
        ("bad.json", "bad.json: no strict JSON"),
        ("b*.json", "bad.json: no strict JSON"),
        ("other.json", "other.json: is no result of ours"),
        ("other*", "nothing that 'other*' matches is a result file"),
        (["0.json", "other.json"], "other.json: is no result of ours"),
        (".", "is a directory"),
        ("a\0b", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, given, says):
    save(tmp_path, a_result())
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as problem:
        membench.read_results(given)
    assert says in str(problem.value)
    assert "\n" not in str(problem.value)


def test_another_kind_of_row_is_named(tmp_path):
    with pytest.raises(UsageError, match="per: 'samples' is no kind of row; did you mean 'sample'"):
        membench.read_results(save(tmp_path, a_result()), per="samples")
    with pytest.raises(UsageError, match="known are case, point, round, sample"):
        membench.read_results(save(tmp_path, a_result()), per=None)


def test_a_number_too_large_for_its_column_is_still_a_number_or_unknown():
    result = a_sweep(tokens=(8,), modes=("forward",))
    sizes = (2**70, 10**400, 3, None)
    for record, size in zip(result.cases, sizes, strict=True):
        record.planned["point"] = {"size": size}
    assert frame_of(result)["point.size"].tolist()[:3] == pytest.approx([2.0**70, float("nan"), 3.0], nan_ok=True)


def test_a_value_that_does_not_fit_its_column_is_no_fault():
    result = a_sweep(tokens=(8,), modes=("forward",))
    result.cases[0].metrics["qk_norm"] = 0.5  # a setting of memory layers
    result.cases[1].planned["params"] = 1.5
    frame = frame_of(result)
    assert frame["qk_norm"].tolist()[:2] == ["0.5", "False"]
    assert frame["params"].tolist()[1] == 1.5


@pytest.mark.parametrize("per", PER)
def test_whatever_strings_are_in_a_file_it_is_a_frame(per):
    dirty, _ = with_payload(a_sweep(tokens=(8,)), PAYLOAD + " \ud800")
    frame = frame_of(dirty, per=per)
    assert "window.pwned" in frame["scenario"].tolist()[0]
    csv_text(frame).encode()


def test_a_mutated_result_file_is_a_frame_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    made_up = with_answers(a_sweep(tokens=(8,), rounds=3)), a_result([a_round()])
    files = [strict_json(r.model_dump(mode="json")) for r in made_up]
    path, made = tmp_path / "mutated.json", 0
    for number in range(150):
        tree = json.loads(rng.choice(files))
        for _ in range(rng.randint(1, 3)):
            mutate(tree, rng)
        path.write_text(json.dumps(tree))
        try:
            for per in PER:
                frame = membench.read_results(path, per=per)
                csv_text(frame)
                if find_spec("pyarrow"):
                    parquet_bytes(frame)
            made += 1
        except UsageError:
            continue
        except Exception as error:
            pytest.fail(f"case {number}: {type(error).__name__}: {error}\n{path.read_text()}")
    assert made > 15


@pytest.mark.parametrize(
    "words",
    ["import membench", "from membench.cli import main", "from membench import read_results", "import layers.spec"],
)
def test_pandas_is_imported_when_a_frame_is_asked_for(words):
    code = (
        f"import sys\n{words}\nheavy = {{'torch', 'pandas', 'numpy', 'pyarrow'}} & set(sys.modules)\nassert not heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_membench_has_no_other_lazy_names():
    with pytest.raises(AttributeError, match="no attribute 'read_result'"):
        membench.read_result  # noqa: B018 - the look-up is what fails


def test_a_frame_is_made_without_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for per in PER:
            membench.read_results(save(tmp_path, a_sweep(), a_key_sweep()), per=per)


DOCUMENT = (ROOT / "docs/results_as_tables.md").read_text()
LAYERS_OWN = {name for spec in get_args(AnySpec) for name in spec.model_fields}


@pytest.mark.parametrize("per", PER)
def test_the_document_names_every_column(per):
    named = set(re.findall(r"`([^`\s]+)`", DOCUMENT))
    frame = frame_of(*COMMITTED.values(), a_sweep(), per=per)
    ends = tuple(name.removeprefix("…") for name in named if name.startswith("…"))
    groups = tuple(name for name in named if name.endswith("."))
    columns = set(frame.columns) - LAYERS_OWN
    assert {name for name in columns if not name.endswith(ends) and not name.startswith(groups)} <= named


def test_every_column_that_the_document_names_is_there():
    columns = DOCUMENT.partition("\n## Columns\n")[2]
    paced = {"version": 1, "calls_per_sample": 2, "amounts": {"products": 1}, "samples_s": [0.004] * 3}
    talked = {"ms": 1.5, "by_kind": {"all_reduce": {"calls": 1, "sent_bytes": 8.0, "ms": 1.5}}}
    counted = a_result([a_round(counters={"instructions_per_call": 1e6}, pacer=paced, communication=talked)])
    there = {name for per in PER for name in frame_of(*COMMITTED.values(), a_sweep(), counted, per=per).columns}
    named = set(re.findall(r"`([^`\s…]+[^`\s.])`", columns)) - {"ab", "rotating", "cold", "hot"}
    assert named <= there
    for group in re.findall(r"`([^`\s]+\.)`", columns):
        assert any(name.startswith(group) for name in there), group


@pytest.mark.filterwarnings("ignore:.*without a run of membench")
def test_what_the_document_shows_in_python_runs_and_finds_something(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    for block in re.findall(r"(?:^    .*\n|^\n)+", DOCUMENT, re.MULTILINE):
        *steps, last = ast.parse(textwrap.dedent(block)).body or [None]
        if last is None:
            continue
        exec(compile(ast.Module(steps, []), "document", "exec"), names)
        assert isinstance(last, ast.Expr)
        found = eval(compile(ast.Expression(last.value), "document", "eval"), names)
        assert len(found) and found.notna().any(axis=None)
    runs = [read_result(path) for path in (ROOT / "results").glob("iso_flop_8b_*.json")]
    assert len(names["cases"]) == sum(len(run.cases) for run in runs)
