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


def report(files: Files, output: Page = Path("report.html"), as_json: AsJson = False) -> None:
    """Write one HTML page of result files: the answer first, then plots and every number. It opens offline.

    Nothing is measured. With --json the answers are printed as well as written.

    Exit codes: 0 written, 2 bad input.
    """
    import sys

    from membench.cli.output_option import page_path
    from membench.errors import UsageError
    from membench.files import write_whole
    from membench.gate.result_set import read_results
    from membench.report.page import page, run_views
    from membench.results.records import strict_json
    from membench.words import how_many

    loaded = read_results(files)
    output = page_path(output)
    if output.resolve() in [each.path.resolve() for each in loaded]:
        raise UsageError(f"{output} is one of the result files; give another name", source="--output")
    views = run_views([(str(each.path), each.result) for each in loaded])
    html = page(views).encode("utf-8", "replace")
    try:
        write_whole(output, html)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror or error}", source="--output") from None
    if as_json:
        runs = [
            {"file": view.file, "scenario": view.result.run.scenario, "answers": [a.as_json() for a in view.answers]}
            for view in views
        ]
        print(strict_json({"report": str(output), "runs": runs}))
        return
    cases = sum(len(view.result.cases) for view in views)
    counts = f"{how_many(cases, 'case')} of {how_many(len(views), 'run')}"
    print(f"report: {output} ({len(html) / 1e6:.1f} MB, {counts})", file=sys.stderr)
