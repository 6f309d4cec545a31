"""``membench report``: result files as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from membench.cli.options import AsJson

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Result files of membench run.")]
Page = Annotated[
    Path,
    typer.Option(
        "--output", metavar="FOLDER|FILE.html", help="Where the page goes: report.html in a folder, or so named."
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE.csv|FILE.parquet", help="Also write a row a case, raw values, units in the names."
    ),
]


def report(files: Files, output: Page = Path("report.html"), table: TableFile = None, as_json: AsJson = False) -> None:
    """Write one HTML page of result files: the answer first, then plots and every number. It opens offline.

    Nothing is measured. With --json the answers are printed as well as written. With --table every case goes into a
    CSV or Parquet file too, the table that membench.read_results(FILES) gives in Python.

    Exit codes: 0 written, 2 bad input.
    """
    import sys

    from membench.cli.output_option import page_path
    from membench.cli.table_option import check_table, write_table
    from membench.errors import UsageError
    from membench.files import write_whole
    from membench.gate.result_set import load_results
    from membench.report.page import page, run_views
    from membench.results.frame import results_frame
    from membench.results.records import strict_json
    from membench.words import how_many

    loaded = load_results(files)
    if table:
        check_table(table)
    output = page_path(output)
    for path, option in ((output, "--output"), (table, "--table")):
        if path and path.resolve() in [each.path.resolve() for each in loaded]:
            raise UsageError(f"{path} is one of the result files; give another name", source=option)
    views = run_views([(str(each.path), each.result) for each in loaded])
    html = page(views).encode("utf-8", "replace")
    try:
        write_whole(output, html)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}", source="--output") from None
    if table:
        write_table(results_frame((str(each.path), each.result) for each in loaded), table)
    if as_json:
        runs = [
            {
                "file": view.file,
                "scenario": view.result.run.scenario,
                "answers": [each.model_dump() for each in view.answers],
            }
            for view in views
        ]
        print(strict_json({"report": str(output), "table": table and str(table), "runs": runs}))
        return
    cases = sum(len(view.result.cases) for view in views)
    counts = f"{how_many(cases, 'case')} of {how_many(len(views), 'run')}"
    print(f"report: {output} ({len(html) / 1e6:.1f} MB, {counts})", file=sys.stderr)
    if table:
        print(f"table: {table}", file=sys.stderr)
