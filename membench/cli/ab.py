"""``membench ab``: two git revisions, measured alternately."""

from pathlib import Path
from typing import Annotated

import typer

from membench.cli.compare import Advisory, Junit, Markdown, Strict, Thresholds
from membench.cli.options import AsJson, Device, Only, Output, Overrides


def ab(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The revision to compare with: main, v1.2, a commit.")],
    head: Annotated[str, typer.Argument(metavar="HEAD", help="The revision to judge.")] = "HEAD",
    scenario: Annotated[
        str,
        typer.Option("--scenario", metavar="SCENARIO", help="A scenario file, or the name of one that membench ships."),
    ] = "gate",
    overrides: Overrides = None,
    only: Only = None,
    rounds: Annotated[
        int,
        typer.Option("--rounds", min=1, max=100, help="How many fresh pairs of processes; fewer than 8 cannot decide."),
    ] = 10,
    device: Device = "auto",
    output: Output = Path("results"),
    thresholds: Thresholds = None,
    strict: Strict = False,
    advisory: Advisory = False,
    markdown: Markdown = None,
    junit: Junit = None,
    as_json: AsJson = False,
) -> None:
    """Say whether HEAD is slower than BASE. Both are checked out and timed alternately on this machine.

    Each round starts a fresh process for each side and alternates between them, sample by sample, so
    that a machine that becomes slower is slower for both. If the first rounds do not decide, as many
    again are measured. A case that is slow must be slow again in fresh rounds. Both sides are measured
    with this scenario, by this membench; a revision of membench whose layers have another interface is
    measured by its own.

    Exit codes: 0 no regression, 1 confirmed regression, 2 bad input, 3 inconclusive (only with
    --strict), 4 nothing comparable, 5 nothing was measured, 130 interrupted (what was finished is kept).
    """
    import sys

    from membench.ab.comparison import Settings, run_ab
    from membench.ab.revisions import uncommitted_changes
    from membench.cli.device_option import checked_device
    from membench.cli.gate_outputs import Outputs
    from membench.cli.output_option import checked_folder
    from membench.errors import UsageError
    from membench.gate.thresholds import load_thresholds
    from membench.scenario.scenario import load_scenario

    known = load_thresholds(thresholds)
    outputs = Outputs(strict, advisory, markdown, junit, as_json).checked()
    settings = Settings(checked_device(device), checked_folder(output), rounds, only or (), known)
    loaded = load_scenario(scenario, overrides or ())
    if loaded.level == "training":
        problem = "trains, which an ab does not: run it at both commits, and membench compare holds them by their seeds"
        raise UsageError(problem, source=loaded.source)
    if uncommitted_changes():
        print("membench: there are changes here that are not committed; they are not measured", file=sys.stderr)
    found = run_ab(loaded, (base, head), settings)
    for path in found.paths:
        print(f"result file: {path}", file=sys.stderr)
    raise typer.Exit(outputs.show([found.comparison], [], interrupted=found.interrupted))
