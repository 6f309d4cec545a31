"""``membench profile``: where the time of one layer goes."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson, Device
from membench.cli.profile_options import (
    Against,
    Block,
    CompanionHidden,
    Context,
    Dim,
    DType,
    ExpertHidden,
    Experts,
    FfnHidden,
    Heads,
    KeyDim,
    Keys,
    Layer,
    Model,
    Modes,
    Optimizer,
    Output,
    Ranks,
    Roofline,
    Routing,
    Sequences,
    Settings,
    SharedHidden,
    Tokens,
    TopK,
    Trace,
    ValueDim,
)

if TYPE_CHECKING:
    from membench.results.profile import Profile


def profile(
    layer: Layer,
    against: Against = None,
    dim: Dim = None,
    dtype: DType = "bf16",
    keys: Keys = None,
    heads: Heads = None,
    top_k: TopK = None,
    key_dim: KeyDim = None,
    value_dim: ValueDim = None,
    companion_hidden: CompanionHidden = None,
    experts: Experts = None,
    expert_hidden: ExpertHidden = None,
    shared_hidden: SharedHidden = None,
    ffn_hidden: FfnHidden = None,
    settings: Settings = None,
    block: Block = None,
    model: Model = None,
    tokens: Tokens = None,
    sequences: Sequences = None,
    context: Context = None,
    modes: Modes = None,
    optimizer: Optimizer = "row_adagrad",
    routing: Routing = "routed",
    ranks: Ranks = None,
    device: Device = "auto",
    output: Output = None,
    trace: Trace = None,
    roofline: Roofline = None,
    as_json: AsJson = False,
) -> None:
    """Show where the time of a layer goes, by stage, and how far each stage is from its limit.

    The layer is checked against the reference first. If it does not fit, one rank's share of it is
    profiled. The tables are printed before pictures are drawn.

    Exit codes: 0 profiled, 2 bad input, 5 something could not be profiled.
    """
    from membench.cli.device_option import checked_device
    from membench.cli.output_option import checked_folder
    from membench.errors import UsageError
    from membench.profiler.asked import Asked
    from membench.profiler.profile import check_trace_folder, run_profile
    from membench.report.profile_picture import check_picture_path
    from membench.running.journal import check_folder

    dimensions = {
        "num_keys": keys,
        "heads": heads,
        "top_k": top_k,
        "key_dim": key_dim,
        "value_dim": value_dim,
        "companion_hidden": companion_hidden,
        "num_experts": experts,
        "expert_hidden": expert_hidden,
        "shared_hidden": shared_hidden,
        "ffn_hidden": ffn_hidden,
    }
    if block is not None and model is not None:
        raise UsageError("is given beside --block: name one of them", source="--model")
    if dim is not None and (block or model):
        raise UsageError("is the model's: leave it out", source="--dim")
    checked_device(device)
    for path in roofline or ():
        check_picture_path(path)
    if output is not None:
        check_folder(checked_folder(output))
    if trace is not None:
        check_trace_folder(trace)
    asked = Asked(
        layer=layer,
        against=against,
        dimensions={name: value for name, value in dimensions.items() if value is not None},
        model_dim=Asked.model_dim if dim is None else dim,
        dtype=dtype,
        level="block" if block is not None else "model" if model is not None else "layer",
        preset=block or model,
        tokens=tokens,
        sequences=sequences,
        context=context,
        modes=tuple(modes or ()),
        optimizer=optimizer,
        routing=routing,
        ranks=ranks,
        overrides=tuple(settings or ()),
    )
    found = run_profile(asked, device, trace)
    missing = _shown(found, as_json=as_json, output=output, trace=trace, roofline=roofline or [])
    if missing or any(mode.status != "ok" for each in found.layers for mode in each.modes):
        raise typer.Exit(exit_codes.HARNESS)


def _shown(
    found: "Profile", *, as_json: bool, output: Path | None, trace: Path | None, roofline: list[Path]
) -> list[str]:
    """Prints tables or JSON, writes the file and draws pictures; a line for each of these that could not be written."""
    import sys

    from membench.cli.standard_output import StandardOutput
    from membench.profiler.profile_file import as_text, write_profile
    from membench.report.profile_picture import write_rooflines
    from membench.tables.profile import next_steps, profile_tables
    from membench.tables.render import print_tables

    shown = StandardOutput()
    unwritten = None if output is None else write_profile(found, output)
    if as_json:
        shown.take(lambda: print(as_text(found)))
    else:
        shown.take(lambda: print_tables(profile_tables(found)))
        shown.take(lambda: print("\n".join(next_steps(found))))
    missing = [*filter(None, [unwritten]), *write_rooflines(found, roofline)]
    if trace is not None:
        missing += [f"--trace {trace}: no trace of {name} could be written" for name in found.untraced]
    for line in missing:
        print(f"membench: {line}", file=sys.stderr)
    shown.done_or_kept("membench-profile.json", lambda: as_text(found))
    return missing
