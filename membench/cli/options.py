"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Scenarios = Annotated[
    list[str], typer.Argument(metavar="SCENARIO...", help="A scenario file, or the name of one that membench ships.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the scenario, as in workload.tokens=64."),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run; auto takes a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--case", metavar="ID", help="Only the cases whose id begins so; may be given again."),
]
Output = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="The folder in which result files go.")]

DEVICES = ("auto", "cpu", "cuda")
