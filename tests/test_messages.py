"""What is wrong is said in words of ours, before anything is measured: YAML, traces, files that are no results."""

import gzip
import json
import pickle

import numpy as np
import pytest
import yaml
from gate_results import a_file, a_record
from test_bad_input import BASE

from membench.errors import UsageError
from membench.planning.planner import make_plan, solve_budgets
from membench.results.records import read_result, write_result
from membench.scenario.scenario import parse_scenario
from membench.yaml_files.problem import yaml_problem
from membench.yaml_files.reader import parse_mapping, parse_value, read_text

NOT_YAML = [
    # tabs, wherever an indentation may be
    ("a:\n\tb: 1\n", "s.yaml:2: is no YAML: a tab at column 1; YAML is indented by spaces"),
    ("a:\n  b: 1\n\tc: 2\n", "s.yaml:3: is no YAML: a tab at column 1"),
    ("a:\n  \tb: 1\n  c: 2\n", "a tab at column 3"),
    ("a: 1\r\n\tb: 2\r\n", "a tab at column 1"),
    ("a:\n  - 1\n\t- 2\n", "a tab at column 1"),
    ("\t- x\n", "a tab at column 1"),
    # what else is written wrong most often
    ("a: b: c\n", "a second ': ' in one value"),
    ("a: [1, 2\nb: 3\n", "a bracket that is not closed"),
    ("a: {b: 1\n", "a bracket that is not closed"),
    ("a: [1, 2]]\n", "is no YAML: "),
    ('a: "b\nc: d\n', "a quote that is not closed"),
    ("a: 'b\n", "a quote that is not closed"),
    ("a: @b\n", "'@' begins a value; put quotes around it"),
    ("a: `b`\n", "'`' begins a value; put quotes around it"),
    ("a: %b\n", "'%' begins a value; put quotes around it"),
    ("a: *\n", "a '*' or '&' begins a value"),
    ("a:\n    b: 1\n  c: 2\n", "indented otherwise than those it belongs to"),
    ("a: 1\n- b\n", "s.yaml:2: is no YAML: "),
    ('a: "\\q"\n', "an escape that double quotes do not know"),
    ("a: b\nc\n", "neither 'key: value' nor '- item'"),
    ("a:\t1\n", "a tab at column 3; write a space"),
    ("a: \x07\n", "it holds the character '\\x07'"),
]


@pytest.mark.parametrize(("text", "said"), NOT_YAML)
def test_what_is_no_yaml_is_said_in_our_words(text, said):
    with pytest.raises(UsageError) as caught:
        parse_mapping(text, "s.yaml")
    line = str(caught.value)
    assert said in line
    assert line.startswith("s.yaml:")
    for raw in ("token", "expected", "context", "simple key", "scalar", "<"):
        assert raw not in line


def test_words_that_a_parser_has_never_said_are_not_shown():
    error = yaml.MarkedYAMLError(None, None, "brand new words", yaml.Mark("s", 3, 0, 3, None, None))
    assert yaml_problem("a: ?b", error) == "'?' is not understood (column 4)"
    assert yaml_problem("a: ", error) == "it ends in the middle of a value (column 4)"
    assert yaml_problem("a", yaml.YAMLError("brand new words")) == "the parser refuses it"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no: 1\non: 2\nyes: 3\n", {"no": 1, "on": 2, "yes": 3}),  # names, not booleans
        ("a: 1\r\nb:\r\n  - c\r\n", {"a": 1, "b": ["c"]}),
        ("<<: {b: 1}\na: 1\n", {"<<": {"b": 1}, "a": 1}),  # a merge key is a key like another: unknown
        ("a: 1e3\nb: 0o17\nc: 017\n", {"a": 1000.0, "b": "0o17", "c": "017"}),
    ],
)
def test_what_surprises_in_yaml_does_not_here(text, value):
    assert parse_mapping(text, "s.yaml") == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workload.tokens=1e3", "workload.tokens: should be a valid integer, not 1000.0"),
        ("workload.tokens=010", "not '010'"),
        ("workload.tokens=0x10", "not '0x10'"),
        ("<<={a: 1}", "<<: unknown key"),
    ],
)
def test_numbers_that_are_none_are_quoted(override, said):
    with pytest.raises(UsageError) as caught:
        parse_scenario(BASE, "base.yaml", [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("name: x\n".encode("utf-16"), "UTF-16"),
        ("name: x\n".encode("utf-16-be"), ""),
        (gzip.compress(b"name: x\n", mtime=0), "compressed (gzip)"),
        (b"PK\x03\x04\x00", "a zip archive"),
    ],
    ids=["utf-16", "utf-16-be", "gzip", "zip"],
)
def test_a_file_that_is_no_text_is_named_by_what_it_is(tmp_path, content, form):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    for read in (read_text, read_result):
        with pytest.raises(UsageError) as caught:
            read(path)
        assert f"is no text file (UTF-8){', it is ' + form if form else ''}; name " in str(caught.value)


GOOD = np.arange(48).reshape(6, 1, 8)


def npz(path):
    with path.open("wb") as stream:
        np.savez(stream, rows=GOOD)


def objects(path):
    np.save(path, np.array([{"rows": 1}], dtype=object), allow_pickle=True)


def cut(path):
    np.save(path, GOOD)
    path.write_bytes(path.read_bytes()[:-1])


TRACES = [
    (npz, "is an archive of several arrays (.npz); numpy.save writes one array of integers as .npy"),
    (objects, "holds Python objects"),
    (lambda path: path.write_bytes(pickle.dumps([1])), "is a pickle"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_text("1 2 3"), "is not a readable .npy file"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': import}"), "its header is damaged"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x09\x00\x10\x00"), "its header is damaged"),
    (cut, "is cut short: 511 of 512 bytes"),
    (lambda path: np.save(path, GOOD.astype(np.float32)), "wants integers, has float32"),
    (lambda path: np.save(path, GOOD > 3), "wants integers, has bool"),
    (lambda path: np.save(path, np.zeros(3, dtype=[("a", int)])), "wants integers, has"),
    (lambda path: np.save(path, np.int64(3)), "wants integers T x …, has one number"),
    (lambda path: np.save(path, GOOD[:0]), "holds no index: its shape is 0 x 1 x 8"),
    (lambda path: np.save(path, GOOD[..., :7]), "wants integers T x 1 x 8, has 6 x 1 x 7"),
    (lambda path: np.save(path, GOOD[:, 0]), "wants integers T x 1 x 8, has 6 x 8"),
    (lambda path: np.save(path, GOOD - 1), "indices must lie in 0 … 4095, not -1"),
    (lambda path: np.save(path, (GOOD + 4090).astype(np.uint64)), "indices must lie in 0 … 4095, not 4137"),
    (lambda path: path.mkdir(), "is no file"),
    (lambda path: None, "is no file"),
]
TRACED = [
    "arms.mem.heads=1",
    "axes={}",
]


@pytest.mark.parametrize(("make", "said"), TRACES)
@pytest.mark.parametrize("look", [make_plan, solve_budgets])
def test_a_trace_is_looked_at_before_anything_is_measured(tmp_path, make, said, look):
    path = tmp_path / "rows.npy"
    make(path)
    overrides = [*TRACED, f"workload.routing={{kind: trace, trace: '{path}'}}"]
    with pytest.raises(UsageError) as caught:
        look(parse_scenario(BASE, "base.yaml", overrides))
    line = str(caught.value)
    assert said in line
    assert line.startswith("base.yaml: workload")
    assert "rows.npy" in line
    assert "\n" not in line


def test_a_trace_that_fits_is_known_by_its_content(tmp_path):
    ids = []
    for name, rows in (("a", GOOD), ("b", GOOD), ("c", GOOD + 1)):
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(rows))
        routing = f"workload.routing={{kind: trace, trace: '{tmp_path / name}.npy'}}"
        plan = make_plan(parse_scenario(BASE, "base.yaml", [*TRACED, routing]))
        ids.append({case.case.arm: case.id for case in plan.cases})
    assert ids[0] == ids[1]
    assert ids[0]["mem"] != ids[2]["mem"]
    assert ids[0]["dense"] == ids[2]["dense"]


def test_a_trace_of_experts_is_held_against_the_experts(tmp_path):
    moe = "arms={moe: {layer: moe, num_experts: 8, expert_hidden: 64, top_k: 2}}"
    np.save(tmp_path / "e.npy", np.array([[0, 7], [8, 1]]))
    routing = f"workload.routing={{kind: trace, trace: '{tmp_path}/e.npy'}}"
    with pytest.raises(UsageError, match=r"indices must lie in 0 … 7, not 8"):
        make_plan(parse_scenario(BASE, "base.yaml", [moe, routing]))
    choosing = "arms.moe.choice=expert"  # routes by itself: skipped, whatever the trace holds
    assert make_plan(parse_scenario(BASE, "base.yaml", [moe, routing, choosing])).cases[0].skipped


FOREIGN = {
    "list.json": ("[]", "is no result of ours: schema_version is missing"),
    "number.json": ("3", "is no result of ours"),
    "package.json": ('{"name": "x", "version": "1.0"}', "is no result of ours"),
    "metrics.json": ('{"loss": NaN, "other": -Infinity}', "is no result of ours"),
    "analysis.ipynb": ('{"cells": [], "nbformat": 4}', "is a notebook"),
    "printed.json": ('{"results": []}', "is what membench printed with --json"),
    "moe.json": ('{"benchmark": "moe_vs_dense"}', "is what benchmarks.moe_vs_dense wrote"),
}


@pytest.mark.parametrize("command", [("compare",), ("report", "--output", "page.html")])
def test_json_of_another_make_is_passed_over_and_named(call, tmp_path, command):
    for day in (1, 2):
        found = a_file([a_record([0.004] * 8)], started=f"2026-01-0{day}T00:00:00Z")
        write_result(found, tmp_path / f"{day}.json")
    for name, (content, _) in FOREIGN.items():
        (tmp_path / name).write_text(content)
    code, _, err = call(*command, "1.json", *FOREIGN, "2.json")
    assert code == 0
    for name, (_, why) in FOREIGN.items():
        (line,) = [line for line in err.splitlines() if line.startswith(f"membench: {name}: ")]
        assert why in line
        assert line.endswith("; passed over")


def test_where_nothing_is_left_it_is_bad_input(call, tmp_path):
    for name in ("list.json", "other.json"):
        (tmp_path / name).write_text("[]")
    code, out, err = call("compare", "list.json", "other.json")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 3
    assert err.splitlines()[-1] == "membench: none of the files given is a result of membench run"
    code, out, err = call("compare", "list.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "list.json: is no result of ours: schema_version is missing" in err


def test_what_says_it_is_a_result_and_cannot_be_read_stops_it(call, tmp_path):
    """To pass it over might hide the one result that fails."""
    write_result(a_file([a_record([0.004] * 8)]), tmp_path / "1.json")
    content = json.loads((tmp_path / "1.json").read_text())
    for name, text, said in (
        ("newer.json", json.dumps({**content, "schema_version": 2}), "it is of a newer one: update it"),
        ("older.json", json.dumps({**content, "schema_version": 0}), "schema_version 0 is not supported"),
        ("unversioned.json", json.dumps({**content, "schema_version": None}), "schema_version is missing"),
        ("empty.json", "", "no strict JSON (it is empty)"),
        ("nan.json", json.dumps({**content, "environment": {"x": float("nan")}}), "NaN is not JSON"),
    ):
        (tmp_path / name).write_text(text)
        code, _, err = call("compare", "1.json", name)
        assert code == 2
        assert f"membench: {name}: " in err
        assert said in err
    (tmp_path / "packed.json").write_bytes(gzip.compress((tmp_path / "1.json").read_bytes()))
    code, _, err = call("compare", "1.json", "packed.json")
    assert (code, "it is compressed (gzip)" in err) == (2, True)


def test_the_override_of_a_key_has_no_line():
    with pytest.raises(UsageError, match=r"^--set a: is no YAML: a bracket that is not closed"):
        parse_value("[1", "--set a")
