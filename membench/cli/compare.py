"""``membench compare``: the regression gate over result files."""

from pathlib import Path
from typing import Annotated

import typer

from membench.cli.options import AsJson

Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Result files of membench run or ab.")]
Thresholds = Annotated[
    str | None,
    typer.Option(
        "--thresholds", metavar="FILE", help="What counts as slower. Default: gate.yaml in this folder, if it exists."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 3 if a timing stays inconclusive.")]
Advisory = Annotated[bool, typer.Option("--advisory", help="Show the verdicts, but never fail because of them.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also write a summary as Markdown.")]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.")]


def compare(
    files: Files,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="FILE", help="Compare with this file, whatever baseline is set.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Judge every file against the baseline, not only the newest.")
    ] = False,
    within: Annotated[
        bool, typer.Option("--within", help="Compare the layers inside each file with one of them, --reference.")
    ] = False,
    reference: Annotated[
        str, typer.Option("--reference", metavar="ARM", help="For --within: the layer to compare with.")
    ] = "dense",
    thresholds: Thresholds = None,
    strict: Strict = False,
    advisory: Advisory = False,
    markdown: Markdown = None,
    junit: Junit = None,
    as_json: AsJson = False,
) -> None:
    """Say which cases of the newest file are slower, larger, wrong or missing, compared with a baseline.

    Files are grouped by device and scenario; cases are matched by id. The baseline of a group is
    --baseline, or else the file set with `membench baseline set`, or else the oldest file. (If the
    oldest of more than two files is taken, timings are shown but cannot fail.) A timing is judged by
    its rounds (fresh processes). With too few rounds for the statistics it is INCONCLUSIVE, never a
    pass. JSON files that are not results are skipped.

    Exit codes: 0 no regression, 1 regression, 2 bad input, 3 inconclusive (only with --strict),
    4 nothing comparable, 5 nothing was measured, 130 interrupted.
    """
    from membench.gate.result_set import group_results, load_results
    from membench.gate.thresholds import load_thresholds

    known = load_thresholds(thresholds)
    if within:
        from membench.cli.compare_within import check_alone, show_within

        check_alone(baseline=baseline, every=every, strict=strict, advisory=advisory, markdown=markdown, junit=junit)
        show_within(load_results(files), reference, known, as_json=as_json)
        return
    from membench.cli.gate_outputs import Outputs
    from membench.gate.comparison import compare_group

    outputs = Outputs(strict, advisory, markdown, junit, as_json).checked()
    groups = group_results(load_results(files), baseline, every=every)
    comparisons = [each for group in groups for each in compare_group(group, known)]
    raise typer.Exit(outputs.show(comparisons, groups))
