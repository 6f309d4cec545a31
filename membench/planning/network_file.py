"""A network as ``membench doctor --nproc`` has measured it, read from the file that it keeps."""

import json
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.files import read_file
from membench.layers.spec import COLLECTIVES, CollectiveKind
from membench.planning.network import AlphaBeta, FlatNetwork
from membench.results.records import MAX_RESULT_BYTES

FORM = "network"  # what such a file calls itself


def read_network(name: str) -> FlatNetwork:
    """The network of a file.

    Raises:
        UsageError: it cannot be read, or is no such file.
    """
    text = read_file(name, MAX_RESULT_BYTES, "a file of membench doctor --nproc")
    try:
        return network_of(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problem = "is no network: a file that membench doctor --nproc keeps is expected"
        raise UsageError(problem, key="fit.network", source=name) from None


def network_of(found: dict[str, Any]) -> FlatNetwork:
    """From what was measured, as ``membench.measuring.collectives`` says it.

    Raises:
        ValueError, KeyError or TypeError: it is no such thing.
    """
    if found["benchmark"] != FORM:
        raise ValueError
    ranks, backend = int(found["ranks"]), str(found["backend"])
    lines: dict[CollectiveKind, tuple[AlphaBeta, ...]] = {
        kind: _lines(found["collectives"][kind]["lines"]) for kind in COLLECTIVES
    }
    return FlatNetwork(f"{backend} as measured on {ranks} processes of one machine", lines)


def newest_network(folder: Path, environment: dict[str, Any], ranks: int) -> Path | None:
    """The file of a folder that tells of so many ranks of this very machine, the newest; None where there is none."""
    for path in sorted(folder.glob(f"{FORM}_*.json"), key=lambda each: each.stat().st_mtime, reverse=True):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = found["environment"]["fingerprint"] == environment["fingerprint"] and found["ranks"] == ranks
            if same and found["environment"]["device"]["type"] == environment["device"]["type"]:
                network_of(found)
                return path
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _lines(found: list[dict[str, Any]]) -> tuple[AlphaBeta, ...]:
    lines = tuple(AlphaBeta(float(each["alpha_s"]), float(each["bytes_per_s"])) for each in found)
    # a steeper line for large messages may begin below zero, where the first one counts
    if not lines or lines[0].alpha_s < 0 or any(line.bytes_per_s <= 0 for line in lines):
        raise ValueError
    return lines
