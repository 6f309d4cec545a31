"""Narrow or odd output: at any width what matters is whole, nothing folds, and the rest is named below the table."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gate_results import a_file, noisy, side
from gate_results import a_record as a_gate_record
from report_results import a_key_sweep, a_sweep
from rich.cells import cell_len
from test_profile import a_mode, a_profile

from membench.cli import main
from membench.cli.baseline import show_command
from membench.cli.doctor import doctor
from membench.cli.list import list_command
from membench.gate.baselines import set_baseline
from membench.gate.comparison import compare_group
from membench.gate.result_set import LoadedResult, group_results
from membench.gate.thresholds import Thresholds
from membench.gate.within import compare_within
from membench.machine.disturbance import CPU_SIGNALS
from membench.measuring import diagnosis
from membench.planning.planner import make_plan
from membench.results.records import read_result, write_result
from membench.running.progress import RunProgress
from membench.scenario.scenario import load_scenario
from membench.tables.fitting import ELLIPSIS, cut, fitted, wrapped
from membench.tables.gate import comparison_tables, listing
from membench.tables.gate_within import within_table
from membench.tables.plan import plan_tables
from membench.tables.profile import profile_tables
from membench.tables.render import Column, Table, print_tables
from membench.tables.results import result_tables

ROOT = Path(__file__).parent.parent
WIDTHS = (60, 67, 80, 100, 120, 158, 200, 220)


def of_runs():
    for name in ("iso_flop_8b", "peers"):
        yield from result_tables(read_result(next((ROOT / "results").glob(f"{name}_*.json"))))
    for made in (a_sweep(), a_key_sweep()):
        yield from result_tables(made)


def of_plans():
    for name in ("iso_flop_8b", "key_scaling", "op_bag"):
        yield from plan_tables(make_plan(load_scenario(name), available_bytes=int(24e9)))


def of_profiles():
    lost = a_mode("forward_backward")
    yield from profile_tables(a_profile(("memory_plus_wide", [a_mode(), lost]), ("dense", [a_mode(), lost])))


def of_comparisons():
    rng = np.random.default_rng(0)
    files = []
    for day, factor in ((1, 1.0), (2, 1.3)):
        rounds = [noisy(rng, 0.004 * factor, 8, 0.003), noisy(rng, 0.004, 8, 0.003)]
        arms = ("memory_plus_companion", "dense")
        records = [a_gate_record(r, arm=arm, mode="forward_backward") for r, arm in zip(rounds, arms, strict=True)]
        name = f"iso_flop_8b_amd-epyc-2c_2026110{day}T152712Z_855aaadc39.json"
        files.append(LoadedResult(Path("results") / name, a_file(records, started=f"2026-11-0{day}T15:27:12Z")))
    failed = files[1].result.cases[1]
    failed.status, failed.reason, failed.rounds = "oom", "the process was killed, from outside or for its memory", []
    for group in group_results(files, None, every=False):
        for comparison in compare_group(group, Thresholds()):
            yield from comparison_tables(comparison)
    alone = LoadedResult(Path("results/alone.json"), a_file(files[0].result.cases, pair=side("base")))
    yield from listing(group_results([alone], None, every=False))
    yield within_table(files[0], compare_within(files[0].result, "dense", Thresholds()))


TABLES = {"run": of_runs, "plan": of_plans, "profile": of_profiles, "compare": of_comparisons}


def printed(table, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    print_tables([table], file=out)
    return out.getvalue()


@pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES)
def test_no_line_is_longer_than_the_width(tables, monkeypatch):
    for table in tables():
        for width in WIDTHS:
            text = printed(table, width, monkeypatch)
            assert max(map(cell_len, text.splitlines())) <= width, text
            words = " ".join(text.split())
            assert all(name in words for name in fitted(table, width).left_out), "what is not shown is named"


@pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES)
def test_no_number_is_broken_and_no_name_while_a_column_can_go(tables):
    for table in tables():
        headers, cells = table.headers(), table.cells()
        for width in WIDTHS:
            found = fitted(table, width)
            priorities = [table.columns[i].priority for i in found.kept]
            assert [headers[i] for i in range(len(headers)) if i not in found.kept] == found.left_out
            assert all(i in found.kept for i, column in enumerate(table.columns) if column.priority == 1)
            for row, shown in zip(cells, found.rows, strict=True):
                for i, lines in zip(found.kept, shown, strict=True):
                    if table.columns[i].right:
                        assert lines == [row[i]]
                    elif max(priorities) > 1:
                        assert " ".join(lines) == row[i], "broken between words alone"
                    elif ELLIPSIS not in "".join(lines):
                        assert "".join(lines).replace(" ", "") == row[i].replace(" ", "")


def test_a_wide_output_has_every_column(monkeypatch):
    for tables in TABLES.values():
        for table in tables():
            assert not fitted(table, 400).left_out
            monkeypatch.delenv("COLUMNS", raising=False)
            out = io.StringIO()
            print_tables([table], file=out)
            for row in table.cells():
                for column, cell in zip(table.columns, row, strict=True):
                    assert not column.right or cell in out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_what_prints_tables_by_itself_fits_too(width, monkeypatch, capsys, tmp_path):
    noise = dict.fromkeys(("iqr_over_median", "max_over_median", "second_half_over_first"), 1.05)
    shares = {name: {"mean": 0.25, "largest": 0.5} for name in CPU_SIGNALS}
    seen = {"seconds": 4.0, "limit": 0.05, "disturbed_share": 0.75, "shares": shares}
    seen["involuntary_switches_per_sample"] = 1.5
    monkeypatch.setattr(diagnosis, "_look", lambda *_: (noise, seen))
    rates = {"copy_bytes_per_s": 21e9, "read_bytes_per_s": 18e9, "matmul_flops_per_s": {"float32": 81e9}}
    rows = [{"row_bytes": 8192, "bytes_per_s": 9e9, "huge_pages": True}]
    monkeypatch.setattr(diagnosis, "_ceilings", lambda _: {**rates, "random_rows": rows})
    found = json.loads(json.dumps(diagnosis.diagnose("cpu")))
    monkeypatch.setattr("membench.machine.provenance.ask_process", lambda *_: found)
    monkeypatch.setenv("COLUMNS", str(width))
    path = tmp_path / "iso_flop_8b_amd-epyc-2c_20261123T152712Z_855aaadc39.json"
    write_result(a_sweep(tokens=(8,)), path)
    set_baseline(path, read_result(path), "what the last release was measured as")
    for command in (doctor, list_command, lambda: show_command(tmp_path)):
        command()
        out = capsys.readouterr().out
        lines = [line for line in out.splitlines() if str(tmp_path) not in line]
        assert max(map(cell_len, lines)) <= width, out
        assert "…" not in out or command not in (doctor, list_command), "a file's name alone is too long"


ODD = Table(
    "記憶層 and 🧠",
    "",
    [Column("arm", right=False), Column("step ms"), Column("iqr ms", priority=2)],
    [["記憶層の比較_とても長い名前", 123456.789, 1.0], ["🧠🧠🧠_brain", 0.5, 2.0], ["at::native::gemm:cat:x", 7, 3.0]],
)


def test_wide_characters_count_their_cells(monkeypatch):
    for width in range(12, 80):
        lines = printed(ODD, width, monkeypatch).splitlines()
        assert max(map(cell_len, lines)) <= max(width, 8 + 10 + 7)
        assert "123456.789" in "\n".join(lines)
    assert ":cat:" in printed(ODD, 80, monkeypatch), "a kernel's name holds no emoji"


def test_a_header_from_a_file_steers_no_terminal(monkeypatch):
    odd = Table("", "", [Column("arms.\x1b[2J\nmemory", right=False), Column("ms")], [["a", 1]])
    assert "\x1b" not in printed(odd, 80, monkeypatch)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_without_unicode_shows_all_and_fits(encoding, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for table in [*of_plans(), ODD]:
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        print_tables([table], file=out)
        lines = raw.getvalue().decode(encoding).splitlines()
        assert max(map(len, lines)) <= 60 or table is ODD


def test_a_number_and_its_unit_are_one_word():
    text = "takes 42.5 ms longer, of 137 GB at P = 32 ranks, num_keys 4096², (12 %), 1.5 GB/s"
    lines = wrapped(text, 16)
    for whole in ("42.5 ms", "137 GB", "P = 32", "(12 %),", "1.5 GB/s"):
        assert any(whole in line for line in lines), (whole, lines)
    assert " ".join(lines) == text


def test_a_cut_keeps_both_ends_in_so_many_cells():
    for text in ("memory_plus_wide_companion", "記憶層の比較", "🧠" * 9):
        for width in range(1, 30):
            found = cut(text, width)
            assert cell_len(found) <= width
            assert found == text or ELLIPSIS in found
    assert cut("memory_plus_wide_companion", 11) == "memor…anion"


def test_random_tables_fit_down_to_their_numbers(seed):
    rng = random.Random(seed)
    for _ in range(300):
        columns = [
            Column("h" * rng.randint(1, 12), right=rng.random() < 0.5, priority=rng.randint(1, 5))
            for _ in range(rng.randint(1, 12))
        ]
        rows = [
            [" ".join("w" * rng.randint(1, 40) for _ in range(1 if c.right else rng.randint(1, 6))) for c in columns]
            for _ in range(rng.randint(0, 4))
        ]
        table, width = Table("", "", columns, rows), rng.randint(10, 220)
        found = fitted(table, width)
        if found.width > width:
            assert all(table.columns[i].priority == 1 for i in found.kept)
            text = [i for i, column in enumerate(found.kept) if not table.columns[column].right]
            assert all(len(line) <= 8 for row in (found.header, *found.rows) for i in text for line in row[i])


def in_a_pipe(*words, **environment):
    known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "TERM")}
    command = [sys.executable, "-m", "membench", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**known, **environment}, cwd=ROOT)


def test_a_pipe_is_wide_whoever_asks_for_colours_and_columns_is_respected():
    forced = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm"}
    wide = in_a_pipe("plan", "quickstart", **forced).stdout
    assert "\x1b[" in wide, "colours were asked for"
    assert "memory, num_keys 384², heads 4, key_dim 256, top_k 32, companion_hidden 3456" in wide
    narrow = in_a_pipe("plan", "quickstart", COLUMNS="72").stdout
    assert 60 < max(map(cell_len, narrow.splitlines())) <= 72
    assert "Also with --json: " in narrow


@pytest.mark.parametrize("columns", ["", "0", "-5", "eighty", "80.5"])
def test_a_width_that_is_none_is_passed_over(columns, monkeypatch):
    table = Table("t", "", [Column("a", right=False), Column("b", priority=2)], [["x" * 100, 1]])
    text = printed(table, columns, monkeypatch)
    assert "x" * 100 in text
    assert len(text) < 10_000


@pytest.mark.parametrize("size", ["²", "9" * 5000, "0"])
def test_a_size_that_rich_raises_for_is_dropped(size, monkeypatch, capsys):
    for words in (["list"], ["--help"]):
        for name in ("COLUMNS", "LINES"):
            monkeypatch.setenv(name, size)
        monkeypatch.setattr(sys, "argv", ["membench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        assert "decode" in capsys.readouterr().out or words == ["--help"]


ENVIRONMENTS = [
    {"FORCE_COLOR": "1"},
    {"TTY_COMPATIBLE": "1"},
    {"TTY_INTERACTIVE": "1", "TTY_COMPATIBLE": "1"},
    {"FORCE_COLOR": "1", "TERM": "dumb"},
    {"FORCE_COLOR": "1", "NO_COLOR": "1"},
    {"FORCE_COLOR": "1", "CI": "true"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: " ".join(e))
def test_no_live_bar_without_a_terminal(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with RunProgress(2) as progress:
        progress.doing("a")
        progress.finished("one")
    assert out.getvalue() == "[1/2 0 s] one\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals")
@pytest.mark.parametrize(
    ("environment", "live"),
    [({}, True), ({"CI": "true"}, False), ({"TERM": "dumb"}, False), ({"TTY_INTERACTIVE": "0"}, False)],
    ids=lambda e: " ".join(e) or "nothing" if isinstance(e, dict) else "",
)
def test_a_live_bar_on_a_terminal_that_can(environment, live, monkeypatch):
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "60", **environment}.items():
        monkeypatch.setenv(name, value)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", 0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        with RunProgress(3) as progress:
            progress.doing("memory_plus_wide_companion forward_backward: checking against the reference")
            progress.finished("one")
        terminal.flush()
        shown = screen.read(65536).decode()
    assert ("\x1b[" in shown) == live
    assert ("[1/3 0 s] one" in shown) == (not live)
    assert "3" in shown, "the count is there, however long what is being done"
