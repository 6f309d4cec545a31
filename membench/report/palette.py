"""Colours, each once for a light page and once for a dark one.

A kind of layer has a hue (after Okabe and Ito, told apart by the colour-blind too), its arms
steps of that hue's lightness and a marker each. Figures are made in the light colours; the page
exchanges every one of them where the reader prefers dark.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from membench.results.records import Record

# name -> (light, dark); every light colour is there once, so that it can be exchanged
PAPER = ("#ffffff", "#15181c")
INK = ("#1b1f24", "#e8eaed")
MUTED = ("#5c6570", "#9aa4b0")
GRID = ("#e5e8ec", "#2b3138")
LEADER = ("#b4bcc6", "#515a66")

_HUES = {
    "dense": (("#33383f", "#d5dae0"), ("#757d88", "#9ca5b0"), ("#51575f", "#f2f4f6"), ("#949ca7", "#767f8b")),
    "memory": (("#0072b2", "#56b4e9"), ("#4f9fd6", "#2f86c4"), ("#00456e", "#a6d8f5"), ("#2a62c9", "#7f9df0")),
    "memory_plus": (("#008f68", "#2fc79b"), ("#3fb08c", "#16906e"), ("#005a41", "#93e3c8"), ("#5f8a1f", "#a3c95c")),
    "peer": (("#b0558a", "#e29bc4"), ("#c97fab", "#b8659a"), ("#7c2f5e", "#f2c9e0"), ("#8a4fc0", "#bd94ea")),
    "moe": (("#d55e00", "#f08a3c"), ("#e88b45", "#c76a1e"), ("#963f00", "#fbbd8b"), ("#b58100", "#e3b84a")),
    "external": (("#6b5b95", "#a899d6"), ("#8f80b8", "#8474b3"), ("#473a6b", "#cfc5ec"), ("#a14d4d", "#dc8f8f")),
}
_WITHOUT_HUE = "external"  # what a kind of layer looks like that has no hue of its own
# An operator looks like the layer whose stage it is.
_LAYER_OF = {
    "weighted_bag": "memory",
    "key_scores": "memory_plus",
    "product_key_top_k": "memory_plus",
    "expert_rows": "peer",
    "grouped_experts": "moe",
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")

# Where colours name no arm: the parts of a memory, the stages of a layer.
PARTS = (("#44546a", "#b9c6d8"), ("#7f93ad", "#8397b1"), ("#aebdd0", "#5d7088"), ("#d3dce7", "#3f4d60"))
STAGES = tuple(hue[0][0] for hue in _HUES.values())


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm looks in every plot."""

    colour: str
    symbol: str


def arm_styles(records: Iterable[Record]) -> dict[str, Style]:
    """Each arm's look: the hue of its kind, the next step of it and the next marker for each further arm."""
    of_kind: dict[str, list[str]] = defaultdict(list)
    for record in records:
        arms = of_kind[_with_hue(_compared(record))]
        if record.case.arm not in arms:
            arms.append(record.case.arm)
    styles: dict[str, Style] = {}
    for kind, arms in of_kind.items():
        for index, arm in enumerate(arms):
            steps = _HUES[_LAYER_OF.get(kind, kind)]
            styles.setdefault(arm, Style(steps[index % len(steps)][0], _SYMBOLS[index % len(_SYMBOLS)]))
    return styles


def _compared(record: Record) -> str:
    """The kind of layer that an arm compares, whatever it stands in."""
    layer = record.case.layer
    inside = getattr(layer, "ffn", None) or getattr(layer, "layer", None) or layer
    return inside.kind


def _with_hue(kind: str) -> str:
    return kind if _LAYER_OF.get(kind, kind) in _HUES else _WITHOUT_HUE


def dark_colours() -> dict[str, str]:
    """Each light colour's counterpart on a dark page."""
    pairs = [PAPER, INK, MUTED, GRID, LEADER, *PARTS, *(step for hue in _HUES.values() for step in hue)]
    return dict(pairs)
