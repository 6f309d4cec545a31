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
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run. auto: on a GPU if there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--case", metavar="ID", help="Only cases whose id begins with ID. Repeatable."),
]
Ranks = Annotated[
    int | None,
    typer.Option("--nproc", metavar="P", help="P processes of this machine share every layer, and all are measured."),
]
Output = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="The folder for result files.")]

DEVICES = ("auto", "cpu", "cuda")
