"""The options of ``membench profile``: the layer, what it is given, and where the result goes."""

from pathlib import Path
from typing import Annotated

import typer

_LAYER = "Layer"
_WORK = "Work"
_OUTPUT = "Output"


def _option(name: str, help_text: str, panel: str, metavar: str | None = None) -> object:
    return typer.Option(name, help=help_text, rich_help_panel=panel, metavar=metavar)


Layer = Annotated[
    str,
    _option(
        "--layer",
        "dense, moe, memory, memory_plus, peer, or package.module:factory.",
        _LAYER,
        "KIND",
    ),
]
Against = Annotated[
    str | None,
    _option("--against", "A second layer to compare with, sized to the same FLOPs per token.", _LAYER, "KIND"),
]
Dim = Annotated[int | None, _option("--dim", "d, the width of a token. Default: 1024.", _LAYER)]
DType = Annotated[str, _option("--dtype", "bf16, fp16 or fp32.", _LAYER, "DTYPE")]
Keys = Annotated[
    str | None,
    _option("--keys", "N = n², the value rows of memory and peer, such as 16M = 4096². Default: 1M.", _LAYER, "N"),
]
Heads = Annotated[int | None, _option("--heads", "H, the number of heads. Default: 4; peer 8.", _LAYER)]
TopK = Annotated[
    int | None,
    _option("--top-k", "k: rows per head, or experts per token. Default: 32; peer 16, moe 8.", _LAYER),
]
KeyDim = Annotated[int | None, _option("--key-dim", "Width of a query of one head, both halves. Default: d/2.", _LAYER)]
ValueDim = Annotated[int | None, _option("--value-dim", "D, the width of a value row. Default: d.", _LAYER)]
CompanionHidden = Annotated[
    int | None,
    _option("--companion-hidden", "Width of a dense FFN added to memory or peer. Default: none.", _LAYER),
]
Experts = Annotated[int | None, _option("--experts", "E, the number of experts of moe. Default: 64.", _LAYER)]
ExpertHidden = Annotated[int | None, _option("--expert-hidden", "Width of one expert. Default: 4d/k.", _LAYER)]
SharedHidden = Annotated[
    int | None, _option("--shared-hidden", "Width of moe's shared experts. Default: none.", _LAYER)
]
FfnHidden = Annotated[int | None, _option("--ffn-hidden", "f, the hidden width of dense. Default: 4d.", _LAYER)]
Settings = Annotated[
    list[str] | None,
    _option("--set", "Any other key of the layer, such as router=sigmoid. Repeatable.", _LAYER, "KEY=VALUE"),
]
Block = Annotated[
    str | None,
    _option("--block", "Profile a block of this model, with the layer in it: 134m, 8b, …", _WORK, "PRESET"),
]
Model = Annotated[
    str | None,
    _option("--model", "Profile this model with the layer in all blocks; --set at=middle: in one.", _WORK, "PRESET"),
]
Tokens = Annotated[
    int | None,
    _option(
        "--tokens",
        "b, the number of tokens; of a block or a model those of a prompt. Default: 512 on a CPU, 16384 on a GPU.",
        _WORK,
    ),
]
Sequences = Annotated[int | None, _option("--sequences", "Of a block or a model: the batch. Default: 1.", _WORK)]
Context = Annotated[
    int | None,
    _option("--context", "Of a block or a model: tokens in the KV cache before a step. Default: 0.", _WORK),
]
Modes = Annotated[
    list[str] | None,
    _option(
        "--mode",
        "forward, forward_backward or train_step; of a block or a model prefill and decode in the place of forward. "
        "Repeatable. Default: forward and forward_backward, or prefill and decode.",
        _WORK,
        "MODE",
    ),
]
Optimizer = Annotated[
    str, _option("--optimizer", "For train_step: sgd, adamw, row_adagrad, row_adam or lazy_adam.", _WORK, "NAME")
]
Routing = Annotated[str, _option("--routing", "routed (the layer chooses), uniform or zipf.", _WORK, "KIND")]
Ranks = Annotated[
    int | None,
    _option("--ranks", "P: profile one rank of P. Default: the smallest P that fits.", _WORK),
]
Output = Annotated[
    Path | None,
    _option("--output", "Write what was found as a JSON file into this folder.", _OUTPUT, "FOLDER"),
]
Trace = Annotated[
    Path | None,
    _option("--trace", "Write traces for TensorBoard and Perfetto into this folder.", _OUTPUT, "FOLDER"),
]
Roofline = Annotated[
    list[Path] | None,
    _option("--roofline", "Draw the stages under the ceilings: .html, .png or .svg. Repeatable.", _OUTPUT, "FILE"),
]
