"""``membench profile``: where the time of one layer goes."""

from pathlib import Path
from typing import Annotated

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson, Device

_LAYER = "Layer"
_WORK = "Work"
_OUTPUT = "Output"


def _option(name: str, help_text: str, panel: str, metavar: str | None = None) -> object:
    return typer.Option(name, help=help_text, rich_help_panel=panel, metavar=metavar)


def profile(
    layer: Annotated[
        str,
        _option(
            "--layer",
            "dense, moe, memory, memory_plus, peer, or package.module:factory.",
            _LAYER,
            "KIND",
        ),
    ],
    against: Annotated[
        str | None,
        _option("--against", "A second layer to compare with, sized to the same FLOPs per token.", _LAYER, "KIND"),
    ] = None,
    dim: Annotated[int | None, _option("--dim", "d, the width of a token. Default: 1024.", _LAYER)] = None,
    dtype: Annotated[str, _option("--dtype", "bf16, fp16 or fp32.", _LAYER, "DTYPE")] = "bf16",
    keys: Annotated[
        str | None,
        _option("--keys", "N = n², the value rows of memory and peer, such as 16M = 4096². Default: 1M.", _LAYER, "N"),
    ] = None,
    heads: Annotated[int | None, _option("--heads", "H, the number of heads. Default: 4; peer 8.", _LAYER)] = None,
    top_k: Annotated[
        int | None,
        _option("--top-k", "k: rows per head, or experts per token. Default: 32; peer 16, moe 8.", _LAYER),
    ] = None,
    key_dim: Annotated[
        int | None, _option("--key-dim", "Width of a query of one head, both halves. Default: d/2.", _LAYER)
    ] = None,
    value_dim: Annotated[int | None, _option("--value-dim", "D, the width of a value row. Default: d.", _LAYER)] = None,
    companion_hidden: Annotated[
        int | None,
        _option("--companion-hidden", "Width of a dense FFN added to memory or peer. Default: none.", _LAYER),
    ] = None,
    experts: Annotated[
        int | None, _option("--experts", "E, the number of experts of moe. Default: 64.", _LAYER)
    ] = None,
    expert_hidden: Annotated[
        int | None, _option("--expert-hidden", "Width of one expert. Default: 4d/k.", _LAYER)
    ] = None,
    shared_hidden: Annotated[
        int | None, _option("--shared-hidden", "Width of moe's shared experts. Default: none.", _LAYER)
    ] = None,
    ffn_hidden: Annotated[
        int | None, _option("--ffn-hidden", "f, the hidden width of dense. Default: 4d.", _LAYER)
    ] = None,
    settings: Annotated[
        list[str] | None,
        _option("--set", "Any other key of the layer, such as router=sigmoid. Repeatable.", _LAYER, "KEY=VALUE"),
    ] = None,
    block: Annotated[
        str | None,
        _option("--block", "Profile a block of this model, with the layer in it: 134m, 8b, …", _WORK, "PRESET"),
    ] = None,
    model: Annotated[
        str | None,
        _option(
            "--model", "Profile this model with the layer in all blocks; --set at=middle: in one.", _WORK, "PRESET"
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        _option(
            "--tokens",
            "b, the number of tokens; of a block or a model those of a prompt. Default: 512 on a CPU, 16384 on a GPU.",
            _WORK,
        ),
    ] = None,
    sequences: Annotated[
        int | None, _option("--sequences", "Of a block or a model: the batch. Default: 1.", _WORK)
    ] = None,
    context: Annotated[
        int | None,
        _option("--context", "Of a block or a model: tokens in the KV cache before a step. Default: 0.", _WORK),
    ] = None,
    modes: Annotated[
        list[str] | None,
        _option(
            "--mode",
            "forward, forward_backward or train_step; of a block or a model prefill and decode in the place of "
            "forward. Repeatable. Default: forward and forward_backward, or prefill and decode.",
            _WORK,
            "MODE",
        ),
    ] = None,
    optimizer: Annotated[
        str, _option("--optimizer", "For train_step: sgd, adamw, row_adagrad, row_adam or lazy_adam.", _WORK, "NAME")
    ] = "row_adagrad",
    routing: Annotated[
        str, _option("--routing", "routed (the layer chooses), uniform or zipf.", _WORK, "KIND")
    ] = "routed",
    ranks: Annotated[
        int | None,
        _option("--ranks", "P: profile one rank of P. Default: the smallest P that fits.", _WORK),
    ] = None,
    device: Device = "auto",
    trace: Annotated[
        Path | None,
        _option("--trace", "Write traces for TensorBoard and Perfetto into this folder.", _OUTPUT, "FOLDER"),
    ] = None,
    roofline: Annotated[
        list[Path] | None,
        _option("--roofline", "Draw the stages under the ceilings: .html, .png or .svg. Repeatable.", _OUTPUT, "FILE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the time of a layer goes, by stage, and how far each stage is from its limit.

    The layer is checked against the reference first. If it does not fit, one rank's share of it is
    profiled. The tables are printed before pictures are drawn.

    Exit codes: 0 profiled, 2 bad input, 5 something could not be profiled.
    """
    import sys

    from membench.cli.device_option import checked_device
    from membench.cli.standard_output import StandardOutput
    from membench.errors import UsageError
    from membench.profiler.asked import Asked
    from membench.profiler.profile import check_trace_folder, run_profile
    from membench.report.profile_picture import check_picture_path, write_rooflines
    from membench.results.records import strict_json
    from membench.tables.profile import next_steps, profile_tables
    from membench.tables.render import print_tables

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
    shown = StandardOutput()

    def content() -> str:
        return strict_json({"profile": found.model_dump(mode="json")})

    if as_json:
        shown.take(lambda: print(content()))
    else:
        shown.take(lambda: print_tables(profile_tables(found)))
        shown.take(lambda: print("\n".join(next_steps(found))))
    missing = write_rooflines(found, roofline or ())
    if trace is not None:
        missing += [f"--trace {trace}: no trace of {name} could be written" for name in found.untraced]
    for line in missing:
        print(f"membench: {line}", file=sys.stderr)
    shown.done_or_kept("membench-profile.json", content)
    if missing or any(mode.status != "ok" for each in found.layers for mode in each.modes):
        raise typer.Exit(exit_codes.HARNESS)
