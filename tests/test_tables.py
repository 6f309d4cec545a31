"""Tables: the same rows for a terminal, Markdown and CSV, with nothing taken for markup."""

import csv
import io

from membench.planning.planner import make_plan
from membench.scenario.scenario import parse_scenario
from membench.tables.plan import plan_tables
from membench.tables.render import Column, Table, print_tables, to_csv, to_markdown

TABLE = Table(
    "A [bold]title[/bold]",
    "100 % of *it*",
    [Column("arm", right=False), Column("latency_ms", lambda value: "-" if value is None else f"{value:.2f}")],
    [["a|b", 1.23456], ["[red]x[/red] `y`", None], ["two\nlines", 10.0]],
)


def printed(*tables):
    out = io.StringIO()
    print_tables(tables, file=out)
    return out.getvalue()


def test_markdown_escapes_cells():
    assert to_markdown(TABLE) == (
        "**A \\[bold\\]title\\[/bold\\]**\n"
        "\n"
        "| arm | latency\\_ms |\n"
        "| --- | ---: |\n"
        "| a\\|b | 1.23 |\n"
        "| \\[red\\]x\\[/red\\] \\`y\\` | - |\n"
        "| two lines | 10.00 |\n"
        "\n"
        "100 % of \\*it\\*\n"
    )


def test_csv_has_raw_values_and_empty_unknowns():
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows == [["arm", "latency_ms"], ["a|b", "1.23456"], ["[red]x[/red] `y`", ""], ["two\nlines", "10.0"]]


def test_a_terminal_shows_markup_as_text():
    text = printed(TABLE)
    for piece in ("A [bold]title[/bold]", "[red]x[/red] `y`", "a|b", "1.23", "two lines", "100 % of *it*"):
        assert piece in text


SCENARIO = """
schema_version: 1
name: small
description: two of them
model_dim: 256
dtype: float32
arms:
  dense: {layer: dense, ffn_hidden: 4096}
  memory: {layer: memory, num_keys: 64K, key_dim: 64, budgets: {flops_per_token: dense}}
workload: {tokens: 16, modes: [forward, train_step], optimizers: [adamw]}
fit: {ranks: 3}
axes: {arms.memory.heads: [2, 4]}
"""


def test_a_plan_as_tables():
    arms, cases = plan_tables(make_plan(parse_scenario(SCENARIO, "s.yaml"), available_bytes=int(40e9)))
    names = [column.header for column in arms.columns]
    assert [dict(zip(names, row, strict=True))["arm"] for row in arms.rows] == ["dense", "memory", "memory"]
    shown = dict(zip(names, arms.cells()[1], strict=True))
    assert shown["arms.memory.heads"] == "2"
    assert shown["FLOPs asked"] == "6.29M"
    assert "num_keys 256²" in shown["dimensions"]
    assert arms.cells()[0][names.index("arms.memory.heads")] == "-", "the dense arm is the same at both"

    last = dict(zip([column.header for column in cases.columns], cases.cells()[-1], strict=True))
    assert last["mode"] == "train_step adamw"
    assert last["runs"].startswith("no: P = 3: value rows of 256 columns")
    assert last["GFLOP"] == "-", "unknown is no zero"
    assert "P = 3 ranks (pinned by the scenario)" in cases.caption
    assert "memory of one 40.0 GB" in cases.caption
    assert "small: two of them" in printed(arms, cases)


def test_a_scaled_plan_says_so():
    scenario = parse_scenario(
        SCENARIO.replace("fit: {ranks: 3}", "fit: {policy: shrink}"), "s.yaml", ["arms.memory.num_keys=1M"]
    )
    arms, _ = plan_tables(make_plan(scenario, available_bytes=int(3.0e9)))
    assert arms.caption == "Parameters scaled by 0.25 to fit."
