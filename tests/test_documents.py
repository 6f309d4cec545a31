"""What documents say of result files is made from them, and is what the committed files give."""

import json
import re
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from report_results import a_key_sweep, a_sweep, of_whole_models
from test_docs import ROOT
from test_results_table import a_record

from benchmarks.documents import page, pictures, rewriting
from benchmarks.documents.families import REST, families
from benchmarks.documents.files_table import files_table, listed
from benchmarks.documents.labels import short_labels, stretches
from benchmarks.documents.main_comparison import chosen, quoted, readme_part, seconds_part
from benchmarks.documents.marked import parts_of, with_parts
from benchmarks.documents.outdated import outdated
from benchmarks.documents.page import flagged, results_page, slugs
from benchmarks.documents.pictures import picture
from benchmarks.documents.recorded import Recorded, answers_scenario, newest_by_device
from benchmarks.documents.rewriting import listed_files, rewritten
from benchmarks.documents.sentences import answer_sentences
from benchmarks.documents.stage_table import WHY, stages_part
from benchmarks.documents.tables import points_table, sizes_tables, times_tables
from benchmarks.standings import Point, Standing, points_of
from layers.spec import spec_from
from membench.case import Case
from membench.errors import UsageError
from membench.machine.provenance import device_slug
from membench.results.metrics import metrics_of
from membench.results.records import Record, ResultFile, read_result, strict_json
from membench.scenario.scenario import load_scenario

from test_records import a_round, a_run  # isort: skip

DEVICE = {"device": {"type": "cpu", "name": "a processor", "cores": 2, "memory_bytes": 2**34}}


def a_measured(arm, rounds_ms, **changes):
    """A record whose rounds have these medians."""
    record = a_record(arm, sorted(rounds_ms)[len(rounds_ms) // 2], **changes)
    record.rounds = [a_round(n, [ms / 1e3] * 4) for n, ms in enumerate(rounds_ms)]
    metrics = metrics_of(record.case, record.rounds, communication_ms=0.0)
    return record.model_copy(update={"id": f"{arm} {record.case.mode} {record.case.tokens}", "metrics": metrics})


def a_result(*records, **run):
    known = {"scenario": "x", "source": "x", "rounds": len(records[0].rounds), **run}
    return ResultFile(run=a_run(**known), environment=DEVICE, cases=list(records))


CLEAR = a_result(
    a_measured("dense", [9.0, 9.1, 9.05]),
    a_measured("quick", [3.0, 3.1, 3.05], kind="memory"),
    a_measured("slow", [30.0, 31.0, 30.5], kind="memory"),
)
TIED = a_result(
    a_measured("a", [3.0, 3.4, 3.2], kind="memory"),
    a_measured("b", [3.1, 3.35, 3.3], kind="memory"),
    a_measured("slow", [30.0, 31.0, 30.5], kind="memory"),
)


def test_committed_documents_are_what_committed_files_give():
    for path, content in rewritten(ROOT, listed_files(ROOT)).items():
        kept = (ROOT / path).read_bytes()
        if path.suffix == ".svg" and f"Matplotlib v{mpl.__version__}".encode() not in kept:
            continue  # another version draws the same otherwise
        assert kept == content, f"{path} is not what its result files give: run make results-document"


def test_clip_paths_have_numbers_and_not_hashes_of_their_bounds():
    svg = picture(CLEAR).decode()
    clips = set(re.findall(r'<clipPath id="([^"]+)"', svg))
    assert clips == set(re.findall(r"url\(#([^)]+)\)", svg)) == {f"clip{n}" for n in range(1, len(clips) + 1)}


def test_every_picture_is_shown():
    documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    shown = set(re.findall(r"\]\(pictures/([^)]+)\)", documents))
    assert shown == {path.name for path in (ROOT / "docs/pictures").glob("*.svg")}


def test_every_committed_file_is_listed():
    names = listed_files(ROOT)
    assert len(set(names)) == len(names) > 10
    assert all((ROOT / "results" / name).exists() for name in names)


def test_one_that_is_told_apart_is_the_fastest():
    (sentence,) = answer_sentences(CLEAR)
    assert sentence.startswith("forward: `quick` is the fastest with 3.05 ms (")
    assert "`dense` takes 2.97 times (" in sentence
    assert "slow" not in sentence  # the next one is the yardstick too


def test_equal_flops_have_their_own_answer():
    flops = {"quick": 50.0}
    cases = [r.model_copy(update={"achieved": {"flops_per_token": flops.get(r.case.arm, 100.0)}}) for r in CLEAR.cases]
    (sentence,) = answer_sentences(CLEAR.model_copy(update={"cases": cases, "answers": []}))
    assert sentence.endswith(" Of the arms with dense's FLOPs `dense` is the fastest.")
    same = [r.model_copy(update={"achieved": {"flops_per_token": 100.0}}) for r in CLEAR.cases]
    (sentence,) = answer_sentences(CLEAR.model_copy(update={"cases": same, "answers": []}))
    assert "FLOPs" not in sentence


def test_those_not_told_apart_are_named_together():
    (sentence,) = answer_sentences(TIED)
    assert "`a` and `b` are not told apart as the fastest (3.2, 3.3 ms)" in sentence
    assert "is the fastest" not in sentence
    assert "`slow` takes 9.53 times" in sentence


def test_dense_layers_alone_are_held_against_the_ceiling():
    sentences = answer_sentences(a_result(a_measured("one", [4.0, 4.1, 4.2]), a_measured("two", [8.0, 8.1, 8.2])))
    assert sentences[1:] == [
        "`one` forward reaches 49 % of the matmul ceiling.",
        "`two` forward reaches 25 % of the matmul ceiling.",
    ]


def test_fewer_rounds_make_no_order():
    result = a_result(a_measured("a", [3.0, 3.0]), a_measured("b", [9.0, 9.0]))
    assert answer_sentences(result) == ["No order is known: two rounds."]
    (table,) = times_tables(result)
    assert "| a | - |" in table


def test_many_points_are_grouped_by_who_is_fastest():
    records = [
        a_measured(arm, [ms, 1.01 * ms, 1.005 * ms], tokens=tokens)
        for tokens, quick, other in ((1, 1, 2), (2, 2, 3), (4, 4, 5), (8, 9, 7))
        for arm, ms in (("quick", quick), ("other", other))
    ]
    sentences = answer_sentences(a_result(*records))
    assert sentences[0] == (
        "`quick` is the fastest at 3 of 4 points (1 token to 4 tokens): the next takes 1.25 to 2 times as long."
    )
    assert sentences[1].startswith("`other` is the fastest at 1 of 4 points (8 tokens)")


def test_the_next_one_is_held_against_the_leader():
    """In the rounds that both have, ``b`` is faster; the other rounds give ``a`` the lower median."""
    records = []
    for tokens in (1, 2, 4, 8):
        records.append(a_measured("a", [2.0, 2.02, 2.01, 1.0, 1.01, 1.02], tokens=tokens))
        records.append(a_measured("b", [1.8, 1.81, 1.82], tokens=tokens))
    (point, *_) = points_of(a_result(*records))
    a, b = point.standings
    assert point.leaders == [b]
    ratio = f"{a.step_ms / b.step_ms:.3g}"
    assert answer_sentences(a_result(*records))[0].endswith(f": the next takes {ratio} times as long.")


def test_a_point_of_one_arm_has_no_order():
    records = [a_measured("a", [1.0, 1.1, 1.2], tokens=tokens) for tokens in (1, 2, 4, 8)]
    records += [a_measured("b", [2.0, 2.1, 2.2], tokens=tokens, kind="memory") for tokens in (1, 2, 4)]
    first, last, *_ = answer_sentences(a_result(*records))
    assert first.startswith("`a` is the fastest at 3 of 4 points")
    assert last == "No order is known at 1 of 4 points (8 tokens): one arm."
    found = answer_sentences(a_result(records[0], records[4], records[3]))
    assert found[0].startswith("1 token: `a` is the fastest")
    assert found[1] == "8 tokens: no order is known (one arm)."
    assert answer_sentences(a_result(*records[3:5])) == ["No order is known: one arm."]


def test_growth_along_an_arm_s_own_key_is_told():
    for result in (a_key_sweep(), of_whole_models(a_key_sweep())):
        for record in result.cases:
            record.rounds = [a_round(n, record.rounds[0].samples_s) for n in range(3)]
        sentences = answer_sentences(result)
        assert any("from num_keys 1024 to 16384 `memory` goes from" in sentence for sentence in sentences)
        result.cases = [record for record in result.cases if record.case.arm == "dense" or record is result.cases[-1]]
        assert not any("goes from" in sentence for sentence in answer_sentences(result)), "one size does not grow"


def test_a_table_has_every_arm_by_place():
    (table,) = times_tables(CLEAR)
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")][2:]
    assert rows == [["| quick", "1"], ["| dense", "2"], ["| slow", "3"]]
    (table,) = times_tables(TIED)
    assert "| a | 1–2 |" in table and "| b | 1–2 |" in table and "| slow | 3 |" in table


def test_a_failed_arm_is_a_row_of_dashes():
    (table,) = times_tables(a_result(*CLEAR.cases, a_record("lost", None, status="oom")))
    assert re.search(r"^\| lost( \| -)+ \|$", table, re.MULTILINE)


def test_of_many_points_those_that_may_be_first_are_bold():
    points = [each for result in (CLEAR, TIED, CLEAR) for each in points_of(result)]
    rows = points_table(points, ["1", "2", "3"]).splitlines()[2:]
    assert [re.findall(r"\*\*([\d.]+)\*\*", row) for row in rows] == [["3.05"], ["3.20", "3.30"], ["3.05"]]


def test_a_picture_is_the_same_twice_and_opaque():
    for result in (CLEAR, TIED, a_sweep(rounds=3), a_key_sweep()):
        drawn = picture(result)
        assert drawn == picture(result)
        assert drawn.startswith(b"<?xml")
        assert b"<dc:date>" not in drawn
        assert b"fill: #ffffff" in drawn  # the paper
    assert picture(a_result(a_record("lost", None, status="oom"))) is None


def test_modes_of_which_one_has_a_single_point_are_drawn_in_rows(monkeypatch):
    """On an axis of tokens that both share, rows would stand at the numbers of milliseconds."""
    records = [a_measured("dense", [1.0, 1.1, 1.2], tokens=tokens) for tokens in (1, 2, 4)]
    records += [a_measured("memory", [1.0, 1.1, 1.2], kind="memory", mode="forward_backward")]
    drawn = []
    for name in ("lines", "points", "arms"):
        real = getattr(pictures, f"_draw_{name}")
        monkeypatch.setattr(
            pictures, f"_draw_{name}", lambda *of, real=real, name=name: drawn.append(name) or real(*of)
        )
    named_in_legend = []
    legend = Figure.legend
    monkeypatch.setattr(
        Figure, "legend", lambda self, *of, **how: named_in_legend.extend(of[1]) or legend(self, *of, **how)
    )
    assert picture(a_result(*records))
    assert drawn == ["points", "arms"]
    assert named_in_legend == ["dense", "floor", "today, with its interval"]  # of both panels, each once
    drawn.clear()
    assert picture(a_result(*records[:3]))
    assert drawn == ["lines"]


@pytest.mark.parametrize(("length", "columns"), [(8, 4), (40, 2), (400, 1)])
def test_a_legend_has_as_many_columns_as_there_is_room_for(length, columns, monkeypatch):
    kept, legend = [], Figure.legend
    monkeypatch.setattr(
        Figure, "legend", lambda self, *of, **how: kept.append(how["ncols"]) or legend(self, *of, **how)
    )
    records = [a_measured(f"arm_{number}".ljust(length, "a"), [1.0, 1.1, 1.2]) for number in range(6)]
    assert picture(a_result(*records, *(a_measured(each.case.arm, [1, 2, 3], tokens=16) for each in records)))
    assert kept[-1] == columns


def labelled(*titles):
    points = [Point(title, [], [], "one round", []) for title in titles]
    return points, short_labels(points, ranks=1)


def test_labels_say_what_tells_points_apart():
    assert labelled("forward, 8 tokens a rank, routing uniform")[1] == ["forward"]
    titles = [f"decode, {n} tokens a rank, routing uniform" for n in (2, 4, 8, 16)]
    points, labels = labelled(*titles)
    assert labels == ["2 tokens", "4 tokens", "8 tokens", "16 tokens"]
    assert stretches([0, 1, 2], points, labels) == "2 tokens to 8 tokens"
    assert stretches([0, 1, 3], points, labels) == "2 tokens; 4 tokens; 16 tokens"


def test_a_stretch_stays_in_one_mode():
    points, labels = labelled("forward, 1", "forward, 2", "backward, 1", "backward, 2")
    assert stretches([0, 1, 2, 3], points, labels) == "forward, 1; forward, 2; backward, 1; backward, 2"


def public(arm, **options):
    layer = spec_from({"kind": "external", "model_dim": 64, "dtype": "float32", "factory": "a:b", "options": options})
    case = Case(arm=arm, mode="forward", layer=layer, tokens=8)
    return Record(id=arm, case=case, status="ok", rounds=[a_round(n) for n in range(3)], metrics={"step_ms": 5.0})


def test_public_layers_are_compared_with_the_layer_of_their_sizes():
    ours = [a_measured("memory", [3.0, 3.1, 3.2], kind="memory"), a_measured("dense", [1.0, 1.1, 1.2])]
    theirs = [public("bag", num_keys="4K", top_k=4), public("swiglu", ffn_hidden=128), public("odd", top_k=5)]
    found = families(a_result(*ours, *theirs))
    assert {name: [r.case.arm for r in of.cases] for name, of in found.items()} == {
        "memory": ["memory", "bag"],
        "dense": ["dense", "swiglu"],
        REST: ["odd"],
    }
    assert list(families(CLEAR)) == [""]


def test_the_newest_of_each_device_answers():
    def recorded(day, name="a processor", memory_bytes=2**34, cases=CLEAR.cases, **run):
        run = {"scenario": "quickstart", "source": "quickstart", "scenario_text": scenario.text, **run}
        result = a_result(*cases, started=f"2026-01-{day:02}T00:00:00Z", **run)
        environment = {"device": {**DEVICE["device"], "name": name, "memory_bytes": memory_bytes}}
        return Recorded(Path(f"{day}.json"), result.model_copy(update={"environment": environment}))

    scenario = load_scenario("quickstart")
    failed = [*CLEAR.cases, a_record("lost", None, status="error")]
    runs = [
        recorded(1),
        recorded(2, memory_bytes=int(0.97 * 2**34)),
        recorded(3, "another"),
        recorded(4, rounds=2),
        recorded(5, interrupted=True),
        recorded(6, overrides=["workload.tokens=1"]),
        recorded(7, only=["12"]),
        recorded(8, "a third", source="my/x.yaml", scenario_text=f"{scenario.text}\nbudget: {{params: 1e6}}"),
        recorded(9, scenario_text="name: x"),
        recorded(10, method_version=2),
        recorded(11, cases=failed),
        recorded(12, memory_bytes=2**35),
    ]
    newest = newest_by_device(runs, [scenario])["quickstart"]
    assert [each.path.name for each in newest] == ["2.json", "12.json", "3.json"]
    assert slugs(newest) == ["a-processor-2c-16gib", "a-processor-2c-32gib", "another-2c"]
    assert slugs([newest[0], newest[0]]) == ["a-processor-2c-16gib", "a-processor-2c-16gib-2"]
    assert answers_scenario(recorded(1, overrides=["measure.rounds=5"]).result, scenario)


def test_a_scenario_without_a_file_is_said_to_have_none():
    page, drawn = results_page([("x", "Who is faster?"), ("y", "And here?")], {"x": [Recorded(Path("f.json"), CLEAR)]})
    first, second = page.split("## y")
    assert "*Who is faster?*" in first and "`quick` is the fastest" in first and "results/f.json" in first
    assert "On 2 cores of a processor, 16 GiB" in first
    assert list(drawn) == ["x_a-processor-2c.svg"] and "](pictures/x_a-processor-2c.svg)" in first
    assert "*And here?*" in second and "Not recorded here yet: `membench run" in second


def test_flagged_cases_are_counted():
    assert flagged(CLEAR) == []
    records = [record.model_copy(deep=True) for record in CLEAR.cases]
    records[0].flags = ["stopped by time: 9 samples"]
    for record in records[1:]:
        record.flags = ["not steady after warm-up"]
    assert flagged(a_result(*records)) == ["Flagged: 2 of 3 cases; `membench report` says why."]
    records[1].rounds[0].disturbance = {"kept_samples": 2, "kept_share": 0.4}
    assert "1 of them as [disturbed]" in flagged(a_result(*records))[0]


def test_a_marked_part_is_made_again_and_the_rest_stays():
    text = "a\n<!-- made by benchmarks.documents: one -->\nold\n<!-- end of one -->\nb\n"
    made = with_parts(text, {"one": lambda part: "new"})
    assert made == "a\n<!-- made by benchmarks.documents: one -->\n\nnew\n\n<!-- end of one -->\nb\n"
    assert with_parts(made, {"one": lambda part: "new"}) == made
    assert with_parts(text, {"one": lambda part: None}) == text
    assert parts_of(text) == {"one": "old\n"}
    with pytest.raises(UsageError, match="one: a part that nobody makes; did you mean 'ones'"):
        with_parts(text, {"ones": lambda part: "new"})
    with pytest.raises(UsageError, match="one: a part without its end"):
        with_parts(text.replace("end of one", "end of another"), {"one": lambda part: "new"})


def test_a_new_file_gets_a_row_and_one_that_is_gone_loses_it(tmp_path):
    command = "membench run x --output /mine --markdown=a.md --set measure.rounds=3"
    (tmp_path / "new.json").write_text(strict_json(a_result(*CLEAR.cases, command=command).model_dump(mode="json")))
    (tmp_path / "old.json").write_text("{}")
    rows = ["| [old.json](old.json) | a person's words | it |", "| [gone.json](gone.json) | x | y |"]
    table = "\n".join(["| file | made by | on |", "|---|---|---|", *rows])
    made = files_table(table, tmp_path, ["new.json"])
    assert listed(made) == ["old.json", "new.json"]
    assert "a person's words" in made
    assert "`membench run x --set measure.rounds=3` | 2 cores of a processor, 16 GiB |" in made


def test_a_command_with_an_open_quotation_is_shown_all_the_same(tmp_path):
    (tmp_path / "new.json").write_text(json.dumps({"command": "python -m x --output here 'a", "environment": DEVICE}))
    assert "| `python -m x ''\"'\"'a'` |" in files_table("", tmp_path, ["new.json"])


def test_a_broken_document_or_file_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    index = tmp_path / "results/README.md"
    with pytest.raises(UsageError, match=r"results/README.md: there is no such file"):
        listed_files(tmp_path)
    index.write_text("# Results")
    with pytest.raises(UsageError, match=r"results/README.md: files: the part with the table of files is missing"):
        listed_files(tmp_path)
    for name in ("README.md", "docs/method.md", "docs/models.md", "docs/distributed.md", "docs/scenario_keys.md"):
        with pytest.raises(UsageError, match=f"{name}: there is no such file"):
            rewritten(tmp_path, [])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# A document")
    index.write_text("<!-- made by benchmarks.documents: files -->\n| [a.json](a.json) |\n")
    with pytest.raises(UsageError, match=r"results/README.md: files: a part without its end"):
        rewritten(tmp_path, [])
    index.write_text(f"{index.read_text()}<!-- end of files -->")
    (tmp_path / "README.md").write_text("[x](results/cut.json)")
    (tmp_path / "results/cut.json").write_text('{"benchmark": "x')
    with pytest.raises(UsageError, match=r"results/cut.json: no JSON"):
        rewritten(tmp_path, [])


def test_a_device_that_is_not_known_has_a_picture_all_the_same():
    assert slugs([Recorded(Path("x.json"), CLEAR.model_copy(update={"environment": {}}))]) == ["device"]


def test_a_new_run_changes_the_documents(tmp_path, monkeypatch):
    """A run of three rounds beside the committed files becomes README's table and its scenario's answer."""
    # what is drawn, the test of committed documents tells
    monkeypatch.setattr(page, "picture", lambda result: b"<svg/>")
    monkeypatch.setattr(rewriting, "scale_picture", lambda paths: None)
    for part in ("README.md", "docs", "results"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    now = read_result(ROOT / "results" / quoted((ROOT / "README.md").read_text())[0])
    scenario = load_scenario("iso_flop_8b")
    known = {"scenario": scenario.name, "source": scenario.name, "scenario_text": scenario.text}
    run = {**known, "device": now.run.device, "started": "2030-01-01T00:00:00Z", "finished": "2030-01-01T00:05:00Z"}
    result = a_result(*CLEAR.cases, **run).model_copy(update={"environment": now.environment})
    (tmp_path / "results/iso_flop_8b_new.json").write_text(strict_json(result.model_dump(mode="json")))
    beside = [name for name in listed_files(tmp_path) if name.startswith("iso_flop_8b_")]
    made = rewritten(tmp_path, [*beside, "iso_flop_8b_new.json", "gone.json"])
    text = {path.name: content.decode() for path, content in made.items() if path != Path("results/README.md")}
    for name in ("README.md", "results.md"):
        assert "results/iso_flop_8b_new.json" in text[name]
        assert "`quick` is the fastest" in text[name]
    assert "in 5.0 minutes" in text["README.md"]
    assert "results/iso_flop_8b_new.json" in text["method.md"]
    slug = device_slug(now.environment["device"])
    assert any(path.name.startswith(f"iso_flop_8b_{slug}") for path in made)
    assert "[iso_flop_8b_new.json]" in made[Path("results/README.md")].decode()


def test_the_quoted_machine_is_quoted_again(tmp_path):
    def recorded(file, day, **device):
        run = {"started": f"2026-01-0{day}T00:00:00Z", "device": device.get("type", "cpu")}
        environment = {"device": {**DEVICE["device"], **device}}
        result = a_result(*CLEAR.cases, **run).model_copy(update={"environment": environment})
        (tmp_path / file).write_text(strict_json(result.model_dump(mode="json")))
        return Recorded(tmp_path / file, result)

    recorded("now.json", 1)
    same, other = recorded("same.json", 2), recorded("other.json", 3, cores=64)
    gpu = recorded("gpu.json", 4, type="cuda", name="NVIDIA H100")
    part = "[x](results/gone.json) and [y](results/now.json)"
    assert chosen([same, other, gpu], part, tmp_path) == same
    assert chosen([other, gpu], part, tmp_path) == other
    assert chosen([gpu], part, tmp_path).path.name == "now.json"
    assert chosen([other, gpu], "", tmp_path) == gpu
    assert chosen([], "[x](results/gone.json)", tmp_path) is None


def test_a_resumed_run_tells_no_minutes():
    went_on = Recorded(
        Path("f.json"), a_result(*CLEAR.cases, finished="2026-01-01T09:00:00Z", resumed="2026-01-01T08:00:00Z")
    )
    assert "minutes" not in readme_part(went_on)
    assert seconds_part(went_on) is None


def test_the_interval_of_how_much_longer_is_within_rounds():
    """Rounds that drift by half leave two arms told apart, and the interval beside the figure says so too."""
    drift = [1.0, 1.5, 1.25]
    (point,) = points_of(a_result(a_measured("a", drift), a_measured("b", [1.06, 1.575, 1.305])))
    a, b = point.standings
    assert a.before(b) and a.high_ms > b.low_ms  # their own intervals overlap
    low, high = point.times(b, a)
    assert 1 < low <= b.step_ms / a.step_ms <= high < 1.1
    assert point.times(a, b) == (pytest.approx(1 / high), pytest.approx(1 / low))


def test_a_need_of_which_a_part_is_unknown_is_unknown():
    records = [a_measured("a", [1.0, 1.1, 1.2], tokens=tokens) for tokens in (1, 2, 4)]
    parts = ("weights_bytes", "gradient_bytes", "optimizer_bytes", "saved_activation_bytes")
    for record in records:
        record.metrics.update(dict.fromkeys(parts, 1e9))
    assert sizes_tables(a_result(*records))[0].splitlines()[-1].endswith("| 4.00 |")
    records[1].metrics["saved_activation_bytes"] = None
    assert sizes_tables(a_result(*records))[0].splitlines()[-1].endswith("| - |")


def test_a_run_of_before_a_fault_was_mended_says_which_arms_it_slowed():
    records = [a_measured("dense", [1.0, 1.1, 1.2]), a_measured("moe", [2.0, 2.1, 2.2])]
    for each in records[1].rounds:
        each.ran, each.threads = {"paths": {"grouped_matmul": "loop"}}, 2
    before, after = (a_result(*records, started=f"2026-11-{day}T12:00:00+00:00") for day in (29, 30))
    (told,) = outdated(before)
    assert "`moe` took longer than today" in told and "dense" not in told
    assert outdated(after) == []
    for each in records[1].rounds:
        each.threads = 1
    assert outdated(before) == [], "one thread needs no more than one core"


def test_an_arm_of_several_sizes_has_a_row_of_each():
    dims = (64, 128, 256)
    records = [a_measured("a", [1.0, 1.1, 1.2], point={"model_dim": dim}) for dim in dims]
    for record, dim in zip(records, dims, strict=True):
        record.planned["params"] = 1e6 * dim
    (table,) = sizes_tables(a_result(*records))
    rows = [line.split(" | ")[:2] for line in table.splitlines()[2:]]
    assert rows == [[f"| a, model_dim {dim}", f"{dim}M"] for dim in dims]


def test_cases_without_a_time_are_named():
    result = a_result(*CLEAR.cases, a_record("lost", None, status="oom"))
    page, _ = results_page([("x", "?")], {"x": [Recorded(Path("f.json"), result)]})
    assert "1 case without a time (`lost`: lost)." in " ".join(page.split())


def test_told_apart_is_by_places():
    (tied,) = points_of(TIED)
    a, b, slow = tied.standings
    assert not a.before(b) and not b.before(a)
    assert a.before(slow) and not slow.before(a)
    assert [each.arm for each in tied.leaders] == ["a", "b"]
    assert isinstance(a, Standing) and a.floor_ms and a.over_floor == pytest.approx(3.2 / a.floor_ms)


def profiled(folder: Path, over: dict[str, float], started: str = "2026-01-01T00:00:00Z") -> Path:
    stages = [
        {"name": name, "label": name, "time_ms": 0.1 * times, "floor_ms": 0.1, "times_floor": times}
        for name, times in over.items()
    ]
    layer = {"layer": {"kind": "block", "ffn": {"kind": "memory"}}, "modes": [{"mode": "decode", "stages": stages}]}
    environment = {"device": {"name": "a CPU", "type": "cpu"}}
    path = folder / f"profile-memory_a_{started[:4]}_b.json"
    path.write_text(json.dumps({"profile": {"started": started, "environment": environment, "layers": [layer]}}))
    return path


def test_the_newest_stages_of_a_kind_stand_with_the_reasons_of_those_far_above_their_floors(tmp_path: Path) -> None:
    assert stages_part([]) is None
    old = profiled(tmp_path, {"qkv": 1.9}, "2025-01-01T00:00:00Z")
    part = stages_part([profiled(tmp_path, {"qkv": 1.2, "top_k": 3.0, "bag": 1.5}), old])
    assert part is not None and "| qkv | 0.120 | 0.100 | 1.2 |" in part and "1.9 |" not in part
    assert f"* `top_k` (memory): {WHY['top_k']}" in part and "* `bag`" not in part


def test_a_stage_far_above_its_floor_wants_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"stage qkv of memory takes 2\.5 times its floor"):
        stages_part([profiled(tmp_path, {"qkv": 2.5})])
