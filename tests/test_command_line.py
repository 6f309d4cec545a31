"""The small things of the command line: version, help, exit codes as they are stated, --output, counts in sentences."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_results import a_sweep
from test_records import a_run
from test_results_table import a_record
from timing import once_in, processes_take_less_than
from typer.testing import CliRunner

from membench import __version__
from membench.cli import app
from membench.cli.output_option import checked_folder, page_path
from membench.cli.report import report
from membench.errors import UsageError
from membench.gate.outcome import PASS
from membench.planning.planner import make_plan
from membench.results.ranking import comparable_groups
from membench.results.records import write_result
from membench.scenario.scenario import load_scenario
from membench.tables.plan import plan_tables
from membench.tables.results import how_measured
from membench.words import how_many


def test_the_version_is_said_fast_and_without_torch():
    code = (
        "import sys\nsys.argv = ['membench', '--version']\nfrom membench.cli import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)\n"
    )

    def check():
        with processes_take_less_than(0.5):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"membench {__version__}\n", "")

    once_in(8, check)


def test_the_module_says_it_too():
    done = subprocess.run([sys.executable, "-m", "membench", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"membench {__version__}\n")


def test_a_group_alone_shows_its_help_as_an_error(call):
    code, out, err = call("baseline")
    assert (code, out) == (2, "")
    assert "membench baseline" in err
    assert "show" in err


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["run"], "SCENARIO"),
        (["plan"], "SCENARIO"),
        (["profile"], "--layer"),
        (["compare"], "FILES"),
        (["ab"], "BASE"),
        (["report"], "FILE"),
        (["baseline", "set"], "FILE"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_a_command_alone_says_what_is_missing_and_where_to_read_on(words, missing, call):
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert missing in err
    assert f"(membench {' '.join(words)} --help says more)" in err


def test_membench_alone_is_help(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "baseline" in out


CODES = {
    "run": {0, 2, 5, 130},
    "plan": {0, 2},
    "compare": {0, 1, 2, 3, 4, 5, 130},
    "ab": {0, 1, 2, 3, 4, 5, 130},
    "report": {0, 2},
    "baseline set": {0, 2},
    "baseline show": {0, 2},
    "": {0, 1, 2, 3, 4, 5, 130},
}


@pytest.mark.parametrize("command", CODES)
def test_help_states_the_exit_codes(command):
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    (stated,) = re.findall(r"Exit codes: (.*?\.)\s*\n", " ".join(shown.split(" ")), re.DOTALL)
    assert set(map(int, re.findall(r"\b\d+\b", stated))) == CODES[command]


def test_help_that_nobody_reads_to_its_end_is_no_regression():
    """Exit code 1 would say that something got slower."""
    command = f"{sys.executable} -m membench run --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (PASS, "")


@pytest.mark.parametrize("name", ["x.json", "results/x.JSON", "page.html", "cases.csv", "a.parquet", "r.md"])
def test_a_file_is_no_folder_for_results(name, tmp_path, call):
    for command in (["run", "quickstart"], ["ab", "HEAD", "HEAD"]):
        code, _, err = call(*command, "--output", tmp_path / name)
        assert (code, err.count("\n")) == (2, 1)
        assert "--output" in err
        assert "name a folder" in err
    assert not list(tmp_path.iterdir())


def test_output_is_a_folder_for_every_command(tmp_path):
    (tmp_path / "old.json").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("new", "new/deeper", "v1.2", "old.json", "."):
        assert checked_folder(tmp_path / name) == tmp_path / name
        assert page_path(tmp_path / name) == tmp_path / name / "report.html"
    assert page_path(tmp_path / "a.html") == tmp_path / "a.html"
    for wrong in (checked_folder, page_path):
        with pytest.raises(UsageError, match="--output"):
            wrong(tmp_path / "file")
    with pytest.raises(UsageError, match=r"ends in \.html, or a folder"):
        page_path(tmp_path / "a.json")
    long = Path("x" * 5000)
    assert checked_folder(long) == long, "what cannot be looked at is found out when it is written"
    with pytest.raises(UsageError, match="cannot be made"):
        page_path(long)


def test_a_report_goes_into_a_folder(tmp_path, capsys):
    write_result(a_sweep(tokens=(8,), modes=("forward",)), tmp_path / "r.json")
    report([str(tmp_path / "r.json")], output=tmp_path / "pages")
    assert os.listdir(tmp_path / "pages") == ["report.html"]
    assert "4 cases of 1 run)" in capsys.readouterr().err


def test_one_thing_has_no_plural():
    assert [how_many(n, "round") for n in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
    assert "1 round." in how_measured(a_sweep(tokens=(8,), rounds=1))
    assert list(comparable_groups([a_record("dense", 1.0, tokens=1)])) == ["forward, 1 token a rank"]
    captions = [table.caption for table in plan_tables(make_plan(load_scenario("quickstart"), available_bytes=2**36))]
    assert any("P = 1 rank (" in caption for caption in captions)
    assert how_measured(a_sweep(tokens=(8,)).model_copy(update={"run": a_run(rounds=3)})).endswith("3 rounds.")


def test_no_sentence_counts_one_with_a_plural():
    """A count in an f-string before a word in the plural goes through ``how_many``."""
    things = "rounds|samples|files|runs|regressions|calls|measurements|tokens|faults|stages"
    counting = re.compile(rf"f['\"].*\{{[^{{}}]*\}} (?:more )?(?:{things})\b|round\(s\)")
    sources = sorted((Path(__file__).parent.parent / "membench").rglob("*.py"))
    lines = [(path.name, line.strip()) for path in sources for line in path.read_text().splitlines()]
    assert [found for found in lines if counting.search(found[1])] == []
