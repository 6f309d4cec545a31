"""``membench compare`` and ``baseline`` as a user calls them: which files are compared, what is said, exit codes."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from gate_results import a_file, a_record, noisy, side
from timing import once_in, processes_take_less_than

from membench.results.records import write_result

ARMS = ("dense", "wide")


@pytest.fixture
def save(tmp_path, seed):
    """Writes a result file; one of a slower or larger layer where asked."""
    rng = np.random.default_rng(seed)

    def write(name, day=1, factor=1.0, rounds=8, arms=ARMS, flops=2e6, **run):
        records = [a_record(noisy(rng, 0.004 * factor, rounds, 0.003), arm=arm, cost={"flops": flops}) for arm in arms]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_result(a_file(records, started=f"2026-01-{day:02}T00:00:00Z", **run), path)
        return path

    return write


def test_of_two_files_the_older_is_the_baseline(call, save):
    new, old = save("a.json", day=2, factor=1.2), save("b.json", day=1)
    code, out, err = call("compare", new, old)
    assert code == 1
    assert "SLOW" in out
    assert "2 regressions" in err
    assert out.index("new: a.json") < out.index("baseline: b.json")
    assert f"membench run small.yaml --case {json.loads(new.read_text())['cases'][0]['id']}" in out
    assert call("compare", old, new)[0] == 1
    assert call("compare", old, new, "--advisory")[0] == 0
    assert call("compare", new, old, "--baseline", new)[0] == 0
    assert "Not compared" in call("compare", new, "--baseline", new)[1]


def test_commits_that_differ_are_reproduced_by_ab(call, save):
    old, new = (
        save("a.json", git_sha="aaaaaaaaaa", git_dirty=False),
        save("b.json", 2, 1.3, git_sha="bbbbbbbbbb", git_dirty=False),
    )
    _, out, _ = call("compare", old, new)
    assert "membench ab aaaaaaaaaa bbbbbbbbbb --scenario small.yaml --case" in out


def test_of_more_files_timings_are_advice_until_a_baseline_is_set(call, save):
    files = [save(f"r/{day}.json", day) for day in (1, 2)] + [save("r/3.json", 3, factor=1.2)]
    code, out, _ = call("compare", *files)
    assert code == 0
    assert "SLOW (advisory)" in out
    assert f"membench baseline set {files[0]}" in " ".join(out.split())
    code, out, _ = call("baseline", "set", files[1], "--reason", "release 1")
    assert code == 0
    assert "2.json" in out
    code, out, _ = call("compare", *files, files[0].parent / "baselines.yaml")
    assert code == 1
    assert "baseline: 2.json" in out
    assert call("compare", *files, "--all", "--json")[0] == 1
    assert call("compare", *files[:2])[0] == 4  # nothing is newer than the baseline
    code, out, _ = call("baseline", "show", files[0].parent, "--json")
    assert json.loads(out)["baselines"][0]["reason"] == "release 1"


def test_counts_fail_without_any_baseline_set(call, save):
    files = [save("1.json", 1), save("2.json", 2), save("3.json", 3, flops=3e6)]
    code, out, _ = call("compare", *files)
    assert code == 1
    assert "WORSE" in out


def test_a_baseline_that_is_gone_or_changed_is_said(call, save):
    files = [save("1.json", 1), save("2.json", 2)]
    call("baseline", "set", files[0])
    files[0].write_text(files[0].read_text() + " ")
    code, _, err = call("compare", *files)
    assert (code, err.count("\n")) == (2, 1)
    assert "was changed since it was set" in err
    files[0].unlink()
    code, _, err = call("compare", files[1])
    assert code == 2
    assert "is not there any more" in err


def test_a_file_alone_is_listed_and_only_that_is_4(call, save):
    alone = save("alone.json", scenario="other")
    code, out, err = call("compare", alone)
    assert (code, "the only file" in out) == (4, True)
    assert "nothing could be compared" in err
    code, out, _ = call("compare", alone, save("1.json", 1), save("2.json", 2))
    assert (code, "alone.json" in out) == (0, True)


def test_the_sides_of_an_ab_are_judged_only_by_themselves(call, save):
    first = [save("a.json", 3, pair=side("base")), save("b.json", 3, factor=1.3, pair=side("head"))]
    again = [
        save(f"c-{name}.json", 3, factor=factor, pair=side(name, "confirm"), rounds=10)
        for name, factor in (("base", 1.0), ("head", 1.3))
    ]
    assert call("compare", *reversed(first))[0] == 0  # one look is no proof
    assert "no second look" in " ".join(call("compare", *first)[1].split())
    code, out, _ = call("compare", *again, *first)
    assert (code, "confirmed: +" in " ".join(out.split())) == (1, True)
    runs = [save("1.json", 1), save("2.json", 2)]
    code, out, _ = call("compare", *runs, *first)
    assert (code, "a side of an ab" in " ".join(out.split())) == (0, True)
    for bad in (first[0], save("i.json", interrupted=True), save("o.json", only=["1"])):
        code, _, err = call("baseline", "set", bad)
        assert (code, "a complete result" in err) == (2, True)


def test_with_a_baseline_named_each_device_is_judged(call, save):
    old, slow, other = save("1.json", 1), save("2.json", 2, factor=1.3), save("3.json", 3)
    moved = json.loads(other.read_text())
    moved["environment"]["fingerprint"] = "ffffffffffff"
    other.write_text(json.dumps(moved))
    assert call("compare", slow, other, "--baseline", old)[0] == 1


def test_a_case_twice_is_refused(call, save):
    path = save("1.json")
    content = json.loads(path.read_text())
    content["cases"].append(content["cases"][0])
    path.write_text(json.dumps(content))
    code, _, err = call("compare", path)
    assert (code, "is there twice" in err) == (2, True)


def test_other_hardware_is_another_group(call, save):
    old, new = save("1.json", 1), save("2.json", 2)
    moved = json.loads(new.read_text())
    moved["environment"]["fingerprint"] = "ffffffffffff"
    new.write_text(json.dumps(moved))
    assert call("compare", old, new)[0] == 4
    code, out, err = call("compare", new, "--baseline", old)
    assert code == 0
    assert "measured on another device" in out
    assert "inconclusive" in err
    assert call("compare", new, "--baseline", old, "--strict")[0] == 3


def cut(path):
    path.write_text(path.read_text()[:-200])


def with_nan(path):
    path.write_text(path.read_text().replace('"samples_s": [', '"samples_s": [NaN, ', 1))


def another_schema(path):
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99', 1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_text(""), "no strict JSON"),
        (lambda path: path.write_bytes(b"\0\xff\xfe"), "no text file"),
        (cut, "no strict JSON"),
        (with_nan, "NaN is not JSON"),
        (another_schema, "schema_version 99 is not supported"),
        (lambda path: path.write_text('{"schema_version": 1}'), "run"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    ],
    ids=["missing", "empty", "binary", "truncated", "nan", "schema", "no run", "directory"],
)
def test_a_file_that_cannot_be_read_is_one_line_and_2(call, save, spoil, said):
    good, bad = save("good.json", 1), save("bad.json", 2)
    spoil(bad)
    code, out, err = call("compare", good, bad)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert "bad.json" in err


def test_a_case_gone_or_failing_is_1_and_no_case_at_all_is_5(call, save):
    old = save("1.json", 1)
    code, out, _ = call("compare", old, save("2.json", 2, arms=("dense",)))
    assert (code, "MISSING" in out) == (1, True)
    failing = save("3.json", 3)
    content = json.loads(failing.read_text())
    content["cases"][0] |= {"status": "oom", "reason": "no memory left", "rounds": []}
    failing.write_text(json.dumps(content))
    code, out, _ = call("compare", old, failing)
    assert (code, "FAILED" in out, "no memory left" in out) == (1, True, True)
    content["cases"] = []
    failing.write_text(json.dumps(content))
    code, _, err = call("compare", old, failing)
    assert (code, "nothing was measured" in err) == (5, True)


def test_a_benchmarks_own_file_is_passed_over(call, save, tmp_path):
    own = tmp_path / "bench.json"
    own.write_text('{"benchmark": "moe_vs_dense", "ratio": 1.5}')
    code, _, err = call("compare", save("1.json", 1), save("2.json", 2), own)
    assert code == 0
    assert "passed over" in err
    assert call("compare", own)[0] == 2


def test_within_a_run_the_layers_are_compared(call, save, seed):
    path = save("1.json")
    content = json.loads(path.read_text())
    for round_ in content["cases"][1]["rounds"]:
        round_["samples_s"] = [2 * s for s in round_["samples_s"]]
    path.write_text(json.dumps(content))
    code, out, _ = call("compare", path, "--within")
    assert code == 0
    assert "slower" in out
    assert call("compare", path, "--within", "--reference", "wide")[1].count("faster") == 1
    code, _, err = call("compare", path, "--within", "--reference", "dens")
    assert (code, "did you mean 'dense'?" in err) == (2, True)
    code, _, err = call("compare", path, "--within", "--strict")
    assert (code, "--strict: does not go with --within" in err) == (2, True)
    rows = json.loads(call("compare", path, "--within", "--json")[1])["within"][0]["rows"]
    assert rows[0]["change"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rounds", [2, 3])
def test_within_a_run_of_few_rounds_the_reason_says_who_tells_arms_apart(call, save, rounds):
    path = save("1.json")
    content = json.loads(path.read_text())
    for record in content["cases"]:
        record["rounds"] = record["rounds"][:rounds]
    path.write_text(json.dumps(content))
    rows = json.loads(call("compare", path, "--within", "--json")[1])["within"][0]["rows"]
    assert rows[0]["reason"].startswith(f"{rounds} paired rounds; 8 are needed")
    assert ("membench report says which arms these tell apart" in rows[0]["reason"]) == (rounds == 3)


def test_outputs_for_a_ci_system(call, save, tmp_path, monkeypatch):
    files = save("1.json", 1), save("2.json", 2, factor=1.2, arms=("dense",))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = call("compare", *files, "--json", "--markdown", "m.md", "--junit", "j.xml")
    found = json.loads(out)
    assert code == found["exit_code"] == 1
    metric = found["comparisons"][0]["cases"][-1]["metrics"][0]
    assert {"theta", "theta_low", "theta_high", "margin", "rounds", "p", "verdict", "reason"} <= metric.keys()
    text = (tmp_path / "m.md").read_text()
    assert text == (tmp_path / "summary.md").read_text()
    assert text.index("MISSING") < text.index("SLOW")
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    assert [p.get("name") for p in suite[1].iter("property")][:2] == [
        "latency_ms_p50.verdict",
        "latency_ms_p50.baseline",
    ]
    code, out, err = call("compare", *files, "--junit", "no/such/folder/j.xml")
    assert (code, out, "--junit" in err) == (2, "", True)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/no/such/folder/summary.md")  # handed into a container, not mounted
    code, out, err = call("compare", *files)
    assert (code, "SLOW" in out) == (1, True)
    assert "GITHUB_STEP_SUMMARY: /no/such/folder/summary.md cannot be written" in err


EVIL = "</td><script>alert(1)</script>|`x`\n## *h* \x00\x1b[31m\ufffe<!-- ]]>"


def test_a_script_in_any_string_stays_text(call, save, tmp_path):
    paths = [save("1.json", 1), save("2.json", 2, factor=1.5)]
    for day, path in enumerate(paths):
        content = json.loads(path.read_text())
        content["environment"]["device"]["name"] = EVIL
        content["run"] |= {
            "scenario": EVIL,
            "description": EVIL,
            "source": EVIL,
            "overrides": [EVIL],
            "git_sha": EVIL * (day + 1),
        }
        content["run"] |= {"command": EVIL, "git_dirty": False}
        for case in content["cases"]:
            case["case"]["arm"] = EVIL
            case["planned"] = {"point": {"workload.x": EVIL}}
        content["cases"][0]["id"] = f"{EVIL} one"
        failing = {**content["cases"][0], "id": EVIL}
        content["cases"].append({**failing, "status": "error", "reason": EVIL} if day else failing)
        path.write_text(json.dumps(content))
    code, out, _ = call("compare", *paths, "--markdown", "m.md", "--junit", "j.xml")
    assert code == 1
    assert "\x1b" not in out
    text = (tmp_path / "m.md").read_text()
    assert "<script" not in text.replace("\\<script", "")
    assert not [line for line in text.splitlines() if line.startswith("## ")]
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert not list(root.iter("script"))
    assert any("<script>" in case.get("name") for case in root.iter("testcase"))


def test_a_reason_in_the_answer_stays_text(call, save, tmp_path):
    paths = [save("1.json", 1), save("2.json", 2)]
    content = json.loads(paths[0].read_text())
    for case in content["cases"]:
        case |= {"status": "error", "reason": EVIL, "rounds": []}
    paths[0].write_text(json.dumps(content))
    code, _, err = call("compare", *paths, "--markdown", "m.md")
    assert (code, "\x1b" in err) == (4, False)
    text = (tmp_path / "m.md").read_text()
    assert "<script" not in text.replace("\\<script", "")
    assert not [line for line in text.splitlines() if line.startswith("## ")]


def test_a_thousand_cases_compare_in_seconds(save, tmp_path, seed):
    rng = np.random.default_rng(seed)
    paths = []
    for day in (1, 2):
        records = [a_record(noisy(rng, 0.004, 8, 0.01), tokens=n + 1) for n in range(1000)]
        write_result(a_file(records, started=f"2026-01-0{day}T00:00:00Z"), tmp_path / f"{day}.json")
        paths.append(str(tmp_path / f"{day}.json"))
    code = (
        "import sys\nfrom membench.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )

    def check():
        with processes_take_less_than(6):  # the goal is 3 s
            done = subprocess.run(
                [sys.executable, "-c", code, "compare", *paths],
                capture_output=True,
                text=True,
                env={**os.environ, "COLUMNS": "200"},
            )
        assert done.returncode in (0, 1), done.stderr
        assert done.stdout.count("latency_ms_p50") == 100
        assert "more rows, none worse" in done.stdout

    once_in(4, check)
