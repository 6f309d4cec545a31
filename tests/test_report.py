"""The report's page: the answer, the plots' numbers, what stays text, what is refused. No browser."""

import itertools
import json
import math
import random
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_results import a_key_sweep, a_sweep, of_whole_models, with_answers, with_payload
from test_fuzz import mutate

from membench.cli.report import report
from membench.errors import UsageError
from membench.report.page import embedded, page, run_views
from membench.report.palette import arm_styles, dark_colours
from membench.report.plots.frame import log_axis
from membench.report.plots.labels import Named, beside
from membench.report.plots.pareto import frontier
from membench.report.plots.roofline import roofline_figure
from membench.report.plots.spread import spread
from membench.results.ceilings import Ceilings
from membench.results.frame import results_frame
from membench.results.metrics import metrics_of
from membench.results.records import read_result, strict_json, write_result
from membench.results.roofline import RooflinePoint
from membench.tables.cases import raw_table
from membench.tables.results import result_tables

ROOT = Path(__file__).parent.parent
CEILINGS = Ceilings(400e9, 30e9, 10e9)


class Tags(HTMLParser):
    """What a browser would take for tags, and the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.words = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


def html_of(*results):
    return page(run_views([(f"{i}.json", result) for i, result in enumerate(results)]))


def figures_of(*results):
    for view in run_views([("r.json", result) for result in results]):
        for slot in view.slots:
            for choices in [slot.always] if slot.always else slot.by_group:
                yield from ((f"{slot.name} {name}", figure) for name, figure in choices.items())


def test_the_answer_is_the_fastest_step_and_what_dense_takes():
    result = a_sweep(tokens=(8,), modes=("forward",), rounds=3)
    steps = {"dense": 40.0, "memory": 20.0, "memory_big": 30.0}
    for record in result.cases[:3]:
        for number, found in enumerate(record.rounds):
            found.samples_s = [1e-3 * steps[record.case.arm] * (1 + number / 100)]
    for record in result.cases[:3]:
        record.metrics = metrics_of(record.case, record.rounds, communication_ms=0.0)
    words = " ".join("".join(Tags(html_of(result)).words).split())
    assert "memory 20.2 ms" in words
    assert "Surely slower: memory_big 1.50x (place 2), … dense 2.00x (place 3)." in words
    assert "Dense takes 2.00x the lowest median (40.4 ms, place 3)." in words
    assert "Not measured: moe." in words
    assert "Median of 3 rounds, 95 % interval over rounds" in words
    assert "At dense’s FLOPs" not in words  # nobody else has them


def test_arms_that_are_not_told_apart_are_no_winners():
    result = a_sweep(tokens=(8,), modes=("forward",), rounds=3)
    for record, samples in zip(result.cases, ((20, 22, 21), (22, 20, 21.1), (40, 42, 41)), strict=False):
        for found, ms in zip(record.rounds, samples, strict=True):
            found.samples_s = [1e-3 * ms]
        record.metrics = metrics_of(record.case, record.rounds, communication_ms=0.0)
    words = " ".join("".join(Tags(html_of(result)).words).split())
    assert "Not told apart: one of 2 may be the fastest." in words
    assert "Surely slower: memory_big 1.95x (place 3)." in words


@pytest.mark.parametrize(("rounds", "why"), [(1, "one round"), (2, "two rounds")])
def test_fewer_than_three_rounds_have_no_order_on_the_page(rounds, why):
    words = " ".join("".join(Tags(html_of(a_sweep(rounds=rounds))).words).split())
    assert f"no order: {why}" in words
    assert "Fewer than three rounds cannot tell" in words
    assert "Surely slower" not in words
    assert "Fewer than three rounds cannot tell" not in "".join(Tags(html_of(a_sweep(rounds=3))).words)


def test_what_arms_carry_at_equal_latency_is_on_the_page_as_a_run_prints_it():
    result = a_key_sweep()
    (printed,) = (table for table in result_tables(result) if table.title.startswith("Parameters at equal latency"))
    words = " ".join("".join(Tags(html_of(result)).words).split())
    for said in (printed.title, printed.caption, *(cell for row in printed.cells() for cell in row)):
        assert " ".join(said.split()) in words
    assert "Parameters at equal latency" not in html_of(a_sweep())


def test_a_plot_holds_each_arm_s_step_against_its_floor():
    result = a_sweep(tokens=(8,), modes=("forward",), rounds=3)
    for record, floor_ms in zip(result.cases, (4.0, 9.0, 2.0), strict=False):
        record.metrics |= {"floor_ms": floor_ms, "over_floor": 2.5, "communication_ms_predicted": 0.5}
    found = {name: figure for name, figure in figures_of(result) if name.startswith("floors")}
    today, by_floor = found["floors by today's step"], found["floors by the floor"]
    steps = sorted(record.metrics["step_ms"] for record in result.cases[:3])
    assert today["data"][1]["x"] == steps
    assert by_floor["data"][2]["x"] == [2.5, 4.5, 9.5]
    assert by_floor["data"][2]["text"] == ["memory_big", "dense", "memory"]
    assert [note["text"] for note in today["layout"]["annotations"]].count("2.50x") == 3


def test_the_numbers_beside_the_utilizations_are_there():
    figure = next(figure for name, figure in figures_of(a_sweep(tokens=(8,))) if name.startswith("utilization"))
    said = [note["text"] for note in figure["layout"]["annotations"] if " / " in note["text"]]
    assert [text for text in said if text != "MFU / MBU"]
    assert "- / -" not in said


def test_every_plot_is_there_and_of_plotlys_own_making():
    from plotly.graph_objects import Figure

    found = dict(figures_of(a_sweep()))
    slots = {name.split(" ")[0] for name in found}
    assert slots == {"pareto", "samples", "floors", "tokens", "utilization", "roofline", "memory"}
    assert {name.split(" ")[0] for name in dict(figures_of(a_key_sweep()))} == slots - {"tokens"} | {"keys"}
    assert any("joules" in name for name in found)
    for figure in found.values():
        Figure(figure)  # an unknown attribute raises


def test_nothing_over_tokens_where_there_is_one_count():
    assert not any(name.startswith(("tokens", "keys")) for name, _ in figures_of(a_sweep(tokens=(8,))))


def test_a_line_over_keys_is_joined_and_dense_lies_level():
    for result in (a_key_sweep(), of_whole_models(a_key_sweep())):
        figure = next(figure for name, figure in figures_of(result) if name.startswith("keys step"))
        line, level = figure["data"]
        assert line["x"] == [1024, 4096, 16384]
        assert figure["layout"]["xaxis"]["ticktext"] == ["1K", "4K", "16K"]
        assert level["name"] == "dense"
        assert level["y"][0] == level["y"][1]


def test_an_arm_has_one_colour_and_no_two_arms_have_the_same():
    result = a_sweep()
    styles = arm_styles(result.cases)
    assert len({style.colour for style in styles.values()}) == len(styles) == 4
    assert arm_styles(a_key_sweep().cases)["memory"] == styles["memory"]
    assert {style.colour for style in styles.values()} <= set(dark_colours())
    assert len(set(dark_colours().values())) == len(dark_colours())


def test_kinds_that_no_colour_was_chosen_for_are_shown_too():
    cases = [
        SimpleNamespace(arm=kind, layer=SimpleNamespace(kind=kind)) for kind in ("low_rank", "external", "fourier")
    ]
    styles = arm_styles(SimpleNamespace(case=case) for case in cases)
    assert len(set(styles.values())) == 3
    assert {style.colour for style in styles.values()} <= dark_colours().keys()


def test_every_colour_of_every_figure_has_a_dark_counterpart():
    known = set(dark_colours())
    for name, figure in figures_of(a_sweep(), a_key_sweep()):
        colours = set(re.findall(r"#[0-9a-fA-F]{3,8}", json.dumps(figure)))
        assert colours <= known, f"{name}: {colours - known}"


def test_the_roofline_holds_its_points_and_ceilings():
    points = [
        RooflinePoint("bag <b>", 1e6, 4e6, 1e-3),
        RooflinePoint("up", 8e9, 1e8, 0.05),
        RooflinePoint("top_k", 0, 9, 1),
    ]
    figure = roofline_figure("a title", points, CEILINGS)
    lines, marks = [t for t in figure.data if t.mode == "lines"], [t for t in figure.data if t.mode == "markers"]
    assert list(marks[0].x) == [0.25, 80.0]
    assert list(marks[0].y) == [1e9, 1.6e11]
    assert len(lines) == 3
    assert max(y for line in lines for y in line.y) == pytest.approx(400e9)
    for line, rate in zip(lines[:2], (30e9, 10e9), strict=True):
        assert [y / x for x, y in zip(line.x, line.y, strict=True)] == pytest.approx([rate, rate])
    said = " ".join(note.text for note in figure.layout.annotations)
    assert "bag &lt;b&gt;" in said
    assert "top_k" in said
    x0, x1 = figure.layout.xaxis.range
    assert all(x0 < math.log10(x) < x1 for x in marks[0].x)


def test_a_roofline_without_ceilings_or_points_is_still_drawn():
    nothing = Ceilings(None, None, None)
    assert len(roofline_figure("", [], nothing).data) == 1
    assert len(roofline_figure("", [RooflinePoint("a", 1e9, 1e8, 0.1)], nothing).data) == 1
    assert len(roofline_figure("", [], CEILINGS).data) == 4
    assert roofline_figure("", [RooflinePoint("no intensity", 1e-200, 1e200, 0.1)], CEILINGS).data
    assert roofline_figure("", [RooflinePoint("beyond any", 1e6, 5e-324, 0.1)], CEILINGS).data


def test_names_are_moved_apart_as_little_as_can_be(seed):
    rng = random.Random(seed)
    for _ in range(200):
        wanted = [rng.uniform(0, 100) for _ in range(rng.randint(1, 12))]
        placed = spread(wanted, 10, 0, 200)
        order = sorted(range(len(wanted)), key=lambda i: wanted[i])
        steps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
        assert all(step >= 10 - 1e-9 for step in steps)
        assert min(placed) >= 0
        assert max(placed) <= 200
    assert spread([20, 60, 100], 10, 0, 200) == [20, 60, 100]  # those that do not collide stay
    assert spread([50, 50], 10, 0, 200) == [45, 55]
    assert spread([5, 5, 5], 10, 0, 10) == pytest.approx([0, 5, 10])  # too many: closer, within bounds


def test_names_of_a_crowd_stand_in_a_column_and_a_lone_one_beside_its_point():
    x_axis, y_axis = log_axis("x", 1, 1000), log_axis("y", 1, 1000)
    crowd = [Named(f"an arm of the crowd {i}", 10 + i / 10, 30 + i / 10) for i in range(8)]
    *column, lone = beside([*crowd, Named("alone in its corner", 500, 500)], x_axis, y_axis, height=400)
    assert len({note["ax"] for note in column}) == 1
    low, high = y_axis["range"]
    heights = sorted(400 * (note["ay"] - low) / (high - low) for note in column)
    assert all(b - a >= 16 - 1e-6 for a, b in itertools.pairwise(heights))
    assert min(heights) > 0
    assert lone["ay"] == pytest.approx(lone["y"])
    assert lone["xanchor"] == "right"  # to the right of it a phone has no room


def test_the_frontier_is_what_nothing_beats(seed):
    rng = random.Random(seed)
    points = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(30)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert set(frontier(points)) == set(points) - beaten


def test_a_script_in_every_string_stays_text():
    clean = with_answers(a_sweep(tokens=(8,), modes=("forward",), rounds=3))
    dirty, replaced = with_payload(clean)
    assert replaced > 40
    html = html_of(dirty)
    found, wanted = Tags(html), Tags(html_of(clean))
    assert found.tags.count("script") == wanted.tags.count("script") == 4
    assert set(found.tags) <= set(wanted.tags)
    assert not {name for _, name, _ in found.attributes if name.startswith("on")}
    assert {value for _, name, value in found.attributes if name in ("href", "src")} == {"data:,"}
    assert "window.pwned=1" in "".join(found.words)  # it is there, and is text
    assert "{{7*7}}" in "".join(found.words)
    for script in found.scripts[:2]:
        assert "<" not in script
        json.loads(script)
    for text in re.findall(r'"text":"([^"]*pwned[^"]*)"', found.scripts[0]):
        assert "\\u0026lt;" in text  # plotly shows the entity and makes no tag


def test_embedded_json_cannot_leave_its_script():
    value = {"</script>": ["<!--", "\u2028", "&amp;", "\ud800", 1.23456789]}
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    text.encode()
    assert json.loads(text) == {"</script>": ["<!--", "\u2028", "&amp;", "\ud800", 1.23457]}


def test_the_policy_names_the_scripts_and_forbids_the_rest():
    import base64
    import hashlib

    html = html_of(a_sweep(tokens=(8,)))
    found = Tags(html)
    policy = next(v for tag, name, v in found.attributes if tag == "meta" and name == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy
    for script in found.scripts[-2:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=.?https?:", html)


def test_the_page_is_the_same_each_time():
    assert html_of(a_sweep()) == html_of(a_sweep())


def test_runs_stand_newest_first_and_apart():
    old = a_sweep(scenario="older", started="2026-01-01T00:00:00Z")
    new = a_sweep(scenario="newer", started="2026-02-01T00:00:00Z")
    html = html_of(old, new)
    assert html.index('id="run-0"') < html.index("<h1>newer</h1>") < html.index("<h1>older</h1>")


def test_the_raw_table_has_every_case_and_metric():
    result = a_sweep()
    table = raw_table(results_frame([("r.json", result)]))
    headers = [column.header for column in table.columns]
    assert len(table.rows) == len(result.cases)
    assert set(result.cases[0].metrics) <= set(headers)
    row = dict(zip(headers, table.rows[0], strict=True))
    assert row["latency_ms_p50"] == result.cases[0].metrics["latency_ms_p50"]
    assert row["point.workload.tokens"] == 8


def test_a_file_in_which_nothing_was_measured_is_still_a_page():
    result = a_sweep(tokens=(8,))
    for record in result.cases:
        record.status, record.reason, record.metrics, record.rounds = "skipped", "too large", {}, []
    html = html_of(result)
    assert "nothing was measured" in html
    assert "too large" in html
    result.cases.clear()
    assert "0 cases" in html_of(result)


def test_the_command_writes_the_page_and_prints_the_answers(tmp_path, capsys):
    write_result(a_sweep(rounds=3), tmp_path / "r.json")
    out = tmp_path / "report.html"
    report([str(tmp_path / "r.json")], output=out, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(out)
    first = printed["runs"][0]["answers"][0]
    assert first["compared_at"] == "forward, 8 tokens a rank, routing routed"
    assert first["standings"][0]["times_lowest"] == 1.0
    assert first["standings"][0]["place_low"] == 1
    assert first["fastest"]
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["r.json", "report.html"]


@pytest.mark.parametrize("output", ["r.json", "other.json", "page.txt", "no/such/folder/page.html", "folder.html"])
def test_an_output_that_cannot_be_is_one_line(tmp_path, output):
    write_result(a_sweep(tokens=(8,)), tmp_path / "r.json")
    (tmp_path / "folder.html").mkdir()
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(UsageError) as problem:
        report([str(tmp_path / "r.json")], output=tmp_path / output)
    assert "--output" in str(problem.value)
    assert "\n" not in str(problem.value)
    assert (tmp_path / "r.json").read_bytes() == before


def test_a_result_file_with_a_pages_name_is_not_overwritten(tmp_path):
    path = tmp_path / "r.html"
    write_result(a_sweep(tokens=(8,)), path)
    with pytest.raises(UsageError, match="one of the result files"):
        report([str(path)], output=tmp_path / "." / "r.html")


@pytest.mark.parametrize(
    ("content", "says"), [("", "no strict JSON"), ("{}", "schema_version"), (None, "no such file")]
)
def test_a_bad_file_is_refused_before_anything_is_written(tmp_path, content, says):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=says):
        report([str(path)], output=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_mutated_result_file_is_shown_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    text = strict_json(with_answers(a_sweep(tokens=(8, 64), modes=("forward",), rounds=3)).model_dump(mode="json"))
    path, shown = tmp_path / "mutated.json", 0
    for number in range(250):
        tree = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            mutate(tree, rng)
        path.write_text(json.dumps(tree))
        try:
            views = run_views([("mutated.json", read_result(path))])
            raw_table(results_frame([("mutated.json", views[0].result)])).cells()
            embedded([choices for view in views for slot in view.slots for choices in slot.by_group or [slot.always]])
            shown += 1
        except UsageError as error:
            assert "\n" not in str(error)
        except Exception as error:
            pytest.fail(f"seed {seed}, case {number}: {type(error).__name__}: {error}\n{path.read_text()}")
    assert shown > 25


def test_a_report_imports_nothing_heavy(tmp_path):
    write_result(a_sweep(tokens=(8,), rounds=3), tmp_path / "r.json")
    code = (
        "import sys; from pathlib import Path; from membench.cli.report import report\n"
        "report([sys.argv[1]], output=Path(sys.argv[2]))\n"
        "heavy = {'torch', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.json"), str(tmp_path / "r.html")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_real_file_is_a_page_in_four_seconds():
    path = next((ROOT / "results").glob("iso_flop_8b_*.json"))
    result, begin = read_result(path), time.process_time()
    html = page(run_views([(path.name, result)]))
    assert time.process_time() - begin < 4
    assert all(record.case.arm in html for record in result.cases)
