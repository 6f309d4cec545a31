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
Dim = Annotated[int, _option("--dim", "d, the width of a token.", _LAYER)]
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
Tokens = Annotated[
    int | None, _option("--tokens", "b, the number of tokens. Default: 512 on a CPU, 16384 on a GPU.", _WORK)
]
Modes = Annotated[
    list[str] | None,
    _option("--mode", "forward, forward_backward or train_step. Repeatable. Default: the first two.", _WORK, "MODE"),
]
Optimizer = Annotated[
    str, _option("--optimizer", "For train_step: sgd, adamw, row_adagrad, row_adam or lazy_adam.", _WORK, "NAME")
]
Routing = Annotated[str, _option("--routing", "routed (the layer chooses), uniform or zipf.", _WORK, "KIND")]
Ranks = Annotated[
    int | None,
    _option("--ranks", "P: profile one rank of P. Default: the smallest P that fits.", _WORK),
]
Trace = Annotated[
    Path | None,
    _option("--trace", "Write traces for TensorBoard and Perfetto into this folder.", _OUTPUT, "FOLDER"),
]
Roofline = Annotated[
    list[Path] | None,
    _option("--roofline", "Draw the stages under the ceilings: .html, .png or .svg. Repeatable.", _OUTPUT, "FILE"),
]
