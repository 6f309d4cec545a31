"""``membench report``: result files as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from membench.cli.options import AsJson

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Result files of membench run.")]
Page = Annotated[Path, typer.Option("--output", metavar="FILE.html", help="The page to write.")]


def report(files: Files, output: Page = Path("report.html"), as_json: AsJson = False) -> None:
    """Write one HTML page of result files: the answer first, then plots and every number. It opens offline.

    Nothing is measured. With --json the answers are printed as well as written.
    """
    import sys

    from membench.errors import UsageError
    from membench.files import write_whole
    from membench.gate.result_set import read_results
    from membench.records import strict_json
    from membench.report.page import page, run_views

    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output} is no name for a page; give one that ends in .html", source="--output")
    loaded = read_results(files)
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
    runs = "1 run" if len(views) == 1 else f"{len(views)} runs"
    print(f"report: {output} ({len(html) / 1e6:.1f} MB, {cases} cases of {runs})", file=sys.stderr)
